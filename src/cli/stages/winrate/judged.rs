//! Pairs that are judged here: answers of the models and of the baseline, drawn or read, each pair judged in both
//! orders under the constitution.
//!
//! Knows nothing of the regression. What it leaves is `pairs.jsonl`, which `--pairs` reads again.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::pairs::Rejected;
use super::{Winrate, page};
use crate::bias::winrate::{JudgedPair, rates};
use crate::bounds;
use crate::cli::session::{Session, constitution_source, data_source, engine_source};
use crate::cli::stages::eval::evaluate;
use crate::cli::stages::generate::{Asked, judge_rows};
use crate::cli::stages::prompting::Prompting;
use crate::cli::stages::{Done, Stage as _};
use crate::constitution::Constitution;
use crate::dataset::{self, Provenance};
use crate::engine::Sampling;
use crate::engine::remote::RemoteConfig;
use crate::error::{Error, Result};
use crate::record::{Candidates, Completion, Prompt, messages_id};
use crate::stage::judge::JudgeConfig;
use crate::stage::{Context, sample};
use crate::{atomic, interrupt};

/// The judged pairs, and where they lie until the figures are there.
pub const FILE: &str = "pairs.jsonl";
const UNFINISHED: &str = ".pairs.jsonl";

/// Prompts asked at once.
const UNIT: usize = 256;

#[derive(Debug, Clone, Serialize, Args)]
pub struct Judging {
    /// A model to measure; answers are drawn from it. Several times for several models.
    #[arg(long)]
    #[serde(skip)]
    pub model: Vec<String>,
    /// Answers to measure that are there already, in place of a model: candidates (the first of each row is
    /// taken), revisions or demonstrations, found by their prompts.
    #[arg(long, value_name = "DATA")]
    #[serde(skip)]
    pub answers: Vec<String>,
    /// The model to compare with.
    #[arg(long, conflicts_with = "baseline_answers")]
    #[serde(skip)]
    pub baseline: Option<String>,
    /// The baseline's answers, in place of the baseline.
    #[arg(long, value_name = "DATA")]
    #[serde(skip)]
    pub baseline_answers: Option<String>,
    /// Prompts to answer [default: those of the baseline's answers].
    #[arg(long)]
    #[serde(skip)]
    pub prompts: Option<String>,
    /// The model that judges; each pair is put to it in both orders.
    #[arg(long)]
    #[serde(skip)]
    pub judge: Option<String>,
    /// The constitution it judges under: a TOML file, or builtin:NAME.
    #[arg(long)]
    #[serde(skip)]
    pub constitution: Option<String>,
    /// Principles asked about each pair.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = bounds::count)]
    pub principles_per_pair: usize,
    #[command(flatten)]
    pub sampling: Sampling,
    #[command(flatten)]
    #[serde(flatten)]
    pub prompting: Prompting,
    #[command(flatten, next_help_heading = "Endpoints")]
    #[serde(skip)]
    pub remote: RemoteConfig,
}

/// An answer, and whether it reached its limit of tokens.
#[derive(Debug, Clone)]
struct Answer {
    text: String,
    /// 0 where nobody has counted them.
    tokens: u32,
    cut: bool,
}

/// One contestant's answers, in the order of the prompts.
struct Side {
    name: String,
    answers: Vec<Result<Answer, String>>,
}

/// A judged pair as it is written: what `--pairs` reads, with the texts.
#[derive(Debug, Clone, Serialize)]
struct PairRow {
    model: String,
    idx: String,
    len_1_chars: usize,
    len_2_chars: usize,
    len_1_tokens: Option<u32>,
    len_2_tokens: Option<u32>,
    /// Whether an answer reached its limit of tokens.
    truncated_1: bool,
    truncated_2: bool,
    preference: f64,
    /// `judged`, `tie` (the judge's), or `identical`.
    verdict: &'static str,
    instruction: String,
    output_1: String,
    output_2: String,
}

/// Everything that was decided about one model.
#[derive(Default)]
struct Verdicts {
    rows: Vec<PairRow>,
    rejected: Vec<Rejected>,
}

/// The models, loaded once for each reference.
struct Models<'a> {
    session: &'a Session,
    judging: &'a Judging,
    loaded: BTreeMap<String, Asked>,
}

