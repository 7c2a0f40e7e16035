//! What is behind a mapping: memory, a file, or something that must not be touched.

use std::collections::BTreeSet;
use std::os::fd::AsFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{fstat, major, minor};
use nix::sys::statfs::{FsType, HUGETLBFS_MAGIC, TMPFS_MAGIC, statfs};

use super::maps::Device;
use super::smaps::Mapping;

/// What is behind a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Nothing: what the process does not write is zero.
    Anonymous,
    /// A file that exists in memory only: memfd, `MAP_SHARED|MAP_ANONYMOUS`, System V shared memory, tmpfs, hugetlbfs.
    Memory,
    /// A file on a disk or a network.
    File,
    /// The kernel's own pages (vdso, vvar, …), devices, and files that are not memory (perf, io_uring, AIO rings).
    Special,
}

/// Tells files that exist in memory only from others, by the device number of their file system.
///
/// By device, not by name: anybody may call a file on a disk `/memfd:ram`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryDevices {
    in_memory: BTreeSet<Device>,
}

/// ramfs, from `<linux/magic.h>`.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// File systems whose files are memory. Not devtmpfs: what is mapped from there is a device.
const MEMORY_FILE_SYSTEMS: [&str; 3] = ["tmpfs", "ramfs", "hugetlbfs"];

impl MemoryDevices {
    /// Learns the file systems that process `tid` sees, those that this process sees, and the kernel's internal tmpfs,
    /// which is mounted nowhere and holds every memfd.
    ///
    /// # Errors
    /// None of memfd_create(2) and fstat(2) is expected to fail.
    pub fn of(tid: i32) -> std::io::Result<Self> {
        let mut devices = Self::default();
        for process in ["self".to_owned(), tid.to_string()] {
            // The target's list may be out of reach; then what both see is all there is to know.
            // Names of mount points may be any bytes.
            if let Ok(bytes) = std::fs::read(format!("/proc/{process}/mountinfo")) {
                devices.learn(&String::from_utf8_lossy(&bytes));
            }
        }
        let memfd = memfd_create(c"which-device", MFdFlags::MFD_CLOEXEC)?;
        let device = fstat(memfd.as_fd())?.st_dev;
        devices.in_memory.insert(Device {
            major: major(device),
            minor: minor(device),
        });
        Ok(devices)
    }

    /// Asks the file behind a shared mapping itself when its device is in no list: a tmpfs that has been unmounted lazily,
    /// or is mounted only where nobody here can see it, is memory all the same.
    pub(super) fn ask(&mut self, tid: i32, mapping: &Mapping) {
        let line = &mapping.line;
        let known = line.inode == 0 || self.in_memory.contains(&line.device);
        if known || !line.shared || !line.protection.write || mapping.flags.device {
            return;
        }
        let file = format!("/proc/{tid}/map_files/{:x}-{:x}", line.start, line.end);
        // Without the right to follow the link, what the lists say must do.
        if let Ok(system) = statfs(file.as_str())
            && [TMPFS_MAGIC, HUGETLBFS_MAGIC, RAMFS_MAGIC].contains(&system.filesystem_type())
        {
            self.in_memory.insert(line.device);
        }
    }

    /// Parses mountinfo (proc_pid_mountinfo(5)): the device is field 3, the type the first one after ` - `.
    fn learn(&mut self, mountinfo: &str) {
        for line in mountinfo.lines() {
            let Some((mount, system)) = line.split_once(" - ") else {
                continue;
            };
            let device = mount
                .split(' ')
                .nth(2)
                .and_then(|device| device.split_once(':'));
            let Some((major, minor)) = device else {
                continue;
            };
            let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
                continue;
            };
            if system
                .split(' ')
                .next()
                .is_some_and(|system| MEMORY_FILE_SYSTEMS.contains(&system))
            {
                self.in_memory.insert(Device { major, minor });
            }
        }
    }

    /// What is behind `mapping`.
    #[must_use]
    pub fn backing(&self, mapping: &Mapping) -> Backing {
        let line = &mapping.line;
        if mapping.flags.device {
            Backing::Special
        } else if line.inode == 0 {
            nameless(&line.name)
        } else if is_anonymous_file(mapping) {
            Backing::Anonymous
        } else if line.name.starts_with("/secretmem") || line.name.starts_with("anon_inode:") {
            // memfd_secret(2) is hidden from everyone but its owner, on purpose.
            Backing::Special
        } else if mapping.flags.hugetlb || self.in_memory.contains(&line.device) {
            Backing::Memory
        } else if line.name.starts_with("/dev/") || line.name.starts_with("/[aio]") {
            Backing::Special
        } else if line.name.starts_with('/') {
            Backing::File
        } else {
            Backing::Special
        }
    }
}

