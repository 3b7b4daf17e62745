//! Mirrors: what of two writers, of failing servers and of cut-off jobs comes to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bylaw::error::{Error, ErrorKind};
use bylaw::object::{Mirror, Placed, Replica};

use super::object_server::{Fault, Server};
use super::{MANIFEST, Machine, commit, noise, read, shown};

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
