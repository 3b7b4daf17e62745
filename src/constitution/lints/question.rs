//! Lints of comparison questions: a judge must know which answer wins, and nothing in the question may lean on what
//! judges favour anyway: length and place (Zheng et al. 2023, arXiv 2306.05685, section 3.3).

use super::super::diagnostic::Diagnostic;
use super::super::entry::Entry;
use super::Lints;
use super::words::words;

pub const UNDECIDED: &str = "undecided-question";
pub const INVERTED: &str = "inverted-question";
pub const LENGTH: &str = "mentions-length";
pub const POSITION: &str = "mentions-position";

/// What asks for a choice.
const CHOOSES: [&str; 10] = [
    "which",
    "choose",
    "chooses",
    "pick",
    "prefer",
    "prefers",
    "preferred",
    "preferable",
    "select",
    "whose",
];

/// What is chosen.
const CHOSEN: [&str; 7] = ["answer", "response", "reply", "one", "assistant", "message", "two"];

/// What says how the chosen one is better, wherever it stands behind the choice.
const DECIDES: [&str; 12] = [
    "less",
    "least",
    "more",
    "most",
    "better",
    "best",
    "fewer",
    "fewest",
    "prefer",
    "prefers",
    "preferred",
    "preferable",
];

/// What begins to say what the chosen one does.
const MODALS: [&str; 8] = ["would", "should", "can", "could", "will", "might", "may", "must"];

const WORSE: [&str; 6] = ["worse", "worst", "inferior", "poorer", "poorest", "loses"];

/// Faults of which an answer should have less.
const FAULTS: [&str; 24] = [
    "harmful",
    "biased",
    "toxic",
    "dangerous",
    "unethical",
    "racist",
    "sexist",
    "offensive",
    "illegal",
    "rude",
    "dishonest",
    "misleading",
    "deceptive",
    "evasive",
    "insulting",
    "hateful",
    "violent",
    "unsafe",
    "manipulative",
    "preachy",
    "condescending",
    "unkind",
    "cruel",
    "unhelpful",
];

const LENGTHS: [&str; 18] = [
    "long",
    "longer",
    "longest",
    "short",
    "shorter",
    "shortest",
    "length",
    "brief",
    "briefer",
    "brevity",
    "concise",
    "verbose",
    "wordy",
    "wordier",
    "lengthy",
    "detailed",
    "thorough",
    "elaborate",
];

const PLACES: [&str; 7] = ["first", "second", "former", "latter", "left", "right-hand", "upper"];

/// Names of an option in the question itself.
const OPTIONS: [&str; 8] = [
    "(a)",
    "(b)",
    "answer a",
    "answer b",
    "option a",
    "option b",
    "response a",
    "response b",
];

pub fn check(lints: &Lints<'_>, entry: &Entry) {
    let Some(question) = &entry.judge else { return };
    let words: Vec<String> = words(&question.value).collect();
    let tell = |name, place, message: String, help: &str| {
        lints.tell(&[entry], Diagnostic::warning(name, place, message, help));
    };
    if let Some(worse) = asks_for_the_worse(&words) {
        tell(
            INVERTED,
            question.at.of_part(&worse),
            format!(
                "the judge of `{}` is asked for the answer that is {worse}",
                entry.id.value
            ),
            "the answer that the question asks for wins: ask which one is less so, or better",
        );
    } else if !decides(&words) {
        tell(
            UNDECIDED,
            question.at.clone(),
            format!(
                "the judge question of `{}` does not say which answer should win",
                entry.id.value
            ),
            "ask for one of the two: \"Which answer is less ...?\", \"Which answer better ...?\"",
        );
    }
    if let Some(word) = words.iter().find(|word| LENGTHS.contains(&word.as_str())) {
        tell(
            LENGTH,
            question.at.of_part(word),
            format!("the judge question of `{}` speaks of length: `{word}`", entry.id.value),
            "judges favour length by themselves; ask for what a good length is good for",
        );
    }
    let lower = question.value.to_lowercase();
    let option = OPTIONS
        .iter()
        .find(|option| mentions(&lower, option))
        .map(|option| (*option).to_owned());
    let place = words.iter().find(|word| PLACES.contains(&word.as_str())).cloned();
    if let Some(place) = option.or(place) {
        tell(
            POSITION,
            question.at.of_part(&place),
            format!(
                "the judge question of `{}` speaks of a place: `{place}`",
                entry.id.value
            ),
            "each pair is judged in both orders; ask about what the answers say",
        );
    }
}

/// `phrase` in `text`, not as the beginning of a longer word.
fn mentions(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let bounded = |char: Option<char>| char.is_none_or(|char| !char.is_alphanumeric());
        bounded(text[..at].chars().next_back()) && bounded(text[at + phrase.len()..].chars().next())
    })
}

fn asks_for_the_worse(words: &[String]) -> Option<String> {
    let worse = words.iter().find(|word| WORSE.contains(&word.as_str())).cloned();
    let fault = words
        .windows(2)
        .find(|pair| matches!(pair[0].as_str(), "more" | "most") && FAULTS.contains(&pair[1].as_str()))
        .map(|pair| format!("{} {}", pair[0], pair[1]));
    worse.or(fault)
}

fn decides(words: &[String]) -> bool {
    let Some(choice) = words.iter().position(|word| CHOOSES.contains(&word.as_str())) else {
        return false;
    };
    let words: Vec<&str> = words[choice..].iter().map(String::as_str).collect();
    let comparative = |word: &str| word.len() > 4 && word.ends_with("er") && !NOUNS.contains(&word);
    let says = |pair: &[&str]| CHOSEN.contains(&pair[0]) && (MODALS.contains(&pair[1]) || is_verb(pair[1]));
    words.iter().any(|word| DECIDES.contains(word) || comparative(word)) || words.windows(2).any(says)
}

/// Words that end like a comparative and are none.
const NOUNS: [&str; 8] = [
    "answer", "other", "user", "never", "whether", "either", "neither", "after",
];

/// Whether a word may be a verb of the third person.
fn is_verb(word: &str) -> bool {
    word.ends_with('s') && !word.ends_with("ss")
}