impl Models<'_> {
    fn load(&mut self, reference: &str) -> Result<()> {
        if !self.loaded.contains_key(reference) {
            let Judging { prompting, remote, .. } = self.judging;
            let asked = Asked::load(self.session, reference, prompting, false, remote)?;
            self.loaded.insert(reference.to_owned(), asked);
        }
        Ok(())
    }

    fn context(&self, reference: &str, kind: &str) -> Result<Context<'_>> {
        let asked = self.loaded.get(reference);
        let asked = asked.ok_or_else(|| Error::unexpected(format!("the model {reference} is not loaded")))?;
        Ok(Context {
            engine: asked.engine.as_ref(),
            templates: &asked.templates,
            seed: self.session.stage_seed(kind),
            // An answer that is cut is what a reader would have got; how many there are is told.
            keep_truncated: true,
        })
    }
}

impl Judging {
    /// Whether the flags say what to judge, before anything is loaded.
    pub fn check(&self) -> Result<()> {
        let missing = |what: &str, help: &str| Err(Error::config(format!("{what} is missing")).help(help));
        const HELP: &str = "give --pairs FILE for pairs that are judged, or --model (or --answers), --baseline (or \
             --baseline-answers), --judge and --constitution to judge them here";
        if self.model.is_empty() && self.answers.is_empty() {
            return missing("what to measure", HELP);
        }
        if self.baseline.is_none() && self.baseline_answers.is_none() {
            return missing("the baseline", HELP);
        }
        if self.judge.is_none() || self.constitution.is_none() {
            return missing("the judge, or its constitution,", HELP);
        }
        if self.prompts.is_none() && (!self.model.is_empty() || self.baseline.is_some()) {
            return missing("--prompts", "a model is measured on prompts: give --prompts DATA");
        }
        Ok(())
    }

    /// Judges all pairs and measures, unless `out` has it already.
    pub fn run(&self, session: &Session, stage: &Winrate, out: &Path) -> Result<Done> {
        self.check()?;
        let judge = self.judge.as_deref().unwrap_or_default();
        let reference = self.constitution.as_deref().unwrap_or_default();
        let constitution = Constitution::resolve(reference)?;
        let mut models = Models {
            session,
            judging: self,
            loaded: BTreeMap::new(),
        };
        let mut provenance = session.provenance(stage.kind(), stage)?;
        let contest = Contest::prepare(self, &mut models, &mut provenance)?;
        models.load(judge)?;
        let asked = &models.loaded[judge];
        provenance.model = Some(engine_source(asked.engine.as_ref()));
        provenance.constitution = Some(constitution_source(reference, &constitution));
        provenance.prompts = asked.templates.hashes();
        let done = evaluate(session, out, provenance, "winrate", || {
            let mut verdicts = Verdicts::default();
            contest.judge(&models, stage, judge, &constitution, &mut verdicts)?;
            let lines = verdicts.rows.iter().map(line).collect::<Result<String>>()?;
            atomic::write(&out.join(UNFINISHED), lines.as_bytes())?;
            measure(session, stage, judge, &verdicts)
        })?;
        settle(out)?;
        for asked in models.loaded.values() {
            asked.tell(session);
        }
        Ok(done)
    }
}

fn line(row: &PairRow) -> Result<String> {
    let json = serde_json::to_string(row).map_err(|error| Error::unexpected("a judged pair").because(error))?;
    Ok(json + "\n")
}

/// Gives the pairs their name, once the figures made of them are there.
fn settle(out: &Path) -> Result<()> {
    let (from, to) = (out.join(UNFINISHED), out.join(FILE));
    match fs::rename(&from, &to) {
        Ok(()) => atomic::sync_directory(out),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("rename", &from, error)),
    }
}

/// Who answers what.
struct Contest {
    prompts: Vec<Prompt>,
    /// Where each side's answers come from; the baseline last.
    sides: Vec<(String, Origin)>,
}

enum Origin {
    Model(String),
    /// By the id of their prompt's messages.
    Data(HashMap<String, Answer>),
}

