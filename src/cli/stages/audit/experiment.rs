//! The audit of a judge that is asked: pairs as they are, and the same pairs with one answer changed.
//!
//! Every comparison goes through the judge of `bylaw judge` and the durable job, so an interrupted audit goes on
//! where it was, and all that the judge said stays in `DIR/labels`.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rand::seq::SliceRandom as _;

use super::{Audit, Audited};
use crate::bias::causal::{self, Changed, Pair, Trial};
use crate::bias::labels;
use crate::cli::session::{Session, constitution_source, data_source, engine_source};
use crate::cli::stages::generate::{Asked, judge_rows};
use crate::constitution::Constitution;
use crate::dataset::{self, Dataset, Provenance, Source};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::job::Job;
use crate::judged::{JudgedPair, Winner};
use crate::record::{Candidates, Preference, Reject, content_id, messages_id};
use crate::seed::Seed;
use crate::small;
use crate::stage::judge::{JudgeConfig, contests};
use crate::stage::{Context, Outcome};

/// Where all that the judge said lies, in the directory of the audit.
pub const LABELS: &str = "labels";

const PADDING: [(&str, &str); 2] = [
    (
        "builtin:general",
        include_str!("../../../../prompts/padding/general.txt"),
    ),
    (
        "builtin:proving-ground",
        include_str!("../../../../prompts/padding/proving-ground.txt"),
    ),
];

/// What is known of a pair beforehand.
#[derive(Clone, Copy, Default)]
struct Known {
    gold: Option<Winner>,
    own_first: Option<bool>,
}

/// What will be asked.
pub struct Experiment {
    asked: Asked,
    constitution: Constitution,
    pairs: Vec<Pair>,
    known: Vec<Known>,
    originals: Vec<Candidates>,
    changed: Vec<Changed>,
    unread: Vec<Reject>,
    left_out: LeftOut,
    config: JudgeConfig,
    pub provenance: Provenance,
    subject: String,
}

impl Experiment {
    pub fn prepare(audit: &Audit, session: &Session, model: &str) -> Result<Self> {
        audit.judging.check()?;
        let Some(reference) = &audit.constitution else {
            return Err(Error::config("a judge needs a constitution: --constitution FILE"));
        };
        let constitution = audit.variables.resolve(reference)?;
        let padding = padding(&audit.padding)?;
        let seed = session.stage_seed("audit");
        let read = read(audit, seed)?;
        let (pairs, known): (Vec<Pair>, Vec<Known>) = read.pairs.into_iter().take(audit.most_pairs).unzip();
        let mut asked = Asked::load(session, model, &audit.prompting, false, &audit.remote)?;
        let judging = audit.judging.settled(asked.engine.as_ref(), asked.templates.style())?;
        asked.templates = judging.templates(asked.templates, &constitution)?;
        let config = judging.config();
        let settled = Audit {
            judging,
            ..audit.clone()
        };
        let mut provenance = session.provenance("audit", &settled)?;
        provenance.inputs = read.inputs;
        provenance.model = Some(engine_source(asked.engine.as_ref()));
        provenance.constitution = Some(constitution_source(reference, &constitution));
        provenance.prompts = asked.templates.hashes();
        let padding_hash = content_id(padding.iter().map(String::as_str));
        provenance.prompts.insert("padding".into(), padding_hash);
        let originals = pairs.iter().map(Pair::row).collect();
        let changed = causal::plan(&pairs, &audit.changes, &padding, seed);
        Ok(Self {
            asked,
            constitution,
            originals,
            changed,
            pairs,
            known,
            unread: read.unread,
            left_out: read.left_out,
            provenance,
            config,
            subject: format!("judge {model}"),
        })
    }

