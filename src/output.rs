//! Files that appear whole or not at all.
//!
//! The bytes go to a file without a name (`O_TMPFILE`), which is synced and then linked into its folder: whatever kills
//! the program before that, SIGKILL or a power failure, leaves nothing behind. Where the file system has no nameless
//! files, a temporary name beside the output is used, and removed on errors and on SIGINT, SIGTERM and SIGHUP.

use crate::failure::Failure;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::linkat;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Memory holds secrets: only the owner may read what is written.
const MODE: u32 = 0o600;

/// What temporary names begin with.
const PARTIAL: &str = ".uffd-snapshot.";

/// A file being written, not yet visible under its name.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    target: PathBuf,
    replace: bool,
    /// The temporary name, if it has one.
    temporary: Option<PathBuf>,
}

/// Sees to it that a temporary name does not outlive this program.
type Watch = fn(PathBuf) -> io::Result<()>;

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), Failure> {
    File::open(folder)
        .and_then(|open| open.sync_all())
        .map_err(Failure::io("sync", folder))
}

impl PendingFile {
    /// Begin a file that will be called `target`; an existing one is replaced only if `replace`.
    ///
    /// # Errors
    /// [`Failure::Exists`], [`Failure::NotAFile`], [`Failure::Io`].
    pub fn create(target: &Path, replace: bool) -> Result<Self, Failure> {
        Self::begin(target, replace, remove_on_signal)
    }

    /// The same for a program that holds those signals, and ends in order when one comes: a temporary name goes when this is dropped.
    ///
    /// # Errors
    /// Those of [`PendingFile::create`].
    pub fn create_with_signals_held(target: &Path, replace: bool) -> Result<Self, Failure> {
        Self::begin(target, replace, |_| Ok(()))
    }

    fn begin(target: &Path, replace: bool, watch: Watch) -> Result<Self, Failure> {
        survive_file_size_limit();
        // A link is followed, so that what it points to is replaced and not the link. One that points nowhere is an error
        // now, and so is a name that is too long, instead of when everything has been written.
        let target = match fs::symlink_metadata(target) {
            Ok(_) => fs::canonicalize(target).map_err(Failure::io("follow the link", target))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => target.to_path_buf(),
            Err(error) => return Err(Failure::io("create", target)(error)),
        };
        match fs::metadata(&target) {
            Ok(existing) if !existing.is_file() => return Err(Failure::NotAFile(target)),
            Ok(_) if !replace => return Err(Failure::Exists(target)),
            _ => {}
        }
        if target.file_name().is_none() {
            return Err(Failure::NotAFile(target));
        }
        match nameless(&folder(&target)) {
            // It will get its name through /proc.
            Ok(_) if !Path::new("/proc/self/fd").exists() => {
                Self::create_named(target, replace, watch)
            }
            Ok(file) => Ok(Self {
                file,
                target,
                replace,
                temporary: None,
            }),
            Err(error) if has_no_nameless_files(&error) => {
                Self::create_named(target, replace, watch)
            }
            Err(error) => Err(Failure::io("create", &target)(error)),
        }
    }

    fn create_named(target: PathBuf, replace: bool, watch: Watch) -> Result<Self, Failure> {
        let temporary = temporary_name(&target);
        watch(temporary.clone()).map_err(Failure::io("watch over", &temporary))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&temporary)
            .map_err(Failure::io("create", &target))?;
        Ok(Self {
            file,
            target,
            replace,
            temporary: Some(temporary),
        })
    }

    /// The file to write to.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The folder that the file will be in.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        folder(&self.target)
    }

    /// Sync the file and give it its name.
    ///
    /// # Errors
    /// [`Failure::Exists`] when the name was taken meanwhile, [`Failure::Io`]. Nothing is left behind.
    pub fn publish(mut self) -> Result<(), Failure> {
        self.file
            .sync_all()
            .map_err(Failure::io("sync", &self.target))?;
        let named = if self.temporary.is_none() && !self.replace {
            link(&self.file, &self.target)
        } else {
            self.rename()
        };
        match named {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Failure::Exists(self.target.clone()));
            }
            named => named.map_err(Failure::io("create", &self.target))?,
        }
        self.temporary = None;
        let folder = self.folder();
        match File::open(&folder) {
            Ok(open) => open.sync_all().map_err(Failure::io("sync", &folder)),
            // A folder that may be written to but not read. The file is there; when its name reaches the disk is up to
            // the system.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(Failure::io("open", &folder)(error)),
        }
    }

    /// Through a temporary name, which a nameless file is given now.
    fn rename(&mut self) -> io::Result<()> {
        let temporary = match &self.temporary {
            Some(temporary) => temporary.clone(),
            None => {
                let temporary = temporary_name(&self.target);
                link(&self.file, &temporary)?;
                self.temporary = Some(temporary.clone());
                temporary
            }
        };
        if self.replace {
            return fs::rename(temporary, &self.target);
        }
        let flags = RenameFlags::RENAME_NOREPLACE;
        match renameat2(AT_FDCWD, &temporary, AT_FDCWD, &self.target, flags) {
            // The file system does not know the flag: a hard link does not replace either.
            Err(nix::Error::EINVAL) => {
                fs::hard_link(&temporary, &self.target)?;
                fs::remove_file(&temporary)
            }
            renamed => renamed.map_err(Into::into),
        }
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing can be done about a failure, and the error that brought us here is the one to report.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn folder(target: &Path) -> PathBuf {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Let a write beyond RLIMIT_FSIZE fail with EFBIG, of which the user is told, and not kill the program with SIGXFSZ.
fn survive_file_size_limit() {
    let nobody_looks = Arc::new(AtomicBool::new(false));
    // Without the handler it is as it was.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, nobody_looks);
}

/// Random, and not made of the target's name, which may be as long as a name can be: so that what a killed program with the same process id left behind is not in the way.
fn temporary_name(target: &Path) -> PathBuf {
    let random = getrandom::u32().unwrap_or_else(|_| std::process::id());
    target.with_file_name(format!("{PARTIAL}{random:08x}.partial"))
}

/// Whether a name is one that a file has for a moment while it replaces another, or longer where files cannot be nameless.
pub(crate) fn is_partial(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(PARTIAL) && name.ends_with(".partial"))
}

fn nameless(folder: &Path) -> io::Result<File> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(folder, flags, Mode::from_bits_truncate(MODE))?;
    Ok(File::from(fd))
}

