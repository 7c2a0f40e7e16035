//! Directories of images that CRIU writes: which pages its restore leaves to a daemon, and where they are. Files only, no processes.
//!
//! | file           | holds                                                                          |
//! |----------------|--------------------------------------------------------------------------------|
//! | `open.rs`      | [`Images::open`]: a directory, file by file                                    |
//! | `mm.rs`        | mm-PID.img: the mappings that are restored lazily                              |
//! | `pagemap.rs`   | [`pagemap`]: pagemap-PID.img, read and written                                 |
//! | `finding.rs`   | where a pagemap has some pages                                                 |
//! | `layers.rs`    | `parent` directories, files with pages                                         |
//! | `runs.rs`      | pages in order, cut where mappings end                                         |
//! | `holes.rs`     | lazy pages that were taken out of their files                                  |
//! | `manifest.rs`  | [`manifest`]: what is known of a directory whose lazy pages are in a snapshot  |
//! | `places.rs`    | [`Places`]: where the memory of a process is in a snapshot                     |
//! | `records.rs`   | files as lists of messages                                                     |
//! | `messages.rs`  | the messages                                                                   |
//! | `error.rs`     | [`ImagesError`]                                                                |
//!
//! Images are not trusted: whatever the bytes, there is a result or an error. What is not known is refused, because a page that is
//! guessed wrongly is a page of garbage in somebody's process.

mod error;
mod finding;
mod holes;
mod layers;
pub mod manifest;
mod messages;
mod mm;
mod open;
pub mod pagemap;
mod places;
mod records;
mod runs;

use std::fs::File;
use std::path::PathBuf;

pub use error::{Fault, ImagesError};
pub use open::inventory_of;
pub use places::Places;
pub use records::sum;

use crate::addr::AddrRange;

/// A directory with the images of a dump.
#[derive(Debug)]
pub struct Images {
    /// The directory.
    pub folder: PathBuf,
    /// XXH3 of inventory.img. Every dump has an inventory of its own.
    pub inventory: u64,
    /// The processes, in the order of pstree.img.
    pub processes: Vec<Process>,
    /// Every file that lazy pages lie in, those of `parent` directories included.
    pub files: Vec<PagesFile>,
}

/// A pages-N.img.
#[derive(Debug)]
pub struct PagesFile {
    /// Where it is.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
    /// Its length in pages.
    pub pages: u64,
}

/// A process of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number in the images, which is the one in its own PID namespace.
    pub pid: i32,
    /// That of its parent. 0 for the first.
    pub parent: i32,
    /// The mappings that `criu restore --lazy-pages` registers, ascending.
    pub mappings: Vec<Mapping>,
    /// The pages that it leaves to the daemon, ascending, cut where mappings end. Neighbours that continue each other in the same file are one run.
    pub lazy: Vec<LazyRun>,
    /// There is an mm-PID.img. Zombies have none, and nothing else of what is here.
    pub has_memory: bool,
    /// Arguments and environment; may be empty.
    pub arguments: AddrRange,
    /// The last pages, up to 4, of the mapping that the stack began in.
    pub stack_top: Option<AddrRange>,
    /// XXH3 of pagemap-PID.img, 0 if there is none.
    pub pagemap: u64,
    /// Pages that `criu restore` restores itself.
    pub eager_pages: u64,
    /// Its lazy pages are in a snapshot, not here: its pagemap is [marked](pagemap::Pagemap::marked).
    pub stripped: bool,
    /// Nothing is mapped at address 0, so that its pagemap can be marked.
    pub can_be_marked: bool,
}

/// A mapping that `criu restore --lazy-pages` registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Where it is.
    pub at: AddrRange,
    /// `PROT_*`.
    pub protection: u32,
    /// `MADV_WIPEONFORK`: a child finds zeros.
    pub wiped_on_fork: bool,
    /// "", "\[heap\]" or "\[stack\]".
    pub name: &'static str,
}

/// Consecutive pages of one mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LazyRun {
    /// Their addresses.
    pub at: AddrRange,
    /// Where their content is. `None`: not in the images.
    pub stored: Option<Stored>,
}

/// A place in a file with pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Index into [`Images::files`].
    pub file: usize,
    /// Number of the first page in the file.
    pub page: u64,
}