    /// Asks, and measures what was said.
    /// Without `out` nothing of what was said is kept.
    pub fn run(&self, audit: &Audit, session: &Session, out: Option<&Path>) -> Result<Audited> {
        let mut rows = self.originals.clone();
        for changed in &self.changed {
            rows.extend([changed.against_other.clone(), changed.against_itself.clone()]);
        }
        let context = Context {
            engine: self.asked.engine.as_ref(),
            templates: &self.asked.templates,
            seed: session.stage_seed("judge"),
            keep_truncated: true,
        };
        let judge = |rows: &[Candidates]| judge_rows(context, &self.constitution, rows, &self.config);
        let said = match out {
            Some(out) => {
                let labels = out.join(LABELS);
                let provenance = Provenance {
                    stage: "audit labels".into(),
                    ..self.provenance.clone()
                };
                let usage = || self.asked.engine.usage();
                let job = Job {
                    unit_rows: audit.unit_rows,
                    changes: session.changes,
                    usage: &usage,
                    ..Job::new(&labels, provenance, "audit", session.progress())
                };
                job.run(&rows, &[&self.unread[..], &self.left_out.all()].concat(), judge)?;
                Said::read(&labels)?
            }
            None => {
                let progress = session.progress();
                progress.start("audit", rows.len() as u64, "rows");
                let mut said = Said::default();
                for unit in rows.chunks(audit.unit_rows) {
                    interrupt::check()?;
                    judge(unit)?.into_iter().for_each(|outcome| said.add(outcome));
                    progress.advance(unit.len() as u64);
                }
                progress.finish();
                said
            }
        };
        self.asked.tell(session);
        let pairs: Vec<JudgedPair> = self
            .pairs
            .iter()
            .zip(&self.originals)
            .zip(&self.known)
            .map(|((pair, row), known)| said.of_pair(pair, row, *known))
            .collect();
        let seed = session.stage_seed("audit");
        let progress = session.progress();
        let audited = Audited::of(self.subject.clone(), &pairs, Some(&self.constitution), seed, progress)?;
        let trials = self.trials(&said);
        progress.start("changes", causal::ROUNDS * audit.changes.len() as u64, "resamples");
        let changes = causal::effects(&trials, seed.child("changes"), progress)?;
        progress.finish();
        Ok(Audited {
            changes,
            unmatched: self.left_out.unmatched.len() as u64,
            single: self.left_out.single.len() as u64,
            identical: self.left_out.identical.len() as u64,
            ..audited.beside(&self.unread)
        })
    }

    fn trials(&self, said: &Said) -> Vec<Trial> {
        let trial = |changed: &Changed| {
            let pair = &self.pairs[changed.pair];
            let before = said.log_odds(&self.originals[changed.pair]);
            Trial {
                prompt: messages_id(&pair.prompt),
                change: changed.change,
                before: before.map(|odds| if changed.side == 0 { odds } else { -odds }),
                after: said.log_odds(&changed.against_other),
                over_itself: said.log_odds(&changed.against_itself),
            }
        };
        self.changed.iter().map(trial).collect()
    }
}

fn padding(reference: &str) -> Result<Vec<String>> {
    let text = match PADDING.iter().find(|(name, _)| *name == reference) {
        Some((_, text)) => (*text).to_owned(),
        None => small::read_to_string(Path::new(reference), "write one sentence to a line")?,
    };
    let lines: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    match lines.is_empty() {
        true => Err(Error::input("there is no sentence in it")
            .at_file(reference)
            .help("write one to a line")),
        false => Ok(lines),
    }
}

/// What there is to compare.
struct Read {
    pairs: Vec<(Pair, Known)>,
    inputs: Vec<Source>,
    unread: Vec<Reject>,
    left_out: LeftOut,
}

/// What could be read and makes no comparison.
#[derive(Default)]
struct LeftOut {
    /// Rows without a partner in the other model's data.
    unmatched: Vec<Reject>,
    /// Rows with fewer than two answers.
    single: Vec<Reject>,
    /// Pairs whose answers are the same.
    identical: Vec<Reject>,
}

impl LeftOut {
    fn all(&self) -> Vec<Reject> {
        [&self.unmatched[..], &self.single, &self.identical].concat()
    }

