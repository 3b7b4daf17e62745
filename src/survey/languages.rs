//! The language of texts, and whether an answer is one: empty, or a refusal.
//!
//! The language is guessed from script and trigrams (`whatlang`); short texts are told to be unsure.
//! Refusals are recognised in English only, by how they begin.

/// Characters of a text that are looked at.
const LOOKED_AT: usize = 600;

/// What a text whose language cannot be told for sure is counted as.
pub const UNSURE: &str = "unsure";

/// The English name of a text's language, or [`UNSURE`].
pub fn of(text: &str) -> &'static str {
    let end = text
        .char_indices()
        .nth(LOOKED_AT)
        .map_or(text.len(), |(index, _)| index);
    match whatlang::detect(&text[..end]) {
        Some(info) if info.is_reliable() => info.lang().eng_name(),
        _ => UNSURE,
    }
}

/// How refusals of chat models begin.
const REFUSALS: [&str; 20] = [
    "i can't",
    "i cannot",
    "i can not",
    "i won't",
    "i will not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "i'm not comfortable",
    "i'm sorry, but",
    "i am sorry, but",
    "i'm sorry, i",
    "sorry, but i",
    "sorry, i can",
    "i apologize, but",
    "i apologise, but",
    "unfortunately, i can",
    "as an ai",
    "i must decline",
];

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Empty,
    Refusal,
}

pub fn failure(answer: &str) -> Option<Failure> {
    let answer = answer.trim_start();
    if answer.is_empty() {
        return Some(Failure::Empty);
    }
    let beginning: String = answer
        .chars()
        .take(80)
        .flat_map(char::to_lowercase)
        .map(|character| if character == '\u{2019}' { '\'' } else { character })
        .collect();
    // "I see. I'm sorry, but ..." refuses as well: any sentence that begins here.
    let sentence = |refusal: &str| {
        beginning.starts_with(refusal)
            || [". ", "! ", ", "]
                .iter()
                .any(|end| beginning.contains(&format!("{end}{refusal}")))
    };
    REFUSALS.into_iter().any(sentence).then_some(Failure::Refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: apologies and typographic apostrophes missed, and helpful answers taken for refusals.
    #[test]
    fn answers_that_refuse() {
        for text in [
            "I'm sorry, but I can't help with that.",
            "I cannot assist.",
            "I can\u{2019}t do that",
            "Sorry, I can't.",
            "Hm. As an AI, I have no body.",
        ] {
            assert_eq!(failure(text), Some(Failure::Refusal), "{text}");
        }
        assert_eq!(failure(" \n"), Some(Failure::Empty));
        for text in [
            "You can't go wrong with rice.",
            "Sure! Here is how.",
            "I'm sorry to hear that.",
        ] {
            assert_eq!(failure(text), None, "{text}");
        }
    }

    #[test]
    fn languages_are_told_and_short_texts_are_not() {
        let texts = [
            (
                "How do I tell my neighbour that his dog barks all night long?",
                "English",
            ),
            (
                "Wie sage ich meinem Nachbarn, dass sein Hund die ganze Nacht bellt und niemand schlafen kann?",
                "German",
            ),
            ("我怎么告诉邻居他的狗整夜都在叫？", "Mandarin"),
            ("ok", UNSURE),
            ("", UNSURE),
        ];
        assert_eq!(texts.map(|(text, _)| of(text)), texts.map(|(_, language)| language));
    }
}
