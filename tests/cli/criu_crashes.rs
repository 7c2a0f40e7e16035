//! What a crash of `import-criu --strip` or of `export-criu` leaves behind, after each step of either.
#![cfg(target_arch = "x86_64")]

use super::dumps::{Files, files, tree};
use super::export_criu::{EXPORT, IMPORT};
use super::{Workshop, stderr};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use uffd_restore::criu::Images;
use uffd_restore::criu::manifest::Manifest;

/// Calls that change a directory, or make a change durable.
const CALLS: [i64; 9] = [
    libc::SYS_rename,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_fsync,
    libc::SYS_openat,
];

/// Run the program and kill it before its `last`th call of those above; returns how many it made, and whether it ended by itself.
fn killed_at(shop: &Workshop, arguments: &[&str], last: usize) -> (usize, bool) {
    #[expect(clippy::zombie_processes, reason = "waitpid waits for it")]
    let mut child = waiting(shop, arguments);
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options).expect("a child");
    ptrace::interrupt(pid).expect("a child");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"\n").expect("a shell");
    let (mut calls, mut entered) = (0, false);
    loop {
        match waitpid(pid, None).expect("a child") {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return (calls, true),
            WaitStatus::PtraceSyscall(_) => {
                entered = !entered;
                let registers = ptrace::getregs(pid).expect("it stands still");
                let call = i64::try_from(registers.orig_rax).unwrap_or(-1);
                if entered && in_directory(pid) && CALLS.contains(&call) {
                    calls += 1;
                    if calls == last {
                        kill(pid, Signal::SIGKILL).expect("a child");
                        waitpid(pid, None).expect("a child");
                        return (calls, false);
                    }
                }
                ptrace::syscall(pid, None).expect("it stands still");
            }
            WaitStatus::PtraceEvent(..) => ptrace::syscall(pid, None).expect("it stands still"),
            WaitStatus::Stopped(_, signal) => {
                let signal = (signal != Signal::SIGTRAP).then_some(signal);
                ptrace::syscall(pid, signal).expect("it stands still");
            }
            _ => ptrace::syscall(pid, None).expect("it stands still"),
        }
    }
}

/// True once the shell has become the program.
fn in_directory(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .is_ok_and(|name| name.starts_with("uffd-snapshot"))
}

/// The program, not yet begun: a shell that becomes it when it is told a line.
fn waiting(shop: &Workshop, arguments: &[&str]) -> Child {
    let mut words = vec![
        "-c",
        "read line; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_uffd-snapshot"),
    ];
    words.extend_from_slice(arguments);
    std::process::Command::new("sh")
        .args(words)
        .current_dir(shop.path(""))
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("a shell")
}

/// The directory can be restored as it is, or is marked and says where its pages are.
#[track_caller]
fn assert_safe(shop: &Workshop, before: &Files) {
    let folder = shop.path("dump");
    let now = files(&folder);
    let manifest = Manifest::find(&folder).expect("a good manifest or none");
    let images = Images::open(&folder).expect("it can be opened at any time");
    for process in images.processes.iter().filter(|one| one.has_memory) {
        let name = format!("pagemap-{}.img", process.pid);
        if process.stripped {
            assert!(manifest.is_some(), "{name} is marked, and nothing says why");
            assert!(now[&format!("uffd-restore/{name}")] == before[&name]);
            assert!(shop.path("snap").exists());
        } else {
            assert!(now[&name] == before[&name]);
            let id = uffd_restore::criu::pagemap::Pagemap::read(&now[&name])
                .expect("a pagemap")
                .pages_id;
            let pages = format!("pages-{id}.img");
            assert!(now.get(&pages) == Some(&before[&pages]), "{pages}");
        }
    }
}

/// Put a directory and its snapshot back as they were.
fn reset(shop: &Workshop, from: &str) {
    let _ = fs::remove_dir_all(shop.path("dump"));
    let _ = fs::remove_file(shop.path("snap"));
    copy_all(&shop.path(from), &shop.path("dump"));
    if shop.path(from).with_extension("snap").exists() {
        fs::copy(shop.path(from).with_extension("snap"), shop.path("snap")).expect("space");
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).expect("space");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_all(&path, &target);
        } else {
            fs::copy(&path, &target).expect("space");
        }
    }
}

