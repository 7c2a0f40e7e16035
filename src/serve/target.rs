//! The process that is being served: following its end, and ending it.
#![expect(
    unsafe_code,
    reason = "pidfd_open(2) and pidfd_send_signal(2), which nix does not have"
)]

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// A process, held by a descriptor: its id cannot come to mean another one.
#[derive(Debug)]
pub struct Target {
    /// The process id.
    pub pid: i32,
    /// Its name, for people.
    pub name: String,
    pidfd: OwnedFd,
}

impl Target {
    /// The process with this id.
    ///
    /// # Errors
    /// ESRCH when there is none.
    pub fn open(pid: i32, name: String) -> Result<Self, Errno> {
        // SAFETY: pidfd_open(2) takes two numbers.
        let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let opened = Errno::result(opened)?;
        let raw = i32::try_from(opened).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel just opened this descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { pid, name, pidfd })
    }

    /// For messages.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} ({})", self.pid, crate::terminal::printable(&self.name))
    }

    /// Sends SIGKILL. A process that has ended already is no error.
    ///
    /// # Errors
    /// EPERM.
    pub fn kill(&self) -> Result<(), Errno> {
        let nothing = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: without a siginfo the kernel reads no memory of ours; the rest are numbers.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                nothing,
                0,
            )
        };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The process that a thread belongs to, given the number that the thread has in this process's pid namespace. `None`
    /// when there is none (any more).
    #[must_use]
    pub fn process_of(&self, thread: u32) -> Option<Self> {
        let thread = i32::try_from(thread).ok().filter(|&thread| thread > 0)?;
        let namespace = namespace_of(&self.pid.to_string())?;
        let mine = namespace_of("self")?;
        let pid = if namespace == mine {
            status_field(&thread.to_string(), "Tgid:")?.parse().ok()?
        } else {
            find_in(&namespace, thread)?
        };
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Self::open(pid, name.trim_end().to_owned()).ok()
    }
}

impl AsFd for Target {
    /// Readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn namespace_of(pid: &str) -> Option<std::path::PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn status_field(pid: &str, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().to_owned())
}

/// The process in this pid namespace that has a thread of this number there.
fn find_in(namespace: &std::path::Path, thread: i32) -> Option<i32> {
    let number = thread.to_string();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().into_string().ok()?;
        if pid.parse::<i32>().is_err() || namespace_of(&pid).as_deref() != Some(namespace) {
            continue;
        }
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let task = format!("{pid}/task/{}", task.file_name().to_string_lossy());
            let numbers = status_field(&task, "NSpid:").unwrap_or_default();
            if numbers.split_ascii_whitespace().next_back() == Some(number.as_str()) {
                return pid.parse().ok();
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_is_found() {
        let me = i32::try_from(std::process::id()).expect("a pid");
        let target = Target::open(me, String::new()).expect("I exist");
        let thread = u32::try_from(nix::unistd::gettid().as_raw()).expect("a number");
        assert_eq!(target.process_of(thread).expect("me").pid, me);
        assert_eq!(
            find_in(
                &namespace_of("self").expect("proc"),
                nix::unistd::gettid().as_raw()
            ),
            Some(me)
        );
        assert!(target.process_of(0).is_none());
    }
}
