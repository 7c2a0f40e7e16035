//! What a user may write to say which memory is meant.

use std::fmt;
use std::str::FromStr;

/// Says which mappings of a target to capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegionSelector {
    /// Every mapping of this name: as in `/proc/PID/maps`, with or without ` (deleted)`, or only its last path component
    /// (`memfd:ram` for `/memfd:ram (deleted)`).
    Name(String),
    /// The memory between two addresses. Page-aligned, inside mappings that follow each other without a gap; it cuts
    /// those that it covers only partly.
    Range {
        /// First address.
        start: u64,
        /// One past the last address.
        end: u64,
    },
    /// The biggest writable mapping, anonymous, shared or of a file: of a VMM, almost always the guest's RAM.
    Largest,
}

/// Why a selector was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseSelectorError {
    /// An empty text.
    #[error("a region is a name, START-END in hexadecimal, or \"largest\"; it cannot be empty")]
    Empty,
    /// A range that ends before it starts, or is empty.
    #[error("the range {0} is empty: it must be START-END with START below END, in hexadecimal")]
    EmptyRange(String),
}

impl FromStr for RegionSelector {
    type Err = ParseSelectorError;

    /// `largest`, `START-END` in hexadecimal with or without 0x, or a name. A name that looks like a range or like
    /// `largest` cannot be written; nothing prevents selecting such a mapping by its range.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(ParseSelectorError::Empty);
        }
        if text == "largest" {
            return Ok(Self::Largest);
        }
        match text
            .split_once('-')
            .and_then(|(start, end)| Some((address(start)?, address(end)?)))
        {
            Some((start, end)) if start < end => Ok(Self::Range { start, end }),
            Some(_) => Err(ParseSelectorError::EmptyRange(text.to_owned())),
            None => Ok(Self::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for RegionSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Range { start, end } => write!(f, "{start:#x}-{end:#x}"),
            Self::Largest => f.write_str("largest"),
        }
    }
}

impl RegionSelector {
    /// True when `wanted` names a mapping that maps calls `name`.
    pub(crate) fn names(wanted: &str, name: &str) -> bool {
        let without_suffix = name.strip_suffix(" (deleted)").unwrap_or(name);
        let last = |path: &str| {
            path.starts_with('/')
                .then(|| path.rsplit('/').next() == Some(wanted))
                == Some(true)
        };
        !name.is_empty()
            && (wanted == name || wanted == without_suffix || last(name) || last(without_suffix))
    }
}

/// A sign before the digits, which `from_str_radix` would take, is no address.
pub(crate) fn address(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    digits
        .starts_with(|c: char| c.is_ascii_hexdigit())
        .then(|| u64::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_may_write() {
        let name = |text: &str| RegionSelector::Name(text.to_owned());
        for (text, expected) in [
            ("largest", RegionSelector::Largest),
            (
                "1000-3000",
                RegionSelector::Range {
                    start: 0x1000,
                    end: 0x3000,
                },
            ),
            (
                "0x7f00-0x7fFF",
                RegionSelector::Range {
                    start: 0x7f00,
                    end: 0x7fff,
                },
            ),
            ("pc-ram", name("pc-ram")),
            ("a-+1", name("a-+1")),
            ("[heap]", name("[heap]")),
            ("0x-10", name("0x-10")),
            ("-", name("-")),
            ("1-2-3", name("1-2-3")),
            ("fffffffffffffffff-1", name("fffffffffffffffff-1")),
        ] {
            assert_eq!(
                text.parse::<RegionSelector>().expect("test data is good"),
                expected,
                "{text}"
            );
        }
        assert_eq!("".parse::<RegionSelector>(), Err(ParseSelectorError::Empty));
        for empty in ["3000-1000", "a-a"] {
            assert_eq!(
                empty.parse::<RegionSelector>(),
                Err(ParseSelectorError::EmptyRange(empty.to_owned()))
            );
        }
    }

    #[test]
    fn written_and_read_again() {
        for text in ["largest", "0x1000-0x3000", "memfd:ram"] {
            assert_eq!(
                text.parse::<RegionSelector>()
                    .expect("test data is good")
                    .to_string(),
                text
            );
        }
    }

    #[test]
    fn names_match_whole_or_by_last_component() {
        let ram = "/memfd:ram (deleted)";
        for wanted in [
            "/memfd:ram (deleted)",
            "/memfd:ram",
            "memfd:ram",
            "memfd:ram (deleted)",
        ] {
            assert!(RegionSelector::names(wanted, ram), "{wanted}");
        }
        for wanted in ["ram", "memfd", "/memfd:ra", ""] {
            assert!(!RegionSelector::names(wanted, ram), "{wanted}");
        }
        assert!(RegionSelector::names("libc.so.6", "/usr/lib/libc.so.6"));
        assert!(RegionSelector::names("[heap]", "[heap]"));
        assert!(!RegionSelector::names("", ""), "unnamed memory has no name");
        assert!(!RegionSelector::names("b]", "[anon:a/b]"), "not a path");
    }
}
