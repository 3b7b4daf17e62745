//! A run as one JSON document, its texts as they are.

use serde_json::{Value, json};

use super::asking::{Judgement, Labelled, Reviewed, Tried};
use super::figures::{by_principle, by_question, judged};
use super::{Bench, Mistakes, Run};
use crate::constitution::Diagnostic;
use crate::engine::Engine as _;
use crate::stage::trial::Written;

pub fn of(bench: &Bench<'_>, run: &Run) -> Value {
    let (args, constitution) = (bench.args, &run.constitution);
    let id = |index: usize| constitution.principles[index].id.as_str();
    let mut document = json!({
        "constitution": {
            "reference": args.constitution,
            "name": constitution.name,
            "version": constitution.version,
            "sha256": constitution.hash,
        },
        "model": bench.memo.identity(),
        "seed": bench.session.seed,
        "requests": run.requests,
        "seconds": run.seconds,
        "notes": run.notes,
        "prompts": run.trial.prompts.iter().map(|tried| prompt(run, tried)).collect::<Vec<_>>(),
        "principles": by_principle(&run.trial).iter().map(|row| json!({
            "id": id(row.principle),
            "weight": constitution.principles[row.principle].weight,
            "revised": row.revised,
            "failed": row.failed,
            "changed": row.changed,
            "judged": row.judged,
            "judged_better": row.better,
            "p": row.p,
            "token_change": row.tokens,
        })).collect::<Vec<_>>(),
        "questions": by_question(&run.trial).iter().map(|row| json!({
            "id": id(row.question),
            "weight": constitution.principles[row.question].weight,
            "asked": row.asked,
            "failed": row.failed,
            "prefers_second": row.prefers,
            "p": row.p,
            "orders_differ": row.torn,
        })).collect::<Vec<_>>(),
    });
    if args.show_prompts {
        document["exchanges"] = run
            .trial
            .exchanges
            .iter()
            .map(|labelled| exchange(run, labelled))
            .collect();
    }
    document
}

/// What is wrong with a constitution that was to be tried.
pub fn mistakes(mistakes: &Mistakes) -> Value {
    json!({
        "errors": mistakes.errors(),
        "diagnostics": mistakes.findings.iter().map(Diagnostic::to_json).collect::<Vec<_>>(),
    })
}

fn prompt(run: &Run, tried: &Tried) -> Value {
    let mut document = json!({
        "id": tried.prompt.id,
        "messages": tried.prompt.messages,
        "answer": text(&tried.answer),
        "principles": tried.reviews.iter().map(|reviewed| review(run, tried, reviewed)).collect::<Vec<_>>(),
    });
    if let Some(other) = &tried.other {
        document["second_answer"] = text(other);
        document["verdicts"] = tried.compared.iter().map(|judgement| verdict(run, judgement)).collect();
    }
    document
}

fn review(run: &Run, tried: &Tried, review: &Reviewed) -> Value {
    let principle = &run.constitution.principles[review.principle];
    json!({
        "id": principle.id,
        "hash": principle.hash(),
        "critique": review.critique.as_ref().map(text),
        "revision": review.revision.as_ref().map(text),
        "changed": tried.changed(review),
        "judged": judged(&review.judged).map(|judged| json!({
            "p": judged.p,
            "p_answer_at_a": judged.orders[0],
            "p_revision_at_a": judged.orders[1],
            "prefer": judged.prefer,
            "of": judged.of,
        })),
        "verdicts": review.judged.iter().map(|judgement| verdict(run, judgement)).collect::<Vec<_>>(),
    })
}

/// A question's verdict on the second of its two texts.
fn verdict(run: &Run, judgement: &Judgement) -> Value {
    let principle = &run.constitution.principles[judgement.question];
    let mut document = json!({ "id": principle.id, "hash": principle.hash(), "share": judgement.share });
    match &judgement.said {
        Ok(said) => {
            document["p"] = said.p().into();
            document["log_odds"] = said.log_odds.into();
            document["p_first_at_a"] = said.orders[0].into();
            document["p_second_at_a"] = said.orders[1].into();
        }
        Err(reason) => document["failed"] = reason.as_str().into(),
    }
    document
}

/// What was written; where it cannot be used, with the reason.
fn text(written: &Written) -> Value {
    match written {
        Ok(generation) => json!({
            "text": generation.text,
            "tokens": generation.tokens,
            "finish_reason": generation.finish_reason,
        }),
        Err(fault) => json!({ "text": fault.raw, "failed": fault.reason }),
    }
}

fn exchange(run: &Run, labelled: &Labelled) -> Value {
    json!({
        "prompt_id": run.trial.prompts[labelled.prompt].prompt.id,
        "label": labelled.label,
        "prompt": labelled.exchange.prompt,
        "answer": labelled.exchange.answer,
    })
}
