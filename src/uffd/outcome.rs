//! What came of an install: values, not errors.

use nix::errno::Errno;

/// How far an install went, and what stopped it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes installed, from the start of the range.
    pub done: u64,
    /// Why not all of it; `None` when all of it was.
    pub stop: Option<Stop>,
}

/// Why an install stopped at the page that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The address space is changing: an event waits to be read, or a thread that was told has not yet gone on. Nothing may
    /// be installed on what was known before (EAGAIN).
    Changing,
    /// Some pages were installed, and the kernel does not say what is wrong with the next one: ask again for it alone.
    Partial,
    /// The page is there, or a marker stands in its place (EEXIST). Nobody was woken.
    Present,
    /// The range is not in one registered mapping (ENOENT).
    Unmapped,
    /// The address space has ceased to exist: exit or exec (ESRCH; ENOSPC until 4.12).
    Gone,
    /// Beyond the end of the file behind a shared mapping, or our own buffer is bad (EFAULT).
    Fault,
    /// No memory, or the target's memory cgroup is at its limit (ENOMEM).
    NoMemory,
    /// Any other error: ours.
    Other(Errno),
}

impl Outcome {
    /// Everything was installed.
    #[must_use]
    pub const fn complete(len: u64) -> Self {
        Self {
            done: len,
            stop: None,
        }
    }

    /// Nothing was.
    #[must_use]
    pub const fn stopped(stop: Stop) -> Self {
        Self {
            done: 0,
            stop: Some(stop),
        }
    }

    /// Makes sense of what the kernel left: the call's own result, and the field of the structure with bytes done or a
    /// negative error (`copy`, `zeropage`, …), which must have been 0 before.
    pub(super) fn of(result: Result<(), Errno>, len: u64, field: i64) -> Self {
        let done = u64::try_from(field).unwrap_or(0).min(len);
        let stop = match result {
            Ok(()) => return Self::complete(len),
            Err(Errno::EAGAIN) if done > 0 => Stop::Partial,
            Err(Errno::EAGAIN) => Stop::Changing,
            Err(Errno::EEXIST) => Stop::Present,
            Err(Errno::ENOENT) => Stop::Unmapped,
            Err(Errno::ESRCH | Errno::ENOSPC) => Stop::Gone,
            Err(Errno::EFAULT) => Stop::Fault,
            Err(Errno::ENOMEM) => Stop::NoMemory,
            Err(other) => Stop::Other(other),
        };
        Self {
            done,
            stop: Some(stop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_meanings_of_eagain() {
        let of = |field| Outcome::of(Err(Errno::EAGAIN), 0x4000, field);
        assert_eq!(
            of(0x2000),
            Outcome {
                done: 0x2000,
                stop: Some(Stop::Partial)
            }
        );
        assert_eq!(of(-11), Outcome::stopped(Stop::Changing));
        assert_eq!(of(0), Outcome::stopped(Stop::Changing));
    }

    #[test]
    fn a_negative_field_is_never_a_number_of_bytes() {
        assert_eq!(
            Outcome::of(Err(Errno::EEXIST), 0x1000, -17),
            Outcome::stopped(Stop::Present)
        );
        assert_eq!(
            Outcome::of(Err(Errno::ESRCH), 0x1000, 0),
            Outcome::stopped(Stop::Gone)
        );
        assert_eq!(
            Outcome::of(Err(Errno::ENOSPC), 0x1000, 0),
            Outcome::stopped(Stop::Gone)
        );
        assert_eq!(
            Outcome::of(Ok(()), 0x1000, 0x1000),
            Outcome::complete(0x1000)
        );
    }
}