/// A mapping without a file: anonymous memory has no name, or one of these; all else in brackets is the kernel's.
fn nameless(name: &str) -> Backing {
    let anonymous = name.is_empty()
        || name == "[heap]"
        || name.starts_with("[stack")
        || name.starts_with("[anon:");
    if anonymous {
        Backing::Anonymous
    } else {
        Backing::Special
    }
}

/// Mappings with a file in name only. A private mapping of /dev/zero has always been the old way to get anonymous memory;
/// the file behind `MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB` exists but stays empty.
fn is_anonymous_file(mapping: &Mapping) -> bool {
    let line = &mapping.line;
    !line.shared
        && (line.name == "/dev/zero"
            || (mapping.flags.hugetlb && line.name.starts_with("/anon_hugepage")))
}

#[cfg(test)]
mod tests {
    use super::super::maps::MapsLine;
    use super::*;

    const MOUNTS: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw
26 23 0:25 / /dev/shm rw,nosuid,nodev - tmpfs tmpfs rw
30 23 0:31 / /dev/hugepages rw,relatime shared:9 - hugetlbfs hugetlbfs rw,pagesize=2M
";

    fn backing(line: &str, flags: &str) -> Backing {
        let mut devices = MemoryDevices::default();
        devices.learn(MOUNTS);
        let text = format!("{line}\nVmFlags: {flags}\n");
        devices.backing(&super::super::smaps::parse(text.as_bytes()).expect("test data is good")[0])
    }

    #[test]
    fn by_example() {
        use Backing::{Anonymous, File, Memory, Special};
        for (tail, flags, expected) in [
            ("rw-p 0 00:00 0", "rd wr", Anonymous),
            ("rw-p 0 00:00 0 [heap]", "rd wr", Anonymous),
            ("rw-p 0 00:00 0 [stack]", "rd wr gd", Anonymous),
            ("rw-p 0 00:00 0 [anon:glibc: malloc]", "rd wr", Anonymous),
            ("r-xp 0 00:00 0 [vdso]", "rd ex de", Special),
            ("r--p 0 00:00 0 [vvar]", "rd io de pf", Special),
            ("--xp 0 00:00 0 [vsyscall]", "ex", Special),
            ("--xp 0 00:00 0 [uprobes]", "ex", Special),
            ("rw-s 0 00:19 8 /dev/shm/ram", "rd wr sh", Memory),
            ("rw-p 0 00:19 8 /dev/shm/ram", "rd wr", Memory),
            ("rw-s 0 00:1f 8 /dev/hugepages/ram", "rd wr sh ht", Memory),
            (
                "rw-s 0 00:77 8 /anon_hugepage (deleted)",
                "rd wr sh ht",
                Memory,
            ),
            (
                "rw-p 0 00:77 8 /anon_hugepage (deleted)",
                "rd wr ht",
                Anonymous,
            ),
            ("rw-p 0 00:05 8 /dev/zero", "rd wr", Anonymous),
            ("rw-s 0 00:05 8 /dev/kvm", "rd wr sh", Special),
            ("rw-s 0 00:05 8 /dev/mem", "rd wr sh pf io", Special),
            (
                "rw-s 0 00:0e 8 anon_inode:[perf_event]",
                "rd wr sh",
                Special,
            ),
            ("rw-s 0 00:13 8 /[aio] (deleted)", "rd wr sh", Special),
            ("rw-s 0 00:44 8 /secretmem (deleted)", "rd wr sh", Special),
            ("rw-p 0 fe:01 8 /usr/bin/true", "rd wr", File),
            ("rw-s 0 fe:01 8 /memfd:ram (deleted)", "rd wr sh", File),
        ] {
            assert_eq!(
                backing(&format!("1000-2000 {tail}"), flags),
                expected,
                "{tail}"
            );
        }
    }

    #[test]
    fn the_kernels_internal_tmpfs_is_known() {
        let devices = MemoryDevices::of(1).expect("test data is good");
        let memfd = memfd_create(c"x", MFdFlags::MFD_CLOEXEC).expect("test data is good");
        let device = fstat(&memfd).expect("test data is good").st_dev;
        let line = MapsLine {
            inode: 5,
            name: "/memfd:x (deleted)".to_owned(),
            device: Device {
                major: major(device),
                minor: minor(device),
            },
            ..MapsLine::default()
        };
        assert_eq!(
            devices.backing(&Mapping {
                line,
                ..Mapping::default()
            }),
            Backing::Memory
        );
    }
}
