//! An open snapshot: header, region map, metadata, and the root of the page index. Nothing that grows with the memory.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::codec::checksum;
use crate::entry::Limits;
use crate::error::{Error, Place};
use crate::header::{HEADER_LEN, Header, MAGIC, SnapshotId, VERSION};
use crate::index::levels;
use crate::metadata::{MAX_METADATA, Metadata};
use crate::page::{PAGE_BYTES, PAGE_SIZE, Page};
use crate::processes::{MAX_PROCESSES_LEN, Processes};
use crate::region_map::{MAX_REGION_MAP, RegionMap};
use crate::section::{MAX_PARENT_PATH, ParentLayer, Section, SectionKind};
use crate::storage::ReadAt;
use std::fmt;

/// An open snapshot, shared by all threads. Content is read through a [`Cursor`](crate::Cursor) per thread.
pub struct Snapshot<S> {
    storage: S,
    header: Header,
    header_checksum: u64,
    regions: RegionMap,
    metadata: Metadata,
    parent: Option<ParentLayer>,
    processes: Option<Processes>,
    index: Section,
    frames: Section,
    root: Box<Page>,
}

impl<S: ReadAt> Snapshot<S> {
    /// Open a snapshot. Reads the header, the region map, the metadata and one node of the index, whatever the size of
    /// the memory.
    ///
    /// # Errors
    /// Every variant that says what is wrong with a file.
    pub fn open(storage: S) -> Result<Self, Error> {
        let at_header = |source| Error::read(Place::Header, source);
        let actual = storage.len().map_err(at_header)?;
        let mut bytes = [0; PAGE_SIZE];
        if actual < HEADER_LEN {
            return Err(too_short(&storage, actual));
        }
        storage.read_exact_at(&mut bytes, 0).map_err(at_header)?;
        let header = Header::decode(&bytes)?;
        let header_checksum = bytes.last_chunk().copied().map_or(0, u64::from_le_bytes);
        if actual < header.file_len {
            return Err(Error::Truncated {
                expected: header.file_len,
                actual,
            });
        }
        let need = |kind, what| {
            header
                .section(kind)
                .ok_or_else(|| Error::corrupt(Place::Header, what))
        };
        let regions = need(SectionKind::Regions, "there is no region map")?;
        let index = need(SectionKind::Index, "there is no page index")?;
        let frames = need(SectionKind::Frames, "there is no frames section")?;
        let metadata = need(SectionKind::Metadata, "there is no metadata section")?;

        let regions = load(&storage, regions, Place::RegionMap, MAX_REGION_MAP)?;
        let regions = RegionMap::decode(&regions)?;
        if regions.pages() != header.pages {
            return Err(Error::corrupt(
                Place::RegionMap,
                "the regions have not as many pages as the header says",
            ));
        }
        let metadata = load(&storage, metadata, Place::Metadata, MAX_METADATA)?;
        let metadata = Metadata::decode(&metadata)?;
        let parent = match header.section(SectionKind::Parent) {
            Some(section) => {
                let limit = (MAX_PARENT_PATH as u64).saturating_add(24);
                let bytes = load(&storage, section, Place::Parent, limit)?;
                Some(ParentLayer::decode(&bytes)?)
            }
            None => None,
        };
        let processes = match header.section(SectionKind::Processes) {
            Some(section) => {
                let bytes = load(&storage, section, Place::Processes, MAX_PROCESSES_LEN)?;
                let count = regions.as_slice().len() as u64;
                Some(Processes::decode(&bytes, count)?)
            }
            None => None,
        };
        let root = load_root(&storage, index)?;
        Ok(Self {
            storage,
            header,
            header_checksum,
            regions,
            metadata,
            parent,
            processes,
            index,
            frames,
            root,
        })
    }

    /// Bytes of the storage behind the snapshot.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// The snapshot's name.
    pub fn id(&self) -> SnapshotId {
        self.header.id
    }

    /// The checksum of the header, which has those of the region map, the metadata and the index in it: files with the same id that are not the
    /// same differ in it, but by chance.
    pub fn header_checksum(&self) -> u64 {
        self.header_checksum
    }

    /// Pages of all regions.
    pub fn pages(&self) -> u64 {
        self.header.pages
    }

