//! Restores that do not come about.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::board::Slot;
use super::case::{Case, Source};
use super::daemon::{self, Daemon, Kind};
use super::support::{PATIENCE, wait_until};

/// A target that has been dumped, and is small.
fn dumped() -> Option<Case> {
    let mut case = Case::start("threads", "8", 1)?;
    case.dump("images");
    Some(case)
}

/// CRIU's own waits for ever.
#[test]
fn nobody_is_waited_for_for_ever() {
    let Some(mut case) = dumped() else { return };
    let start = Instant::now();
    let daemon = case.serve(Kind::Ours, Source::Images, &["--connect-timeout", "1s"]);
    let done = daemon.ended(&mut case.stage);
    done.assert_failed(&["connect", "1s"]);
    assert!(start.elapsed() >= Duration::from_secs(1), "too early");
}

#[test]
fn a_restore_that_fails_after_connecting_is_a_failure() {
    let Some(mut case) = dumped() else { return };
    let daemon = case.serve(Kind::Ours, Source::Images, &[]);
    // It has it open.
    fs::remove_file(case.path("target.out")).expect("remove its output");
    let why = case.restore().expect_err("without one of its files");
    assert!(why.contains("target.out"), "{why}");
    let done = daemon.ended(&mut case.stage);
    done.assert_failed(&["criu restore"]);
}

#[test]
fn a_restore_that_is_killed_between_connecting_and_finishing_is_a_failure() {
    let Some(mut case) = dumped() else { return };
    let daemon = case.serve(Kind::Ours, Source::Images, &[]);
    // After everybody has sent its userfaultfd, and before the end is told.
    let (script, here) = (case.path("script"), case.path("here"));
    let text = format!(
        "#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = post-restore ] || exit 0\n: >{}\nexec sleep 100\n",
        here.display()
    );
    fs::write(&script, text).expect("a script");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a program");
    let line = case.restore_line().word("--action-script").path(&script);
    let folder = case.path("");
    let restore = case.stage.start(&folder, "restore", &line);
    wait_until("the script", || here.exists());
    assert_eq!(case.board.get(Slot::Checked), 0);
    case.stage.kill(restore, Signal::SIGKILL);
    case.stage.await_end(restore, "criu restore");
    let done = daemon.ended(&mut case.stage);
    done.assert_failed(&["criu restore"]);
    // Nobody is left who could go on without its memory.
    let left = case.stage.end_within(case.root(), PATIENCE);
    assert!(left.is_some(), "the half restored target is still there");
}

#[test]
fn what_is_not_a_dump_is_refused_before_there_is_a_socket() {
    let Some(mut case) = dumped() else { return };
    let folder = case.path("");
    let empty = case.path("empty");
    fs::create_dir(&empty).expect("a folder");
    for images in [empty, case.path("missing")] {
        let line = daemon::line(Kind::Ours, Path::new(""), &images, &folder);
        let daemon = Daemon::start(&mut case.stage, &folder, Kind::Ours, line);
        let name = images.display().to_string();
        daemon.ended(&mut case.stage).assert_failed(&[&name]);
        assert!(!folder.join("lazy-pages.socket").exists());
    }
}

/// The pages are not there any more, and CRIU's own would send whatever it finds in their place.
#[test]
fn stripped_images_are_not_served_without_their_snapshot() {
    let Some(mut case) = dumped() else { return };
    case.import();
    let folder = case.path("");
    let line = case.daemon_line(Kind::Ours, Source::Images);
    let daemon = Daemon::start(&mut case.stage, &folder, Kind::Ours, line);
    daemon.ended(&mut case.stage).assert_failed(&["--snapshot"]);
}
