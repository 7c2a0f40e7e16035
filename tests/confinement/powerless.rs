//! What takes capabilities, with and without them. Not a matter of filters: there are none here.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::deeds::{Fate, Other, attempt};
use crate::support::Target;

#[track_caller]
fn answered(words: &str, answer: &str) {
    assert_eq!(attempt(words), Fate::Answered(answer.into()), "{words}");
}

/// CAP_SYS_PTRACE.
#[test]
fn processes_of_others_cannot_be_traced() {
    let other = Other::start();
    let pid = other.pid();
    answered(&format!("process open ptrace {pid}"), "EPERM");
    answered(&format!("process open smaps {pid}"), "EACCES");
    // Who has to find out which child waits.
    answered(&format!("looking open smaps {pid}"), "done");
    answered(&format!("looking smaps {pid}"), "done");
}

/// CAP_SYS_PTRACE, of who calls UFFDIO_API; that the events are read without it is in all tests of forks.
#[test]
fn forks_are_not_agreed_on_any_more() {
    answered("process open agree-on-forks", "EPERM");
    answered("criu open agree-on-forks", "done");
}

/// CAP_KILL is the one that is always kept.
#[test]
fn a_target_of_another_user_can_be_ended() {
    let mut other = Other::start();
    let words = format!("process end {}", other.pid());
    answered(&words, "done");
    crate::support::wait_until("its end", || other.ended().is_some());
}

/// CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH.
#[test]
fn files_of_others_cannot_be_read() {
    let path = "/tmp/uffd-restore-confinement-secret";
    fs::write(path, "secret").expect("written");
    std::os::unix::fs::chown(path, Some(65534), None).expect("chown");
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("chmod");
    answered("process secret", "EACCES");
    answered("recording secret", "done");
    fs::remove_file(path).expect("removed");
}

/// CAP_SYS_NICE, or a limit that allows it, without which the loop would not be where a thread is that faults alone.
#[test]
fn who_gives_way_becomes_ordinary_again() {
    answered("process idle-and-back", "done");
}

#[test]
fn what_was_given_up_does_not_come_back() {
    answered("process open capset", "EPERM");
    // Not by what is executed either: it is root.
    answered("process open run", "done");
}

/// The owner of what is in /proc is who may look into the process.
#[test]
fn others_of_the_same_user_cannot_look_into_it() {
    let owner = |words: &str| {
        let mut target = Target::start("confined", words);
        assert_eq!(target.hear(), "confined");
        let stat = fs::metadata(format!("/proc/{}/stat", target.pid()));
        stat.expect("it lives").uid()
    };
    assert_eq!(owner("process user=65534 nothing"), 0);
    // For debugging it is not hidden.
    assert_eq!(owner("process open user=65534 nothing"), 65534);
}
