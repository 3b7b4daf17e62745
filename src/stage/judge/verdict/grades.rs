//! Ratings and rankings in a judge's own words: "I would give it a 4", "Ranking: B > A > C", a numbered list.

use super::claims::{CONCLUDING, Claim, RETRACTING, Standing};
use super::{Found, Token, fixed, highest, sentences};

const RATED: [&str; 12] = [
    "rating", "score", "grade", "rate", "rated", "give", "gives", "deserves", "assign", "scored", "scores", "rank",
];

/// The rating that sentences claim; `None` inside is a claim that cannot be used, as `8/10` is.
pub fn rating(text: &str, best: usize) -> Found<Option<usize>> {
    if let Some(rating) = fixed::rating(&text.to_lowercase(), best) {
        return Found::One(Some(rating));
    }
    let claims: Vec<Claim<Option<usize>>> = sentences(text)
        .iter()
        .filter(|sentence| !sentence.question)
        .flat_map(|sentence| rated(&sentence.tokens, best))
        .collect();
    highest(&claims)
}

fn rated(tokens: &[Token], best: usize) -> Vec<Claim<Option<usize>>> {
    let number = |token: Option<&Token>| token.and_then(Token::word).and_then(|word| word.parse::<f64>().ok());
    let mut claims = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let Some(value) = number(tokens.get(index)) else {
            index += 1;
            continue;
        };
        // "1 to 5", "3-4": from the first number to the last.
        let to = tokens
            .get(index + 1)
            .is_some_and(|token| token.any(&["to", "and", "or"]) || token.mark(&['-', '–']));
        if let (true, Some(end)) = (to, number(tokens.get(index + 2))) {
            if !(value <= 1.0 && end == best as f64) && says_rating(tokens, index) {
                claims.push(claim(None, tokens, index));
            }
            index += 3;
            continue;
        }
        let slash = tokens.get(index + 1).is_some_and(|token| token.mark(&['/']));
        let out_of = tokens.get(index + 1).is_some_and(|token| token.is("out"))
            && tokens.get(index + 2).is_some_and(|token| token.is("of"));
        let scale = match (slash, out_of) {
            (true, _) => number(tokens.get(index + 2)).map(|scale| (scale, 3)),
            (_, true) => number(tokens.get(index + 3)).map(|scale| (scale, 4)),
            _ => None,
        };
        let usable =
            |value: f64| (value.fract() == 0.0 && value >= 1.0 && value <= best as f64).then_some(value as usize);
        match scale {
            Some((scale, length)) => {
                let what = usable(value).filter(|_| scale == best as f64);
                claims.push(claim(what, tokens, index));
                index += length;
            }
            None => {
                let stars = tokens
                    .get(index + 1)
                    .is_some_and(|token| token.any(&["stars", "points", "star"]));
                if stars || says_rating(tokens, index) {
                    claims.push(claim(usable(value), tokens, index));
                }
                index += 1;
            }
        }
    }
    claims
}

/// Whether a number stands a few words after a word for ratings, and not for the scale.
fn says_rating(tokens: &[Token], at: usize) -> bool {
    let before = &tokens[at.saturating_sub(6)..at];
    let label = before.iter().rposition(|token| token.any(&RATED));
    let Some(label) = label else { return false };
    let between = &before[label + 1..];
    !before.iter().any(|token| token.is("scale"))
        && between.iter().all(|token| match token {
            Token::Mark(mark) => [':', '=', '(', '[', '-', '—'].contains(mark),
            Token::Word { text, .. } => [
                "is", "a", "an", "of", "it", "this", "the", "answer", "response", "would", "be", "as", "at", "i",
                "with",
            ]
            .contains(&text.as_str()),
        })
}

fn claim(what: Option<usize>, tokens: &[Token], at: usize) -> Claim<Option<usize>> {
    let concluding = tokens[..at]
        .iter()
        .any(|token| token.any(&CONCLUDING) || token.any(&RETRACTING));
    let label = tokens[..at]
        .iter()
        .any(|token| token.any(&["rating", "score", "grade"]));
    Claim {
        what,
        standing: match (concluding, label) {
            (true, _) => Standing::Final,
            (false, true) => Standing::Labelled,
            (false, false) => Standing::Statement,
        },
    }
}

/// The ranking that a line claims, a labelled one before others, or a numbered list.
pub fn ranking(text: &str, count: usize) -> Found<Vec<usize>> {
    let clean = |text: &str| text.replace(['*', '_', '`', '#', '"'], "");
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let line = clean(line);
        let lower = line.to_lowercase();
        let labelled = ["ranking", "order", "verdict", "answer"]
            .iter()
            .any(|label| lower.contains(label));
        // After the label, if there is one; a full stop ends the chain.
        let tail = line.rsplit_once(':').map_or(line.as_str(), |(_, tail)| tail);
        let tail = tail
            .rsplit_once(" is ")
            .map_or(tail, |(_, tail)| tail)
            .trim()
            .trim_end_matches('.');
        if let Some(ranks) = fixed::ranking(tail, count) {
            if labelled {
                named.push(ranks);
            } else {
                others.push(ranks);
            }
        }
    }
    let agreed = |claims: &[Vec<usize>]| match claims.split_first() {
        None => Found::Nothing,
        Some((first, rest)) if rest.iter().all(|other| other == first) => Found::One(first.clone()),
        Some(_) => Found::Unclear,
    };
    agreed(&named)
        .or(|| agreed(&others))
        .or(|| numbered(&clean(text), count))
}

/// `1. (B)`, `2. (A)`: lines that number all options.
fn numbered(text: &str, count: usize) -> Found<Vec<usize>> {
    let mut chain = Vec::new();
    for line in text.lines().map(str::trim) {
        let digits = line.chars().take_while(char::is_ascii_digit).count();
        let Some(rest) = line[digits..].strip_prefix(['.', ')', ':']).filter(|_| digits > 0) else {
            continue;
        };
        let name = rest.split([':', ',', '—', '–']).next().unwrap_or_default();
        let name = name.split(" - ").next().unwrap_or_default();
        if line[..digits].parse() == Ok(chain.len() + 1) && fixed::option_index(name).is_some() {
            chain.push(name.to_owned());
        } else {
            return Found::Nothing;
        }
    }
    match fixed::ranking(&chain.join(">"), count) {
        Some(ranks) if !chain.is_empty() => Found::One(ranks),
        _ => Found::Nothing,
    }
}
