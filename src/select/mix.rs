//! Mixtures: so many rows of several sources, by weight.

use std::collections::BTreeMap;

use super::{largest_remainder, number};
use crate::error::{Error, Result};
use crate::seed::Seed;
use crate::survey::Surveyed;

/// What each source keeps its own proportions of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stratum {
    /// Where a row comes from.
    Source,
    /// All tags of a row together.
    Tag,
    /// The number of turns of its prompt.
    Turns,
}

#[derive(Debug, Clone)]
pub struct MixConfig {
    /// Rows of the mixture.
    pub rows: u64,
    pub stratify: Option<Stratum>,
    /// Take rows again once a source is used up.
    pub repeat: bool,
    pub seed: Seed,
}

/// A source of a mixture.
#[derive(Debug, Clone, Copy)]
pub struct Weighted<'a, R> {
    /// How the user named it.
    pub name: &'a str,
    pub weight: f64,
    pub rows: &'a [R],
}

/// A row of the mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    pub source: usize,
    pub row: usize,
    /// How often the row has been taken before.
    pub pass: u64,
}

/// Chooses the rows, in the order of the mixture: shuffled over all sources.
pub fn mix<R: Surveyed>(sources: &[Weighted<'_, R>], config: &MixConfig) -> Result<Vec<Choice>> {
    let weights: Vec<f64> = sources.iter().map(|source| source.weight).collect();
    let quotas = largest_remainder(config.rows, &weights);
    if !config.repeat {
        enough(sources, &quotas)?;
    }
    let mut chosen: Vec<(u64, Choice)> = Vec::new();
    for (index, (source, quota)) in sources.iter().zip(quotas).enumerate() {
        if quota > 0 && source.rows.is_empty() {
            return Err(Error::input("the source has no rows")
                .at_file(source.name)
                .help("leave it out of the mixture"));
        }
        let order = order(source.rows, &config.seed);
        let strata = strata(source, config.stratify)?;
        let mut rest = quota;
        let mut pass = 0;
        while rest > 0 {
            let take = rest.min(source.rows.len() as u64);
            for row in take_from(&order, &strata, take) {
                let choice = Choice {
                    source: index,
                    row,
                    pass,
                };
                let place = format!("{}\n{pass}", source.rows[row].specimen().id);
                chosen.push((number(&config.seed.child("place").index(index as u64), &place), choice));
            }
            (rest, pass) = (rest - take, pass + 1);
        }
    }
    chosen.sort_by_key(|(place, choice)| (*place, choice.source, choice.row, choice.pass));
    Ok(chosen.into_iter().map(|(_, choice)| choice).collect())
}

fn enough<R>(sources: &[Weighted<'_, R>], quotas: &[u64]) -> Result<()> {
    let short = sources
        .iter()
        .zip(quotas)
        .find(|(source, quota)| **quota > source.rows.len() as u64);
    let Some((source, quota)) = short else {
        return Ok(());
    };
    // The largest mixture that every source has rows for.
    let sum: f64 = sources.iter().map(|source| source.weight).sum();
    let most = sources
        .iter()
        .filter(|source| source.weight > 0.0)
        .map(|source| source.rows.len() as f64 * sum / source.weight)
        .fold(f64::INFINITY, f64::min);
    Err(Error::input(format!(
        "the mixture needs {quota} rows of it, but there are {}",
        source.rows.len()
    ))
    .at_file(source.name)
    .help(format!(
        "with these weights there are rows for `--rows {}`; give fewer rows or other weights, or take rows again with `--repeat`",
        most as u64
    )))
}

/// The rows in the order in which they are taken. It follows their ids, so rows added to a source change
/// the order of the others in no way.
fn order<R: Surveyed>(rows: &[R], seed: &Seed) -> Vec<usize> {
    let seed = seed.child("order");
    let mut keyed: Vec<(u64, usize)> = rows
        .iter()
        .enumerate()
        .map(|(index, row)| (number(&seed, row.specimen().id), index))
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, index)| index).collect()
}

/// The stratum of each row.
fn strata<R: Surveyed>(source: &Weighted<'_, R>, stratum: Option<Stratum>) -> Result<Vec<String>> {
    let unknown = |what: &str| {
        Error::config(format!("rows of this kind have no {what} to stratify by"))
            .at_file(source.name)
            .help("`--stratify turns` works for every kind; prompts have sources and tags, preferences sources")
    };
    let of = |row: &R| {
        let specimen = row.specimen();
        match stratum {
            None => Ok(String::new()),
            Some(Stratum::Source) => specimen.source.map(str::to_owned).ok_or_else(|| unknown("source")),
            Some(Stratum::Turns) => Ok(specimen.prompt.len().to_string()),
            Some(Stratum::Tag) => {
                let mut tags = specimen.tags.ok_or_else(|| unknown("tags"))?.to_vec();
                tags.sort();
                Ok(tags.join("\n"))
            }
        }
    };
    source.rows.iter().map(of).collect()
}

/// The first `count` rows of `order`, each stratum in its proportion of all rows.
fn take_from(order: &[usize], strata: &[String], count: u64) -> Vec<usize> {
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for stratum in strata {
        *sizes.entry(stratum).or_default() += 1;
    }
    let weights: Vec<f64> = sizes.values().map(|size| *size as f64).collect();
    let parts = largest_remainder(count, &weights);
    let mut left: BTreeMap<&str, u64> = sizes.keys().copied().zip(parts).collect();
    let mut taken = Vec::with_capacity(count as usize);
    for row in order {
        if let Some(left) = left.get_mut(strata[*row].as_str())
            && *left > 0
        {
            *left -= 1;
            taken.push(*row);
        }
    }
    taken
}
