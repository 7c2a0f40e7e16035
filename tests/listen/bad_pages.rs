//! Pages that cannot be served: poisoned, or their VM is killed; never zero. Other VMs get all that is good.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

use snapshot_format::{Content, Cursor, PageNo, SectionKind, Snapshot};

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::Survey;

/// Damages the frame that has a page. Returns how many pages it has.
fn damage(lab: &Lab, page: u64) -> usize {
    use std::os::unix::fs::FileExt;
    let file = File::options()
        .read(true)
        .write(true)
        .open(lab.snapshot())
        .expect("open");
    let snapshot = Snapshot::open(file.try_clone().expect("a copy")).expect("a snapshot");
    let snapshot = Arc::new(snapshot);
    let mut sections = snapshot.sections();
    let (_, offset, _) = sections
        .find(|(kind, _, _)| *kind == SectionKind::Frames)
        .expect("frames");
    let pages = snapshot.pages();
    let mut cursor = Cursor::new(Arc::clone(&snapshot));
    let mut frame_of = |page| match cursor.content(PageNo(page)).expect("content") {
        Content::Frame { frame, .. } => Some(frame),
        _ => None,
    };
    let frame = frame_of(page).expect("a page in a frame");
    let place = offset + frame.offset + 8 + 20;
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).expect("read");
    file.write_all_at(&[byte[0] ^ 0x10], place).expect("write");
    (0..pages)
        .filter(|&other| frame_of(other) == Some(frame))
        .count()
}

#[test]
fn poisoned_for_whoever_touches_it() {
    let lab = Lab::new(64);
    let bad = damage(&lab, 21);
    for words in [&[][..], &["--prefill", "all"]] {
        let daemon = Daemon::listening(&lab, words);
        let mut peer = daemon.serve(&lab);
        let wanted = Survey {
            right: 64 - bad,
            poisoned: bad,
            ..Survey::default()
        };
        assert_eq!(peer.survey(), wanted);
        let done = daemon.event_of("done", peer.pid());
        assert_eq!(done["outcome"], "failed", "{done}");
        assert_eq!(done["pages"]["poisoned"], bad, "{done}");
        // The next one is served all the same, as far as there is something to serve.
        let mut next = daemon.serve(&lab);
        assert_eq!(next.ask("read 2"), "right");
        assert_eq!(next.ask("read 40"), "right");
        daemon.signal(nix::sys::signal::Signal::SIGTERM);
        let ended = daemon.end();
        assert!(ended.err.contains("corrupt"), "{ended:?}");
        // Poison stays.
        assert_eq!(peer.survey(), wanted);
        peer.target.tell("read 21");
        assert_eq!(peer.end().signal(), Some(libc::SIGBUS));
        assert_eq!(next.survey(), wanted);
    }
}

#[test]
fn killed_if_that_is_asked_for() {
    let lab = Lab::new(64);
    damage(&lab, 21);
    let daemon = Daemon::listening(&lab, &["--on-failure", "kill"]);
    let mut other = daemon.serve(&lab);
    let mut peer = daemon.serve(&lab);
    assert_eq!(peer.ask("read 2"), "right");
    peer.target.tell("read 21");
    assert_eq!(peer.end().signal(), Some(libc::SIGKILL));
    // Whoever does not touch it lives.
    assert_eq!(other.ask("read 2"), "right");
    assert_eq!(other.ask("read 40"), "right");
}

#[test]
fn a_raw_file_that_is_truncated_while_it_is_served() {
    let lab = Lab::new(256);
    let daemon = Daemon::listening_with(&lab, &lab.memory(), &[]);
    let mut peer = daemon.serve(&lab);
    assert_eq!(peer.ask("read 0"), "right");
    let file = File::options()
        .write(true)
        .open(lab.memory())
        .expect("open");
    file.set_len(64 * 4096).expect("truncate");
    let survey = peer.survey();
    assert_eq!((survey.zero, survey.wrong), (0, 0), "{survey:?}");
    assert!(survey.poisoned >= 100, "{survey:?}");
    assert_eq!(survey.right + survey.poisoned, 256, "{survey:?}");
}
