//! Taking the lazy pages out of a directory of images.

use super::belonging::Belonging;
use super::folder::{Folder, regular};
use super::pages::{Part, Reader, parts};
use super::refused;
use super::signals::HeldSignals;
use crate::criu::manifest::{Manifest, StrippedProcess};
use crate::criu::pagemap::{Flags, Pagemap};
use crate::criu::sum;
use crate::failure::Failure;
use crate::progress::Progress;
use snapshot_format::{PAGE_BYTES, PAGE_SIZE};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What stripping did.
#[derive(Debug, Default)]
pub(in crate::tool) struct Stripped {
    /// Processes whose pages were taken out.
    pub(in crate::tool) processes: usize,
    /// Bytes of pages that are left.
    pub(in crate::tool) left: u64,
    /// Bytes of disk that the removed files had.
    pub(in crate::tool) freed: u64,
    /// Removed files that have other names, and so still take their disk.
    pub(in crate::tool) linked: Vec<PathBuf>,
}

/// A process of a manifest, and its pagemap as the dump wrote it.
#[derive(Debug)]
pub(in crate::tool) struct Original<'a> {
    pub(in crate::tool) process: &'a StrippedProcess,
    pub(in crate::tool) bytes: Vec<u8>,
    pub(in crate::tool) pagemap: Pagemap,
    /// The directory has the marked pagemap in its place.
    pub(in crate::tool) replaced: bool,
}

/// Takes the pages of a manifest out of a directory, from where on it is.
#[derive(Debug)]
pub(in crate::tool) struct Stripping<'a> {
    pub(in crate::tool) folder: &'a Folder,
    pub(in crate::tool) manifest: &'a Manifest,
    pub(in crate::tool) belonging: &'a Belonging,
    pub(in crate::tool) threads: usize,
}

impl Stripping<'_> {
    /// Compare what is to be removed with the snapshot, byte for byte.
    pub(in crate::tool) fn compare(&self, progress: &Progress) -> Result<(), Failure> {
        for original in self.originals()? {
            self.compare_process(&original, progress)?;
        }
        Ok(())
    }

    fn compare_process(&self, original: &Original<'_>, progress: &Progress) -> Result<(), Failure> {
        let path = self.folder.pages(original.process.original_pages);
        let Some(kind) = regular(&path)? else {
            if original.replaced {
                return Ok(());
            }
            return Err(refused(&self.folder.path, format!("{path:?} is gone")));
        };
        if kind.len() != original.process.original_len {
            return Err(refused(
                &self.folder.path,
                format!("{path:?} has another length than before"),
            ));
        }
        let file = File::open(&path).map_err(Failure::io("open", &path))?;
        let mut reader = Reader::new(self.belonging, self.threads);
        let (mut at, mut theirs) = (0, Vec::new());
        for part in self.parts(original)? {
            if let Part::Moved(first, pages) = part {
                let mut here = at;
                reader.read(first, pages, |ours| {
                    theirs.resize(ours.len(), 0);
                    file.read_exact_at(&mut theirs, here)
                        .map_err(Failure::io("read", &path))?;
                    if theirs != ours {
                        return Err(refused(
                            &self.folder.path,
                            format!(
                                "the pages at byte {here} of {path:?} are not those of {:?}: somebody has changed them since; import it again",
                                self.belonging.path
                            ),
                        ));
                    }
                    here += ours.len() as u64;
                    progress.add(ours.len() as u64);
                    Ok(())
                })?;
            }
            at += part.pages() * PAGE_BYTES;
        }
        Ok(())
    }

    /// Begin: the manifest, and everything that leaves the directory restorable as it was. A failure or a signal undoes it.
    pub(in crate::tool) fn prepare(&self, signals: &HeldSignals) -> Result<bool, Failure> {
        let prepared = self
            .manifest
            .write(&self.folder.path)
            .and_then(|()| self.keep(signals));
        if prepared.is_ok() && !signals.came() {
            return Ok(true);
        }
        for process in &self.manifest.processes {
            // The first failure is the one to report.
            let _ = self.folder.remove(&self.folder.pages(process.new_pages));
        }
        let removed = self.undo();
        prepared.map(|()| false).map_err(|failure| match removed {
            Ok(()) => failure,
            Err(_) => halfway(self.folder, failure),
        })
    }

    /// Remove the manifest and what is kept beside it, of which there may be any part.
    fn undo(&self) -> Result<(), Failure> {
        if Manifest::find(&self.folder.path)?.is_some() {
            return Manifest::remove(&self.folder.path);
        }
        self.folder.tidy();
        match fs::remove_dir(Manifest::folder(&self.folder.path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::io(
                "remove",
                &Manifest::folder(&self.folder.path),
            )(error)),
            _ => Ok(()),
        }
    }

    /// Keep the original pagemaps, and make the marked ones and the files with what is left.
    fn keep(&self, signals: &HeldSignals) -> Result<(), Failure> {
        for original in self.originals()? {
            if original.replaced {
                continue;
            }
            if signals.came() {
                return Ok(());
            }
            let like = self.like(&original)?;
            let kept = Manifest::original_pagemap(&self.folder.path, original.process.pid);
            self.folder
                .place(&kept, &like, |file| write(file, &original.bytes, 0, &kept))?;
            self.write_left(&original, &like)?;
            let marked = marked(&original).encode();
            self.folder.prepare_pagemap(original.process.pid, &marked)?;
        }
        Ok(())
    }

    /// The pages that stay go to a file of their own.
    fn write_left(&self, original: &Original<'_>, like: &fs::Metadata) -> Result<(), Failure> {
        let from = self.folder.pages(original.process.original_pages);
        let to = self.folder.pages(original.process.new_pages);
        let source = File::open(&from).map_err(Failure::io("open", &from))?;
        let parts = self.parts(original)?;
        self.folder.place(&to, like, |file| {
            let (mut read_at, mut write_at) = (0, 0);
            for part in parts {
                let len = part.pages() * PAGE_BYTES;
                if let Part::Left(_) = part {
                    copy((&source, &from, read_at), (file, &to, write_at), len)?;
                    write_at += len;
                }
                read_at += len;
            }
            Ok(())
        })
    }

    /// Go on from wherever the directory is to its end: marked pagemaps, and none of the old files.
    pub(in crate::tool) fn complete(&self) -> Result<Stripped, Failure> {
        self.replace()
            .map_err(|failure| halfway(self.folder, failure))
    }

    fn replace(&self) -> Result<Stripped, Failure> {
        let mut stripped = Stripped::default();
        for original in self.originals()? {
            if !original.replaced {
                self.folder.replace_pagemap(original.process.pid)?;
            }
        }
        for process in &self.manifest.processes {
            stripped.processes += 1;
            let left = self.folder.pages(process.new_pages);
            stripped.left += regular(&left)?.map_or(0, |file| file.len());
            let old = self.folder.pages(process.original_pages);
            if let Some(kind) = regular(&old)? {
                if kind.nlink() > 1 {
                    stripped.linked.push(old.clone());
                } else {
                    stripped.freed += kind.blocks() * 512;
                }
                self.folder.remove(&old)?;
            }
        }
        self.folder.tidy();
        self.folder.sync()?;
        Ok(stripped)
    }

    /// Resume what was interrupted between the manifest and the first marked pagemap.
    pub(in crate::tool) fn resume(&self, signals: &HeldSignals) -> Result<(), Failure> {
        self.keep(signals)
            .map_err(|failure| halfway(self.folder, failure))
    }

    fn originals(&self) -> Result<Vec<Original<'_>>, Failure> {
        originals(self.folder, self.manifest)
    }

    fn parts(&self, original: &Original<'_>) -> Result<Vec<Part>, Failure> {
        let places = self.belonging.places(original.process)?;
        parts(&original.pagemap, &places, self.belonging)
    }

    fn like(&self, original: &Original<'_>) -> Result<fs::Metadata, Failure> {
        let path = self.folder.pagemap(original.process.pid);
        fs::metadata(&path).map_err(Failure::io("use", &path))
    }
}

