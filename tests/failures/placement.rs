//! Snapshots of another layout. The target is not touched.

use snapshot_format::RegionKind;

use super::actor::Actor;
use super::daemon::{Daemon, Ended, command, run};
use super::lab::{Lab, Plan};

fn attach(lab: &Lab, plan: &Plan, actor: &Actor, more: &[&str]) -> Ended {
    let snapshot = lab.snapshot("snap", plan);
    let mut command = command(&["--snapshot"]);
    command
        .arg(snapshot)
        .args(["--pid", &actor.pid().to_string()])
        .args(more);
    run(command)
}

#[test]
fn memory_of_another_process_is_refused_by_name() {
    let (lab, mut actor) = (Lab::new(), Actor::start(8));
    let stack = Plan {
        regions: vec![("[stack]".to_owned(), RegionKind::Stack)],
        ..Plan::of(8)
    };
    for (plan, name) in [
        (Plan::named(8, &["[heap]"]), "[heap]"),
        (stack, "[stack]"),
        (Plan::named(8, &["/usr/lib/libc.so.6"]), "libc.so.6"),
    ] {
        for more in [&[][..], &[format!("--region={name}").as_str()]] {
            attach(&lab, &plan, &actor, more).assert(
                1,
                &[name, "the target is another one", "--region NAME=ADDRESS"],
            );
        }
    }
    actor.assert_untouched();
}

#[test]
fn a_region_that_has_no_place_or_several_is_named_with_what_there_is() {
    let (lab, mut actor) = (Lab::new(), Actor::start(8));
    let at = |address: u64| format!("--region=largest={address:#x}");
    let one = Plan::of(8);
    attach(&lab, &one, &actor, &["--region=ram"])
        .assert(1, &["no region \"ram\"", "anonymous memory"]);
    attach(&lab, &one, &actor, &["--region=0x7000"]).assert(1, &["no region \"0x7000\""]);

    // A page beyond the end of what is mapped there, if it is the last of its neighbourhood; over the border in any case.
    let huge = Plan::of(1 << 20);
    attach(
        &lab,
        &Plan {
            all_lost: true,
            ..huge
        },
        &actor,
        &[&at(actor.address)],
    )
    .assert(1, &["does not fit at", "is mapped there"]);

    let two = Plan::named(8, &["twin", "twin"]);
    attach(&lab, &two, &actor, &["--region=twin"]).assert(
        1,
        &["names several regions", "0x100000000000", "0x100100000000"],
    );
    let (here, there) = (
        format!("--region=0x100000000000={:#x}", actor.address),
        format!("--region=0x100100000000={:#x}", actor.address),
    );
    attach(&lab, &two, &actor, &[&here, &there]).assert(1, &["same addresses", "--region"]);

    let shared = Plan {
        regions: vec![("/dev/shm/ram".to_owned(), RegionKind::Shared)],
        ..Plan::of(8)
    };
    attach(&lab, &shared, &actor, &[]).assert(1, &["/dev/shm/ram", "no mapping", "--region"]);
    attach(&lab, &shared, &actor, &["--region=ram=0x100000000000"])
        .assert(1, &["nothing is mapped", "shared memory", "itself"]);
    actor.assert_untouched();
}

#[test]
fn memory_of_the_wrong_kind_is_refused() {
    let (lab, mut actor) = (Lab::new(), Actor::start(8));
    let raw = Plan {
        regions: vec![("ram".to_owned(), RegionKind::Raw)],
        ..Plan::of(1)
    };
    // A page of the program itself, which is a file; and one of the kernel's.
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", actor.pid())).expect("maps");
    let start = |part: &str| {
        let line = maps.lines().find(|line| line.contains(part));
        let line = line.expect("a mapping");
        line.split_once('-').expect("a range").0.to_owned()
    };
    let vdso = format!("--region=ram=0x{}", start("[vdso]"));
    attach(&lab, &raw, &actor, &[&vdso]).assert(1, &["[vdso]", "belongs to the kernel"]);
    actor.assert_untouched();
}

#[test]
fn regions_are_found_by_name_address_and_size() {
    let lab = Lab::new();
    for choose in [
        |actor: &Actor| format!("--region=ram={:#x}", actor.address),
        |actor: &Actor| format!("--region=0x100000000000={:x}", actor.address),
        |actor: &Actor| format!("--region=largest={:#x}", actor.address),
    ] {
        let mut actor = Actor::start(8);
        let snapshot = lab.snapshot("snap", &Plan::named(8, &["ram"]));
        let mut command = command(&["--snapshot"]);
        command
            .arg(snapshot)
            .args(["--pid", &actor.pid().to_string(), &choose(&actor)]);
        let daemon = Daemon::spawn(command);
        daemon.hear("serving");
        actor.assert_restored();
        daemon.end().assert(0, &["all memory is in place"]);
    }
}
