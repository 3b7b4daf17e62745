//! What the sentences of a judge claim: "Response 1 is better", "Verdict: B", "both are equally good".
//!
//! A claim has a standing: a labelled one above a sentence, a concluding sentence above another, a remark about
//! one aspect below it. Questions, conditions, denials and concessions claim nothing.

use super::{Pick, Sentence, Token};

/// Something claimed, and how much it counts against other claims.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Claim<T> {
    pub what: T,
    pub standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// "A is better in style"
    Aspect,
    /// "A is better"
    Statement,
    /// "Overall, A is better", "I prefer A"
    Conclusion,
    /// "Answer: A"
    Labelled,
    /// "Verdict: A", "Final answer: A"
    Final,
    /// "Overall winner: A", "Wait, B is better"
    Decisive,
}

/// What the things under comparison are called.
pub const NOUNS: [&str; 13] = [
    "option",
    "answer",
    "response",
    "assistant",
    "output",
    "model",
    "candidate",
    "reply",
    "completion",
    "text",
    "summary",
    "choice",
    "version",
];

const LABELS: [&str; 14] = [
    "answer",
    "choice",
    "better",
    "best",
    "preferred",
    "preference",
    "selection",
    "selected",
    "pick",
    "vote",
    "result",
    "output",
    "response",
    "conclusion",
];
const FINAL_LABELS: [&str; 5] = ["verdict", "winner", "decision", "judgment", "judgement"];

const COPULAS: [&str; 12] = [
    "is", "was", "seems", "appears", "looks", "remains", "would", "be", "as", "provides", "gives", "offers",
];
const BETTER: [&str; 8] = [
    "better",
    "best",
    "superior",
    "preferable",
    "preferred",
    "stronger",
    "strongest",
    "winner",
];
const WORSE: [&str; 5] = ["worse", "worst", "inferior", "weaker", "weakest"];
const WINS: [&str; 4] = ["wins", "win", "won", "prevails"];
const CHOOSE: [&str; 16] = [
    "choose",
    "pick",
    "prefer",
    "select",
    "favor",
    "favour",
    "recommend",
    "chose",
    "picked",
    "preferred",
    "selected",
    "choosing",
    "picking",
    "favors",
    "favours",
    "prefers",
];
/// "I go with A", "I vote for A": what stands before the option.
const CHOOSE_PHRASES: [[&str; 2]; 8] = [
    ["go", "with"],
    ["going", "with"],
    ["vote", "for"],
    ["opt", "for"],
    ["side", "with"],
    ["lean", "toward"],
    ["lean", "towards"],
    ["goes", "to"],
];
pub const CONCLUDING: [&str; 20] = [
    "overall",
    "therefore",
    "thus",
    "hence",
    "consequently",
    "conclusion",
    "finally",
    "final",
    "summary",
    "ultimately",
    "altogether",
    "however",
    "but",
    "instead",
    "rather",
    "all",
    "considered",
    "balance",
    "clearly",
    "so",
];
/// What takes back what was said before.
pub const RETRACTING: [&str; 5] = ["wait", "actually", "correction", "reconsider", "reconsidering"];
const DENYING: [&str; 27] = [
    "not",
    "never",
    "cannot",
    "neither",
    "nor",
    "unable",
    "whether",
    "if",
    "unless",
    "which",
    "decline",
    "refuse",
    "hard",
    "difficult",
    "impossible",
    "can't",
    "don't",
    "doesn't",
    "isn't",
    "won't",
    "wouldn't",
    "couldn't",
    "didn't",
    "wasn't",
    "shouldn't",
    "no",
    "without",
];
const CONCEDING: [&str; 6] = ["while", "although", "though", "despite", "whereas", "even"];
/// What begins a clause with a new point.
const TURNING: [&str; 3] = ["but", "however", "yet"];
const ASPECT: [&str; 7] = ["in", "at", "on", "for", "regarding", "written", "structured"];
const EQUALLY: [&str; 17] = [
    "good",
    "bad",
    "helpful",
    "unhelpful",
    "harmful",
    "harmless",
    "well",
    "valid",
    "strong",
    "weak",
    "poor",
    "safe",
    "acceptable",
    "matched",
    "useful",
    "accurate",
    "effective",
];

