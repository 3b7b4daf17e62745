//! The bundled model as a judge in each form that it can be asked in, on pairs of the proving ground of which it is
//! known which answer is better.

use std::sync::Arc;

use bylaw::constitution::Constitution;
use bylaw::engine::local::LocalEngine;
use bylaw::eval::preference;
use bylaw::model::files::Model;
use bylaw::prompt::{Style, Templates};
use bylaw::record::Preference;
use bylaw::report::JudgeFigures;
use bylaw::seed::Seed;
use bylaw::stage::judge::{Clamp, Contest, Form, JudgeConfig, Reading, contests, judge};
use bylaw::stage::{Context, Outcome};
use bylaw::world::{Oracle, Split, World};

const PAIRS: usize = 80;

/// The labels of the pairs that the model can judge, and the figures on them.
fn judged(config: &JudgeConfig) -> (Vec<Preference>, JudgeFigures) {
    let world = World::builtin().unwrap();
    let engine = LocalEngine::new(Arc::new(Model::load("builtin:tiny").unwrap())).unwrap();
    let templates = Templates::new(Style::Transcript);
    let seed = Seed::new(3);
    let context = Context {
        engine: &engine,
        templates: &templates,
        seed,
        keep_truncated: false,
    };
    let pairs: Vec<Contest> = world
        .contests(Split::Evaluation, PAIRS, seed)
        .unwrap()
        .iter()
        .flat_map(|row| contests(row, false))
        .map(Result::unwrap)
        .collect();
    let constitution = Constitution::builtin("proving-ground").unwrap();
    let labels = judge(context, &constitution, &pairs, config).unwrap();
    assert_eq!(labels.len(), PAIRS);
    let labels: Vec<Preference> = labels.into_iter().filter_map(Outcome::ok).collect();
    let figures = preference::judge(&Oracle::new(&world), &labels, None).unwrap();
    eprintln!("{config:?}: {} labels, {figures:?}", labels.len());
    (labels, figures)
}

/// Catches: a wording of the reasoning other than the one that the model was trained on, options scored without
/// it, a clamp that is not applied.
#[test]
fn the_bundled_model_reasons_before_it_chooses() {
    let reasoned = JudgeConfig {
        reasoning: true,
        ..JudgeConfig::default()
    };
    let (labels, figures) = judged(&reasoned);
    assert!(labels.len() >= PAIRS * 7 / 10, "{} labels", labels.len());
    assert!(figures.accuracy.unwrap() >= 0.85, "{figures:?}");
    for vote in labels.iter().flat_map(|label| &label.votes) {
        assert!(vote.p_a >= 0.4 && vote.p_a <= 0.6 && vote.cot.is_some());
    }
    let about_answers = |label: &&Preference| {
        label
            .votes
            .iter()
            .any(|vote| vote.cot.as_deref().is_some_and(|cot| cot.contains("Answer (A)")))
    };
    assert!(labels.iter().filter(about_answers).count() >= labels.len() * 9 / 10);
}

/// Catches: words of the trained form that are not read, a list of two that is judged otherwise than a pair.
#[test]
fn the_bundled_model_is_read_in_words_and_in_lists() {
    let words = JudgeConfig {
        reading: Reading::Text,
        votes: 1,
        ..JudgeConfig::default()
    };
    let (labels, figures) = judged(&words);
    assert!(figures.accuracy.unwrap() >= 0.8, "{figures:?}");
    let votes = || labels.iter().flat_map(|label| &label.votes);
    assert!(votes().filter(|vote| vote.verdict == "unparsed").count() * 20 <= votes().count());
    let lists = JudgeConfig {
        form: Form::List,
        ..JudgeConfig::default()
    };
    let (_, figures) = judged(&lists);
    assert!(figures.accuracy.unwrap() >= 0.85, "{figures:?}");
}

/// The model was trained on no rating; the form must work on it all the same. Catches: rows that are lost.
#[test]
fn a_rating_by_the_bundled_model_is_a_label() {
    let ratings = JudgeConfig {
        form: Form::Rating,
        clamp: Clamp::NONE,
        ..JudgeConfig::default()
    };
    let (labels, _) = judged(&ratings);
    assert!(
        labels
            .iter()
            .all(|label| label.votes.len() == 1 && label.p_chosen >= 0.5)
    );
}
