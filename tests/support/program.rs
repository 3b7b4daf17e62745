//! The program `bylaw`, run as people and scripts run it.
#![allow(dead_code)] // Each test takes what it needs.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `bylaw` in `dir`. Whatever happens, it does not panic.
pub fn bylaw(dir: &Path, arguments: &[&str]) -> Ran {
    let output = assert_cmd::cargo::cargo_bin_cmd!("bylaw")
        .current_dir(dir)
        .env("NO_COLOR", "1")
        .env_remove("COLUMNS")
        .env_remove("RUST_BACKTRACE")
        .args(arguments)
        .write_stdin("")
        .output()
        .unwrap();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!ran.stderr.contains("panicked"), "{arguments:?}: {}", ran.stderr);
    ran
}

/// Runs `bylaw` and expects a refusal with a remedy.
#[track_caller]
pub fn refused(dir: &Path, arguments: &[&str], code: i32, says: &[&str]) -> String {
    let stderr = fails(dir, arguments, code, says);
    assert!(stderr.contains("help: "), "{arguments:?} has no remedy: {stderr}");
    stderr
}

/// Runs `bylaw` and expects this exit code, nothing on stdout, and an error that `says` all this.
#[track_caller]
pub fn fails(dir: &Path, arguments: &[&str], code: i32, says: &[&str]) -> String {
    let ran = bylaw(dir, arguments);
    assert_eq!(ran.code, code, "{arguments:?}: {ran:#?}");
    assert_eq!(ran.stdout, "", "{arguments:?}");
    for words in says {
        assert!(
            ran.stderr.contains(words),
            "{arguments:?} lacks {words:?}: {}",
            ran.stderr
        );
    }
    ran.stderr
}

#[track_caller]
pub fn succeeds(dir: &Path, arguments: &[&str]) -> Ran {
    let ran = bylaw(dir, arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:#?}");
    ran
}

/// Exactly one JSON document.
#[track_caller]
pub fn json(stdout: &str) -> Value {
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {stdout:?}"))
}

pub fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}