    /// Bytes of the file, as its header says.
    pub fn file_len(&self) -> u64 {
        self.header.file_len
    }

    /// Most pages of a frame of this file.
    pub fn max_frame_pages(&self) -> u16 {
        self.header.max_frame_pages
    }

    /// The regions.
    pub fn regions(&self) -> &RegionMap {
        &self.regions
    }

    /// Where the memory comes from.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The snapshot that pages of class "parent" live in.
    pub fn parent(&self) -> Option<&ParentLayer> {
        self.parent.as_ref()
    }

    /// Which processes the regions belong to, if the file says so.
    pub fn processes(&self) -> Option<&Processes> {
        self.processes.as_ref()
    }

    /// Kind, offset and length in bytes of every section.
    pub fn sections(&self) -> impl Iterator<Item = (SectionKind, u64, u64)> + '_ {
        self.header
            .sections
            .iter()
            .map(|section| (section.kind, section.offset, section.len))
    }

    pub(crate) fn root(&self) -> &Page {
        &self.root
    }

    /// Levels of the page index.
    pub(crate) fn index_levels(&self) -> u32 {
        levels(self.header.pages)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            frames_len: self.frames.len,
            index_len: self.index.len,
            max_frame_pages: self.header.max_frame_pages,
            parent_pages: self.parent.as_ref().map_or(0, |parent| parent.pages),
        }
    }

    /// Offset in the file of an offset in the index section.
    pub(crate) fn index_at(&self, offset: u64) -> u64 {
        self.index.offset.saturating_add(offset)
    }

    /// Offset in the file of an offset in the frames section.
    #[must_use]
    pub fn frames_at(&self, offset: u64) -> u64 {
        self.frames.offset.saturating_add(offset)
    }
}

impl<S> fmt::Debug for Snapshot<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

/// Why a file shorter than a header is refused: one that begins like a snapshot is a truncated one, or one of another
/// version.
fn too_short<S: ReadAt>(storage: &S, actual: u64) -> Error {
    let mut start = [0; 12];
    let read = storage.read_exact_at(&mut start, 0);
    if read.is_ok() && start.starts_with(&crate::working_set::MAGIC) {
        return Error::SetNotSnapshot;
    }
    if read.is_err() || !start.starts_with(&MAGIC) {
        return Error::NotASnapshot;
    }
    match start
        .last_chunk()
        .map_or(VERSION, |bytes| u32::from_le_bytes(*bytes))
    {
        VERSION => Error::Truncated {
            expected: HEADER_LEN,
            actual,
        },
        other => Error::UnknownVersion(other),
    }
}

/// Read a whole section that is at most `limit` bytes long, and check it. Nothing is allocated that the file, whose
/// length the section has been checked against, does not have.
fn load<S: ReadAt>(
    storage: &S,
    section: Section,
    place: Place,
    limit: u64,
) -> Result<Vec<u8>, Error> {
    let len = usize::try_from(section.len)
        .ok()
        .filter(|_| section.len <= limit)
        .ok_or_else(|| Error::corrupt(place, "longer than the format allows"))?;
    let mut bytes = vec![0; len];
    storage
        .read_exact_at(&mut bytes, section.offset)
        .map_err(|source| Error::read(place, source))?;
    if checksum(&bytes) != section.checksum {
        return Err(Error::corrupt(place, "the checksum does not match"));
    }
    Ok(bytes)
}

fn load_root<S: ReadAt>(storage: &S, index: Section) -> Result<Box<Page>, Error> {
    let offset = index
        .len
        .checked_sub(PAGE_BYTES)
        .filter(|offset| offset % PAGE_BYTES == 0)
        .ok_or_else(|| Error::corrupt(Place::IndexRoot, "the section is not whole nodes"))?;
    let mut root = Box::new([0; PAGE_SIZE]);
    storage
        .read_exact_at(root.as_mut_slice(), index.offset.saturating_add(offset))
        .map_err(|source| Error::read(Place::IndexRoot, source))?;
    if checksum(root.as_slice()) != index.checksum {
        return Err(Error::corrupt(
            Place::IndexRoot,
            "the checksum does not match",
        ));
    }
    Ok(root)
}
