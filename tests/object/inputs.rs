//! Fetched inputs: files and directories, whole and as the store has them.

use std::fs;

use bylaw::error::ErrorKind;

use super::object_server::{self, Fault, Server};
use super::{Machine, noise, read};

/// Catches: a download that begins anew at each break, bytes doubled or lost where it goes on, a file that
/// is brought again though it is here, one that is not though it has changed.
#[test]
fn broken_downloads_go_on_where_they_ended() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let bytes = noise(300_000);
    server.put("in/a.jsonl", &bytes);
    server.plan(|asked, _| (asked.method == "GET" && asked.key == "in/a.jsonl").then_some(Fault::Cut(70_000)));
    let path = machine.fetch("s3://bucket/in/a.jsonl").unwrap();
    assert_eq!(path.file_name().unwrap(), "a.jsonl");
    assert!(fs::read(&path).unwrap() == bytes);
    let ranges: Vec<_> = server
        .log()
        .into_iter()
        .filter(|asked| asked.method == "GET")
        .map(|asked| asked.headers.get("range").cloned())
        .collect();
    assert_eq!(ranges.len(), 5, "{ranges:?}");
    assert!(
        ranges[0].is_none() && ranges[1..].iter().all(Option::is_some),
        "{ranges:?}"
    );

    server.plan(|_, _| None);
    machine.fetch("s3://bucket/in/a.jsonl").unwrap();
    assert_eq!(server.count("GET in/a.jsonl"), 0);
    server.put("in/a.jsonl", b"another");
    machine.fetch("s3://bucket/in/a.jsonl").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"another");
    // The copy was changed.
    fs::write(&path, b"ANOTHER").unwrap();
    machine.fetch("s3://bucket/in/a.jsonl").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"another");
}

/// Catches: what an interrupted process left thrown away, or gone on from although the object is another.
#[test]
fn the_next_process_goes_on_with_what_is_left() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let bytes = noise(200_000);
    server.put("in/a.jsonl", &bytes);
    let broken = |asked: &object_server::Asked, before| {
        match before {
            0 => Some(Fault::Cut(50_000)),
            _ => Some(Fault::Status(403, "AccessDenied")),
        }
        .filter(|_| asked.method == "GET")
    };
    server.plan(broken);
    machine.fetch("s3://bucket/in/a.jsonl").unwrap_err();
    server.plan(|_, _| None);
    let path = machine.fetch("s3://bucket/in/a.jsonl").unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    let first = server.log().into_iter().find(|asked| asked.method == "GET").unwrap();
    assert!(first.headers.contains_key("range"), "{:?}", first.headers);

    let others = noise(200_001);
    server.put("in/b.jsonl", &bytes);
    server.plan(move |asked, before| broken(asked, before));
    machine.fetch("s3://bucket/in/b.jsonl").unwrap_err();
    server.plan(|_, _| None);
    server.put("in/b.jsonl", &others);
    let path = machine.fetch("s3://bucket/in/b.jsonl").unwrap();
    assert!(fs::read(&path).unwrap() == others);
}

/// Catches: a server that does not know ranges taken for one that fails, or its answer put after what is
/// here.
#[test]
fn a_server_without_ranges_is_read_from_the_beginning() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let bytes = noise(200_000);
    server.put("in/a.jsonl", &bytes);
    server.plan(|asked, before| {
        match before {
            0 => Some(Fault::Cut(50_000)),
            _ => Some(Fault::Whole),
        }
        .filter(|_| asked.method == "GET")
    });
    let path = machine.fetch("s3://bucket/in/a.jsonl").unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
}

/// Catches: a part of a file taken for all of it, where a proxy cuts it and says so.
#[test]
fn a_truncated_object_is_no_file() {
    let server = Server::start();
    let machine = Machine::new(&server);
    server.put("in/a.jsonl", &noise(1000));
    server.plan(|asked, _| (asked.method == "GET").then_some(Fault::Short(600)));
    let error = machine.fetch("s3://bucket/in/a.jsonl").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    let wanted = "s3://bucket/in/a.jsonl: the object came with another length than the store lists: 600 bytes in the \
                  place of 1000";
    assert_eq!(error.to_string(), wanted);
    server.plan(|_, _| None);
    assert_eq!(
        fs::read(machine.fetch("s3://bucket/in/a.jsonl").unwrap()).unwrap(),
        noise(1000)
    );
}

/// Catches: an object that changes between its listing and its reading kept under the wrong state.
#[test]
fn an_object_that_changes_meanwhile_is_brought_as_it_is_then() {
    let server = Server::start();
    let machine = Machine::new(&server);
    server.put("in/a.jsonl", b"before");
    server.plan(|asked, before| {
        let race = || Fault::Race("in/a.jsonl".into(), b"afterwards".to_vec());
        (asked.line() == "GET in/a.jsonl" && before == 0).then(race)
    });
    let path = machine.fetch("s3://bucket/in").unwrap().join("a.jsonl");
    assert_eq!(fs::read(&path).unwrap(), b"afterwards");
    server.plan(|_, _| None);
    machine.fetch("s3://bucket/in").unwrap();
    assert_eq!(server.count("GET in/a.jsonl"), 0);
}

/// Catches: a removed file that stays a part of the directory, files of a neighbour with the same
/// beginning, an address with nothing at it that gives an empty directory.
#[test]
fn a_directory_is_what_the_store_lists() {
    let server = Server::start();
    let machine = Machine::new(&server);
    for name in ["in/a.jsonl", "in/b c%20ä.jsonl", "in/sub/d.jsonl", "inside/e.jsonl"] {
        server.put(name, name.as_bytes());
    }
    // As consoles of stores make directories.
    server.put("in/", b"");
    server.put("in/sub/", b"");
    let dir = machine.fetch("s3://bucket/in/").unwrap();
    assert_eq!(read(&dir, "b c%20ä.jsonl").unwrap(), "in/b c%20ä.jsonl".as_bytes());
    assert_eq!(read(&dir, "sub/d.jsonl").unwrap(), b"in/sub/d.jsonl");
    assert_eq!(read(&dir, "e.jsonl"), None);
    server.delete("in/a.jsonl");
    assert_eq!(machine.fetch("s3://bucket/in").unwrap(), dir);
    assert_eq!(read(&dir, "a.jsonl"), None);
    let error = machine.fetch("s3://bucket/i").unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Input, "there is nothing at this address")
    );
}
