//! What a reviewer found: each was wrong once.

use super::leaves_nothing::SmallDisk;
use super::{Workshop, memory, stderr};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A Python that has run `program`, which ends by printing a line, and waits.
fn python(program: &str) -> Child {
    let mut child = Command::new("python3")
        .args([
            "-c",
            &format!(
                "import mmap, os, sys\n{program}\nprint('ready', flush=True)\nsys.stdin.read()"
            ),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    child
}

fn end(mut child: Child) {
    child.kill().expect("our child");
    child.wait().expect("our child");
}

fn state(child: &Child) -> char {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it lives");
    let (_, fields) = stat.rsplit_once(") ").expect("a state");
    fields.chars().next().expect("a state")
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_messages_that_cannot_are_not() {
    let shop = Workshop::new();
    shop.write("raw", b"short");
    let full = || {
        OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full")
    };
    let status = shop
        .command(&["pack", "raw", "-o", "snap"])
        .stderr(full())
        .status();
    assert_eq!(status.expect("the program").code(), Some(0));
    // Five bytes without a line feed stay in a buffer until the end.
    let unpacked = shop
        .command(&["unpack", "snap", "-o", "-"])
        .stdout(full())
        .output();
    let unpacked = unpacked.expect("the program");
    assert_eq!(unpacked.status.code(), Some(1));
    assert!(
        stderr(&unpacked).contains("standard output"),
        "{}",
        stderr(&unpacked)
    );
    let status = shop.command(&["verify", "snap"]).stderr(full()).status();
    assert_eq!(status.expect("the program").code(), Some(0));
}

#[test]
fn names_that_a_terminal_would_obey_are_shown_and_not_obeyed() {
    let shop = Workshop::new();
    let target = python(
        "fd = os.memfd_create('\\x1b[2Jevil\\nSTART'); os.ftruncate(fd, 8192)\n\
         m = mmap.mmap(fd, 8192); m[:4] = b'data'\n\
         open('/proc/self/comm', 'w').write('\\x1b[31mEVIL')",
    );
    let created = shop.ok(&["create", "--pid", &target.id().to_string(), "-o", "snap"]);
    end(target);
    let inspected = shop.ok(&["inspect", "snap"]);
    for bytes in [created.stderr, inspected.stdout] {
        assert!(
            !bytes.contains(&0x1b),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
    let json = shop.json(&["inspect", "snap"]);
    let regions = json["regions"].as_array().expect("regions");
    let names: Vec<&str> = regions
        .iter()
        .filter_map(|region| region["name"].as_str())
        .collect();
    assert!(
        names.iter().any(|name| name.contains("\u{1b}[2Jevil")),
        "{names:?}"
    );
}

#[test]
fn memory_of_a_file_system_that_is_no_longer_mounted_is_memory() {
    let shop = Workshop::new();
    let disk = SmallDisk::new(&shop.path("disk"), 1 << 20);
    let file = shop.path("disk/file");
    let target = python(&format!(
        "f = open({file:?}, 'wb+'); f.truncate(8192); m = mmap.mmap(f.fileno(), 8192); m[:4] = b'data'"
    ));
    drop(disk);
    shop.ok(&["create", "--pid", &target.id().to_string(), "-o", "snap"]);
    end(target);
    let json = shop.json(&["inspect", "snap"]);
    let regions = json["regions"].as_array().expect("regions");
    let shared = regions.iter().find(|region| region["shared"] == true);
    assert_eq!(
        shared.expect("the mapping")["pages"]["content"],
        1,
        "{json}"
    );
}

#[test]
fn the_largest_mapping_may_be_of_a_file() {
    let shop = Workshop::new();
    fs::write(shop.path("guest.mem"), vec![7; 64 << 20]).expect("space");
    for flags in ["mmap.MAP_PRIVATE", "mmap.MAP_SHARED"] {
        let file = shop.path("guest.mem");
        let target = python(&format!(
            "f = open({file:?}, 'rb+'); m = mmap.mmap(f.fileno(), 64 << 20, {flags}); m[4096:4100] = b'data'"
        ));
        let pid = target.id().to_string();
        shop.ok(&[
            "create", "--pid", &pid, "--region", "largest", "-o", "snap", "--force",
        ]);
        end(target);
        let raw = shop.ok(&["unpack", "snap", "-o", "-"]).stdout;
        assert_eq!(raw.len(), 64 << 20, "{flags}");
        assert_eq!(
            (&raw[..4], &raw[4096..4101]),
            (&[7; 4][..], &b"data\x07"[..]),
            "{flags}"
        );
    }
}

#[test]
fn a_capture_that_fails_at_its_end_leaves_nobody_stopped() {
    let shop = Workshop::new();
    let _disk = SmallDisk::new(&shop.path("disk"), 64 << 10);
    let target = python("x = os.urandom(4 << 20)");
    let pid = target.id().to_string();
    shop.fails(
        1,
        &["create", "--pid", &pid, "-o", "disk/x", "--leave-stopped"],
    );
    assert_ne!(state(&target), 'T');
    end(target);
}

#[test]
fn a_time_without_end_is_a_long_time() {
    let shop = Workshop::new();
    let target = python("");
    let pid = target.id().to_string();
    shop.ok(&[
        "create",
        "--pid",
        &pid,
        "-o",
        "x",
        "--stop-timeout",
        "18446744073709551615s",
    ]);
    end(target);
}

#[test]
fn output_names_are_checked_before_anything_is_done() {
    let shop = Workshop::new();
    shop.write("raw", b"x");
    let long = "n".repeat(256);
    let said = shop.fails(1, &["pack", "raw", "-o", &long]);
    assert!(said.contains("choose a shorter name"), "{said}");
    let longest = "n".repeat(255);
    shop.ok(&["pack", "raw", "-o", &longest]);
    shop.ok(&["pack", "raw", "-o", &longest, "--force"]);
    std::os::unix::fs::symlink("nowhere", shop.path("link")).expect("a link");
    let said = shop.fails(1, &["pack", "raw", "-o", "link", "--force"]);
    assert!(said.contains("follow the link \"link\""), "{said}");
    assert_eq!(shop.names(), ["link", &longest, "raw"]);
}

#[test]
fn an_input_with_less_than_it_promised_is_an_error() {
    let shop = Workshop::new();
    // Files of sysfs say 4096 bytes and have a few.
    let said = shop.fails(
        1,
        &[
            "pack",
            "/sys/kernel/mm/transparent_hugepage/enabled",
            "-o",
            "x",
        ],
    );
    assert!(said.contains("shrank from 4096"), "{said}");
    assert!(shop.names().is_empty());
}

#[test]
fn a_limit_on_the_size_of_files_is_told_and_not_deadly() {
    let shop = Workshop::new();
    shop.write("raw", &memory(1 << 20));
    let program = env!("CARGO_BIN_EXE_uffd-snapshot");
    let limited = Command::new("sh")
        .args(["-c", &format!("ulimit -f 8; exec {program} pack raw -o x")])
        .current_dir(shop.path(""))
        .output()
        .expect("sh");
    assert_eq!(limited.status.code(), Some(1));
    assert!(
        stderr(&limited).contains("ulimit -f"),
        "{}",
        stderr(&limited)
    );
    assert_eq!(shop.names(), ["raw"]);
}

#[test]
fn a_pipe_is_not_a_snapshot_and_nobody_waits_for_it() {
    let shop = Workshop::new();
    let fifo = shop.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let said = shop.fails(1, &["inspect", "fifo"]);
    assert!(said.contains("is a pipe"), "{said}");
}
