//! What `create` and `pack` have in common: from options to a writer, from a writer to a finished file and a report.

use super::{pages_size, print_json, size, threads};
use crate::cli::snapshot::Writing;
use crate::failure::Failure;
use crate::origin;
use crate::output::PendingFile;
use crate::priority;
use crate::terminal::say;
use serde::Serialize;
use snapshot_format::{
    Compression, Metadata, SnapshotId, Source, Summary, WriteError, Writer, WriterOptions,
};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A snapshot being written.
pub(super) struct Output {
    pub(super) writer: Writer<File>,
    pending: PendingFile,
    path: PathBuf,
    id: SnapshotId,
    compression: Compression,
    started: Instant,
}

impl Output {
    /// Begin a snapshot. `default` says how large frames are if the options do not, `read_ahead` what may wait to be compressed.
    pub(super) fn create(
        path: &Path,
        writing: &Writing,
        default: Compression,
        read_ahead: ReadAhead,
    ) -> Result<Self, Failure> {
        let compression = writing.compression(default).map_err(Failure::Usage)?;
        let id = origin::id_or_random(writing.id)?;
        let pending = PendingFile::create(path, writing.force)?;
        let file = pending.file().try_clone();
        let options = WriterOptions {
            compression,
            jobs: threads(writing.jobs),
            spool_dir: pending.folder(),
            parent: None,
            ..read_ahead.options()
        };
        let writer = Writer::new(file.map_err(Failure::io("create", path))?, options)
            .map_err(Failure::write(path))?;
        Ok(Self {
            writer,
            pending,
            path: path.to_path_buf(),
            id,
            compression,
            started: Instant::now(),
        })
    }

    /// Turn an error of the writer into one that names the file.
    pub(super) fn failure(&self) -> impl Fn(WriteError) -> Failure + use<> {
        let path = self.path.clone();
        move |error| Failure::write(&path)(error)
    }

    /// Complete the file and give it its name.
    pub(super) fn publish(self, source: Source) -> Result<Written, Failure> {
        let failure = self.failure();
        let metadata: Metadata = origin::metadata(source, self.compression);
        let (_, summary) = self.writer.finish(self.id, &metadata).map_err(failure)?;
        self.pending.publish()?;
        Ok(Written {
            path: self.path,
            id: self.id,
            compression: self.compression,
            summary,
            took: self.started.elapsed(),
        })
    }
}

/// Memory between reading and compressing.
#[derive(Debug, Clone, Copy)]
pub(super) enum ReadAhead {
    /// So many bytes, for a steady flow: who reads waits for who compresses.
    Steady(u64),
    /// So many bytes, which are all there is to read: reading comes first, for somebody stands still for it.
    Everything(u64),
}

impl ReadAhead {
    fn options(self) -> WriterOptions {
        match self {
            Self::Steady(buffer) => WriterOptions {
                buffer,
                ..WriterOptions::default()
            },
            Self::Everything(buffer) => WriterOptions {
                buffer,
                touch_buffer: true,
                on_thread_start: priority::lower,
                ..WriterOptions::default()
            },
        }
    }
}

/// A snapshot that exists.
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) id: SnapshotId,
    compression: Compression,
    pub(super) summary: Summary,
    took: Duration,
}

/// [`Written`] for machines. Lengths in bytes.
#[derive(Serialize)]
pub(super) struct WrittenJson<T: Serialize> {
    file: String,
    id: String,
    memory_bytes: u64,
    file_bytes: u64,
    index_bytes: u64,
    pages: u64,
    zero_pages: u64,
    filled_pages: u64,
    content_pages: u64,
    lost_pages: u64,
    frames: u64,
    codec: snapshot_format::Codec,
    level: i32,
    frame_pages: u16,
    seconds: f64,
    #[serde(flatten)]
    more: T,
}

impl Written {
    pub(super) fn json<T: Serialize>(&self, more: T) -> WrittenJson<T> {
        let Summary {
            pages,
            zero_pages,
            filled_pages,
            content_pages,
            lost_pages,
            frames,
            index_len,
            file_len,
            ..
        } = self.summary;
        WrittenJson {
            file: self.path.to_string_lossy().into_owned(),
            id: self.id.to_string(),
            memory_bytes: pages.saturating_mul(snapshot_format::PAGE_BYTES),
            file_bytes: file_len,
            index_bytes: index_len,
            pages,
            zero_pages,
            filled_pages,
            content_pages,
            lost_pages,
            frames,
            codec: self.compression.codec,
            level: snapshot_format::Compressed::from(self.compression).level,
            frame_pages: self.compression.frame_pages,
            seconds: self.took.as_secs_f64(),
            more,
        }
    }

    /// One line for people.
    pub(super) fn sentence(&self) -> String {
        let Summary {
            pages,
            content_pages,
            file_len,
            ..
        } = self.summary;
        format!(
            "{}: {} of memory, {} with content, in a file of {}, {:.2} s",
            self.path.display(),
            pages_size(pages),
            pages_size(content_pages),
            size(file_len),
            self.took.as_secs_f64(),
        )
    }

    /// Report as the options ask.
    pub(super) fn report<T: Serialize>(
        &self,
        writing: &Writing,
        people: &str,
        more: T,
    ) -> Result<(), Failure> {
        let sentence = format!("{}{people}", self.sentence());
        self.report_as(writing, &sentence, more)
    }

    /// The same with another line for people.
    pub(super) fn report_as<T: Serialize>(
        &self,
        writing: &Writing,
        sentence: &str,
        more: T,
    ) -> Result<(), Failure> {
        if writing.json {
            print_json(&self.json(more))
        } else {
            if !writing.quiet {
                say(sentence);
            }
            Ok(())
        }
    }
}
