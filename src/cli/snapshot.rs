//! The command line of `uffd-snapshot`.

use super::criu::{ExportCriu, ImportCriu};
use super::working_set::WorkingSet;
use crate::capture::RegionSelector;
use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use snapshot_format::{Codec, Compression, SnapshotId};
use std::path::PathBuf;
use std::time::Duration;

/// Make, look into and check compressed memory snapshots.
#[derive(Debug, Parser)]
#[command(name = "uffd-snapshot", version, max_term_width = 100)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 bad usage.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Capture the memory of a running or stopped process or VMM
    Create(Create),
    /// Compress a raw memory file (as Firecracker, QEMU and others write)
    Pack(Pack),
    /// Turn a snapshot back into raw memory
    Unpack(Unpack),
    /// Show what is in a snapshot
    Inspect(Inspect),
    /// Read, decode and check every page of a snapshot
    Verify(Verify),
    /// Make, look into and merge working sets: the pages that restores touch, ready to be replayed
    #[command(subcommand)]
    WorkingSet(WorkingSet),
    /// Compress the images of a `criu dump` into a snapshot, and take the pages out of them if wanted
    ImportCriu(ImportCriu),
    /// Put the pages of a snapshot back into the images of a `criu dump` that they were taken out of
    ExportCriu(ExportCriu),
}

/// `create`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  uffd-snapshot create --pid 4242 -o service.snap
  uffd-snapshot create --pid 4242 --region largest --leave-stopped -o vm.snap
  uffd-snapshot create --pid 4242 --region '[heap]' --region 7f0000000000-7f0000400000 -o part.snap

All threads are stopped while the memory is read, and go on as they were. The file holds
everything the process knows, secrets included; only its owner may read it.")]
pub struct Create {
    /// Process to capture
    #[arg(long, value_name = "PID")]
    pub pid: i32,
    /// Snapshot to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Memory to capture: a name as in /proc/PID/maps, START-END in hexadecimal, or "largest" (the guest RAM of a
    /// VMM); may be repeated. Default: private writable anonymous memory, heap, stacks, shared and huge page memory
    #[arg(long = "region", value_name = "NAME|START-END|largest")]
    pub regions: Vec<RegionSelector>,
    /// Also capture private writable file mappings (the .data sections of programs and libraries)
    #[arg(long)]
    pub private_files: bool,
    /// Leave the process stopped (SIGCONT lets it go on)
    #[arg(long)]
    pub leave_stopped: bool,
    /// Give up when the threads have not stopped after this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub stop_timeout: Duration,
    /// Memory that may be read ahead of compression: what fits here keeps the process stopped no longer than reading
    /// it takes
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub buffer: ByteSize,
    /// How to write.
    #[command(flatten)]
    pub writing: Writing,
}

/// `pack`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  uffd-snapshot pack vm.mem -o vm.snap
  zstd -dc vm.mem.zst | uffd-snapshot pack - -o vm.snap --codec lz4

A length that is not a multiple of 4096 bytes is recorded: unpack gives the same bytes back.
Holes of the file are not read.")]
pub struct Pack {
    /// Raw memory file, or - for standard input
    #[arg(value_name = "RAW")]
    pub input: PathBuf,
    /// Snapshot to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Memory that may be read ahead of compression
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub buffer: ByteSize,
    /// How to write.
    #[command(flatten)]
    pub writing: Writing,
}

/// `unpack`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  uffd-snapshot unpack vm.snap -o vm.mem
  uffd-snapshot unpack service.snap --region '[heap]' -o - | strings

