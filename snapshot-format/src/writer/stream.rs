//! Raw memory whose length is known only at its end: a pipe.

use super::{Writer, usage};
use crate::error::WriteError;
use crate::header::MAX_PAGES;
use crate::page::pages_for;
use crate::region::Region;
use std::io::{Seek, Write};

impl<W: Write + Seek + Send + 'static> Writer<W> {
    /// The next pages are those of a raw memory file, from its start. Its length is given by [`Writer::end_stream`]; the
    /// file is the same as with a region of that length.
    ///
    /// # Errors
    /// [`WriteError::Usage`] when the last region is not complete.
    pub fn begin_stream(&mut self) -> Result<(), WriteError> {
        if !self.is_complete() {
            return Err(usage("a region begins before the last one is complete"));
        }
        self.pages_left = MAX_PAGES.saturating_sub(self.regions.pages());
        self.stream_pages = Some(self.pages_left);
        Ok(())
    }

    /// The raw memory is complete and has `len` bytes; the last page, if it is partly used, was filled up with zeros. No
    /// bytes are no region.
    ///
    /// # Errors
    /// [`WriteError::Usage`] when the pages given are not those of `len` bytes.
    pub fn end_stream(&mut self, len: u64) -> Result<(), WriteError> {
        let given = self
            .stream_pages
            .take()
            .map(|begun_with| begun_with - self.pages_left);
        if given != Some(pages_for(len)) {
            return Err(usage("the pages given are not as many as the length says"));
        }
        self.pages_left = 0;
        self.dispatch()?;
        if len > 0 {
            self.regions.push(Region::raw(0, len)).map_err(usage)?;
        }
        Ok(())
    }
}
