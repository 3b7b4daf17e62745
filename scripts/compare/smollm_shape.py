"""Makes a random Llama of SmolLM2-135M's shape, for measuring speed.

    smollm_shape.py OUT_DIR [--seed N]

    OUT_DIR/hf/           Hugging Face layout, float32; every weight is representable in bfloat16
    OUT_DIR/f32.gguf      the same weights for llama.cpp
    OUT_DIR/bf16.gguf     matrices in bfloat16 (exact), norms in float32
    OUT_DIR/q8_0.gguf     matrices in Q8_0, norms in float32

Shape: hidden 576, 30 layers, 9 query and 3 key/value heads of 64, intermediate 1536, vocabulary
49152, tied embeddings, context 8192 (config.json of HuggingFaceTB/SmolLM2-135M). The tokenizer is a
byte-level BPE of 49152 ids trained on synthetic text, `<s>` = 0 and `</s>` = 1.

Scale: every matrix keeps the variance of what passes through it, so that the residual stream stays
near 1 and the logits have a standard deviation of about 2 over the vocabulary. Queries and keys are
larger, so that attention picks instead of averaging; otherwise greedy decoding repeats one token.
The embedding of `</s>` is zero: its logit is 0, far below the largest of 49152, and nothing ends early.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))

import gguf  # noqa: E402
import numpy  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

import byte_level_bpe  # noqa: E402
import synthetic_text  # noqa: E402

VOCAB_SIZE = 49152
CONTEXT = 8192
LOGIT_STD = 2.0
QUERY_KEY_STD = 2.0  # of their entries; attention scores have its square

GGUF_TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}

# Hugging Face name of a layer's tensor -> llama.cpp's name.
LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def random_model(tokenizer, seed):
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_theta=1e5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(1.0, 0.1, generator=generator)
                weight.copy_(weight.bfloat16())
                continue
            fan_in = weight.shape[1]
            std = LOGIT_STD / fan_in**0.5 if "embed" in name else 1.0 / fan_in**0.5
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                std *= QUERY_KEY_STD
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                # What enters the residual stream: 60 of these together double its variance.
                std /= 60**0.5
            weight.normal_(0.0, std, generator=generator)
            weight.copy_(weight.bfloat16())
        model.model.embed_tokens.weight[tokenizer.eos_token_id] = 0.0
    return model.eval()


def interleaved(weight, heads):
    """Rows of each head from (first half, second half) to (pairs): llama.cpp rotates neighbours."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def gguf_tensors(model):
    """(name, float32 array) of every tensor; the tied output matrix is left out."""
    weights = {name: value.detach().numpy() for name, value in model.named_parameters()}
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    for layer in range(model.config.num_hidden_layers):
        for ours, theirs in LAYER_TENSORS.items():
            value = weights[f"model.layers.{layer}.{ours}.weight"]
            value = interleaved(value, heads[theirs]) if theirs in heads else value
            yield f"blk.{layer}.{theirs}.weight", value


def add_tokenizer(writer, tokenizer):
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    special = set(tokenizer.all_special_tokens)
    types = [gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def write_gguf(model, tokenizer, kind, path):
    matrix_type, file_type = GGUF_TYPES[kind]
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("random SmolLM2-135M shape")
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    add_tokenizer(writer, tokenizer)
    for name, value in gguf_tensors(model):
        kept = gguf.GGMLQuantizationType.F32 if value.ndim == 1 else matrix_type
        data = numpy.ascontiguousarray(gguf.quants.quantize(value, kept))
        writer.add_tensor(name, data, raw_dtype=kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    transformers.logging.disable_progress_bar()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level_bpe.train(synthetic_text.corpus(), VOCAB_SIZE, CONTEXT)
    model = random_model(tokenizer, arguments.seed)
    for kind in GGUF_TYPES:
        write_gguf(model, tokenizer, kind, arguments.out / f"{kind}.gguf")
    tokenizer.save_pretrained(arguments.out / "hf")
    model.save_pretrained(arguments.out / "hf")
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{arguments.out}: hf, {', '.join(f'{kind}.gguf' for kind in GGUF_TYPES)}; {parameters} parameters")


if __name__ == "__main__":
    main()
