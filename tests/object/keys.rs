//! Errors, and the keys that are in none of them.

use std::fs;

use bylaw::error::ErrorKind;
use bylaw::object::Replica;
use bylaw::progress::Silent;

use super::object_server::{Fault, Server};
use super::{Machine, SECRET, SESSION, commit, shown};

/// Catches: an error without its address or without a remedy, one that hides who refuses, a wrong exit
/// code.
#[test]
fn errors_say_where_why_and_what_to_do() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let nowhere = Machine::at("http://127.0.0.1:9");
    for (status, code, why, remedy) in [
        (
            403,
            "AccessDenied",
            "the store refuses the credentials (AccessDenied: says the store)",
            "AWS_ACCESS_KEY_ID",
        ),
        (404, "NoSuchBucket", "there is no such bucket", "create it"),
        (
            301,
            "PermanentRedirect",
            "the bucket is in another region",
            "AWS_REGION",
        ),
        (
            400,
            "AuthorizationHeaderMalformed",
            "the bucket is in another region",
            "AWS_REGION",
        ),
        (
            403,
            "RequestTimeTooSkewed",
            "the store refuses the time of this machine",
            "clock",
        ),
        (
            500,
            "InternalError",
            "the store answers with an error (InternalError: says the store)",
            "the same command",
        ),
    ] {
        server.plan(move |_, _| Some(Fault::Status(status, code)));
        let error = machine.mirror().pull().unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Remote, 4));
        assert!(error.to_string().starts_with("s3://bucket/run: "), "{error}");
        assert!(error.message().starts_with(why), "{code}: {error}");
        assert!(
            error.help_text().unwrap().contains(remedy),
            "{code}: {}",
            error.help_text().unwrap()
        );
    }
    let error = nowhere.mirror().pull().unwrap_err();
    assert!(error.message().starts_with("the store cannot be reached ("), "{error}");
    assert!(error.help_text().unwrap().contains("AWS_ENDPOINT_URL"));
}

/// Catches: a key sent as it is, shown in an error, or written to the cache.
#[test]
fn keys_are_sent_shown_and_written_nowhere() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let mut mirror = machine.mirror();
    mirror.hold(&Silent).unwrap();
    mirror.pull().unwrap();
    commit(&mirror, "a", b"a");
    mirror.create("a").unwrap();
    machine.fetch("s3://bucket/run").unwrap();
    let log = server.log();
    assert!(log.len() > 5);
    for mut asked in log {
        // The session's token is a header by the protocol; the key itself is never sent.
        assert_eq!(asked.headers.remove("x-amz-security-token").as_deref(), Some(SESSION));
        let text = format!("{asked:?} {}", String::from_utf8_lossy(&asked.body));
        assert!(!text.contains(SECRET) && !text.contains(SESSION), "{text}");
    }
    // A server that repeats what it was sent.
    server.plan(|_, _| Some(Fault::Status(403, SESSION)));
    let error = mirror.pull().unwrap_err();
    assert!(
        shown(&error).contains("[redacted]") && !shown(&error).contains(SESSION),
        "{}",
        shown(&error)
    );
    drop(mirror);
    let mut files = vec![machine.home.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains(SECRET) && !text.contains(SESSION), "{}", path.display());
        }
    }
}
