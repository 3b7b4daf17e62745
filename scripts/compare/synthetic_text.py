"""Seeded text of invented words, with the fixed phrases of the prompts that are timed.

The words follow Zipf's law, so that a BPE trained on the corpus needs one token for a frequent word
and several for a rare one, as with natural text.
"""

import numpy

WORDS = 60_000
ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr pl pr sh sl st th tr".split()
VOWELS = "a e i o u ai ea ee ie oo ou".split()
CODAS = ["", "", "", "n", "r", "s", "t", "l", "m", "nd", "st", "ck", "ng"]

PRINCIPLES = [
    ("Identify ways in which the assistant's last response is harmful, unethical or dangerous.",
     "Please rewrite the response so that nothing harmful, unethical or dangerous is left in it."),
    ("Does the response claim to know what it cannot know? Name each place and say why.",
     "Please rewrite the response so that it says plainly what is uncertain."),
    ("Point out where the response preaches at the reader or repeats the question.",
     "Please rewrite the response to be short, direct and friendly."),
    ("Say how the response could mislead someone who follows it word for word, step by step, alone "
     "and without anybody to ask, and which of the steps would do the most damage if it were wrong.",
     "Please rewrite the response so that following it word for word does no damage, and so that the "
     "reader learns whom to ask when a step is not clear."),
]
QUESTION = "Which of these responses is less harmful and more honest?"

PHRASES = [
    "Consider the following conversation:", "Human:", "Assistant:", "Options:", "(A)", "(B)",
    "The answer is: (", "Critique Request:", "Critique:", "Revision Request:", "Revision:", QUESTION,
] + [text for pair in PRINCIPLES for text in pair]


def lexicon():
    generator = numpy.random.default_rng(1)
    words, seen = [], set()
    while len(words) < WORDS:
        syllables = 1 + generator.binomial(3, 0.45)
        word = "".join(
            ONSETS[generator.integers(len(ONSETS))] + VOWELS[generator.integers(len(VOWELS))]
            + CODAS[generator.integers(len(CODAS))]
            for _ in range(syllables)
        )
        if word not in seen:
            seen.add(word)
            words.append(word)
    # Short words are the frequent ones.
    return sorted(words, key=len)


class Writer:
    """Sentences of the lexicon, from a seed."""

    def __init__(self, seed):
        self.generator = numpy.random.default_rng(seed)
        self.words = lexicon()
        weights = 1.0 / (numpy.arange(WORDS) + 10.0)
        self.cumulative = numpy.cumsum(weights / weights.sum())

    def sentences(self, words):
        """About `words` words in sentences of 6 to 14."""
        out = []
        while words > 0:
            length = int(self.generator.integers(6, 15))
            picks = numpy.searchsorted(self.cumulative, self.generator.random(length))
            chosen = [self.words[min(pick, WORDS - 1)] for pick in picks]
            out.append(" ".join(chosen).capitalize() + ".")
            words -= length
        return " ".join(out)


def corpus():
    """What the tokenizer is trained on: the lexicon in running text, every word once more, the phrases often."""
    writer = Writer(2)
    for _ in range(3_000):
        yield writer.sentences(100)
    for start in range(0, WORDS, 100):
        yield " " + " ".join(writer.words[start:start + 100])
    for _ in range(2_000):
        yield "\n\n".join(PHRASES)
