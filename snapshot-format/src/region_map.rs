//! The region map: fixed-width records, then the names.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::error::{Error, Place};
use crate::fields::Fields;
use crate::page::{PAGE_BYTES, PageNo, pages_for};
use crate::region::{PageSize, Protection, Region, RegionKind};

/// Bytes of a record.
const RECORD_LEN: usize = 64;

/// Most regions of a snapshot; Linux allows a process 65,530 mappings by default.
pub(crate) const MAX_REGIONS: usize = 1 << 20;

/// Longest name of a region, in bytes: a path and what the kernel writes around it.
pub const MAX_NAME: usize = 8192;

/// Longest region map that a reader accepts, in bytes.
pub(crate) const MAX_REGION_MAP: u64 = 1 << 28;

const KIND_PRIVATE: u8 = 1;
const KIND_SHARED: u8 = 2;
const KIND_HUGETLB: u8 = 3;
const KIND_STACK: u8 = 4;
const KIND_RAW: u8 = 5;

const FLAG_SHARED: u8 = 1;

/// A region and where its pages stand in the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedRegion {
    /// The region.
    pub region: Region,
    /// Number of its first page.
    pub first_page: PageNo,
}

impl PlacedRegion {
    /// Pages of the region.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.region.pages()
    }

    /// Page numbers of the region.
    #[must_use]
    pub fn page_range(&self) -> std::ops::Range<u64> {
        self.first_page.0..self.first_page.0.saturating_add(self.pages())
    }

    /// Address (for a raw region: offset in the raw file) of a page of the region.
    #[must_use]
    pub fn address_of(&self, page: PageNo) -> u64 {
        let pages = page.0.saturating_sub(self.first_page.0);
        self.region
            .start
            .saturating_add(pages.saturating_mul(PAGE_BYTES))
    }
}

/// All regions, by first page; their pages follow each other without gap from page 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionMap {
    regions: Vec<PlacedRegion>,
    /// Bytes of all names.
    names_len: u64,
}

impl RegionMap {
    /// The regions in page order.
    #[must_use]
    pub fn as_slice(&self) -> &[PlacedRegion] {
        &self.regions
    }

    /// Pages of all regions.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.regions
            .last()
            .map_or(0, |region| region.page_range().end)
    }

    /// The region that a page belongs to.
    #[must_use]
    pub fn region_of(&self, page: PageNo) -> Option<&PlacedRegion> {
        let after = self
            .regions
            .partition_point(|region| region.first_page <= page);
        self.regions
            .get(after.checked_sub(1)?)
            .filter(|region| page.0 < region.page_range().end)
    }

    /// Add a region behind the others.
    pub(crate) fn push(&mut self, region: Region) -> Result<(), &'static str> {
        check(&region)?;
        if self.regions.len() >= MAX_REGIONS {
            return Err("too many regions");
        }
        let names_len = self.names_len.saturating_add(region.name.len() as u64);
        let records_len = (self.regions.len() as u64)
            .saturating_add(1)
            .saturating_mul(RECORD_LEN as u64);
        if records_len.saturating_add(names_len) > MAX_REGION_MAP.saturating_sub(8) {
            return Err("the region map is longer than the format allows");
        }
        self.names_len = names_len;
        let first_page = PageNo(self.pages());
        self.regions.push(PlacedRegion { region, first_page });
        Ok(())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let mut names = Vec::new();
        for placed in &self.regions {
            let region = &placed.region;
            let start = records.len();
            for field in [
                region.start,
                region.len,
                placed.first_page.0,
                region.offset,
                names.len() as u64,
            ] {
                records.extend_from_slice(&field.to_le_bytes());
            }
            let name_len = u32::try_from(region.name.len()).unwrap_or(u32::MAX);
            records.extend_from_slice(&name_len.to_le_bytes());
            let page_shift = match region.page_size {
                PageSize::Small => 12,
                PageSize::Huge2M => 21,
            };
            let flags = if region.shared { FLAG_SHARED } else { 0 };
            records.extend_from_slice(&[
                kind_number(region.kind),
                protection_bits(region.protection),
                page_shift,
                flags,
            ]);
            records.resize(start.saturating_add(RECORD_LEN), 0);
            names.extend_from_slice(region.name.as_bytes());
        }
        let mut bytes = (self.regions.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&records);
        bytes.extend_from_slice(&names);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let corrupt = |what| Error::corrupt(Place::RegionMap, what);
        let short = || corrupt("cut short");
        let mut fields = Fields::new(bytes);
        let count = fields.u64().ok_or_else(short)?;
        let count = usize::try_from(count)
            .ok()
            .filter(|&count| count <= MAX_REGIONS)
            .ok_or_else(|| corrupt("more regions than the format allows"))?;
        let records = fields
            .take(count.saturating_mul(RECORD_LEN))
            .ok_or_else(short)?;
        let names = bytes
            .get(records.len().saturating_add(8)..)
            .unwrap_or_default();
        let mut map = Self {
            regions: Vec::with_capacity(count),
            names_len: 0,
        };
        for record in records.as_chunks::<RECORD_LEN>().0 {
            let (region, first_page) =
                decode_record(record, names, map.names_len).map_err(corrupt)?;
            if first_page != map.pages() {
                return Err(corrupt(
                    "the pages of a region do not follow the last one's",
                ));
            }
            map.push(region).map_err(corrupt)?;
        }
        Ok(map)
    }
}

