//! The directory of a dump, the directories that it builds on (`parent`), and the files with pages in all of them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use snapshot_format::PAGE_BYTES;

use super::finding::{Found, find};
use super::open::check_inventory;
use super::pagemap::{Flags, Pagemap};
use super::records::{self, Kind};
use super::{Fault, ImagesError, LazyRun, PagesFile, Stored};
use crate::addr::AddrRange;

/// The link from the directory of an incremental dump to the one before it.
const PARENT: &str = "parent";

/// The directory of a dump and those that it builds on, as far as they have been needed.
#[derive(Debug)]
pub(super) struct Layers {
    /// The directory of the dump comes first, the parent of each behind it.
    folders: Vec<Folder>,
    files: Vec<PagesFile>,
    /// Where in `files` a file is: by its folder and the number in its name.
    known: HashMap<(usize, u32), usize>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    /// Device and inode, by which a directory is known again.
    identity: (u64, u64),
}

impl Folder {
    fn at(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::metadata(&path)?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self {
            identity: (metadata.dev(), metadata.ino()),
            path,
        })
    }
}

impl Layers {
    /// A directory, nothing of which has been needed.
    pub(super) fn of(folder: &Path) -> Result<Self, ImagesError> {
        let first = Folder::at(folder.to_path_buf()).map_err(ImagesError::io("open", folder))?;
        Ok(Self {
            folders: vec![first],
            files: Vec::new(),
            known: HashMap::new(),
        })
    }

    /// Every file that runs refer to.
    pub(super) fn into_files(self) -> Vec<PagesFile> {
        self.files
    }

    /// The lazy pages of a process, ascending, and where their content is.
    pub(super) fn lazy_runs(
        &mut self,
        pid: i32,
        pagemap: &Pagemap,
    ) -> Result<Vec<LazyRun>, ImagesError> {
        let lazy = pagemap.entries.iter();
        let lazy = lazy.filter(|entry| entry.flags.has(Flags::LAZY));
        let wanted: Vec<AddrRange> = lazy.map(|entry| entry.range()).collect();
        let mut runs = Vec::new();
        let mut wanted = self.look(0, pid, pagemap, &wanted, &mut runs)?;
        let mut folder = 0;
        while !wanted.is_empty() {
            folder = self.parent_of(folder)?;
            let pagemap = self.parents_pagemap(folder, pid)?;
            wanted = self.look(folder, pid, &pagemap, &wanted, &mut runs)?;
        }
        runs.sort_unstable_by_key(|run| run.at.start);
        Ok(runs)
    }

    /// Appends the pages that the directory has, and returns those that are in its parent.
    fn look(
        &mut self,
        folder: usize,
        pid: i32,
        pagemap: &Pagemap,
        wanted: &[AddrRange],
        runs: &mut Vec<LazyRun>,
    ) -> Result<Vec<AddrRange>, ImagesError> {
        let path = self.pagemap_path(folder, pid);
        let Found { here, in_parent } = find(pagemap, wanted).map_err(|missing| {
            let what =
                format!("it lacks the page at {missing}, which the dump after it says is here");
            ImagesError::image(&path)(Fault::damaged(what))
        })?;
        let is_needed = here.iter().any(|(_, page)| page.is_some());
        let file = self.pages_file(folder, pagemap, &path, is_needed)?;
        runs.extend(here.into_iter().map(|(at, page)| LazyRun {
            at,
            stored: file.zip(page).map(|(file, page)| Stored { file, page }),
        }));
        Ok(in_parent)
    }

    /// The file with the pages of a pagemap, if it is needed. That it is long enough is checked in any case.
    fn pages_file(
        &mut self,
        folder: usize,
        pagemap: &Pagemap,
        pagemap_path: &Path,
        is_needed: bool,
    ) -> Result<Option<usize>, ImagesError> {
        let pages = pagemap.present_pages();
        if pages == 0 {
            return Ok(None);
        }
        let key = (folder, pagemap.pages_id);
        let known = self.known.get(&key).copied();
        if let Some(file) = known.and_then(|index| self.files.get(index)) {
            check_length(file, pages, pagemap_path)?;
            return Ok(known);
        }
        let name = format!("pages-{}.img", pagemap.pages_id);
        let file = open_pages(self.path_in(folder, &name))?;
        check_length(&file, pages, pagemap_path)?;
        Ok(is_needed.then(|| {
            self.files.push(file);
            self.known.insert(key, self.files.len() - 1);
            self.files.len() - 1
        }))
    }

    /// The directory that one builds on.
    fn parent_of(&mut self, folder: usize) -> Result<usize, ImagesError> {
        let parent = folder + 1;
        if parent < self.folders.len() {
            return Ok(parent);
        }
        let path = self.path_in(folder, PARENT);
        let wrong = |what: String| ImagesError::Parent {
            folder: self.path_in(folder, ""),
            what,
        };
        let found = Folder::at(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => wrong("is missing, or leads nowhere".into()),
            _ => wrong(format!("cannot be followed ({error})")),
        })?;
        if self
            .folders
            .iter()
            .any(|known| known.identity == found.identity)
        {
            return Err(wrong("leads back to where it came from".into()));
        }
        check_inventory(&found.path)?;
        self.folders.push(found);
        Ok(parent)
    }

    /// The pagemap of a process in a directory that a dump builds on.
    fn parents_pagemap(&self, folder: usize, pid: i32) -> Result<Pagemap, ImagesError> {
        let path = self.pagemap_path(folder, pid);
        let bytes = records::load(&path, Kind::Pagemap)?.ok_or_else(|| ImagesError::Missing {
            path: path.clone(),
            other: self.pagemap_path(folder.saturating_sub(1), pid),
        })?;
        Pagemap::read(&bytes).map_err(ImagesError::image(&path))
    }

    fn pagemap_path(&self, folder: usize, pid: i32) -> PathBuf {
        self.path_in(folder, &format!("pagemap-{pid}.img"))
    }

    fn path_in(&self, folder: usize, name: &str) -> PathBuf {
        let folder = self.folders.get(folder);
        folder.map_or_else(PathBuf::new, |folder| folder.path.join(name))
    }
}

fn open_pages(path: PathBuf) -> Result<PagesFile, ImagesError> {
    let file = records::open(&path).map_err(ImagesError::io("open", &path))?;
    let metadata = file.metadata().map_err(ImagesError::io("look at", &path))?;
    let len = metadata.len();
    if !len.is_multiple_of(PAGE_BYTES) {
        let what = format!("its {len} bytes are not whole pages");
        return Err(ImagesError::image(&path)(Fault::damaged(what)));
    }
    let pages = len / PAGE_BYTES;
    Ok(PagesFile { path, file, pages })
}

fn check_length(file: &PagesFile, needed: u64, pagemap: &Path) -> Result<(), ImagesError> {
    if file.pages >= needed {
        return Ok(());
    }
    Err(ImagesError::Short {
        path: file.path.clone(),
        pages: file.pages,
        pagemap: pagemap.to_path_buf(),
        needed,
    })
}
