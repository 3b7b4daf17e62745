"""One timed run of transformers on the prompts of generation_prompts.py. Prints one JSON line.

    generation_peer.py --model DIR --task a8|a32|judge|revise --prompts FILE.jsonl
                       [--dtype f32|bf16] [--threads N] [--batch N] [--sort] [--completions FILE]
    generation_peer.py ... --tune     times batch sizes on part of the task and prints the best

A fair opponent: glibc keeps its memory (transformers is 7 to 30 % slower with the defaults), every
batch runs once before the clock starts, the head runs on the last position alone, `--sort` puts rows
of like length into one batch, `--batch 0` is one batch of all rows. Prompts are padded on the left.
EOS is switched off by leaving it out of the generation settings, which costs nothing.
The clock covers padding, generation or scoring; not loading. The time of a prefill is that of
`generate` with one new token, measured just before.
"""

import ctypes

# Before anything allocates: M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h.
libc = ctypes.CDLL(None)
for setting, value in [(-4, 0), (-1, -1), (-2, 64 << 20)]:
    libc.mallopt(setting, value)

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
PAD = 0
CANDIDATES = {"a8": [0, 4], "a32": [0, 16, 8], "judge": [2, 4, 8, 16], "revise": [0, 32, 16]}
TUNED_ROWS = {"judge": 32}
TUNED_TURNS = 3


class Peer:
    def __init__(self, arguments):
        dtype = DTYPES[arguments.dtype]
        self.model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = PAD
        self.batch, self.sort = arguments.batch, arguments.sort

    def batches(self, prompts):
        order = list(range(len(prompts)))
        if self.sort:
            order.sort(key=lambda row: len(prompts[row]))
        size = self.batch or len(order)
        return [order[start:start + size] for start in range(0, len(order), size)]

    def padded(self, prompts):
        width = max(map(len, prompts))
        ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        return ids, mask

    def generate(self, prompts, new_tokens):
        """The new tokens of every prompt, in order."""
        out = [None] * len(prompts)
        for rows in self.batches(prompts):
            ids, mask = self.padded([prompts[row] for row in rows])
            tokens = self.model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False)
            for row, completion in zip(rows, tokens[:, ids.shape[1]:].tolist()):
                assert len(completion) == new_tokens
                out[row] = completion
        return out

    def score(self, prompts, options):
        """The log-probability of each option's only token after every prompt, in order."""
        out = [None] * len(prompts)
        for rows in self.batches(prompts):
            ids, mask = self.padded([prompts[row] for row in rows])
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = self.model(
                ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
            ).logits[:, -1].float()
            logprobs = logits.log_softmax(-1)
            for row, values in zip(rows, logprobs):
                out[row] = [values[option[0]].item() for option in options[row]]
        return out

    def revise(self, rows, new_tokens, turns):
        """The completions of every turn of every row, and how many prompt tokens were read for them."""
        texts = [[] for _ in rows]
        said = [[] for _ in rows]
        read = 0
        for turn in range(turns):
            for text, row in zip(texts, rows):
                text.extend(row["turns"][turn])
            read += sum(map(len, texts))
            for row, completion in enumerate(self.generate(texts, new_tokens)):
                texts[row].extend(completion)
                said[row].append(completion)
        return said, read


def timed(work):
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def time_generation(peer, rows):
    prompts, new_tokens = [row["tokens"] for row in rows], rows[0]["max_new_tokens"]
    peer.generate(prompts, 2)
    prefill, _ = timed(lambda: peer.generate(prompts, 1))
    seconds, completions = timed(lambda: peer.generate(prompts, new_tokens))
    return completions, {
        "seconds": seconds,
        "prefill_seconds": prefill,
        "decode_seconds": seconds - prefill,
        "new_tokens": len(rows) * new_tokens,
        "prompt_tokens": sum(map(len, prompts)),
    }


def time_judging(peer, rows):
    prompts, options = [row["prefix"] for row in rows], [row["options"] for row in rows]
    first = peer.batch or len(rows)
    peer.score(prompts[:first], options)
    seconds, logprobs = timed(lambda: peer.score(prompts, options))
    prompt_tokens = sum(map(len, prompts))
    return logprobs, {
        "seconds": seconds, "prefill_seconds": seconds, "decode_seconds": 0.0,
        "new_tokens": 0, "prompt_tokens": prompt_tokens,
    }


def time_revision(peer, rows, turns=None):
    new_tokens, turns = rows[0]["max_new_tokens"], turns or len(rows[0]["turns"])
    peer.generate([row["turns"][0] for row in rows[: peer.batch or None]], 2)
    seconds, (said, read) = timed(lambda: peer.revise(rows, new_tokens, turns))
    return said, {
        "seconds": seconds, "prefill_seconds": None, "decode_seconds": None,
        "new_tokens": len(rows) * turns * new_tokens, "prompt_tokens": read,
    }


TASKS = {"a8": time_generation, "a32": time_generation, "judge": time_judging, "revise": time_revision}


def tune(peer, task, rows):
    """The fastest batch size, rows sorted by length, each timed once on part of the task."""
    rows = rows[: TUNED_ROWS.get(task)]
    seconds = {}
    for peer.batch in CANDIDATES[task]:
        peer.sort = True
        extra = {"turns": TUNED_TURNS} if task == "revise" else {}
        _, figures = TASKS[task](peer, rows, **extra)
        seconds[peer.batch] = round(figures["seconds"], 3)
    return {"batch": min(seconds, key=seconds.get), "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--sort", action="store_true")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--completions", type=Path)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    transformers.logging.disable_progress_bar()
    rows = [json.loads(line) for line in arguments.prompts.read_text().splitlines()]
    peer = Peer(arguments)
    with torch.inference_mode():
        if arguments.tune:
            print(json.dumps(tune(peer, arguments.task, rows)))
            return
        results, figures = TASKS[arguments.task](peer, rows)
    if arguments.completions:
        arguments.completions.write_text("".join(json.dumps(result) + "\n" for result in results))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
