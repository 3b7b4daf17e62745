#!/usr/bin/env bash
# Opens datasets and exports of every kind in pyarrow, polars and Hugging Face datasets.
#
# Makes a virtual environment outside of the tree (BYLAW_VENV, or one in the cache that is named after the
# requirements), builds a small dataset of each kind on builtin:tiny, converts it to each format, and runs
# open_exports.py. BYLAW names the program; without it, it is built. Where the package index cannot be
# reached and the environment is not there yet, the checks are skipped, loudly; anything else fails.
set -euo pipefail
cd "$(dirname "$0")/../.."

requirements=scripts/compare/requirements-data.txt
hash=$(sha256sum "$requirements" | cut -c1-12)
venv=${BYLAW_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/bylaw/venv-data-$hash}
python=$venv/bin/python
if ! "$python" -c 'import datasets, polars, pyarrow' 2>/dev/null; then
  if ! python3 -c 'import urllib.request; urllib.request.urlopen("https://pypi.org/simple/pyarrow/", timeout=20)' 2>/dev/null; then
    echo '!!! SKIPPED: the package index cannot be reached, so no dataset was opened in pyarrow, polars and datasets' >&2
    exit 0
  fi
  python3 -m venv "$venv"
  "$python" -m pip install --quiet --disable-pip-version-check --requirement "$requirements"
fi

if [ -z "${BYLAW:-}" ]; then
  cargo build --quiet
  BYLAW=${CARGO_TARGET_DIR:-target}/debug/bylaw
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

bylaw() { "$BYLAW" --quiet "$@"; }
tiny=(--model builtin:tiny)
constitution=(--constitution builtin:proving-ground)
bylaw world prompts --split constitutional --harmful 6 --benign 6 --out "$work/prompts"
bylaw revise "${tiny[@]}" "${constitution[@]}" --prompts "$work/prompts" --rounds 1 --max-new-tokens 96 \
  --critique-max-new-tokens 64 --out "$work/revisions"
bylaw sample "${tiny[@]}" --prompts "$work/prompts" --per-prompt 2 --max-new-tokens 96 --out "$work/candidates"
bylaw judge "${tiny[@]}" "${constitution[@]}" --candidates "$work/candidates" --out "$work/preferences"
bylaw world documents --count 50 --out "$work/texts"
printf '%s\n' '{"prompt": "Is it late?", "completion": "Yes.", "label": true}' \
  '{"prompt": "Is it early?", "completion": "Go away.", "label": false}' > "$work/unpaired.jsonl"
printf '%s\n' '{"messages": [{"role": "user", "content": "Is it late?"}, {"role": "assistant", "content": "Yes."}]}' \
  > "$work/chats.jsonl"
bylaw data convert "$work/unpaired.jsonl" --to arrow --out "$work/unpaired"
bylaw data convert "$work/chats.jsonl" --to arrow --out "$work/demonstrations"

made=()
for kind in prompts revisions candidates preferences texts unpaired demonstrations; do
  made+=("$work/$kind")
  case $kind in
    candidates) formats='parquet jsonl arrow' ;;
    prompts) formats='trl openrlhf parquet jsonl arrow' ;;
    unpaired) formats='trl llama-factory parquet jsonl arrow' ;;
    *) formats='trl alignment-handbook openrlhf axolotl llama-factory parquet jsonl arrow' ;;
  esac
  for format in $formats; do
    bylaw data convert "$work/$kind" --to "$format" --out "$work/$kind-$format"
    made+=("$work/$kind-$format")
  done
done
"$python" scripts/compare/open_exports.py "${made[@]}"
