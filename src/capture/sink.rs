//! Where captured pages go.

use snapshot_format::Region;

/// Whatever went wrong on the other side of a [`PageSink`].
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SinkError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

impl SinkError {
    /// Wraps an error of the sink.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Takes the pages of a capture. Pages are [`snapshot_format::PAGE_SIZE`] bytes whatever the page size of the mapping.
///
/// Regions begin in address order. Between two calls of `begin_region` the pages of the first region come strictly in
/// order, each exactly once, through `commit`, `zeros` or `lost`; their numbers sum to the region's length.
pub trait PageSink {
    /// The pages that follow belong to `region`.
    ///
    /// # Errors
    /// Whatever the sink cannot do.
    fn begin_region(&mut self, region: &Region) -> Result<(), SinkError>;

    /// Room for whole pages (at least one, at most a few MiB) into which the next pages of the region are read. Never
    /// empty. What it holds before is of no interest.
    ///
    /// # Errors
    /// Whatever the sink cannot do.
    fn space(&mut self) -> Result<&mut [u8], SinkError>;

    /// The first `pages` pages of the last [`Self::space`] now hold the next pages.
    ///
    /// # Errors
    /// Whatever the sink cannot do.
    fn commit(&mut self, pages: usize) -> Result<(), SinkError>;

    /// The next `pages` pages are zero.
    ///
    /// # Errors
    /// Whatever the sink cannot do.
    fn zeros(&mut self, pages: u64) -> Result<(), SinkError>;

    /// The content of the next `pages` pages is gone (poisoned, or a memory error): not zero, but unknown.
    ///
    /// # Errors
    /// Whatever the sink cannot do.
    fn lost(&mut self, pages: u64) -> Result<(), SinkError>;
}
