//! Where VMMs come in: a socket of our own, or one that was inherited.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage};
use nix::sys::socket::{UnixAddr, connect, getsockname, getsockopt, socket, sockopt};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, geteuid, unlinkat};

use super::super::inherited::Inherited;
use crate::cli::restore::{Listen, Peers};
use crate::failure::Failure;
use crate::service::Numbers;

/// `sun_path` of unix(7), without the NUL at its end.
const LONGEST_NAME: usize = 107;

/// How often, and in what distance, it is looked whether somebody still listens.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(25);

/// A socket that takes connections. Dropping it removes its name, if it was made here and is still its own.
#[derive(Debug)]
pub(super) struct Entrance {
    listener: UnixListener,
    made: Option<Name>,
    /// Somebody else keeps it open, and who is in its queue waits for the next one to serve.
    kept: bool,
}

#[derive(Debug)]
struct Name {
    path: PathBuf,
    /// Device and inode: somebody else may have put another one in its place.
    identity: (u64, u64),
}

impl Entrance {
    /// The one that was inherited; `None` if one is to be made.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what was inherited and is something else.
    pub(super) fn inherit(
        inherited: &mut Inherited,
        listen: &Listen,
    ) -> Result<Option<Self>, Failure> {
        let listener = match listen {
            Listen::Path(_) => return Ok(None),
            Listen::Descriptor(number) => {
                listening(inherited, *number, &format!("--listen fd:{number}"))?
            }
            Listen::Systemd => from_systemd(inherited)?,
        };
        Self::of(listener, None, *listen == Listen::Systemd).map(Some)
    }

    /// Makes one.
    ///
    /// # Errors
    /// [`Failure::Usage`] if the name is taken, or cannot be one; [`Failure::Io`].
    pub(super) fn make(path: &Path, peers: &Peers) -> Result<Self, Failure> {
        let (listener, name) = bind(path, peers)?;
        Self::of(listener, Some(name), false)
    }

    fn of(listener: UnixListener, made: Option<Name>, kept: bool) -> Result<Self, Failure> {
        // Who connected and went away again must not make accept(2) wait.
        listener
            .set_nonblocking(true)
            .map_err(|error| usage("--listen", &error.to_string()))?;
        Ok(Self {
            listener,
            made,
            kept,
        })
    }

    /// Nobody can connect any more. False if those who have are for somebody else.
    pub(super) fn close(&self) -> bool {
        if let Some(name) = &self.made {
            name.remove();
        }
        !self.kept
    }