/// Decode a record whose name begins `names_len` bytes into `names`, behind the one before: so that the names take no
/// more memory than they have bytes in the file.
fn decode_record(
    record: &[u8; RECORD_LEN],
    names: &[u8],
    names_len: u64,
) -> Result<(Region, u64), &'static str> {
    let mut fields = Fields::new(record);
    let mut next = || fields.u64().ok_or("cut short");
    let (start, len, first_page, offset, name_offset) =
        (next()?, next()?, next()?, next()?, next()?);
    let name_len = fields.u32().ok_or("cut short")?;
    let [kind, protection, page_shift, flags] = fields.array().ok_or("cut short")?;
    if !fields.zeros(16) {
        return Err("a reserved field is not zero");
    }
    if name_offset != names_len {
        return Err("a name does not follow the one before");
    }
    let name = usize::try_from(name_offset)
        .ok()
        .zip(usize::try_from(name_len).ok())
        .and_then(|(from, len)| names.get(from..)?.get(..len))
        .ok_or("a name reaches past the end")?;
    let region = Region {
        start,
        len,
        offset,
        protection: decode_protection(protection)?,
        kind: decode_kind(kind)?,
        shared: match flags {
            0 => false,
            FLAG_SHARED => true,
            _ => return Err("the flags of a region are not known"),
        },
        page_size: match page_shift {
            12 => PageSize::Small,
            21 => PageSize::Huge2M,
            _ => return Err("the page size of a region is neither 4 KiB nor 2 MiB"),
        },
        name: String::from_utf8(name.to_vec()).map_err(|_| "a name is not UTF-8")?,
    };
    Ok((region, first_page))
}

/// What must be true of every region, whoever made it.
fn check(region: &Region) -> Result<(), &'static str> {
    let page_size = region.page_size.bytes();
    let raw = region.kind == RegionKind::Raw;
    if region.len == 0 {
        return Err("a region is empty");
    }
    if !region.start.is_multiple_of(page_size) || (!raw && !region.len.is_multiple_of(page_size)) {
        return Err("a region is not aligned to its page size");
    }
    if region.name.len() > MAX_NAME {
        return Err("the name of a region is too long");
    }
    let padded = pages_for(region.len).checked_mul(PAGE_BYTES);
    match padded.and_then(|len| region.start.checked_add(len)) {
        Some(_) if pages_for(region.len) <= crate::header::MAX_PAGES => Ok(()),
        _ => Err("a region reaches past the end of the address space"),
    }
}

fn kind_number(kind: RegionKind) -> u8 {
    match kind {
        RegionKind::Private => KIND_PRIVATE,
        RegionKind::Shared => KIND_SHARED,
        RegionKind::Hugetlb => KIND_HUGETLB,
        RegionKind::Stack => KIND_STACK,
        RegionKind::Raw => KIND_RAW,
    }
}

fn decode_kind(number: u8) -> Result<RegionKind, &'static str> {
    match number {
        KIND_PRIVATE => Ok(RegionKind::Private),
        KIND_SHARED => Ok(RegionKind::Shared),
        KIND_HUGETLB => Ok(RegionKind::Hugetlb),
        KIND_STACK => Ok(RegionKind::Stack),
        KIND_RAW => Ok(RegionKind::Raw),
        _ => Err("the kind of a region is not known"),
    }
}

/// Bits 0 read, 1 write, 2 exec: the values of `PROT_*`.
fn protection_bits(protection: Protection) -> u8 {
    u8::from(protection.read) | u8::from(protection.write) << 1 | u8::from(protection.exec) << 2
}

fn decode_protection(bits: u8) -> Result<Protection, &'static str> {
    if bits > 7 {
        return Err("the protection of a region is not known");
    }
    Ok(Protection {
        read: bits & 1 != 0,
        write: bits & 2 != 0,
        exec: bits & 4 != 0,
    })
}
