//! Where the bytes of a snapshot come from: the seam between the format and the file system.

use std::{fs::File, io, os::unix::fs::FileExt};

/// Bytes that can be read by position, from several threads at once.
///
/// Files are read with `pread(2)` and never mapped: a file truncated underneath gives `UnexpectedEof` to the one who
/// reads there, and not `SIGBUS` to the whole process.
pub trait ReadAt: Send + Sync {
    /// Fill `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the bytes end before the buffer is full; any error of the storage.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// Any error of the storage.
    fn len(&self) -> io::Result<u64>;

    /// True when there are no bytes.
    ///
    /// # Errors
    /// Any error of the storage.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        // A block device has no length in its metadata, but an end.
        let mut handle = self;
        match self.metadata()? {
            meta if meta.is_file() => Ok(meta.len()),
            _ => io::Seek::seek(&mut handle, io::SeekFrom::End(0)),
        }
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..buffer.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.as_slice().read_exact_at(buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.as_slice().len() as u64)
    }
}
