//! Huge pages for tests.

use std::fs::File;

use nix::fcntl::{Flock, FlockArg};

/// Huge pages in use by anybody, whether or not they are mapped.
pub fn huge_pages_in_use() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let field = |name: &str| -> u64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .expect("huge pages");
        line.split_whitespace()
            .nth(1)
            .expect("a number")
            .parse()
            .expect("a number")
    };
    field("HugePages_Total:") - field("HugePages_Free:")
}

/// Reserves huge pages, and gives them back. One test at a time has some, whichever program it is of.
#[derive(Debug)]
pub struct HugePages {
    before: String,
    _turn: Flock<File>,
}

impl HugePages {
    const FILE: &str = "/proc/sys/vm/nr_hugepages";

    pub fn reserve(pages: u32) -> Self {
        let file = File::open(Self::FILE).expect("nr_hugepages");
        let turn = Flock::lock(file, FlockArg::LockExclusive).expect("a turn");
        let before = std::fs::read_to_string(Self::FILE).expect("nr_hugepages");
        std::fs::write(Self::FILE, pages.to_string()).expect("root may reserve huge pages");
        Self {
            before,
            _turn: turn,
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        std::fs::write(Self::FILE, &self.before).expect("give the huge pages back");
    }
}
