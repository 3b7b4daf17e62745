//! Mirrors, leases and fetched inputs against a store on loopback that fails as it is told to.

#[path = "support/object_server.rs"]
mod object_server;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bylaw::error::{Error, ErrorKind};
use bylaw::object::{Location, Mirror, Placed, Replica, Settings, fetch, localise_in};
use bylaw::progress::{Progress, Silent};
use object_server::{Fault, Server};
use tempfile::TempDir;

const SECRET: &str = "5ecret/0123456789+abcdefghij";
const SESSION: &str = "se55ion-token-0123456789";
const MANIFEST: &str = "manifest.json";

// ---- machines ------------------------------------------------------------------------------------

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

// ---- mirrors -------------------------------------------------------------------------------------

/// Catches: names with `/` or in hidden directories lost, listings of several pages cut short, files that
/// the store has no more kept, another machine's files taken for a part of the run.
#[test]
fn another_machine_goes_on_from_the_same_files() {
    let server = Server::start();
    let (one, two) = (Machine::new(&server), Machine::new(&server));
    let here = one.mirror();
    here.pull().unwrap();
    for number in 0..8 {
        let name = format!(".job/units/{number}.unit");
        commit(&here, &name, format!("unit {number}").as_bytes());
        assert_eq!(here.create(&name).unwrap(), Placed::Created);
    }
    commit(&here, MANIFEST, b"one");
    here.replace(MANIFEST).unwrap();
    commit(&here, MANIFEST, b"two");
    here.replace(MANIFEST).unwrap();
    here.remove(".job/units/3.unit").unwrap();
    here.remove(".job/units/3.unit").unwrap();
    server.put("running/else.txt", b"a neighbour");
    assert_eq!(server.object("run/manifest.json").unwrap(), b"two");

    let there = two.mirror();
    commit(&there, "left-over.arrow", b"of another run");
    commit(&there, ".job/lock", b"of this machine");
    there.pull().unwrap();
    let mut names = Vec::new();
    for number in 0..8 {
        let unit = read(there.dir(), &format!(".job/units/{number}.unit"));
        let wanted = (number != 3).then(|| format!("unit {number}").into_bytes());
        assert_eq!(unit, wanted);
        names.push(number);
    }
    assert_eq!(read(there.dir(), MANIFEST).unwrap(), b"two");
    assert_eq!(read(there.dir(), ".job/lock").unwrap(), b"of this machine");
    assert_eq!(read(there.dir(), "left-over.arrow"), None);
    assert_eq!(read(there.dir(), "else.txt"), None);

    server.plan(|_, _| None);
    there.pull().unwrap();
    let gets = server
        .log()
        .iter()
        .filter(|asked| asked.key.starts_with("run/"))
        .count();
    assert_eq!(gets, 0, "what is here is brought again");
}

/// Catches: two that both believe to have created a file, or that go on with different bytes.
#[test]
fn of_two_that_create_one_wins_and_both_have_its_bytes() {
    let server = Server::start();
    let machines = [Machine::new(&server), Machine::new(&server)];
    let mirrors = machines.each_ref().map(Machine::mirror);
    for round in 0..25 {
        let name = format!(".job/units/{round}.unit");
        let placed = std::thread::scope(|scope| {
            let race = |index: usize| {
                let (mirror, name) = (&mirrors[index], name.as_str());
                scope.spawn(move || {
                    commit(mirror, name, format!("round {round} by {index}").as_bytes());
                    mirror.create(name).unwrap()
                })
            };
            [race(0), race(1)].map(|thread| thread.join().unwrap())
        });
        let created = placed.iter().filter(|placed| **placed == Placed::Created).count();
        assert_eq!(created, 1, "round {round}: {placed:?}");
        let winner = placed.iter().position(|placed| *placed == Placed::Created).unwrap();
        let bytes = format!("round {round} by {winner}").into_bytes();
        assert_eq!(server.object(&format!("run/{name}")).unwrap(), bytes);
        for mirror in &mirrors {
            assert_eq!(read(mirror.dir(), &name).unwrap(), bytes);
        }
    }
}

