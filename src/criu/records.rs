//! Image files: a magic number or two, then messages, each behind its length.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use prost::Message;
use twox_hash::XxHash3_64;

use super::{Fault, ImagesError};

/// The kinds of images that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Inventory,
    Pstree,
    Mm,
    Pagemap,
}

/// What all images begin with, but inventory.img.
const COMMON: u32 = 0x5456_4319;

impl Kind {
    const fn magic(self) -> u32 {
        match self {
            Self::Inventory => 0x5831_3116,
            Self::Pstree => 0x5027_3030,
            Self::Mm => 0x5749_2820,
            Self::Pagemap => 0x5608_4025,
        }
    }

    /// Bytes that a file of this kind has at most: enough for the largest processes, little enough to be read whole.
    const fn most_bytes(self) -> u64 {
        match self {
            Self::Inventory => 1 << 20,
            Self::Pstree | Self::Mm => 1 << 26,
            // In the worst case an entry of 16 bytes for each page of 4096: 256 GiB.
            Self::Pagemap => 1 << 30,
        }
    }

    /// The bytes that a file of this kind begins with.
    pub(super) fn header(self) -> Vec<u8> {
        let common = (self != Self::Inventory).then_some(COMMON);
        common
            .into_iter()
            .chain([self.magic()])
            .flat_map(u32::to_le_bytes)
            .collect()
    }
}

/// The whole content of an image file. `None` when there is no such file.
pub(super) fn load(path: &Path, kind: Kind) -> Result<Option<Vec<u8>>, ImagesError> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImagesError::io("open", path)(error)),
    };
    let most = kind.most_bytes();
    let mut bytes = Vec::new();
    let read = file.take(most + 1).read_to_end(&mut bytes);
    let read = read.map_err(ImagesError::io("read", path))?;
    if read as u64 > most {
        let what = format!("it is larger than {most} bytes");
        return Err(ImagesError::image(path)(Fault::damaged(what)));
    }
    Ok(Some(bytes))
}

/// Opens a regular file for reading.
pub(super) fn open(path: &Path) -> io::Result<File> {
    // Without blocking: opening a pipe that nobody writes to would wait for ever. Files do not care.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// The XXH3 of bytes, by which an image is known again.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The messages of an image, as bytes.
#[derive(Debug)]
pub(super) struct Records<'a> {
    rest: &'a [u8],
    /// How many were returned.
    count: u64,
}

impl<'a> Records<'a> {
    /// Those of an image of this kind.
    pub(super) fn of(bytes: &'a [u8], kind: Kind) -> Result<Self, Fault> {
        let rest = bytes.strip_prefix(kind.header().as_slice());
        match rest {
            Some(rest) => Ok(Self { rest, count: 0 }),
            None => Err(Fault::damaged("it does not begin as such an image does")),
        }
    }

    /// The next message.
    pub(super) fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let number = self.count;
        let cut = || Fault::damaged(format!("it ends in the middle of message {number}"));
        let (len, rest) = self.rest.split_first_chunk().ok_or_else(cut)?;
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX);
        let (message, rest) = rest.split_at_checked(len).ok_or_else(cut)?;
        self.rest = rest;
        self.count += 1;
        match M::decode(message) {
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(Fault::damaged(format!("message {number}: {error}"))),
        }
    }

    /// The next message, which there must be.
    pub(super) fn first<M: Message + Default>(&mut self) -> Result<M, Fault> {
        self.next()?
            .ok_or_else(|| Fault::damaged("it has no messages"))
    }
}

/// Appends a message behind its length.
pub(super) fn append<M: Message>(message: &M, to: &mut Vec<u8>) {
    let bytes = message.encode_to_vec();
    // Only small messages are written.
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&len.to_le_bytes());
    to.extend_from_slice(&bytes);
}
