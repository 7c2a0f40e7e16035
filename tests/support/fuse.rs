//! A file system (FUSE) whose files can be read, or not, as a test wants it: a disk that fails, or does not answer.
//!
//! It is mounted in a mount namespace that the thread that makes it gets for itself, with all that this thread starts from then on; so
//! nothing remains of it, however the test ends.
#![expect(unsafe_code, reason = "unshare(2) of one thread")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// `FUSE_ROOT_ID`; files follow.
const ROOT: u64 = 1;
/// Operations of `<linux/fuse.h>`.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
/// Every read asks; nothing is in the page cache.
const FOPEN_DIRECT_IO: u32 = 1;

/// How reads go.
#[derive(Debug, Default)]
struct Mood {
    /// What reads fail with, between two offsets; 0 for nothing.
    errno: AtomicI32,
    between: [AtomicU64; 2],
    /// Nothing is answered.
    silent: AtomicBool,
    /// Reads that have failed, or wait.
    failed: AtomicU64,
    over: AtomicBool,
}

/// The file system; it ends when this is dropped.
pub struct Disk {
    folder: tempfile::TempDir,
    mood: Arc<Mood>,
    serves: Option<JoinHandle<()>>,
}

struct Server {
    device: File,
    files: Vec<(String, Vec<u8>)>,
    mood: Arc<Mood>,
    /// Reads that wait for an answer.
    waiting: Arc<Mutex<BTreeMap<u64, Request>>>,
}

#[derive(Debug, Clone)]
struct Request {
    operation: u32,
    unique: u64,
    node: u64,
    body: Vec<u8>,
}

/// This thread, and what it starts from now on, has mounts of its own.
pub fn mount_alone() {
    // SAFETY: plain numbers; this thread's own view of mounts, and nobody else's, is another one from now on.
    let alone = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(alone, 0, "unshare: {}", Errno::last());
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).expect("private mounts");
}

impl Disk {
    /// With a copy of these files. From now on this thread has a mount namespace of its own.
    pub fn with(files: &[&Path]) -> Self {
        let read = |path: &&Path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            (name.into_owned(), fs::read(path).expect("a file"))
        };
        let files = files.iter().map(read).collect();
        mount_alone();
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .expect("/dev/fuse");
        let folder = tempfile::tempdir().expect("a folder");
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
        let path = folder.path();
        mount(Some("test"), path, Some("fuse"), flags, Some(&*options)).expect("mount");
        let mood = Arc::new(Mood::default());
        let server = Server {
            device,
            files,
            mood: Arc::clone(&mood),
            waiting: Arc::default(),
        };
        Self {
            folder,
            mood,
            serves: Some(std::thread::spawn(move || server.serve())),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Reads that touch anything between two offsets fail from now on.
    pub fn fail(&self, errno: Errno, between: Range<u64>) {
        self.mood.between[0].store(between.start, Ordering::SeqCst);
        self.mood.between[1].store(between.end, Ordering::SeqCst);
        self.mood.errno.store(errno as i32, Ordering::SeqCst);
    }

    /// Reads are not answered from now on, until it is well again.
    pub fn say_nothing(&self) {
        self.mood.silent.store(true, Ordering::SeqCst);
    }

    /// Everything can be read from now on.
    pub fn be_well(&self) {
        self.mood.errno.store(0, Ordering::SeqCst);
        self.mood.silent.store(false, Ordering::SeqCst);
    }

    /// Reads that have failed, or had to wait.
    pub fn failed(&self) -> u64 {
        self.mood.failed.load(Ordering::SeqCst)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.be_well();
        let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
        self.mood.over.store(true, Ordering::SeqCst);
        if let Some(serves) = self.serves.take() {
            drop(serves.join());
        }
    }
}

impl Server {
    fn serve(mut self) {
        let mut buffer = vec![0; 1 << 18];
        while !self.mood.over.load(Ordering::SeqCst) {
            if !self.mood.silent.load(Ordering::SeqCst) {
                let waiting = std::mem::take(&mut *self.waiting.lock().expect("no panic"));
                for request in waiting.into_values() {
                    self.read(&request);
                }
            }
            let mut waited = [PollFd::new(self.device.as_fd(), PollFlags::POLLIN)];
            if poll(&mut waited, PollTimeout::from(5_u8)) != Ok(1) {
                continue;
            }
            match self.device.read(&mut buffer) {
                Ok(len) => self.answer(Request::of(&buffer[..len])),
                // The one who asked has been interrupted.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                // It is not mounted any more.
                Err(_) => return,
            }
        }
    }

