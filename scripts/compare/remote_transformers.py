"""Runs `bylaw sample`, `revise` and `judge` against transformers' own server, `transformers serve`.

    python scripts/compare/remote_transformers.py BYLAW MODEL

BYLAW is the program, MODEL a directory in Hugging Face layout (any tiny model will do). Needs
`pip install transformers[serving] accelerate` and torch. The model gets a plain chat template if it has none.

What is checked, of the server as of transformers 5.23:
- chats and transcripts are answered; rows + rejects = inputs; token counts come from the server;
- greedy transcripts give the text that `generate` gives in this process;
- the server has no log-probabilities and says so by `logprobs: null`: every judged row is rejected for it;
- the server refuses `continue_final_message`: every judged chat is rejected with the server's words;
- a name that the server is not pinned to is refused.

Prints one line a check and exits with 1 if one fails.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
PROMPTS = ["How do I bake bread?", "Tell me of the sea.", "What is a kite?"]
SERVE = "from transformers.cli.transformers import main; main()"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_server(model, port, home):
    # An empty cache: the server lists the models of its cache, not the one it is pinned to.
    env = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SERVE, "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--device", "cpu", "--dtype", "float32"]
    log = open(home / "server.log", "w")
    server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2).read()
            return server
        except OSError:
            time.sleep(0.5)
        if server.poll() is not None:
            break
    server.kill()
    sys.exit("the server did not start:\n" + (home / "server.log").read_text()[-2000:])


def bylaw(program, work, *arguments):
    ran = subprocess.run([program, *arguments], cwd=work, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


def rows(directory):
    import pyarrow as pa

    out = []
    for shard in sorted(Path(directory).glob("*.arrow")):
        with pa.ipc.open_file(shard) as file:
            out += file.read_all().to_pylist()
    return out


def greedy(model, text, count):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    inputs = tokenizer(text, return_tensors="pt")
    out = network.generate(**inputs, max_new_tokens=count, do_sample=False)
    return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


class Checks:
    failed = False

    def __call__(self, name, holds, otherwise=""):
        print(("ok    " if holds else "WRONG ") + name + ("" if holds else f": {otherwise}"))
        self.failed |= not holds


def run(program, model, work, port):
    check = Checks()
    reference = f"http://127.0.0.1:{port}/v1#{model}"
    prompts = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS)
    (work / "prompts.jsonl").write_text(prompts)
    short = ["--max-new-tokens", "8", "--keep-truncated"]
    common = ["--model", reference, "--prompts", "prompts.jsonl"]

    code, said = bylaw(program, work, "sample", *common, "--out", "chat", *short)
    chats = rows(work / "chat")
    completions = [completion for row in chats for completion in row["completions"]]
    check("chats are answered", code == 0 and len(completions) == 6, said)
    check("tokens are the server's", all(0 < c["tokens"] <= 8 for c in completions), completions)
    check("no log-probabilities are noted", "no log-probabilities for 6 completions" in said, said)

    flags = ["--api", "completions", "--temperature", "0", "--per-prompt", "1"]
    code, said = bylaw(program, work, "sample", *common, "--out", "greedy", *short, *flags)
    texts = {row["prompt"][0]["content"]: row["completions"][0]["text"] for row in rows(work / "greedy")}
    want = {p: greedy(model, f"Human: {p}\n\nAssistant:", 8) for p in PROMPTS}
    check("greedy transcripts are generate's", code == 0 and texts == want, f"{texts} for {want}; {said}")

    flags = ["--constitution", "builtin:harmless", "--rounds", "1", "--critique-max-new-tokens", "8"]
    code, said = bylaw(program, work, "revise", *common, "--out", "revise", *short, *flags)
    total = len(rows(work / "revise")) + len(rows(work / "revise/rejects"))
    check("revisions and rejects are the inputs", code in (0, 3) and total == 3, said)

    pairs = [{"prompt": p, "chosen": "Yes, like this.", "rejected": "No."} for p in PROMPTS]
    (work / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    judge = ["judge", "--model", reference, "--candidates", "pairs.jsonl", "--constitution", "builtin:harmless"]
    for api, cause in [("completions", "no log-probabilities"), ("chat", "cannot continue the assistant's turn")]:
        code, said = bylaw(program, work, *judge, "--out", f"judge-{api}", "--api", api)
        reasons = [row["reason"] for row in rows(work / f"judge-{api}/rejects")]
        right = code == 3 and len(reasons) == 3 and all(cause in reason for reason in reasons)
        check(f"judging by {api} is refused with the cause", right, f"{reasons} {said}")

    wrong = ["sample", "--model", reference + "-other", "--prompts", "prompts.jsonl", "--out", "wrong"]
    code, said = bylaw(program, work, *wrong)
    check("a wrong name is refused with the server's words", code != 0 and "pinned" in said, said)
    return check.failed


def main():
    program, source = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        model = work / "model"
        shutil.copytree(source, model)
        config = json.loads((model / "tokenizer_config.json").read_text())
        if "chat_template" not in config and not (model / "chat_template.jinja").exists():
            config["chat_template"] = TEMPLATE
            (model / "tokenizer_config.json").write_text(json.dumps(config))
        home = work / "home"
        (home / "hub").mkdir(parents=True)
        port = free_port()
        server = start_server(model, port, home)
        try:
            failed = run(program, model, work, port)
        finally:
            server.terminate()
            server.wait()
    sys.exit(failed)


if __name__ == "__main__":
    main()
