//! Leaving everything to the next run of this program.

use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::keeper::signals;
use crate::serve::{END_OF_A_PROCESS, Guard, kill_family};
use crate::service::Pulse;
use crate::terminal::say;

/// The exit status of who leaves something to the next run: EX_TEMPFAIL of sysexits.h. The units have it restart.
pub(super) const LEFT: u8 = 75;

/// Waits, for this run cannot go on with what is in the store, and if it ended without another one coming, what is missing would become
/// zeros. SIGUSR1 leaves it to the next one, be it another build; any other signal that asks to end kills the targets.
#[must_use]
pub(super) fn hold(guard: &Guard, pulse: &Pulse, why: &str) -> ExitCode {
    let what = format!("the targets wait, for this program cannot go on with them: {why}");
    say(&format!(
        "uffd-restore: {what}; mend that and restart the service (to stop it kills them)"
    ));
    pulse.tell(&what);
    if wait_for_signal() == Signal::SIGUSR1 {
        return ExitCode::from(LEFT);
    }
    say(
        "uffd-restore: asked to end: the targets are killed, for memory is missing that must not read as zeros",
    );
    let watched = guard.targets_without(&[]);
    for target in &watched {
        kill_family(target);
    }
    for target in &watched {
        let _ = target.ends_within(END_OF_A_PROCESS);
    }
    ExitCode::FAILURE
}

/// One of those that are held.
fn wait_for_signal() -> Signal {
    let Ok(signals) = signals() else {
        return Signal::SIGUSR1;
    };
    loop {
        let mut waited = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        // Interrupted or not, it is looked at afterwards.
        let _ = poll(&mut waited, PollTimeout::NONE);
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGCHLD) | Err(_) => {}
                Ok(signal) => return signal,
            }
        }
    }
}
