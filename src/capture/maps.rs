//! Parsing of `/proc/PID/maps` lines: pure.

use std::fmt;

use snapshot_format::Protection;

/// A device number as maps prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Device {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
}

/// A line of `/proc/PID/maps` (proc_pid_maps(5)).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MapsLine {
    /// First address, page-aligned.
    pub start: u64,
    /// One past the last address, page-aligned.
    pub end: u64,
    /// Access rights.
    pub protection: Protection,
    /// `MAP_SHARED`.
    pub shared: bool,
    /// Offset in the file, in bytes. For anonymous memory it is a number without meaning.
    pub offset: u64,
    /// The file system of the file.
    pub device: Device,
    /// The file's inode number, 0 without a file.
    pub inode: u64,
    /// The path, a name in brackets, or empty. Line feeds are line feeds again; bytes that are not UTF-8 are U+FFFD.
    pub name: String,
}

impl MapsLine {
    /// Parses one line, without its line feed. None if it is not a line of maps.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut rest = line;
        let (start, end) = take_field(&mut rest)?.split_once('-')?;
        let mode = take_field(&mut rest)?.as_bytes();
        let offset = take_field(&mut rest)?;
        let (major, minor) = take_field(&mut rest)?.split_once(':')?;
        let inode = take_field(&mut rest)?;
        let &[read, write, exec, sharing] = mode else {
            return None;
        };
        let parsed = Self {
            start: hex(start)?,
            end: hex(end)?,
            protection: Protection {
                read: read == b'r',
                write: write == b'w',
                exec: exec == b'x',
            },
            shared: sharing == b's',
            offset: hex(offset)?,
            device: Device {
                major: hex(major)?,
                minor: hex(minor)?,
            },
            inode: inode.parse().ok()?,
            name: unescape(rest.trim_ascii_start()),
        };
        (parsed.start < parsed.end).then_some(parsed)
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Never true: the kernel has no empty mappings, and [`Self::parse`] makes none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// For people: `"[heap]" (0x55…-0x55…)`.
impl fmt::Display for MapsLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() {
            "anonymous memory"
        } else {
            &self.name
        };
        write!(
            f,
            "\"{}\" ({:#x}-{:#x})",
            name.escape_debug(),
            self.start,
            self.end
        )
    }
}

/// Takes the field before the next space, and that one space.
fn take_field<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let end = rest
        .iter()
        .position(|&byte| byte == b' ')
        .unwrap_or(rest.len());
    let (field, tail) = rest.split_at(end);
    *rest = tail.get(1..).unwrap_or_default();
    std::str::from_utf8(field)
        .ok()
        .filter(|field| !field.is_empty())
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// The kernel writes a line feed in a name as `\012`, and nothing else (so a name that contains these four characters
/// cannot be told apart; show_map_vma in fs/proc/task_mmu.c).
fn unescape(name: &[u8]) -> String {
    String::from_utf8_lossy(name).replace("\\012", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> MapsLine {
        MapsLine::parse(line.as_bytes()).expect("test data is good")
    }

    #[test]
    fn a_file_mapping() {
        let line = parse(
            "7f0c6fa00000-7f0c6fa28000 r--p 00001000 fe:01 1835                      /usr/lib/x86_64-linux-gnu/libc.so.6",
        );
        assert_eq!(
            (line.start, line.end, line.len()),
            (0x7f0c_6fa0_0000, 0x7f0c_6fa2_8000, 0x28000)
        );
        assert_eq!(
            line.protection,
            Protection {
                read: true,
                write: false,
                exec: false
            }
        );
        assert!(!line.shared);
        assert_eq!((line.offset, line.inode), (0x1000, 1835));
        assert_eq!(
            line.device,
            Device {
                major: 0xfe,
                minor: 1
            }
        );
        assert_eq!(line.name, "/usr/lib/x86_64-linux-gnu/libc.so.6");
    }

    #[test]
    fn unnamed_anonymous_memory_ends_with_a_space_or_not() {
        for line in [
            "1000-3000 rw-p 00000000 00:00 0 ",
            "1000-3000 rw-p 00000000 00:00 0",
        ] {
            let line = parse(line);
            assert_eq!(
                (line.name.as_str(), line.inode, line.len()),
                ("", 0, 0x2000)
            );
            assert!(line.protection.write && !line.protection.exec);
        }
    }

    #[test]
    fn names_with_spaces_line_feeds_and_other_bytes() {
        let of = |name: &[u8]| {
            let line = [b"1000-2000 rwxs 00000000 00:01 17    ", name].concat();
            MapsLine::parse(&line).expect("test data is good")
        };
        let line = of(b"/memfd:my ram (deleted)");
        assert!(line.shared && line.protection.exec);
        assert_eq!(line.name, "/memfd:my ram (deleted)");
        assert_eq!(of(b"/tmp/a\\012b").name, "/tmp/a\nb");
        assert_eq!(of(b"/tmp/\xff").name, "/tmp/\u{fffd}");
        assert_eq!(of(b"[anon:a b]").name, "[anon:a b]");
    }

    #[test]
    fn addresses_of_the_vsyscall_page_fit() {
        let line = parse(
            "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
        );
        assert_eq!(line.len(), 0x1000);
    }

    #[test]
    fn what_is_not_a_line_of_maps() {
        for line in [
            "",
            "Rss:                   4 kB",
            "1000-2000",
            "1000-2000 rw-p",
            "1000-2000 rw- 00000000 00:00 0",
            "2000-1000 rw-p 00000000 00:00 0",
            "1000-1000 rw-p 00000000 00:00 0",
            "1000-2000 rw-p 00000000 0000 0",
            "xyz-2000 rw-p 00000000 00:00 0",
        ] {
            assert_eq!(MapsLine::parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn the_text_for_people_names_the_unnamed() {
        assert_eq!(
            parse("1000-3000 rw-p 0 00:00 0").to_string(),
            "\"anonymous memory\" (0x1000-0x3000)"
        );
        assert_eq!(
            parse("1000-3000 rw-p 0 00:00 0 [heap]").to_string(),
            "\"[heap]\" (0x1000-0x3000)"
        );
    }
}