/// Catches: a write whose answer was lost taken for another's, or done twice; a failure of the server
/// that is not tried again.
#[test]
fn lost_answers_and_failing_servers_change_nothing() {
    let server = Server::start();
    let mut machine = Machine::new(&server);
    machine.settings.silence = Duration::from_millis(700);
    let mirror = machine.mirror();
    for (case, fault) in [
        (|| Fault::Lost) as fn() -> Fault,
        || Fault::Reset,
        || Fault::Status(500, "InternalError"),
        || Fault::Status(503, "SlowDown"),
        || Fault::Slow(Duration::from_secs(1)),
    ]
    .into_iter()
    .enumerate()
    {
        server.plan(move |asked, before| (asked.method == "PUT" && before == 0).then(fault));
        let name = format!("unit-{case}");
        commit(&mirror, &name, name.as_bytes());
        assert_eq!(mirror.create(&name).unwrap(), Placed::Created, "case {case}");
        assert_eq!(server.object(&format!("run/{name}")).unwrap(), name.as_bytes());
        commit(&mirror, MANIFEST, format!("manifest {case}").as_bytes());
        mirror.replace(MANIFEST).unwrap();
        assert_eq!(
            server.object("run/manifest.json").unwrap(),
            format!("manifest {case}").as_bytes()
        );
    }
    // The same for the requests of a pull, on a new machine.
    server.plan(|_, before| match before {
        0 => Some(Fault::Status(500, "InternalError")),
        1 => Some(Fault::Reset),
        _ => None,
    });
    let other = Machine::new(&server);
    let there = other.mirror();
    there.pull().unwrap();
    assert_eq!(read(there.dir(), "unit-4").unwrap(), b"unit-4");
}

/// Catches: a manifest overwritten by a process that did not see the last one; an error that does not say
/// who.
#[test]
fn a_replacement_that_loses_its_race_names_the_winner() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let mirror = machine.mirror();
    commit(&mirror, MANIFEST, b"one");
    mirror.replace(MANIFEST).unwrap();
    // One of its own, whose answers were all lost, is no other's.
    server.plan(|asked, _| (asked.method == "PUT").then_some(Fault::Lost));
    commit(&mirror, MANIFEST, b"lost");
    let _ = mirror.replace(MANIFEST);
    server.plan(|_, _| None);
    commit(&mirror, MANIFEST, b"found");
    mirror.replace(MANIFEST).unwrap();
    server.plan(|asked, before| {
        let race = || Fault::Race("run/manifest.json".into(), b"theirs".to_vec());
        (asked.line() == "PUT run/manifest.json" && before == 0).then(race)
    });
    commit(&mirror, MANIFEST, b"two");
    let error = mirror.replace(MANIFEST).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert_eq!(
        error.to_string(),
        "s3://bucket/run/manifest.json: process 7 on elsewhere has written this file meanwhile"
    );
    assert_eq!(server.object("run/manifest.json").unwrap(), b"theirs");
    mirror.pull().unwrap();
    assert_eq!(read(mirror.dir(), MANIFEST).unwrap(), b"theirs");

    // One that was there before this process looked.
    let other = Machine::new(&server);
    let blind = other.mirror();
    commit(&blind, MANIFEST, b"mine");
    blind.replace(MANIFEST).unwrap_err();
    assert_eq!(server.object("run/manifest.json").unwrap(), b"theirs");
}

/// Catches: work that is lost because the store could not be reached; work of before brought back into a
/// directory that others have changed or emptied.
#[test]
fn what_could_not_be_put_is_put_by_the_next_pull() {
    let server = Server::start();
    let machine = Machine::new(&server);
    let fail = |mirror: &Mirror, name: &str| {
        server.plan(|asked, _| (asked.method == "PUT").then_some(Fault::Status(500, "InternalError")));
        commit(mirror, name, name.as_bytes());
        let error = mirror.create(name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote);
        assert!(shown(&error).contains("InternalError"), "{}", shown(&error));
        server.plan(|_, _| None);
    };
    {
        let mirror = machine.mirror();
        commit(&mirror, MANIFEST, b"running");
        mirror.replace(MANIFEST).unwrap();
        fail(&mirror, "a.unit");
    }
    {
        let mirror = machine.mirror();
        // Committed here, not there: the store's is what counts.
        commit(&mirror, MANIFEST, b"RUNNING");
        mirror.pull().unwrap();
        assert_eq!(server.object("run/a.unit").unwrap(), b"a.unit");
        assert_eq!(read(mirror.dir(), MANIFEST).unwrap(), b"running");
        fail(&mirror, "b.unit");
        server.put("run/manifest.json", b"another run");
        mirror.pull().unwrap();
        assert_eq!(
            (server.object("run/b.unit"), read(mirror.dir(), "b.unit")),
            (None, None)
        );
        fail(&mirror, "c.unit");
        for name in server.names() {
            server.delete(&name);
        }
        mirror.pull().unwrap();
        assert_eq!(server.names(), Vec::<String>::new());
        assert_eq!(read(mirror.dir(), "c.unit"), None);
        assert_eq!(read(mirror.dir(), MANIFEST), None);
    }
}

