//! Which process is the one that has this number in the images.
//!
//! The number is that in the process's own pid namespace, and other processes may have the same in theirs. But this one has memory that a
//! userfaultfd is to fill, at an address that the images say.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use crate::addr::Addr;
use crate::serve::Target;
use crate::tracee::ThreadStat;

/// A process that has handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sought {
    /// Its number in the images.
    pub pid: i32,
    /// A page that it misses.
    pub misses: Addr,
}

/// The processes that are sought, where they can be told from all others; `None` for the rest. `host` is who restored them, whose descendants are
/// believed before others.
#[must_use]
pub fn find(sought: &[Sought], host: i32) -> Vec<Option<Arc<Target>>> {
    let (numbers, parents) = processes();
    let candidates = |sought: &Sought| -> Vec<Target> {
        let found = numbers.get(&sought.pid).into_iter().flatten();
        found
            .filter_map(|&pid| Target::open(pid, name_of(pid)).ok())
            .filter(|target| target.misses_pages_at(sought.misses) == Some(true))
            .collect()
    };
    sought
        .iter()
        .map(|sought| {
            let mut found = candidates(sought);
            if found.len() > 1 {
                found.retain(|target| descends(target.pid, host, &parents));
            }
            let one = found.pop().filter(|_| found.is_empty());
            one.map(Arc::new)
        })
        .collect()
}

fn name_of(pid: i32) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

/// All processes: by their innermost number, and each one's parent.
fn processes() -> (BTreeMap<i32, Vec<i32>>, BTreeMap<i32, i32>) {
    let (mut numbers, mut parents) = (BTreeMap::new(), BTreeMap::new());
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if let Some(number) = innermost(&status) {
            numbers.entry(number).or_insert_with(Vec::new).push(pid);
        }
        if let Ok(stat) = ThreadStat::read(pid) {
            parents.insert(pid, stat.parent);
        }
    }
    (numbers, parents)
}

/// The last number of the line `NSpid:`.
fn innermost(status: &str) -> Option<i32> {
    let numbers = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().next_back()?.parse().ok()
}

fn descends(pid: i32, host: i32, parents: &BTreeMap<i32, i32>) -> bool {
    let mut ancestor = pid;
    // No chain is longer than there are processes.
    for _ in 0..parents.len() {
        match parents.get(&ancestor) {
            Some(&parent) if parent == host => return true,
            Some(&parent) => ancestor = parent,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_number_counts() {
        let status = "Name:\tx\nNSpid:\t4242\t17\t5\nNSsid:\t1\n";
        assert_eq!(innermost(status), Some(5));
        assert_eq!(innermost("NSpid:\t12\n"), Some(12));
        assert_eq!(innermost("Pid:\t12\n"), None);
    }

    #[test]
    fn descent_ends() {
        let parents = BTreeMap::from([(5, 4), (4, 3), (3, 1), (8, 9), (9, 8)]);
        assert!(descends(5, 3, &parents) && descends(4, 3, &parents));
        assert!(!descends(3, 3, &parents) && !descends(8, 3, &parents));
    }

    #[test]
    fn who_misses_nothing_is_not_found() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let misses = Addr(std::ptr::from_ref(&pid).addr() as u64).page(4096);
        assert!(find(&[Sought { pid, misses }], 1)[0].is_none());
    }
}
