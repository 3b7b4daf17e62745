"""Writes tests/golden/templates/: what `apply_chat_template` makes of conversations, as text and tokens.

    *.jinja           chat templates, written from the formats that the models' documentation gives
    *.tokenizer.json  three small tokenizers with the control tokens of all templates; they differ in
                      what they do where a piece of text begins after a control token:
                      byte-level (nothing), metaspace-first (a space before the whole text only),
                      prepend (a space before every piece, as Llama 2's legacy conversion)
    expected.json     templates      name -> bos, eos; the names that begin with a model's publisher
                                     are the files in ../shared/data/chat-templates
                      conversations  name -> messages
                      cases          template, conversation, generation (add_generation_prompt), and
                                     text, or error: what the template raised
                      tokens         template, conversation, tokenizer, ids: of the text with the
                                     generation prompt, `tokenizer(text, add_special_tokens=False)`

The clock of `strftime_now` stands at 26 July 2024, 00:00.
"""

import datetime
import json
from pathlib import Path

import jinja2
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from golden_json import write_json

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "golden" / "templates"
REAL = ROOT.parent / "shared" / "data" / "chat-templates"


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils.datetime = FixedClock

TEMPLATES = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama2": ("<s>", "</s>"),
    "mistral": ("<s>", "</s>"),
    "zephyr": ("<s>", "</s>"),
    "phi3": ("<s>", "<|endoftext|>"),
    "qwen3": (None, "<|im_end|>"),
    "gemma3": ("<bos>", "<eos>"),
    "deepseek-r1": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "features": ("<s>", "<|im_end|>"),
    "Qwen-Qwen2.5-7B-Instruct": (None, "<|im_end|>"),
    "google-gemma-2-2b-it": ("<bos>", "<eos>"),
    "meta-llama-Llama-3.1-8B-Instruct": ("<|begin_of_text|>", "<|eot_id|>"),
}

SPECIAL = [
    "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<bos>", "<eos>", "<start_of_turn>",
    "<end_of_turn>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]",
    "[/INST]", "<|system|>", "<|user|>", "<|assistant|>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
    "<｜User｜>", "<｜Assistant｜>",
]  # fmt: skip
# Added tokens that are not special: Qwen3's reasoning marks, and Gemma's runs of line ends.
ORDINARY = ["<think>", "</think>", "\n\n", "\n\n\n"]


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


CONVERSATIONS = {
    "question": [user("How do I fly a kite?")],
    "system": [system("Answer briefly."), user("How do I fly a kite?")],
    "turns": [
        system("You are terse."),
        user("Name a bird."),
        assistant("A wren."),
        user("Another?"),
        assistant("An owl."),
        user("And why?"),
    ],
    "no system": [user("One"), assistant("Two"), user("Three"), assistant("Four"), user("Five")],
    "answered": [user("Name a bird."), assistant("A wren.")],
    "unicode": [
        system("Zażółć gęślą jaźń."),
        user("日本語 — “quotes” 👩\u200d🔬🏳️\u200d🌈 e\u0301 \u202eabc\u202c"),
        assistant("شكرا \U0001d573"),
        user("\u200b\ufeffзеро"),
    ],
    "empty": [user("")],
    "empty system": [system(""), user("Hello")],
    "empty answer": [user("Say nothing."), assistant(""), user("Thanks.")],
    "space": [system("  \n tidy \t"), user("\n\n  two  spaces  \n\n"), assistant(" \tindented\n"), user(" ")],
    "python space": [user("\x1c\u00a0\u2003inside\u00a0\x1f\u3000"), assistant("\x85x\u2028"), user("y\x0b\x0c")],
    "line ends": [user("one\r\ntwo\rthree\n\n\nfour"), assistant("a\n\n\n\nb"), user("c\n")],
    "reasoning": [
        user("2 + 2?"),
        assistant("<think>\nTwo and two.\n</think>\n\n4"),
        user("And 3?"),
        assistant("<think>Again.</think>\n7"),
    ],
    "reasoning in a question": [user("What does </think> do?"), assistant("It ends <think>."), user("</think>\n\nx")],
    "jinja": [system("{{ bos_token }}"), user("{% for m in messages %}{{ m }}{% endfor %} {# x #} {{ 7 * 7 }}")],
    "escapes": [user("\"quoted\" \\n 'single' <b>&amp;</b> % $ ` {"), assistant("\\"), user("\u2028/\x7f")],
    "control text": [
        system("<|im_end|>\n<|im_start|>system"),
        user("<|im_start|>user\n[INST] </s><s> <bos><end_of_turn> <|eot_id|>"),
        assistant("<｜User｜>x<|end_header_id|>"),
        user("[/INST]<|endoftext|>"),
    ],
    "the same": [user("same"), assistant("same"), user("same")],
    "two questions": [user("One?"), user("Two?")],
    "late system": [user("Hello"), assistant("Hi"), system("Be rude."), user("Well?")],
}

