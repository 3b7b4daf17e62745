//! Leases: one owner at a time, by the clock of the store.

use std::time::Duration;

use bylaw::error::ErrorKind;
use bylaw::object::{Mirror, Replica};
use bylaw::progress::Silent;

use super::object_server::{Fault, Server};
use super::{Machine, Notes, commit};

/// The lock of a process on another machine, as it was left.
fn foreign_lock(server: &Server) {
    let lock = br#"{"owner":{"pid":7,"host":"elsewhere"},"process":null,"lease":"x","seconds":60,"renewals":3,"released":false}"#;
    server.put("run/.lock", lock);
}

/// Catches: two owners at a time, a lock that stays after its owner ended.
#[test]
fn a_living_owner_keeps_others_out() {
    let server = Server::start();
    let (one, two) = (Machine::new(&server), Machine::new(&server));
    let mut here = one.mirror();
    here.hold(&Silent).unwrap();
    let mut there = two.mirror();
    let notes = Notes::default();
    let error = there.hold(&notes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.message().contains("is at work in this directory"), "{error}");
    assert!(
        error.message().contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    assert_eq!(notes.0.lock().unwrap().len(), 1);
    drop(here);
    there.hold(&notes).unwrap();
    assert_eq!(
        notes.0.lock().unwrap().len(),
        1,
        "a lock that was given back was not left"
    );
    there.pull().unwrap();
    assert!(!there.dir().join(".lock").exists());
    let names = server.names();
    assert_eq!(names, ["run/.lock"], "clocks are left");
}

/// Catches: two processes of one machine in the same local directory, or a wait for the other without end.
#[test]
fn a_local_directory_has_one_process() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let mirror = machine.mirror();
    let again = || Mirror::open(mirror.location(), &machine.settings, &[]).err();
    let error = again().unwrap();
    assert_eq!(
        error.to_string(),
        "s3://bucket/run: another process of this machine is at work in this directory"
    );
    // The same address at another server is another directory.
    let mut elsewhere = machine.settings.clone();
    elsewhere
        .variables
        .insert("AWS_ENDPOINT_URL".into(), "http://127.0.0.1:9".into());
    Mirror::open(mirror.location(), &elsewhere, &[]).unwrap();
}

/// Catches: a lock believed or taken by this machine's clock; two that take over the same lock; an owner
/// that goes on after it was taken over.
#[test]
fn a_silent_owner_is_taken_over_by_one_by_the_stores_clock() {
    let server = Server::start();
    // Years from this machine's time.
    server.advance(300_000_000);
    foreign_lock(&server);
    server.advance(50);
    let machines = [Machine::new(&server), Machine::new(&server)];
    let mut mirrors = machines.each_ref().map(Machine::mirror);
    let waits = std::thread::scope(|scope| {
        let threads: Vec<_> = mirrors
            .iter_mut()
            .map(|mirror| {
                scope.spawn(move || {
                    let notes = Notes::default();
                    let held = mirror.hold(&notes);
                    (held, notes.0.into_inner().unwrap())
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(600));
        assert!(threads.iter().all(|thread| !thread.is_finished()), "it has 10 s left");
        server.advance(20);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    let held = waits.iter().filter(|(held, _)| held.is_ok()).count();
    assert_eq!(held, 1, "{waits:?}");
    for (held, notes) in &waits {
        assert!(
            notes[0].contains("process 7 on elsewhere was at work here 5"),
            "{notes:?}"
        );
        match held {
            Ok(()) => assert!(
                notes[1].contains("process 7 on elsewhere did not finish here"),
                "{notes:?}"
            ),
            Err(error) => assert!(error.message().contains("is at work"), "{error}"),
        }
    }
}

/// Catches: an owner that was taken over and does not notice, or cannot say by whom.
#[test]
fn an_owner_that_was_taken_over_stops() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let mut mirror = machine.mirror();
    mirror.hold(&Silent).unwrap();
    commit(&mirror, "a", b"a");
    mirror.create("a").unwrap();
    foreign_lock(&server);
    commit(&mirror, "b", b"b");
    let error = (0..100).find_map(|_| {
        std::thread::sleep(Duration::from_millis(100));
        mirror.create("b").err()
    });
    assert_eq!(
        error.unwrap().message(),
        "process 7 on elsewhere has taken over this directory"
    );
    drop(mirror);
    let lock = String::from_utf8(server.object("run/.lock").unwrap()).unwrap();
    assert!(lock.contains("elsewhere"), "{lock}");
}

/// Catches: a lease lost because the answer to a renewal was, or because the store failed for a while.
#[test]
fn a_lease_outlives_lost_answers() {
    let server = Server::start();
    let mut machine = Machine::new(&server);
    machine.settings.lease = Duration::from_secs(1);
    let mut mirror = machine.mirror();
    server.plan(|asked, before| {
        let fault = match before % 4 {
            0 => Fault::Lost,
            1 => Fault::Status(500, "InternalError"),
            _ => return None,
        };
        (asked.line() == "PUT run/.lock").then_some(fault)
    });
    mirror.hold(&Silent).unwrap();
    let taken = server.count("PUT run/.lock");
    let renewed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        server.count("PUT run/.lock") > taken + 8
    });
    assert!(renewed);
    commit(&mirror, "a", b"a");
    mirror.create("a").unwrap();
    server.plan(|_, _| None);
    drop(mirror);
    let lock = String::from_utf8(server.object("run/.lock").unwrap()).unwrap();
    assert!(lock.contains("\"released\":true"), "{lock}");
}

/// Catches: a server that takes no notice of conditions, on which two jobs would overwrite each other.
#[test]
fn a_store_without_conditions_is_refused() {
    let server = Server::start();
    let machine = Machine::new(&server);
    server.plan(|_, _| Some(Fault::Careless));
    let error = machine.mirror().hold(&Silent).unwrap_err();
    assert_eq!(
        error.to_string(),
        "s3://bucket/run/.lock: the store takes no notice of conditions on writes"
    );
}

/// Catches: large files under way that nobody removes, or that are taken from an owner at work.
#[test]
fn the_owner_removes_what_dead_owners_left() {
    let server = Server::start();
    let (one, two) = (Machine::new(&server), Machine::new(&server));
    server.put("run/.upload/x-1-0", b"parts");
    one.mirror().pull().unwrap();
    assert_eq!(server.names(), ["run/.upload/x-1-0"]);
    let mut owner = two.mirror();
    owner.hold(&Silent).unwrap();
    owner.pull().unwrap();
    assert_eq!(server.names(), ["run/.lock"]);
    assert!(!owner.dir().join(".upload").exists());
}
