//! Parsing of `/proc/PID/smaps`: pure. It repeats the lines of maps, each followed by what the kernel knows about the
//! mapping, of which the flags and the page size matter here.
//!
//! There is no cheaper source for these: maps has no flags, and PROCMAP_QUERY (Linux 6.11) does not tell `um`. smaps walks
//! the page tables to count pages. Measured: 7 to 8 ms for each GiB of populated 4 KiB pages, almost nothing for what is not
//! populated.

use super::maps::MapsLine;

/// A mapping of the target, as smaps describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mapping {
    /// The line of maps.
    pub line: MapsLine,
    /// Page size in KiB, as the kernel faults it in: 4, or that of hugetlbfs.
    pub page_kib: u64,
    /// The flags that matter.
    pub flags: VmFlags,
}

/// The `VmFlags` of a mapping that matter for a capture (proc_pid_smaps(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmFlags {
    /// `um`: registered with a userfaultfd for missing pages. What is absent may be owed, not zero.
    pub userfault_missing: bool,
    /// `ht`: made of hugetlb pages.
    pub hugetlb: bool,
    /// `io`, `pf` or `mm`: memory of a device, or mixed with it. Reading it may do anything, or cannot be done.
    pub device: bool,
    /// `gd`: grows down.
    pub grows_down: bool,
    /// `wf`: a forked child finds zeros (MADV_WIPEONFORK).
    pub wiped_on_fork: bool,
    /// `lo`: locked into memory.
    pub locked: bool,
    /// `dp`: the kernel may drop the content at any time (the state of vDSO getrandom).
    pub droppable: bool,
}

impl VmFlags {
    fn parse(names: &str) -> Self {
        let mut flags = Self::default();
        for name in names.split_ascii_whitespace() {
            match name {
                "um" => flags.userfault_missing = true,
                "ht" => flags.hugetlb = true,
                "io" | "pf" | "mm" => flags.device = true,
                "gd" => flags.grows_down = true,
                "dp" => flags.droppable = true,
                "wf" => flags.wiped_on_fork = true,
                "lo" => flags.locked = true,
                _ => {}
            }
        }
        flags
    }
}

/// Parses a whole file.
///
/// # Errors
/// The first line that was not understood.
pub fn parse(text: &[u8]) -> Result<Vec<Mapping>, String> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let complain = || String::from_utf8_lossy(line).into_owned();
        // Addresses are in lower-case hexadecimal, the names of all other lines begin with a capital letter.
        if !line[0].is_ascii_uppercase() {
            let line = MapsLine::parse(line).ok_or_else(complain)?;
            mappings.push(Mapping {
                line,
                page_kib: 4,
                flags: VmFlags::default(),
            });
            continue;
        }
        let mapping = mappings.last_mut().ok_or_else(complain)?;
        let text = std::str::from_utf8(line).map_err(|_| complain())?;
        if let Some(size) = text.strip_prefix("KernelPageSize:") {
            mapping.page_kib = size
                .trim()
                .strip_suffix(" kB")
                .and_then(|size| size.trim().parse().ok())
                .ok_or_else(complain)?;
        } else if let Some(names) = text.strip_prefix("VmFlags:") {
            mapping.flags = VmFlags::parse(names);
        }
    }
    Ok(mappings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "\
55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   4 kB
THPeligible:           0
VmFlags: rd wr mr mw me ac um sd
7f0000000000-7f0000400000 rw-s 00000000 00:10 77                         /memfd:ram (deleted)
Size:               4096 kB
KernelPageSize:     2048 kB
ProtectionKey:         0
VmFlags: rd wr sh mr mw me ms de ht sd
";

    #[test]
    fn two_mappings() {
        let mappings = parse(TWO.as_bytes()).expect("test data is good");
        assert_eq!(mappings.len(), 2);
        assert_eq!(
            (mappings[0].line.name.as_str(), mappings[0].page_kib),
            ("[heap]", 4)
        );
        assert!(mappings[0].flags.userfault_missing && !mappings[0].flags.hugetlb);
        assert_eq!((mappings[1].line.inode, mappings[1].page_kib), (77, 2048));
        assert!(mappings[1].flags.hugetlb && !mappings[1].flags.device);
    }

    #[test]
    fn the_kernels_own_text_is_understood() {
        let text = std::fs::read("/proc/self/smaps").expect("test data is good");
        let mappings = parse(&text).expect("test data is good");
        assert!(
            mappings
                .iter()
                .any(|mapping| mapping.line.name == "[stack]" && mapping.flags.grows_down)
        );
        assert!(
            mappings
                .iter()
                .any(|mapping| mapping.line.name == "[vvar]" && mapping.flags.device)
        );
        assert!(mappings.iter().all(|mapping| mapping.page_kib == 4));
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(parse(b"").expect("test data is good"), []);
        assert_eq!(
            parse(b"Rss: 4 kB\n").expect_err("must be refused"),
            "Rss: 4 kB"
        );
        assert_eq!(parse(b"hello\n").expect_err("must be refused"), "hello");
        assert_eq!(
            parse(b"1000-2000 rw-p 0 00:00 0\nKernelPageSize: x\n").expect_err("must be refused"),
            "KernelPageSize: x"
        );
    }
}
