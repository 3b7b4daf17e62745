//! Mirrors, leases and fetched inputs against a store on loopback that fails as it is told to.

#[path = "../support/object_server.rs"]
mod object_server;

mod inputs;
mod keys;
mod leases;
mod mirrors;
mod providers;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use bylaw::error::Error;
use bylaw::object::{Location, Mirror, Settings, fetch};
use bylaw::progress::Progress;
use object_server::Server;
use tempfile::TempDir;

const SECRET: &str = "5ecret/0123456789+abcdefghij";
const SESSION: &str = "se55ion-token-0123456789";
const MANIFEST: &str = "manifest.json";

/// A machine: a cache of its own.
struct Machine {
    home: TempDir,
    settings: Settings,
}

impl Machine {
    fn new(server: &Server) -> Self {
        Self::at(&server.address())
    }

    fn at(endpoint: &str) -> Self {
        let home = TempDir::new().unwrap();
        let variables = [
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_SESSION_TOKEN", SESSION),
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ALLOW_HTTP", "true"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let settings = Settings {
            silence: Duration::from_secs(5),
            retries: 2,
            backoff: Duration::from_millis(2),
            lease: Duration::from_secs(4),
            large: 1 << 20,
            ..Settings::new(variables.into(), home.path().join("cache"))
        };
        Self { home, settings }
    }

    fn mirror(&self) -> Mirror {
        Mirror::open(&location("s3://bucket/run"), &self.settings, &[".job/lock"]).unwrap()
    }

    fn fetch(&self, address: &str) -> Result<PathBuf, Error> {
        fetch(&location(address), &self.settings)
    }
}

fn location(address: &str) -> Location {
    Location::parse(address).unwrap()
}

/// What a job commits.
fn commit(mirror: &Mirror, name: &str, bytes: &[u8]) {
    let path = mirror.dir().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path.with_extension("new"), bytes).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

fn read(dir: &Path, name: &str) -> Option<Vec<u8>> {
    fs::read(dir.join(name)).ok()
}

/// Bytes that no two places share.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// What the user sees, and `Debug` too.
fn shown(error: &Error) -> String {
    format!("{error}\n{}\n{error:?}", error.help_text().unwrap_or_default())
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn start(&self, _: &str, _: u64, _: &'static str) {}
    fn advance(&self, _: u64) {}
    fn figure(&self, _: &str) {}
    fn finish(&self) {}
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}
