//! The guest itself: it finds everything right when it is, and every mistake of a handler when there is one.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::handler::{Handled, Mistake, serve};
use crate::machine::Mode;
use crate::plan::Plan;
use crate::support::area::PAGE;
use crate::support::huge::HugePages;
use crate::{Found, Vmm, guest, kvm};

/// Runs a guest to its end, with the handler in this process.
fn guest_with(plan: &Plan, mistake: Mistake) -> (Found, Handled) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let handler = serve(&socket, guest::image(plan.pages), mistake);
    let mut vmm = Vmm::start(plan, &socket);
    let found = vmm.found();
    vmm.0.finish();
    (found, handler.join().expect("the handler"))
}

/// What a VMM says that cannot go on, and how it ends.
fn complaint(plan: &Plan, mistake: Mistake) -> (String, ExitStatus) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    let handler = serve(&socket, guest::image(plan.pages), mistake);
    let mut vmm = Vmm::start(plan, &socket);
    let said = vmm.0.rest();
    let status = vmm.0.end();
    handler.join().expect("the handler");
    (said, status)
}

fn finds_all_right(plan: &Plan) {
    let (found, handled) = guest_with(plan, Mistake::Nothing);
    found.assert_right(plan);
    assert!(handled.removes > 0 && handled.faults > 0, "{handled:?}");
    assert!(
        handled.installed * plan.page_size >= plan.pages * PAGE / 2,
        "{handled:?}"
    );
}

#[test]
fn a_guest_in_user_mode_finds_all_right() {
    if kvm() {
        finds_all_right(&Plan::new(Mode::User, 4));
    }
}

#[test]
fn a_guest_without_paging_finds_all_right() {
    if kvm() {
        finds_all_right(&Plan::new(Mode::Flat, 3));
    }
}

#[test]
fn a_guest_in_huge_pages_finds_all_right() {
    if kvm() {
        let _reserved = HugePages::reserve(20);
        finds_all_right(&Plan::new(Mode::User, 2).huge());
    }
}

#[test]
fn a_flipped_bit_is_found_where_it_is() {
    if !kvm() {
        return;
    }
    for mode in [Mode::User, Mode::Flat] {
        let plan = Plan::new(mode, 2);
        let page = plan.only_read();
        let (found, _) = guest_with(&plan, Mistake::Flip(page));
        assert_eq!(found.first_wrong, page as u64, "{mode:?} {found:?}");
        assert_eq!(found.wrong, 3, "one word in each round: {mode:?} {found:?}");
    }
}

#[test]
fn zeros_in_place_of_content_are_found() {
    if !kvm() {
        return;
    }
    for mode in [Mode::User, Mode::Flat] {
        let plan = Plan::new(mode, 2);
        let page = plan.only_read();
        let (found, _) = guest_with(&plan, Mistake::Zero(page));
        assert_eq!(found.first_wrong, page as u64, "{mode:?} {found:?}");
        let words = 3 * PAGE / mode.stride();
        assert_eq!(found.wrong, words as u64, "{mode:?} {found:?}");
    }
}

#[test]
fn pages_that_come_back_after_they_were_dropped_are_found() {
    if !kvm() {
        return;
    }
    for mode in [Mode::User, Mode::Flat] {
        let (found, handled) = guest_with(&Plan::new(mode, 2), Mistake::Forget);
        assert!(handled.removes > 0, "{handled:?}");
        assert!(found.wrong > found.dropped, "{mode:?}: {found:?}");
    }
}

#[test]
fn content_that_was_chosen_before_pages_were_dropped_is_found() {
    if !kvm() {
        return;
    }
    for mode in [Mode::User, Mode::Flat] {
        // A race that is won many times in a run, here.
        let found = (0..5).any(|_| {
            let (found, handled) = guest_with(&Plan::new(mode, 2), Mistake::Insist);
            assert!(handled.overtaken > 0 || found.wrong == 0, "{handled:?}");
            found.wrong > 0
        });
        assert!(found, "{mode:?}: stale content is not found");
    }
}

#[test]
fn memory_that_kvm_cannot_access_is_an_error() {
    if !kvm() {
        return;
    }
    let of = |mode| {
        let plan = Plan::new(mode, 2);
        let page = plan.only_read();
        complaint(&plan.forbidden(page), Mistake::Nothing).0
    };
    let said = of(Mode::User);
    assert!(said.contains("KVM_RUN: Bad address"), "{said:?}");
    // Where KVM emulates this mode, it takes the page for a device.
    let said = of(Mode::Flat);
    assert!(said.starts_with("vCPU"), "{said:?}");
}

#[test]
fn a_poisoned_page_ends_the_guest() {
    if !kvm() {
        return;
    }
    for mode in [Mode::User, Mode::Flat] {
        let plan = Plan::new(mode, 2);
        let (said, status) = complaint(&plan, Mistake::Poison(plan.only_read()));
        let killed = status.signal() == Some(libc::SIGBUS);
        assert!(
            killed || said.starts_with("vCPU"),
            "{mode:?} {said:?} {status}"
        );
    }
}
