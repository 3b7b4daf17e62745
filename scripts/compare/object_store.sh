#!/usr/bin/env bash
# Our requests to object stores against a server that others wrote: moto's S3, from PyPI, on loopback.
# Or against a store of your own: BYLAW_TEST_STORE=s3://bucket/empty-dir with its credentials in AWS_*.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ -z "${BYLAW_TEST_STORE:-}" ]]; then
    venv=$(mktemp -d)
    server=""
    trap 'if [[ -n "$server" ]]; then kill "$server"; fi; rm -rf "$venv"' EXIT
    python3 -m venv "$venv"
    "$venv/bin/pip" --quiet install 'moto[server]==5.2.*' boto3
    port=${PORT:-5555}
    "$venv/bin/moto_server" --host 127.0.0.1 --port "$port" >"$venv/log" 2>&1 &
    server=$!
    export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test-secret AWS_REGION=us-east-1
    export AWS_ENDPOINT_URL="http://127.0.0.1:$port" AWS_ALLOW_HTTP=true
    export BYLAW_TEST_STORE=s3://bylaw-test/run
    "$venv/bin/python" - <<'PYTHON'
import os, time, boto3
from botocore.config import Config
client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], config=Config(retries={"max_attempts": 10}))
for attempt in range(50):
    try:
        client.create_bucket(Bucket="bylaw-test")
        break
    except Exception:
        time.sleep(0.2)
PYTHON
fi
cargo test --test object -- --ignored a_real_store
