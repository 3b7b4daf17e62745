//! The durable loop: the same bytes whatever happened on the way, in parts or in one, and changes that
//! are refused or recorded.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bylaw::dataset::{Dataset, Manifest, Provenance, Slice, Status, rejects_dir};
use bylaw::engine::Usage;
use bylaw::error::{Error, ErrorKind, Result};
use bylaw::job::{Changes, Job, State, StatusFile, merge};
use bylaw::progress::Silent;
use bylaw::record::{Message, Prompt, Reject};
use tempfile::TempDir;

fn question(number: usize) -> Prompt {
    Prompt {
        id: format!("row-{number}"),
        messages: vec![Message::user(format!("question {number}?"))],
        source: "test".into(),
        tags: Vec::new(),
    }
}

fn questions(count: usize) -> Vec<Prompt> {
    (0..count).map(question).collect()
}

/// Answers every row twice, but rejects each third.
fn work(rows: &[Prompt]) -> Result<Vec<Result<Prompt, Reject>>> {
    let outcome = |row: &Prompt| {
        let number: usize = row.id[4..].parse().unwrap();
        if number % 3 == 2 {
            return vec![Err(reject(&row.id))];
        }
        let mut second = row.clone();
        second.id.push_str("-again");
        vec![Ok(row.clone()), Ok(second)]
    };
    Ok(rows.iter().flat_map(outcome).collect())
}

fn reject(id: &str) -> Reject {
    Reject {
        id: id.into(),
        stage: "test".into(),
        reason: "a third".into(),
        raw: String::new(),
    }
}

fn job(dir: &Path) -> Job<'_> {
    Job {
        unit_rows: 3,
        ..Job::new(dir, Provenance::new("test", 1), "test", &Silent)
    }
}

/// Every file under `dir` but the job's own, by its path there.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_name() == ".job" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(dir).unwrap().to_path_buf();
                files.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    files
}

fn ids(dir: &Path) -> Vec<String> {
    let rows: Vec<Prompt> = bylaw::job::read_all(dir).unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

/// The units of an unfinished job.
fn units(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join(".job/units")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Runs the job but fails at the call `fail` of `work`; answers the ids that were worked on.
fn run_until(job: &Job<'_>, inputs: &[Prompt], unread: &[Reject], fail: usize) -> (Result<()>, Vec<Vec<String>>) {
    let seen = RefCell::new(Vec::new());
    let result = job.run(inputs, unread, |rows: &[Prompt]| {
        if seen.borrow().len() == fail {
            return Err(Error::unexpected("the disk is full"));
        }
        seen.borrow_mut()
            .push(rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>());
        work(rows)
    });
    (result.map(|_| ()), seen.into_inner())
}

/// Catches: units done again, units skipped, rows of a unit written twice, rejects lost, bytes that
/// depend on where a run stopped.
#[test]
fn a_job_goes_on_to_the_same_bytes() {
    let (inputs, unread) = (questions(20), [reject("row-unread")]);
    let dirs = TempDir::new().unwrap();
    let straight = dirs.path().join("straight");
    let finished = job(&straight).run(&inputs, &unread, work).unwrap();
    assert_eq!((finished.rows, finished.rejects), (28, 7));
    let expected = contents(&straight);
    let (_, all) = run_until(&job(&dirs.path().join("plan")), &inputs, &unread, usize::MAX);
    assert!(all.len() > 6);
    for fail in 0..all.len() {
        let dir = dirs.path().join(format!("after-{fail}"));
        let (failed, mut seen) = run_until(&job(&dir), &inputs, &unread, fail);
        assert_eq!(failed.unwrap_err().message(), "the disk is full");
        assert_eq!(Manifest::read(&dir).unwrap().status, Status::Running);
        assert_eq!(units(&dir).len(), fail);
        let status = StatusFile::read(&dir).unwrap();
        assert_eq!((status.state, status.units_done), (State::Failed, fail as u64));
        let (again, rest) = run_until(&job(&dir), &inputs, &unread, usize::MAX);
        again.unwrap();
        seen.extend(rest);
        assert_eq!(seen, all, "after {fail} units");
        assert!(contents(&dir) == expected, "other bytes after {fail} units");
        assert_eq!(StatusFile::read(&dir).unwrap().state, State::Complete);
    }
    assert_eq!(ids(&straight).len(), 28);
    let rejects = Dataset::<Prompt>::open(&straight).unwrap().rejects().unwrap();
    assert_eq!((rejects.len(), rejects[0].id.as_str()), (7, "row-unread"));
    // A finished job does nothing.
    let (idle, seen) = run_until(&job(&straight), &inputs, &unread, 0);
    idle.unwrap();
    assert!(seen.is_empty());
}

/// Catches: an output directory that is overwritten although it holds another run or other files.
#[test]
fn a_job_refuses_what_is_not_its_own() {
    let (inputs, dirs) = (questions(10), TempDir::new().unwrap());
    let dir = dirs.path().join("run");
    job(&dir).run(&inputs, &[], work).unwrap();
    let before = contents(&dir);
    let other = Job {
        provenance: Provenance::new("test", 2),
        ..job(&dir)
    };
    let error = other.run(&inputs, &[], work).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("seed: 1 there, 2 here"), "{}", error.message());
    assert!(contents(&dir) == before);

    let foreign = dirs.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "years of work").unwrap();
    assert_eq!(
        job(&foreign).run(&inputs, &[], work).unwrap_err().kind(),
        ErrorKind::Config
    );
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
}

