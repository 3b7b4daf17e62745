"""Makes the tiny random checkpoints of tests/golden/, each with what transformers computes from it.

    llama/          Llama: 4 heads sharing 2 key/value heads, untied embeddings, rms_norm_eps 1e-3,
                    and a byte-level BPE tokenizer with its expected encodings (encodings.json)
    llama3/         Llama with llama3 rope scaling that matters within 64 positions, tied embeddings
    qwen2/          Qwen2: non-zero q/k/v biases, tied embeddings, rope_theta 1e6
    qwen2-sharded/  the same weights as qwen2/, saved as several shards and an index

Each directory is what `save_pretrained` writes, plus

    config-4x.json  the same configuration as transformers 4 wrote it, and as most published
                    checkpoints have it: top-level `rope_theta`, `rope_scaling`, `torch_dtype`
    expected.json   input_ids    sequences of different lengths, each run alone, without padding
                    positions    [sequence][k], the positions whose logits are listed: 0, the last 4
                    logits       [sequence][k][vocab], float32, eager attention
                    logprob_sum  [sequence], sum over t of log p(token t+1 | tokens 0..t)
                    loss         mean over all predicted tokens of all sequences of -log p
                    grad         per parameter of `named_parameters()` (a tied lm_head is absent:
                                 model.embed_tokens.weight holds both parts), d loss / d parameter:
                                 norm (L2) and entries, three [flat_index, value] pairs
    logprob_sum, loss and grad are computed in float64 throughout; see `in_float64`.
"""

import json
import math
import shutil
import types
from pathlib import Path

import numpy
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM

import byte_level_bpe
from golden_json import write_json

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"

CONTEXT = 128
LENGTHS = [60, 23, 9]

SENTENCES = [
    "The assistant should choose the response that is more helpful and more honest.",
    "Please rewrite the response so that it no longer helps the human to harm others.",
    "Identify the ways in which the response is harmful, and then say why.",
    "Human: What is the answer?\n\nAssistant: The answer is that there is none.",
]

# Each string is encoded in encodings.json. "</s>" is the text a user could type.
TEXTS = [
    "The assistant should be honest.",
    "  two  double  spaces  ",
    "line one\nline two\n\n\tindented, then CRLF\r\n",
    "Zażółć gęślą jaźń, naïve café; e\u0301 is not é.",
    "日本語のテキスト — “quotes” … 👩‍🔬🏳️‍🌈",
    "an end in the text: </s> and a start <s>, then < /s>",
    "</s>",
    "",
    "don't we'll I'M 12345 3.14 x+=1; {\"key\": [null]}",
]


def randomise(model, seed):
    """Weights large enough that the logits are far from uniform; norms around 1; biases not zero."""
    generator = numpy.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.from_numpy(generator.standard_normal(tuple(parameter.shape)))
            parameter.copy_(1.0 + 0.2 * noise if "norm" in name else 0.3 * noise)
    return model.float().eval()


def sequences(vocab_size, seed):
    generator = numpy.random.default_rng(seed)
    return [generator.integers(0, vocab_size, length).tolist() for length in LENGTHS]