impl Contest {
    fn prepare(judging: &Judging, models: &mut Models<'_>, provenance: &mut Provenance) -> Result<Self> {
        let mut sides = Vec::new();
        let mut prompts = Vec::new();
        let data = |reference: &String| (reference.clone(), false);
        let model = |reference: &String| (reference.clone(), true);
        let contestants = judging.model.iter().map(model).chain(judging.answers.iter().map(data));
        let baseline = judging.baseline.iter().map(model);
        let baseline = baseline.chain(judging.baseline_answers.iter().map(data));
        if let Some(reference) = &judging.prompts {
            let read = dataset::read_prompts(reference)?;
            provenance.inputs.push(data_source(reference, &read));
            prompts = read.rows;
        }
        for (reference, is_model) in contestants.chain(baseline) {
            let origin = if is_model {
                models.load(&reference)?;
                let source = engine_source(models.loaded[&reference].engine.as_ref());
                provenance.inputs.push(source);
                Origin::Model(reference.clone())
            } else {
                let (answers, asked) = read_answers(&reference, provenance)?;
                if judging.prompts.is_none() {
                    // The baseline's, which come last.
                    prompts = asked;
                }
                Origin::Data(answers)
            };
            sides.push((reference, origin));
        }
        let references: Vec<&str> = sides[..sides.len() - 1].iter().map(|(name, _)| name.as_str()).collect();
        let mut names = names(&references)?;
        names.push("baseline".into());
        for ((name, _), short) in sides.iter_mut().zip(names) {
            *name = short;
        }
        Ok(Self { prompts, sides })
    }

    /// Has every model's answers judged against the baseline's.
    fn judge(
        &self,
        models: &Models<'_>,
        stage: &Winrate,
        judge: &str,
        constitution: &Constitution,
        verdicts: &mut Verdicts,
    ) -> Result<()> {
        let mut answered = Vec::new();
        for (name, origin) in &self.sides {
            answered.push(Side {
                name: name.clone(),
                answers: self.answers(name, origin, models, stage)?,
            });
        }
        let Some((baseline, contestants)) = answered.split_last() else {
            return Err(Error::unexpected("no baseline"));
        };
        let context = models.context(judge, stage.kind())?;
        let config = JudgeConfig {
            principles_per_pair: stage.judging.principles_per_pair,
            ..JudgeConfig::default()
        };
        let progress = models.session.progress();
        progress.start("judge", (self.prompts.len() * contestants.len()) as u64, "pairs");
        for side in contestants {
            for from in (0..self.prompts.len()).step_by(UNIT) {
                interrupt::check()?;
                let unit = from..(from + UNIT).min(self.prompts.len());
                progress.advance(unit.len() as u64);
                let prompts = &self.prompts[unit.clone()];
                let pairs = side.answers[unit.clone()].iter().zip(&baseline.answers[unit]);
                let duels: Vec<Duel<'_>> = prompts
                    .iter()
                    .zip(pairs)
                    .map(|(prompt, (ours, theirs))| Duel {
                        model: &side.name,
                        prompt,
                        ours,
                        theirs,
                    })
                    .collect();
                judge_duels(context, constitution, &config, &duels, verdicts)?;
            }
        }
        progress.finish();
        Ok(())
    }

    fn answers(
        &self,
        name: &str,
        origin: &Origin,
        models: &Models<'_>,
        stage: &Winrate,
    ) -> Result<Vec<Result<Answer, String>>> {
        let reference = match origin {
            Origin::Data(answers) => {
                let found = |prompt: &Prompt| answers.get(&messages_id(&prompt.messages)).cloned();
                let absent = || "there is no answer to this prompt".to_owned();
                return Ok(self
                    .prompts
                    .iter()
                    .map(|prompt| found(prompt).ok_or_else(absent))
                    .collect());
            }
            Origin::Model(reference) => reference,
        };
        let context = models.context(reference, stage.kind())?;
        let progress = models.session.progress();
        progress.start(&format!("answers of {name}"), self.prompts.len() as u64, "rows");
        let mut answers = Vec::with_capacity(self.prompts.len());
        for unit in self.prompts.chunks(UNIT) {
            interrupt::check()?;
            for row in sample::sample(context, unit, 1, &stage.judging.sampling)? {
                let answer = row.map_err(|reject| reject.reason).and_then(|row| {
                    let first = row.completions.into_iter().next();
                    first.map(answer).ok_or_else(|| "there is no answer".into())
                });
                answers.push(answer);
            }
            progress.advance(unit.len() as u64);
        }
        progress.finish();
        Ok(answers)
    }
}

