//! The states of a training run on disk: weights, optimiser moments and the step, from which the run goes on exactly.
//!
//! Each is a folder `checkpoint/step-N`: the tensors, and a small file written last that says what they are and their
//! checksum. A newer one is whole before an older one goes; one that is damaged is told, and the one before it is used.

mod tensors;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, bail};
use serde::{Deserialize, Serialize};

use self::tensors::Numbers;
use super::optim::AdamW;
use crate::atomic;
use crate::error::{Error, ErrorKind, Result};
use crate::model::files;
use crate::progress::Progress;

/// The folder of the checkpoints in a training directory.
pub const DIR: &str = "checkpoint";
/// Before the number of steps, in the name of a checkpoint's folder and of an exported model's.
const STEP: &str = "step-";
const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";
/// Weights that may turn out to be the best.
const BEST: &str = "best.safetensors";
/// Numbers that a method keeps from step to step (the weight of a controller, what a monitor has seen), by name.
pub type Kept = BTreeMap<String, Vec<f64>>;
/// Before the names of what is kept, among the tensors.
const KEPT: &str = "kept.";

/// What to do when the directory of a run is no longer where it was.
pub const GONE: &str = "the run's directory was moved or removed; put it back, and run the same command again";
const BEGIN_AGAIN: &str = "remove the folder `checkpoint` to train from the beginning; with --keep-checkpoints 2 there is \
                           always an older one to fall back on";

/// The checkpoints of one run.
pub struct Series<'a> {
    /// The run's directory.
    pub dir: &'a Path,
    /// Hash of everything the run depends on; the checkpoints of another run are refused.
    pub fingerprint: &'a str,
    /// So many are kept, at least one.
    pub keep: usize,
}

#[derive(Serialize, Deserialize)]
struct State {
    step: usize,
    optimizer_step: usize,
    fingerprint: String,
    /// The tensors' file.
    tensors: String,
    /// Of the fields above and that file; checkpoints of earlier versions have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl State {
    /// What the checksum covers besides the tensors.
    fn sealed(&self) -> String {
        format!("{} {} {}\n", self.step, self.optimizer_step, self.fingerprint)
    }
}

/// What stands after `steps` steps is under this name.
pub fn step_name(steps: usize) -> String {
    format!("{STEP}{steps:06}")
}

