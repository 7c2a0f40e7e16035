//! A target each of whose threads sleeps in another system call: the role, and the test's end of it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;

use super::sleepers::{self, SEMAPHORE, syscall};
use super::support::{self, Target, assert_left_alone, hear, say, wait_until};

/// Stands for "has not returned".
const SLEEPING: i64 = i64::MIN;
/// Starts a thread for each call, says how many, and then for each its tid, the call's number and its name. On a line of
/// input says which calls have returned.
pub(crate) fn play(_: &[&str]) {
    let calls = sleepers::calls();
    let results: &'static [AtomicI64] =
        Vec::leak(calls.iter().map(|_| AtomicI64::new(SLEEPING)).collect());
    say(&calls.len().to_string());
    let names: Vec<&str> = calls.iter().map(|call| call.name).collect();
    for (index, sleeper) in calls.into_iter().enumerate() {
        thread::spawn(move || {
            say(&format!(
                "{} {} {}",
                nix::unistd::gettid(),
                sleeper.number,
                sleeper.name
            ));
            results[index].store((sleeper.call)(), Ordering::SeqCst);
        });
    }
    while hear().is_some() {
        let returned: Vec<String> = results
            .iter()
            .zip(&names)
            .filter(|(result, _)| result.load(Ordering::SeqCst) != SLEEPING)
            .map(|(result, name)| format!("{name}: {}", result.load(Ordering::SeqCst)))
            .collect();
        say(&returned.join(", "));
    }
    let semaphore = usize::try_from(SEMAPHORE.load(Ordering::SeqCst)).expect("an id");
    syscall(libc::SYS_semctl, [semaphore, 0, 0, 0, 0, 0]);
    support::end();
}

/// Calls with a relative time-out that the kernel keeps track of go on as restart_syscall(2) after a stop.
pub(crate) fn sleeps_in(tid: i32, number: i64) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
    let now = text
        .split(' ')
        .next()
        .and_then(|now| now.parse::<i64>().ok());
    (now == Some(number) || now == Some(libc::SYS_restart_syscall)) && support::state(tid) == 'S'
}

/// The target, as the test sees it. The role's name must be `sleepers`.
pub(crate) struct Sleepers {
    target: Target,
    /// Thread, number of the call that it sleeps in, name of the call.
    pub(crate) threads: Vec<(i32, i64, String)>,
}

impl Sleepers {
    pub(crate) fn start() -> Self {
        let mut target = Target::start("sleepers", "");
        let count = target.hear_numbers()[0];
        let threads = (0..count)
            .map(|_| {
                let line = target.hear();
                let mut words = line.splitn(3, ' ');
                let mut word = || words.next().expect("three words").to_owned();
                (
                    word().parse().expect("tid"),
                    word().parse().expect("number"),
                    word(),
                )
            })
            .collect();
        Self { target, threads }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.target.pid()
    }

    pub(crate) fn wait_until_all_sleep(&self) {
        for (tid, number, name) in &self.threads {
            wait_until(name, || sleeps_in(*tid, *number));
        }
    }

    /// Which calls have returned, and what.
    pub(crate) fn returned(&mut self) -> String {
        self.target.tell("report");
        self.target.hear()
    }

    pub(crate) fn finish(self) {
        assert_left_alone(self.target.pid());
        self.target.finish();
    }
}
