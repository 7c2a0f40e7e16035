//! RAM into a fresh QEMU: by the daemon, or all at once.

use super::PATIENCE;
use super::machine::{Memory, RAM_BYTES};
use super::process::{self, Process};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// Captures a stopped guest's RAM with `uffd-snapshot`.
pub fn capture(program: &Path, pid: u32, snapshot: &Path, options: &[&str]) {
    let output = Command::new(program)
        .args(["create", "--quiet", "--region", "largest", "--pid"])
        .arg(pid.to_string())
        .arg("-o")
        .arg(snapshot)
        .args(options)
        .output()
        .expect("uffd-snapshot runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "uffd-snapshot: {said}");
}

/// `uffd-restore` at work. Killed when dropped.
pub struct Daemon {
    process: Process,
    /// The moment when its standard output ended, and with it the daemon.
    ended: Receiver<Instant>,
}

impl Daemon {
    /// Starts it on a process, and waits until it says that it serves it.
    pub fn serve(program: &Path, snapshot: &Path, pid: u32, options: &[&str]) -> Self {
        let (mut ready, writer) = io::pipe().expect("a pipe");
        // The shell makes descriptor 3 of what we can only give it as its standard input.
        let mut command = process::command("sh");
        command
            .args(["-c", "exec \"$@\" 3>&0 </dev/null", "sh"])
            .arg(program)
            .arg("--snapshot")
            .arg(snapshot)
            .args(["--pid", &pid.to_string(), "--ready-fd", "3"])
            .args(options)
            .stdin(Stdio::from(writer))
            .stdout(Stdio::piped());
        let mut process = Process::start("uffd-restore", &mut command);
        // It would keep our end of the pipe open.
        drop(command);
        let mut output = BufReader::new(process.child.stdout.take().expect("piped"));
        let (sender, told) = channel();
        let (at_end, ended) = channel();
        std::thread::spawn(move || {
            let (mut word, mut line) = (Vec::new(), String::new());
            let read = ready.read_to_end(&mut word);
            drop(read.and_then(|_| output.read_line(&mut line)));
            if sender.send((word, line)).is_ok() {
                drop(io::copy(&mut output, &mut io::sink()));
                // Nobody may be interested.
                at_end.send(Instant::now()).ok();
            }
        });
        let told = told.recv_timeout(PATIENCE);
        let Ok((word, line)) = told else {
            panic!("uffd-restore is not ready: {}", process.errors())
        };
        assert_eq!(word, b"\n", "not ready: {}", process.errors());
        assert!(line.starts_with("serving "), "said {line:?} instead");
        Self { process, ended }
    }

    /// Waits for its end, which must be a good one; returns when it was and what was said about it.
    pub fn finish(mut self) -> (Instant, String) {
        let status = self.process.wait();
        let said = self.process.errors();
        assert!(status.success(), "uffd-restore: {status}: {said}");
        (self.ended.recv().expect("it ended"), said)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }
}

/// Writes all RAM of a snapshot into a QEMU that has not run yet: what lazy restoring is compared with.
pub fn fill(program: &Path, snapshot: &Path, pid: u32, memory: &Memory) {
    let start = ram_of(pid, memory).start;
    let target = File::options().write(true).open(format!("/proc/{pid}/mem"));
    let target = target.expect("QEMU's memory");
    let mut command = process::command(program);
    command
        .args(["unpack", "--quiet", "-o", "-"])
        .arg(snapshot)
        .stdout(Stdio::piped());
    let mut unpacking = Process::start("uffd-snapshot", &mut command);
    let mut output = unpacking.child.stdout.take().expect("piped");
    let (mut block, mut at) = (vec![0; 1 << 20], 0);
    while at < RAM_BYTES {
        output.read_exact(&mut block).expect("all of the RAM");
        // Fresh memory is zero already.
        if block.iter().any(|&byte| byte != 0) {
            target.write_all_at(&block, start + at).expect("QEMU's RAM");
        }
        at += block.len() as u64;
    }
    // There must be no more, and nobody to wait for us to read it.
    drop(output);
    assert!(unpacking.wait().success(), "{}", unpacking.errors());
}

/// The mapping of a guest's RAM.
pub struct Ram {
    pub start: u64,
    /// Bytes of it that are there.
    pub present: u64,
}

/// Finds the RAM in a QEMU by its exact length and its kind.
pub fn ram_of(pid: u32, memory: &Memory) -> Ram {
    let name = match memory {
        Memory::Shared => "/memfd:memory-backend-memfd (deleted)",
        Memory::Private => "",
        Memory::Template(file) => file.to_str().expect("UTF-8"),
    };
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("QEMU runs");
    let mut found = Vec::new();
    let mut within = false;
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some((start, end)) = bounds(words[0]) {
            within = end - start == RAM_BYTES
                && words[1].starts_with("rw-")
                && words[5..].join(" ") == name;
            if within {
                found.push(Ram { start, present: 0 });
            }
        } else if let (true, "Rss:", Some(ram)) = (within, words[0], found.last_mut()) {
            ram.present = words[1].parse::<u64>().expect("a size") << 10;
        }
    }
    assert_eq!(found.len(), 1, "mappings of {RAM_BYTES} bytes in\n{smaps}");
    found.remove(0)
}

/// A range of addresses, if this is how a line about a mapping begins.
fn bounds(word: &str) -> Option<(u64, u64)> {
    let (start, end) = word.split_once('-')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some((number(start)?, number(end)?))
}
