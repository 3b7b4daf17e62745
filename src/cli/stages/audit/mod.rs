//! `audit`: what a judge or a label set is worth, before anything is trained on it.

mod experiment;
mod page;

use std::collections::BTreeMap;
use std::path::Path;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::judging::Judging;
use super::kept;
use super::prompting::Prompting;
use super::{Done, Stage};
use crate::bias::audit::{ROUNDS, Requirement, Section, section};
use crate::bias::causal::{Change, Effect};
use crate::bias::labels;
use crate::bounds;
use crate::cli::session::{Session, constitution_source, data_source};
use crate::cli::variables::Variables;
use crate::constitution::Constitution;
use crate::dataset::{self, Dataset, Manifest, Provenance};
use crate::engine::remote::RemoteConfig;
use crate::error::{Error, Result};
use crate::judged::JudgedPair;
use crate::progress::Progress;
use crate::record::{Preference, Reject};
use crate::seed::Seed;

/// The result of an audit.
pub const FILE: &str = "audit.json";

const EXAMPLES: &str = "\
An audit tells, with intervals, whether verdicts hang on the order, on the length, on whose answer
it is; how often they are right, and as sure as they say. A judge that is asked also meets changed
answers: padded with sentences that say nothing, said twice, turned into a list. What these change
is length's doing alone. With --require the exit code is 3 where the figures fall short.

Examples:
  bylaw audit --preferences out/labels
  bylaw audit --verdicts verdicts.json        (LLMBar, PandaLM, AlpacaEval, or verdict and gold)
  bylaw audit --verdicts gpt.json --answers testset.json --json
  bylaw audit --model M --constitution C --candidates out/candidates --out out/audit
  bylaw audit --model M --constitution C --pairs pairs.jsonl --require 'accuracy>=0.8'";

#[derive(Debug, Clone, Serialize, Args)]
#[command(after_help = EXAMPLES)]
pub struct Audit {
    /// Labels to audit: a dataset of `judge` or `balance`.
    #[arg(long, value_name = "DATA", conflicts_with_all = ["verdicts", "model"], required_unless_present_any = ["verdicts", "model"])]
    #[serde(skip)]
    pub preferences: Option<String>,
    /// Recorded verdicts.
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    #[serde(skip)]
    pub verdicts: Option<String>,
    /// The answers of the recorded verdicts, if they stand in a file of their own; joined by `idx`.
    #[arg(long, value_name = "FILE", requires = "verdicts")]
    #[serde(skip)]
    pub answers: Option<String>,
    /// The judge to ask, as `bylaw judge` takes it.
    #[arg(long, requires = "constitution")]
    #[serde(skip)]
    pub model: Option<String>,
    /// The constitution it judges under; its tags divide the figures.
    #[arg(long)]
    #[serde(skip)]
    pub constitution: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    pub variables: Variables,
    /// Candidates to compare: a dataset of `sample`, or rows with two or more answers.
    #[arg(long, value_name = "DATA", requires = "model", conflicts_with = "pairs")]
    #[serde(skip)]
    pub candidates: Option<String>,
    /// Answers of another model to the same prompts, each compared with one of --candidates, which are
    /// taken for the judge's own.
    #[arg(long, value_name = "DATA", requires = "candidates")]
    #[serde(skip)]
    pub others: Option<String>,
    /// Pairs to compare: `answer_1`, `answer_2` and perhaps `gold`, or a file as for --verdicts.
    #[arg(long, value_name = "FILE", requires = "model")]
    #[serde(skip)]
    pub pairs: Option<String>,
    /// Pairs to ask about, at most.
    #[arg(long, default_value_t = 300, value_name = "N", value_parser = bounds::count)]
    pub most_pairs: usize,
    /// Changes of answers to try on the judge.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Change::ALL)]
    pub changes: Vec<Change>,
    /// Sentences that say nothing, one to a line: a file, builtin:general or builtin:proving-ground.
    #[arg(long, default_value = "builtin:general", value_name = "FILE")]
    #[serde(skip)]
    pub padding: String,
    /// What figures must be, separated by commas; their names are those of --json.
    #[arg(long, value_delimiter = ',', value_name = "FIGURE>=NUMBER")]
    #[serde(skip)]
    pub require: Vec<Requirement>,
    /// Rows to a unit of work, at most: what is lost when the program is killed.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = bounds::count)]
    #[serde(skip)]
    pub unit_rows: usize,
    #[command(flatten)]
    #[serde(flatten)]
    pub prompting: Prompting,
    #[command(flatten)]
    #[serde(flatten)]
    pub judging: Judging,
    #[command(flatten, next_help_heading = "Endpoints")]
    #[serde(skip)]
    pub remote: RemoteConfig,
}