#[test]
fn strip_may_be_killed_at_any_moment() {
    let shop = Workshop::new();
    tree(&shop.path("whole"));
    let before = files(&shop.path("whole"));
    reset(&shop, "whole");
    let (calls, ended) = killed_at(&shop, &IMPORT, usize::MAX);
    assert!(ended && calls > 40, "{calls}");
    let stripped = files(&shop.path("dump"));
    for last in 1..=calls {
        reset(&shop, "whole");
        let (_, ended) = killed_at(&shop, &IMPORT, last);
        assert!(!ended, "{last} of {calls}");
        assert_safe(&shop, &before);
        let begun = Manifest::find(&shop.path("dump")).expect("good").is_some();
        match (begun, last % 2) {
            // Undone.
            (true, 0) => {
                shop.ok(&EXPORT);
                assert!(before == files(&shop.path("dump")), "undone after {last}");
            }
            // Finished.
            (true, _) => {
                let output = shop.run(&IMPORT);
                let said = stderr(&output);
                assert!(
                    output.status.success() || said.contains("already"),
                    "{last}: {said}"
                );
                let now = files(&shop.path("dump"));
                assert!(now.keys().eq(stripped.keys()), "finished after {last}");
                shop.ok(&EXPORT);
                assert!(before == files(&shop.path("dump")), "undone after {last}");
            }
            (false, _) => {
                shop.ok(&[&IMPORT[..], &["--force"]].concat());
                shop.ok(&EXPORT);
                assert!(before == files(&shop.path("dump")), "after {last}");
            }
        }
        assert!(
            shop.names().iter().all(|name| !name.contains("partial")),
            "{:?}",
            shop.names()
        );
    }
}

#[test]
fn pages_that_were_changed_after_an_interruption_are_not_removed() {
    let shop = Workshop::new();
    tree(&shop.path("whole"));
    reset(&shop, "whole");
    let (calls, _) = killed_at(&shop, &IMPORT, usize::MAX);
    let mut met = 0;
    for last in (1..=calls).rev() {
        reset(&shop, "whole");
        killed_at(&shop, &IMPORT, last);
        let begun = Manifest::find(&shop.path("dump")).expect("good").is_some();
        let path = shop.path("dump/pages-4.img");
        if !begun || !path.exists() {
            continue;
        }
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[300 * 4096 + 77] ^= 1;
        fs::write(&path, &bytes).expect("space");
        let said = shop.fails(1, &IMPORT);
        assert!(
            said.contains("pages-4.img") && said.contains("are not those of"),
            "{said}"
        );
        assert!(fs::read(&path).expect("it is there") == bytes);
        met += 1;
    }
    assert!(met > 10, "{met} of {calls}");
}

#[test]
fn export_may_be_killed_at_any_moment() {
    let shop = Workshop::new();
    tree(&shop.path("dump"));
    let before = files(&shop.path("dump"));
    shop.ok(&IMPORT);
    fs::rename(shop.path("dump"), shop.path("stripped")).expect("it is there");
    fs::rename(shop.path("snap"), shop.path("stripped.snap")).expect("it is there");
    reset(&shop, "stripped");
    let stripped = files(&shop.path("dump"));
    let (calls, ended) = killed_at(&shop, &EXPORT, usize::MAX);
    assert!(ended && calls > 40, "{calls}");
    assert!(before == files(&shop.path("dump")));
    for last in 1..=calls {
        reset(&shop, "stripped");
        killed_at(&shop, &EXPORT, last);
        assert_safe(&shop, &before);
        let begun = Manifest::find(&shop.path("dump")).expect("good").is_some();
        if begun && last % 2 == 0 {
            // The other way.
            let output = shop.run(&IMPORT);
            let said = stderr(&output);
            assert!(
                output.status.success() || said.contains("already"),
                "{last}: {said}"
            );
            let now = files(&shop.path("dump"));
            let kept = |files: &Files| -> Vec<String> {
                files
                    .keys()
                    .filter(|name| *name != "uffd-restore/next")
                    .cloned()
                    .collect()
            };
            assert!(kept(&now) == kept(&stripped), "stripped again after {last}");
        }
        if begun {
            shop.ok(&EXPORT);
        }
        let mut now = files(&shop.path("dump"));
        now.remove("uffd-restore");
        assert!(before == now, "after {last}");
    }
}
