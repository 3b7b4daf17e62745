//! Jobs whose result is in an object store: `--out s3://…`, killed, continued on another machine, read
//! again by its address.

#[path = "support/object_server.rs"]
#[allow(dead_code)] // The tests of mirrors take more of it.
mod object_server;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use object_server::{Fault, Server};
use tempfile::TempDir;

const SECRET: &str = "5ecret/0123456789+abcdefghij";

/// `bylaw` on a machine of its own: a cache that no other has.
fn bylaw(server: &Server, machine: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bylaw"));
    command
        .args(arguments.split(' '))
        .current_dir(machine)
        .env("NO_COLOR", "1")
        .env("XDG_CACHE_HOME", machine.join("cache"))
        .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .env("AWS_ENDPOINT_URL", server.address())
        .env("AWS_ALLOW_HTTP", "true")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[track_caller]
fn succeeds(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(!stderr.contains(SECRET));
    output
}

const SAMPLE: &str =
    "sample --model builtin:tiny --per-prompt 2 --max-new-tokens 8 --keep-truncated --unit-rows 2 --prompts";

/// The objects under `prefix`, but for what belongs to the store's lease and to a job's own files.
fn objects(server: &Server, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let names = server.names();
    let names = names.iter().filter_map(|name| {
        let inside = name.strip_prefix("bucket/").unwrap_or(name).strip_prefix(prefix)?;
        (!inside.starts_with('.')).then(|| (inside.to_owned(), server.object(name).unwrap()))
    });
    names.collect()
}

/// Catches: a unit lost or made twice between two machines, a dataset in a store that is not the one of a
/// directory, a key in an answer or a log.
#[test]
fn a_job_goes_on_on_another_machine() {
    let server = Server::start();
    let (first, second) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for machine in [&first, &second] {
        let prompts = "world prompts --split constitutional --harmful 5 --benign 4 --out prompts";
        succeeds(bylaw(&server, machine.path(), prompts));
    }
    succeeds(bylaw(
        &server,
        first.path(),
        &format!("{SAMPLE} prompts --out straight"),
    ));

    // Killed when two units are there.
    let mut child = bylaw(
        &server,
        first.path(),
        &format!("{SAMPLE} prompts --out s3://bucket/run"),
    )
    .spawn()
    .unwrap();
    let units = || server.names().iter().filter(|name| name.ends_with(".unit")).count();
    let begun = Instant::now();
    while units() < 2 && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // Its lease runs out by the store's clock.
    server.advance(3600);
    succeeds(bylaw(
        &server,
        second.path(),
        &format!("{SAMPLE} prompts --out s3://bucket/run"),
    ));

    let stored = objects(&server, "run/");
    for (name, bytes) in &stored {
        let path = first.path().join("straight").join(name);
        assert!(*bytes == fs::read(&path).unwrap(), "{name}");
    }
    let names: Vec<&str> = stored.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "data-00000-of-00001.arrow",
            "manifest.json",
            "rejects/data-00000-of-00001.arrow",
            "rejects/manifest.json"
        ]
    );
    assert_eq!(units(), 0, "finished units stay in the store");

    // By its address it is data like any other.
    let judge = "judge --model builtin:tiny --constitution builtin:proving-ground --keep-truncated --candidates";
    succeeds(bylaw(
        &server,
        second.path(),
        &format!("{judge} s3://bucket/run --out labels"),
    ));
    succeeds(bylaw(&server, first.path(), &format!("{judge} straight --out labels")));
    let labels = |machine: &TempDir| fs::read(machine.path().join("labels/data-00000-of-00001.arrow")).unwrap();
    assert!(labels(&first) == labels(&second));
}

/// Catches: what is not a job (a model, an evaluation) that stays on the machine that made it, and a store
/// that fails without a word.
#[test]
fn trained_models_are_stored_whole() {
    let server = Server::start();
    let machine = TempDir::new().unwrap();
    fs::write(
        machine.path().join("data.jsonl"),
        "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\", \"completion\": \"d\"}\n",
    )
    .unwrap();
    let train = "train sft --model builtin:tiny --data data.jsonl --epochs 1 --batch-size 2 --out";
    succeeds(bylaw(&server, machine.path(), &format!("{train} s3://bucket/sft")));
    succeeds(bylaw(&server, machine.path(), &format!("{train} sft")));
    let stored = objects(&server, "sft/");
    for name in ["model.safetensors", "config.json", "tokenizer.json", "train.json"] {
        assert!(
            stored[name] == fs::read(machine.path().join("sft").join(name)).unwrap(),
            "{name}"
        );
    }
    server.plan(|asked, _| (asked.method == "PUT").then_some(Fault::Status(403, "AccessDenied")));
    let output = bylaw(&server, machine.path(), &format!("{train} s3://bucket/other"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}