/// Catches: a damaged unit that enters the dataset, or that stops the job for good.
#[test]
fn a_damaged_unit_is_made_again() {
    let (inputs, dirs) = (questions(30), TempDir::new().unwrap());
    let (dir, straight) = (dirs.path().join("run"), dirs.path().join("straight"));
    job(&straight).run(&inputs, &[], work).unwrap();
    run_until(&job(&dir), &inputs, &[], 5).0.unwrap_err();
    let damaged = units(&dir).swap_remove(2);
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let (again, seen) = run_until(&job(&dir), &inputs, &[], usize::MAX);
    again.unwrap();
    let all = run_until(&job(&dirs.path().join("plan")), &inputs, &[], usize::MAX).1;
    assert_eq!(seen.len(), all.len() - 4);
    assert!(contents(&dir) == contents(&straight));
}

/// Catches: two processes that write into one directory, a lock that outlives its owner.
#[test]
fn a_directory_has_one_owner() {
    let (inputs, dirs) = (questions(10), TempDir::new().unwrap());
    let dir = dirs.path().join("run");
    let result = job(&dir).run(&inputs, &[], |rows: &[Prompt]| {
        let error = job(&dir).run(&inputs, &[], work).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let me = format!("process {}", std::process::id());
        assert!(error.message().contains(&me), "{}", error.message());
        work(rows)
    });
    result.unwrap();
    assert!(!dir.join(".job/lock").exists());
    // What a killed process leaves.
    let left = dirs.path().join("left");
    fs::create_dir_all(left.join(".job")).unwrap();
    fs::write(left.join(".job/lock"), r#"{"pid":1,"host":"elsewhere"}"#).unwrap();
    job(&left).run(&inputs, &[], work).unwrap();
    assert!(contents(&left) == contents(&dir));
}

/// Catches: parts that overlap or leave rows out, an order or bytes that show how a job was divided, a
/// part that is lost and comes back as something else.
#[test]
fn parts_merge_to_the_bytes_of_one_run() {
    let dirs = TempDir::new().unwrap();
    for (rows, parts) in [(20, 2), (21, 8), (3, 8), (9000, 3)] {
        let (inputs, unread) = (questions(rows), [reject("row-unread")]);
        let of = |name: &str| dirs.path().join(format!("{rows}-{parts}-{name}"));
        let straight = of("straight");
        let unit_rows = if rows > 1000 { 512 } else { 3 };
        job_of(&straight, unit_rows).run(&inputs, &unread, work).unwrap();
        let slices: Vec<PathBuf> = (0..parts).map(|index| of(&format!("part-{index}"))).collect();
        let run = |index: usize| {
            let slice = Some(Slice { index, of: parts });
            let job = Job {
                slice,
                ..job_of(&slices[index], unit_rows)
            };
            job.run(&inputs, &unread, work).unwrap();
        };
        (0..parts).rev().for_each(run);
        // One is lost.
        fs::remove_dir_all(&slices[1]).unwrap();
        let error = merge(&slices, &of("merged"), None, &Silent).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        run(1);
        let merged = merge(&slices, &of("merged"), None, &Silent).unwrap();
        assert_eq!(merged.slices, parts);
        assert!(
            contents(&of("merged")) == contents(&straight),
            "{rows} rows, {parts} parts"
        );
        // And again, in another order.
        let backwards: Vec<PathBuf> = slices.iter().rev().cloned().collect();
        merge(&backwards, &of("backwards"), None, &Silent).unwrap();
        assert!(contents(&of("backwards")) == contents(&straight));
        let twice = [&slices[..], &slices[..1]].concat();
        assert!(merge(&twice, &of("twice"), None, &Silent).is_err());
        assert!(merge(&slices[1..], &of("missing"), None, &Silent).is_err());
    }
}

fn job_of(dir: &Path, unit_rows: usize) -> Job<'_> {
    Job { unit_rows, ..job(dir) }
}

