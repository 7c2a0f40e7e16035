//! placeholder
#![forbid(unsafe_code)]

pub mod page;
mod region;

pub use page::{PAGE_BYTES, PAGE_SIZE, PageNo};
pub use region::{PageSize, Protection, Region, RegionKind};
