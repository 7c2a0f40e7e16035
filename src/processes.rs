//! The processes of this machine, as /proc has them.

use std::collections::BTreeMap;
use std::fs;

use crate::tracee::ThreadStat;

/// All processes that this program sees.
pub(crate) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The name of a process, empty when it is gone.
pub(crate) fn name_of(pid: i32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

/// What a process is called in its own pid namespace; `None` when it is gone.
pub(crate) fn number_of(pid: i32) -> Option<i32> {
    innermost_number(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// What a thread or a process is called in its own pid namespace: the last number of the line `NSpid:` of its `status`.
pub(crate) fn innermost_number(status: &str) -> Option<i32> {
    let numbers = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().next_back()?.parse().ok()
}

/// The parent of each process that is alive.
#[derive(Debug)]
pub(crate) struct Parents(BTreeMap<i32, i32>);

impl Parents {
    /// As they are now.
    pub(crate) fn now() -> Self {
        let parent = |pid| {
            let stat = ThreadStat::read(pid).ok()?;
            (!stat.has_ended()).then_some((pid, stat.parent))
        };
        Self(pids().filter_map(parent).collect())
    }

    /// The same without one of them: nobody descends by way of it.
    pub(crate) fn without(mut self, pid: i32) -> Self {
        self.0.remove(&pid);
        self
    }

    /// True when a process descends from another one.
    pub(crate) fn descends(&self, pid: i32, from: i32) -> bool {
        let mut ancestor = pid;
        // No chain is longer than there are processes.
        for _ in 0..self.0.len() {
            match self.0.get(&ancestor) {
                Some(&parent) if parent == from => return true,
                Some(&parent) => ancestor = parent,
                None => return false,
            }
        }
        false
    }

    /// All that descend from a process.
    pub(crate) fn descendants(&self, of: i32) -> Vec<i32> {
        let pids = self.0.keys().copied();
        pids.filter(|&pid| self.descends(pid, of)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_number_counts() {
        let status = "Name:\tx\nNSpid:\t4242\t17\t5\nNSsid:\t1\n";
        assert_eq!(innermost_number(status), Some(5));
        assert_eq!(innermost_number("NSpid:\t12\n"), Some(12));
        assert_eq!(innermost_number("Pid:\t12\n"), None);
    }

    #[test]
    fn descent_ends() {
        let parents = Parents(BTreeMap::from([(5, 4), (4, 3), (3, 1), (8, 9), (9, 8)]));
        assert!(parents.descends(5, 3) && parents.descends(4, 3));
        assert!(!parents.descends(3, 3) && !parents.descends(8, 3));
        assert_eq!(parents.descendants(1), [3, 4, 5]);
        assert_eq!(parents.without(4).descendants(1), [3]);
    }
}
