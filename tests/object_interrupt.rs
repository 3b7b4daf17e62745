//! Ctrl-C while a store is asked. In a program of its own: the flag is the process's.

#[path = "support/object_server.rs"]
#[allow(dead_code, reason = "the double is made for the tests of `object`")]
mod object_server;

use std::time::{Duration, Instant};

use bylaw::error::ErrorKind;
use bylaw::object::{Location, Settings, fetch};
use bylaw::{interrupt, object};
use object_server::{Fault, Server};

/// Catches: a wait for a store that does not answer, or is held by another, that Ctrl-C does not end.
#[test]
fn ctrl_c_ends_waits() {
    let server = Server::start();
    server.put("in/a.jsonl", b"a");
    let home = tempfile::TempDir::new().unwrap();
    let variables = [
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "hush".to_owned()),
        ("AWS_ENDPOINT_URL", server.address()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let settings = Settings::new(variables.into(), home.path().to_owned());
    let location = Location::parse("s3://bucket/in/a.jsonl").unwrap();
    server.plan(|_, _| Some(Fault::Slow(Duration::from_secs(30))));
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_millis(300));
        interrupt::request();
    });
    let begun = Instant::now();
    let error = fetch(&location, &settings).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    let error = object::localise("s3://").unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Interrupted);
    assert!(begun.elapsed() < Duration::from_secs(10));
}
