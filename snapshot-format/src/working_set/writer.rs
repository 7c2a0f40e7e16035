//! Writing a working set: a history and a snapshot in, a file out.

use super::MAX_SET_PAGES;
use super::header::{HEADER_LEN, Header};
use super::history::{History, Touched};
use super::tables::{ENTRY_LEN, Entry, Kind, RUN_LEN, Run, encode_run};
use crate::codec::{Codec, Compression, Encoder, checksum};
use crate::cursor::Cursor;
use crate::entry::{Content, FrameRef};
use crate::error::WriteError;
use crate::header::MAX_FRAME_PAGES;
use crate::page::{PAGE_SIZE, PageNo};
use crate::storage::ReadAt;
use std::io::{Seek, SeekFrom, Write};

/// How a set is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Codec and level; its own frame size is not looked at.
    pub compression: Compression,
    /// Most pages of content in a frame, 1 to 512.
    pub frame_pages: u16,
}

impl Default for Options {
    /// LZ4, because replay competes with the target for time, in frames of 128 KiB, because they are replayed whole.
    fn default() -> Self {
        Self {
            compression: Compression {
                codec: Codec::Lz4,
                ..Compression::default()
            },
            frame_pages: 32,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Pages that are replayed, zero pages included.
    pub pages: u64,
    /// Those of them that are zero.
    pub zero_pages: u64,
    /// Pages that are remembered without content.
    pub faded: u64,
    /// Pages of the history that the file does not have: lost, in a parent, unreadable, beyond the end of the snapshot, or
    /// beyond [`MAX_SET_PAGES`].
    pub left_out: u64,
    /// Frames.
    pub frames: u64,
    /// Bytes of all frames.
    pub frames_len: u64,
    /// Bytes of the file.
    pub file_len: u64,
}

/// Pages that are sorted by number among each other: 1 MiB, which is little time to be out of the order of first touch,
/// and makes runs of what was touched here and there in one buffer.
const WINDOW: usize = 256;

/// Write a working set of the snapshot that `from` reads, from the start of `out`; the header comes last. The output is
/// not synced to disk.
///
/// # Errors
/// [`WriteError::Usage`] for a frame size that is not 1 to 512 pages, [`WriteError::Compress`], [`WriteError::Output`].
pub fn write<S: ReadAt, W: Write + Seek>(
    history: &History,
    from: &mut Cursor<S>,
    out: W,
    options: &Options,
) -> Result<(W, Summary), WriteError> {
    let mut writer = Writer::new(out, options)?;
    let (pages, id) = (from.snapshot().pages(), from.snapshot().id());
    let known = history.pages();
    let most = usize::try_from(MAX_SET_PAGES).unwrap_or(usize::MAX);
    let known = &known[..known.len().min(most)];
    let exists = |touched: &&Touched| touched.page.0 < pages;
    let (mut stay, mut fade) = (Vec::new(), Vec::new());
    for &touched in known.iter().filter(exists) {
        let list = if history.stays(&touched) {
            &mut stay
        } else {
            &mut fade
        };
        list.push(touched);
    }
    for list in [&mut stay, &mut fade] {
        for window in list.chunks_mut(WINDOW) {
            window.sort_by_key(|touched| touched.page);
        }
    }
    for touched in &stay {
        writer.replay(from, touched)?;
    }
    writer.end_frame()?;
    writer.header.frames = count(writer.table.len() / ENTRY_LEN)?;
    for touched in &fade {
        writer.push(touched, Kind::Faded)?;
        writer.header.faded_pages += 1;
    }
    writer.end_frame()?;
    writer.header.recordings = history.recordings();
    writer.header.snapshot = id;
    writer.header.snapshot_checksum = from.snapshot().header_checksum();
    let (out, mut summary) = writer.finish()?;
    summary.left_out = history.pages().len() as u64 - summary.pages - summary.faded;
    Ok((out, summary))
}

/// A file being written.
struct Writer<W> {
    out: W,
    encoder: Encoder,
    frame_pages: usize,
    /// Most pages of all kinds in a frame.
    entry_pages: u64,
    header: Header,
    /// Runs and entries as they will stand in the file.
    runs: Vec<u8>,
    table: Vec<u8>,
    /// The frame being filled.
    open: Vec<(Run, Kind)>,
    open_pages: u64,
    content: Vec<u8>,
    encoded: Vec<u8>,
}

impl<W: Write + Seek> Writer<W> {
    fn new(mut out: W, options: &Options) -> Result<Self, WriteError> {
        if !(1..=MAX_FRAME_PAGES).contains(&options.frame_pages) {
            let message = "a frame has 1 to 512 pages".into();
            return Err(WriteError::Usage(message));
        }
        let frame_pages = usize::from(options.frame_pages);
        // What is there until the end is not a working set.
        out.write_all(&[0; PAGE_SIZE]).map_err(WriteError::Output)?;
        Ok(Self {
            out,
            encoder: Encoder::new(options.compression)?,
            frame_pages,
            entry_pages: frame_pages.max(WINDOW) as u64,
            header: Header {
                snapshot: crate::header::SnapshotId([0; 16]),
                recordings: 0,
                frames_len: 0,
                runs: 0,
                frames: 0,
                faded_entries: 0,
                pages: 0,
                zero_pages: 0,
                faded_pages: 0,
                table_checksum: 0,
                snapshot_checksum: 0,
            },
            runs: Vec::new(),
            table: Vec::new(),
            open: Vec::new(),
            open_pages: 0,
            content: Vec::with_capacity(frame_pages * PAGE_SIZE),
            encoded: vec![0; Encoder::bound(frame_pages * PAGE_SIZE)],
        })
    }

    /// Add a page that is to be replayed, if the snapshot has it.
    fn replay<S: ReadAt>(
        &mut self,
        from: &mut Cursor<S>,
        touched: &Touched,
    ) -> Result<(), WriteError> {
        match from.content(touched.page) {
            Ok(Content::Zero) => {
                self.push(touched, Kind::Zero)?;
                self.header.zero_pages += 1;
            }
            Ok(Content::Fill(_) | Content::Frame { .. }) => {
                let mut page = [0; PAGE_SIZE];
                if from.read_page(touched.page, &mut page).is_err() {
                    return Ok(());
                }
                self.push(touched, Kind::Content)?;
                self.content.extend_from_slice(&page);
            }
            // Not here, or bad: whoever restores is told when the target asks for it.
            Ok(Content::Lost | Content::Parent(_)) | Err(_) => return Ok(()),
        }
        self.header.pages += 1;
        Ok(())
    }

    /// Add a page to the frame being filled, or to a new one if that is full.
    fn push(&mut self, touched: &Touched, kind: Kind) -> Result<(), WriteError> {
        let no_room = kind == Kind::Content && self.content.len() == self.frame_pages * PAGE_SIZE;
        if no_room || self.open_pages == self.entry_pages {
            self.end_frame()?;
        }
        self.open_pages += 1;
        let PageNo(page) = touched.page;
        match self.open.last_mut() {
            Some((run, of)) if run.pages.end == page && *of == kind && run.seen == touched.seen => {
                run.pages.end += 1;
                run.after_us = run.after_us.min(touched.after_us);
            }
            _ => {
                let run = Run {
                    pages: page..page + 1,
                    zero: kind == Kind::Zero,
                    after_us: touched.after_us,
                    seen: touched.seen,
                };
                self.open.push((run, kind));
            }
        }
        Ok(())
    }

    /// Write the frame being filled, if there is anything in it.
    fn end_frame(&mut self) -> Result<(), WriteError> {
        if self.open.is_empty() {
            return Ok(());
        }
        let first_run = count(self.runs.len() / RUN_LEN)?;
        let runs_from = self.runs.len();
        for (run, kind) in &self.open {
            self.runs.extend_from_slice(&encode_run(run, *kind));
        }
        let offset = HEADER_LEN + self.header.frames_len;
        let (codec, len) = if self.content.is_empty() {
            (Codec::Stored, 0)
        } else {
            self.encoder.encode(&self.content, &mut self.encoded)?
        };
        self.out
            .write_all(&self.encoded[..len])
            .map_err(WriteError::Output)?;
        self.header.frames_len += len as u64;
        let entry = Entry {
            frame: FrameRef {
                offset,
                payload_len: count(len)?,
                pages: small(self.content.len() / PAGE_SIZE)?,
                codec,
            },
            first_run,
            runs: small(self.open.len())?,
            runs_checksum: checksum(&self.runs[runs_from..]) ^ u64::from(first_run),
            checksum: match self.content.len() {
                0 => 0,
                _ => checksum(&self.content) ^ offset,
            },
        };
        self.table.extend_from_slice(&entry.encode());
        self.open.clear();
        self.open_pages = 0;
        self.content.clear();
        Ok(())
    }

    /// Write the tables and the header.
    fn finish(mut self) -> Result<(W, Summary), WriteError> {
        let output = WriteError::Output;
        self.header.runs = count(self.runs.len() / RUN_LEN)?;
        self.header.faded_entries = count(self.table.len() / ENTRY_LEN)? - self.header.frames;
        self.header.table_checksum = checksum(&self.table);
        let header = self.header.encode();
        let header = header.map_err(|what| WriteError::Usage(what.into()))?;
        self.out.write_all(&self.runs).map_err(output)?;
        self.out.write_all(&self.table).map_err(output)?;
        self.out.seek(SeekFrom::Start(0)).map_err(output)?;
        self.out.write_all(&header).map_err(output)?;
        self.out.flush().map_err(output)?;
        let summary = Summary {
            pages: self.header.pages,
            zero_pages: self.header.zero_pages,
            faded: self.header.faded_pages,
            left_out: 0,
            frames: self.header.frames.into(),
            frames_len: self.header.frames_len,
            file_len: self.header.file_len().unwrap_or(u64::MAX),
        };
        Ok((self.out, summary))
    }
}

/// A count of the format. A set has at most [`MAX_SET_PAGES`] pages, so nothing of it is more.
fn count(number: usize) -> Result<u32, WriteError> {
    u32::try_from(number).map_err(|_| WriteError::Usage("the set is too large".into()))
}

fn small(number: usize) -> Result<u16, WriteError> {
    u16::try_from(number).map_err(|_| WriteError::Usage("the frame is too large".into()))
}
