//! The judge in each of its forms, over an engine that answers from functions of the texts it is shown.

use std::collections::BTreeSet;
use std::sync::Mutex;

use bylaw::constitution::Constitution;
use bylaw::engine::{Engine, GenerateRequest, Generation, ModelIdentity, Refusal, Sampling, ScoreRequest};
use bylaw::error::Result;
use bylaw::prompt::{Request, Style, Templates};
use bylaw::record::{Candidates, Completion, FinishReason, Message, Preference, Vote};
use bylaw::seed::Seed;
use bylaw::stage::judge::label::recounted;
use bylaw::stage::judge::{Clamp, Contest, Form, Group, JudgeConfig, Reading, contests, judge_groups};
use bylaw::stage::{Context, Outcome};
use proptest::prelude::*;
use rand::Rng as _;

// ---------------------------------------------------------------- what the tests share

/// Principles `p0` to `p3`.
fn constitution() -> Constitution {
    let mut text = "name = \"test\"\nversion = \"1\"\n".to_owned();
    for index in 0..4 {
        text.push_str(&format!(
            "[[principle]]\nid = \"p{index}\"\njudge = \"Which is better by {index}?\"\nweight = {}.0\n",
            index + 1
        ));
    }
    Constitution::parse(&text, "test.toml").unwrap()
}

type Reply = Result<(String, FinishReason), Refusal>;

/// `reply(prompt, draw)` and `score(prompt, continuation)`; `draw` is a number from the request's seed.
struct Scripted<G, S> {
    reply: G,
    score: S,
    asked: Mutex<Vec<String>>,
}

impl<G, S> Scripted<G, S> {
    fn new(reply: G, score: S) -> Self {
        Self {
            reply,
            score,
            asked: Mutex::new(Vec::new()),
        }
    }
}

fn text(request: &Request) -> String {
    match request {
        Request::Text(text) => text.clone(),
        Request::Chat { messages, prefix } => {
            let turns: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
            format!("{}\n\n{prefix}", turns.join("\n\n"))
        }
    }
}

