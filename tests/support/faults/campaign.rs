//! The campaigns: one kind of fault against one workload, again and again. Each answers its findings:
//! the cases in which the same command did not lead to the bytes of an undisturbed run.

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::case::{Case, Faults, Ran, signal};
use super::compare::snapshot;
use super::disk::{Change, Crash, Disk, State};
use super::random::Random;
use super::workload::{Workload, Workloads};

/// What was tried, and what was found wrong.
#[derive(Debug, Default)]
pub struct Findings {
    pub tried: usize,
    /// Kills that left a checkpoint to go on from.
    pub going_on: usize,
    pub wrong: Vec<String>,
}

impl Findings {
    fn add(&mut self, place: &str, wrong: Vec<String>) {
        self.wrong
            .extend(wrong.into_iter().map(|line| format!("{place}: {line}")));
    }

    pub fn join(&mut self, other: Self) {
        self.tried += other.tried;
        self.going_on += other.going_on;
        self.wrong.extend(other.wrong);
    }

    /// The number of cases, all of them good.
    #[track_caller]
    pub fn none(self) -> usize {
        let shown: Vec<_> = self.wrong.iter().take(40).map(String::as_str).collect();
        assert!(
            shown.is_empty(),
            "{} of {} cases are wrong:\n{}",
            self.wrong.len(),
            self.tried,
            shown.join("\n")
        );
        self.tried
    }
}

/// Kills the command `kills` times while it lives, at random instants, some of them in a row, and lets
/// it through in between.
pub fn kills(name: &str, kills: usize, seed: u64) -> Findings {
    let workload = Workloads::get(name);
    let mut random = Random::new(seed);
    let mut findings = Findings::default();
    // A kill that comes too late counts for nothing, and there must be an end.
    for life in 0..4 * kills {
        if findings.tried >= kills {
            break;
        }
        let case = Case::new();
        let mut instants = Vec::new();
        let checkpoints = case.work.join("out/checkpoint");
        for _ in 0..=random.below(4) {
            let instant = instant(workload, &mut random);
            let mut child = case.spawn(&workload.arguments);
            std::thread::sleep(instant);
            child.kill().unwrap();
            let ran = case.wait(child);
            instants.push(instant);
            findings.tried += usize::from(signal(ran.status) == Some(libc::SIGKILL));
            findings.going_on += usize::from(checkpoints.is_dir());
            if ran.code().is_some_and(|code| code != 0) {
                findings.add(
                    name,
                    vec![format!("life {life}, after kills at {instants:?}: {}", ran.stderr)],
                );
            }
        }
        findings.add(&format!("{name}, kills at {instants:?}"), case.resume(workload));
    }
    findings
}

/// Anywhere in the command, with more at its beginning and its end than in between.
fn instant(workload: &Workload, random: &mut Random) -> Duration {
    let part = match random.below(6) {
        0 => 0.15 * random.unit(),
        1 => 0.8 + 0.3 * random.unit(),
        _ => random.unit(),
    };
    workload.duration.mul_f64(part)
}

/// Which changes of a run are disturbed.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    Every,
    /// About so many, at random.
    Some(usize, u64),
}

impl Which {
    fn of(self, count: usize) -> Vec<usize> {
        match self {
            Self::Every => (0..count).collect(),
            Self::Some(wanted, seed) => {
                let mut random = Random::new(seed);
                (0..count)
                    .filter(|_| (random.below(count as u64) as usize) < wanted)
                    .collect()
            }
        }
    }
}

/// Stops the machine before each change of a run, in every way that [`Crash`] knows.
pub fn crashes(name: &str, which: Which) -> Findings {
    crashes_from(name, &State::default(), which).0
}

/// Stops the machine, and stops it again while the same command goes on.
pub fn crashes_again(name: &str, first: Which, second: Which) -> Findings {
    let (_, left) = crashes_from(name, &State::default(), first);
    let mut findings = Findings::default();
    for (place, state) in left {
        let (found, _) = crashes_from(&place, &state, second);
        findings.join(found);
    }
    findings
}

/// What is wrong after the crashes of a run that begins in `start`, and what they left, by place. A place
/// begins with the name of the workload.
fn crashes_from(place: &str, start: &State, which: Which) -> (Findings, Vec<(String, State)>) {
    let workload = Workloads::get(place.split(", ").next().unwrap_or(place));
    let changes = Case::after(start).record(workload);
    let places: HashSet<usize> = which.of(changes.len() + 1).into_iter().collect();
    let mut findings = Findings::default();
    let mut disk = Disk::holding(start);
    let (mut seen, mut left) = (HashSet::new(), Vec::new());
    for at in 0..=changes.len() {
        let next = changes.get(at);
        for crash in Crash::kinds(at).into_iter().filter(|_| places.contains(&at)) {
            let state = disk.crash(crash, next);
            if seen.insert(state.hash()) {
                findings.tried += 1;
                let place = format!("{place}, {crash:?} before change {at} ({})", shown(next));
                findings.add(&place, Case::after(&state).resume(workload));
                left.push((place, state));
            }
        }
        if let Some(change) = next {
            disk.apply(change);
        }
    }
    findings.add(
        &format!("{place}, power lost after the end"),
        lost_after_the_end(&disk, workload),
    );
    (findings, left)
}

