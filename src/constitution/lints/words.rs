//! Words as lints see them: lower case, without endings of number and person, function words left out.

use std::collections::BTreeSet;

/// Words that say nothing of what a request is about.
const FUNCTION_WORDS: [&str; 86] = [
    "a",
    "about",
    "all",
    "also",
    "an",
    "and",
    "any",
    "answer",
    "are",
    "as",
    "assistant",
    "at",
    "be",
    "been",
    "but",
    "by",
    "can",
    "critique",
    "did",
    "discuss",
    "do",
    "does",
    "each",
    "every",
    "find",
    "for",
    "from",
    "has",
    "have",
    "how",
    "if",
    "in",
    "into",
    "is",
    "it",
    "its",
    "itself",
    "last",
    "like",
    "may",
    "more",
    "most",
    "name",
    "no",
    "not",
    "of",
    "on",
    "one",
    "only",
    "or",
    "other",
    "out",
    "part",
    "please",
    "point",
    "quote",
    "reply",
    "response",
    "rewrite",
    "say",
    "should",
    "so",
    "some",
    "such",
    "than",
    "that",
    "the",
    "their",
    "them",
    "there",
    "they",
    "this",
    "those",
    "to",
    "was",
    "way",
    "what",
    "where",
    "whether",
    "which",
    "who",
    "why",
    "will",
    "with",
    "would",
    "you",
];

/// The words of a text, in lower case.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|char: char| !(char.is_alphanumeric() || char == '\''))
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

/// What a text is about: its words without function words and without their commonest endings.
pub fn content_words(text: &str) -> BTreeSet<String> {
    let content = words(text).filter(|word| !FUNCTION_WORDS.contains(&word.as_str()));
    content.map(|word| stem(&word)).collect()
}

fn stem(word: &str) -> String {
    for ending in ["'s", "ing", "ed", "es", "s"] {
        if let Some(stem) = word.strip_suffix(ending)
            && stem.chars().count() >= 3
        {
            return stem.to_owned();
        }
    }
    word.to_owned()
}

/// Share of the words of either that both have (Jaccard); of fewer than three, nothing can be said.
pub fn overlap(a: &BTreeSet<String>, b: &BTreeSet<String>) -> f64 {
    if a.len().min(b.len()) < 3 {
        return 0.0;
    }
    let both = a.intersection(b).count();
    both as f64 / (a.len() + b.len() - both) as f64
}

/// How many tokens a text has, about: BPE vocabularies have four letters of English to a token, and seldom fewer tokens
/// than words.
pub fn tokens_about(text: &str) -> usize {
    text.chars().count().div_ceil(4).max(words(text).count())
}