/// What a sentence claims about two options.
pub fn of_sentence(sentence: &Sentence, last: bool) -> Vec<Claim<Pick>> {
    if sentence.question {
        return Vec::new();
    }
    let tokens = &sentence.tokens;
    if let Some(claim) = alone(tokens, last) {
        return vec![claim];
    }
    let mut claims: Vec<Claim<Pick>> = clauses(tokens).into_iter().flat_map(of_clause).collect();
    let retracts = tokens.iter().any(|token| token.any(&RETRACTING));
    // What stands after a turn in a sentence is meant, what stands before it is conceded.
    if let Some(turn) = tokens
        .iter()
        .position(|token| token.any(&TURNING))
        .filter(|turn| *turn > 0)
    {
        let after: Vec<_> = clauses(&tokens[turn..]).into_iter().flat_map(of_clause).collect();
        if !after.is_empty() {
            claims = after;
        }
    }
    let concluding = tokens.iter().any(|token| token.any(&CONCLUDING));
    for claim in &mut claims {
        claim.standing = match claim.standing {
            _ if retracts => Standing::Decisive,
            Standing::Aspect | Standing::Statement if concluding => Standing::Conclusion,
            Standing::Labelled if concluding => Standing::Final,
            Standing::Final if concluding => Standing::Decisive,
            standing => standing,
        };
    }
    claims
}

/// A sentence that is an option and nothing else: `(B)`, `B`, `Response 2`, `Tie`.
fn alone(tokens: &[Token], last: bool) -> Option<Claim<Pick>> {
    let tie = |tokens: &[Token]| match tokens {
        [word] => word.any(&["tie", "draw", "equal", "tied"]),
        [a, word] => a.is("a") && word.any(&["tie", "draw"]),
        _ => false,
    };
    if tie(tokens) {
        return Some(Claim {
            what: Pick::Tie,
            standing: Standing::Labelled,
        });
    }
    let (what, end) = option_at(tokens, 0)?;
    // A heading (`Answer A`) has a noun too: it counts at the end only.
    let heading = tokens.first().is_some_and(|token| token.any(&NOUNS));
    match tokens.get(end) {
        None if last => Some(Standing::Labelled),
        None => Some(if heading { Standing::Aspect } else { Standing::Labelled }),
        Some(next) if next.any(&["because", "since", "due"]) => Some(Standing::Labelled),
        Some(next) if next.mark(&[',', '—', '–', '-']) && !heading => Some(Standing::Labelled),
        Some(_) => None,
    }
    .map(|standing| Claim { what, standing })
}

/// The parts of a sentence that claim on their own. A concession ends at its comma and claims nothing.
fn clauses(tokens: &[Token]) -> Vec<&[Token]> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut index = 0;
    while index < tokens.len() {
        let token = &tokens[index];
        if token.any(&CONCEDING) && !tokens.get(index + 1).is_some_and(|next| next.is("more")) {
            out.push(&tokens[start..index]);
            let comma = tokens[index..].iter().position(|token| token.mark(&[',']));
            index = comma.map_or(tokens.len(), |comma| index + comma + 1);
            start = index;
            continue;
        }
        if token.any(&TURNING) {
            out.push(&tokens[start..index]);
            start = index + 1;
        }
        index += 1;
    }
    out.push(&tokens[start.min(tokens.len())..]);
    out
}

fn of_clause(tokens: &[Token]) -> Vec<Claim<Pick>> {
    let mut claims = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        match claim_at(tokens, index) {
            Some((claim, end)) => {
                if !denied(&tokens[..index]) {
                    claims.push(claim);
                }
                index = end.max(index + 1);
            }
            None => index += 1,
        }
    }
    claims
}

/// Whether words before a claim deny it. "If I had to choose" does not.
fn denied(before: &[Token]) -> bool {
    before.iter().enumerate().any(|(index, token)| {
        let forced = token.is("if")
            && before
                .get(index + 1)
                .is_some_and(|next| next.any(&["i", "forced", "pressed", "anything", "one"]));
        token.any(&DENYING) && !forced
    })
}

/// A claim that begins at `at`, and where it ends.
fn claim_at(tokens: &[Token], at: usize) -> Option<(Claim<Pick>, usize)> {
    labelled(tokens, at)
        .or_else(|| compared(tokens, at))
        .or_else(|| chosen(tokens, at))
        .or_else(|| equal(tokens, at))
}

