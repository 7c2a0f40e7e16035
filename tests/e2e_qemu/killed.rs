//! The process that serves is killed again and again, and the guest notices nothing.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::restored::Restored;
use super::support::killing::{how_long, killing};
use super::vm::machine::{Machine, RAM_BYTES};

/// What the balloon takes and gives back: memory that is owed, and memory that the guest has used since.
const LESS: u64 = RAM_BYTES - (64 << 20);

/// Two processors that check all memory, for as long as it is missing and longer, while a balloon takes some of it, one page a call.
fn killed_while_the_guest_looks(options: &[&str]) {
    let mut machine = Machine {
        cpus: 2,
        balloon: true,
        ..Machine::default()
    };
    let Some(mut guest) = Restored::of(&mut machine, &[], options) else {
        return;
    };
    let qemu = i32::try_from(guest.qemu.pid()).expect("a pid");
    let keeper = i32::try_from(guest.daemon.pid()).expect("a pid");
    let (last, killed) = killing(keeper, &[qemu], 11, || {
        let until = Instant::now() + how_long(Duration::from_secs(4));
        guest.run();
        let mut last = guest.saved.last.number;
        loop {
            guest.balloon(LESS);
            guest.balloon(RAM_BYTES);
            last = guest.goes_on(last);
            if Instant::now() > until {
                return last;
            }
        }
    });
    println!("{killed:?}");
    // On a machine that has time there are hundreds.
    assert!(killed.kills > 20, "{killed:?}");
    assert!(killed.unfinished > 0, "{killed:?}");
    // It may have brought everything, and be gone; nobody has its number before it is waited for.
    let _ = kill(Pid::from_raw(keeper), Signal::SIGTERM);
    let said = guest.outlives_the_daemon(last);
    println!("{said}");
}

#[test]
fn on_demand_only() {
    killed_while_the_guest_looks(&["--prefill", "none"]);
}

/// Slowly, so that there is something to kill for.
#[test]
fn while_everything_is_brought() {
    killed_while_the_guest_looks(&["--prefill", "all", "--prefill-rate", "32MiB"]);
}