    /// Takes the pairs about which no judge would be asked; the others are left.
    fn take_identical(&mut self, pairs: Vec<(Pair, Known)>) -> Vec<(Pair, Known)> {
        let mut differ = Vec::with_capacity(pairs.len());
        for (pair, known) in pairs {
            match contests(&pair.row(), true).pop() {
                Some(Err(identical)) => self.identical.push(identical),
                _ => differ.push((pair, known)),
            }
        }
        differ
    }
}

/// The pairs of `--pairs` in a drawn order; those of candidates in one that takes one of each prompt before a second of
/// any.
fn read(audit: &Audit, seed: Seed) -> Result<Read> {
    let mut rng = seed.child("pairs").rng();
    let mut left_out = LeftOut::default();
    if let Some(reference) = &audit.pairs {
        let data = dataset::read_pairs(reference)?;
        let inputs = vec![data_source(reference, &data)];
        let pairs = data.rows.into_iter().map(|row| {
            let known = Known {
                gold: row.said.gold,
                ..Known::default()
            };
            let pair = Pair {
                id: row.said.id,
                prompt: row.prompt,
                answers: row.answers.map(causal::answer),
            };
            (pair, known)
        });
        let mut pairs: Vec<(Pair, Known)> = pairs.collect();
        pairs.shuffle(&mut rng);
        return Ok(Read {
            pairs: left_out.take_identical(pairs),
            inputs,
            unread: data.rejects,
            left_out,
        });
    }
    let Some(reference) = &audit.candidates else {
        return Err(Error::config("a judge needs something to compare").help("give --candidates or --pairs"));
    };
    let mut data = dataset::read_candidates(reference)?;
    let mut inputs = vec![data_source(reference, &data)];
    data.rows.shuffle(&mut rng);
    if let Some(other) = &audit.others {
        let others = dataset::read_candidates(other)?;
        inputs.push(data_source(other, &others));
        let (pairs, unmatched) = own_and_others(&data.rows, &others.rows);
        if pairs.is_empty() {
            return Err(
                Error::input(format!("answers no prompt that is answered in {reference}"))
                    .at_file(other)
                    .help("sample both models on the same prompts"),
            );
        }
        left_out.unmatched = unmatched;
        return Ok(Read {
            pairs: left_out.take_identical(pairs),
            inputs,
            unread: [data.rejects, others.rejects].concat(),
            left_out,
        });
    }
    Ok(Read {
        pairs: among_candidates(&data.rows, &mut left_out),
        inputs,
        unread: data.rejects,
        left_out,
    })
}

/// The pairs among the answers of each row: one of every row, then a second of every row that has one, and so on.
fn among_candidates(rows: &[Candidates], left_out: &mut LeftOut) -> Vec<(Pair, Known)> {
    let mut by_round: Vec<Vec<(Pair, Known)>> = Vec::new();
    for row in rows {
        let mut round = 0;
        for contest in contests(row, true) {
            let contest = match contest {
                Ok(contest) => contest,
                Err(reject) if row.completions.len() < 2 => {
                    left_out.single.push(reject);
                    continue;
                }
                Err(reject) => {
                    left_out.identical.push(reject);
                    continue;
                }
            };
            if by_round.len() <= round {
                by_round.push(Vec::new());
            }
            let pair = Pair {
                id: contest.id,
                prompt: contest.prompt,
                answers: [contest.first, contest.second],
            };
            by_round[round].push((pair, Known::default()));
            round += 1;
        }
    }
    by_round.into_iter().flatten().collect()
}

