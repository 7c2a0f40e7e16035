//! What a user may write to say which region goes where.

use std::fmt;
use std::str::FromStr;

use snapshot_format::PlacedRegion;

use crate::capture::RegionSelector;
use crate::capture::selector;

/// A region of the snapshot, as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegionName {
    /// By name: as `inspect` shows it, with or without ` (deleted)`, or its last path component.
    Name(String),
    /// By the address that it had.
    Start(u64),
    /// The largest one.
    Largest,
}

/// A region to restore, and perhaps where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub region: RegionName,
    /// Where; `None`: where it belongs.
    pub address: Option<u64>,
}

/// Why a choice was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseChoiceError {
    /// No name.
    #[error("a region is a name, an address in hexadecimal, or \"largest\"; it cannot be empty")]
    Empty,
    /// Something else than an address behind the equals sign.
    #[error("{0:?} is not a page-aligned address in hexadecimal, such as 0x7f0000000000")]
    Address(String),
}

impl FromStr for Choice {
    type Err = ParseChoiceError;

    /// `NAME` or `NAME=ADDRESS`. The last equals sign counts, and only if an address follows it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, address) = match text.rsplit_once('=') {
            Some((name, address)) => {
                let wrong = || ParseChoiceError::Address(address.to_owned());
                let number = selector::address(address)
                    .filter(|number| number % 4096 == 0)
                    .ok_or_else(wrong)?;
                (name, Some(number))
            }
            None => (text, None),
        };
        let region = match name {
            "" => return Err(ParseChoiceError::Empty),
            "largest" => RegionName::Largest,
            name => match name.strip_prefix("0x").and_then(selector::address) {
                Some(start) => RegionName::Start(start),
                None => RegionName::Name(name.to_owned()),
            },
        };
        Ok(Self { region, address })
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Start(start) => write!(f, "{start:#x}"),
            Self::Largest => f.write_str("largest"),
        }
    }
}

impl RegionName {
    /// The regions that are meant.
    pub(super) fn find<'a>(&self, regions: &'a [PlacedRegion]) -> Vec<&'a PlacedRegion> {
        match self {
            Self::Name(name) => regions
                .iter()
                .filter(|region| RegionSelector::names(name, &region.region.name))
                .collect(),
            Self::Start(start) => regions
                .iter()
                .filter(|region| region.region.start == *start)
                .collect(),
            Self::Largest => {
                // Of equals the first one.
                let largest = regions.iter().rev().max_by_key(|region| region.region.len);
                largest.into_iter().collect()
            }
        }
    }
}

/// A name without what the kernel adds when the file has no directory entry any more.
pub(super) fn without_suffix(name: &str) -> &str {
    name.strip_suffix(" (deleted)").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_may_write() {
        let name = |name: &str| RegionName::Name(name.to_owned());
        for (text, region, address) in [
            ("[heap]", name("[heap]"), None),
            (
                "memfd:ram=0x7f0000000000",
                name("memfd:ram"),
                Some(0x7f00_0000_0000),
            ),
            (
                "memfd:ram=7f0000000000",
                name("memfd:ram"),
                Some(0x7f00_0000_0000),
            ),
            ("0x7000=8000", RegionName::Start(0x7000), Some(0x8000)),
            ("largest=0x1000", RegionName::Largest, Some(0x1000)),
            ("cafe", name("cafe"), None),
            ("a=b=1000", name("a=b"), Some(0x1000)),
        ] {
            assert_eq!(
                text.parse::<Choice>(),
                Ok(Choice { region, address }),
                "{text}"
            );
        }
        for bad in ["", "=1000", "ram=", "ram=here", "ram=0x1001", "ram=-1000"] {
            assert!(bad.parse::<Choice>().is_err(), "{bad}");
        }
    }
}