fn answer(completion: Completion) -> Answer {
    Answer {
        cut: completion.finish_reason == crate::record::FinishReason::Length.as_str(),
        text: completion.text,
        tokens: completion.tokens,
    }
}

/// Answers from data by the id of their prompt's messages, and the prompts.
fn read_answers(reference: &str, provenance: &mut Provenance) -> Result<(HashMap<String, Answer>, Vec<Prompt>)> {
    let read = dataset::read_demonstrations(reference)?;
    provenance.inputs.push(data_source(reference, &read));
    let (mut answers, mut prompts) = (HashMap::new(), Vec::new());
    for row in read.rows.into_iter().filter(|row| !row.prompt.is_empty()) {
        let id = messages_id(&row.prompt);
        if answers.contains_key(&id) {
            continue;
        }
        let answer = Answer {
            text: row.completion,
            tokens: 0,
            cut: false,
        };
        answers.insert(id.clone(), answer);
        prompts.push(Prompt {
            id,
            messages: row.prompt,
            source: reference.to_owned(),
            tags: Vec::new(),
        });
    }
    match answers.is_empty() {
        true => Err(Error::input("has no answers to prompts")
            .at_file(reference)
            .help("give candidates, revisions, or demonstrations with a prompt")),
        false => Ok((answers, prompts)),
    }
}

/// Names for models: the last part of a path, the whole reference where that is not enough.
fn names(references: &[&str]) -> Result<Vec<String>> {
    let short = |reference: &str| {
        let path = Path::new(reference);
        let last = path.file_name().filter(|_| path.exists());
        last.map_or_else(|| reference.to_owned(), |name| name.to_string_lossy().into_owned())
    };
    let shortened: Vec<String> = references.iter().map(|reference| short(reference)).collect();
    let names = shortened.iter().zip(references).map(|(name, reference)| {
        match shortened.iter().filter(|other| *other == name).count() {
            1 => name.clone(),
            _ => (*reference).to_owned(),
        }
    });
    let names: Vec<String> = names.collect();
    match (1..names.len()).find(|index| names[..*index].contains(&names[*index])) {
        Some(index) => {
            Err(Error::config(format!("{} is named twice", names[index])).help("name each model, or its answers, once"))
        }
        None => Ok(names),
    }
}

/// One prompt with both answers to it.
struct Duel<'a> {
    model: &'a str,
    prompt: &'a Prompt,
    ours: &'a Result<Answer, String>,
    theirs: &'a Result<Answer, String>,
}

impl Duel<'_> {
    fn rejected(&self, reason: String) -> Rejected {
        Rejected {
            row: format!("{}, prompt {}", self.model, self.prompt.id),
            reason,
        }
    }

    /// The pair with a preference of `p` for the model.
    fn row(&self, ours: &Answer, theirs: &Answer, p: f64, verdict: &'static str) -> PairRow {
        let counted = |tokens: u32| (tokens > 0).then_some(tokens);
        PairRow {
            model: self.model.to_owned(),
            idx: self.prompt.id.clone(),
            len_1_chars: theirs.text.chars().count(),
            len_2_chars: ours.text.chars().count(),
            len_1_tokens: counted(theirs.tokens),
            len_2_tokens: counted(ours.tokens),
            truncated_1: theirs.cut,
            truncated_2: ours.cut,
            preference: 1.0 + p,
            verdict,
            instruction: self
                .prompt
                .messages
                .last()
                .map_or_else(String::new, |last| last.content.clone()),
            output_1: theirs.text.clone(),
            output_2: ours.text.clone(),
        }
    }
}