/// The first answers of both models to each prompt that both answered, and the rows of the others.
fn own_and_others(own: &[Candidates], others: &[Candidates]) -> (Vec<(Pair, Known)>, Vec<Reject>) {
    let mut by_prompt: HashMap<String, &Candidates> = HashMap::new();
    for row in others {
        by_prompt.insert(messages_id(&row.prompt), row);
    }
    let (mut pairs, mut unmatched, mut met) = (Vec::new(), Vec::new(), HashSet::new());
    let alone = |row: &Candidates, reason: &str| Reject {
        id: row.id.clone(),
        stage: "audit".into(),
        reason: reason.into(),
        raw: serde_json::to_string(row).unwrap_or_default(),
    };
    for row in own {
        let prompt = messages_id(&row.prompt);
        let other = by_prompt.get(&prompt).and_then(|other| other.completions.first());
        let (Some(first), Some(other)) = (row.completions.first(), other) else {
            unmatched.push(alone(row, "the other model has no answer to this prompt"));
            continue;
        };
        let pair = Pair {
            id: content_id([row.id.as_str(), "own"]),
            prompt: row.prompt.clone(),
            answers: [first.clone(), other.clone()],
        };
        let known = Known {
            own_first: Some(true),
            ..Known::default()
        };
        pairs.push((pair, known));
        met.insert(prompt);
    }
    let strange = others.iter().filter(|row| !met.contains(&messages_id(&row.prompt)));
    unmatched.extend(strange.map(|row| alone(row, "the judge has no answer of its own to this prompt")));
    (pairs, unmatched)
}

/// What the judge said, by comparison.
#[derive(Default)]
struct Said {
    labels: HashMap<String, Preference>,
    rejects: HashMap<String, Reject>,
}

impl Said {
    fn read(dir: &Path) -> Result<Self> {
        let dataset = Dataset::<Preference>::open(dir)?;
        let mut said = Self::default();
        dataset.read_all()?.into_iter().for_each(|row| said.add(Ok(row)));
        dataset.rejects()?.into_iter().for_each(|row| said.add(Err(row)));
        Ok(said)
    }

    fn add(&mut self, outcome: Outcome<Preference>) {
        match outcome {
            Ok(label) => drop(self.labels.insert(label.id.clone(), label)),
            Err(reject) => drop(self.rejects.insert(reject.id.clone(), reject)),
        }
    }

    /// The id of the only comparison of a row of two answers.
    fn id(row: &Candidates) -> Option<String> {
        contests(row, true).into_iter().next().map(|contest| match contest {
            Ok(contest) => contest.id,
            Err(reject) => reject.id,
        })
    }

    /// Log-odds of the first answer; 0 for a tie.
    fn log_odds(&self, row: &Candidates) -> Option<f64> {
        let id = Self::id(row)?;
        if let Some(label) = self.labels.get(&id) {
            let first = label
                .chosen
                .last()
                .is_some_and(|answer| answer.content == row.completions[0].text);
            let margin = f64::from(label.margin);
            return Some(if first { margin } else { -margin });
        }
        let winner = labels::without_winner(self.rejects.get(&id)?)?;
        (winner == Winner::Tie).then_some(0.0)
    }

