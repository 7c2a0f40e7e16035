//! `uffd-snapshot pack`: raw memory in, snapshot out.

use super::writing::{Output, ReadAhead};
use crate::cli::snapshot::Pack;
use crate::failure::Failure;
use crate::progress::Progress;
use nix::unistd::{Whence, lseek};
use snapshot_format::{Compression, PAGE_BYTES, PAGE_SIZE, Source};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::Path;

pub(super) fn run(args: &Pack) -> Result<(), Failure> {
    let mut input = Input::open(&args.input)?;
    let mut output = Output::create(
        &args.output,
        &args.writing,
        Compression::default(),
        ReadAhead::Steady(args.buffer.as_u64()),
    )?;
    let quiet = args.writing.quiet || args.writing.json;
    let progress = Progress::new("packing", input.len, quiet);
    let bytes = copy(&mut input, &mut output, &progress)?;
    drop(progress);
    let written = output.publish(Source::Raw { bytes })?;
    #[derive(serde::Serialize)]
    struct More {
        raw_bytes: u64,
    }
    let more = More { raw_bytes: bytes };
    written.report(&args.writing, "", more)
}

/// A raw memory file, or a pipe of it.
struct Input {
    file: File,
    path: std::path::PathBuf,
    /// Its length in bytes when it is a file, which then may have holes.
    len: Option<u64>,
    position: u64,
}

impl Input {
    fn open(path: &Path) -> Result<Self, Failure> {
        let failed = || Failure::io("open", path);
        let file = if path.as_os_str() == "-" {
            let stdin = io::stdin().as_fd().try_clone_to_owned();
            File::from(stdin.map_err(failed())?)
        } else {
            File::open(path).map_err(failed())?
        };
        let kind = file.metadata().map_err(failed())?;
        if kind.is_dir() {
            let error = io::Error::from(io::ErrorKind::IsADirectory);
            return Err(failed()(error));
        }
        // Standard input may be a file that somebody has read from: what is left of it is the input.
        let position = match lseek(&file, 0, Whence::SeekCur) {
            Ok(position) => u64::try_from(position).unwrap_or(0),
            Err(_) => 0,
        };
        Ok(Self {
            file,
            path: path.to_path_buf(),
            len: kind.is_file().then(|| kind.len().saturating_sub(position)),
            position,
        })
    }

    /// Bytes of the hole at the current position, whole pages of it, from which reading then goes on.
    fn skip_hole(&mut self) -> Result<u64, Failure> {
        let Some(len) = self.len else { return Ok(0) };
        let failed = Failure::io("read", &self.path);
        let from = i64::try_from(self.position).unwrap_or(i64::MAX);
        let end_of_input = || {
            let end = self.file.metadata().map(|meta| meta.len());
            end.unwrap_or(len)
        };
        let data = match lseek(&self.file, from, Whence::SeekData) {
            Ok(data) => u64::try_from(data).unwrap_or(self.position),
            // No data any more: a hole up to the end.
            Err(nix::Error::ENXIO) => end_of_input().max(self.position),
            // The file system does not know holes.
            Err(_) => self.position,
        };
        let hole = (data - self.position) / PAGE_BYTES * PAGE_BYTES;
        self.position += hole;
        let to = i64::try_from(self.position).unwrap_or(i64::MAX);
        lseek(&self.file, to, Whence::SeekSet)
            .map_err(io::Error::from)
            .map_err(failed)?;
        Ok(hole)
    }

    /// Fill `buffer` as far as the input goes.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::io("read", &self.path)(error)),
            }
        }
        self.position += filled as u64;
        Ok(filled)
    }
}

/// Copy everything; returns the bytes of the input.
fn copy(input: &mut Input, output: &mut Output, progress: &Progress) -> Result<u64, Failure> {
    let failure = output.failure();
    output.writer.begin_stream().map_err(&failure)?;
    let mut total = 0;
    loop {
        let hole = input.skip_hole()?;
        if hole > 0 {
            output.writer.zeros(hole / PAGE_BYTES).map_err(&failure)?;
            progress.add(hole);
            total += hole;
        }
        let space = output.writer.space().map_err(&failure)?;
        let len = input.read(space)?;
        // A page that the input ends in is filled up with zeros; the length says where it ends.
        let pages = len.div_ceil(PAGE_SIZE);
        let room = space.len();
        space[len..pages * PAGE_SIZE].fill(0);
        output.writer.commit(pages).map_err(&failure)?;
        progress.add(len as u64);
        total += len as u64;
        if len < room {
            break;
        }
    }
    if let Some(expected) = input.len.filter(|&expected| total < expected) {
        return Err(Failure::Shrank {
            path: input.path.clone(),
            expected,
            read: total,
        });
    }
    output.writer.end_stream(total).map_err(&failure)?;
    Ok(total)
}