/// What was reported as done is there, even if the power fails at once.
fn lost_after_the_end(disk: &Disk, workload: &Workload) -> Vec<String> {
    Case::after(&disk.crash(Crash::Strict, None)).losses(workload)
}

fn shown(change: Option<&Change>) -> String {
    change.map_or("the end".to_owned(), |change| {
        format!("{:?} {}", change.kind, change.name)
    })
}

/// Lets each change of a run fail, in the ways that such a change fails.
pub fn failures(name: &str, which: Which) -> Findings {
    let workload = Workloads::get(name);
    let changes: Vec<Change> = Case::new()
        .record(workload)
        .into_iter()
        .filter(|change| change.counted)
        .collect();
    let mut findings = Findings::default();
    for at in which.of(changes.len()) {
        for (errno, mode) in ways(changes[at].kind) {
            let case = Case::new();
            let (ran, hits) = case.run_under(&Faults::fail(at, *errno, mode), &workload.arguments);
            let Some(hit) = hits.first() else {
                findings.add(name, vec![format!("change {at} did not come again: {}", ran.stderr)]);
                continue;
            };
            findings.tried += 1;
            let error = std::io::Error::from_raw_os_error(*errno);
            let place = format!("{name}, change {hit}, {error}, {mode}");
            findings.add(&place, complaints(&case, &ran, hit, *errno, workload));
            findings.add(&place, case.resume(workload));
        }
    }
    findings
}

/// Fills the disk at each change that belongs to the checkpoint of step `later`, and at each write of figures after
/// that of step `earlier`: this one must stay, whole, and what goes on from it must end as ever.
pub fn full_disks(name: &str, [earlier, later]: [&str; 2]) -> Findings {
    let workload = Workloads::get(name);
    let changes: Vec<Change> = (Case::new().record(workload).into_iter())
        .filter(|change| change.counted)
        .collect();
    let state = format!("out/checkpoint/{earlier}/state.json");
    let tensors = format!("out/checkpoint/{earlier}/state.safetensors");
    let is_whole =
        |snapshot: &super::compare::Snapshot| [&state, &tensors].iter().all(|name| snapshot.contains_key(*name));
    let begun = changes
        .iter()
        .position(|change| change.name.contains(&format!("{later}/")));
    let mut findings = Findings::default();
    for (at, change) in changes.iter().enumerate() {
        let of_later = change.name.contains(later) && change.name.contains("checkpoint/");
        let of_figures =
            begun.is_some_and(|begun| at + 6 > begun && at < begun) && change.name.ends_with("metrics.jsonl");
        if !matches!(change.kind, 'w' | 'o' | 'm') || !(of_later || of_figures) {
            continue;
        }
        let mode = if change.kind == 'w' { "half" } else { "on" };
        let case = Case::new();
        let (ran, hits) = case.run_under(&Faults::fail(at, libc::ENOSPC, mode), &workload.arguments);
        let Some(hit) = hits.first() else { continue };
        findings.tried += 1;
        let place = format!("{name}, the disk is full at change {hit}");
        let mut wrong = complaints(&case, &ran, hit, libc::ENOSPC, workload);
        if !is_whole(&snapshot(&case.work)) {
            wrong.push(format!(
                "the checkpoint {earlier} is gone: {:?}",
                snapshot(&case.work).keys()
            ));
        }
        findings.add(&place, wrong);
        findings.add(&place, case.resume(workload));
    }
    findings
}

/// Errors with which a change of a kind fails, and the mode of the shim.
fn ways(kind: char) -> &'static [(i32, &'static str)] {
    match kind {
        'w' => &[(libc::ENOSPC, "half"), (libc::EIO, "once")],
        's' | 't' => &[(libc::EIO, "once")],
        'o' | 'm' | 'l' | 'y' => &[(libc::ENOSPC, "on"), (libc::EROFS, "on")],
        _ => &[(libc::EROFS, "on"), (libc::EIO, "once")],
    }
}

