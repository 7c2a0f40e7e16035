//! Descriptors that a service manager passes, and keeps between two runs of a service: what each of them is.

use std::fmt;
use std::os::fd::{OwnedFd, RawFd};
use std::str::FromStr;

/// The first descriptor that is passed: `SD_LISTEN_FDS_START` of sd_listen_fds(3).
const FIRST: RawFd = 3;

/// What a descriptor is that was stored ([`super::Manager::store`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoredName {
    /// What is known of a session.
    Journal {
        /// Its number.
        session: u64,
    },
    /// The userfaultfd of an address space.
    Space {
        /// The session's number.
        session: u64,
        /// Its own.
        space: u64,
    },
    /// A process, by its pidfd.
    Process {
        /// The session's number.
        session: u64,
        /// Its own.
        number: u64,
    },
}

impl fmt::Display for StoredName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Journal { session } => write!(f, "{session}.journal"),
            Self::Space { session, space } => write!(f, "{session}.space.{space}"),
            Self::Process { session, number } => write!(f, "{session}.pid.{number}"),
        }
    }
}

/// The name is none that this program gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a stored descriptor")]
pub struct OtherName;

impl FromStr for StoredName {
    type Err = OtherName;

    fn from_str(text: &str) -> Result<Self, OtherName> {
        // As it is written: no signs, no leading zeros, so that there is one name for each.
        let number = |text: &str| {
            let number: u64 = text.parse().map_err(|_| OtherName)?;
            (number.to_string() == text)
                .then_some(number)
                .ok_or(OtherName)
        };
        let parts: Vec<&str> = text.split('.').collect();
        match parts[..] {
            [session, "journal"] => Ok(Self::Journal {
                session: number(session)?,
            }),
            [session, "space", space] => Ok(Self::Space {
                session: number(session)?,
                space: number(space)?,
            }),
            [session, "pid", process] => Ok(Self::Process {
                session: number(session)?,
                number: number(process)?,
            }),
            _ => Err(OtherName),
        }
    }
}

/// What was passed, and what has become ours of it.
#[derive(Debug, Default)]
pub struct Passed {
    /// Sockets of socket units.
    pub sockets: Vec<OwnedFd>,
    /// What an earlier run of this service has stored. Several may have one name.
    pub stored: Vec<(StoredName, OwnedFd)>,
}

/// Numbers of descriptors that were passed to this process, by what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Whatever has no name of ours: a socket, by whatever name its unit gives it.
    pub sockets: Vec<RawFd>,
    /// What an earlier run has stored.
    pub stored: Vec<(StoredName, RawFd)>,
}

impl Numbers {
    /// What the environment says of this process. `None` if it says nothing of it.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let value = |name: &str| std::env::var(name).ok();
        let pid = value("LISTEN_PID")?.parse::<u32>().ok()?;
        if pid != std::process::id() {
            return None;
        }
        let count = value("LISTEN_FDS").and_then(|count| count.parse().ok());
        let names = value("LISTEN_FDNAMES").unwrap_or_default();
        Some(Self::of(count.unwrap_or(0), &names))
    }

    fn of(count: u16, names: &str) -> Self {
        let mut numbers = Self::default();
        let mut names = names.split(':');
        for number in (FIRST..).take(usize::from(count)) {
            match names.next().unwrap_or_default().parse() {
                Ok(name) => numbers.stored.push((name, number)),
                Err(OtherName) => numbers.sockets.push(number),
            }
        }
        numbers
    }

    /// Takes them all over.
    ///
    /// # Errors
    /// The first error of `own`, which makes a descriptor of a number.
    pub fn take<E>(&self, mut own: impl FnMut(RawFd) -> Result<OwnedFd, E>) -> Result<Passed, E> {
        let mut passed = Passed::default();
        for (name, number) in &self.stored {
            passed.stored.push((*name, own(*number)?));
        }
        for number in &self.sockets {
            passed.sockets.push(own(*number)?);
        }
        Ok(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            StoredName::Journal { session: 0 },
            StoredName::Space {
                session: 12,
                space: u64::MAX,
            },
            StoredName::Process {
                session: 7,
                number: 1,
            },
        ] {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for other in [
            "",
            "listen",
            "journal",
            ".journal",
            "1.space",
            "1.space.",
            "1.space.2.3",
            "+1.journal",
            "01.journal",
            "1.pid.x",
            "-1.journal",
            "1.fd.2",
            "1.journal ",
        ] {
            assert_eq!(other.parse::<StoredName>(), Err(OtherName), "{other:?}");
        }
    }

    #[test]
    fn numbers_go_with_names() {
        let numbers = Numbers::of(4, "1.space.2:uffd.socket:1.journal");
        assert_eq!(numbers.sockets, [4, 6]);
        let (journal, space) = (
            StoredName::Journal { session: 1 },
            StoredName::Space {
                session: 1,
                space: 2,
            },
        );
        assert_eq!(numbers.stored, [(space, 3), (journal, 5)]);
        assert_eq!(Numbers::of(0, "1.journal"), Numbers::default());
        assert_eq!(Numbers::of(2, "").sockets, [3, 4]);
    }

    #[test]
    fn all_are_taken_over_or_the_first_error_is_told() {
        let numbers = Numbers::of(2, "x:1.pid.0");
        let null = || std::fs::File::open("/dev/null").expect("open");
        let passed = numbers.take(|_| Ok::<_, ()>(null().into()));
        let passed = passed.expect("taken");
        assert_eq!((passed.sockets.len(), passed.stored.len()), (1, 1));
        let refused = numbers.take(Err::<OwnedFd, _>);
        assert_eq!(refused.expect_err("refused"), 4);
    }
}
