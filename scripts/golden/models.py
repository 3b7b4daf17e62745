"""Makes the tiny random checkpoints of tests/golden/, each with what transformers computes from it.

    llama/          Llama: 4 heads sharing 2 key/value heads, untied embeddings, rms_norm_eps 1e-3,
                    and a byte-level BPE tokenizer with its expected encodings (encodings.json)
    llama3/         Llama with llama3 rope scaling that matters within 64 positions, tied embeddings
    qwen2/          Qwen2: non-zero q/k/v biases, tied embeddings, rope_theta 1e6
    qwen2-sharded/  the same weights as qwen2/, saved as several shards and an index
    llama-bias/     Llama with biases on all projections of attention and MLP
    mistral/        a window in every layer, heads of a size of their own
    qwen2-window/   a window in the upper layer of two
    qwen3/          normed queries and keys, heads of a size of their own
    gemma2/         soft-caps, four norms a layer, scaled embeddings, a window in two layers of three
    gemma3/         normed queries and keys, a window in two layers of three with a rotary embedding of
                    their own, linear scaling on the other
    phi3/           fused projections, a window
    phi3-longrope/  fused projections, longrope with its short factors, three quarters of a head rotated

    rope.json       rotary frequencies (float32) and attention factors of published configurations, by
                    layer type where there are several

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
    greedy.json     prompts      two sequences of tokens
                    continuations  [prompt][64], the most probable token at each step, float32, eager
                                 attention, with a cache; the prompts are such that the logit of the
                                 second token is always at least 1e-3 behind, and that at least 8
                                 different tokens follow
    logprob_sum, loss and grad are computed in float64 throughout; see `in_float64`.
"""

import contextlib
import itertools
import json
import math
import shutil
import types
from pathlib import Path

import numpy
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig
from transformers import MistralConfig, MistralForCausalLM, Phi3Config, Phi3ForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

import byte_level_bpe
from golden_json import write_json

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"

CONTEXT = 128
LENGTHS = [60, 23, 9]
GREEDY_LENGTHS = [37, 5]
GREEDY_TOKENS = 64
GREEDY_GAP = 1e-3
GREEDY_KINDS = 8

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
    gemma = "Gemma" in type(model).__name__
    around = 0.0 if gemma else 1.0  # Gemma's norms add 1 to their weights
    generator = numpy.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.from_numpy(generator.standard_normal(tuple(parameter.shape)))
            # Gemma's scaled, tied embeddings would else make it repeat its last token.
            scale = 0.1 if gemma and "embed" in name else 0.3
            parameter.copy_(around + 0.2 * noise if "norm" in name else scale * noise)
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

    def gemma_norm_forward(self, hidden):
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return (1.0 + self.weight) * (hidden * torch.rsqrt(variance + self.eps))

    def rotary_forward(self, hidden, position_ids, layer_type=None):
        prefix = f"{layer_type}_" if layer_type else ""
        angles = position_ids[..., None].double() * getattr(self, f"{prefix}inv_freq").double()
        angles = torch.cat((angles, angles), dim=-1)
        scaling = getattr(self, f"{prefix}attention_scaling")
        return angles.cos() * scaling, angles.sin() * scaling

    model = model.double()
    if getattr(model.config, "attn_logit_softcapping", None) is None:
        model.set_attn_implementation("sdpa")
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            gemma = type(module).__name__.startswith("Gemma")
            module.forward = types.MethodType(gemma_norm_forward if gemma else norm_forward, module)
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.forward = types.MethodType(rotary_forward, module)
    return model


@contextlib.contextmanager
def softmax_in_float64():
    """Keeps eager attention, the only one with soft-caps, from taking the softmax in float32."""
    plain = torch.nn.functional.softmax
    torch.nn.functional.softmax = lambda x, dim, dtype=None: plain(x, dim=dim)
    try:
        yield
    finally:
        torch.nn.functional.softmax = plain


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
        with softmax_in_float64():
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


def greedy_of(directory, seed):
    """Greedy continuations of prompts that leave no step undecided."""
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()

    def continuation(ids):
        cache, fed, tokens, gap = None, ids, [], math.inf
        for _ in range(GREEDY_TOKENS):
            with torch.no_grad():
                output = model(input_ids=torch.tensor([fed]), past_key_values=cache, use_cache=True)
            best, second = output.logits[0, -1].topk(2).values.tolist()
            gap = min(gap, best - second)
            cache, fed = output.past_key_values, [int(output.logits[0, -1].argmax())]
            tokens += fed
        return tokens, gap

    generator = numpy.random.default_rng(seed)
    prompts, continuations = [], []
    for length in GREEDY_LENGTHS:
        for _ in itertools.count():
            ids = generator.integers(0, model.config.vocab_size, length).tolist()
            tokens, gap = continuation(ids)
            if gap >= GREEDY_GAP and len(set(tokens)) >= GREEDY_KINDS:
                break
        prompts.append(ids)
        continuations.append(tokens)
    return {"prompts": prompts, "continuations": continuations}