/// What is wrong with the way in which a process took a failure.
fn complaints(case: &Case, ran: &Ran, hit: &str, errno: i32, workload: &Workload) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut require = |good: bool, what: &str| {
        if !good {
            wrong.push(format!("{what}: {:?}: {}", ran.status, ran.stderr));
        }
    };
    let (kind, path) = hit.split_once(' ').and_then(|(_, rest)| rest.split_once(' ')).unwrap();
    require(!ran.panicked(), "it panics");
    match ran.code() {
        Some(0) => {
            require(kind != "s", "a failed fsync is not told");
            // It could do without: then nothing may be missing.
            require(case.losses(workload).is_empty(), "it fails silently");
        }
        Some(1..=3) => {
            let parent = path.rsplit_once('/').map_or(path, |(parent, _)| parent);
            // A lock that stays harms nobody; what is told is the first thing that could not be done without.
            let harmless = kind == "u" && path.ends_with("/lock");
            let named = if harmless { "out/" } else { parent };
            require(ran.stderr.contains(named), "the path is not named");
            require(ran.stderr.contains("help: "), "no remedy");
            let room = ran.stderr.contains("free") && ran.stderr.contains("space");
            require(errno != libc::ENOSPC || room, "it does not say to free space");
        }
        _ => require(false, "no documented exit code"),
    }
    wrong
}

/// Every stage, and a run of many of them.
pub const STAGES: [&str; 17] = [
    "world-prompts",
    "world-documents",
    "revise",
    "sample",
    "judge",
    "balance",
    "train-sft",
    "train-lora",
    "train-reward",
    "train-dpo",
    "train-ppo",
    "train-rloo",
    "train-grpo",
    "eval-policy",
    "eval-judge",
    "eval-reward",
    "run",
];

/// Moves the directory away before some of the changes of a run, and back when the run has ended.
pub fn vanishings(name: &str, places: usize, seed: u64) -> Findings {
    let workload = Workloads::get(name);
    let changes = Case::new().record(workload);
    let counted = changes.iter().filter(|change| change.counted).count();
    let mut findings = Findings::default();
    for at in Which::Some(places, seed).of(counted).into_iter().filter(|at| *at > 0) {
        let case = Case::new();
        let (ran, _) = case.run_under(&Faults::vanish(at, &case), &workload.arguments);
        findings.tried += 1;
        let place = format!("{name}, gone before change {at}");
        let mut wrong = Vec::new();
        let named = ["out/", "out:", "out\n"].iter().any(|name| ran.stderr.contains(name));
        if ran.panicked() || !matches!((ran.code(), named), (Some(1..=3), true) | (Some(0), _)) {
            wrong.push(format!("{:?}: {}", ran.status, ran.stderr));
        }
        let (out, away) = (case.work.join("out"), case.work.join("away"));
        if out.exists() {
            // The instant after it went may be too early to see it; a run that says it is done has seen it.
            if ran.code() == Some(0) {
                wrong.push(format!("it is made anew, with {:?}", snapshot(&out).keys()));
            }
            std::fs::remove_dir_all(&out).unwrap();
        }
        std::fs::rename(&away, &out).unwrap();
        if ran.code() == Some(0) {
            // Everything was there before it went.
            wrong.extend(case.losses(workload));
        }
        findings.add(&place, wrong);
        findings.add(&place, case.resume(workload));
    }
    findings
}

/// Runs the command while all clocks jump.
pub fn clocks(name: &str, runs: u64, seed: u64) -> Findings {
    let workload = Workloads::get(name);
    let mut findings = Findings::default();
    for run in 0..runs {
        let case = Case::new();
        let (ran, _) = case.run_under(&Faults::clock(1000 * (seed + 1) + run), &workload.arguments);
        findings.tried += 1;
        if ran.code() != Some(0) || ran.panicked() {
            findings.add(name, vec![format!("clocks {run}: {:?}: {}", ran.status, ran.stderr)]);
        }
        findings.add(&format!("{name}, clocks {run}"), case.differences(workload));
    }
    findings
}

/// Presses Ctrl-C twice at a random instant.
pub fn stops(name: &str, runs: usize, seed: u64) -> Findings {
    let workload = Workloads::get(name);
    let mut random = Random::new(seed);
    let mut findings = Findings::default();
    for run in 0..runs {
        let case = Case::new();
        let child = case.spawn(&workload.arguments);
        let press = || {
            let pid = child.id().to_string();
            // To a process that has ended it does nothing.
            let sent = Command::new("kill").args(["-INT", &pid]).stderr(Stdio::null()).status();
            sent.unwrap();
        };
        std::thread::sleep(workload.duration.mul_f64(0.2 + 0.7 * random.unit()));
        press();
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        press();
        let ran = case.wait(child);
        findings.tried += usize::from(ran.code() == Some(130));
        // Before the program listens, the system ends it.
        let ended = matches!(ran.code(), Some(0 | 130)) || signal(ran.status) == Some(libc::SIGINT);
        if !ended || ran.panicked() {
            findings.add(name, vec![format!("stop {run}: {:?}: {}", ran.status, ran.stderr)]);
        }
        findings.add(&format!("{name}, stop {run}"), case.resume(workload));
    }
    findings
}
