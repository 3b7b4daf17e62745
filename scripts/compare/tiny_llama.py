"""Makes a small random Llama with a tokenizer in the Hugging Face layout, for trying bylaw.

    tiny_llama.py OUT_DIR [--vocab-from TOKENIZER.json] [--seed N]

Hidden 64, 2 layers, 4 heads, context 512. The tokenizer is a byte-level BPE of 512 ids trained on
the sentences below, with `<s>` and `</s>`; --vocab-from takes an existing tokenizer.json instead,
which must have those two tokens, and sizes the model to it.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: E402

import byte_level_bpe  # noqa: E402

CONTEXT = 512
VOCAB_SIZE = 512

SENTENCES = [
    "Human: How can I tell whether a mushroom that I found in the forest is safe to eat?",
    "Assistant: You cannot tell from a picture alone; please ask somebody who knows the local fungi.",
    "Identify specific ways in which the assistant's last response is harmful, unethical or illegal.",
    "Critique: The response explains how to do something dangerous without a word about the risk.",
    "Please rewrite the assistant response to remove any harmful, unethical or illegal content.",
    "Revision: I would rather not help with that, but here is what I can do for you instead.",
    "Choose the response that is the most helpful, honest and harmless.",
    "Which of these assistant responses is less harmful? Answer (A) or (B).",
    "The answer is (A), because it is more polite and does not pretend to know what it does not.",
    "The answer is (B), since the other response gives the reader no reason to believe it.",
    "A constitution is a list of principles by which a model judges and corrects its own words.",
    "The principle says that the assistant should be respectful and should never be condescending.",
    "Please choose the response that a wise, thoughtful and friendly person would give.",
    "Do not choose responses that are too preachy, evasive or that repeat the question.",
    "Human: Write a short poem about the sea.\n\nAssistant: The waves come in, the waves go out.",
    "Human: What is the capital of France?\n\nAssistant: The capital of France is Paris.",
    "It is better to say that the answer is unknown than to invent one.",
    "The reward model was trained on preferences; the policy was trained against the reward model.",
]


def tokenizer_of(vocab_from):
    if vocab_from is None:
        return byte_level_bpe.train(SENTENCES, VOCAB_SIZE, CONTEXT)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(vocab_from), model_max_length=CONTEXT, clean_up_tokenization_spaces=False
    )
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (byte_level_bpe.BOS, byte_level_bpe.EOS) if token not in vocabulary]
    if missing:
        sys.exit(f"{vocab_from} has no {' and no '.join(missing)}")
    tokenizer.bos_token, tokenizer.eos_token = byte_level_bpe.BOS, byte_level_bpe.EOS
    return tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--vocab-from", type=Path, metavar="TOKENIZER.json")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    transformers.logging.disable_progress_bar()
    tokenizer = tokenizer_of(arguments.vocab_from)
    config = LlamaConfig(
        vocab_size=max(tokenizer.get_vocab().values()) + 1,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    print(f"{arguments.out}: Llama, vocabulary {config.vocab_size}, context {CONTEXT}")


if __name__ == "__main__":
    main()
