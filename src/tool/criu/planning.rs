//! What would be taken out of a directory of images.

use super::folder::{Folder, number_of, regular};
use super::refused;
use super::stripping::{pagemap_of, read};
use crate::criu::Images;
use crate::criu::manifest::{Manifest, StrippedProcess};
use crate::criu::pagemap::Flags;
use crate::criu::sum;
use crate::failure::Failure;
use snapshot_format::PAGE_BYTES;
use std::collections::HashMap;
use std::fs;

/// What would be taken out of a directory, if everything of it can be put back as it was.
pub(in crate::tool) fn plan(
    folder: &Folder,
    images: &Images,
) -> Result<Vec<StrippedProcess>, Failure> {
    let refused =
        |what: String| refused(&folder.path, format!("{what}: import it without --strip"));
    if let Some(child) = folder.child() {
        return Err(refused(format!(
            "{child:?} is an incremental dump that needs the pages of this one"
        )));
    }
    folder.tidy();
    let ours = Manifest::folder(&folder.path);
    if fs::read_dir(&ours).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(refused(format!("{ours:?} has files, but no manifest.json")));
    }
    let mut ids = Ids::of(folder)?;
    let mut planned = Vec::new();
    for process in images.processes.iter().filter(|one| one.has_memory) {
        let path = folder.pagemap(process.pid);
        let bytes = read(&path)?;
        let pagemap = pagemap_of(&path, &bytes)?;
        let moved = |flags: Flags| flags.has(Flags::LAZY_PRESENT);
        if !pagemap.entries.iter().any(|entry| moved(entry.flags)) {
            continue;
        }
        if sum(&bytes) != process.pagemap {
            return Err(refused(format!("{path:?} changes while it is read")));
        }
        if !process.can_be_marked {
            return Err(refused(format!(
                "process {} has memory at address 0, where the mark would stand that keeps CRIU from restoring without the pages",
                process.pid
            )));
        }
        if regular(&path)?.is_none() || pagemap.encode() != bytes {
            return Err(refused(format!(
                "{path:?} has fields that this program does not know"
            )));
        }
        let id = pagemap.pages_id;
        let pages = folder.pages(id);
        let len = regular(&pages)?.map_or(0, |file| file.len());
        if len != pagemap.present_pages().saturating_mul(PAGE_BYTES) {
            return Err(refused(format!(
                "{pages:?} has {len} bytes, which are not the pages of {path:?}"
            )));
        }
        if ids.users.get(&id) != Some(&1) {
            return Err(refused(format!("{pages:?} has pages of several images")));
        }
        planned.push(StrippedProcess {
            pid: process.pid,
            pagemap: process.pagemap,
            original_pages: id,
            original_len: len,
            new_pages: ids
                .unused()
                .ok_or_else(|| refused("it has no number left for a pages file".into()))?,
        });
    }
    Ok(planned)
}

/// Numbers of pages files.
struct Ids {
    /// How many pagemaps name each of them.
    users: HashMap<u32, u32>,
    highest: u32,
}

impl Ids {
    fn of(folder: &Folder) -> Result<Self, Failure> {
        let mut users = HashMap::new();
        let mut highest = 0;
        for name in folder.names()? {
            highest = highest.max(number_of(&name, "pages-").unwrap_or(0));
            // Those of shared memory are called pagemap-shmem-N.img.
            if name.starts_with("pagemap-") && name.ends_with(".img") {
                let path = folder.path.join(&name);
                let id = pagemap_of(&path, &read(&path)?)?.pages_id;
                *users.entry(id).or_insert(0) += 1;
                highest = highest.max(id);
            }
        }
        Ok(Self { users, highest })
    }

    fn unused(&mut self) -> Option<u32> {
        self.highest = self.highest.checked_add(1)?;
        Some(self.highest)
    }
}
