//! A capture that cannot be done says why, leaves the target alone, and never passes nothing off as zeros.

mod support;

use support::area::{Area, PAGE};
use support::sink::{MemorySink, capture, capture_into, only};
use support::{Target, assert_left_alone, hear, play_role, say, state, wait_until};
use uffd_restore::capture::{CaptureError, Options, PageSink, SelectError, SinkError};
use uffd_restore::tracee::TraceError;

#[test]
fn role() {
    play_role(&[("areas", areas), ("nobody", nobody), ("capturer", capturer)]);
}

/// Private memory, half of it populated, and a memfd.
fn areas(_: &[&str]) {
    let private = Area::private(64);
    (0..32).for_each(|page| private.write(page, 100 + page as u64));
    let ram = nix::sys::memfd::memfd_create(c"ram", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .expect("memfd");
    nix::unistd::ftruncate(&ram, 8 * 4096).expect("truncate");
    let shared = Area::map(8, libc::MAP_SHARED, Some(std::os::fd::AsFd::as_fd(&ram)), 0);
    shared.write(2, 102);
    say(&format!("{:#x} {:#x}", private.address(), shared.address()));
    while hear().is_some() {}
}

/// The same as user nobody, who may be traced by processes of the same user.
fn nobody(words: &[&str]) {
    nix::unistd::setuid(65534.into()).expect("setuid");
    nix::sys::prctl::set_dumpable(true).expect("dumpable");
    areas(words);
}

/// Captures the memfd as user nobody, and says what it got.
fn capturer(words: &[&str]) {
    nix::unistd::setuid(65534.into()).expect("setuid");
    let (pid, address) = (
        words[0].parse().expect("pid"),
        words[1].parse().expect("address"),
    );
    match capture(pid, &only(&["memfd:ram"])) {
        Ok((sink, _)) => say(&format!("{:?}", sink.words(address, 8))),
        Err(error) => say(&error.to_string()),
    }
}

#[test]
fn without_capabilities_a_memfd_is_found_through_a_descriptor() {
    let mut target = Target::start("nobody", "");
    let said = target.hear_numbers();
    let words = Target::start("capturer", &format!("{} {}", target.pid(), said[1])).hear();
    let mut expected = vec![Some(0_u64); 8];
    expected[2] = Some(102);
    assert_eq!(words, format!("{expected:?}"));
    target.finish();
}

#[test]
fn a_target_that_dies_is_an_error_at_every_moment() {
    // The number of calls of the sink after which the target dies: before the first page, and between pages.
    for calls in [1, 2, 3] {
        for selector in ["private", "rest", "memfd:ram", "all"] {
            let mut target = Target::start("areas", "");
            let said = target.hear_numbers();
            let options = match selector {
                "private" => only(&[&format!("{:x}-{:x}", said[0], said[0] + 64 * PAGE as u64)]),
                // Absent pages only: nothing has to be read, so nothing fails by itself.
                "rest" => only(&[&format!(
                    "{:x}-{:x}",
                    said[0] + 32 * PAGE as u64,
                    said[0] + 64 * PAGE as u64
                )]),
                "all" => Options::default(),
                name => only(&[name]),
            };
            let mut sink = MemorySink::new(4);
            let (pid, mut left) = (target.pid(), calls);
            sink.disturb = Box::new(move || {
                left -= 1;
                if left == 0 {
                    nix::sys::signal::kill(
                        nix::unistd::Pid::from_raw(pid),
                        nix::sys::signal::Signal::SIGKILL,
                    )
                    .expect("kill");
                    wait_until("it to die", || matches!(state(pid), 'Z' | '?'));
                }
            });
            match capture_into(sink, pid, &options) {
                Err(CaptureError::Trace(TraceError::Ended { .. })) => {}
                Err(other) => panic!("{selector}, {calls}: {other}"),
                // The sink was not called that often.
                Ok(_) => assert!(calls > 1 && state(pid) != 'Z', "{selector}, {calls}"),
            }
            target.kill();
        }
    }
}

#[test]
fn what_cannot_be_selected_is_explained() {
    let mut target = Target::start("areas", "");
    target.hear();
    let error = |selector: &str| {
        capture(target.pid(), &only(&[selector]))
            .map(drop)
            .expect_err("must be refused")
    };
    let text = error("no-such-memory").to_string();
    assert!(
        text.contains("no-such-memory") && text.contains(" MiB "),
        "{text}"
    );
    for kernel in ["[vdso]", "[vvar]"] {
        let refused = error(kernel);
        assert!(
            matches!(refused, CaptureError::Select(SelectError::NotMemory { .. })),
            "{refused}"
        );
        assert!(refused.to_string().contains(kernel), "{refused}");
    }
    assert!(matches!(
        error("1000-2000"),
        CaptureError::Select(SelectError::NothingMatches { .. })
    ));
    assert_left_alone(target.pid());
    target.finish();
}

/// Fails when the first page is offered.
struct FullDisk;

impl PageSink for FullDisk {
    fn begin_region(&mut self, _: &snapshot_format::Region) -> Result<(), SinkError> {
        Ok(())
    }
    fn space(&mut self) -> Result<&mut [u8], SinkError> {
        Err(SinkError::new("no space left on device"))
    }
    fn commit(&mut self, _: usize) -> Result<(), SinkError> {
        Ok(())
    }
    fn zeros(&mut self, _: u64) -> Result<(), SinkError> {
        Ok(())
    }
    fn lost(&mut self, _: u64) -> Result<(), SinkError> {
        Ok(())
    }
}

#[test]
fn a_sink_that_fails_ends_the_capture_and_lets_the_target_go() {
    let mut target = Target::start("areas", "");
    target.hear();
    let result = uffd_restore::capture::run(
        target.pid(),
        &Options::default(),
        &mut FullDisk,
        &mut |_| {},
    );
    let error = result.map(drop).expect_err("the sink failed");
    assert!(
        matches!(error, CaptureError::Sink(_)) && error.to_string().contains("no space left"),
        "{error}"
    );
    assert_left_alone(target.pid());
    target.finish();
}

#[test]
fn a_target_can_be_left_stopped() {
    let mut target = Target::start("areas", "");
    let said = target.hear_numbers();
    let options = Options {
        leave_stopped: true,
        ..only(&["memfd:ram"])
    };
    let (sink, _) = capture(target.pid(), &options).expect("capture");
    assert_eq!(sink.word(said[1] + 2 * PAGE as u64), 102);
    assert_eq!(state(target.pid()), 'T');
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(target.pid()),
        nix::sys::signal::Signal::SIGCONT,
    )
    .expect("kill");
    target.finish();
}
