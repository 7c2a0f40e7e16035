//! Reading frames: one thread's working memory over a shared set.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::reader::WorkingSet;
use crate::codec::{Decoder, checksum};
use crate::error::{Error, Place};
use crate::storage::ReadAt;
use std::fmt;
use std::sync::Arc;

/// Reads the content of frames, one per thread: the codec's context and room for a frame as it stands in the file,
/// allocated once.
pub struct Frames<S> {
    set: Arc<WorkingSet<S>>,
    decoder: Decoder,
    /// As long as the longest payload; so no longer than the file.
    payload: Vec<u8>,
}

impl<S: ReadAt> Frames<S> {
    /// Working memory for reading `set`.
    #[must_use]
    pub fn new(set: Arc<WorkingSet<S>>) -> Self {
        let stored = (0..set.frames()).filter_map(|frame| set.stored(frame));
        let longest = stored.map(|frame| frame.payload_len).max().unwrap_or(0);
        Self {
            set,
            decoder: Decoder::new(),
            payload: vec![0; usize::try_from(longest).unwrap_or(0)],
        }
    }

    /// The set being read.
    pub fn set(&self) -> &Arc<WorkingSet<S>> {
        &self.set
    }

    /// The content of a frame: that of all its runs which are not zero, one after the other. `out` is replaced, and
    /// nothing is allocated when it has room for [`WorkingSet::max_frame_pages`] pages.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Read`] naming the frame, [`Error::NoSuchFrame`]; `out` is then empty.
    pub fn read(&mut self, frame: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let read = self.decode(frame, out);
        read.inspect_err(|_| out.clear())
    }

    fn decode(&mut self, frame: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let entry = *self.set.entry(frame)?;
        let stored = entry.frame;
        let place = Place::Frame(stored.offset);
        let corrupt = |what| Error::corrupt(place, what);
        // Not cleared before: only what is new is filled with zeros.
        out.resize(stored.content_len(), 0);
        if stored.pages == 0 {
            return Ok(());
        }
        let (given, needed) = (self.payload.len(), usize::try_from(stored.payload_len));
        let needed = needed.unwrap_or(usize::MAX);
        let payload = self
            .payload
            .get_mut(..needed)
            .ok_or(Error::Buffer { given, needed })?;
        self.set
            .storage()
            .read_exact_at(payload, stored.offset)
            .map_err(|source| Error::read(place, source))?;
        self.decoder
            .decode(stored.codec, payload, out)
            .map_err(corrupt)?;
        if checksum(out) ^ stored.offset != entry.checksum {
            return Err(corrupt("the content does not match its checksum"));
        }
        Ok(())
    }
}

impl<S> fmt::Debug for Frames<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").finish_non_exhaustive()
    }
}
