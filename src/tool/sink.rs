//! Captured pages into a snapshot.

use crate::capture::{PageSink, SinkError};
use snapshot_format::{MAX_NAME, Region, WriteError, Writer};
use std::fs::File;

/// A snapshot being written, as capture sees it. Remembers the writer's error, which capture wraps.
pub(super) struct SnapshotSink<'a> {
    pub(super) writer: &'a mut Writer<File>,
    pub(super) failed: Option<WriteError>,
}

impl SnapshotSink<'_> {
    fn take<T>(
        &mut self,
        step: impl FnOnce(&mut Writer<File>) -> Result<T, WriteError>,
    ) -> Result<T, SinkError> {
        step(self.writer).map_err(|error| {
            let wrapped = SinkError::new(error.to_string());
            self.failed = Some(error);
            wrapped
        })
    }
}

impl PageSink for SnapshotSink<'_> {
    fn begin_region(&mut self, region: &Region) -> Result<(), SinkError> {
        // A name is information; one that is too long is no reason to have no snapshot.
        let mut region = region.clone();
        while region.name.len() > MAX_NAME {
            region.name.pop();
        }
        self.take(|writer| writer.begin_region(region))
    }

    fn space(&mut self) -> Result<&mut [u8], SinkError> {
        self.writer.space().map_err(|error| {
            let wrapped = SinkError::new(error.to_string());
            self.failed = Some(error);
            wrapped
        })
    }

    fn commit(&mut self, pages: usize) -> Result<(), SinkError> {
        self.take(|writer| writer.commit(pages))
    }

    fn zeros(&mut self, pages: u64) -> Result<(), SinkError> {
        self.take(|writer| writer.zeros(pages))
    }

    fn lost(&mut self, pages: u64) -> Result<(), SinkError> {
        self.take(|writer| writer.lost(pages))
    }
}
