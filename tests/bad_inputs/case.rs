//! A case: what lies in a directory, the command that meets it, and what the user is told.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use bylaw::dataset::Dataset;
use bylaw::record::Reject;

/// A command that takes longer hangs: the slowest of them takes a few seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// Memory at which a command is stopped before the machine suffers.
const FAR_TOO_MUCH: u64 = 1 << 30;

/// Where the commands of the cases write.
pub const OUT: &str = "out";

type Given = Box<dyn Fn(&Path) + Send + Sync>;

pub struct Case {
    pub name: &'static str,
    given: Vec<Given>,
    /// Arguments of `bylaw`, separated by blanks.
    command: String,
    code: i32,
    /// Whether the rejects of the result are to be shown.
    rejects: bool,
}

/// What a case was told.
#[derive(Default)]
pub struct Told {
    code: i32,
    /// Why there is no exit code of the program's own.
    stopped: Option<String>,
    stdout: String,
    stderr: String,
    /// Reasons of the rejects, and how many rows were kept.
    rejects: Option<(Vec<String>, u64)>,
    /// The most memory that was held, in bytes.
    peak: u64,
}

pub fn case(name: &'static str, command: impl Into<String>, code: i32) -> Case {
    Case {
        name,
        given: Vec::new(),
        command: command.into(),
        code,
        rejects: false,
    }
}

impl Case {
    /// With a file in its directory.
    pub fn file(self, name: &'static str, contents: impl AsRef<[u8]>) -> Self {
        let contents = contents.as_ref().to_vec();
        self.given(move |dir| {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &contents).unwrap();
        })
    }

    /// With a symbolic link in its directory.
    pub fn link(self, name: &'static str, to: &'static str) -> Self {
        self.given(move |dir| std::os::unix::fs::symlink(to, dir.join(name)).unwrap())
    }

    pub fn given(mut self, given: impl Fn(&Path) + Send + Sync + 'static) -> Self {
        self.given.push(Box::new(given));
        self
    }

    /// With the rows that the command refused, which must not cost the others.
    pub fn rejects(self) -> Self {
        Self { rejects: true, ..self }
    }

    pub fn run(&self) -> Told {
        let dir = tempfile::tempdir().unwrap();
        let work = dir.path().join("work");
        fs::create_dir(&work).unwrap();
        self.given.iter().for_each(|given| given(&work));
        // Files and not pipes: nobody has to empty them while the command runs.
        let [out, err] = ["stdout", "stderr"].map(|name| dir.path().join(name));
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("bylaw"))
            .args(self.command.split_whitespace())
            .current_dir(&work)
            .env("NO_COLOR", "1")
            .env("COLUMNS", "100")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        let mut told = Told::default();
        match wait(&mut child, &mut told.peak) {
            Ok(status) => told.code = status.code().unwrap_or(-1),
            Err(reason) => told.stopped = Some(reason),
        }
        let text = |path: &Path| plain(&String::from_utf8_lossy(&fs::read(path).unwrap()), dir.path());
        (told.stdout, told.stderr) = (text(&out), text(&err));
        if self.rejects {
            told.rejects = Some(rejects(&work.join(OUT)));
        }
        told
    }

    /// The case as the document shows it.
    pub fn chapter(&self, told: &Told) -> String {
        let exit = told.stopped.clone().unwrap_or_else(|| format!("exit {}", told.code));
        let mut chapter = format!("## {}\n$ bylaw {}\n{exit}\n", self.name, self.command);
        match &told.rejects {
            Some((reasons, kept)) => {
                let s = if *kept == 1 { "" } else { "s" };
                reasons
                    .iter()
                    .for_each(|reason| chapter += &format!("reject: {reason}\n"));
                chapter += &format!("kept: {kept} row{s}\n");
            }
            None => chapter += &told.stdout,
        }
        chapter + &told.stderr
    }

    /// What every case must keep to, and this one did not.
    pub fn complaints(&self, told: &Told, most_memory: u64) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut complain = |what: String| complaints.push(format!("{}: {what}", self.name));
        match &told.stopped {
            Some(reason) => complain(reason.clone()),
            None if told.code != self.code => complain(format!("exit code {}, expected {}", told.code, self.code)),
            None => {}
        }
        if told.peak > most_memory {
            complain(format!("took {} MB", told.peak >> 20));
        }
        for sign in [
            "panicked",
            "RUST_BACKTRACE",
            "unwrap",
            "this is a mistake of the program",
        ] {
            if told.stderr.contains(sign) {
                complain(format!("says `{sign}`"));
            }
        }
        // What clap refuses names the argument and shows its values.
        let remedy = ["help: ", "For more information, try '--help'"];
        if told.code != 0 && !remedy.iter().any(|words| told.stderr.contains(words)) {
            complain("has no remedy".to_owned());
        }
        if let Some((reasons, kept)) = &told.rejects
            && (reasons.is_empty() || *kept == 0)
        {
            complain(format!("{} rejects, {kept} rows kept", reasons.len()));
        }
        complaints
    }
}

/// Waits for the end of a command, and stops one that takes too much of anything.
fn wait(child: &mut Child, peak: &mut u64) -> Result<ExitStatus, String> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return match status.signal() {
                Some(signal) => Err(format!("killed by signal {signal}")),
                None => Ok(status),
            };
        }
        *peak = held(child.id()).unwrap_or_default().max(*peak);
        let reason = match () {
            () if *peak > FAR_TOO_MUCH => "stopped: it fills the memory",
            () if start.elapsed() > PATIENCE => "stopped: it hangs",
            () => {
                std::thread::sleep(Duration::from_millis(4));
                continue;
            }
        };
        child.kill().unwrap();
        child.wait().unwrap();
        return Err(reason.to_owned());
    }
}

/// The most memory that a process has held so far, in bytes.
fn held(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// A text without what differs from run to run.
fn plain(text: &str, dir: &Path) -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let real = fs::canonicalize(dir).unwrap();
    let text = text
        .replace('\0', "\u{2400}")
        .replace(&real.display().to_string(), "[DIR]")
        .replace(&dir.display().to_string(), "[DIR]")
        .replace(
            &format!("process {} on {}", std::process::id(), host.trim()),
            "process [PID] on [HOST]",
        )
        .replace(concat!("bylaw ", env!("CARGO_PKG_VERSION")), "bylaw [VERSION]");
    let lines = text.lines().map(|line| format!("{}\n", timeless(line.trim_end())));
    lines.collect()
}

/// A line that tells how long something took, without it.
fn timeless(line: &str) -> String {
    match line.strip_suffix(" s").and_then(|line| line.rsplit_once(" in ")) {
        Some((what, seconds)) if seconds.parse::<f64>().is_ok() => format!("{what} in [TIME]"),
        _ => line.to_owned(),
    }
}

fn rejects(dataset: &Path) -> (Vec<String>, u64) {
    let Ok(rejects) = Dataset::<Reject>::open(dataset.join("rejects")) else {
        return (Vec::new(), 0);
    };
    let reasons = rejects.read_all().unwrap().into_iter().map(|reject| reject.reason);
    let manifest = fs::read(dataset.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    (reasons.collect(), manifest["rows"].as_u64().unwrap())
}

impl Told {
    /// Expects a refusal with a remedy, whatever its words. Root may read everything: then nothing is refused.
    pub fn refused(&self, command: &str) {
        assert!(self.stopped.is_none(), "{command}: {:?}", self.stopped);
        assert!(!self.stderr.contains("panicked"), "{command}: {}", self.stderr);
        let remedy = self.code == 0 || self.stderr.contains("help: ");
        assert!(remedy, "{command}: {}", self.stderr);
    }
}
