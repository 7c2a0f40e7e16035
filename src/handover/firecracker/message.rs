//! What Firecracker says of a VM's memory, in every version since 1.1: pure.
//!
//! A JSON array with an object per region. Fields (src/vmm/src/persist.rs, `GuestRegionUffdMapping`): `base_host_virt_addr`,
//! `size` and `offset` since 1.1; `page_size_kib` since 1.7, which is in *bytes*; `page_size` since 1.12, in bytes too. Version 2
//! is to drop `page_size_kib`, and branches add fields of their own.

use serde_json::{Deserializer, Map, Value};
use snapshot_format::PAGE_BYTES;

use super::region::{self, Region, RegionError};
use crate::addr::Addr;

/// Most regions that a VM may have. Firecracker has four at most.
pub const MAX_REGIONS: usize = 256;

/// Most letters of the peer's that an error shows.
const SHOWN: usize = 40;

/// Why the message cannot be understood. Regions are numbered from 1.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not a JSON array of objects.
    #[error(
        "the peer's message is not Firecracker's: {0}: is the peer a Firecracker of version 1.1 or newer?"
    )]
    NotRegions(serde_json::Error),
    /// Something stands behind the array.
    #[error(
        "the peer's message goes on behind the regions: {bytes} bytes more, \"{text}\": only Firecracker's own releases are supported"
    )]
    Trailing {
        /// How much.
        bytes: usize,
        /// How it begins.
        text: String,
    },
    /// An empty array.
    #[error("the peer's message has no regions: a VM has memory")]
    NoRegions,
    /// Too many.
    #[error("the peer's message has {0} regions: {MAX_REGIONS} are supported")]
    TooManyRegions(usize),
    /// A field that every version has is not there.
    #[error("the peer's message: region {region}: {field} is missing")]
    Missing {
        /// The region.
        region: usize,
        /// The field.
        field: &'static str,
    },
    /// A field that is not a whole number, or too large.
    #[error(
        "the peer's message: region {region}: {field} is {value}, which is not a number from 0 to {}",
        u64::MAX
    )]
    NotANumber {
        /// The region.
        region: usize,
        /// The field.
        field: &'static str,
        /// What it is.
        value: String,
    },
    /// A value that cannot be.
    #[error("the peer's message: {0}")]
    Region(#[from] RegionError),
}

/// The regions, all of which have been checked; `None` when the message is incomplete so far.
///
/// # Errors
/// [`MessageError`]: whatever follows, this will not be a message.
pub fn parse(bytes: &[u8]) -> Result<Option<Vec<Region>>, MessageError> {
    let mut stream = Deserializer::from_slice(bytes).into_iter::<Vec<Map<String, Value>>>();
    let objects = match stream.next() {
        None => return Ok(None),
        Some(Err(error)) if error.is_eof() => return Ok(None),
        Some(Err(error)) => return Err(MessageError::NotRegions(error)),
        Some(Ok(objects)) => objects,
    };
    let rest = bytes.get(stream.byte_offset()..).unwrap_or_default();
    if rest
        .iter()
        .any(|byte| !matches!(byte, 0 | b' ' | b'\t' | b'\r' | b'\n'))
    {
        return Err(MessageError::Trailing {
            bytes: rest.len(),
            text: shortened(&String::from_utf8_lossy(rest)),
        });
    }
    match objects.len() {
        0 => return Err(MessageError::NoRegions),
        1..=MAX_REGIONS => {}
        many => return Err(MessageError::TooManyRegions(many)),
    }
    let regions = (1..)
        .zip(&objects)
        .map(|(number, object)| one(number, object));
    let regions = regions.collect::<Result<Vec<_>, _>>()?;
    region::check(&regions)?;
    Ok(Some(regions))
}

fn one(region: usize, object: &Map<String, Value>) -> Result<Region, MessageError> {
    let field = |name| needed(region, object, name);
    let page_size = match number(region, object, "page_size")? {
        Some(value) => Some(("page_size", value)),
        None => number(region, object, "page_size_kib")?.map(|value| ("page_size_kib", value)),
    };
    let (name, value) = page_size.unwrap_or(("page_size", PAGE_BYTES));
    Ok(Region {
        base: Addr(field("base_host_virt_addr")?),
        size: field("size")?,
        offset: field("offset")?,
        page_bytes: region::page_size(region, name, value)?,
    })
}

fn needed(
    region: usize,
    object: &Map<String, Value>,
    field: &'static str,
) -> Result<u64, MessageError> {
    number(region, object, field)?.ok_or(MessageError::Missing { region, field })
}

fn number(
    region: usize,
    object: &Map<String, Value>,
    field: &'static str,
) -> Result<Option<u64>, MessageError> {
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(MessageError::NotANumber {
                region,
                field,
                value: shortened(&value.to_string()),
            }),
        },
    }
}

/// The beginning of what a peer said, printable.
fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    crate::terminal::printable(&shown)
}