/// What open(2) answers to `O_TMPFILE`: EOPNOTSUPP from the file system, EISDIR from a kernel that does not know it.
fn has_no_nameless_files(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
    )
}

/// As open(2) shows for `O_TMPFILE`: needs no privilege, unlike `AT_EMPTY_PATH`.
fn link(file: &File, name: &Path) -> io::Result<()> {
    let fd = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(
        AT_FDCWD,
        fd.as_str(),
        AT_FDCWD,
        name,
        AtFlags::AT_SYMLINK_FOLLOW,
    )
    .map_err(Into::into)
}

/// Remove `path` when a signal asks the program to end, and then end as if there had been no handler.
fn remove_on_signal(path: PathBuf) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                let _ = fs::remove_file(&path);
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    type Begin = fn(&Path, bool) -> Result<PendingFile, Failure>;

    /// Both ways of writing are tested on any file system, with nameless files or without.
    const WAYS: [Begin; 2] = [PendingFile::create, |target, replace| {
        PendingFile::create_named(target.to_path_buf(), replace, remove_on_signal)
    }];

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| {
            let name = entry.expect("an entry").file_name();
            name.into_string().expect("UTF-8")
        };
        fs::read_dir(folder).expect("a folder").map(name).collect()
    }

    #[test]
    fn nothing_is_visible_before_and_only_the_file_after() {
        for begin in WAYS {
            let folder = tempfile::tempdir().expect("a folder");
            let target = folder.path().join("x");
            let mut pending = begin(&target, false).expect("a folder");
            pending.file.write_all(b"content").expect("space");
            assert!(!target.exists());
            pending.publish().expect("a name");
            assert_eq!(names(folder.path()), ["x"]);
            assert_eq!(fs::read(&target).expect("the file"), b"content");
            let mode = fs::metadata(&target)
                .expect("the file")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, MODE);
        }
    }

    #[test]
    fn a_file_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        for begin in WAYS {
            drop(begin(&folder.path().join("x"), false).expect("a folder"));
            assert!(names(folder.path()).is_empty());
        }
    }

    #[test]
    fn an_existing_file_is_replaced_only_when_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("x");
        for begin in WAYS {
            let late = begin(&target, false).expect("a folder");
            // Taken only after it had begun.
            fs::write(&target, b"old").expect("space");
            assert!(matches!(late.publish(), Err(Failure::Exists(_))));
            let refused = PendingFile::create(&target, false);
            assert!(matches!(refused, Err(Failure::Exists(_))));
            assert_eq!(fs::read(&target).expect("the file"), b"old");
            let replacing = begin(&target, true).expect("a folder");
            replacing.publish().expect("a name");
            assert_eq!(fs::read(&target).expect("the file"), b"");
            assert_eq!(names(folder.path()), ["x"]);
            fs::remove_file(&target).expect("the file");
        }
    }

    #[test]
    fn devices_folders_and_folders_that_are_not_there_are_refused() {
        for path in ["/dev/null", "/", "."] {
            let refused = PendingFile::create(Path::new(path), true);
            assert!(matches!(refused, Err(Failure::NotAFile(_))), "{path}");
        }
        let missing = PendingFile::create(Path::new("/nonexistent/x"), true);
        assert!(matches!(missing, Err(Failure::Io { .. })));
    }

    #[test]
    fn a_link_is_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (target, link) = (folder.path().join("x"), folder.path().join("link"));
        fs::write(&target, b"old").expect("space");
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        PendingFile::create(&link, true)
            .and_then(PendingFile::publish)
            .expect("a name");
        assert_eq!(fs::read(&target).expect("the file"), b"");
        assert!(link.is_symlink());
    }
}