    fn answer(&mut self, request: Request) {
        match request.operation {
            INIT => {
                let mut words = [0_u32; 16];
                // Version 7.31, and the shortest write that may be asked for.
                [words[0], words[1], words[5]] = [7, 31, 4096];
                let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                self.reply(request.unique, Ok(&bytes));
            }
            LOOKUP => {
                let name = request.body.strip_suffix(&[0]).unwrap_or(&request.body);
                let found = (2..).zip(&self.files);
                let found = found
                    .into_iter()
                    .find(|(_, file)| file.0.as_bytes() == name);
                let reply = found.map(|(node, _)| {
                    let mut bytes: Vec<u8> = Vec::new();
                    for word in [node, 0, 0, 0, 0] {
                        bytes.extend_from_slice(&u64::to_le_bytes(word));
                    }
                    bytes.extend_from_slice(&self.attributes(node));
                    bytes
                });
                match reply {
                    Some(bytes) => self.reply(request.unique, Ok(&bytes)),
                    None => self.reply(request.unique, Err(Errno::ENOENT)),
                }
            }
            GETATTR => {
                let mut bytes = vec![0; 16];
                bytes.extend_from_slice(&self.attributes(request.node));
                self.reply(request.unique, Ok(&bytes));
            }
            OPEN => {
                let mut bytes = [0; 16];
                bytes[8..12].copy_from_slice(&FOPEN_DIRECT_IO.to_le_bytes());
                self.reply(request.unique, Ok(&bytes));
            }
            READ if self.mood.silent.load(Ordering::SeqCst) => {
                self.mood.failed.fetch_add(1, Ordering::SeqCst);
                let mut waiting = self.waiting.lock().expect("no panic");
                waiting.insert(request.unique, request);
            }
            READ => self.read(&request),
            INTERRUPT => {
                let other = word(&request.body, 0);
                let waited = self.waiting.lock().expect("no panic").remove(&other);
                if waited.is_some() {
                    self.reply(other, Err(Errno::EINTR));
                }
            }
            RELEASE | FLUSH => self.reply(request.unique, Ok(&[])),
            FORGET | BATCH_FORGET => {}
            _ => self.reply(request.unique, Err(Errno::ENOSYS)),
        }
    }

    fn read(&mut self, request: &Request) {
        let (offset, len) = (
            word(&request.body, 8),
            word(&request.body, 16) & 0xffff_ffff,
        );
        let errno = self.mood.errno.load(Ordering::SeqCst);
        let [from, to] = self
            .mood
            .between
            .each_ref()
            .map(|at| at.load(Ordering::SeqCst));
        if errno != 0 && offset + len > from && offset < to {
            self.mood.failed.fetch_add(1, Ordering::SeqCst);
            return self.reply(request.unique, Err(Errno::from_raw(errno)));
        }
        let file = &self.files[usize::try_from(request.node - 2).expect("a file")].1;
        let [start, end] =
            [offset, offset + len].map(|at| usize::try_from(at).expect("small").min(file.len()));
        let bytes = file[start..end].to_vec();
        self.reply(request.unique, Ok(&bytes));
    }

    /// `struct fuse_attr`
    fn attributes(&self, node: u64) -> Vec<u8> {
        let file = (node != ROOT).then(|| &self.files[usize::try_from(node - 2).expect("a file")]);
        let size = file.map_or(0, |file| file.1.len() as u64);
        let mut bytes = Vec::new();
        for word in [node, size, size.div_ceil(512), 0, 0, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let mode = if file.is_some() { 0o100_644 } else { 0o40_755 };
        for word in [0_u32, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn reply(&mut self, unique: u64, what: Result<&[u8], Errno>) {
        let (error, bytes) = match what {
            Ok(bytes) => (0, bytes),
            Err(errno) => (-(errno as i32), &[][..]),
        };
        let len = u32::try_from(16 + bytes.len()).expect("short");
        let mut reply = len.to_le_bytes().to_vec();
        reply.extend_from_slice(&error.to_le_bytes());
        reply.extend_from_slice(&unique.to_le_bytes());
        reply.extend_from_slice(bytes);
        // Whoever asked may be gone.
        drop(self.device.write_all(&reply));
    }
}

impl Request {
    /// `struct fuse_in_header`, and what comes behind it.
    fn of(bytes: &[u8]) -> Self {
        Self {
            operation: u32::try_from(word(bytes, 0) >> 32).expect("half a word"),
            unique: word(bytes, 8),
            node: word(bytes, 16),
            body: bytes[40..].to_vec(),
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