def write_config_4x(directory, reader, derived):
    """Writes config-4x.json and checks that transformers reads the same model from it.

    The keys `derived` are left out, as old versions did not write them.
    """
    config = json.loads((directory / "config.json").read_text())
    for key in derived:
        config.pop(key)
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = config["num_hidden_layers"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if rope["rope_type"] == "longrope":
        # Said once more at the top.
        rope = {"type": "longrope", **{key: rope[key] for key in ("short_factor", "long_factor")}}
    config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.51.0"
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (directory / "config-4x.json").write_text(text)

    names = ("config-4x.json", "config.json")
    old, new = (reader.from_json_file(directory / name).to_dict() for name in names)
    for read in (old, new):
        for key in ("sliding_window_pattern", "_sliding_window_pattern", "partial_rotary_factor"):
            read.pop(key, None)
        read["rope_parameters"].pop("type", None)
    old["transformers_version"] = new["transformers_version"]
    assert old == new, (old, new)


def save(model, name, seed, derived=(), **how):
    """Saves a checkpoint and everything that is expected of it."""
    directory = GOLDEN / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    model.save_pretrained(directory, **how)
    for file in directory.glob("*.safetensors"):
        file.chmod(0o644)
    write_config_4x(directory, type(model.config), derived)
    ids = sequences(model.config.vocab_size, seed)
    write_json(directory / "expected.json", expected_of(directory, ids, seed))
    write_json(directory / "greedy.json", greedy_of(directory, seed))
    return directory


def common(**settings):
    return {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "dtype": "float32",
        **settings,
    }


def small(rope_theta=10000.0, **settings):
    """The sizes of the families that came later; `rope_theta` unless the settings say more.

    No token pads: torch would give its embedding no gradient.
    """
    rope = {"rope_type": "default", "rope_theta": rope_theta}
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 40, "rms_norm_eps": 1e-5}
    sizes["pad_token_id"] = None
    return common(**{**sizes, "rope_parameters": rope, **settings})


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


def make_llama_bias():
    config = LlamaConfig(**small(attention_bias=True, mlp_bias=True, tie_word_embeddings=False))
    save(randomise(LlamaForCausalLM(config), seed=4), "llama-bias", seed=14)


def make_mistral():
    config = MistralConfig(**small(head_dim=12, sliding_window=7, tie_word_embeddings=False))
    save(randomise(MistralForCausalLM(config), seed=5), "mistral", seed=15)


def make_qwen2_window():
    windows = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    config = Qwen2Config(**small(1000000.0, **windows, tie_word_embeddings=True))
    model = randomise(Qwen2ForCausalLM(config), seed=6)
    save(model, "qwen2-window", seed=16, derived=["layer_types"])


def make_qwen3():
    config = Qwen3Config(**small(1000000.0, head_dim=12, tie_word_embeddings=True))
    save(randomise(Qwen3ForCausalLM(config), seed=7), "qwen3", seed=17, derived=["layer_types"])


def make_gemma2():
    config = Gemma2Config(
        **small(
            num_hidden_layers=3,
            head_dim=12,
            query_pre_attn_scalar=20,
            sliding_window=10,
            # Low enough to bend most scores and logits of random weights.
            attn_logit_softcapping=4.0,
            final_logit_softcapping=1.5,
        )
    )
    save(randomise(Gemma2ForCausalLM(config), seed=8), "gemma2", seed=18, derived=["layer_types"])


def make_gemma3():
    config = Gemma3TextConfig(
        **small(
            num_hidden_layers=3,
            head_dim=12,
            query_pre_attn_scalar=20,
            sliding_window=9,
            layer_types=["sliding_attention", "sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        )
    )
    save(randomise(Gemma3ForCausalLM(config), seed=9), "gemma3", seed=19, derived=["layer_types", "_sliding_window_pattern"])


def make_phi3():
    config = Phi3Config(**small(sliding_window=11, original_max_position_embeddings=CONTEXT))
    save(randomise(Phi3ForCausalLM(config), seed=10), "phi3", seed=20)


def make_phi3_longrope():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 100.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.25, 1.5, 2.0, 2.5, 3.0],
        "long_factor": [2.0, 3.0, 5.0, 9.0, 17.0, 33.0],
    }
    config = Phi3Config(
        **small(
            hidden_size=64,
            rope_parameters=rope,
            max_position_embeddings=4 * CONTEXT,
            original_max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
        )
    )
    save(randomise(Phi3ForCausalLM(config), seed=11), "phi3-longrope", seed=21)


def make_rope():
    """Frequencies as transformers rounds them: at long positions one unit in the last place is felt."""
    heads = {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128}
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    longrope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0 + 0.05 * i for i in range(48)],
        "long_factor": [1.0 + 0.5 * i for i in range(48)],
    }
    plain = lambda theta: {"rope_type": "default", "rope_theta": theta}  # noqa: E731
    contexts = {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096}
    gemma = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": plain(10000.0),
    }
    cases = []
    for model, config in [
        (LlamaForCausalLM, LlamaConfig(**heads, rope_parameters=plain(10000.0))),
        (LlamaForCausalLM, LlamaConfig(**heads, max_position_embeddings=131072, rope_parameters=llama3)),
        (Qwen2ForCausalLM, Qwen2Config(**heads, rope_parameters=plain(1000000.0))),
        (Gemma3ForCausalLM, Gemma3TextConfig(**{**heads, "head_dim": 256}, rope_parameters=gemma)),
        (Phi3ForCausalLM, Phi3Config(**heads, **contexts, rope_parameters=longrope)),
    ]:
        config.architectures = [model.__name__]
        with torch.device("meta"):
            kind = type(model(config).model.rotary_emb)
        rotary = kind(config)
        types = ["full_attention_", "sliding_attention_"] if "Gemma3" in model.__name__ else [""]
        cases.append(
            {
                "config": json.loads(config.to_json_string(use_diff=False)),
                "frequencies": [getattr(rotary, f"{prefix}inv_freq") for prefix in types],
                "attention_factors": [getattr(rotary, f"{prefix}attention_scaling") for prefix in types],
            }
        )
    write_json(GOLDEN / "rope.json", {"cases": cases})


def main():
    torch.set_num_threads(1)
    make_llama()
    make_llama3()
    make_qwen2()
    make_llama_bias()
    make_mistral()
    make_qwen2_window()
    make_qwen3()
    make_gemma2()
    make_gemma3()
    make_phi3()
    make_phi3_longrope()
    make_rope()


if __name__ == "__main__":
    main()
