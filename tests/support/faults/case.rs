//! One directory that a command works in, undisturbed or under faults, and what came of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::compare::{REPORT, differences, losses, snapshot};
use super::disk::{Change, State, read_log};
use super::workload::Workload;

/// A run of a fraction of a second that takes so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a process ended.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stderr: String,
}

impl Ran {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub fn panicked(&self) -> bool {
        self.stderr.contains("panicked")
    }

    #[track_caller]
    pub fn succeeded(&self, what: &str) {
        assert_eq!(self.code(), Some(0), "{what}: {self:#?}");
    }
}

/// What the shim is asked to do, as its environment.
#[derive(Debug, Clone, Default)]
pub struct Faults(Vec<(&'static str, String)>);

impl Faults {
    /// Change number `at` fails with an error of the system; `mode` as in `shim.c`.
    pub fn fail(at: usize, errno: i32, mode: &str) -> Self {
        Self(vec![("FAULTS_FAIL", format!("{at} {errno} {mode}"))])
    }

    /// `out` is renamed away before change number `at`.
    pub fn vanish(at: usize, case: &Case) -> Self {
        let (from, to) = (case.work.join("out"), case.work.join("away"));
        Self(vec![(
            "FAULTS_VANISH",
            format!("{at} {} {}", from.display(), to.display()),
        )])
    }

    /// All clocks jump.
    pub fn clock(seed: u64) -> Self {
        Self(vec![("FAULTS_CLOCK", seed.to_string())])
    }
}

pub struct Case {
    /// Where the command runs; its `--out` is `out` in here.
    pub work: PathBuf,
    /// Beside it: logs and output.
    beside: PathBuf,
    /// Removed with it.
    _temp: Option<TempDir>,
}

impl Case {
    pub fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let work = temp.path().join("work");
        fs::create_dir(&work).unwrap();
        Self {
            work,
            beside: temp.path().to_owned(),
            _temp: Some(temp),
        }
    }

    /// A directory that stays.
    pub fn at(work: &Path) -> Self {
        Self {
            work: work.to_owned(),
            beside: work.with_extension("beside"),
            _temp: None,
        }
    }

    /// What a crash left.
    pub fn after(state: &State) -> Self {
        let case = Self::new();
        state.write(&case.work);
        case
    }

    fn command(&self, arguments: &[impl AsRef<OsStr>], faults: Option<&Faults>) -> Command {
        fs::create_dir_all(&self.beside).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bylaw"));
        command
            .args(arguments)
            .current_dir(&self.work)
            .env("NO_COLOR", "1")
            // Results do not depend on threads, and other tests run beside this one.
            .env("RAYON_NUM_THREADS", "1")
            .env_remove("COLUMNS")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(File::create(self.beside.join("stdout")).unwrap())
            .stderr(File::create(self.beside.join("stderr")).unwrap());
        if let Some(faults) = faults {
            command
                .env("LD_PRELOAD", shim())
                .env("FAULTS_ROOT", &self.work)
                .env("FAULTS_HIT", self.beside.join("hit"))
                .envs(faults.0.iter().map(|(name, value)| (name, value)));
        }
        command
    }

    /// The program as it is.
    pub fn spawn(&self, arguments: &[impl AsRef<OsStr>]) -> Child {
        self.command(arguments, None).spawn().unwrap()
    }

    /// Waits for the end, and says so if it never comes.
    pub fn wait(&self, mut child: Child) -> Ran {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                child.kill().unwrap();
                let stderr = self.said("stderr");
                panic!("the program hangs; so far it said: {stderr}");
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Ran {
            status,
            stderr: self.said("stderr"),
        }
    }

    fn said(&self, stream: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.beside.join(stream)).unwrap()).into_owned()
    }

    /// Undisturbed. The shim is there so that the disk is not waited for.
    pub fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Ran {
        self.run_under(&Faults::default(), arguments).0
    }

    /// Runs under the shim; also answers the changes that failed, as `NUMBER KIND PATH`.
    pub fn run_under(&self, faults: &Faults, arguments: &[impl AsRef<OsStr>]) -> (Ran, Vec<String>) {
        let ran = self.wait(self.command(arguments, Some(faults)).spawn().unwrap());
        let hits = self.said("hit").lines().map(str::to_owned).collect();
        (ran, hits)
    }

    /// Runs undisturbed and answers every change that it made.
    pub fn record(&self, workload: &Workload) -> Vec<Change> {
        let log = self.beside.join("log");
        let faults = Faults(vec![("FAULTS_LOG", log.display().to_string())]);
        self.run_under(&faults, &workload.arguments).0.succeeded(workload.name);
        let found = self.differences(workload);
        assert!(found.is_empty(), "the shim changes {}: {found:?}", workload.name);
        read_log(&log)
    }

    /// How the directory differs from one that nothing disturbed.
    pub fn differences(&self, workload: &Workload) -> Vec<String> {
        differences(&workload.expected, &snapshot(&self.work))
    }

    /// What of a finished run is not there.
    pub fn losses(&self, workload: &Workload) -> Vec<String> {
        losses(&workload.expected, &snapshot(&self.work))
    }

    /// Gives the same command once more, undisturbed, and answers what is wrong after it.
    pub fn resume(&self, workload: &Workload) -> Vec<String> {
        let ran = self.run(&workload.arguments);
        if ran.code() != Some(0) || ran.panicked() {
            return vec![format!("the same command fails with {:?}: {}", ran.code(), ran.stderr)];
        }
        let mut found = self.differences(workload);
        if self.work.join("out").join(REPORT).exists() {
            found.extend(self.report_again());
        }
        found
    }

    /// The report, made again from the same directory, is the one that is there.
    fn report_again(&self) -> Option<String> {
        let again = self.beside.join("again.html");
        let ran = self.run(&[
            OsStr::new("report"),
            OsStr::new("out"),
            OsStr::new("--out"),
            again.as_os_str(),
        ]);
        let same =
            ran.code() == Some(0) && fs::read(&again).unwrap() == fs::read(self.work.join("out").join(REPORT)).unwrap();
        (!same).then(|| format!("{REPORT} is not what its directory gives: {}", ran.stderr))
    }
}

/// Compiles `shim.c`, once.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/faults/shim.c");
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.so", std::process::id()));
        let compiled = Command::new("cc")
            .args([
                "-shared",
                "-fPIC",
                "-O1",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-U_FORTIFY_SOURCE",
            ])
            .arg("-o")
            .args([library.as_os_str(), OsStr::new(source), OsStr::new("-lpthread")])
            .output()
            .expect("the faults need a C compiler as `cc`");
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        library
    })
}

/// The signal that ended a process.
pub fn signal(status: ExitStatus) -> Option<i32> {
    status.signal()
}
