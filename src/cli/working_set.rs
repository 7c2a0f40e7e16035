//! The command line of `uffd-snapshot working-set`.

use super::snapshot::{CodecName, compression};
use clap::{Args, Subcommand};
use snapshot_format::working_set::Options;
use std::path::PathBuf;

/// `working-set`
#[derive(Debug, Subcommand)]
pub enum WorkingSet {
    /// Make a working set of a list of pages, or of another set with other options
    Build(Build),
    /// Show what is in a working set, and check all of it
    Inspect(InspectSet),
    /// Put several working sets of a snapshot together
    Merge(Merge),
}

/// `working-set build`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  uffd-snapshot working-set build vm.snap --pages list -o vm.snap.ws
  uffd-snapshot working-set build vm.snap --from vm.snap.ws --codec zstd -o small.ws

A line of the list is \"PAGE [COUNT]\": the number of a page, from 0, and how many pages from it on
[default: 1], in the order in which they are to be replayed. What follows # is a comment.")]
pub struct Build {
    /// Snapshot that the pages are of
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: PathBuf,
    /// List of pages, or - for standard input
    #[arg(
        long,
        value_name = "LIST",
        required_unless_present = "from",
        conflicts_with = "from"
    )]
    pub pages: Option<PathBuf>,
    /// Working set to take pages and times from
    #[arg(long, value_name = "SET")]
    pub from: Option<PathBuf>,
    /// Working set to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How to write.
    #[command(flatten)]
    pub writing: SetWriting,
}

/// `working-set inspect`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  uffd-snapshot working-set inspect vm.snap.ws
  uffd-snapshot working-set inspect vm.snap.ws --snapshot vm.snap --pages
  uffd-snapshot working-set inspect vm.snap.ws --json | jq .pages

Every frame is read and checked; exit status 1 if one is bad.")]
pub struct InspectSet {
    /// Working set to read
    #[arg(value_name = "FILE")]
    pub set: PathBuf,
    /// Fail unless it is a set of this snapshot
    #[arg(long, value_name = "SNAPSHOT")]
    pub snapshot: Option<PathBuf>,
    /// List the pages in the order of replay
    #[arg(long)]
    pub pages: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `working-set merge`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  uffd-snapshot working-set merge vm.snap vm.snap.ws new.ws -o vm.snap.ws --force

The newest 8 recordings count. A page is replayed if at least half of them have it, at the time
of the newest one that does; the others are remembered without content.")]
pub struct Merge {
    /// Snapshot that the sets are of
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: PathBuf,
    /// Working sets, the oldest first
    #[arg(value_name = "SET", required = true)]
    pub sets: Vec<PathBuf>,
    /// Working set to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How to write.
    #[command(flatten)]
    pub writing: SetWriting,
}

/// What `build` and `merge` have in common.
#[derive(Debug, Args)]
pub struct SetWriting {
    /// Codec of the frames
    #[arg(long, value_enum, default_value_t = CodecName::Lz4, help_heading = "Compression")]
    pub codec: CodecName,
    /// Level of zstd, -7 to 22 [default: 3]; LZ4 has one level
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        help_heading = "Compression"
    )]
    #[arg(value_parser = clap::value_parser!(i32).range(-7..=22))]
    pub level: Option<i32>,
    /// Pages of 4 KiB compressed and replayed together, 1 to 512
    #[arg(long, value_name = "N", help_heading = "Compression")]
    #[arg(default_value_t = Options::default().frame_pages, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub frame_pages: u16,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// No summary
    #[arg(short, long)]
    pub quiet: bool,
}

impl SetWriting {
    /// How to write.
    ///
    /// # Errors
    /// A sentence for options that do not go together.
    pub fn options(&self) -> Result<Options, String> {
        Ok(Options {
            compression: compression(self.codec, self.level, self.frame_pages)?,
            frame_pages: self.frame_pages,
        })
    }
}
