//! Runs of trainers that are stopped: what a killed process would have left, step by step.
#![allow(dead_code)] // Each test takes what it needs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bylaw::model::decoder::Decoder;
use bylaw::progress::Progress;
use bylaw::train::metrics;
use bylaw::train::run::Setup;

pub fn setup<'a>(dir: &Path, progress: &'a dyn Progress, save_steps: usize) -> Setup<'a> {
    Setup {
        dir: dir.to_path_buf(),
        fingerprint: "the run".into(),
        label: "test".into(),
        progress,
        save_steps,
        in_place: false,
        keeping: Default::default(),
    }
}

/// Every weight to the bit.
pub fn bits(decoder: &Decoder) -> Vec<u32> {
    let of = |tensor: &candle_core::Tensor| -> Vec<f32> { tensor.flatten_all().unwrap().to_vec1().unwrap() };
    let parameters = decoder.parameters.iter();
    parameters
        .flat_map(|parameter| of(parameter.weight.dense().unwrap()))
        .map(f32::to_bits)
        .collect()
}

/// The column `name` of a run's metrics.
pub fn figures(dir: &Path, name: &str) -> Vec<f64> {
    let rows = metrics::read(dir).unwrap();
    rows.iter()
        .map(|row| row[name].as_f64().unwrap_or_else(|| panic!("no {name}")))
        .collect()
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let place = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &place);
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}

/// Copies a run's directory `from` after each step: after step N to `to/N`.
pub struct CopyAll {
    pub from: PathBuf,
    pub to: PathBuf,
    done: AtomicU64,
}

impl CopyAll {
    pub fn new(from: PathBuf, to: PathBuf) -> Self {
        Self {
            from,
            to,
            done: AtomicU64::new(0),
        }
    }
}

impl Progress for CopyAll {
    fn start(&self, _: &str, _: u64, _: &'static str) {}

    fn advance(&self, done: u64) {
        if done > 0 {
            let at = self.done.fetch_add(done, Ordering::SeqCst) + done;
            copy_directory(&self.from, &self.to.join(at.to_string()));
        }
    }

    fn figure(&self, _: &str) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
}
