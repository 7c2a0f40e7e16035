//! The daemon: what it restores, and what it is told to leave zero, is what the guest finds.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::Arc;

use snapshot_format::{Content, Cursor, PageNo, SectionKind, Snapshot};

use crate::daemon::{Daemon, Done, Lab};
use crate::guest::FIRST;
use crate::machine::Mode;
use crate::plan::Plan;
use crate::support::huge::HugePages;
use crate::{Vmm, kvm};

/// Lets a guest look at everything while it is restored, and dropped from, and waits until nothing is owed to it.
fn look_at_all(plan: &Plan, lab: &Lab, daemon: &Daemon) -> Done {
    let mut vmm = Vmm::start(plan, &lab.socket());
    vmm.found().assert_right(plan);
    let done = daemon.done();
    assert_eq!(done.outcome(), "complete", "{done:?}");
    vmm.0.finish();
    done
}

/// The same, where nothing is installed but what is asked for.
fn look_at_all_lazily(plan: &Plan, lab: &Lab, file: &Path) {
    let daemon = Daemon::listening(lab, file, &["--read-ahead", "0"]);
    let done = look_at_all(plan, lab, &daemon);
    // The VMM itself touches only the first pages, the guest's code and states: all other faults are KVM's.
    assert!(done.faults() > FIRST as u64 + 4, "{done:?}");
    assert!(done.removes() > 0 && done.pages("removed") > 0, "{done:?}");
    assert_eq!(done.pages("poisoned"), 0, "{done:?}");
    assert_eq!(done.pages("prefill"), 0, "{done:?}");
}

#[test]
fn from_a_snapshot_in_user_mode() {
    if !kvm() {
        return;
    }
    let plan = Plan::new(Mode::User, 4);
    let lab = Lab::new(&plan);
    look_at_all_lazily(&plan, &lab, &lab.snapshot());
}

#[test]
fn from_a_snapshot_without_paging() {
    if !kvm() {
        return;
    }
    let plan = Plan::new(Mode::Flat, 3);
    let lab = Lab::new(&plan);
    look_at_all_lazily(&plan, &lab, &lab.snapshot());
}

#[test]
fn from_a_raw_file() {
    if !kvm() {
        return;
    }
    let plan = Plan::new(Mode::User, 2);
    let lab = Lab::new(&plan);
    look_at_all_lazily(&plan, &lab, &lab.raw());
}

#[test]
fn in_huge_pages() {
    if !kvm() {
        return;
    }
    let _reserved = HugePages::reserve(20);
    let plan = Plan::new(Mode::User, 2).huge();
    let lab = Lab::new(&plan);
    for file in [lab.snapshot(), lab.raw()] {
        // 16 faults at most: one for each page.
        let daemon = Daemon::listening(&lab, &file, &[]);
        let done = look_at_all(&plan, &lab, &daemon);
        assert!(done.faults() > 4 && done.removes() > 0, "{done:?}");
    }
}

/// Pages that nobody asked for yet are installed while pages are dropped.
#[test]
fn prefilled_while_it_runs() {
    if !kvm() {
        return;
    }
    let plan = Plan::new(Mode::User, 4);
    let lab = Lab::new(&plan);
    for file in [lab.snapshot(), lab.raw()] {
        let daemon = Daemon::listening(&lab, &file, &["--prefill", "all"]);
        look_at_all(&plan, &lab, &daemon);
    }
}

#[test]
fn two_guests_at_once() {
    if !kvm() {
        return;
    }
    let plans = [Plan::new(Mode::User, 2), Plan::new(Mode::Flat, 2)];
    let lab = Lab::new(&plans[0]);
    let daemon = Daemon::listening(&lab, &lab.snapshot(), &[]);
    let mut vmms = plans.each_ref().map(|plan| Vmm::start(plan, &lab.socket()));
    for (plan, vmm) in plans.iter().zip(&mut vmms) {
        vmm.found().assert_right(plan);
    }
    for done in [daemon.done(), daemon.done()] {
        assert_eq!(done.outcome(), "complete", "{done:?}");
        assert!(done.faults() > FIRST as u64 + 4, "{done:?}");
    }
}

/// A page that cannot be served is the end of the guest, and never something that it takes for content.
#[test]
fn a_damaged_page_ends_the_guest() {
    if !kvm() {
        return;
    }
    for mode in [Mode::User, Mode::Flat] {
        let plan = Plan::new(mode, 2);
        let lab = Lab::new(&plan);
        damage(&lab.snapshot(), plan.only_read());
        let daemon = Daemon::listening(&lab, &lab.snapshot(), &[]);
        let mut vmm = Vmm::start(&plan, &lab.socket());
        let said = vmm.0.rest();
        let status = vmm.0.end();
        let killed = status.signal() == Some(libc::SIGBUS);
        assert!(
            killed || said.starts_with("vCPU"),
            "{mode:?} {said:?} {status}"
        );
        let done = daemon.done();
        assert_ne!(done.outcome(), "complete", "{done:?}");
        assert!(done.pages("poisoned") > 0, "{done:?}");
    }
}

/// Flips a bit in the frame that holds a page.
fn damage(path: &Path, page: usize) {
    let open = File::options().read(true).write(true).open(path);
    let file = open.expect("the snapshot");
    let reader = file.try_clone().expect("a descriptor");
    let snapshot = Arc::new(Snapshot::open(reader).expect("a snapshot"));
    let mut sections = snapshot.sections();
    let (_, frames, _) = sections
        .find(|(kind, _, _)| *kind == SectionKind::Frames)
        .expect("frames");
    let mut cursor = Cursor::new(Arc::clone(&snapshot));
    let content = cursor.content(PageNo(page as u64));
    let Ok(Content::Frame { frame, .. }) = content else {
        panic!("not in a frame: {content:?}")
    };
    // In the payload, behind the checksum.
    let place = frames + frame.offset + 8 + 20;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).expect("read");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, place).expect("write");
}
