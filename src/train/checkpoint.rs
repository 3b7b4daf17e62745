//! The state of a training run on disk: weights, optimiser moments and the step, from which the run
//! goes on exactly.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::optim::AdamW;
use crate::atomic;
use crate::error::{Error, Result};
use crate::model::files;

/// The folder of a checkpoint in a training directory.
pub const DIR: &str = "checkpoint";
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
const BEGIN_AGAIN: &str = "remove the folder `checkpoint` to train from the beginning";

#[derive(Serialize, Deserialize)]
struct State {
    step: usize,
    optimizer_step: usize,
    /// Hash of everything the run depends on.
    fingerprint: String,
    /// The tensors' file; its name changes with the step, so that state and tensors always agree.
    tensors: String,
}

fn state_path(dir: &Path) -> PathBuf {
    dir.join(DIR).join(STATE)
}

/// Saves the run after `step` steps. The state file is renamed into place last.
pub fn save(
    dir: &Path,
    step: usize,
    fingerprint: &str,
    (named, kept): (&[(String, &Tensor)], &Kept),
    optimizer: &AdamW,
) -> Result<()> {
    let folder = dir.join(DIR);
    create_folder(&folder)?;
    let mut tensors: Vec<(String, Tensor)> = Vec::with_capacity(3 * named.len());
    for ((name, tensor), (first, second)) in named.iter().zip(optimizer.moments()) {
        tensors.push((name.clone(), (*tensor).clone()));
        tensors.push((format!("{name}.first_moment"), Tensor::new(first, &Device::Cpu)?));
        tensors.push((format!("{name}.second_moment"), Tensor::new(second, &Device::Cpu)?));
    }
    for (name, values) in kept.iter().filter(|(_, values)| !values.is_empty()) {
        tensors.push((format!("{KEPT}{name}"), Tensor::new(values.as_slice(), &Device::Cpu)?));
    }
    let file = format!("{step}-{TENSORS}");
    files::write_tensors(&folder.join(&file), &tensors)?;
    let state = State {
        step,
        optimizer_step: optimizer.step,
        fingerprint: fingerprint.to_owned(),
        tensors: file.clone(),
    };
    let json = serde_json::to_vec_pretty(&state).map_err(|error| Error::unexpected("state").because(error))?;
    atomic::write(&state_path(dir), &json)?;
    remove_others(&folder, &file)
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

fn remove_others(folder: &Path, keep: &str) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(|error| Error::io("read", folder, error))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name != keep && name.to_string_lossy().ends_with(TENSORS) {
            std::fs::remove_file(entry.path()).map_err(|error| Error::io("remove", entry.path(), error))?;
        }
    }
    Ok(())
}

/// Restores a run saved with the same fingerprint; answers the steps done, 0 without a checkpoint, and what was kept.
pub fn restore(
    dir: &Path,
    fingerprint: &str,
    named: &[(String, &Tensor)],
    optimizer: &mut AdamW,
) -> Result<(usize, Kept)> {
    let path = state_path(dir);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((0, Kept::new())),
        Err(error) => return Err(Error::io("read", &path, error).help(BEGIN_AGAIN)),
    };
    let state: State = serde_json::from_str(&text).map_err(|error| {
        Error::input("not a checkpoint")
            .at_file(&path)
            .because(error)
            .help(BEGIN_AGAIN)
    })?;
    if state.fingerprint != fingerprint {
        return Err(
            Error::config("the checkpoint belongs to a run with another model, other data or other settings")
                .at_file(&path)
                .help("use another --out, or remove the directory to begin again"),
        );
    }
    let path = dir.join(DIR).join(&state.tensors);
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).map_err(|error| {
        Error::input("the checkpoint cannot be read")
            .at_file(&path)
            .because(error)
            .help(BEGIN_AGAIN)
    })?;
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

/// Removes the checkpoint of a finished run, if there is one.
pub fn remove(dir: &Path) -> Result<()> {
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
