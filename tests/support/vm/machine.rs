//! A QEMU of our own.

use super::PATIENCE;
use super::console::{Console, Loop};
use super::flow::Stage;
use super::process::{self, Process};
use super::qmp::Qmp;
use serde_json::json;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};
use std::time::{Duration, Instant};

/// RAM of every guest.
pub const RAM_MIB: u64 = 512;
pub const RAM_BYTES: u64 = RAM_MIB << 20;

/// Where QEMU keeps the guest's RAM.
#[derive(Debug, Clone)]
pub enum Memory {
    /// A memory file mapped shared.
    Shared,
    /// Memory of its own without a name.
    Private,
    /// A file that is never written: mapped privately, read as it is touched.
    Template(PathBuf),
}

/// What is the same in the QEMU that saves and the one that is restored.
#[derive(Debug, Clone)]
pub struct Machine {
    pub memory: Memory,
    pub cpus: u32,
    pub balloon: bool,
    /// A user without privileges, and QEMU's sandbox with everything denied.
    pub confined: bool,
    /// `-drive` options of a disk.
    pub disk: Option<String>,
    /// MiB that the guest fills with pages to check: anonymous memory, and a file in tmpfs.
    pub fill: (u32, u32),
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            memory: Memory::Private,
            cpus: 1,
            balloon: false,
            confined: false,
            disk: None,
            fill: (160, 40),
        }
    }
}

/// How a QEMU begins.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// The guest boots.
    Boot,
    /// Stopped, waiting for the state of the devices; what its guest had said of a line when it was saved.
    Devices { said: &'a str },
    /// Stopped, waiting for an ordinary migration stream.
    Stream,
    /// From the snapshot of this name in its disk.
    Snapshot { name: &'a str },
}

impl Machine {
    /// Starts a QEMU with its files in the stage's folder.
    pub fn start(&self, stage: &Stage, start: Start<'_>) -> Qemu {
        let socket = stage.unique("qmp");
        let listener = UnixListener::bind(&socket).expect("a socket");
        stage.open_to_all(&socket);
        let program = "qemu-system-x86_64";
        let mut command = if self.confined {
            process::unprivileged(program)
        } else {
            process::command(program)
        };
        command
            .args(self.arguments(stage, start))
            .arg("-qmp")
            .arg(format!("unix:{}", socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let started = Instant::now();
        let mut process = Process::start("QEMU", &mut command);
        let said = match start {
            Start::Devices { said } => said,
            _ => "",
        };
        let console = Console::listen(process.child.stdout.take().expect("piped"), said);
        let keyboard = process.child.stdin.take().expect("piped");
        let qmp = Qmp::new(accept(&listener, &mut process));
        Qemu {
            console,
            qmp,
            keyboard,
            process,
            started,
        }
    }

    fn arguments(&self, stage: &Stage, start: Start<'_>) -> Vec<String> {
        let mut all = Vec::new();
        let mut add = |text: &str| all.extend(text.split(' ').map(str::to_owned));
        add(
            "-nodefaults -no-user-config -display none -no-reboot -accel tcg -machine pc,memory-backend=ram",
        );
        add(&format!("-m {RAM_MIB}M -smp {}", self.cpus));
        add(&format!("-object {}", self.backend()));
        add("-chardev stdio,id=console,signal=off -serial chardev:console");
        if self.confined {
            add("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        }
        if self.balloon {
            add("-device virtio-balloon-pci");
        }
        if let Some(drive) = &self.disk {
            all.extend(["-drive".to_owned(), format!("if=none,id=disk,{drive}")]);
            all.extend(["-device", "virtio-blk-pci,drive=disk"].map(str::to_owned));
        }
        let path = |path: &Path| path.to_string_lossy().into_owned();
        all.extend(["-kernel".to_owned(), path(&stage.image.kernel)]);
        all.extend(["-initrd".to_owned(), path(&stage.image.initrd)]);
        let (anonymous, tmpfs) = self.fill;
        // Without init_on_alloc=0 the guest's kernel clears every page before a device writes to it, and nothing that the
        // devices do ever meets a page that is not there yet.
        let line = format!("console=ttyS0 quiet panic=-1 init_on_alloc=0 -- {anonymous} {tmpfs}");
        all.extend(["-append".to_owned(), line]);
        match start {
            Start::Boot => {}
            Start::Devices { .. } | Start::Stream => {
                all.extend(["-S", "-incoming", "defer"].map(str::to_owned));
                if matches!(start, Start::Devices { .. }) && self.saves_devices_alone() {
                    // A section that only a migration writes must not be expected.
                    all.extend(["-global", "migration.send-configuration=off"].map(str::to_owned));
                }
            }
            Start::Snapshot { name } => all.extend(["-S", "-loadvm", name].map(str::to_owned)),
        }
        all
    }

    fn backend(&self) -> String {
        let size = format!("id=ram,size={RAM_MIB}M");
        match &self.memory {
            Memory::Shared => format!("memory-backend-memfd,{size},share=on"),
            Memory::Private => format!("memory-backend-ram,{size}"),
            Memory::Template(file) => {
                format!(
                    "memory-backend-file,{size},share=off,mem-path={}",
                    file.display()
                )
            }
        }
    }

    /// Device state is written by a command for it, because a migration would include private RAM.
    pub fn saves_devices_alone(&self) -> bool {
        !matches!(self.memory, Memory::Shared)
    }
}

/// A running QEMU. Killed when dropped.
pub struct Qemu {
    pub console: Console,
    pub qmp: Qmp,
    pub keyboard: ChildStdin,
    pub process: Process,
    /// The moment before it was started.
    pub started: Instant,
}

impl Qemu {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it; the last round that its guest finished after those that were read, and the beginning of a line.
    pub fn end(mut self) -> (Option<Loop>, String) {
        self.process.child.kill().expect("our child");
        self.process.wait();
        self.console.rest()
    }

    /// Ends it through its monitor, which must work.
    pub fn quit(mut self) {
        self.qmp.execute("quit", &json!({}));
        let status = self.process.wait();
        assert!(status.success(), "QEMU ended with {status}");
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the guest's console so far:\n{}", self.console.transcript());
        }
    }
}

/// The connection that a process makes to our socket.
pub fn accept(listener: &UnixListener, process: &mut Process) -> UnixStream {
    listener.set_nonblocking(true).expect("a socket");
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).expect("a socket");
            return stream;
        }
        assert!(
            !process.has_ended(),
            "QEMU ended early: {}",
            process.errors()
        );
        assert!(
            Instant::now() < deadline,
            "QEMU does not connect: {}",
            process.errors()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}