impl<G, S> Engine for Scripted<G, S>
where
    G: Fn(&str, u64) -> Reply + Sync,
    S: Fn(&str, &str) -> f32 + Sync,
{
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Result<Generation, Refusal>>> {
        Ok(requests
            .iter()
            .map(|request| {
                let prompt = text(&request.prompt);
                self.asked.lock().unwrap().push(prompt.clone());
                (self.reply)(&prompt, request.seed.rng().random()).map(|(text, finish_reason)| Generation {
                    text,
                    tokens: 1,
                    prompt_tokens: 1,
                    logprob: 0.0,
                    finish_reason,
                })
            })
            .collect())
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Result<Vec<f32>, Refusal>>> {
        Ok(requests
            .iter()
            .map(|request| {
                let prompt = text(&request.prompt);
                self.asked.lock().unwrap().push(prompt.clone());
                Ok(request
                    .continuations
                    .iter()
                    .map(|continuation| (self.score)(&prompt, continuation))
                    .collect())
            })
            .collect())
    }

    fn count_tokens(&self, text: &str) -> Result<u32> {
        Ok(text.split_whitespace().count() as u32)
    }

    fn style(&self) -> Style {
        Style::Transcript
    }

    fn identity(&self) -> ModelIdentity {
        ModelIdentity {
            reference: "scripted".into(),
            sha256: String::new(),
        }
    }
}

fn said(text: impl Into<String>) -> Reply {
    Ok((text.into(), FinishReason::Stop))
}

fn silent(_: &str, _: u64) -> Reply {
    panic!("nothing is to be written")
}

fn unscored(_: &str, _: &str) -> f32 {
    panic!("nothing is to be scored")
}

fn row(texts: &[&str]) -> Candidates {
    Candidates {
        id: "row".into(),
        prompt: vec![Message::user("question?")],
        completions: texts
            .iter()
            .zip(0..)
            .map(|(text, sample)| Completion {
                text: (*text).to_owned(),
                tokens: 3,
                finish_reason: "stop".into(),
                logprob: 0.0,
                sample,
            })
            .collect(),
    }
}

/// The labels of all pairs of the answers.
fn labels(engine: &dyn Engine, style: Style, texts: &[&str], config: &JudgeConfig) -> Vec<Outcome<Preference>> {
    let contests: Vec<Contest> = contests(&row(texts), false).into_iter().map(Result::unwrap).collect();
    let templates = Templates::new(style);
    let context = Context {
        engine,
        templates: &templates,
        seed: Seed::new(7),
        keep_truncated: false,
    };
    let group = Group {
        id: "row",
        contests: &contests,
    };
    let labels = judge_groups(context, &constitution(), &[group], config).unwrap();
    assert_eq!(labels.len(), contests.len());
    for (label, contest) in labels.iter().zip(&contests) {
        let id = match label {
            Ok(label) => &label.id,
            Err(reject) => &reject.id,
        };
        assert_eq!(id, &contest.id, "a label out of its place");
    }
    labels
}

/// The label of two answers in a transcript.
fn label(engine: &dyn Engine, texts: [&str; 2], config: &JudgeConfig) -> Outcome<Preference> {
    labels(engine, Style::Transcript, &texts, config).remove(0)
}

/// The text at an option of a prompt.
fn at(prompt: &str, letter: char) -> &str {
    let rest = prompt.split(&format!("\n({letter}) ")).nth(1).unwrap();
    rest.split('\n').next().unwrap()
}

fn chosen(row: &Preference) -> &str {
    &row.chosen[0].content
}

fn near(found: f32, expected: f32) {
    assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// A number of a text that no other text has.
fn quality(text: &str) -> f32 {
    Seed::new(1).child(text).rng().random_range(-3.0..3.0f32)
}

fn config() -> JudgeConfig {
    JudgeConfig::default()
}

fn reasoned(clamp: Clamp) -> JudgeConfig {
    JudgeConfig {
        reasoning: true,
        clamp,
        ..config()
    }
}

// ---------------------------------------------------------------- a reasoning

/// Scores by what the reasoning says of the option: only after its own reasoning does an option win.
fn by_reasoning(prompt: &str, continuation: &str) -> f32 {
    let reasoning = prompt.split("\nReasoning: ").nth(1).unwrap();
    let reasoning = reasoning.strip_suffix(" The answer is: (").unwrap();
    assert_eq!(reasoning, format!("I like {}", at(prompt, 'A').min(at(prompt, 'B'))));
    let liked = reasoning.strip_prefix("I like ").unwrap();
    if at(prompt, continuation.chars().next().unwrap()) == liked {
        -0.1
    } else {
        -4.1
    }
}

fn likes_the_first_word(prompt: &str, _: u64) -> Reply {
    assert!(prompt.ends_with("\n\nReasoning:"), "{prompt:?}");
    said(format!("I like {}", at(prompt, 'A').min(at(prompt, 'B'))))
}

/// Catches: options scored without the reasoning or after another one's, a probability that is not clamped, a
/// clamp of the log-probabilities themselves, a reasoning that is lost.
#[test]
fn a_choice_after_a_reasoning_is_clamped() {
    let engine = Scripted::new(likes_the_first_word, by_reasoning);
    let row = label(&engine, ["zebra", "apple"], &reasoned(Clamp::PAPER)).unwrap();
    assert_eq!(chosen(&row), "apple");
    near(row.margin, 1.5f32.ln());
    near(row.p_chosen, 0.6);
    assert_eq!(row.votes.len(), 2);
    for vote in &row.votes {
        assert_eq!(vote.prefers_chosen(), Some(true));
        assert!(vote.p_a == 0.6 || vote.p_a == 0.4, "{}", vote.p_a);
        near((vote.logprob_a - vote.logprob_b).abs(), 4.0);
        assert_eq!(vote.cot.as_deref(), Some("I like apple"));
        near(vote.log_odds_chosen().unwrap(), row.margin);
    }
    let free = label(&engine, ["zebra", "apple"], &reasoned(Clamp::NONE)).unwrap();
    near(free.margin, 4.0);
    let wide = Clamp { low: 0.1, high: 0.9 };
    near(
        label(&engine, ["zebra", "apple"], &reasoned(wide)).unwrap().margin,
        9f32.ln(),
    );
}

/// Catches: a reasoning without its end taken for one, one order that decides alone, words that are lost.
#[test]
fn a_cut_reasoning_counts_for_nothing() {
    let cut_at = |cut: &'static str| {
        move |prompt: &str, draw: u64| match at(prompt, 'A') == cut {
            true => Ok(("I was cut".into(), FinishReason::Length)),
            false => likes_the_first_word(prompt, draw),
        }
    };
    let engine = Scripted::new(cut_at("zebra"), by_reasoning);
    let reject = label(&engine, ["zebra", "apple"], &reasoned(Clamp::PAPER)).unwrap_err();
    assert!(
        reject.reason.contains("no question has a whole reasoning"),
        "{}",
        reject.reason
    );
    assert!(
        reject.raw.contains("I was cut") && reject.raw.contains("I like apple"),
        "{}",
        reject.raw
    );
    // With several principles those that are whole decide.
    let by_principle = |prompt: &str, draw: u64| match prompt.contains("by 2?") {
        true => cut_at("zebra")(prompt, draw),
        false => likes_the_first_word(prompt, draw),
    };
    let engine = Scripted::new(by_principle, by_reasoning);
    let all = JudgeConfig {
        principles_per_pair: 4,
        ..reasoned(Clamp::NONE)
    };
    let row = label(&engine, ["zebra", "apple"], &all).unwrap();
    near(row.margin, 4.0);
    assert_eq!(row.votes.len(), 8);
    let unread: Vec<_> = row.votes.iter().filter(|vote| vote.verdict == "unparsed").collect();
    assert_eq!(unread.len(), 1);
    assert_eq!((unread[0].p_a, unread[0].log_odds_chosen()), (0.5, None));
    let refused = Scripted::new(|_: &str, _| Err(Refusal("no room".into())), by_reasoning);
    assert_eq!(
        label(&refused, ["a", "b"], &reasoned(Clamp::PAPER)).unwrap_err().reason,
        "no room"
    );
}

/// Catches: all principles asked as if they weighed the same.
#[test]
fn all_principles_are_asked_by_weight() {
    let score = |prompt: &str, continuation: &str| {
        let strength: f32 = prompt.split("better by ").nth(1).unwrap()[..1].parse().unwrap();
        let letter = continuation.chars().next().unwrap();
        if at(prompt, letter) == "good" { strength } else { 0.0 }
    };
    let all = JudgeConfig {
        principles_per_pair: usize::MAX,
        ..config()
    };
    let row = label(&Scripted::new(silent, score), ["good", "bad"], &all).unwrap();
    // Weights 1 to 4, strengths 0 to 3.
    near(row.margin, (2.0 + 3.0 * 2.0 + 4.0 * 3.0) / 10.0);
    assert_eq!(row.votes.len(), 8);
}

// ---------------------------------------------------------------- words

fn words(votes: usize) -> JudgeConfig {
    JudgeConfig {
        reading: Reading::Text,
        votes,
        ..config()
    }
}

/// Catches: shares over unread votes, votes of one order only, votes that are left out, a tie read as a side.
#[test]
fn verdicts_in_words_are_counted() {
    // The good answer at (A): A, A, something unreadable. At (B): B, a tie, A.
    let replies = Mutex::new([0usize; 2]);
    let reply = |prompt: &str, _: u64| {
        let good_at_a = at(prompt, 'A') == "good";
        let mut counts = replies.lock().unwrap();
        let count = &mut counts[usize::from(good_at_a)];
        *count += 1;
        said(match (good_at_a, *count) {
            (true, 1 | 2) => "It is kinder.\n\n[[A]]",
            (true, _) => "I'm sorry, I can't compare these.",
            (false, 1) => "[[B]]",
            (false, 2) => "[[C]]",
            (false, _) => "[[A]]",
        })
    };
    let engine = Scripted::new(reply, unscored);
    let row = labels(&engine, Style::Chat, &["bad", "good"], &words(3))
        .remove(0)
        .unwrap();
    assert_eq!(chosen(&row), "good");
    // First order 2 of 2, second 1.5 of 3, each with half a vote for both sides.
    near(row.margin, ((2.5f32 / 0.5).ln() + (2.0f32 / 2.0).ln()) / 2.0);
    assert_eq!(row.votes.len(), 6);
    let count = |verdict: &str| row.votes.iter().filter(|vote| vote.verdict == verdict).count();
    assert_eq!(["a", "b", "tie", "unparsed"].map(count), [3, 1, 1, 1]);
    for vote in &row.votes {
        assert!(vote.cot.is_some());
        assert_eq!((vote.logprob_a, vote.logprob_b), (0.0, 0.0));
        let p_a = match vote.verdict.as_str() {
            "a" => 0.75,
            "b" => 0.25,
            _ => 0.5,
        };
        assert_eq!(vote.p_a, p_a);
    }
}

/// Catches: a label from one order; texts that are lost; a tie where none was offered.
#[test]
fn words_that_say_nothing_are_a_reject() {
    let one_order = |prompt: &str, _: u64| {
        said(if at(prompt, 'A') == "good" {
            "[[A]]"
        } else {
            "No comment."
        })
    };
    let engine = Scripted::new(one_order, unscored);
    let reject = labels(&engine, Style::Chat, &["bad", "good"], &words(2))
        .remove(0)
        .unwrap_err();
    assert!(
        reject.reason.contains("no verdict can be read in one of the orders"),
        "{}",
        reject.reason
    );
    assert!(reject.raw.contains("No comment.") && reject.raw.contains("[[A]]"));
    let ties = Scripted::new(|_: &str, _| said("Both are equally good."), unscored);
    let tie = labels(&ties, Style::Chat, &["bad", "good"], &words(2))
        .remove(0)
        .unwrap_err();
    assert!(tie.reason.contains("tie") && tie.raw.contains("equally"), "{tie:?}");
    let unoffered = labels(&ties, Style::Transcript, &["bad", "good"], &words(2))
        .remove(0)
        .unwrap_err();
    assert!(unoffered.reason.contains("no verdict"), "{unoffered:?}");
    let cut = Scripted::new(|_: &str, _| Ok(("[[A]]".into(), FinishReason::Length)), unscored);
    assert!(
        labels(&cut, Style::Chat, &["bad", "good"], &words(1))
            .remove(0)
            .is_err()
    );
}

// ---------------------------------------------------------------- ratings

fn ratings(reading: Reading) -> JudgeConfig {
    JudgeConfig {
        form: Form::Rating,
        reading,
        votes: 2,
        ..config()
    }
}

fn answer(prompt: &str) -> &str {
    let rest = prompt.split("\nAnswer: ").nth(1).unwrap();
    rest.split("\n\n").next().unwrap()
}

/// Catches: answers rated once a pair instead of once, a pair's probability from expected ratings, votes of
/// another order than the chosen answer's.
#[test]
fn a_rating_is_of_one_answer_alone() {
    let score = |prompt: &str, digit: &str| {
        assert!(prompt.ends_with("The rating is: ("), "{prompt:?}");
        // Sure of 2 for "two" and so on; "even" is 2 or 4.
        let likely: &[&str] = match answer(prompt) {
            "two" => &["2"],
            "three" => &["3"],
            "even" => &["2", "4"],
            other => panic!("{other:?} is rated"),
        };
        if likely.contains(&digit) { -1.0 } else { -60.0 }
    };
    let engine = Scripted::new(silent, score);
    let rows = labels(
        &engine,
        Style::Transcript,
        &["three", "two", "even"],
        &ratings(Reading::Logprobs),
    );
    assert_eq!(engine.asked.lock().unwrap().len(), 3);
    assert_eq!(chosen(rows[0].as_ref().unwrap()), "three");
    assert!(rows[0].as_ref().unwrap().p_chosen > 0.999);
    // Half above, half below: a tie.
    assert!(rows[1].as_ref().unwrap_err().reason.contains("tie"));
    // P(2 or 4 above 2) = 1/2, equal 1/2: 3/4.
    let even = rows[2].as_ref().unwrap();
    assert_eq!(chosen(even), "even");
    near(even.p_chosen, 0.75);
    assert_eq!(even.votes.len(), 1);
    let vote = &even.votes[0];
    assert_eq!((vote.order.as_str(), vote.verdict.as_str()), ("chosen_first", "a"));
    assert_eq!(vote.cot.as_deref(), Some("Expected ratings: (A) 3.000, (B) 2.000."));
    near(vote.p_a, 0.75);
    near(sigmoid(vote.logprob_a - vote.logprob_b), 0.75);
}

/// Catches: half counts left out, unread ratings counted, texts that are lost.
#[test]
fn ratings_in_words_are_counted() {
    let reply = |prompt: &str, draw: u64| {
        said(match answer(prompt) {
            "good" => "Clear.\n\n[[5]]".to_owned(),
            "bad" => "[[1]]".to_owned(),
            _ => format!("No rating {draw}."),
        })
    };
    let engine = Scripted::new(reply, unscored);
    let rows = labels(&engine, Style::Chat, &["bad", "good", "odd"], &ratings(Reading::Text));
    let row = rows[0].as_ref().unwrap();
    assert_eq!(chosen(row), "good");
    // Of two ratings with half a count each: 2.5/4.5 and four times 0.5/4.5.
    let (most, rest) = (2.5f32 / 4.5, 0.5f32 / 4.5);
    let above = most * most + 6.0 * most * rest + 3.0 * rest * rest;
    let equal = 2.0 * most * rest + 3.0 * rest * rest;
    near(row.p_chosen, above + equal / 2.0);
    let cot = row.votes[0].cot.as_deref().unwrap();
    assert!(
        cot.contains("Clear.") && cot.contains("[[1]]") && cot.starts_with("Expected ratings:"),
        "{cot}"
    );
    for odd in [&rows[1], &rows[2]] {
        let reject = odd.as_ref().unwrap_err();
        assert!(
            reject.reason.contains("no rating") && reject.raw.contains("No rating"),
            "{reject:?}"
        );
    }
}

// ---------------------------------------------------------------- lists

fn lists(reading: Reading) -> JudgeConfig {
    JudgeConfig {
        form: Form::List,
        reading,
        votes: 2,
        ..config()
    }
}

/// What an option's letter is worth: its text, and its place.
fn by_place(prompt: &str, letter: &str) -> f32 {
    let place = letter.as_bytes()[0] - b'A';
    quality(at(prompt, char::from(letter.as_bytes()[0]))) - 0.7 * f32::from(place) - 5.0
}

/// Catches: a place that is left out or taken twice, a liking for a place that stays, labels that are not
/// transitive, votes with the options the wrong way round.
#[test]
fn a_list_is_asked_in_every_rotation() {
    let texts = ["one", "two", "three", "four"];
    let engine = Scripted::new(silent, by_place);
    let rows = labels(&engine, Style::Transcript, &texts, &lists(Reading::Logprobs));
    let asked = engine.asked.lock().unwrap();
    assert_eq!(asked.len(), 4);
    for letter in ['A', 'B', 'C', 'D'] {
        let stood: BTreeSet<&str> = asked.iter().map(|prompt| at(prompt, letter)).collect();
        assert_eq!(stood.len(), 4, "an answer stands in every place once");
    }
    for row in &rows {
        let row = row.as_ref().unwrap();
        near(row.margin, quality(chosen(row)) - quality(&row.rejected[0].content));
        assert_eq!(row.votes.len(), 4);
        for vote in &row.votes {
            near(sigmoid(vote.logprob_a - vote.logprob_b), vote.p_a);
        }
        let mean = row
            .votes
            .iter()
            .map(|vote| vote.log_odds_chosen().unwrap())
            .sum::<f32>()
            / 4.0;
        near(mean, row.margin);
    }
}

/// Catches: a list of two that is another question than a choice.
#[test]
fn a_list_of_two_is_a_choice() {
    let engine = Scripted::new(silent, by_place);
    // All principles: which one a row draws and which one its pair is another matter.
    let all = |config: JudgeConfig| JudgeConfig {
        principles_per_pair: usize::MAX,
        ..config
    };
    let list = label(&engine, ["one", "two"], &all(lists(Reading::Logprobs))).unwrap();
    let choice = label(&engine, ["one", "two"], &all(config())).unwrap();
    near(list.margin, choice.margin);
    assert_eq!(list.chosen, choice.chosen);
    let votes = |row: &Preference| -> BTreeSet<String> { row.votes.iter().map(|vote| format!("{vote:?}")).collect() };
    assert_eq!(votes(&list), votes(&choice));
}

/// Ranks the options by their quality.
fn ranks(prompt: &str, _: u64) -> Reply {
    let mut letters = ['A', 'B', 'C'];
    letters.sort_by(|a, b| quality(at(prompt, *b)).total_cmp(&quality(at(prompt, *a))));
    said(format!("[[{} > {} > {}]]", letters[0], letters[1], letters[2]))
}

/// Catches: rankings counted from the wrong end, half wins left out, an iteration that stops too early. The
/// strengths are those of `scripts/golden/bradley_terry.py`.
#[test]
fn rankings_in_words_make_strengths() {
    let engine = Scripted::new(ranks, unscored);
    let rows = labels(&engine, Style::Chat, &["one", "two", "three"], &lists(Reading::Text));
    assert_eq!(engine.asked.lock().unwrap().len(), 6);
    let mut margins: Vec<f32> = rows.iter().map(|row| row.as_ref().unwrap().margin).collect();
    margins.sort_by(f32::total_cmp);
    // Six rankings that agree: 6.5 wins to 0.5 between any two.
    for (margin, expected) in margins.iter().zip([1.960_444_1, 1.960_444_1, 3.920_888_2]) {
        near(*margin, expected);
    }
    for row in &rows {
        let row = row.as_ref().unwrap();
        assert!(quality(chosen(row)) > quality(&row.rejected[0].content));
        assert_eq!(row.votes.len(), 6);
        assert!(row.votes.iter().all(|vote| vote.prefers_chosen() == Some(true)));
    }
}

/// Catches: a rotation of which nothing is known that leaves its place to the others.
#[test]
fn a_rotation_without_a_ranking_rejects_the_row() {
    let reply = |prompt: &str, draw: u64| match at(prompt, 'A') {
        "two" => said("I will not rank these."),
        _ => ranks(prompt, draw),
    };
    let engine = Scripted::new(reply, unscored);
    for row in labels(&engine, Style::Chat, &["one", "two", "three"], &lists(Reading::Text)) {
        let reject = row.unwrap_err();
        assert!(
            reject.reason.contains("no ranking") && reject.raw.contains("I will not"),
            "{reject:?}"
        );
    }
    let many: Vec<String> = (0..27).map(|index| format!("answer {index}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let none = Scripted::new(silent, unscored);
    for row in labels(&none, Style::Transcript, &many, &lists(Reading::Logprobs)) {
        assert!(row.unwrap_err().reason.contains("26 answers at most"));
    }
}

// ---------------------------------------------------------------- laws

const FORMS: [(Form, Reading, bool); 6] = [
    (Form::Choice, Reading::Logprobs, false),
    (Form::Choice, Reading::Logprobs, true),
    (Form::Choice, Reading::Text, false),
    (Form::Rating, Reading::Logprobs, false),
    (Form::Rating, Reading::Text, false),
    (Form::List, Reading::Logprobs, false),
];

fn of_form((form, reading, reasoning): (Form, Reading, bool), principles: usize) -> JudgeConfig {
    JudgeConfig {
        principles_per_pair: principles,
        form,
        reading,
        reasoning,
        clamp: Clamp { low: 0.3, high: 0.6 },
        votes: 3,
        sampling: Sampling::default(),
        closest: None,
    }
}

/// A score and a reply of any sort, by the prompt alone (and the draw).
fn any_score(seed: u64) -> impl Fn(&str, &str) -> f32 + Sync {
    move |prompt, continuation| {
        -Seed::new(seed)
            .child(prompt)
            .child(continuation)
            .rng()
            .random_range(0.0..9.0f32)
    }
}

fn any_reply(seed: u64) -> impl Fn(&str, u64) -> Reply + Sync {
    move |prompt, draw| {
        let mut rng = Seed::new(seed).child(prompt).index(draw).rng();
        let digit = rng.random_range(1..6);
        let texts = [
            "[[A]]",
            "[[B]]",
            "[[C]]",
            "The answer is: (A)",
            "The answer is: (B)",
            "Well.",
            "",
        ];
        Ok(match rng.random_range(0..10usize) {
            9 => ("cut".into(), FinishReason::Length),
            8 if seed.is_multiple_of(5) => return Err(Refusal("refused".into())),
            index if prompt.contains("\nAnswer: ") && index < 7 => (format!("[[{digit}]]"), FinishReason::Stop),
            index => (texts[index % texts.len()].into(), FinishReason::Stop),
        })
    }
}

/// Failures are printed; a file of them would be written beside the tests.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn told(row: &Preference) -> (String, String, u32, u32, BTreeSet<String>) {
    (
        chosen(row).to_owned(),
        row.rejected[0].content.clone(),
        row.p_chosen.to_bits(),
        row.margin.to_bits(),
        row.votes.iter().map(|vote| format!("{vote:?}")).collect(),
    )
}

proptest! {
    #![proptest_config(cases(96))]

    /// Catches: any asymmetry between the two answers, in any form: exchanging them changes no bit of the label,
    /// of the votes or of the reason of a reject.
    #[test]
    fn swapping_the_answers_swaps_the_label(seed: u64, principles in 1usize..6, chat: bool) {
        let style = if chat { Style::Chat } else { Style::Transcript };
        let list_in_words = (Form::List, Reading::Text, false);
        for form in FORMS.into_iter().chain([list_in_words]) {
            let judged = |texts: [&str; 2]| {
                let engine = Scripted::new(any_reply(seed), any_score(seed));
                labels(&engine, style, &texts, &of_form(form, principles)).remove(0)
            };
            match (judged(["one", "other"]), judged(["other", "one"])) {
                (Ok(one), Ok(other)) => prop_assert_eq!(told(&one), told(&other), "{:?}", form),
                (Err(one), Err(other)) => prop_assert_eq!(one.reason, other.reason, "{:?}", form),
                (one, other) => prop_assert!(false, "{:?}: {:?} and {:?}", form, one, other),
            }
        }
    }

    /// Catches: votes from which the label cannot be told again, by which `constitution show --usage` says whose votes
    /// decide; votes without the hash of their principle, or with that of another one.
    #[test]
    fn a_label_follows_from_its_votes(seed: u64, principles in 1usize..6) {
        let constitution = constitution();
        let share = |id: &str| match principles {
            // All four of them, by their weights 1 to 4.
            4.. => constitution.principle(id).unwrap().weight as f32 / 2.5,
            _ => 1.0,
        };
        for form in FORMS {
            let engine = Scripted::new(any_reply(seed), any_score(seed));
            let Ok(row) = labels(&engine, Style::Transcript, &["one", "other"], &of_form(form, principles)).remove(0)
            else {
                continue;
            };
            let votes: Vec<&Vote> = row.votes.iter().collect();
            let label = recounted(&votes, share).unwrap();
            prop_assert!((label - row.margin).abs() < 1e-4 * (1.0 + row.margin), "{:?}: {} of {:?}", form, label, row);
            for vote in votes {
                let principle = constitution.principle(&vote.principle_id).unwrap();
                prop_assert_eq!(&vote.principle_hash, &principle.hash());
            }
        }
    }

    /// Catches: labels of a row that depend on the order in which it lists its answers, and, of lists, labels
    /// that contradict each other.
    #[test]
    fn a_row_is_judged_as_a_whole(seed: u64, shift in 1usize..4) {
        let texts = ["one", "two", "three", "four"];
        let mut turned = texts;
        turned.rotate_left(shift);
        for form in [(Form::Rating, Reading::Logprobs, false), (Form::List, Reading::Logprobs, false)] {
            let judged = |texts: &[&str]| {
                let engine = Scripted::new(any_reply(seed), any_score(seed));
                let rows = labels(&engine, Style::Transcript, texts, &of_form(form, 2));
                rows.into_iter().filter_map(Result::ok).map(|row| told(&row)).collect::<BTreeSet<_>>()
            };
            prop_assert_eq!(judged(&texts), judged(&turned));
        }
        let engine = Scripted::new(silent, any_score(seed));
        let list = of_form((Form::List, Reading::Logprobs, false), 1);
        let rows = labels(&engine, Style::Transcript, &texts, &list);
        let beats: BTreeSet<(String, String)> = rows
            .iter()
            .filter_map(|row| row.as_ref().ok())
            .map(|row| (chosen(row).to_owned(), row.rejected[0].content.clone()))
            .collect();
        for (winner, loser) in &beats {
            for (_, last) in beats.iter().filter(|(other, _)| other == loser) {
                prop_assert!(!beats.contains(&(last.clone(), winner.clone())));
            }
        }
    }
}
