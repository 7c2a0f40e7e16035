//! Which pages are touched, in the order of their first touch.
//!
//! While that is being recorded pages come one by one: nothing is installed beside a page that was asked for, and nothing before it is.
//! So each page that was touched has asked, and each that has asked was touched. There is no other honest way to know: page tables say
//! "accessed" of whatever was installed, and the kernel tells nobody of a page's first use (idle page tracking, which could, is off in
//! most kernels). It costs that restore more faults, and nothing for each of them but a line in a list.

use std::time::{Duration, Instant};

use snapshot_format::PageNo;

use super::{Request, Session};

/// Touches that are noted at most: 16 bytes each.
const MOST: usize = 1 << 22;

/// The first touch of some pages that came together: one, or all of a huge page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    /// The first of them.
    pub page: PageNo,
    /// How many.
    pub pages: u32,
    /// Microseconds from the beginning of the recording to the fault's message.
    pub after_us: u32,
}

/// A recording that is under way.
#[derive(Debug)]
pub(super) struct Recorder {
    since: Instant,
    last: Option<Instant>,
    touches: Vec<Touch>,
}

impl Recorder {
    /// Room for all pages that there are, of which only what is used takes memory: a fault allocates nothing.
    fn new(now: Instant, pages: u64) -> Self {
        let most = usize::try_from(pages).unwrap_or(MOST).min(MOST);
        Self {
            since: now,
            last: None,
            touches: Vec::with_capacity(most),
        }
    }

    pub(super) fn note(&mut self, request: &Request, at: Instant) {
        self.last = self.last.max(Some(at));
        if self.touches.len() < self.touches.capacity() {
            let after = at.saturating_duration_since(self.since);
            self.touches.push(Touch {
                page: request.page,
                pages: u32::try_from(request.needed).unwrap_or(u32::MAX),
                after_us: u32::try_from(after.as_micros()).unwrap_or(u32::MAX),
            });
        }
    }
}

impl<I> Session<I> {
    /// Begins to record, at most so many touches as there are `pages`.
    pub fn record(&mut self, now: Instant, pages: u64) {
        self.recorder = Some(Recorder::new(now, pages));
    }

    /// True when what is being recorded has lasted so long, or nothing more was touched for so long. A target that has not begun yet is waited
    /// for.
    #[must_use]
    pub fn recorded_enough(&self, now: Instant, most: Duration, idle: Duration) -> bool {
        self.recorder.as_ref().is_some_and(|recorder| {
            let past = |then| now.saturating_duration_since(then);
            past(recorder.since) >= most || recorder.last.is_some_and(|last| past(last) >= idle)
        })
    }

    /// Ends a recording. `None` if there was none.
    pub fn end_recording(&mut self) -> Option<Vec<Touch>> {
        self.recorder.take().map(|recorder| recorder.touches)
    }
}
