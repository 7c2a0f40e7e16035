//! What cannot be meant: exit status 2, before anything is looked at.

use super::daemon::{command, run};
use super::lab::Lab;

#[test]
fn bad_usage_is_status_2() {
    let (_lab, snapshot) = Lab::with_snapshot(4);
    let snapshot = snapshot.to_str().expect("UTF-8");
    let pid = std::process::id().to_string();
    let good = ["--snapshot", snapshot, "--pid", &pid];
    for (more, part) in [
        (&["--region", ""][..], "cannot be empty"),
        (&["--region", "ram="], "page-aligned address"),
        (&["--region", "ram=here"], "page-aligned address"),
        (&["--region", "ram=0x1001"], "page-aligned address"),
        (
            &["--prefill", "some"],
            "[possible values: none, working-set, all]",
        ),
        (&["--on-failure", "zero"], "[possible values: poison, kill]"),
        (&["--finish-within", "soon"], "--finish-within"),
        (&["--jobs", "0"], "--jobs"),
        (&["--jobs", "1025"], "--jobs"),
        (&["--ready-fd", "2"], "0, 1 and 2 have other uses"),
        (&["--ready-fd", "77"], "not open"),
        (&["--check"], "cannot be used with"),
        (&["more"], "the subcommand 'more' cannot be used with"),
    ] {
        let ended = run(command(&[&good[..], more].concat()));
        ended.assert(2, &[part]);
        assert!(ended.out.is_empty(), "{ended:?}");
    }
    run(command(&["more"])).assert(2, &["unrecognized subcommand 'more'"]);
    run(command(&[])).assert(2, &["--snapshot <FILE>", "--pid <PID>"]);
}

#[test]
fn help_has_examples_and_says_what_the_exit_status_means() {
    let help = run(command(&["--help"]));
    assert_eq!(help.status, 0);
    for part in [
        "Examples:",
        "uffd-restore --snapshot service.snap --pid 4242",
        "Exit status: 0",
        "SIGTERM",
        "never zero",
        "[default: poison]",
    ] {
        assert!(help.out.contains(part), "no {part:?} in {}", help.out);
    }
}
