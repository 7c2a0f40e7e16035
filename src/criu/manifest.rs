//! `DIR/uffd-restore/manifest.json`: what is known of a directory whose lazy pages have been moved to a snapshot.
//!
//! The original pagemap-PID.img are kept beside it. It is written before anything of the directory is changed and removed after everything
//! has been put back, so a directory that lacks pages always has one.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use snapshot_format::SnapshotId;

use super::{Fault, ImagesError, records};
use crate::failure::Failure;
use crate::output::{PendingFile, sync_folder};

/// The folder in a directory of images that is ours.
pub const FOLDER: &str = "uffd-restore";
/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

const FILE: &str = "manifest.json";
/// A process takes about 150 bytes.
const MOST_BYTES: u64 = 1 << 28;

/// What is known of a directory whose lazy pages have been moved to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// The snapshot that has the pages.
    #[serde(with = "as_text")]
    pub snapshot: SnapshotId,
    /// The checksum of its header, which changes with anything in it.
    #[serde(with = "hexadecimal")]
    pub snapshot_header: u64,
    /// Where it was at the time. A hint for people, no more: it may have been moved.
    pub snapshot_path: String,
    /// XXH3 of inventory.img.
    #[serde(with = "hexadecimal")]
    pub inventory: u64,
    /// Every process whose files have been changed, or will be.
    pub processes: Vec<StrippedProcess>,
}

/// A process whose lazy pages have been moved to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StrippedProcess {
    /// Its number in the images.
    pub pid: i32,
    /// XXH3 of the original pagemap-PID.img.
    #[serde(with = "hexadecimal")]
    pub pagemap: u64,
    /// The original file with its pages was pages-*this*.img.
    pub original_pages: u32,
    /// Length of that file in bytes.
    pub original_len: u64,
    /// The file with what is left is pages-*this*.img.
    pub new_pages: u32,
}

impl Manifest {
    /// The folder in a directory of images that is ours.
    #[must_use]
    pub fn folder(images: &Path) -> PathBuf {
        images.join(FOLDER)
    }

    /// Where the original pagemap of a process is kept.
    #[must_use]
    pub fn original_pagemap(images: &Path, pid: i32) -> PathBuf {
        Self::folder(images).join(format!("pagemap-{pid}.img"))
    }

    /// The manifest of a directory of images, if it has one.
    ///
    /// # Errors
    /// One that cannot be read, or that this program does not understand: never taken for none.
    pub fn find(images: &Path) -> Result<Option<Self>, ImagesError> {
        let path = Self::folder(images).join(FILE);
        let file = match records::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ImagesError::io("open", &path)(error)),
        };
        let mut text = Vec::new();
        let read = file.take(MOST_BYTES).read_to_end(&mut text);
        read.map_err(ImagesError::io("read", &path))?;
        Self::parse(&text)
            .map(Some)
            .map_err(ImagesError::image(&path))
    }

    /// The manifest that some JSON is.
    fn parse(text: &[u8]) -> Result<Self, Fault> {
        // First of all the version: a later one may have anything else in it.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let wrong = |error| Fault::Manifest(format!("it is damaged ({error})"));
        let Version { version } = serde_json::from_slice(text).map_err(wrong)?;
        if version != VERSION {
            let what =
                format!("it is a manifest of version {version}, this program knows {VERSION}");
            return Err(Fault::Manifest(what));
        }
        serde_json::from_slice(text).map_err(wrong)
    }

    /// Puts the manifest into a directory of images, whole or not at all; on disk when this returns.
    ///
    /// # Errors
    /// [`Failure::Io`].
    pub fn write(&self, images: &Path) -> Result<(), Failure> {
        let folder = Self::folder(images);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Failure::io("create", &folder)(error));
            }
            _ => sync_folder(images)?,
        }
        let path = folder.join(FILE);
        let pending = PendingFile::create(&path, true)?;
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| Failure::io("write", &path)(error.into()))?;
        text.push(b'\n');
        let mut file = pending.file();
        file.write_all(&text).map_err(Failure::io("write", &path))?;
        pending.publish()
    }

    /// Removes the manifest and all that is kept beside it; on disk when this returns.
    ///
    /// # Errors
    /// [`Failure::Io`].
    pub fn remove(images: &Path) -> Result<(), Failure> {
        let folder = Self::folder(images);
        // The manifest last: as long as it exists the originals do as well, or are not needed.
        let entries = fs::read_dir(&folder).map_err(Failure::io("read", &folder))?;
        for entry in entries {
            let path = entry.map_err(Failure::io("read", &folder))?.path();
            if path.file_name().is_none_or(|name| name != FILE) {
                fs::remove_file(&path).map_err(Failure::io("remove", &path))?;
            }
        }
        let path = folder.join(FILE);
        fs::remove_file(&path).map_err(Failure::io("remove", &path))?;
        fs::remove_dir(&folder).map_err(Failure::io("remove", &folder))?;
        sync_folder(images)
    }
}

/// Numbers of 64 bits as text: programs that read JSON keep 53 of them.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    // The signature that serde asks for.
    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        u64::from_str_radix(&text, 16)
            .map_err(|_| D::Error::custom(format!("{text:?} is not a checksum")))
    }
}

/// What has a text form.
mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        let text = String::deserialize(from)?;
        text.parse()
            .map_err(|_| D::Error::custom(format!("{text:?} is not the id of a snapshot")))
    }
}
