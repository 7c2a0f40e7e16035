//! The end of a file: index, region map, metadata, and then the header.

use super::collect::{Collected, Summary};
use crate::codec::checksum;
use crate::error::WriteError;
use crate::header::{HEADER_LEN, Header, SnapshotId};
use crate::metadata::Metadata;
use crate::page::{PAGE_BYTES, PAGE_SIZE};
use crate::processes::Processes;
use crate::region_map::RegionMap;
use crate::section::{ParentLayer, Section, SectionKind};
use std::io::{Seek, SeekFrom, Write};

pub(super) struct Tail<'a> {
    pub(super) id: SnapshotId,
    pub(super) regions: &'a RegionMap,
    pub(super) metadata: &'a Metadata,
    pub(super) parent: Option<&'a ParentLayer>,
    pub(super) processes: Option<&'a Processes>,
    pub(super) max_frame_pages: u16,
}

/// Write everything behind the frames, and the header in front of them.
pub(super) fn write<W: Write + Seek>(
    collected: Collected<W>,
    tail: &Tail<'_>,
) -> Result<(W, Summary), WriteError> {
    let Collected {
        mut out,
        index,
        mut summary,
    } = collected;
    let pages = index.pages();
    let metadata = tail.metadata.encode().map_err(WriteError::Usage)?;
    let output = WriteError::Output;

    let mut sections = vec![Section {
        kind: SectionKind::Frames,
        offset: HEADER_LEN,
        len: summary.frames_len,
        checksum: 0,
    }];
    let mut end = HEADER_LEN + summary.frames_len;
    end = pad(&mut out, end)?;
    let (mut spool, index_len, root_checksum) = index.finish().map_err(output)?;
    spool.seek(SeekFrom::Start(0)).map_err(output)?;
    let copied = std::io::copy(&mut spool, &mut out).map_err(output)?;
    if copied != index_len {
        return Err(WriteError::Usage("the spooled index was cut short".into()));
    }
    summary.index_len = index_len;
    sections.push(Section {
        kind: SectionKind::Index,
        offset: end,
        len: index_len,
        checksum: root_checksum,
    });
    end += index_len;

    let mut small = vec![
        (SectionKind::Regions, tail.regions.encode()),
        (SectionKind::Metadata, metadata),
    ];
    if let Some(parent) = tail.parent {
        small.push((SectionKind::Parent, parent.encode()));
    }
    if let Some(processes) = tail.processes {
        small.push((SectionKind::Processes, processes.encode()));
    }
    for (kind, bytes) in small {
        end = pad(&mut out, end)?;
        out.write_all(&bytes).map_err(output)?;
        sections.push(Section {
            kind,
            offset: end,
            len: bytes.len() as u64,
            checksum: checksum(&bytes),
        });
        end += bytes.len() as u64;
    }
    let file_len = pad(&mut out, end)?;
    summary.file_len = file_len;
    let header = Header {
        id: tail.id,
        pages,
        file_len,
        max_frame_pages: tail.max_frame_pages,
        sections,
    };
    let header = header
        .encode()
        .map_err(|what| WriteError::Usage(what.into()))?;
    out.seek(SeekFrom::Start(0)).map_err(output)?;
    out.write_all(&header).map_err(output)?;
    out.flush().map_err(output)?;
    Ok((out, summary))
}

/// Zeros up to the next section boundary.
fn pad<W: Write>(out: &mut W, end: u64) -> Result<u64, WriteError> {
    let aligned = end.next_multiple_of(PAGE_BYTES);
    let zeros = [0; PAGE_SIZE];
    let missing = usize::try_from(aligned - end).unwrap_or(0);
    out.write_all(&zeros[..missing])
        .map_err(WriteError::Output)?;
    Ok(aligned)
}