impl Series<'_> {
    /// Saves the run after `step` steps, then removes what is older than the checkpoints to keep.
    pub fn save(&self, step: usize, (named, kept): (&[(String, &Tensor)], &Kept), optimizer: &AdamW) -> Result<()> {
        let parent = self.dir.join(DIR);
        create_folder(&parent)?;
        let folder = parent.join(step_name(step));
        create_folder(&folder)?;
        let mut state = State {
            step,
            optimizer_step: optimizer.step,
            fingerprint: self.fingerprint.to_owned(),
            tensors: TENSORS.to_owned(),
            sha256: None,
        };
        let numbers = numbers(named, kept, optimizer);
        state.sha256 = Some(tensors::write(&folder.join(TENSORS), &state.sealed(), &numbers)?);
        let json = serde_json::to_vec_pretty(&state).map_err(|error| Error::unexpected("state").because(error))?;
        atomic::write(&folder.join(STATE), &json)?;
        self.prune(step)
    }

    /// Removes all but the newest checkpoints up to `step`. Those of later steps are of a future that did not come:
    /// the run went on from before them because they were damaged.
    fn prune(&self, step: usize) -> Result<()> {
        let parent = self.dir.join(DIR);
        let whole = found(self.dir)?;
        let mut kept: Vec<PathBuf> = (whole.into_iter())
            .filter(|(of, _)| *of <= step)
            .map(|(_, folder)| folder)
            .collect();
        kept.truncate(self.keep.max(1));
        let old_layout = kept.contains(&parent);
        for entry in entries(&parent)? {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let removed = if entry.is_dir() {
                if kept.contains(&entry) || steps_of(&entry).is_none() {
                    continue;
                }
                // First what makes it a checkpoint: what is left of it is none.
                remove_if_there(&entry.join(STATE))?;
                std::fs::remove_dir_all(&entry)
            } else if !old_layout && (name == STATE || name.ends_with(TENSORS)) {
                std::fs::remove_file(&entry)
            } else {
                continue;
            };
            removed.map_err(|error| Error::io("remove", &entry, error))?;
        }
        Ok(())
    }

    /// Restores the newest checkpoint that is whole. Answers the steps done, 0 without any, and what was kept.
    pub fn restore(
        &self,
        named: &[(String, &Tensor)],
        optimizer: &mut AdamW,
        progress: &dyn Progress,
    ) -> Result<(usize, Kept)> {
        let mut damaged: Option<Error> = None;
        for (_, folder) in found(self.dir)? {
            match self.restore_from(&folder, named, optimizer) {
                Ok((step, kept)) => {
                    if let Some(error) = damaged {
                        progress.note(&format!("{error}; going on from the one before it, of step {step}"));
                    }
                    return Ok((step, kept));
                }
                Err(error) if error.kind() == ErrorKind::Input => {
                    damaged.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        damaged.map_or(Ok((0, Kept::new())), Err)
    }

    fn restore_from(&self, folder: &Path, named: &[(String, &Tensor)], optimizer: &mut AdamW) -> Result<(usize, Kept)> {
        let path = folder.join(STATE);
        let text = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error).help(BEGIN_AGAIN))?;
        let state: State = serde_json::from_str(&text)
            .map_err(|error| damaged(&path, "the checkpoint is damaged: its state cannot be read").because(error))?;
        if state.fingerprint != self.fingerprint {
            return Err(Error::config(
                "the checkpoint belongs to a run with another model, other data or other settings",
            )
            .at_file(&path)
            .help("use another --out, or remove the directory to begin again"));
        }
        let path = folder.join(&state.tensors);
        if let Some(sha256) = &state.sha256
            && *sha256 != tensors::checksum(&path, &state.sealed()).map_err(|error| error.or_help(BEGIN_AGAIN))?
        {
            return Err(damaged(&path, "the checkpoint is damaged: its checksum is another"));
        }
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu)
            .map_err(|error| damaged(&path, "the checkpoint is damaged: its tensors cannot be read").because(error))?;
        let mut moments = Vec::with_capacity(named.len());
        for (name, tensor) in named {
            assign(tensor, take(&mut tensors, name, &path)?)?;
            moments.push((
                take(&mut tensors, &format!("{name}.first_moment"), &path)?,
                take(&mut tensors, &format!("{name}.second_moment"), &path)?,
            ));
        }
        optimizer.restore(state.optimizer_step, moments);
        let mut kept = Kept::new();
        for (name, tensor) in &tensors {
            if let Some(name) = name.strip_prefix(KEPT) {
                kept.insert(name.to_owned(), tensor.to_vec1()?);
            }
        }
        Ok((state.step, kept))
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    Error::input(what).at_file(path).help(BEGIN_AGAIN)
}

fn numbers<'a>(named: &'a [(String, &Tensor)], kept: &'a Kept, optimizer: &'a AdamW) -> Vec<(String, Numbers<'a>)> {
    let kept = kept.iter().filter(|(_, values)| !values.is_empty());
    let kept = kept.map(|(name, values)| (format!("{KEPT}{name}"), Numbers::Doubles(values)));
    let learnt = named.iter().zip(optimizer.moments());
    let learnt = learnt.flat_map(|((name, tensor), (first, second))| {
        [
            (name.clone(), Numbers::Tensor(tensor)),
            (format!("{name}.first_moment"), Numbers::Singles(first)),
            (format!("{name}.second_moment"), Numbers::Singles(second)),
        ]
    });
    kept.chain(learnt).collect()
}