/// "Final answer: B", "the better response is (A)", "winner = Assistant B", "verdict: tie".
fn labelled(tokens: &[Token], at: usize) -> Option<(Claim<Pick>, usize)> {
    let label = tokens[at].word()?;
    let (known, strong) = (LABELS.contains(&label), FINAL_LABELS.contains(&label));
    if !known && !strong {
        return None;
    }
    // "(A)" after "answer" names the answer; it is no verdict.
    let mut next = at + 1;
    let noun = |token: &Token| token.any(&NOUNS) || token.any(&["one", "of", "the", "two"]);
    while next < tokens.len() && next < at + 5 && noun(&tokens[next]) && option_at(tokens, next).is_none() {
        next += 1;
    }
    let bare = ["output", "response"].contains(&label);
    let joined = tokens.get(next)?;
    let says = joined.mark(&[':', '=', '—', '–', '-', '>']) || (!bare && joined.any(&["is", "goes", "would", "was"]));
    if !says {
        return None;
    }
    next += 1;
    let filler =
        |token: &Token| token.mark(&[':', '=', '>', '-']) || token.any(&["be", "to", "that", "is", "the", "clearly"]);
    while next < tokens.len() && filler(&tokens[next]) {
        next += 1;
    }
    let standing = if strong { Standing::Final } else { Standing::Labelled };
    let after_article = match tokens.get(next) {
        Some(token) if token.is("a") => next + 1,
        _ => next,
    };
    if tokens
        .get(after_article)
        .is_some_and(|token| token.any(&["tie", "tied", "draw", "equal", "neither", "both"]))
    {
        let what = Pick::Tie;
        return Some((Claim { what, standing }, after_article + 1));
    }
    let (what, end) = option_at(tokens, next)?;
    let explicit = end > next + 1;
    if !explicit && tokens.get(end).is_some_and(|token| !closes(token)) {
        return None;
    }
    // "A and B", "A or B": two options are none.
    if let Some((other, after)) = also(tokens, end) {
        return (other == what).then_some((Claim { what, standing }, after));
    }
    // "A = B" after a label is a tie, "A > B" is A, "A < B" is B.
    let (what, end) = match (tokens.get(end), option_at(tokens, end + 1)) {
        (Some(sign), Some((_, after))) if sign.mark(&['=']) => (Pick::Tie, after),
        (Some(sign), Some((_, after))) if sign.mark(&['<']) => (what.other(), after),
        _ => (what, end),
    };
    Some((Claim { what, standing }, end))
}

/// What may stand after a bare letter that is a verdict and not an article.
fn closes(token: &Token) -> bool {
    match token {
        Token::Mark(_) => true,
        Token::Word { text, .. } => [
            "because", "since", "as", "for", "and", "but", "over", "by", "with", "due", "is", "or", "wins", "better",
        ]
        .contains(&text.as_str()),
    }
}

/// Another option joined to one before `at`.
fn also(tokens: &[Token], at: usize) -> Option<(Pick, usize)> {
    let joined = tokens
        .get(at)
        .is_some_and(|token| token.any(&["or", "and"]) || token.mark(&['/', '&']));
    joined.then(|| option_at(tokens, at + 1)).flatten()
}

/// "A is better", "Output (a) wins", "B is worse than A", "A > B".
fn compared(tokens: &[Token], at: usize) -> Option<(Claim<Pick>, usize)> {
    let (subject, end) = option_at(tokens, at)?;
    if at > 0 && tokens[at - 1].any(&["and", "or", "than", "over"]) {
        return None;
    }
    let claim = |what, standing, end| Some((Claim { what, standing }, end));
    let next = tokens.get(end)?;
    if next.any(&WINS) {
        return claim(subject, Standing::Statement, end + 1);
    }
    if let (true, Some((object, after))) = (next.mark(&['>', '<']) || next.is("over"), option_at(tokens, end + 1)) {
        let what = if next.mark(&['<']) { object } else { subject };
        return (object != subject).then_some((
            Claim {
                what,
                standing: Standing::Conclusion,
            },
            after,
        ));
    }
    if !next.any(&COPULAS) {
        return None;
    }
    for index in end + 1..tokens.len().min(end + 7) {
        let token = &tokens[index];
        if token.any(&DENYING) || option_at(tokens, index).is_some() || token.mark(&[',', ':']) {
            return None;
        }
        let (better, worse) = (token.any(&BETTER), token.any(&WORSE));
        if better || worse {
            // "is less preferred", "is slightly better"
            let reversed = worse != tokens[index - 1].any(&["less", "least"]);
            let what = if reversed { subject.other() } else { subject };
            let noun = tokens
                .get(index + 1)
                .is_some_and(|token| token.any(&NOUNS) || token.is("one"));
            let follow = tokens.get(if noun { index + 2 } else { index + 1 });
            let aspect = follow.is_some_and(|token| token.any(&ASPECT)) && !overall(tokens, index);
            let standing = if aspect { Standing::Aspect } else { Standing::Statement };
            return claim(what, standing, index + 1);
        }
    }
    None
}

/// "better in every respect" is about all of it.
fn overall(tokens: &[Token], index: usize) -> bool {
    let rest = &tokens[index..tokens.len().min(index + 4)];
    rest.iter()
        .any(|token| token.any(&["every", "all", "overall", "general"]))
}

