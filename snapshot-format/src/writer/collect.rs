//! The collector: takes what the workers made, in the order of the pages, writes the frames and builds the index.

use super::batch::Said;
use super::encode::Encoded;
use crate::entry::Content;
use crate::error::WriteError;
use crate::index::IndexBuilder;
use crate::page::PageNo;
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeMap;
use std::io::{self, Write};
use tempfile::SpooledTempFile;

/// A worker's answer to a job.
#[derive(Debug)]
pub(super) enum Done {
    Frames(Encoded),
    /// A run, and the room that it did not need.
    Run(Said, u64, Encoded),
}

/// What went into the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Pages of all regions.
    pub pages: u64,
    /// Pages that are all zero.
    pub zero_pages: u64,
    /// Pages of one repeated word that is not zero.
    pub filled_pages: u64,
    /// Pages with content that is neither.
    pub content_pages: u64,
    /// Those of them that [`super::Writer::repeat`] gave: their content is in the file once, and counted there.
    pub repeated_pages: u64,
    /// Pages that could not be read.
    pub lost_pages: u64,
    /// Pages that live in the parent.
    pub parent_pages: u64,
    /// Frames written.
    pub frames: u64,
    /// Bytes of the frames section.
    pub frames_len: u64,
    /// Bytes of the page index.
    pub index_len: u64,
    /// Bytes of the whole file.
    pub file_len: u64,
}

impl Summary {
    fn count(&mut self, content: Content, pages: u64) {
        self.pages += pages;
        match content {
            Content::Zero => self.zero_pages += pages,
            Content::Fill(_) => self.filled_pages += pages,
            Content::Lost => self.lost_pages += pages,
            Content::Parent(_) => self.parent_pages += pages,
            Content::Frame { slot, .. } => {
                self.content_pages += pages;
                self.frames += u64::from(slot == 0);
            }
        }
    }

    fn count_repeated(&mut self, content: Content, pages: u64) {
        match content {
            Content::Frame { .. } => {
                self.pages += pages;
                self.content_pages += pages;
                self.repeated_pages += pages;
            }
            other => self.count(other, pages),
        }
    }
}

/// Everything behind the frames that the collector leaves to be written.
#[derive(Debug)]
pub(super) struct Collected<W> {
    pub(super) out: W,
    pub(super) index: IndexBuilder<SpooledTempFile>,
    pub(super) summary: Summary,
}

/// A numbered answer.
pub(super) type Answer = (u64, Result<Done, WriteError>);

pub(super) struct Collector<W> {
    pub(super) collected: Collected<W>,
    pub(super) answers: Receiver<Answer>,
    pub(super) free_encoded: Sender<Encoded>,
}

impl<W: Write> Collector<W> {
    /// Run until all workers are gone. Returning early, with an error, ends the workers and then the writer.
    pub(super) fn run(mut self, jobs_sent: &Receiver<u64>) -> Result<Collected<W>, WriteError> {
        let mut next = 0;
        // Bounded by the number of `Encoded`, of which there are only so many.
        let mut early = BTreeMap::new();
        for (number, answer) in &self.answers {
            early.insert(number, answer?);
            while let Some(done) = early.remove(&next) {
                self.collected.take(done, &self.free_encoded)?;
                next += 1;
            }
        }
        // The writer says how many jobs there were; a thread that vanished with one must not go unnoticed.
        match jobs_sent.recv() {
            Ok(sent) if sent == next => Ok(self.collected),
            _ => Err(WriteError::Worker),
        }
    }
}

impl<W: Write> Collected<W> {
    fn take(&mut self, done: Done, free: &Sender<Encoded>) -> Result<(), WriteError> {
        let encoded = match done {
            Done::Run(said, pages, encoded) => {
                self.push_run(said, pages).map_err(WriteError::Output)?;
                encoded
            }
            Done::Frames(mut encoded) => {
                let frames = encoded.placed_at(self.summary.frames_len);
                self.out.write_all(frames).map_err(WriteError::Output)?;
                self.summary.frames_len += frames.len() as u64;
                for &said in &encoded.contents {
                    self.push_run(said, 1).map_err(WriteError::Output)?;
                }
                encoded
            }
        };
        // The writer may be gone with its workers; then nobody needs it.
        drop(free.send(encoded));
        Ok(())
    }

    fn push_run(&mut self, said: Said, pages: u64) -> io::Result<()> {
        match said {
            Said::Is(content) => {
                self.summary.count(content, pages);
                self.index.push_run(content, pages)
            }
            Said::As(first) => self.push_repeated(first, pages),
        }
    }

    /// The next pages are what those from `first` on are, all of which are in the index: the jobs come in the order of the pages.
    fn push_repeated(&mut self, first: PageNo, pages: u64) -> io::Result<()> {
        let mut done = 0;
        while done < pages {
            let (content, alike) = self.index.run(PageNo(first.0 + done))?;
            let step = alike.min(pages - done);
            self.summary.count_repeated(content, step);
            self.index.push_run(content, step)?;
            done += step;
        }
        Ok(())
    }
}
