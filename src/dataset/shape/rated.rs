//! Several answers with ratings, and the pair that the ratings make of them.
//!
//! The best answer is chosen over the worst. Where the ratings name no better answer there is no pair:
//! equal ratings, a rating that is missing or no number, and answers of the same text are refused.

use serde_json::Value;

use super::fields::{list, number, string, strings, wrong_type};
use super::trl::Pair;
use super::{Object, Reason, instruct};
use crate::record::Message;

/// The first of the best over the first of the worst.
fn best_and_worst(prompt: Vec<Message>, texts: &[String], ratings: &[f64]) -> Result<Pair, Reason> {
    let mut range: Option<(usize, usize)> = None;
    for (index, rating) in ratings.iter().enumerate() {
        let (best, worst) = range.unwrap_or((index, index));
        range = Some((
            if *rating > ratings[best] { index } else { best },
            if *rating < ratings[worst] { index } else { worst },
        ));
    }
    let (best, worst) = range.ok_or("there are no answers")?;
    if ratings[best] <= ratings[worst] {
        return Err(match ratings {
            [only] => format!("there is one answer, rated {only}, and none to compare it with"),
            _ => format!(
                "all {} ratings are {}: no answer is better than another",
                ratings.len(),
                ratings[best]
            ),
        });
    }
    if texts[best] == texts[worst] {
        return Err("the best and the worst answer are the same text".into());
    }
    Ok(Pair {
        prompt,
        chosen: vec![Message::assistant(&texts[best])],
        rejected: vec![Message::assistant(&texts[worst])],
    })
}

fn question(object: &Object) -> Result<Vec<Message>, Reason> {
    string(object, "instruction").map(|text| vec![Message::user(text)])
}

/// `completions[].response` of UltraFeedback.
fn responses(object: &Object) -> Result<Vec<&Object>, Reason> {
    let items = list(object, "completions", "a list of completions")?.iter().enumerate();
    items
        .map(|(index, item)| match item {
            Value::Object(item) => Ok(item),
            other => Err(wrong_type(&format!("completions[{index}]"), "a completion", other)),
        })
        .collect()
}

pub(super) fn ultrafeedback(object: &Object) -> Result<(Vec<Message>, Vec<String>), Reason> {
    let texts = responses(object)?.into_iter().enumerate().map(|(index, item)| {
        string(item, "response")
            .map(str::to_owned)
            .map_err(|reason| format!("`completions[{index}]`: {reason}"))
    });
    Ok((question(object)?, texts.collect::<Result<_, _>>()?))
}

/// By `overall_score`, the rating of GPT-4 with its critique.
pub(super) fn ultrafeedback_pair(object: &Object) -> Result<Pair, Reason> {
    let (prompt, texts) = ultrafeedback(object)?;
    let scores = responses(object)?.into_iter().enumerate().map(|(index, item)| {
        number(
            item.get("overall_score"),
            &format!("completions[{index}].overall_score"),
        )
    });
    best_and_worst(prompt, &texts, &scores.collect::<Result<Vec<_>, _>>()?)
}

pub(super) fn distilabel(object: &Object) -> Result<(Vec<Message>, Vec<String>), Reason> {
    Ok((instruct::distilabel_prompt(object)?, strings(object, "generations")?))
}

pub(super) fn distilabel_pair(object: &Object) -> Result<Pair, Reason> {
    let (prompt, texts) = distilabel(object)?;
    let ratings = list(object, "ratings", "a list of ratings")?.iter().enumerate();
    let ratings = ratings.map(|(index, rating)| number(Some(rating), &format!("ratings[{index}]")));
    let ratings = ratings.collect::<Result<Vec<_>, _>>()?;
    if ratings.len() != texts.len() {
        return Err(format!(
            "`generations` has {} answers, `ratings` has {}",
            texts.len(),
            ratings.len()
        ));
    }
    best_and_worst(prompt, &texts, &ratings)
}

pub(super) fn pandalm(object: &Object) -> Result<(Vec<Message>, Vec<String>), Reason> {
    let text = |key| string(object, key).map(str::to_owned);
    Ok((
        instruct::alpaca_prompt(object)?,
        vec![text("response1")?, text("response2")?],
    ))
}

/// The pair of a majority of PandaLM's three annotators, and the share of the votes that chose it,
/// where a tie is half a vote for each side.
pub(super) fn pandalm_pair(object: &Object) -> Result<(Pair, f32), Reason> {
    let (prompt, texts) = pandalm(object)?;
    let mut votes = [0_u8; 3];
    for key in ["annotator1", "annotator2", "annotator3"] {
        match number(object.get(key), key)? {
            0.0 => votes[0] += 1,
            1.0 => votes[1] += 1,
            2.0 => votes[2] += 1,
            other => return Err(format!("`{key}` is {other}, expected 1, 2, or 0 for a tie")),
        }
    }
    let [ties, first, second] = votes;
    let (chosen, rejected, count) = if first >= 2 {
        (0, 1, first)
    } else if second >= 2 {
        (1, 0, second)
    } else if ties >= 2 {
        return Err(format!(
            "{ties} of the 3 annotators call it a tie: no answer is preferred"
        ));
    } else {
        return Err("the 3 annotators disagree: no answer has a majority".into());
    };
    if texts[chosen] == texts[rejected] {
        return Err("both answers are the same text".into());
    }
    let pair = Pair {
        prompt,
        chosen: vec![Message::assistant(&texts[chosen])],
        rejected: vec![Message::assistant(&texts[rejected])],
    };
    Ok((pair, (f32::from(count) + f32::from(ties) / 2.0) / 3.0))
}
