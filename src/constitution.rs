//! Constitutions: the principles that critiques, revisions and judgements draw on.
//!
//! Reads TOML into a validated [`Constitution`], resolving `extends`, and draws principles by weight.
//! Every mistake is reported at its place in the file, because editing these files is what people do
//! here. Knows nothing of prompts, models or stages: a principle is three texts and a weight.

mod parse;

use std::path::PathBuf;

use rand::Rng as _;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, nearest};
use crate::record::hex;
use crate::seed::Rng;

/// The constitutions inside the program, by name.
const BUILTIN: [(&str, &str); 2] = [
    ("harmless", include_str!("../constitutions/harmless.toml")),
    ("proving-ground", include_str!("../constitutions/proving-ground.toml")),
];

const BUILTIN_PREFIX: &str = "builtin:";

/// One rule: how to criticise an answer by it, how to revise one, how to compare two.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Principle {
    /// Lower-case letters, digits and hyphens; unique.
    pub id: String,
    /// The critique request; there is one exactly if there is a `revise`.
    pub critique: Option<String>,
    /// The revision request.
    pub revise: Option<String>,
    /// The comparison question.
    pub judge: Option<String>,
    /// How often it is drawn, relative to the others.
    pub weight: f64,
    pub tags: Vec<String>,
}

impl Principle {
    /// The beginning of the SHA-256 of what a model reads of it: the same for the same texts, wherever they stand,
    /// however often they are drawn, and whatever they are called.
    pub fn hash(&self) -> String {
        let texts = serde_json::json!([self.critique, self.revise, self.judge]);
        hex(&Sha256::digest(texts.to_string())[..8])
    }
}

/// A set of principles, its `extends` resolved: inherited principles first, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Constitution {
    pub name: String,
    pub version: String,
    pub principles: Vec<Principle>,
    /// The file it was read from; `None` for a built-in one.
    pub path: Option<PathBuf>,
    /// SHA-256 of the name, the version and the principles. Where they stand (which file, which
    /// layout) does not change it.
    pub hash: String,
}

impl Constitution {
    /// Reads a file, with everything it extends.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let parsed = parse::file(&path)?;
        Ok(Self::new(parsed, Some(path)))
    }

    /// Reads a text as if it stood in the file `path`, which need not exist.
    pub fn parse(text: &str, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let parsed = parse::text(text, &path)?;
        Ok(Self::new(parsed, Some(path)))
    }

    /// A constitution inside the program.
    pub fn builtin(name: &str) -> Result<Self> {
        let parsed = parse::text(builtin_text(name)?, &PathBuf::from(format!("{BUILTIN_PREFIX}{name}")))?;
        Ok(Self::new(parsed, None))
    }

    /// The names that [`Constitution::builtin`] knows.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }

    /// The constitution that a user names: `builtin:NAME`, or a path.
    pub fn resolve(reference: &str) -> Result<Self> {
        match reference.strip_prefix(BUILTIN_PREFIX) {
            Some(name) => Self::builtin(name),
            None => Self::load(reference),
        }
    }

    fn new(parsed: parse::Parsed, path: Option<PathBuf>) -> Self {
        let parse::Parsed {
            name,
            version,
            principles,
        } = parsed;
        let content = serde_json::json!([name, version, principles]);
        Self {
            hash: hex(&Sha256::digest(content.to_string())),
            name,
            version,
            principles,
            path,
        }
    }

    /// The principle with the id, for rows that name one.
    pub fn principle(&self, id: &str) -> Option<&Principle> {
        self.principles.iter().find(|principle| principle.id == id)
    }

    /// Draws a principle to criticise and revise by, in proportion to the weights.
    pub fn draw_critique(&self, rng: &mut Rng) -> Result<&Principle> {
        self.draw(rng, |principle| {
            principle.critique.is_some() && principle.revise.is_some()
        })
        .ok_or_else(|| self.nothing_to_draw("critique` and `revise", "revision"))
    }

    /// Draws a principle to compare by, in proportion to the weights.
    pub fn draw_judge(&self, rng: &mut Rng) -> Result<&Principle> {
        self.draw(rng, |principle| principle.judge.is_some())
            .ok_or_else(|| self.nothing_to_draw("judge", "judging"))
    }

    /// Draws `count` different principles to compare by, one after the other in proportion to the weights of
    /// those that are left; the first is the one that [`draw_judge`](Self::draw_judge) draws. Each has the share 1.
    ///
    /// Where there are no more than `count`, nothing is drawn: all come in their order, and their shares are in
    /// proportion to their weights, with the mean 1.
    pub fn draw_judges(&self, rng: &mut Rng, count: usize) -> Result<Vec<(&Principle, f32)>> {
        let fits = |principle: &Principle| principle.judge.is_some() && principle.weight > 0.0;
        let all: Vec<&Principle> = self.principles.iter().filter(|principle| fits(principle)).collect();
        if all.is_empty() {
            return Err(self.nothing_to_draw("judge", "judging"));
        }
        if all.len() <= count {
            let mean = all.iter().map(|principle| principle.weight).sum::<f64>() / all.len() as f64;
            let share = |principle: &Principle| (principle.weight / mean) as f32;
            return Ok(all.into_iter().map(|principle| (principle, share(principle))).collect());
        }
        let mut drawn: Vec<(&Principle, f32)> = Vec::with_capacity(count);
        while drawn.len() < count {
            let left =
                |principle: &Principle| fits(principle) && drawn.iter().all(|(known, _)| known.id != principle.id);
            match self.draw(rng, left) {
                Some(principle) => drawn.push((principle, 1.0)),
                None => break,
            }
        }
        Ok(drawn)
    }

    fn draw(&self, rng: &mut Rng, fits: impl Fn(&Principle) -> bool) -> Option<&Principle> {
        let fitting = || {
            self.principles
                .iter()
                .filter(|principle| fits(principle) && principle.weight > 0.0)
        };
        let total: f64 = fitting().map(|principle| principle.weight).sum();
        let mut left = rng.random::<f64>() * total;
        for principle in fitting() {
            left -= principle.weight;
            if left < 0.0 {
                return Some(principle);
            }
        }
        // Rounding may leave a hair more than nothing.
        fitting().last()
    }

    fn nothing_to_draw(&self, texts: &str, stage: &str) -> Error {
        let error = Error::config(format!(
            "the constitution `{}` has no principle with `{texts}` and a positive weight, which {stage} needs",
            self.name
        ));
        let error = error.help(format!(
            "add `{texts}` to at least one principle, or use another constitution"
        ));
        match &self.path {
            Some(path) => error.at_file(path),
            None => error,
        }
    }
}

fn builtin_text(name: &str) -> Result<&'static str> {
    if let Some((_, text)) = BUILTIN.iter().find(|(known, _)| *known == name) {
        return Ok(text);
    }
    let names: Vec<&str> = Constitution::builtin_names().collect();
    let help = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{BUILTIN_PREFIX}{near}`?"),
        None => format!("the built-in constitutions are: {}", names.join(", ")),
    };
    Err(Error::config(format!("there is no built-in constitution `{name}`")).help(help))
}

#[cfg(test)]
mod tests;