/// What an audit found, as it stands in `audit.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Audited {
    /// What was audited, in a few words.
    pub subject: String,
    /// All pairs first, then what they have in common: tags or principles.
    pub sections: Vec<Section>,
    /// What changes of answers do, where a judge was asked.
    pub changes: Vec<Effect>,
    /// Rows that could not be read.
    pub unread: u64,
    /// Why the first of them could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_unread: Option<String>,
    /// Rows of a prompt that only one of the two models answered.
    #[serde(default, skip_serializing_if = "is_none")]
    pub unmatched: u64,
    /// Rows of fewer than two answers.
    #[serde(default, skip_serializing_if = "is_none")]
    pub single: u64,
    /// Pairs of identical answers, about which no judge is asked.
    #[serde(default, skip_serializing_if = "is_none")]
    pub identical: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

impl Audited {
    fn of(
        subject: String,
        pairs: &[JudgedPair],
        constitution: Option<&Constitution>,
        seed: Seed,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let all: Vec<&JudgedPair> = pairs.iter().collect();
        let mut groups = groups(pairs, constitution);
        if groups.len() == 1 {
            groups.clear();
        }
        progress.start("intervals", (1 + groups.len() as u64) * ROUNDS, "resamples");
        let mut sections = vec![section("all", &all, seed, progress)?];
        for (name, pairs) in &groups {
            let pairs: Vec<&JudgedPair> = pairs.iter().collect();
            sections.push(section(name, &pairs, seed.child(name), progress)?);
        }
        progress.finish();
        Ok(Self {
            subject,
            sections,
            changes: Vec::new(),
            unread: 0,
            first_unread: None,
            unmatched: 0,
            single: 0,
            identical: 0,
        })
    }

    /// With the rows that could not be read.
    fn beside(self, unread: &[Reject]) -> Self {
        Self {
            unread: unread.len() as u64,
            first_unread: unread.first().map(|reject| reject.reason.clone()),
            ..self
        }
    }

    /// Why it does not meet the requirements, if it does not.
    fn failure(&self, requirements: &[Requirement]) -> Option<String> {
        let all = self.sections.first()?;
        let missed: Vec<String> = requirements
            .iter()
            .filter_map(|requirement| requirement.missed(all))
            .collect();
        (!missed.is_empty()).then(|| format!("the audit is not passed: {}", missed.join("; ")))
    }
}

/// The pairs by the tags of the principles that were asked about, or by principle where no constitution says
/// tags; of each pair the judgements that belong there.
fn groups(pairs: &[JudgedPair], constitution: Option<&Constitution>) -> BTreeMap<String, Vec<JudgedPair>> {
    let names = |principle: &str| -> Vec<String> {
        match constitution.and_then(|constitution| constitution.principle(principle)) {
            Some(principle) if !principle.tags.is_empty() => principle.tags.clone(),
            _ => vec![principle.to_owned()],
        }
    };
    let mut groups: BTreeMap<String, Vec<JudgedPair>> = BTreeMap::new();
    for pair in pairs {
        let mut parts: BTreeMap<String, JudgedPair> = BTreeMap::new();
        for judgement in pair
            .judgements
            .iter()
            .filter(|judgement| !judgement.principle_id.is_empty())
        {
            for name in names(&judgement.principle_id) {
                let part = parts.entry(name).or_insert_with(|| JudgedPair {
                    judgements: Vec::new(),
                    ..pair.clone()
                });
                part.judgements.push(judgement.clone());
            }
        }
        for (name, part) in parts {
            groups.entry(name).or_default().push(part);
        }
    }
    groups
}