/// The folder of the newest checkpoint in a training directory, whole or damaged.
pub fn newest(dir: &Path) -> Result<Option<PathBuf>> {
    Ok(found(dir)?.into_iter().next().map(|(_, folder)| folder))
}

/// The checkpoints of a training directory with their steps, newest first. Earlier versions had one, in the folder of
/// all: it is the oldest here.
fn found(dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let parent = dir.join(DIR);
    let mut found: Vec<(usize, PathBuf)> = (entries(&parent)?.into_iter())
        .filter(|folder| folder.join(STATE).exists())
        .filter_map(|folder| Some((steps_of(&folder)?, folder)))
        .collect();
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    if parent.join(STATE).exists() {
        found.push((0, parent));
    }
    Ok(found)
}

fn steps_of(folder: &Path) -> Option<usize> {
    let name = folder.file_name()?.to_str()?;
    name.strip_prefix(STEP)?.parse().ok()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io("read", folder, error);
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Makes a folder in the directory of a run, durably. If that directory is gone it stays gone: what went on
/// in a new one of its name would be half of a run.
pub fn create_folder(folder: &Path) -> Result<()> {
    match std::fs::create_dir(folder) {
        Ok(()) => atomic::sync_directory(folder.parent().unwrap_or(folder)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::io("create", folder, error).help(GONE))
        }
        Err(error) => Err(Error::io("create", folder, error)),
    }
}

fn take(tensors: &mut HashMap<String, Tensor>, name: &str, path: &Path) -> Result<Vec<f32>> {
    let tensor = tensors.remove(name).ok_or_else(|| {
        Error::input(format!("the checkpoint lacks `{name}`"))
            .at_file(path)
            .help(BEGIN_AGAIN)
    })?;
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// Saves weights aside, over those saved before: what a run may end with if it gets worse from here.
pub fn save_best<'a>(dir: &Path, parameters: impl Iterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
    let folder = dir.join(DIR);
    create_folder(&folder)?;
    let tensors: Vec<(String, Tensor)> = parameters
        .map(|(name, tensor)| (name.to_owned(), tensor.clone()))
        .collect();
    files::write_tensors(&folder.join(BEST), &tensors)
}

/// Puts the weights saved aside in the place of others.
pub fn restore_best<'a>(dir: &Path, parameters: impl Iterator<Item = (&'a str, &'a Tensor)>) -> Result<()> {
    let path = dir.join(DIR).join(BEST);
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).map_err(|error| {
        Error::input("the best weights cannot be read")
            .at_file(&path)
            .because(error)
            .help(BEGIN_AGAIN)
    })?;
    for (name, tensor) in parameters {
        assign(tensor, take(&mut tensors, name, &path)?)?;
    }
    Ok(())
}

/// Removes the checkpoints of a finished run, if there are any.
pub fn remove(dir: &Path) -> Result<()> {
    // One by one: an error names the folder that it is about.
    for folder in entries(&dir.join(DIR))?.into_iter().filter(|entry| entry.is_dir()) {
        std::fs::remove_dir_all(&folder).map_err(|error| Error::io("remove", &folder, error))?;
    }
    match std::fs::remove_dir_all(dir.join(DIR)) {
        Ok(()) => atomic::sync_directory(dir),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", dir.join(DIR), error)),
    }
}

/// Overwrites a tensor in place.
pub fn assign(tensor: &Tensor, values: Vec<f32>) -> Result<()> {
    struct Assign(Mutex<Vec<f32>>);
    impl InplaceOp1 for Assign {
        fn name(&self) -> &'static str {
            "assign"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
            match (storage, layout.contiguous_offsets(), self.0.lock()) {
                (CpuStorage::F32(old), Some((start, end)), Ok(new)) if new.len() == end - start => {
                    old[start..end].copy_from_slice(&new);
                    Ok(())
                }
                _ => bail!("assign wants a contiguous f32 tensor of the same size"),
            }
        }
    }
    Ok(tensor.inplace_op1(&Assign(Mutex::new(values)))?)
}
