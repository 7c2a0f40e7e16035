//! The socket, until `criu restore` connects. It does so once, before it makes any process, and fails at once if nobody listens.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::failure::Failure;
use crate::handover::criu::Unread;
use crate::handover::peer::{Credentials, PeerError};
use crate::serve::{EndingSignals, Target};
use crate::terminal::say;

/// Its name, relative to the work directory, which both sides go to: a name that long paths do not make too long.
const NAME: &str = "lazy-pages.socket";

/// A socket that `criu restore` can connect to. The file goes with it.
#[derive(Debug)]
pub(super) struct Entrance {
    listener: UnixListener,
    folder: PathBuf,
    /// Who made the file: after a fork the same one.
    inode: Option<u64>,
}

impl Entrance {
    /// In the directory that this program is in, which has this name.
    pub(super) fn make(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(NAME);
        let failed = |source| Failure::io("listen on", &path)(source);
        match fs::symlink_metadata(NAME) {
            // One that was left behind; whoever may listen on it would lose it to criu lazy-pages, too.
            Ok(found) if found.file_type().is_socket() => fs::remove_file(NAME).map_err(failed)?,
            Ok(_) => return Err(failed(io::ErrorKind::AlreadyExists.into())),
            Err(_) => {}
        }
        let listener = UnixListener::bind(NAME).map_err(failed)?;
        let owner_only = fs::Permissions::from_mode(0o600);
        fs::set_permissions(NAME, owner_only).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self {
            listener,
            folder: folder.to_path_buf(),
            inode: inode(),
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// What can come here that nobody reads.
    pub(super) fn unread(&self) -> Result<Unread, Failure> {
        Unread::at(&self.listener).map_err(Failure::io("listen on", &self.path()))
    }

    /// Waits for `criu restore`, and closes the door behind it.
    pub(super) fn admit(self, patience: Option<Duration>) -> Result<(UnixStream, Target), Failure> {
        let signals = EndingSignals::held().map_err(|errno| self.failed("wait at", errno))?;
        let deadline = patience.and_then(|patience| Instant::now().checked_add(patience));
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                let waited = humantime::format_duration(patience.unwrap_or_default());
                return Err(Failure::Mismatch(format!(
                    "criu restore has not connected to {:?} within {waited} (--connect-timeout): look whether it failed, and whether its \
                     work directory (-W, or -D) is the same",
                    self.path()
                )));
            }
            self.wait(&signals, left)
                .map_err(|errno| self.failed("wait at", errno))?;
            if !signals.come().is_empty() {
                return Err(Failure::Mismatch(
                    "asked to end before criu restore connected: nothing was restored".into(),
                ));
            }
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(Failure::io("accept on", &self.path())(error)),
            };
            // Nothing has been received: whoever is not let in is told so by the end of the connection.
            let host = Credentials::of(&stream)
                .and_then(|credentials| credentials.allowed(&[]).map(|()| credentials))
                .and_then(|credentials| credentials.target(&stream));
            match host {
                Ok(host) => return Ok((stream, host)),
                Err(error @ PeerError::Ended { .. }) => {
                    let why = format!("{error}: the restore failed");
                    return Err(Failure::Mismatch(why));
                }
                Err(error) => say(&format!("uffd-restore: {error}")),
            }
        }
    }

    fn wait(&self, signals: &EndingSignals, left: Option<Duration>) -> Result<(), Errno> {
        let mut waited = [
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        // Rounded up: what ends too early would be asked again at once, a thousand times.
        let most = left.map_or(PollTimeout::NONE, |left| {
            let left = left.saturating_add(Duration::from_millis(1));
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut waited, most) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn failed(&self, doing: &'static str, errno: Errno) -> Failure {
        Failure::io(doing, &self.path())(errno.into())
    }
}

impl Drop for Entrance {
    fn drop(&mut self) {
        // Another daemon may have put its own in its place.
        if self.inode.is_some() && inode() == self.inode {
            let _ = fs::remove_file(NAME);
        }
    }
}

fn inode() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(NAME)
        .ok()
        .map(|metadata| metadata.ino())
}
