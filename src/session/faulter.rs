//! Whether one thread faults alone, or several do.

use super::SpaceId;

/// Who faulted last, and how often in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faulter {
    /// Its address space and thread, as numbered in its own pid namespace. `None` when the kernel does not say.
    pub thread: Option<(SpaceId, u32)>,
    /// Faults since another one faulted.
    pub run: u64,
}

impl Faulter {
    /// A fault was read.
    pub(super) fn note(&mut self, space: SpaceId, thread: u32) {
        let thread = (thread > 0).then_some((space, thread));
        if self.thread != thread {
            *self = Self { thread, run: 0 };
        }
        self.run += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_with_another_thread() {
        let mut faulter = Faulter::default();
        let (here, there) = (SpaceId(1), SpaceId(2));
        let mut note = |space, thread| {
            faulter.note(space, thread);
            faulter.run
        };
        assert_eq!([note(here, 7), note(here, 7), note(here, 7)], [1, 2, 3]);
        assert_eq!(note(here, 8), 1);
        assert_eq!(note(there, 8), 1, "the same number in another process");
        assert_eq!(note(there, 0), 1, "nobody knows who");
        assert_eq!(faulter.thread, None);
    }
}
