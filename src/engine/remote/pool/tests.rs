//! The pool's choices, on a clock that the tests set.

use super::*;

const LIMITS: Limits = Limits {
    concurrency: 2,
    outage: Duration::from_secs(60),
};

fn take(pool: &Pool, now: Instant) -> Choice {
    pool.state().choose(now, LIMITS)
}

fn end(pool: &Pool, index: usize, verdict: impl FnOnce(&mut Endpoint)) {
    let mut state = pool.state();
    state.endpoints[index].outstanding -= 1;
    verdict(&mut state.endpoints[index]);
}

fn taken(index: usize) -> Choice {
    Choice::Take { index, probe: false }
}

/// Catches: requests that pile up at one endpoint, and a limit that is passed.
#[test]
fn the_least_busy_endpoint_is_chosen() {
    let (pool, now) = (Pool::new(2, LIMITS), Instant::now());
    assert_eq!(take(&pool, now), taken(0));
    assert_eq!(take(&pool, now), taken(1));
    end(&pool, 1, |_| {});
    assert_eq!(take(&pool, now), taken(1));
    assert_eq!(take(&pool, now), taken(0));
    assert_eq!(take(&pool, now), taken(1));
    let full = Choice::Wait {
        until: None,
        hopeless: false,
    };
    assert_eq!(take(&pool, now), full);
}

/// Catches: a dead endpoint that is asked on and on, or never again; two probes at once.
#[test]
fn a_circuit_opens_and_is_probed_once() {
    let (pool, start) = (Pool::new(2, LIMITS), Instant::now());
    for _ in 0..FAILURES {
        pool.state().endpoints[0].fail("reset", None, start);
    }
    assert_eq!(take(&pool, start), taken(1));
    assert_eq!(take(&pool, start), taken(1));
    let later = start + COOLDOWN;
    assert_eq!(take(&pool, later), Choice::Take { index: 0, probe: true });
    let Choice::Wait { hopeless, .. } = take(&pool, later) else {
        panic!("a second probe");
    };
    assert!(!hopeless);
    // The probe fails: twice the cooldown.
    end(&pool, 0, |endpoint| endpoint.fail("reset", None, later));
    assert!(matches!(take(&pool, later + COOLDOWN), Choice::Wait { .. }));
    let again = later + 2 * COOLDOWN;
    assert_eq!(take(&pool, again), Choice::Take { index: 0, probe: true });
    end(&pool, 0, |endpoint| endpoint.circuit = Circuit::Closed);
    assert_eq!(take(&pool, again), taken(0));
}

/// Catches: a few hopeless requests that keep a living endpoint away from the others for half a minute.
#[test]
fn a_living_endpoint_is_probed_soon_again() {
    let (pool, mut now) = (Pool::new(1, LIMITS), Instant::now());
    for _ in 0..FAILURES {
        pool.state().endpoints[0].fail("500", None, now);
    }
    for _ in 0..6 {
        now += LONGEST_COOLDOWN_ALIVE;
        assert_eq!(take(&pool, now), Choice::Take { index: 0, probe: true });
        let lease = Lease {
            pool: &pool,
            index: 0,
            probe: true,
            judged: false,
        };
        lease.found_alive();
        lease.failed("500", None);
        now = now.max(Instant::now());
    }
}

/// Catches: a run that waits for ever, one that ends while an endpoint is being tried, and an outage that
/// adds up over short ones.
#[test]
fn an_outage_ends_the_run() {
    let (pool, start) = (Pool::new(1, LIMITS), Instant::now());
    for _ in 0..FAILURES {
        pool.state().endpoints[0].fail("refused", None, start);
    }
    let Choice::Wait { until, hopeless } = take(&pool, start) else {
        panic!("an open circuit was used");
    };
    assert_eq!((until, hopeless), (Some(start + COOLDOWN), true));
    assert_eq!(
        take(&pool, start + Duration::from_secs(40)),
        Choice::Take { index: 0, probe: true }
    );
    let late = start + Duration::from_secs(61);
    assert!(matches!(take(&pool, late), Choice::Wait { .. }));
    end(&pool, 0, |endpoint| endpoint.fail("refused", None, late));
    assert_eq!(take(&pool, late), Choice::Outage);
    assert!(pool.outage().message().contains("refused"));
    pool.state().endpoints[0].circuit = Circuit::Closed;
    assert_eq!(take(&pool, late), taken(0));
    assert_eq!(pool.state().down_since, None);
}

/// Catches: a pause that counts as a failure, is forgotten, or is shortened by a later one.
#[test]
fn a_pause_is_kept() {
    let (pool, now) = (Pool::new(1, LIMITS), Instant::now());
    let second = Duration::from_secs(1);
    for seconds in [5, 2] {
        pool.state().endpoints[0].pause(Some(seconds * second), now);
    }
    assert!(matches!(
        take(&pool, now + 4 * second),
        Choice::Wait { until: Some(_), .. }
    ));
    assert_eq!(take(&pool, now + 5 * second), taken(0));
}

/// Catches: a probe that ends without a verdict and leaves its endpoint half open for good.
#[test]
fn a_dropped_probe_frees_its_endpoint() {
    let pool = Pool::new(1, LIMITS);
    pool.found_dead(0, "refused");
    let far = Instant::now() + 2 * COOLDOWN;
    assert_eq!(take(&pool, far), Choice::Take { index: 0, probe: true });
    drop(Lease {
        pool: &pool,
        index: 0,
        probe: true,
        judged: false,
    });
    assert_eq!(take(&pool, far), Choice::Take { index: 0, probe: true });
}
