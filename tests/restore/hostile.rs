//! Targets that do harm with the socket that is left in them.
#![expect(unsafe_code, reason = "a system call that a target makes by hand")]

use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::going_on::{Folder, assert_over, kill_all, sockets_of};
use crate::scene::Captured;
use crate::support::uffd::fetched;
use crate::support::wait_until;

/// The socket is in its own table.
#[test]
fn one_that_takes_what_was_left_in_it_goes_on() {
    let folder = Folder::new();
    let captured = Captured::new("parent", "3");
    let sockets = sockets_of(captured.pid);
    let mut scene = captured.restore(&folder.words());
    assert_eq!(scene.target.hear(), "forked");
    let mut names = Vec::new();
    wait_until("all of them are there", || {
        names.extend(take_all(scene.pid));
        names.len() == 4
    });
    assert_eq!(names, ["0.space.0", "0.space.1", "0.space.2", "0.space.3"]);
    kill_all(&scene.restorer, false);
    folder.go_on(&mut scene);
    scene.target.tell("look");
    assert_eq!(scene.target.hear(), "right");
    assert_over(&folder, scene, sockets);
}

/// Empties the socket that was left in a process: the names of what was in it.
fn take_all(pid: i32) -> Vec<String> {
    let socket = UnixDatagram::from(shelf_in(pid));
    let mut names = Vec::new();
    let mut buffer = [0; 64];
    // A descriptor that nobody takes is closed.
    while let Ok(len) = socket.recv(&mut buffer) {
        names.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
    }
    names
}

/// A shelf's descriptors: a hostile target puts what it likes there.
fn put(socket: &OwnedFd, name: &str, descriptor: &OwnedFd) {
    let descriptors = [descriptor.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let bytes = [IoSlice::new(name.as_bytes())];
    sendmsg::<()>(socket.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).expect("sent");
}

fn shelf_in(pid: i32) -> OwnedFd {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    let number = open.flatten().find_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        let number = entry.file_name().to_str()?.parse::<u64>().ok()?;
        link.to_string_lossy()
            .starts_with("socket:")
            .then_some(number)
    });
    fetched(pid, number.expect("a socket"))
}

fn pidfd_of(pid: u32) -> OwnedFd {
    // SAFETY: makes a descriptor.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    // SAFETY: it was just made.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(number).expect("a descriptor")) }
}

/// A target names any process in the socket that is left in it, and the next run, as root, kills that.
#[test]
fn a_target_cannot_have_others_killed() {
    let folder = Folder::new();
    let captured = Captured::new("discards", "");
    let scene = captured.restore(&folder.words());
    let mut bystander = Command::new("sleep")
        .arg("100")
        .stdin(Stdio::null())
        .spawn()
        .expect("sleeps");
    // All this the target could do itself: it has the socket, and pidfd_open(2) asks for no right.
    let shelf = shelf_in(scene.pid);
    let nothing: OwnedFd = fs::File::open("/dev/null").expect("null").into();
    put(&shelf, "1.journal", &nothing);
    put(&shelf, "1.pid.0", &pidfd_of(bystander.id()));
    drop(shelf);
    kill_all(&scene.restorer, false);
    let resumed = folder.resume(&scene, &[]);
    std::thread::sleep(Duration::from_millis(700));
    let said = resumed.errors();
    let dead = bystander.try_wait().expect("a child");
    let _ = bystander.kill();
    let _ = bystander.wait();
    assert!(dead.is_none(), "the bystander was killed: {dead:?} {said}");
}