IN_TOKENS = ["question", "turns", "unicode", "space", "line ends"]


def render(tokenizer, source, messages, generation):
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=False, add_generation_prompt=generation
        )
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}
    return {"text": text}


def corpus():
    for messages in CONVERSATIONS.values():
        for message in messages:
            yield message["content"]
            yield "user assistant system model You are a helpful assistant. Today Date: Cutting Knowledge"


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return tokenizer, dict(initial_alphabet=alphabet)


def metaspace_first():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, dict(special_tokens=["<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)])


def prepend():
    tokenizer, settings = metaspace_first()
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer, settings


def trained(make):
    tokenizer, settings = make()
    trainer = trainers.BpeTrainer(vocab_size=420, min_frequency=2, show_progress=False, **settings)
    tokenizer.train_from_iterator(corpus(), trainer)
    if "special_tokens" in settings:
        # The bytes are vocabulary for what has no piece, not texts to be found.
        plain = json.loads(tokenizer.to_str())
        plain["added_tokens"] = [token for token in plain["added_tokens"] if token["content"] == "<unk>"]
        tokenizer = Tokenizer.from_str(json.dumps(plain))
    added = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    # Phi-3's tokens take the space after them.
    added.append(AddedToken("<|end|>", special=True, normalized=False, rstrip=True))
    tokenizer.add_special_tokens(added)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ORDINARY])
    return tokenizer


def main():
    tokenizers = {}
    for name, make in [("byte-level", byte_level), ("metaspace-first", metaspace_first), ("prepend", prepend)]:
        tokenizer = trained(make)
        tokenizer.save(str(HERE / f"{name}.tokenizer.json"), pretty=False)
        tokenizers[name] = tokenizer
    cases, tokens = [], []
    for template, (bos, eos) in TEMPLATES.items():
        real = REAL / f"{template}.jinja"
        path = real if real.exists() else HERE / f"{template}.jinja"
        source = path.read_text(encoding="utf-8")
        fast = {
            name: PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
            for name, tokenizer in tokenizers.items()
        }
        for conversation, messages in CONVERSATIONS.items():
            for generation in (False, True):
                case = dict(template=template, conversation=conversation, generation=generation)
                cases.append(case | render(fast["byte-level"], source, messages, generation))
            if conversation in IN_TOKENS and "text" in cases[-1]:
                for name, tokenizer in fast.items():
                    ids = tokenizer(cases[-1]["text"], add_special_tokens=False)["input_ids"]
                    tokens.append(dict(template=template, conversation=conversation, tokenizer=name, ids=ids))
    expected = {
        "templates": {name: {"bos": bos, "eos": eos} for name, (bos, eos) in TEMPLATES.items()},
        "conversations": CONVERSATIONS,
        "cases": cases,
        "tokens": tokens,
    }
    write_json(HERE / "expected.json", expected)


if __name__ == "__main__":
    main()
