"""Makes tests/golden/gguf/: GGUF files by llama.cpp's own tools, and what transformers computes from them.

    LLAMA_CPP=<source of llama.cpp> LLAMA_QUANTIZE=<its llama-quantize> python scripts/golden/gguf_files.py [NAME ...]

Tiny random checkpoints are converted by `convert_hf_to_gguf.py` and quantised by `llama-quantize`.
The committed files come from llama.cpp as llama-cpp-python 0.3.36 has it.

    <name>.gguf   the file; which types are in it stands in `FILES`
    <name>.json   input_ids      two sequences, each run alone
                  positions      [sequence][k], the positions whose logits are listed
                  logits         [sequence][k][vocab], float32, eager attention
                  prompts, continuations   as in greedy.json of models.py
                  encodings      texts with their tokens, without special tokens

The numbers are those of transformers in float32 with the weights that gguf-py dequantises from the
file, put back where they were; `restore` checks itself against the checkpoint wherever the file is
float32. Encodings of byte-level vocabularies are transformers'; those of SentencePiece vocabularies
are sentencepiece's own, and transformers' are asserted to be the same.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy
import sentencepiece
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM
from transformers.convert_slow_tokenizer import generate_merges
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

import models
from golden_json import write_json

OUT = models.GOLDEN / "gguf"
VOCAB = 320
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"

TEXTS = [
    "The assistant should be honest.",
    "  two  double  spaces  ",
    "line one\nline two\n\n\tindented, then CRLF\r\n",
    "Zażółć gęślą jaźń, naïve café; e\u0301 is not é.",
    "日本語のテキスト — “quotes” … 👩‍🔬🏳️‍🌈",
    "</s>",
    "<|end|> and <s>",
    "don't we'll I'M 12345 3.14 x+=1; {\"key\": [null]}",
]

# Splitting of byte-level vocabularies, each as its models' tokenizer.json has it.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def by_expression(expression):
    split = pre_tokenizers.Split(Regex(expression), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(directory, pre):
    """Writes a byte-level tokenizer that splits as llama.cpp's `pre` says."""
    splitting = {
        "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "llama-bpe": by_expression(LLAMA3),
        "qwen2": transformers.Qwen2Tokenizer()._tokenizer.pre_tokenizer,
        "smollm": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
    }[pre]
    tokenizer = Tokenizer(tokenizer_models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = splitting
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    specials = ["<s>", "</s>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(models.SENTENCES + TEXTS[:5] + TEXTS[-1:], trainer)
    assert tokenizer.get_vocab_size() == VOCAB
    if pre != "qwen2":
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        # Else transformers gives a Qwen2 tokenizer a token of its own.
        unk_token="</s>",
        pad_token="</s>",
        additional_special_tokens=["<|end|>"],
        chat_template=TEMPLATE,
    )
    fast.save_pretrained(directory)
    # Whatever transformers adds of its own to the file.
    fast = PreTrainedTokenizerFast.from_pretrained(directory)
    return lambda text: fast(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def sentence_piece(directory, prefix):
    """Writes a SentencePiece vocabulary as Llama 2 (`prefix`) or Gemma has it."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(models.SENTENCES),
        model_prefix=str(directory / "tokenizer"),
        vocab_size=VOCAB,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        split_digits=True,
        character_coverage=1.0,
        control_symbols=["<|end|>"],
        minloglevel=2,
    )
    (directory / "tokenizer.vocab").unlink()
    path = directory / "tokenizer.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert processor.vocab_size() == VOCAB
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": TEMPLATE}
    kind = transformers.LlamaTokenizer if prefix else transformers.GemmaTokenizer
    config["tokenizer_class"] = "LlamaTokenizer" if prefix else "GemmaTokenizer"
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    pieces = [(processor.id_to_piece(index), processor.get_score(index)) for index in range(VOCAB)]
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    merges = generate_merges(ids, pieces)
    fast = kind(vocab=ids, merges=merges, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    for text in TEXTS:
        # transformers leaves out the space that SentencePiece puts before a text which begins with one.
        if not (prefix and text.startswith(" ")):
            theirs = fast(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            assert theirs == processor.encode(text), (text, theirs, processor.encode(text))
    return processor.encode


def common(**settings):
    return {**models.common(vocab_size=VOCAB, rms_norm_eps=1e-5, pad_token_id=None), "bos_token_id": 1, "eos_token_id": 2, **settings}


def plain(theta=10000.0):
    return {"rope_type": "default", "rope_theta": theta}


def llama(**settings):
    return LlamaForCausalLM(
        LlamaConfig(**common(**{**dict(hidden_size=64, intermediate_size=96, rope_parameters=plain(), tie_word_embeddings=False), **settings}))
    )


def shallow():
    """One layer, where numbers take many bytes."""
    return llama(num_hidden_layers=1)


def wide():
    """Rows of 256 numbers, as the k-quants need them."""
    return llama(
        hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_key_value_heads=1, tie_word_embeddings=True
    )


def llama3():
    rope = {
        "rope_type": "llama3",
        "rope_theta": 100.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    return llama(rope_parameters=rope, tie_word_embeddings=True)


def qwen2():
    return Qwen2ForCausalLM(
        Qwen2Config(**common(hidden_size=64, intermediate_size=96, rope_parameters=plain(1e6), tie_word_embeddings=True))
    )


def qwen3():
    return Qwen3ForCausalLM(
        Qwen3Config(
            **common(hidden_size=64, intermediate_size=96, head_dim=32, rope_parameters=plain(1e6), tie_word_embeddings=True)
        )
    )


def gemma2():
    return Gemma2ForCausalLM(
        Gemma2Config(
            **common(
                hidden_size=64,
                intermediate_size=96,
                head_dim=32,
                query_pre_attn_scalar=32,
                sliding_window=10,
                attn_logit_softcapping=4.0,
                final_logit_softcapping=1.5,
                rope_parameters=plain(),
            )
        )
    )


def gemma3():
    # The sixth layer is the first without a window.
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            **common(
                num_hidden_layers=7,
                num_attention_heads=2,
                num_key_value_heads=1,
                hidden_size=32,
                intermediate_size=32,
                head_dim=32,
                query_pre_attn_scalar=32,
                sliding_window=9,
                rope_parameters={
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                },
            )
        )
    )


def phi3():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.25, 1.5, 2.0, 2.5, 3.0],
        "long_factor": [2.0, 3.0, 5.0, 9.0, 17.0, 33.0],
        "original_max_position_embeddings": models.CONTEXT,
    }
    return Phi3ForCausalLM(
        Phi3Config(
            **common(
                hidden_size=64,
                intermediate_size=96,
                sliding_window=11,
                max_position_embeddings=4 * models.CONTEXT,
                original_max_position_embeddings=models.CONTEXT,
                rope_parameters=rope,
                tie_word_embeddings=False,
            )
        )
    )


# name: model, tokenizer ("spm", "spm-gemma" or llama.cpp's name of a splitting), what the converter
# writes, what llama-quantize makes of that.
FILES = {
    "llama-f32": (shallow, "spm", "f32", None),
    "llama-f16": (shallow, "gpt-2", "f16", None),
    "llama-bf16": (shallow, "smollm", "bf16", None),
    "llama-q8_0": (llama, "spm", "q8_0", None),
    "llama-q4_0": (llama, "spm", "f32", "Q4_0"),
    # Rows of 64 and 96 numbers: Q5_0, Q5_1 and Q8_0 in place of the k-quants.
    "llama-narrow-q4_k_m": (llama, "spm", "f32", "Q4_K_M"),
    "llama-narrow-q5_k_m": (llama, "spm", "f32", "Q5_K_M"),
    "llama-q4_k_m": (wide, "spm", "f32", "Q4_K_M"),
    "llama-q5_k_m": (wide, "spm", "f32", "Q5_K_M"),
    "llama-q6_k": (wide, "spm", "f32", "Q6_K"),
    "llama3-f16": (llama3, "llama-bpe", "f16", None),
    "qwen2-q8_0": (qwen2, "qwen2", "q8_0", None),
    "qwen3-q8_0": (qwen3, "qwen2", "q8_0", None),
    "gemma2-q8_0": (gemma2, "spm-gemma", "q8_0", None),
    "gemma3-q8_0": (gemma3, "spm-gemma", "q8_0", None),
    "phi3-q8_0": (phi3, "spm", "q8_0", None),
}

# llama.cpp knows a splitting by what it makes of a text with the published vocabulary; here it is told.
CONVERT = """
import runpy, sys
root, pre = sys.argv[1:3]
del sys.argv[1:3]
sys.path[:0] = [root, root + "/gguf-py"]
import conversion.base
conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
runpy.run_path(root + "/convert_hf_to_gguf.py", run_name="__main__")
"""


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def convert(directory, pre, outtype, quantised, path):
    first = path if quantised is None else directory / "unquantised.gguf"
    root = os.environ["LLAMA_CPP"]
    run(sys.executable, "-c", CONVERT, root, pre, directory, "--outfile", first, "--outtype", outtype, "--model-name", "tiny")
    if quantised:
        run(os.environ["LLAMA_QUANTIZE"], first, path, quantised, 1)


def halves(weight, heads):
    """Undoes `LlamaModel.permute` of llama.cpp's converter."""
    return weight.reshape(heads, -1, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def restore(model, path, exact):
    """Puts the weights of the file into `model`; answers the types that the file has."""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    kind, config = model.config.model_type, model.config
    arch = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "gemma2": "GEMMA2", "phi3": "PHI3"}.get(kind, "GEMMA3")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch], config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = tensors[names.get_name(name.removesuffix(".weight").removesuffix(".bias")) + "." + name.rsplit(".")[-1]]
            values = numpy.array(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=numpy.float32)
            values = torch.from_numpy(values.reshape(parameter.shape))
            if kind == "llama" and "q_proj" in name:
                values = halves(values, config.num_attention_heads)
            if kind == "llama" and "k_proj" in name:
                values = halves(values, config.num_key_value_heads)
            if "gemma" in kind and "norm" in name:
                values = values - 1.0
            assert not exact or torch.equal(values, parameter), name
            assert torch.allclose(values, parameter, atol=0.2), name
            parameter.copy_(values)
    return sorted({tensor.tensor_type.name for tensor in reader.tensors})


def make(name, seed):
    build, vocabulary, outtype, quantised = FILES[name]
    path = OUT / f"{name}.gguf"
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        model = models.randomise(build(), seed=seed)
        model.save_pretrained(directory)
        if vocabulary.startswith("spm"):
            encode = sentence_piece(directory, prefix=vocabulary == "spm")
        else:
            encode = byte_level(directory, vocabulary)
        convert(directory, vocabulary, outtype, quantised, path)
        types = restore(model, path, exact=outtype == "f32" and quantised is None)
        restored = directory / "restored"
        model.save_pretrained(restored)
        ids = [ids[:24] for ids in models.sequences(VOCAB, seed)[:2]]
        positions = [[0, len(ids[0]) - 1], [len(ids[1]) - 1]]
        with torch.no_grad():
            model.set_attn_implementation("eager")
            logits = [models.logits_of(model, row)[where] for row, where in zip(ids, positions)]
        expected = {
            "types": types,
            "input_ids": ids,
            "positions": positions,
            "logits": logits,
            **models.greedy_of(restored, seed),
            "encodings": [{"text": text, "ids": encode(text)} for text in TEXTS],
        }
        write_json(OUT / f"{name}.json", expected)
        print(f"{path.stat().st_size:8} {name} {types}", flush=True)


def main():
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    OUT.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(FILES, start=40):
        if name in sys.argv[1:] or not sys.argv[1:]:
            make(name, seed)
    total = sum(path.stat().st_size for path in OUT.iterdir())
    print(f"{total:8} in all")
    assert total < 3_000_000


if __name__ == "__main__":
    main()