/// Judges each duel in both orders. Identical answers are a tie without being asked; what cannot be judged is told.
fn judge_duels(
    context: Context<'_>,
    constitution: &Constitution,
    config: &JudgeConfig,
    duels: &[Duel<'_>],
    verdicts: &mut Verdicts,
) -> Result<()> {
    let mut asked = Vec::new();
    let mut rows = Vec::new();
    for duel in duels {
        let (ours, theirs) = match (duel.ours, duel.theirs) {
            (Ok(ours), Ok(theirs)) => (ours, theirs),
            (Err(reason), _) => {
                verdicts.rejected.push(duel.rejected(reason.clone()));
                continue;
            }
            (_, Err(reason)) => {
                verdicts.rejected.push(duel.rejected(format!("the baseline: {reason}")));
                continue;
            }
        };
        if ours.text.trim() == theirs.text.trim() {
            verdicts.rows.push(duel.row(ours, theirs, 0.5, "identical"));
            continue;
        }
        rows.push(candidates(duel.prompt, ours, theirs));
        asked.push((duel, ours, theirs));
    }
    let labels = judge_rows(context, constitution, &rows, config)?;
    if labels.len() != asked.len() {
        return Err(Error::unexpected("a pair has no verdict, or two"));
    }
    for (label, (duel, ours, theirs)) in labels.into_iter().zip(asked) {
        match label {
            Ok(label) => {
                let chosen = label.chosen.first().is_some_and(|message| message.content == ours.text);
                let p = f64::from(label.p_chosen);
                let (ours_tokens, theirs_tokens) = match chosen {
                    true => (label.chosen_tokens, label.rejected_tokens),
                    false => (label.rejected_tokens, label.chosen_tokens),
                };
                let mut row = duel.row(ours, theirs, if chosen { p } else { 1.0 - p }, "judged");
                row.len_1_tokens = Some(theirs_tokens);
                row.len_2_tokens = Some(ours_tokens);
                verdicts.rows.push(row);
            }
            Err(reject) if reject.reason.contains("is a tie") => {
                verdicts.rows.push(duel.row(ours, theirs, 0.5, "tie"));
            }
            Err(reject) => verdicts.rejected.push(duel.rejected(reject.reason)),
        }
    }
    Ok(())
}

/// A pair as the judge takes it: the model's answer first, the baseline's second.
fn candidates(prompt: &Prompt, ours: &Answer, theirs: &Answer) -> Candidates {
    let completion = |answer: &Answer, sample| Completion {
        text: answer.text.clone(),
        tokens: answer.tokens,
        finish_reason: "stop".into(),
        logprob: 0.0,
        sample,
    };
    Candidates {
        id: prompt.id.clone(),
        prompt: prompt.messages.clone(),
        completions: vec![completion(ours, 0), completion(theirs, 1)],
    }
}

/// The figures on the pairs, and how they came about.
fn measure(session: &Session, stage: &Winrate, judge: &str, verdicts: &Verdicts) -> Result<serde_json::Value> {
    if let (Some(first), []) = (verdicts.rejected.first(), &verdicts.rows[..]) {
        return Err(Error::input(format!(
            "none of {} pairs could be judged; the first, {}: {}",
            verdicts.rejected.len(),
            first.row,
            first.reason
        ))
        .help("look at the prompts, and at what the models answer to them"));
    }
    let pairs: Vec<JudgedPair> = verdicts
        .rows
        .iter()
        .map(|row| JudgedPair {
            model: row.model.clone(),
            instruction: row.idx.clone(),
            len_model: row.len_2_chars as f64,
            len_baseline: row.len_1_chars as f64,
            p: row.preference - 1.0,
        })
        .collect();
    let rates = rates(&pairs, stage.config(), session.stage_seed(stage.kind()))?;
    let mut document = page::document(rates, stage.config(), &verdicts.rejected)?;
    document["judge"] = json!(judge);
    if let Some(models) = document["models"].as_array_mut() {
        for model in models {
            let rows = || verdicts.rows.iter().filter(|row| model["model"] == row.model.as_str());
            let mean = |of: fn(&PairRow) -> Option<u32>| {
                let (count, sum) = rows()
                    .filter_map(of)
                    .fold((0u32, 0.0), |(count, sum), tokens| (count + 1, sum + f64::from(tokens)));
                (count > 0).then(|| sum / f64::from(count))
            };
            let count = |verdict: &str| rows().filter(|row| row.verdict == verdict).count();
            let told = json!({
                "identical": count("identical"),
                "ties": count("tie"),
                "truncated": rows().filter(|row| row.truncated_2).count(),
                "baseline_truncated": rows().filter(|row| row.truncated_1).count(),
                "mean_tokens": mean(|row| row.len_2_tokens),
                "baseline_mean_tokens": mean(|row| row.len_1_tokens),
            });
            model["judged"] = told;
        }
    }
    Ok(document)
}
