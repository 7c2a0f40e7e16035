//! How the end of a target is known, which no event tells.

mod support;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;

use nix::errno::Errno;
use support::plot::{PAGE, Plot, call, word};
use support::uffd::{
    NOWHERE, Turn, Worker, content, fault, flags, number, poll, queue, taken_from, telling, waiting,
};
use support::{Target, end, hear, play_role, say, state, wait_until};
use uffd_restore::uffd::{Message, Outcome, Stop, Userfaultfd};

#[test]
fn role() {
    play_role(&[("target", target)]);
}

/// Two registered pages, a thread that waits for the first, and then what it is told to do.
fn target(_: &[&str]) {
    let plot = Plot::with(2);
    let uffd = telling();
    uffd.register(plot.range(0, 2)).expect("register");
    let reader = Worker::start(move || plot.read(0));
    say(&format!(
        "{:#x} {} {}",
        plot.at(0).0,
        number(&uffd),
        reader.tid
    ));
    assert_eq!(hear().as_deref(), Some("close"));
    drop(uffd);
    say("closed");
    match hear().as_deref() {
        Some("exec") => panic!("{}", std::process::Command::new("sleep").arg("1000").exec()),
        Some("exit") => end(),
        Some("fork") => drop(support::child::fork_here(|| 0)),
        Some("read") => say(&plot.read(1).to_string()),
        other => panic!("{other:?}"),
    }
}

/// A target whose only userfaultfd is here, and whose thread waits for a page.
struct Scene {
    uffd: Userfaultfd,
    plot: Plot,
    reader: u64,
    target: Target,
    _turn: Turn,
}

fn scene() -> Scene {
    let turn = Turn::take();
    let mut target = Target::start("target", "");
    let said = target.hear_numbers();
    let uffd = taken_from(target.pid(), said[1]);
    target.tell("close");
    assert_eq!(target.hear(), "closed");
    let plot = Plot::elsewhere(said[0]);
    wait_until("the fault", || queue(&uffd).total == 1);
    Scene {
        uffd,
        plot,
        reader: said[2],
        target,
        _turn: turn,
    }
}

/// All that a userfaultfd of a dead address space says.
fn assert_gone(uffd: &Userfaultfd, plot: Plot) {
    assert_eq!(uffd.probe(NOWHERE, PAGE), Some(Stop::Gone));
    assert_eq!(uffd.probe(plot.at(0), PAGE), Some(Stop::Gone));
    assert_eq!(
        uffd.copy(plot.at(0), &content(&[1])),
        Outcome::stopped(Stop::Gone)
    );
    assert_eq!(uffd.zero(plot.range(0, 1)), Outcome::stopped(Stop::Gone));
    assert_eq!(uffd.register(plot.range(0, 1)), Err(Errno::ENOMEM));
    assert_eq!(uffd.unregister(plot.range(0, 1)), Err(Errno::ENOMEM));
    assert_eq!(uffd.wake(plot.range(0, 1)), Ok(()));
    assert_eq!(poll(uffd, 0), 0, "nothing to read, no hang-up, no error");
    assert_eq!(waiting(uffd), []);
}

/// Taken by pidfd_getfd(2): the file's flags are kept, the descriptor is closed on exec. It serves when the target has
/// closed its own.
#[test]
fn a_userfaultfd_taken_from_another_process_serves_it() {
    let mut scene = scene();
    let (file, own) = flags(&scene.uffd);
    assert!(file.contains(nix::fcntl::OFlag::O_NONBLOCK));
    assert_eq!(own, libc::FD_CLOEXEC);
    assert_eq!(u64::from(fault(&scene.uffd).thread), scene.reader);
    assert_eq!(scene.uffd.probe(scene.plot.at(1), PAGE), None);
    assert_eq!(
        scene.uffd.probe(NOWHERE, PAGE),
        Some(Stop::Unmapped),
        "alive"
    );
    let installed = scene.uffd.copy(scene.plot.at(0), &content(&[5, 6]));
    assert_eq!(installed, Outcome::complete(2 * PAGE));
    scene.target.tell("read");
    assert_eq!(scene.target.hear(), "6");
    scene.target.finish();
    assert_gone(&scene.uffd, scene.plot);
}

#[test]
fn a_taken_descriptor_is_closed_on_exec_even_if_the_targets_is_not() {
    let scene = support::uffd::Scene::with(1);
    let arguments = [number(&scene.uffd), word(libc::F_SETFD), 0];
    call(libc::SYS_fcntl, &arguments).expect("flags");
    let own = i32::try_from(std::process::id()).expect("a pid");
    let taken = taken_from(own, number(&scene.uffd));
    assert_eq!(
        (flags(&scene.uffd).1, flags(&taken).1),
        (0, libc::FD_CLOEXEC)
    );
}

#[test]
fn a_killed_target_is_gone_while_it_is_a_zombie_and_after() {
    let mut scene = scene();
    scene.target.kill();
    wait_until("the zombie", || state(scene.target.pid()) == 'Z');
    wait_until("its threads to be gone", || {
        scene.uffd.probe(NOWHERE, PAGE) == Some(Stop::Gone)
    });
    assert_gone(&scene.uffd, scene.plot);
    assert_eq!(scene.target.end().signal(), Some(libc::SIGKILL));
    assert_gone(&scene.uffd, scene.plot);
}

/// Threads that wait for pages do not hold the exit up.
#[test]
fn an_exit_is_not_told() {
    let mut scene = scene();
    scene.target.tell("exit");
    assert!(scene.target.end().success());
    assert_gone(&scene.uffd, scene.plot);
}

/// The process lives on in another address space, and its pidfd says nothing.
#[test]
fn an_exec_is_not_told() {
    let mut scene = scene();
    let pid = scene.target.pid();
    scene.target.tell("exec");
    wait_until("the new program", || {
        let program = std::fs::read_link(format!("/proc/{pid}/exe"));
        program.is_ok_and(|program| program != std::env::current_exe().expect("this program"))
    });
    assert_gone(&scene.uffd, scene.plot);
    assert_ne!(state(pid), 'Z');
}

#[test]
fn a_pidfd_tells_the_end_of_a_process() {
    let mut scene = scene();
    let id = u64::from(scene.target.pid().unsigned_abs());
    let pidfd = call(libc::SYS_pidfd_open, &[id, 0]).expect("pidfd_open");
    // Whatever it is, it is a descriptor of ours.
    let pidfd = support::uffd::own(i32::try_from(pidfd).expect("a descriptor"));
    assert_eq!(poll(&pidfd, 0), 0);
    scene.target.kill();
    assert_eq!(poll(&pidfd, 60_000) & libc::POLLIN, libc::POLLIN);
    assert_gone(&scene.uffd, scene.plot);
}

/// A change of the address space that waits to be told ends with its thread.
#[test]
fn a_fork_that_waits_dies_with_its_process_and_leaves_no_child() {
    let mut scene = scene();
    fault(&scene.uffd);
    scene.target.tell("fork");
    wait_until("the fork", || poll(&scene.uffd, 0) == libc::POLLIN);
    assert_eq!(scene.uffd.probe(NOWHERE, PAGE), Some(Stop::Changing));
    let pid = scene.target.pid();
    let children = || -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("task");
        let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children"));
        tasks
            .flatten()
            .flat_map(of)
            .filter(|list| !list.is_empty())
            .collect()
    };
    assert_eq!(children(), [""; 0]);
    scene.target.kill();
    scene.target.end();
    assert_gone(&scene.uffd, scene.plot);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(
        !waiting(&scene.uffd)
            .iter()
            .any(|message| matches!(message, Message::Event(_)))
    );
}