    /// The next connection, if there is one.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // It gave up before it was its turn.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Entrance {
    /// Readable when somebody connects.
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Name {
    fn remove(&self) {
        if identity(&self.path) == Some(self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The connected socket that `--peer-fd` names.
///
/// # Errors
/// [`Failure::Usage`] if it is something else.
pub(super) fn peer(inherited: &mut Inherited, number: RawFd) -> Result<UnixStream, Failure> {
    let option = format!("--peer-fd {number}");
    let owned = inherited.take(number, &option)?;
    if !is_unix_stream(&owned) || getsockopt(&owned, sockopt::AcceptConn) != Ok(false) {
        return Err(usage(&option, "it is not a connected Unix stream socket"));
    }
    Ok(UnixStream::from(owned))
}

fn listening(
    inherited: &mut Inherited,
    number: RawFd,
    option: &str,
) -> Result<UnixListener, Failure> {
    let owned = inherited.take(number, option)?;
    if !is_unix_stream(&owned) || getsockopt(&owned, sockopt::AcceptConn) != Ok(true) {
        return Err(usage(option, "it is not a listening Unix stream socket"));
    }
    Ok(UnixListener::from(owned))
}

fn from_systemd(inherited: &mut Inherited) -> Result<UnixListener, Failure> {
    const OPTION: &str = "--listen systemd";
    let Some(numbers) = Numbers::from_environment() else {
        return Err(usage(
            OPTION,
            "no socket was passed to this program: it is for services that a socket unit starts",
        ));
    };
    match numbers.sockets[..] {
        [number] => listening(inherited, number, OPTION),
        _ => Err(usage(
            OPTION,
            &format!(
                "{} sockets were passed: give the socket unit one ListenStream=",
                numbers.sockets.len()
            ),
        )),
    }
}

fn is_unix_stream(socket: &OwnedFd) -> bool {
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd());
    address.is_ok_and(|address| address.family() == Some(AddressFamily::Unix))
        && getsockopt(socket, sockopt::SockType) == Ok(SockType::Stream)
}

/// Makes a socket. Under its own name it appears with its rights and its owner, not before.
///
/// It is made in a folder of our own, which is known by a descriptor: the folder that it is to be in may belong to the one whom it
/// is for, who could put something else in the place of what is about to be given away.
fn bind(path: &Path, peers: &Peers) -> Result<(UnixListener, Name), Failure> {
    const SOCKET: &str = "socket";
    let option = format!("--listen {}", path.display());
    let failed = |doing| Failure::io(doing, path);
    if path.as_os_str().len() > LONGEST_NAME {
        let most = "the name of a socket has at most 107 bytes: choose a shorter one";
        return Err(usage(&option, most));
    }
    let name = path
        .file_name()
        .ok_or_else(|| usage(&option, "this is not the name of a file"))?;
    make_room(path)?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = File::open(parent).map_err(failed("open the folder of the socket"))?;
    let own = OwnFolder::make(&folder).map_err(failed("make a folder beside the socket"))?;
    let inside = format!("/proc/self/fd/{}/{SOCKET}", own.folder.as_raw_fd());
    let listener = UnixListener::bind(&inside).map_err(failed("make the socket"))?;
    let errno = |doing| move |errno: Errno| Failure::io(doing, path)(io::Error::from(errno));
    let mode = Mode::from_bits_truncate(peers.socket_mode);
    fchmodat(&own.folder, SOCKET, mode, FchmodatFlags::FollowSymlink)
        .map_err(errno("set the rights of the socket"))?;
    if let Some((user, group)) = peers.socket_owner {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(&own.folder, SOCKET, Some(user), Some(group), flags)
            .map_err(errno("set the owner of the socket"))?;
    }
    let identity = identity(Path::new(&inside))
        .ok_or_else(|| failed("find the socket")(io::Error::from(io::ErrorKind::NotFound)))?;
    renameat(&own.folder, SOCKET, &folder, name).map_err(errno("name the socket"))?;
    let path = path.to_path_buf();
    Ok((listener, Name { path, identity }))
}

/// A folder that nobody else can change, inside of another one. It is removed in the end.
struct OwnFolder<'a> {
    folder: OwnedFd,
    name: String,
    outer: &'a File,
}

impl<'a> OwnFolder<'a> {
    fn make(outer: &'a File) -> io::Result<Self> {
        let number = getrandom::u64().map_err(io::Error::other)?;
        let name = format!(".uffd-restore.{number:016x}");
        mkdirat(outer, name.as_str(), Mode::S_IRWXU)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
        let folder = openat(outer, name.as_str(), flags, Mode::empty())?;
        let made = Self {
            folder,
            name,
            outer,
        };
        // Somebody may have put another one in its place.
        let found = fstat(&made.folder)?;
        let private = found.st_mode & 0o077 == 0;
        if found.st_uid != geteuid().as_raw() || !private {
            return Err(io::Error::other(
                "somebody else changes it: choose another folder",
            ));
        }
        Ok(made)
    }
}

impl Drop for OwnFolder<'_> {
    fn drop(&mut self) {
        let _ = unlinkat(&self.folder, "socket", UnlinkatFlags::NoRemoveDir);
        let _ = unlinkat(self.outer, self.name.as_str(), UnlinkatFlags::RemoveDir);
    }
}

/// A socket that nobody listens to any more is replaced, anything else is not.
fn make_room(path: &Path) -> Result<(), Failure> {
    let Ok(there) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let option = format!("--listen {}", path.display());
    if !there.file_type().is_socket() {
        return Err(usage(
            &option,
            "there is a file of this name: remove it, or choose another",
        ));
    }
    // The second process of one that was killed a moment ago takes a moment to notice.
    for _ in 0..LOOKS {
        if !somebody_listens(path) {
            return Ok(());
        }
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Err(usage(
        &option,
        "another program listens there: end it, or choose another",
    ))
}

/// Without waiting for a place in its queue.
fn somebody_listens(path: &Path) -> bool {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let Ok(socket) = socket(AddressFamily::Unix, SockType::Stream, flags, None) else {
        return true;
    };
    let Ok(address) = UnixAddr::new(path) else {
        return false;
    };
    matches!(
        connect(socket.as_raw_fd(), &address),
        Ok(()) | Err(Errno::EAGAIN | Errno::EINPROGRESS)
    )
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let there = fs::symlink_metadata(path).ok()?;
    Some((there.dev(), there.ino()))
}

fn usage(option: &str, why: &str) -> Failure {
    Failure::Usage(format!("{option}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::os::unix::fs::PermissionsExt;

    fn peers(words: &[&str]) -> Peers {
        let words = [&["x", "--snapshot", "s", "--listen", "l"], words].concat();
        let cli = crate::cli::restore::Cli::try_parse_from(words);
        cli.expect("a command line").peers
    }

    #[test]
    fn a_socket_has_its_rights_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("uffd.sock");
        let entrance = Entrance::make(&path, &peers(&["--socket-mode", "640"])).expect("made");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let text = Entrance::make(&path, &peers(&[]))
            .expect_err("taken")
            .to_string();
        assert!(text.contains("another program listens"), "{text}");
        for _ in 0..LOOKS {
            let asked = entrance.accept().expect("accept");
            assert!(asked.is_some(), "that was the question");
        }
        assert!(entrance.accept().expect("accept").is_none());
        drop(entrance);
        assert!(!path.exists());
        assert_eq!(fs::read_dir(folder.path()).expect("folder").count(), 0);
    }

    #[test]
    fn what_a_killed_program_left_is_replaced_and_other_files_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("uffd.sock");
        drop(UnixListener::bind(&path).expect("bind"));
        let entrance = Entrance::make(&path, &peers(&[])).expect("replaced");
        // Somebody else's by now.
        fs::remove_file(&path).expect("remove");
        fs::write(&path, "mine").expect("write");
        drop(entrance);
        assert!(path.exists());
        let text = Entrance::make(&path, &peers(&[]))
            .expect_err("a file")
            .to_string();
        assert!(text.contains("there is a file"), "{text}");
    }

    #[test]
    fn what_is_inherited_must_be_what_it_is_said_to_be() {
        let said = |listen: &Listen| {
            let entrance = Entrance::inherit(&mut Inherited::default(), listen);
            entrance.expect_err("bad").to_string()
        };
        for (number, part) in [(1, "other uses"), (987, "not open")] {
            let text = said(&Listen::Descriptor(number));
            assert!(text.contains(part), "{text}");
        }
        let text = said(&Listen::Systemd);
        assert!(text.contains("socket unit"), "{text}");
    }
}