/// What a job does, in small: units, a dataset of them, units removed. Bytes differ from run to run in
/// the units and follow from them in the dataset.
fn job(mirror: &Mirror, run: usize) -> Result<(), Error> {
    let put = |name: &str, bytes: &[u8]| commit(mirror, name, bytes);
    mirror.pull()?;
    if read(mirror.dir(), MANIFEST).is_some_and(|bytes| bytes.starts_with(b"complete")) {
        return (0..3).try_for_each(|unit| mirror.remove(&format!("{unit}.unit")));
    }
    put(MANIFEST, b"running");
    mirror.replace(MANIFEST)?;
    let mut dataset = Vec::new();
    for unit in 0..3 {
        let name = format!("{unit}.unit");
        if read(mirror.dir(), &name).is_none() {
            put(&name, format!("unit {unit} of run {run}").as_bytes());
            mirror.create(&name)?;
        }
        dataset.extend(read(mirror.dir(), &name).unwrap());
    }
    put("data.arrow", &dataset);
    mirror.replace("data.arrow")?;
    put(MANIFEST, &[b"complete ", &dataset[..]].concat());
    mirror.replace(MANIFEST)?;
    (0..3).try_for_each(|unit| mirror.remove(&format!("{unit}.unit")))
}

/// Catches: a dataset and a manifest that do not belong together, or work that nobody can go on with,
/// whichever request is the last before the network or the machine is gone.
#[test]
fn a_job_cut_off_at_any_request_goes_on_here_and_elsewhere() {
    for moves in [false, true] {
        for lost in [false, true] {
            let mut requests = 0;
            loop {
                let server = Server::start();
                let mut machines = [Machine::new(&server), Machine::new(&server)];
                for machine in &mut machines {
                    machine.settings.retries = 0;
                }
                let count = AtomicUsize::new(0);
                server.plan(move |_, _| match count.fetch_add(1, Ordering::Relaxed) {
                    number if number < requests => None,
                    number if number == requests && lost => Some(Fault::Lost),
                    _ => Some(Fault::Reset),
                });
                let first = job(&machines[0].mirror(), 1);
                server.plan(|_, _| None);
                let mirror = machines[usize::from(moves)].mirror();
                job(&mirror, 2).unwrap();
                let case = format!("after {requests} requests, {moves} {lost}");
                assert_eq!(server.names(), ["run/data.arrow", "run/manifest.json"], "{case}");
                let data = server.object("run/data.arrow").unwrap();
                let manifest = server.object("run/manifest.json").unwrap();
                assert!(manifest == [b"complete ", &data[..]].concat(), "{case}");
                assert_eq!(read(mirror.dir(), "data.arrow").unwrap(), data, "{case}");
                if first.is_ok() {
                    break;
                }
                requests += 1;
            }
            assert!(requests >= 10, "{requests}");
        }
    }
}

/// Catches: large files that are created twice, cut at a part's border, or left under their first name.
#[test]
fn large_files_are_put_in_parts_under_the_same_conditions() {
    let server = Server::start();
    let machines = [Machine::new(&server), Machine::new(&server)];
    let [one, two] = machines.each_ref().map(Machine::mirror);
    let bytes = noise((1 << 20) + 12_345);
    commit(&one, "data.arrow", &bytes);
    server.plan(|asked, before| {
        let part = asked.query.contains_key("partNumber") && before == 1;
        let end = asked.method == "POST" && asked.key.contains(".upload") && asked.query.contains_key("uploadId");
        (part || (end && before == 1)).then_some(Fault::Lost)
    });
    assert_eq!(one.create("data.arrow").unwrap(), Placed::Created);
    assert!(server.object("run/data.arrow").unwrap() == bytes);
    let mut others = bytes.clone();
    others[77] ^= 1;
    commit(&two, "data.arrow", &others);
    assert_eq!(two.create("data.arrow").unwrap(), Placed::Existed);
    assert!(read(two.dir(), "data.arrow").unwrap() == bytes);
    assert_eq!(server.names(), ["run/data.arrow"], "parts under way are left");
    // In the place of what was seen, and not in the place of anything else.
    commit(&one, "data.arrow", &others);
    one.replace("data.arrow").unwrap();
    assert!(server.object("run/data.arrow").unwrap() == others);
    commit(&two, "data.arrow", &bytes);
    two.replace("data.arrow").unwrap_err();
    assert!(server.object("run/data.arrow").unwrap() == others);
}

// ---- inputs --------------------------------------------------------------------------------------

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

// ---- leases --------------------------------------------------------------------------------------

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

// ---- every provider ------------------------------------------------------------------------------

