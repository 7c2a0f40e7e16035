//! A target, seen from the test.

use super::support::{Target, state};

/// What a target found in its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Survey {
    /// As in the snapshot.
    pub(crate) new: u64,
    /// As it was before.
    pub(crate) old: u64,
    pub(crate) poisoned: u64,
    /// Must never be.
    pub(crate) zero: u64,
    /// Neither.
    pub(crate) other: u64,
}

impl Survey {
    pub(crate) fn new(pages: u64) -> Self {
        Self {
            new: pages,
            ..Self::default()
        }
    }

    pub(crate) fn old(pages: u64) -> Self {
        Self {
            old: pages,
            ..Self::default()
        }
    }

    pub(crate) fn parse(line: &str) -> Self {
        let numbers: Vec<u64> = line
            .split_whitespace()
            .map(|word| word.parse().expect("a number"))
            .collect();
        let [new, old, poisoned, zero, other] = numbers[..] else {
            panic!("not a survey: {line}")
        };
        Self {
            new,
            old,
            poisoned,
            zero,
            other,
        }
    }
}

/// A process with some memory.
pub(crate) struct Actor {
    pub(crate) target: Target,
    pub(crate) address: u64,
    pub(crate) pages: u64,
}

impl Actor {
    pub(crate) fn start(pages: u64) -> Self {
        Self::with(pages, "")
    }

    /// `words` are for the role.
    pub(crate) fn with(pages: u64, words: &str) -> Self {
        let mut target = Target::start("memory", &format!("{pages} {words}"));
        let address = target.hear_numbers()[0];
        Self {
            target,
            address,
            pages,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.target.pid()
    }

    /// Tells it something and waits for its answer.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.target.tell(command);
        self.target.hear()
    }

    pub(crate) fn survey(&mut self) -> Survey {
        Survey::parse(&self.ask("survey"))
    }

    /// Nothing has happened to it.
    pub(crate) fn assert_untouched(&mut self) {
        super::support::assert_left_alone(self.pid());
        assert_eq!(self.survey(), Survey::old(self.pages));
    }

    /// All of its memory is that of the snapshot.
    pub(crate) fn assert_restored(&mut self) {
        assert_eq!(self.survey(), Survey::new(self.pages));
    }

    /// The option that restores a snapshot's only region into it.
    pub(crate) fn region(&self) -> String {
        format!("--region=largest={:#x}", self.address)
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(state(self.pid()), 'Z' | 'X' | '?')
    }
}