/// Catches: accepted changes that ask again what is done, lose rows, or hide under what a row was made.
#[test]
fn accepted_changes_keep_what_is_done() {
    let dirs = TempDir::new().unwrap();
    let dir = dirs.path().join("run");
    let accepting = |seed| Job {
        provenance: Provenance::new("test", seed),
        changes: Changes::Accept,
        ..job(&dir)
    };
    // Stopped after five units, then gone on with another seed.
    let inputs = questions(60);
    let (_, before) = run_until(&job(&dir), &inputs, &[], 5);
    let (again, after) = run_until(&accepting(2), &inputs, &[], usize::MAX);
    again.unwrap();
    let asked: Vec<String> = [before.clone(), after].concat().concat();
    assert_eq!(asked, inputs.iter().map(|row| row.id.clone()).collect::<Vec<_>>());
    let manifest = Manifest::read(&dir).unwrap();
    assert_eq!(manifest.provenance.seed, 2);
    let first: usize = before.iter().map(Vec::len).sum();
    let rows = work(&inputs[..first]).unwrap().iter().filter(|row| row.is_ok()).count() as u64;
    assert_eq!(manifest.revisions.len(), 1);
    assert_eq!(manifest.revisions[0].provenance.seed, 1);
    assert_eq!(manifest.revisions[0].rows, [[0, rows]]);
    assert_eq!(ids(&dir).len(), 80);

    // A finished job to which a row is added in the middle: what lies around it stays.
    let mut longer = inputs.clone();
    longer.insert(30, question(99));
    let (again, asked) = run_until(&accepting(3), &longer, &[], usize::MAX);
    again.unwrap();
    assert!(asked.len() <= 3, "{asked:?}");
    let straight = dirs.path().join("straight");
    job(&straight).run(&longer, &[], work).unwrap();
    assert_eq!(ids(&dir), ids(&straight));
    let manifest = Manifest::read(&dir).unwrap();
    let rows: u64 = manifest
        .revisions
        .iter()
        .flat_map(|revision| &revision.rows)
        .map(|[a, b]| b - a)
        .sum();
    assert!(rows >= manifest.rows - 8 && rows < manifest.rows);
    // Nothing left to change.
    run_until(&accepting(3), &longer, &[], 0).0.unwrap();
    // Another stage is never accepted.
    let other = Job {
        provenance: Provenance::new("other", 3),
        ..accepting(3)
    };
    assert_eq!(other.run(&longer, &[], work).unwrap_err().kind(), ErrorKind::Config);
}

/// Catches: usage that is lost or counted twice when a job goes on.
#[test]
fn usage_adds_up_over_interruptions() {
    let (inputs, dirs) = (questions(40), TempDir::new().unwrap());
    let dir = dirs.path().join("run");
    let asked = RefCell::new(Usage::default());
    for fail in [4, 3, usize::MAX] {
        let calls = RefCell::new(0);
        let usage = || *asked.borrow();
        let job = Job {
            usage: &usage,
            ..job(&dir)
        };
        let result = job.run(&inputs, &[], |rows: &[Prompt]| {
            if *calls.borrow() == fail {
                return Err(Error::unexpected("stop"));
            }
            *calls.borrow_mut() += 1;
            asked.borrow_mut().completion_tokens += 10 * rows.len() as u64;
            work(rows)
        });
        assert_eq!(result.is_ok(), fail == usize::MAX);
        asked.replace(Usage::default());
    }
    let status = StatusFile::read(&dir).unwrap();
    assert_eq!(status.usage.completion_tokens, 400);
    assert_eq!((status.inputs, status.inputs_done), (40, 40));
    assert!(rejects_dir(&dir).exists());
}
