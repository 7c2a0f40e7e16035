//! `uffd-snapshot import-criu` and `export-criu`, as typed.

use super::snapshot::Writing;
use bytesize::ByteSize;
use clap::Args;
use std::path::PathBuf;

/// `import-criu`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  criu dump -t 4242 -D dump && uffd-snapshot import-criu dump -o service.snap
  uffd-snapshot import-criu dump -o service.snap --strip
  uffd-restore lazy-pages -D dump --snapshot service.snap

The pages that `criu restore --lazy-pages` leaves to a daemon go into the snapshot; those that several
processes of a tree have in common go into it once. --strip then takes them out of the directory, which
from then on can be restored with the snapshot only: `criu restore` and `criu lazy-pages` refuse it.
`uffd-snapshot export-criu` puts everything back. An interrupted --strip is finished by the same
command.")]
pub struct ImportCriu {
    /// Directory that `criu dump` wrote
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Snapshot to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// When the snapshot is written and has been compared with the images, take its pages out of the directory
    #[arg(long)]
    pub strip: bool,
    /// Pages in holes of the images are zeros: the directory is a sparse copy, and was not used with `--auto-dedup`
    #[arg(long)]
    pub holes_are_zeros: bool,
    /// Memory that may be read ahead of compression
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub buffer: ByteSize,
    /// How to write.
    #[command(flatten)]
    pub writing: Writing,
}

/// `export-criu`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  uffd-snapshot export-criu dump --snapshot service.snap && criu restore -D dump

The files are afterwards what `criu dump` wrote, byte for byte, and every CRIU can restore from them.
When it is interrupted, the same command goes on where it was.")]
pub struct ExportCriu {
    /// Directory that `import-criu --strip` took the pages out of
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The snapshot that they went to
    #[arg(long, value_name = "FILE")]
    pub snapshot: PathBuf,
    /// Decoding threads [default: one for each CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// No progress, no summary
    #[arg(short, long)]
    pub quiet: bool,
}