/// What is there already, to be audited without asking anybody.
struct Recorded {
    subject: String,
    pairs: Vec<JudgedPair>,
    constitution: Option<Constitution>,
    unread: Vec<Reject>,
}

impl Recorded {
    fn measure(&self, session: &Session, seed: Seed) -> Result<Value> {
        let constitution = self.constitution.as_ref();
        let audited = Audited::of(
            self.subject.clone(),
            &self.pairs,
            constitution,
            seed,
            session.progress(),
        )?;
        to_value(&audited.beside(&self.unread))
    }
}

impl Audit {
    fn read(&self, provenance: &mut Provenance) -> Result<Recorded> {
        let constitution = self.constitution.as_deref();
        let constitution = constitution
            .map(|reference| self.variables.resolve(reference))
            .transpose()?;
        if let (Some(reference), Some(constitution)) = (&self.constitution, &constitution) {
            provenance.constitution = Some(constitution_source(reference, constitution));
        }
        if let Some(reference) = &self.preferences {
            let data = dataset::read_preferences(reference)?;
            provenance.inputs = vec![data_source(reference, &data)];
            let mut pairs: Vec<JudgedPair> = data.rows.iter().map(labels::pair).collect();
            // Ties, and verdicts that could not be read, lie beside the labels.
            match Manifest::exists(Path::new(reference)) {
                true => pairs.extend(labels::unlabelled(&Dataset::<Preference>::open(reference)?.rejects()?)),
                false => pairs.extend(labels::unlabelled(&data.rejects)),
            }
            return Ok(Recorded {
                subject: format!("labels of {reference}"),
                pairs,
                constitution,
                unread: data.rejects,
            });
        }
        let Some(reference) = &self.verdicts else {
            return Err(Error::config("nothing to audit").help("give --preferences, --verdicts or --model"));
        };
        let data = dataset::read_recorded(reference, self.answers.as_deref())?;
        provenance.inputs = vec![data_source(reference, &data)];
        Ok(Recorded {
            subject: format!("verdicts of {reference}"),
            pairs: data.rows.into_iter().map(|row| row.said).collect(),
            constitution: None,
            unread: data.rejects,
        })
    }

    fn done(&self, result: Value) -> Result<Done> {
        let audited: Audited = serde_json::from_value(result.clone())
            .map_err(|error| Error::input("not the result of an audit").because(error))?;
        Ok(Done {
            note: page::note(&audited),
            page: page::page(&audited),
            failure: audited.failure(&self.require),
            result,
            ..Done::default()
        })
    }
}

fn to_value(audited: &Audited) -> Result<Value> {
    serde_json::to_value(audited).map_err(|error| Error::unexpected("an audit").because(error))
}

impl Stage for Audit {
    fn kind(&self) -> &'static str {
        "audit"
    }

    fn run(&self, session: &Session, out: &Path) -> Result<Done> {
        if let Some(model) = &self.model {
            let experiment = experiment::Experiment::prepare(self, session, model)?;
            let provenance = experiment.provenance.clone();
            let place = (out, FILE, experiment::LABELS);
            let result = kept::keep_with_work(session, place, provenance, "audit", || {
                to_value(&experiment.run(self, session, Some(out))?)
            })?;
            return self.done(result);
        }
        let mut provenance = session.provenance(self.kind(), self)?;
        let recorded = self.read(&mut provenance)?;
        self.done(kept::keep(session, out, FILE, provenance, "audit", || {
            recorded.measure(session, session.stage_seed(self.kind()))
        })?)
    }

    fn answer(&self, session: &Session) -> Result<Done> {
        if let Some(model) = &self.model {
            let experiment = experiment::Experiment::prepare(self, session, model)?;
            return self.done(to_value(&experiment.run(self, session, None)?)?);
        }
        let mut provenance = session.provenance(self.kind(), self)?;
        let recorded = self.read(&mut provenance)?;
        self.done(recorded.measure(session, session.stage_seed(self.kind()))?)
    }
}
