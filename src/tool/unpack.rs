//! `uffd-snapshot unpack`: snapshot in, raw memory out.

use super::{open, pages_size, regions, threads};
use crate::cli::snapshot::Unpack;
use crate::failure::Failure;
use crate::output::PendingFile;
use crate::progress::Progress;
use crate::terminal::say;
use snapshot_format::bulk::{self, Piece};
use snapshot_format::{Error, PAGE_BYTES, PAGE_SIZE, PlacedRegion, Snapshot};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

pub(super) fn run(args: &Unpack) -> Result<(), Failure> {
    let snapshot = open(&args.snapshot)?;
    let chosen = regions::select(snapshot.regions(), &args.regions)?;
    let job = Job {
        snapshot: &snapshot,
        path: &args.snapshot,
        output: &args.output,
        regions: &chosen,
        threads: threads(args.jobs),
    };
    let pages: u64 = chosen.iter().map(|region| region.pages()).sum();
    let progress = Progress::new("unpacking", Some(pages * PAGE_BYTES), args.quiet);
    if args.output.as_os_str() == "-" {
        let mut stdout = Stream(io::stdout().lock());
        job.run(&mut stdout, &progress)?;
        // What is buffered may be the part that cannot be written.
        return stdout
            .0
            .flush()
            .map_err(Failure::io("write", "standard output".as_ref()));
    }
    let pending = PendingFile::create(&args.output, args.force)?;
    job.run(&mut Sparse(pending.file()), &progress)?;
    let len: u64 = chosen.iter().map(|region| region.region.len).sum();
    pending
        .file()
        .set_len(len)
        .map_err(Failure::io("write", &args.output))?;
    pending.publish()?;
    drop(progress);
    if !args.quiet {
        say(&format!(
            "{}: {} of memory",
            args.output.display(),
            pages_size(pages)
        ));
    }
    Ok(())
}

/// Where raw memory goes. Called in order, without gap.
trait Raw {
    fn bytes(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    fn zeros(&mut self, len: u64) -> io::Result<()>;
}

/// A file: zeros are holes.
struct Sparse<'a>(&'a File);

impl Raw for Sparse<'_> {
    fn bytes(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn zeros(&mut self, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe: zeros are written.
struct Stream<W>(W);

impl<W: Write> Raw for Stream<W> {
    fn bytes(&mut self, _at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn zeros(&mut self, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 16 * PAGE_SIZE] = [0; 16 * PAGE_SIZE];
        let mut left = len;
        while left > 0 {
            let step = left.min(ZEROS.len() as u64);
            self.0
                .write_all(&ZEROS[..usize::try_from(step).unwrap_or(ZEROS.len())])?;
            left -= step;
        }
        Ok(())
    }
}

struct Job<'a> {
    snapshot: &'a Arc<Snapshot<File>>,
    path: &'a Path,
    output: &'a Path,
    regions: &'a [&'a PlacedRegion],
    threads: usize,
}

/// Either side may fail.
enum Failed {
    Read(Error),
    Write(io::Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Read(error)
    }
}

impl Job<'_> {
    fn run(&self, raw: &mut impl Raw, progress: &Progress) -> Result<(), Failure> {
        let mut written = 0;
        for region in self.regions {
            self.region(region, written, raw, progress)
                .map_err(|failed| self.failure(region, failed))?;
            written += region.region.len;
        }
        Ok(())
    }

    /// Write a region, whose first byte goes to `base`.
    fn region(
        &self,
        region: &PlacedRegion,
        base: u64,
        raw: &mut impl Raw,
        progress: &Progress,
    ) -> Result<(), Failed> {
        let offset_of = |page: u64| (page - region.first_page.0) * PAGE_BYTES;
        let len = region.region.len;
        bulk::read(self.snapshot, region.page_range(), self.threads, |piece| {
            let (first, pages) = match piece {
                Piece::Zeros(first, pages) => (first, pages),
                Piece::Bytes(first, bytes) => (first, (bytes.len() / PAGE_SIZE) as u64),
            };
            let at = offset_of(first.0);
            // The last page of raw memory may be partly used.
            let used = (pages * PAGE_BYTES).min(len.saturating_sub(at));
            match piece {
                Piece::Zeros(..) => raw.zeros(used),
                Piece::Bytes(_, bytes) => {
                    let used = usize::try_from(used).unwrap_or(usize::MAX);
                    raw.bytes(base + at, &bytes[..used.min(bytes.len())])
                }
            }
            .map_err(Failed::Write)?;
            progress.add(pages * PAGE_BYTES);
            Ok(())
        })
    }

    fn failure(&self, region: &PlacedRegion, failed: Failed) -> Failure {
        match failed {
            Failed::Write(error) => Failure::io("write", self.output)(error),
            Failed::Read(source) => Failure::Region {
                path: self.path.to_path_buf(),
                region: regions::name(region),
                source,
            },
        }
    }
}
