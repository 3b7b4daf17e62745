//! Reading rows of a kind that the data decide, and writing what was chosen of them.

use std::path::Path;

use crate::cli::place;
use crate::dataset::{self, Dataset, Kind, Loaded, Manifest, Provenance, Row, Status, rejects_dir};
use crate::error::{Error, Result};
use crate::record::{
    Candidates, Demonstration, Preference, Prompt, ReferenceLogprobs, Reject, Revision, UnpairedPreference,
};
use crate::survey::Surveyed;

/// Rows that the commands of `bylaw data` read, look at and write.
pub trait Readable: Row + Surveyed {
    /// All rows of a reference.
    fn read(reference: &str) -> Result<Loaded<Self>>;
}

macro_rules! readable {
    ($($row:ty => $read:path),* $(,)?) => {$(
        impl Readable for $row {
            fn read(reference: &str) -> Result<Loaded<Self>> {
                $read(reference)
            }
        }
    )*};
}

readable! {
    Prompt => dataset::read_prompts,
    Revision => dataset::read_revisions,
    Candidates => dataset::read_candidates,
    Preference => dataset::read_preferences,
    Demonstration => dataset::read_demonstrations,
    UnpairedPreference => dataset::read_unpaired_preferences,
    Reject => read_ours,
    ReferenceLogprobs => read_ours,
}

/// Rows that nobody but this program writes.
fn read_ours<R: Row>(reference: &str) -> Result<Loaded<R>> {
    let dataset = Dataset::<R>::open(reference)?;
    Ok(Loaded {
        rows: dataset.read_all()?,
        rejects: Vec::new(),
        sha256: dataset.sha256(),
    })
}

/// Calls a function of rows with the type of a kind.
macro_rules! with_rows {
    ($kind:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $kind {
            $crate::dataset::Kind::Prompts => $function::<$crate::record::Prompt>($($argument),*),
            $crate::dataset::Kind::Revisions => $function::<$crate::record::Revision>($($argument),*),
            $crate::dataset::Kind::Candidates => $function::<$crate::record::Candidates>($($argument),*),
            $crate::dataset::Kind::Preferences => $function::<$crate::record::Preference>($($argument),*),
            $crate::dataset::Kind::Rejects => $function::<$crate::record::Reject>($($argument),*),
            $crate::dataset::Kind::Demonstrations => $function::<$crate::record::Demonstration>($($argument),*),
            $crate::dataset::Kind::ReferenceLogprobs => $function::<$crate::record::ReferenceLogprobs>($($argument),*),
            $crate::dataset::Kind::UnpairedPreferences => {
                $function::<$crate::record::UnpairedPreference>($($argument),*)
            }
        }
    };
}
pub(super) use with_rows;

/// A kind as `--as` takes it.
pub fn parse_kind(text: &str) -> Result<Kind, String> {
    Kind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| format!("kinds: {}", Kind::ALL.map(Kind::as_str).join(", ")))
}

/// What the rows of a reference are: what a manifest says, or the first kind that every row can be read as.
/// Where some rows are beyond reading, the kind that most can be read as.
pub fn kind_of(reference: &str) -> Result<Kind> {
    fn readable<R: Readable>(reference: &str) -> Result<(usize, usize)> {
        let loaded = R::read(reference)?;
        Ok((loaded.rows.len(), loaded.rejects.len()))
    }
    let path = Path::new(reference);
    if Manifest::exists(path) {
        return Ok(Manifest::read(path)?.kind);
    }
    // A pair of answers can be read as candidates, an answer as a prompt: what says most comes first.
    let kinds = [
        Kind::Preferences,
        Kind::Revisions,
        Kind::Candidates,
        Kind::UnpairedPreferences,
        Kind::Demonstrations,
        Kind::Prompts,
    ];
    let mut best: Option<(usize, Kind)> = None;
    let mut failed = None;
    for kind in kinds {
        match with_rows!(kind, readable(reference)) {
            Ok((_, 0)) => return Ok(kind),
            Ok((rows, _)) if best.is_none_or(|(most, _)| rows > most) => best = Some((rows, kind)),
            Ok(_) => {}
            Err(error) => failed = Some(error),
        }
    }
    match (best, failed) {
        (Some((_, kind)), _) => Ok(kind),
        (None, Some(error)) => Err(error),
        (None, None) => Err(Error::unexpected("no kind was tried").at_file(reference)),
    }
}

/// Rows that can be gone through again and again, with those that could not be used.
pub enum Source<R> {
    /// A dataset: one shard after the other, from disk.
    Dataset(Box<Dataset<R>>),
    Files(Loaded<R>),
}

impl<R: Readable> Source<R> {
    pub fn open(reference: &str) -> Result<Self> {
        match Manifest::exists(Path::new(reference)) {
            true => Dataset::open(reference).map(|dataset| Self::Dataset(Box::new(dataset))),
            false => R::read(reference).map(Self::Files),
        }
    }

    pub fn each(&self, mut each: impl FnMut(&R) -> Result<()>) -> Result<()> {
        match self {
            Self::Files(loaded) => loaded.rows.iter().try_for_each(each),
            Self::Dataset(dataset) => dataset
                .shards()
                .try_for_each(|shard| shard?.iter().try_for_each(&mut each)),
        }
    }

    pub fn rejects(&self) -> Result<Vec<Reject>> {
        match self {
            Self::Files(loaded) => Ok(loaded.rejects.clone()),
            Self::Dataset(dataset) => dataset.rejects(),
        }
    }

    pub fn sha256(&self) -> String {
        match self {
            Self::Files(loaded) => loaded.sha256.clone(),
            Self::Dataset(dataset) => dataset.sha256(),
        }
    }

    pub fn is_running(&self) -> bool {
        matches!(self, Self::Dataset(dataset) if dataset.manifest().status == Status::Running)
    }
}

/// Makes sure that `out` is a place for a result: not there, empty, or with what an earlier call of the
/// same command left, of which `ours` says the names.
pub fn refuse_strangers(out: &Path, ours: impl Fn(&str) -> bool) -> Result<()> {
    place::check(out)?;
    let Ok(entries) = std::fs::read_dir(out) else {
        return Ok(());
    };
    let stranger = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| !name.starts_with('.') && !ours(name))
        .min();
    match stranger {
        None => Ok(()),
        Some(name) => Err(
            Error::config(format!("the output directory holds something else (found `{name}`)"))
                .at_file(out)
                .help("give an empty or new directory as --out"),
        ),
    }
}

/// Writes the rows that could not be read beside what was made of the others.
pub fn write_rejects(out: &Path, rejects: &[Reject], mut provenance: Provenance) -> Result<()> {
    provenance.stage = format!("{} rejects", provenance.stage);
    dataset::write_all(&rejects_dir(out), rejects, provenance).map(|_| ())
}
