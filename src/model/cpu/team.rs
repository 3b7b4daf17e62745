//! A pass's threads, kept awake from fork to fork.
//!
//! A decoding step of a small model forks some 150 times, every hundred microseconds. Rayon's threads
//! fall asleep between two forks and take as long to wake as the work they are woken for.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::Yield;

thread_local! {
    /// Whether this thread leads a team or belongs to one. Two teams in one pool must not wait for each
    /// other: a thread that is taken goes on with what it does.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body` on a thread of rayon's pool, while the others look for work without ever sleeping.
pub fn awake<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    let done = AtomicBool::new(false);
    rayon::scope(|scope| {
        let Some(_leads) = Taken::new() else { return body() };
        scope.spawn_broadcast(|_, _| {
            if let Some(_follows) = Taken::new() {
                work_until(|| done.load(Ordering::Acquire));
            }
        });
        // Also when `body` panics.
        let _done = Raise(&done);
        body()
    })
}

/// Calls `work` with each of `shares`, one of them on this thread, and comes back when all are done.
pub fn share<T: Send>(shares: Vec<T>, work: impl Fn(T) + Sync) {
    let mut shares = shares.into_iter();
    let Some(own) = shares.next() else { return };
    let left = AtomicUsize::new(shares.len());
    rayon::in_place_scope(|scope| {
        for share in shares {
            let (work, left) = (&work, &left);
            scope.spawn(move |_| {
                // A share that waits for shares of its own must not follow the leader who waits for it.
                let _taken = Taken::new();
                let _one = Count(left);
                work(share);
            });
        }
        work(own);
        work_until(|| left.load(Ordering::Acquire) == 0);
    });
}

/// Idle rounds after which the system may run something else.
const PATIENCE: usize = 256;

/// Executes whatever the pool has to do until `done`.
fn work_until(done: impl Fn() -> bool) {
    let mut idle = 0;
    while !done() {
        match rayon::yield_now() {
            Some(Yield::Executed) => idle = 0,
            _ if idle < PATIENCE => {
                idle += 1;
                std::hint::spin_loop();
            }
            _ => std::thread::yield_now(),
        }
    }
}

/// That this thread belongs to a team, until dropped.
struct Taken;

impl Taken {
    fn new() -> Option<Self> {
        // Not `then_some`: a value made for nothing would set the thread free when dropped.
        (!TAKEN.replace(true)).then(|| Self)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        TAKEN.set(false);
    }
}

/// Sets the flag when dropped.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Counts one down when dropped.
struct Count<'a>(&'a AtomicUsize);

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Catches: a share lost or done twice, and coming back before all are done.
    #[test]
    fn every_share_is_done_once() {
        let done: Vec<AtomicU32> = (0..100).map(|_| AtomicU32::new(0)).collect();
        for _ in 0..50 {
            awake(|| {
                share((0..done.len()).collect(), |index: usize| {
                    done[index].fetch_add(1, Ordering::Relaxed);
                });
            });
        }
        assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 50));
    }

    /// Catches: two teams in one pool whose threads wait for each other for ever, and a team inside one.
    #[test]
    fn teams_do_not_wait_for_each_other() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let total = AtomicU32::new(0);
        let team = || {
            awake(|| {
                for _ in 0..200 {
                    awake(|| share(vec![1, 2, 3, 4], |n: u32| _ = total.fetch_add(n, Ordering::Relaxed)));
                }
            });
        };
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| pool.install(team));
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 6 * 200 * 10);
    }

    /// Catches: a thread that follows the leader while the leader waits for what it was doing.
    #[test]
    fn a_share_may_be_shared_out_again() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let total = AtomicU32::new(0);
        for _ in 0..500 {
            pool.install(|| {
                awake(|| {
                    share(vec![1, 2], |n: u32| {
                        share(vec![n; 3], |n: u32| _ = total.fetch_add(n, Ordering::Relaxed));
                    });
                });
            });
        }
        assert_eq!(total.load(Ordering::Relaxed), 500 * 9);
    }

    /// Catches: threads that never stop looking for work once a share or the leader has panicked.
    #[test]
    fn a_panic_ends_the_team() {
        let caught = std::panic::catch_unwind(|| {
            awake(|| share(vec![0, 1, 2], |n: usize| assert!(n != 1, "share one")));
        });
        assert!(caught.is_err());
        assert!(std::panic::catch_unwind(|| awake(|| panic!("the leader"))).is_err());
        every_share_is_done_once();
    }
}