Regions follow each other without gap, in the order that `inspect` shows. Zero pages become
holes of the file.")]
pub struct Unpack {
    /// Snapshot to read
    #[arg(value_name = "FILE")]
    pub snapshot: PathBuf,
    /// Raw memory file to write, or - for standard output
    #[arg(short, long, value_name = "RAW")]
    pub output: PathBuf,
    /// Only the regions of this name, or starting at this address; may be repeated
    #[arg(long = "region", value_name = "NAME|ADDRESS")]
    pub regions: Vec<String>,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Threads [default: one for each CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// No progress, no summary
    #[arg(short, long)]
    pub quiet: bool,
}

/// `inspect`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  uffd-snapshot inspect vm.snap
  uffd-snapshot inspect vm.snap --json | jq .pages")]
pub struct Inspect {
    /// Snapshot to read
    #[arg(value_name = "FILE")]
    pub snapshot: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `verify`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  uffd-snapshot verify vm.snap && uffd-restore --snapshot vm.snap --pid 4242

Exit status 1 if any page is bad; each is named with its region and address.")]
pub struct Verify {
    /// Snapshot to read
    #[arg(value_name = "FILE")]
    pub snapshot: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Threads [default: one for each CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// No progress, no summary
    #[arg(short, long)]
    pub quiet: bool,
}

/// What `create` and `pack` have in common.
#[derive(Debug, Args)]
pub struct Writing {
    /// Codec of the frames
    #[arg(long, value_enum, default_value_t = CodecName::default(), help_heading = "Compression")]
    pub codec: CodecName,
    /// Level of zstd, -7 to 22 [default: 3; -1 for import-criu]; LZ4 has one level
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        help_heading = "Compression"
    )]
    #[arg(value_parser = clap::value_parser!(i32).range(-7..=22))]
    pub level: Option<i32>,
    /// Pages of 4 KiB compressed together, 1 to 512: few for quick faults, many for a small file [default: 4]
    #[arg(long, value_name = "N", help_heading = "Compression")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=512))]
    pub frame_pages: Option<u16>,
    /// Compressing threads [default: one for each CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// Id of the snapshot, 32 hexadecimal digits [default: random]. With the same id, and the time given by
    /// SOURCE_DATE_EPOCH, the same memory gives the same file
    #[arg(long, value_name = "HEX")]
    pub id: Option<SnapshotId>,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// No progress, no summary
    #[arg(short, long)]
    pub quiet: bool,
}

/// Names of codecs as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CodecName {
    /// Smaller
    Zstd,
    /// Faster
    Lz4,
    /// No compression
    Stored,
}

impl Default for CodecName {
    fn default() -> Self {
        match Compression::default().codec {
            Codec::Zstd => Self::Zstd,
            Codec::Lz4 => Self::Lz4,
            Codec::Stored => Self::Stored,
        }
    }
}

impl Writing {
    /// The compression asked for, with this level of zstd and frames of so many pages if nothing was said about them.
    ///
    /// # Errors
    /// A sentence for options that do not go together.
    pub fn compression(&self, default: Compression) -> Result<Compression, String> {
        let frame_pages = self.frame_pages.unwrap_or(default.frame_pages);
        let asked = compression(self.codec, self.level, frame_pages)?;
        let level = self.level.unwrap_or(default.level);
        Ok(Compression { level, ..asked })
    }
}

/// The compression of these options.
pub(super) fn compression(
    codec: CodecName,
    level: Option<i32>,
    frame_pages: u16,
) -> Result<Compression, String> {
    let codec = match codec {
        CodecName::Zstd => Codec::Zstd,
        CodecName::Lz4 => Codec::Lz4,
        CodecName::Stored => Codec::Stored,
    };
    if level.is_some() && codec != Codec::Zstd {
        return Err(format!(
            "--level goes with --codec zstd; {codec} has no levels"
        ));
    }
    Ok(Compression {
        codec,
        level: level.unwrap_or(DEFAULT_ZSTD_LEVEL),
        frame_pages,
    })
}

/// The level of zstd when none is given, whatever the default codec is.
const DEFAULT_ZSTD_LEVEL: i32 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_level_without_zstd_is_refused() {
        let parsed = Cli::try_parse_from([
            "uffd-snapshot",
            "pack",
            "x",
            "-o",
            "y",
            "--codec",
            "lz4",
            "--level",
            "3",
        ]);
        let Ok(Cli {
            command: Command::Pack(pack),
        }) = parsed
        else {
            panic!("{parsed:?}")
        };
        assert!(pack.writing.compression(Compression::default()).is_err());
    }
}