/// The processes of a manifest, and how far each of them is.
pub(in crate::tool) fn originals<'a>(
    folder: &Folder,
    manifest: &'a Manifest,
) -> Result<Vec<Original<'a>>, Failure> {
    let original = |process: &'a StrippedProcess| {
        let path = folder.pagemap(process.pid);
        let mut bytes = read(&path)?;
        let replaced = sum(&bytes) != process.pagemap;
        if replaced {
            let now = pagemap_of(&path, &bytes)?;
            let kept = Manifest::original_pagemap(&folder.path, process.pid);
            if !now.marked || now.pages_id != process.new_pages {
                return Err(refused(
                    &folder.path,
                    format!("{path:?} was changed since its pages were taken out: dump again"),
                ));
            }
            bytes = read(&kept)?;
            if sum(&bytes) != process.pagemap {
                return Err(refused(
                    &folder.path,
                    format!(
                        "{kept:?} is not the pagemap that the dump wrote: it can only be restored with the snapshot"
                    ),
                ));
            }
        }
        Ok(Original {
            process,
            pagemap: pagemap_of(&path, &bytes)?,
            bytes,
            replaced,
        })
    };
    manifest.processes.iter().map(original).collect()
}

/// The pagemap of a process whose lazy pages are in a snapshot.
fn marked(original: &Original<'_>) -> Pagemap {
    let mut pagemap = original.pagemap.clone();
    pagemap.pages_id = original.process.new_pages;
    pagemap.marked = true;
    for entry in &mut pagemap.entries {
        if entry.flags == Flags::LAZY_PRESENT {
            entry.flags = Flags::LAZY;
        }
    }
    pagemap
}

fn halfway(folder: &Folder, source: Failure) -> Failure {
    Failure::Halfway {
        folder: folder.path.clone(),
        source: Box::new(source),
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(Failure::io("read", path))
}

pub(super) fn pagemap_of(path: &Path, bytes: &[u8]) -> Result<Pagemap, Failure> {
    Pagemap::read(bytes).map_err(|fault| {
        Failure::Images(crate::criu::ImagesError::Image {
            path: path.to_path_buf(),
            fault,
        })
    })
}

pub(in crate::tool) fn write(
    file: &File,
    bytes: &[u8],
    at: u64,
    path: &Path,
) -> Result<(), Failure> {
    file.write_all_at(bytes, at)
        .map_err(Failure::io("write", path))
}

/// Copy bytes from one place to another.
pub(in crate::tool) fn copy(
    (from, from_path, from_at): (&File, &Path, u64),
    (to, to_path, to_at): (&File, &Path, u64),
    len: u64,
) -> Result<(), Failure> {
    let mut buffer = vec![0; 64 * PAGE_SIZE];
    let mut done = 0;
    while done < len {
        let step = usize::try_from(len - done)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let bytes = &mut buffer[..step];
        from.read_exact_at(bytes, from_at + done)
            .map_err(Failure::io("read", from_path))?;
        write(to, bytes, to_at + done, to_path)?;
        done += step as u64;
    }
    Ok(())
}
