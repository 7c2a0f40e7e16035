//! Which process is the one that has this number in the images.
//!
//! The number is that in the process's own pid namespace, and other processes may have the same in theirs. But this one has memory that a
//! userfaultfd is to fill, at an address that the images say.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use crate::addr::Addr;
use crate::processes::{Parents, innermost_number, pids};
use crate::serve::Target;

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
    let numbers = by_number();
    // Only where several have the same number.
    let parents = LazyCell::new(Parents::now);
    let candidates = |sought: &Sought| -> Vec<Target> {
        let found = numbers.get(&sought.pid).into_iter().flatten();
        found
            .filter_map(|&pid| Target::named(pid).ok())
            .filter(|target| target.misses_pages_at(sought.misses) == Some(true))
            .collect()
    };
    sought
        .iter()
        .map(|sought| {
            let mut found = candidates(sought);
            if found.len() > 1 {
                found.retain(|target| parents.descends(target.pid, host));
            }
            let one = found.pop().filter(|_| found.is_empty());
            one.map(Arc::new)
        })
        .collect()
}

/// All processes, by their innermost numbers.
fn by_number() -> BTreeMap<i32, Vec<i32>> {
    let mut numbers = BTreeMap::new();
    for pid in pids() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if let Some(number) = innermost_number(&status) {
            numbers.entry(number).or_insert_with(Vec::new).push(pid);
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_misses_nothing_is_not_found() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let misses = Addr(std::ptr::from_ref(&pid).addr() as u64).page(4096);
        assert!(find(&[Sought { pid, misses }], 1)[0].is_none());
    }
}