    /// The pair with what was said of it, its first answer first.
    fn of_pair(&self, pair: &Pair, row: &Candidates, known: Known) -> JudgedPair {
        let label = Self::id(row).and_then(|id| self.labels.get(&id));
        let mut said = match label {
            Some(label) => labels::pair(label),
            None => {
                let lengths = [0, 1].map(|side: usize| pair.answers[side].text.chars().count() as u32);
                let mut said = JudgedPair::new(&pair.id, messages_id(&pair.prompt), lengths);
                let reject = Self::id(row).and_then(|id| self.rejects.get(&id));
                let winner = reject.and_then(labels::without_winner);
                said.judgements = winner.map_or_else(Vec::new, labels::both_without_answer);
                said
            }
        };
        // A label has the chosen answer first.
        let turned = label.is_some_and(|label| {
            label
                .chosen
                .last()
                .is_some_and(|answer| answer.content != pair.answers[0].text)
        });
        said.gold = known.gold.map(|gold| if turned { gold.swapped() } else { gold });
        said.own_first = known.own_first.map(|own| own != turned);
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{CHOSEN_FIRST, Message, REJECTED_FIRST, TIE, Vote};

    fn pair() -> Pair {
        Pair {
            id: "x".into(),
            prompt: vec![Message::user("q")],
            answers: [causal::answer("first".into()), causal::answer("the second".into())],
        }
    }

    fn label(row: &Candidates, chosen: &str, rejected: &str) -> Preference {
        let vote = |order: &str, p_a: f32| Vote {
            principle_id: "kind".into(),
            order: order.into(),
            logprob_a: 0.0,
            logprob_b: 0.0,
            p_a,
            cot: None,
            verdict: crate::record::Verdict::of_probability(p_a).as_str().into(),
            principle_hash: String::new(),
        };
        Preference {
            id: Said::id(row).unwrap(),
            prompt: row.prompt.clone(),
            chosen: vec![Message::assistant(chosen)],
            rejected: vec![Message::assistant(rejected)],
            p_chosen: 0.8,
            margin: 1.4,
            weight: 1.0,
            source: "judge".into(),
            votes: vec![vote(CHOSEN_FIRST, 0.8), vote(REJECTED_FIRST, 0.2)],
            chosen_tokens: 1,
            rejected_tokens: 1,
            chosen_chars: chosen.len() as u32,
            rejected_chars: rejected.len() as u32,
            p_raw: 0.8,
        }
    }

    /// Catches: the truth, or whose answer it is, left on the side of the file where the label has the chosen answer first.
    #[test]
    fn what_is_known_turns_with_the_label() {
        let (pair, known) = (
            pair(),
            Known {
                gold: Some(Winner::First),
                own_first: Some(true),
            },
        );
        let row = pair.row();
        let of = |outcome: Outcome<Preference>| {
            let mut said = Said::default();
            said.add(outcome);
            (said.of_pair(&pair, &row, known), said.log_odds(&row))
        };
        let (right, odds) = of(Ok(label(&row, "first", "the second")));
        assert_eq!(
            (right.gold, right.own_first, right.lengths),
            (Some(Winner::First), Some(true), [5, 10])
        );
        assert!((odds.unwrap() - 1.4).abs() < 1e-6);
        let (wrong, odds) = of(Ok(label(&row, "the second", "first")));
        assert_eq!(
            (wrong.gold, wrong.own_first, wrong.lengths),
            (Some(Winner::Second), Some(false), [10, 5])
        );
        assert!(
            wrong
                .judgements
                .iter()
                .all(|judgement| judgement.winner == Winner::First)
        );
        assert!((odds.unwrap() + 1.4).abs() < 1e-6);
        // Without a label the answers stay as they stand in the file.
        let (tied, odds) = of(Err(Reject {
            id: Said::id(&row).unwrap(),
            stage: "judge".into(),
            reason: TIE.into(),
            raw: String::new(),
        }));
        assert_eq!(
            (tied.gold, tied.judgements.len(), odds),
            (Some(Winner::First), 2, Some(0.0))
        );
    }

    /// Catches: prompts that one model alone answered lost without a word, or paired with another prompt's answer.
    #[test]
    fn prompts_without_a_partner_are_told() {
        let row = |prompt: &str, id: &str| Candidates {
            id: id.into(),
            prompt: vec![Message::user(prompt)],
            completions: vec![causal::answer(format!("{id} to {prompt}"))],
        };
        let own = [row("q", "own-q"), row("r", "own-r")];
        let others = [row("s", "other-s"), row("r", "other-r")];
        let (pairs, unmatched) = own_and_others(&own, &others);
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].0.answers[0].text, "own-r to r");
        assert_eq!(pairs[0].0.answers[1].text, "other-r to r");
        let ids: Vec<&str> = unmatched.iter().map(|reject| reject.id.as_str()).collect();
        assert_eq!(ids, ["own-q", "other-s"]);
        assert_eq!(own_and_others(&own, &others[..1]).0.len(), 0);
    }
}