/// "I prefer Assistant B", "I would go with the first answer", "choose A over B".
fn chosen(tokens: &[Token], at: usize) -> Option<(Claim<Pick>, usize)> {
    let phrase = CHOOSE_PHRASES
        .iter()
        .any(|[one, two]| tokens[at].is(one) && tokens.get(at + 1).is_some_and(|next| next.is(two)));
    let mut next = match (tokens[at].any(&CHOOSE), phrase) {
        (true, _) => at + 1,
        (false, true) => at + 2,
        (false, false) => return None,
    };
    let filler =
        |token: &Token| token.mark(&[':']) || token.any(&["is", "the", "as", "for", "better", "best", "winner"]);
    while next < tokens.len() && next < at + 6 && filler(&tokens[next]) && option_at(tokens, next).is_none() {
        next += 1;
    }
    let (what, end) = option_at(tokens, next)?;
    if let Some((other, _)) = also(tokens, end) {
        return (other == what).then_some((
            Claim {
                what,
                standing: Standing::Conclusion,
            },
            end,
        ));
    }
    Some((
        Claim {
            what,
            standing: Standing::Conclusion,
        },
        end,
    ))
}

/// "both are equally good", "it is a tie", "there is no clear winner", "neither is better".
fn equal(tokens: &[Token], at: usize) -> Option<(Claim<Pick>, usize)> {
    let token = &tokens[at];
    let after = |count: usize| tokens.get(at + count);
    let before = at.checked_sub(1).map(|before| &tokens[before]);
    let within = |words: &[&str]| (1..6).any(|count| after(count).is_some_and(|token| token.any(words)));
    let tie = match token.word()? {
        "tie" | "draw" => before.is_some_and(|token| token.any(&["a", "is"]) || token.mark(&[':', '='])),
        "tied" => before.is_some_and(|token| token.any(&["are", "is"])),
        "equally" => after(1).is_some_and(|token| token.any(&EQUALLY)),
        "equal" | "equivalent" | "comparable" | "indistinguishable" => {
            before.is_some_and(|token| token.any(&["are", "roughly", "about", "essentially", "of"]))
        }
        "no" => {
            within(&["winner", "difference", "preference"])
                && (1..4).all(|count| after(count).is_none_or(|token| !token.any(&NOUNS)))
        }
        "neither" => {
            let is = after(1).is_some_and(|token| token.is("is") || token.is("of") || token.any(&NOUNS));
            is && within(&BETTER)
        }
        _ => false,
    };
    tie.then_some((
        Claim {
            what: Pick::Tie,
            standing: Standing::Statement,
        },
        at + 1,
    ))
}

/// An option named at `at`: `(A)`, `[b]`, a capital `A`, `Response 1`, `Output (a)`, `the first answer`.
fn option_at(tokens: &[Token], at: usize) -> Option<(Pick, usize)> {
    let the = usize::from(tokens.get(at).is_some_and(|token| token.is("the")));
    let first = tokens.get(at + the)?;
    if first.any(&["first", "second"]) {
        let noun = tokens.get(at + the + 1)?;
        let pick = if first.is("first") { Pick::A } else { Pick::B };
        return (noun.any(&NOUNS) || noun.is("one")).then_some((pick, at + the + 2));
    }
    if let Some(found) = letter_at(tokens, at) {
        return Some(found);
    }
    if !first.any(&NOUNS) {
        return None;
    }
    letter_at(tokens, at + the + 1).or_else(|| {
        let number = tokens.get(at + the + 1)?;
        let pick = match number.word()? {
            "1" | "one" => Pick::A,
            "2" | "two" => Pick::B,
            _ => return None,
        };
        Some((pick, at + the + 2))
    })
}

/// A letter in brackets, or a bare capital.
fn letter_at(tokens: &[Token], at: usize) -> Option<(Pick, usize)> {
    let pick = |token: &Token| match token.word()? {
        "a" => Some(Pick::A),
        "b" => Some(Pick::B),
        "c" => Some(Pick::Tie),
        _ => None,
    };
    let first = tokens.get(at)?;
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}')] {
        if first.mark(&[open]) {
            let pick = pick(tokens.get(at + 1)?)?;
            // At the very end the bracket may be open: the judge continued `The answer is: (`.
            return match tokens.get(at + 2) {
                None => Some((pick, at + 2)),
                Some(token) => token.mark(&[close]).then_some((pick, at + 3)),
            };
        }
    }
    match first {
        Token::Word { capital: true, .. } => {
            let closed = tokens.get(at + 1).is_some_and(|token| token.mark(&[')']));
            pick(first).map(|pick| (pick, at + 1 + usize::from(closed)))
        }
        _ => None,
    }
}
