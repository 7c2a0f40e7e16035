//! What a service manager is told (sd_notify(3)): datagrams of lines on the socket that `NOTIFY_SOCKET` names.
//!
//! By hand: it is one sendmsg(2), and no crate that does it passes descriptors with `FDPOLL=0`. Nothing here makes the program fail or
//! wait: what cannot be said is not said, but for descriptors, where whoever gives them away has to know.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;
use nix::time::{ClockId, clock_gettime};

use super::names::StoredName;

/// How long giving a descriptor away may wait for a service manager that is busy.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

/// Something to say. Several go into one datagram, and take effect together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word<'a> {
    /// What this service is for can be used.
    Ready,
    /// Its configuration is being read again, until [`Word::Ready`].
    Reloading,
    /// It is about to end, by itself.
    Stopping,
    /// How it goes, for people.
    Status(&'a str),
    /// It is alive.
    Watchdog,
    /// Which process is the service.
    MainPid(i32),
}

/// The service manager that started this program.
#[derive(Debug)]
pub struct Manager {
    socket: OwnedFd,
    address: UnixAddr,
}

impl Manager {
    /// The one that the environment names, if there is one that can be reached.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        Self::at(&std::env::var_os("NOTIFY_SOCKET")?)
    }

    /// The one that listens at a path, or, after `@`, at an abstract name.
    #[must_use]
    pub fn at(name: &OsStr) -> Option<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => UnixAddr::new_abstract(name),
            [b'/', ..] => UnixAddr::new(name),
            // There are others (vsock), for virtual machines that speak to their host.
            _ => return None,
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None).ok()?;
        setsockopt(&socket, sockopt::SendTimeout, &PATIENCE).ok()?;
        // Not connected: a service manager that was replaced meanwhile listens at the same address.
        Some(Self {
            socket,
            address: address.ok()?,
        })
    }

    /// Says something. If the manager has no room for it just now, it is not said.
    pub fn say(&self, words: &[Word<'_>]) {
        let _ = self.send(&text(words), &[], MsgFlags::MSG_DONTWAIT);
    }

    /// Has the manager keep a descriptor, which the next start of this service is given ([`super::Passed`]), whatever becomes of this
    /// one. Several may have one name. Waits for a manager that is busy.
    ///
    /// `FDPOLL=0`: systemd would drop a descriptor that polls as an error or hung up, as a process that has ended does.
    ///
    /// # Errors
    /// It is not kept: the manager does not listen, or not within seconds. (That it has room is not told: `FileDescriptorStoreMax=`.)
    pub fn store(&self, name: StoredName, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
        let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
        self.send(&text, &[descriptor], MsgFlags::empty())
    }

    /// Has the manager close all that it keeps under a name.
    ///
    /// # Errors
    /// As above.
    pub fn forget(&self, name: StoredName) -> Result<(), Errno> {
        let text = format!("FDSTOREREMOVE=1\nFDNAME={name}\n");
        self.send(&text, &[], MsgFlags::empty())
    }

    /// Waits until all that was said before has been dealt with, so long at most. True if it has.
    #[must_use]
    pub fn barrier(&self, most: Duration) -> bool {
        let Ok((waits, passed)) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC) else {
            return false;
        };
        let sent = self.send("BARRIER=1", &[passed.as_fd()], MsgFlags::empty());
        drop(passed);
        if sent.is_err() {
            return false;
        }
        // The manager closes its end when it comes to it.
        let mut hung_up = [PollFd::new(waits.as_fd(), PollFlags::empty())];
        let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
        poll(&mut hung_up, most).is_ok_and(|ready| ready > 0)
    }

    fn send(
        &self,
        text: &str,
        descriptors: &[BorrowedFd<'_>],
        flags: MsgFlags,
    ) -> Result<(), Errno> {
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[] } else { &rights[..] };
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        let text = [IoSlice::new(text.as_bytes())];
        loop {
            let socket = self.socket.as_raw_fd();
            match sendmsg(socket, &text, rights, flags, Some(&self.address)) {
                Err(Errno::EINTR) => {}
                other => return other.map(drop),
            }
        }
    }
}

