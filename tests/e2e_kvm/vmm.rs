//! The VMM: a process that hands the userfaultfd of its guest's memory over, and runs the guest on that memory.
#![expect(unsafe_code, reason = "states of pages are bytes of guest memory")]

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Instant;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use uffd_restore::addr::{Addr, AddrRange};
use uffd_restore::uffd::{Features, Userfaultfd, abi, new_for_this_process};

use super::guest::{DROPPED, FIRST, MARKED, RELEASED, Start, Task};
use super::machine::{Machine, Report, Vcpu};
use super::plan::{BATCH, Drop, Plan};
use super::support::area::{Area, PAGE};
use super::support::plot::call;
use super::support::{PATIENCE, end, hear, say};

/// The role. Tells how many words were wrong, the first page with one, how many were looked at, and how many pages dropped;
/// or what went wrong. Then waits to be ended.
pub(crate) fn vmm(words: &[&str]) {
    let plan = Plan::from_words(words);
    let memory = map(&plan);
    let (_uffd, _socket) = hand_over(&memory, &plan);
    let mut machine = Machine::new(&memory, plan.mode, plan.vcpus);
    let mut work = Work {
        plan: &plan,
        memory,
        total: Report::default(),
        dropped: 0,
    };
    if let Some(page) = plan.forbidden {
        // What the VMM itself may not access, KVM may not either.
        let place = memory.address() + (page * PAGE) as u64;
        call(libc::SYS_mprotect, &[place, PAGE as u64, 0]).expect("mprotect");
    }
    let all = FIRST..plan.pages;
    let (lower, _) = plan.halves();
    let [first, second, third] = plan.balloons();
    work.phase(&mut machine, false, (all.clone(), 1), &first);
    // Also to pages that were dropped.
    work.phase(&mut machine, true, (lower, 3), &second);
    work.phase(&mut machine, false, (all.clone(), 1), &third);
    work.phase(&mut machine, false, (all, 1), &[]);
    // The rest of memory, so that all of it is in place.
    for page in 0..FIRST {
        memory.read(page);
    }
    let Report {
        wrong,
        first_wrong,
        looked_at,
    } = work.total;
    say(&format!(
        "{wrong} {first_wrong} {looked_at} {}",
        work.dropped
    ));
    while hear().is_some() {}
    end();
}

fn map(plan: &Plan) -> Area {
    let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    if plan.page_size != PAGE {
        flags |= libc::MAP_HUGETLB;
    }
    Area::map(plan.pages, flags, None, 0)
}

/// As Firecracker does it: one message with a description and a descriptor, and no answer. Both stay open here.
fn hand_over(memory: &Area, plan: &Plan) -> (Userfaultfd, UnixStream) {
    let uffd = new_for_this_process().expect("root may have a userfaultfd");
    uffd.agree(Features::from_bits(abi::UFFD_FEATURE_EVENT_REMOVE))
        .expect("features");
    let (start, size) = (memory.address(), plan.pages * PAGE);
    uffd.register(AddrRange::at(Addr(start), size as u64))
        .expect("register");
    let page_size = plan.page_size;
    let text = format!(
        "[{{\"base_host_virt_addr\":{start},\"size\":{size},\"offset\":0,\
         \"page_size\":{page_size},\"page_size_kib\":{page_size}}}]"
    );
    let socket = UnixStream::connect(&plan.socket).expect("somebody listens");
    let descriptors = [uffd.as_fd().as_raw_fd()];
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(text.as_bytes())],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    assert_eq!(sent, Ok(text.len()), "one message");
    (uffd, socket)
}

struct Work<'a> {
    plan: &'a Plan,
    memory: Area,
    total: Report,
    dropped: usize,
}

impl Work<'_> {
    /// All vCPUs go through every so-manieth page of a range, each its share, while the balloon drops pages.
    fn phase(
        &mut self,
        machine: &mut Machine,
        mark: bool,
        (pages, every): (std::ops::Range<usize>, usize),
        balloon: &[Drop],
    ) {
        let vcpus = machine.vcpus.len();
        let task = |vcpu: usize| Task {
            mark,
            first: pages.start + vcpu * every,
            step: every * vcpus,
            count: (pages.end - pages.start - vcpu * every).div_ceil(every * vcpus),
            stride: self.plan.mode.stride(),
        };
        let done = AtomicUsize::new(0);
        let (task, done) = (&task, &done);
        let reports: Vec<Report> = std::thread::scope(|scope| {
            let runners: Vec<_> = machine
                .vcpus
                .iter_mut()
                .enumerate()
                .map(|(number, vcpu)| scope.spawn(move || run(number, vcpu, task(number), done)))
                .collect();
            for Drop { after, range } in balloon {
                wait_for_tasks(done, *after);
                self.release(range.clone());
            }
            runners
                .into_iter()
                .map(|runner| runner.join().expect("a vCPU's thread"))
                .collect()
        });
        self.dropped += balloon.iter().map(|drop| drop.range.len()).sum::<usize>();
        for report in reports {
            if self.total.wrong == 0 {
                self.total.first_wrong = report.first_wrong;
            }
            self.total.wrong += report.wrong;
            self.total.looked_at += report.looked_at;
        }
    }

    /// Drops pages, as for a balloon that has been given them.
    fn release(&self, range: std::ops::Range<usize>) {
        for page in range.clone() {
            self.state(page).fetch_or(RELEASED, Ordering::SeqCst);
        }
        self.memory
            .advise(range.start, range.len(), libc::MADV_DONTNEED)
            .expect("drop pages");
        for page in range {
            let before = self.state(page).swap(DROPPED, Ordering::SeqCst);
            assert_eq!(
                before & !(MARKED | DROPPED),
                RELEASED,
                "the guest marks other pages"
            );
        }
    }

    /// The guest's byte for a page.
    fn state(&self, page: usize) -> &AtomicU8 {
        assert!(page < self.memory.pages);
        let base = usize::try_from(self.memory.address()).expect("an address");
        let place = std::ptr::with_exposed_provenance::<AtomicU8>(base + Start::STATES_AT + page);
        // SAFETY: the byte lies inside a mapping that is never unmapped, since the image has room for as many states as pages;
        // this process accesses it through atomics alone.
        unsafe { &*place }
    }
}

/// Waits until the vCPUs have come so far, with no sleep that they could use to get ahead.
fn wait_for_tasks(done: &AtomicUsize, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    while done.load(Ordering::Relaxed) < count {
        assert!(Instant::now() < deadline, "the vCPUs do not go on");
        std::thread::yield_now();
    }
}

/// A vCPU's share. When KVM cannot go on, the whole VMM ends.
fn run(number: usize, vcpu: &mut Vcpu, mut task: Task, done: &AtomicUsize) -> Report {
    let mut total = Report::default();
    let mut left = task.count;
    while left > 0 {
        task.count = left.min(BATCH);
        let report = vcpu.execute(&task).unwrap_or_else(|error| {
            say(&format!("vCPU {number}: {error}"));
            end()
        });
        if total.wrong == 0 {
            total.first_wrong = report.first_wrong;
        }
        total.wrong += report.wrong;
        total.looked_at += report.looked_at;
        task.first += task.count * task.step;
        left -= task.count;
        done.fetch_add(1, Ordering::Relaxed);
    }
    total
}