def logits_of(model, ids):
    """(T, V) logits of one sequence run alone."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def in_float64(model):
    """Makes every step of `model` float64.

    `model.double()` is not enough: transformers takes RMSNorm, the attention's softmax and the
    rotary angles through float32 whatever the weights are. The rotary frequencies keep the values
    that transformers gives them (float32), since those define the model.
    """

    def norm_forward(self, hidden):
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))

    def rotary_forward(self, hidden, position_ids):
        angles = position_ids[..., None].double() * self.inv_freq.double()
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling

    model = model.double()
    model.set_attn_implementation("sdpa")
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(norm_forward, module)
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.forward = types.MethodType(rotary_forward, module)
    return model


def entries_of(gradient, generator):
    """The largest entry and two others drawn from the non-zero ones."""
    flat = gradient.flatten()
    largest = int(flat.abs().argmax())
    others = [int(i) for i in flat.nonzero()[:, 0] if int(i) != largest]
    drawn = generator.choice(others, size=2, replace=False)
    return [[i, flat[i].item()] for i in [largest, *sorted(int(i) for i in drawn)]]


def expected_of(directory, input_ids, seed):
    """What transformers computes from the checkpoint as it was saved."""
    load = lambda: AutoModelForCausalLM.from_pretrained(  # noqa: E731
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    model = load()
    positions = [[0, *range(len(ids) - 4, len(ids))] for ids in input_ids]
    with torch.no_grad():
        logits = [logits_of(model, ids)[where] for ids, where in zip(input_ids, positions)]

    exact = in_float64(load())
    logprob_sum = []
    for ids, where, listed in zip(input_ids, positions, logits):
        full = logits_of(exact, ids)
        assert full.dtype == torch.float64
        assert torch.allclose(full[where].float(), listed, atol=5e-5), "float32 and float64 disagree"
        logprobs = full[:-1].log_softmax(-1)
        logprob_sum.append(logprobs.gather(-1, torch.tensor(ids[1:])[:, None]).sum())
    loss = -sum(logprob_sum) / sum(len(ids) - 1 for ids in input_ids)
    loss.backward()

    generator = numpy.random.default_rng(seed)
    grad = {
        name: {
            "norm": parameter.grad.norm().item(),
            "entries": entries_of(parameter.grad, generator),
        }
        for name, parameter in exact.named_parameters()
    }
    return {
        "input_ids": input_ids,
        "positions": positions,
        "logits": logits,
        "logprob_sum": [value.item() for value in logprob_sum],
        "loss": loss.item(),
        "grad": grad,
    }


def write_config_4x(directory):
    """Writes config-4x.json and checks that transformers reads the same model from it."""
    config = json.loads((directory / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.0"
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / "config-4x.json").write_text(text)

    reader = LlamaConfig if config["model_type"] == "llama" else Qwen2Config
    names = ("config-4x.json", "config.json")
    old, new = (reader.from_json_file(directory / name).to_dict() for name in names)
    old["transformers_version"] = new["transformers_version"]
    assert old == new, (old, new)


def save(model, name, seed, **how):
    """Saves a checkpoint and everything that is expected of it."""
    directory = GOLDEN / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    model.save_pretrained(directory, **how)
    for file in directory.glob("*.safetensors"):
        file.chmod(0o644)
    write_config_4x(directory)
    ids = sequences(model.config.vocab_size, seed)
    write_json(directory / "expected.json", expected_of(directory, ids, seed))
    return directory


def common(**settings):
    return dict(
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
        dtype="float32",
        **settings,
    )


def make_llama():
    config = LlamaConfig(
        **common(
            vocab_size=288,  # a byte-level tokenizer needs 256 ids for the bytes alone
            hidden_size=32,
            intermediate_size=48,
            rms_norm_eps=1e-3,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=False,
        )
    )
    directory = save(randomise(LlamaForCausalLM(config), seed=1), "llama", seed=11)

    byte_level_bpe.train(SENTENCES, config.vocab_size, CONTEXT).save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    generation = json.loads((directory / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
    )
    encodings = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        assert decoded == text, (decoded, text)
        literal = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        encodings.append(
            {
                "text": text,
                "ids_with_special_tokens": tokenizer.encode(text, add_special_tokens=True),
                "ids_without_special_tokens": ids,
                # The text "</s>" as plain characters: what a user's text should become.
                "ids_split_special_tokens": literal,
            }
        )
    write_json(directory / "encodings.json", {"encodings": encodings})


def make_llama3():
    rope = {
        "rope_type": "llama3",
        # With head_dim 12 the six wavelengths are 6.3, 13.5, 29.2, 62.8, 135 and 292: one below 8
        # (left alone), two between 8 and 32 (blended), three above 32 (divided by the factor).
        "rope_theta": 100.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    config = LlamaConfig(
        **common(
            vocab_size=80,
            hidden_size=48,
            intermediate_size=56,
            rms_norm_eps=1e-5,
            rope_parameters=rope,
            tie_word_embeddings=True,
            attention_bias=False,
        )
    )
    model = randomise(LlamaForCausalLM(config), seed=2)
    inverse = model.model.rotary_emb.inv_freq
    kept = [100.0 ** (-i / 6) for i in range(6)]
    ratio = [float(a) / b for a, b in zip(inverse, kept)]
    bands = [1 if r > 0.999 else 3 if math.isclose(r, 1 / 8, rel_tol=1e-4) else 2 for r in ratio]
    assert bands == [1, 2, 2, 3, 3, 3], ratio
    save(model, "llama3", seed=12)


def make_qwen2():
    config = Qwen2Config(
        **common(
            vocab_size=96,
            hidden_size=32,
            intermediate_size=64,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            tie_word_embeddings=True,
        )
    )
    model = randomise(Qwen2ForCausalLM(config), seed=3)
    save(model, "qwen2", seed=13)
    directory = save(model, "qwen2-sharded", seed=13, max_shard_size="30KB")
    assert (directory / "model.safetensors.index.json").exists()
    assert (directory / "expected.json").read_bytes() == (GOLDEN / "qwen2/expected.json").read_bytes()


def main():
    torch.set_num_threads(1)
    make_llama()
    make_llama3()
    make_qwen2()


if __name__ == "__main__":
    main()
