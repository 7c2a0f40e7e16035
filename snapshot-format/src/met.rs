//! Frames that have been met.

use crate::entry::FrameRef;
use std::collections::HashSet;

/// Most frames that are remembered: 32 GiB of content in frames of 16 pages. They take 18 MiB.
const MOST: usize = 1 << 19;

/// Remembers frames, for several processes may have the same pages: those of a whole tree may name the frames of the first.
#[derive(Debug, Default)]
pub(crate) struct Met {
    frames: HashSet<FrameRef>,
    /// The highest offset of a frame.
    highest: Option<u64>,
}

impl Met {
    /// Whether a frame has been added. A frame for which there was no room has not.
    pub(crate) fn has(&self, frame: &FrameRef) -> bool {
        self.frames.contains(frame)
    }

    /// Remember a frame, and say whether it is new. When there is no room for more, it is new if it stands behind all others:
    /// that is where a writer puts it.
    pub(crate) fn add(&mut self, frame: FrameRef) -> bool {
        let behind = self.highest.is_none_or(|highest| frame.offset > highest);
        self.highest = self.highest.max(Some(frame.offset));
        if self.frames.len() < MOST {
            self.frames.insert(frame)
        } else {
            behind
        }
    }
}
