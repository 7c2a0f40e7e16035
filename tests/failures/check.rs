//! `--check`, as root and as nobody.

use super::daemon::{command, run};
use super::lab::Lab;
use super::permissions::{as_nobody, unprivileged_may, with_device_for_all, without_device};

#[test]
fn root_can_do_everything() {
    let ended = run(command(&["--check"]));
    ended.assert(0, &[]);
    for part in [
        "Linux ",
        "ok  userfaultfd",
        "ok  CAP_SYS_PTRACE",
        "works        --pid",
    ] {
        assert!(ended.out.contains(part), "no {part:?} in {}", ended.out);
    }
    assert!(!ended.out.contains("DOES NOT"), "{}", ended.out);

    let ended = run(command(&["--check", "--json"]));
    let checked: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(ended.status, 0);
    for finding in checked["findings"].as_array().expect("a list") {
        assert!(
            finding["detail"].is_string() && finding["good"] == true,
            "{finding}"
        );
    }
    for mode in checked["modes"].as_array().expect("a list") {
        assert_eq!(mode["works"], true, "{mode}");
        assert_eq!(mode["missing"].as_array().map(Vec::len), Some(0), "{mode}");
    }
    assert!(
        checked["features"]
            .as_array()
            .is_some_and(|all| all.len() > 5)
    );
}

#[test]
fn nobody_is_told_what_is_missing_and_the_status_says_so() {
    let ended = run(as_nobody(&command(&["--check"]), &[]));
    assert_eq!(ended.status, 1, "{ended:?}");
    let mut parts = vec![
        "NO  CAP_SYS_PTRACE",
        "run as root",
        "DOES NOT     --pid: missing:",
    ];
    if !unprivileged_may() {
        parts.extend(["NO  userfaultfd", "vm.unprivileged_userfaultfd"]);
    }
    for part in parts {
        assert!(ended.out.contains(part), "no {part:?} in {}", ended.out);
    }

    let ended = run(as_nobody(&command(&["--check", "--json"]), &[]));
    let checked: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!(ended.status, 1);
    let serve = &checked["modes"][0];
    assert_eq!(serve["mode"], "--pid");
    assert_eq!(serve["works"], false);
    let missing = serve["missing"].as_array().expect("a list");
    assert!(
        missing.iter().any(|what| what == "CAP_SYS_PTRACE"),
        "{serve}"
    );
}

#[test]
fn it_tells_the_device_from_the_capability() {
    let lab = Lab::new();
    let ended = run(with_device_for_all(
        &lab,
        &as_nobody(&command(&["--check"]), &[]),
    ));
    assert_eq!(ended.status, 1);
    for part in [
        "ok  userfaultfd",
        "ok  /dev/userfaultfd",
        "NO  events",
        "CAP_SYS_PTRACE",
    ] {
        assert!(ended.out.contains(part), "no {part:?} in {}", ended.out);
    }
    let ended = run(without_device(&command(&["--check"])));
    assert_eq!(ended.status, 0);
    for part in [
        "NO  /dev/userfaultfd",
        "works        --pid",
        "DOES NOT     --pid, targets of other users",
    ] {
        assert!(ended.out.contains(part), "no {part:?} in {}", ended.out);
    }
}
