//! A guest of our own under KVM, whose memory is restored while it runs.
//!
//! The VMM is a process that hands its guest's memory over as Firecracker does. Everything that the guest is made of comes
//! through the userfaultfd, its first instruction too, and it is the guest that looks whether each page is right.
#![cfg(target_arch = "x86_64")]

mod daemon;
mod guest;
mod handler;
mod machine;
mod plan;
mod proof;
mod restored;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/vm/mod.rs"]
mod vm;
mod vmm;

use std::path::Path;

use support::{Target, play_role};

use plan::Plan;

#[test]
fn role() {
    play_role(&[("vmm", vmm::vmm)]);
}

/// Whether there is KVM; says so if not.
fn kvm() -> bool {
    let there = Path::new("/dev/kvm").exists();
    if !there {
        vm::skip("there is no /dev/kvm");
    }
    there
}

/// A VMM that has been started.
struct Vmm(Target);

/// What the guest says after all.
#[derive(Debug)]
struct Found {
    wrong: u64,
    first_wrong: u64,
    looked_at: u64,
    dropped: u64,
}

impl Vmm {
    fn start(plan: &Plan, socket: &Path) -> Self {
        Self(Target::start("vmm", &plan.words(socket)))
    }

    fn found(&mut self) -> Found {
        let said = self.0.hear();
        let numbers: Vec<u64> = said
            .split(' ')
            .map(|word| {
                word.parse()
                    .unwrap_or_else(|_| panic!("the VMM says: {said}"))
            })
            .collect();
        Found {
            wrong: numbers[0],
            first_wrong: numbers[1],
            looked_at: numbers[2],
            dropped: numbers[3],
        }
    }
}

impl Found {
    /// Nothing was wrong, and nothing was left out.
    fn assert_right(&self, plan: &Plan) {
        assert_eq!(
            self.wrong, 0,
            "first in page {}: {self:?}",
            self.first_wrong
        );
        assert_eq!(self.looked_at, plan.words_in_all() as u64);
        assert!(self.dropped > 0);
    }
}