/// What a mirror promises, on two machines, in an empty directory.
fn keeps_its_promises(address: &str, settings: [Settings; 2]) {
    let open = |index: usize| Mirror::open(&location(address), &settings[index], &[]).unwrap();
    let mut here = open(0);
    here.hold(&Silent).unwrap();
    let there = open(1);
    here.pull().unwrap();
    let large = noise(settings[0].large as usize + 1);
    for (name, bytes) in [("units/a b%20ä.unit", &b"small"[..]), ("large.arrow", &large)] {
        commit(&here, name, bytes);
        assert_eq!(here.create(name).unwrap(), Placed::Created, "{name}");
        commit(&there, name, b"other");
        assert_eq!(there.create(name).unwrap(), Placed::Existed, "{name}");
        assert!(read(there.dir(), name).unwrap() == bytes, "{name}");
        let more = [bytes, bytes].concat();
        commit(&here, name, &more);
        here.replace(name).unwrap();
        commit(&there, name, &more[1..]);
        there.replace(name).unwrap_err();
    }
    for text in ["one", "two"] {
        commit(&here, MANIFEST, text.as_bytes());
        here.replace(MANIFEST).unwrap();
    }
    there.pull().unwrap();
    assert!(read(there.dir(), "large.arrow").unwrap() == [&large[..], &large].concat());
    for mirror in [&there, &here] {
        commit(mirror, MANIFEST, format!("by {:?}", mirror.dir()).as_bytes());
    }
    there.replace(MANIFEST).unwrap();
    let error = here.replace(MANIFEST).unwrap_err();
    assert!(error.message().contains("has written this file meanwhile"), "{error}");
    drop(there);
    let mut there = open(1);
    assert!(there.hold(&Silent).unwrap_err().message().contains("is at work"));
    drop(here);
    there.hold(&Silent).unwrap();
    there.pull().unwrap();
    let inputs = localise_in(&format!("{address}/*.arrow"), &settings[0]).unwrap();
    assert_eq!(inputs.file_name().unwrap(), "*.arrow");
    let inputs = inputs.parent().unwrap();
    assert_eq!(read(inputs, "large.arrow").unwrap().len(), 2 * large.len());
    assert_eq!(read(inputs, MANIFEST), None);
    for name in ["units/a b%20ä.unit", "large.arrow", MANIFEST] {
        there.remove(name).unwrap();
        there.remove(name).unwrap();
    }
    there.pull().unwrap();
    assert_eq!(read(there.dir(), MANIFEST), None);
}

/// Catches: conditions, states or listings that are read as S3 has them where another provider differs.
#[test]
fn every_provider_keeps_the_same_promises() {
    for (address, variables) in [
        (
            "s3://bucket/run",
            &[
                ("AWS_ACCESS_KEY_ID", "a"),
                ("AWS_SECRET_ACCESS_KEY", "b"),
                ("AWS_ALLOW_HTTP", "1"),
            ][..],
        ),
        (
            "gs://bucket/run",
            &[("GOOGLE_BEARER_TOKEN", "token"), ("GOOGLE_ALLOW_HTTP", "true")],
        ),
        (
            "az://bucket/run",
            &[
                ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
                ("AZURE_SKIP_SIGNATURE", "true"),
                ("AZURE_ALLOW_HTTP", "true"),
            ],
        ),
    ] {
        let server = Server::start();
        let machines = [Machine::new(&server), Machine::new(&server)];
        let settings = machines.each_ref().map(|machine| {
            let mut settings = machine.settings.clone();
            let endpoints = ["AWS_ENDPOINT_URL", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT"];
            let endpoints = endpoints.map(|name| (name.to_owned(), server.address()));
            let variables = variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            settings.variables = variables.chain(endpoints).collect();
            settings
        });
        keeps_its_promises(address, settings);
        assert_eq!(server.names(), ["run/.lock"], "{address}");
    }
}

/// Catches: what our double of a store gets wrong. Against the directory in `BYLAW_TEST_STORE`, with the
/// environment's credentials: `scripts/compare/object_store.sh`.
#[test]
#[ignore = "needs a store"]
fn a_real_store_keeps_the_same_promises() {
    let Ok(address) = std::env::var("BYLAW_TEST_STORE") else {
        panic!("set BYLAW_TEST_STORE to an empty directory such as s3://bucket/dir");
    };
    let homes = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let settings = homes.each_ref().map(|home| Settings {
        cache: home.path().to_owned(),
        lease: Duration::from_secs(4),
        ..Settings::from_env().unwrap()
    });
    keeps_its_promises(&address, settings);
}

// ---- errors and keys -----------------------------------------------------------------------------

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
