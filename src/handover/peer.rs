//! Who is at the other end of a socket.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};

use crate::processes::name_of;
use crate::serve::Target;

/// Who connected, as the kernel noted it at that moment (unix(7), `SO_PEERCRED`); what the peer does later does not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// The process id, in this program's pid namespace.
    pub pid: i32,
    /// Its effective user id, as this program's user namespace counts. One that has no number there is 65534, whoever it is: think
    /// twice before allowing that one.
    pub uid: u32,
    /// Its effective group id.
    pub gid: u32,
}

/// Why the peer cannot be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The kernel does not say.
    #[error("cannot {doing} the peer: {errno}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// The answer.
        errno: Errno,
    },
    /// It lives where this program cannot see it.
    #[error(
        "the peer has no process id here: it lives in a pid namespace that this program does not see, and could not be ended if its \
         memory cannot be served: run this program in the same pid namespace, or in one around it"
    )]
    OtherNamespace,
    /// It has ended.
    #[error("the peer, process {pid}, has ended since it connected: look into its log")]
    Ended {
        /// Its process id.
        pid: i32,
    },
    /// It may not be served.
    #[error(
        "the peer, process {pid}, runs as user {uid}, who may not connect: {}", who(allowed, *uid)
    )]
    Forbidden {
        /// Its process id.
        pid: i32,
        /// Its user.
        uid: u32,
        /// Those who may.
        allowed: Vec<u32>,
    },
}

fn who(allowed: &[u32], uid: u32) -> String {
    let users: Vec<String> = allowed.iter().map(u32::to_string).collect();
    format!(
        "allowed are {}: add --allow-uid {uid} if it is one of your VMMs",
        users.join(", ")
    )
}

impl Credentials {
    /// Of the process that connected.
    ///
    /// # Errors
    /// [`PeerError::OtherNamespace`] without a process id; [`PeerError::Kernel`].
    pub fn of(socket: &UnixStream) -> Result<Self, PeerError> {
        let peer = getsockopt(socket, PeerCredentials).map_err(|errno| PeerError::Kernel {
            doing: "ask for the credentials of",
            errno,
        })?;
        if peer.pid() <= 0 {
            return Err(PeerError::OtherNamespace);
        }
        Ok(Self {
            pid: peer.pid(),
            uid: peer.uid(),
            gid: peer.gid(),
        })
    }

    /// The process. The kernel kept it with the socket (`SO_PEERPIDFD`, Linux 6.5), so it is the one that connected; before that the
    /// number is all there is, and a peer that ended at once may leave it to another process.
    ///
    /// # Errors
    /// [`PeerError::Ended`], [`PeerError::Kernel`].
    pub fn target(self, socket: &UnixStream) -> Result<Target, PeerError> {
        let pid = self.pid;
        let pidfd = pidfd(socket, pid).map_err(|errno| match errno {
            // ENODATA and EINVAL: kernels that have forgotten a process that was waited for.
            Errno::ESRCH | Errno::ENODATA | Errno::EINVAL => PeerError::Ended { pid },
            errno => PeerError::Kernel {
                doing: "open a pidfd of",
                errno,
            },
        })?;
        let target = Target::from_pidfd(pid, name_of(pid), pidfd);
        // Newer kernels give a pidfd of what has ended, too. As long as it has not, the number was its own, and so is what was
        // looked up by it.
        if target.ends_within(Duration::ZERO) {
            return Err(PeerError::Ended { pid });
        }
        Ok(target)
    }

    /// Whether this peer may be served: everything that it maps is filled with the snapshot's content for it.
    ///
    /// Users in `list`, if there are any, and root. With an empty list: this program's own user, and root. Root can do as it pleases
    /// anyway, and a jailer of Firecracker gives every VM a user of its own, so who has them lists them; a list replaces the own user,
    /// because a daemon that runs under a service user has no VMMs of that user.
    ///
    /// # Errors
    /// [`PeerError::Forbidden`].
    pub fn allowed(self, list: &[u32]) -> Result<(), PeerError> {
        allowed_by(self, list, nix::unistd::geteuid().as_raw())
    }
}

fn allowed_by(peer: Credentials, list: &[u32], own: u32) -> Result<(), PeerError> {
    let mut allowed = if list.is_empty() {
        vec![own]
    } else {
        list.to_vec()
    };
    allowed.push(0);
    allowed.sort_unstable();
    allowed.dedup();
    if allowed.contains(&peer.uid) {
        return Ok(());
    }
    Err(PeerError::Forbidden {
        pid: peer.pid,
        uid: peer.uid,
        allowed,
    })
}

fn pidfd(socket: &UnixStream, pid: i32) -> Result<OwnedFd, Errno> {
    match getsockopt(socket, PeerPidfd) {
        Err(Errno::ENOPROTOOPT) => crate::pidfd::pidfd(pid),
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Credentials {
        Credentials {
            pid: 7,
            uid,
            gid: 0,
        }
    }

    #[test]
    fn without_a_list_the_own_user_and_root() {
        assert_eq!(allowed_by(peer(1000), &[], 1000), Ok(()));
        assert_eq!(allowed_by(peer(0), &[], 1000), Ok(()));
        let error = allowed_by(peer(1001), &[], 1000).expect_err("another user");
        assert!(
            error
                .to_string()
                .contains("allowed are 0, 1000: add --allow-uid 1001")
        );
    }

    #[test]
    fn with_a_list_those_and_root_and_no_longer_the_own_user() {
        assert_eq!(allowed_by(peer(30001), &[30000, 30001], 1000), Ok(()));
        assert_eq!(allowed_by(peer(0), &[30000], 1000), Ok(()));
        assert!(allowed_by(peer(1000), &[30000], 1000).is_err());
        assert!(allowed_by(peer(30002), &[30000, 30001], 1000).is_err());
    }
}