fn text(words: &[Word<'_>]) -> String {
    let mut text = String::new();
    for word in words {
        // Writing to text cannot fail.
        let _ = match word {
            Word::Ready => writeln!(text, "READY=1"),
            Word::Reloading => writeln!(text, "RELOADING=1\nMONOTONIC_USEC={}", now_us()),
            Word::Stopping => writeln!(text, "STOPPING=1"),
            Word::Status(status) => {
                writeln!(text, "STATUS={}", crate::terminal::printable(status))
            }
            Word::Watchdog => writeln!(text, "WATCHDOG=1"),
            Word::MainPid(pid) => writeln!(text, "MAINPID={pid}"),
        };
    }
    text
}

/// What Type=notify-reload wants to know: when it began.
fn now_us() -> u128 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_micros())
}

/// How often the service manager wants to hear that this process, which it started, is alive.
#[must_use]
pub fn watchdog_from_environment() -> Option<Duration> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let mine = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let every = number("WATCHDOG_USEC").filter(|&every| every > 0);
    every.filter(|_| mine).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::cmsg_space;
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::io::IoSliceMut;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    struct Heard {
        text: String,
        descriptors: usize,
    }

    fn hear(socket: &UnixDatagram) -> Heard {
        let mut bytes = [0; 4096];
        let mut space = cmsg_space!([std::os::fd::RawFd; 4]);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::empty();
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut into, Some(&mut space), flags);
        let message = message.expect("a message");
        let count = |part| match part {
            ControlMessageOwned::ScmRights(numbers) => numbers.len(),
            _ => 0,
        };
        let descriptors = message.cmsgs().expect("whole").map(count).sum();
        let length = message.bytes;
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        Heard { text, descriptors }
    }

    #[test]
    fn lines_and_descriptors_arrive_at_a_path() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let listens = UnixDatagram::bind(&path).expect("bind");
        let manager = Manager::at(path.as_os_str()).expect("a manager");
        manager.say(&[Word::Ready, Word::Status("two\nlines"), Word::MainPid(7)]);
        assert_eq!(
            hear(&listens).text,
            "READY=1\nSTATUS=two\\nlines\nMAINPID=7\n"
        );
        let name = StoredName::Space {
            session: 3,
            space: 5,
        };
        let null = std::fs::File::open("/dev/null").expect("open");
        manager.store(name, null.as_fd()).expect("stored");
        let heard = hear(&listens);
        assert_eq!(heard.text, "FDSTORE=1\nFDNAME=3.space.5\nFDPOLL=0\n");
        assert_eq!(heard.descriptors, 1);
        manager.forget(name).expect("said");
        let heard = hear(&listens);
        assert_eq!(heard.text, "FDSTOREREMOVE=1\nFDNAME=3.space.5\n");
        assert_eq!(heard.descriptors, 0);
    }

    #[test]
    fn lines_arrive_at_an_abstract_name() {
        let name = format!("uffd-restore-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let listens = UnixDatagram::bind_addr(&address).expect("bind");
        let manager = Manager::at(OsStr::new(&format!("@{name}"))).expect("a manager");
        manager.say(&[Word::Watchdog, Word::Stopping]);
        assert_eq!(hear(&listens).text, "WATCHDOG=1\nSTOPPING=1\n");
        manager.say(&[Word::Reloading]);
        let text = hear(&listens).text;
        assert!(text.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{text}");
    }

    #[test]
    fn a_barrier_is_passed_when_the_manager_comes_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let listens = UnixDatagram::bind(&path).expect("bind");
        let manager = Manager::at(path.as_os_str()).expect("a manager");
        assert!(!manager.barrier(Duration::from_millis(10)));
        let mut byte = [0; 16];
        // Descriptors that nobody takes are closed by the kernel.
        listens.recv(&mut byte).expect("the first one");
        let comes = std::thread::spawn(move || listens.recv(&mut byte).map(drop));
        assert!(manager.barrier(Duration::from_secs(60)));
        comes.join().expect("no panic").expect("received");
    }

    #[test]
    fn nobody_listens_and_nothing_happens() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let manager = Manager::at(path.as_os_str()).expect("an address");
        manager.say(&[Word::Ready]);
        let null = std::fs::File::open("/dev/null").expect("open");
        let name = StoredName::Journal { session: 1 };
        assert_eq!(manager.store(name, null.as_fd()), Err(Errno::ENOENT));
        assert!(!manager.barrier(Duration::from_secs(60)));
        for strange in ["", "vsock:2:1234", "relative"] {
            assert!(Manager::at(OsStr::new(strange)).is_none(), "{strange}");
        }
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let _listens = UnixDatagram::bind(&path).expect("bind");
        let manager = Manager::at(path.as_os_str()).expect("a manager");
        // Its queue is far shorter.
        for _ in 0..100_000 {
            manager.say(&[Word::Watchdog]);
        }
    }
}
