//! A directory, file by file.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::layers::Layers;
use super::messages::{Inventory, Pstree};
use super::mm::Memory;
use super::pagemap::{Flags, Pagemap};
use super::records::{self, Kind, Records};
use super::{Fault, Images, ImagesError, Process, runs};
use crate::addr::AddrRange;

/// The version of images that is read. CRIU has written it since 2.0.
const VERSION: u32 = 2;

impl Images {
    /// Opens a directory that `criu dump` wrote.
    ///
    /// # Errors
    /// All of [`ImagesError`] but [`ImagesError::Holes`], for which there is [`Images::refuse_holes`].
    pub fn open(folder: &Path) -> Result<Self, ImagesError> {
        let inventory =
            check_inventory(folder)?.ok_or_else(|| ImagesError::NotADump(folder.into()))?;
        let mut layers = Layers::of(folder)?;
        let mut processes = Vec::new();
        for (pid, parent) in pstree(folder)? {
            processes.push(process(folder, pid, parent, &mut layers)?);
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            inventory,
            processes,
            files: layers.into_files(),
        })
    }
}

/// XXH3 of the inventory.img of a directory, if it has one that is understood.
#[must_use]
pub fn inventory_of(folder: &Path) -> Option<u64> {
    check_inventory(folder).ok().flatten()
}

/// Refuses images of a version that is not known. Returns the XXH3 of inventory.img, or `None` if there is none.
pub(super) fn check_inventory(folder: &Path) -> Result<Option<u64>, ImagesError> {
    let path = folder.join("inventory.img");
    let Some(bytes) = records::load(&path, Kind::Inventory)? else {
        return Ok(None);
    };
    let version = version_of(&bytes).map_err(ImagesError::image(&path))?;
    if version != VERSION {
        let what = format!("the images have version {version}");
        return Err(ImagesError::image(&path)(Fault::Unknown(what)));
    }
    Ok(Some(records::sum(&bytes)))
}

fn version_of(bytes: &[u8]) -> Result<u32, Fault> {
    let inventory: Inventory = Records::of(bytes, Kind::Inventory)?.first()?;
    let version = inventory.img_version;
    version.ok_or_else(|| Fault::damaged("it does not say which version the images have"))
}

/// The processes and their parents.
fn pstree(folder: &Path) -> Result<Vec<(i32, i32)>, ImagesError> {
    let path = folder.join("pstree.img");
    let bytes = records::load(&path, Kind::Pstree)?;
    let bytes = bytes.ok_or_else(|| ImagesError::NoProcesses(folder.into()))?;
    pairs(&bytes).map_err(ImagesError::image(&path))
}

fn pairs(bytes: &[u8]) -> Result<Vec<(i32, i32)>, Fault> {
    let mut records = Records::of(bytes, Kind::Pstree)?;
    let mut processes = Vec::new();
    let mut known = HashSet::new();
    while let Some(entry) = records.next::<Pstree>()? {
        let pid = entry.pid.and_then(|pid| i32::try_from(pid).ok());
        let parent = entry.ppid.and_then(|pid| i32::try_from(pid).ok());
        let (Some(pid @ 1..), Some(parent)) = (pid, parent) else {
            let what = format!("process {:?} of {:?} cannot be", entry.pid, entry.ppid);
            return Err(Fault::damaged(what));
        };
        if !known.insert(pid) {
            return Err(Fault::damaged(format!("process {pid} is in it twice")));
        }
        processes.push((pid, parent));
    }
    if processes.is_empty() {
        return Err(Fault::damaged("it has no processes"));
    }
    Ok(processes)
}

/// What the images of one process say.
fn process(
    folder: &Path,
    pid: i32,
    parent: i32,
    layers: &mut Layers,
) -> Result<Process, ImagesError> {
    let mm_path = folder.join(format!("mm-{pid}.img"));
    let path = folder.join(format!("pagemap-{pid}.img"));
    let mm = records::load(&mm_path, Kind::Mm)?;
    let bytes = records::load(&path, Kind::Pagemap)?;
    let (mm, bytes) = match (mm, bytes) {
        (Some(mm), Some(bytes)) => (mm, bytes),
        (None, None) => return Ok(without_memory(pid, parent)),
        (Some(_), None) => return Err(missing(path, mm_path)),
        (None, Some(_)) => return Err(missing(mm_path, path)),
    };
    let memory = Memory::read(&mm).map_err(ImagesError::image(&mm_path))?;
    let pagemap = Pagemap::read(&bytes).map_err(ImagesError::image(&path))?;
    let lazy = layers.lazy_runs(pid, &pagemap)?;
    let lazy = runs::cut(&lazy, &memory.mappings).map_err(|at| ImagesError::Nobody { path, at })?;
    Ok(Process {
        mappings: memory.mappings,
        lazy,
        has_memory: true,
        arguments: memory.arguments,
        stack_top: memory.stack_top,
        pagemap: records::sum(&bytes),
        eager_pages: eager_pages(&pagemap),
        stripped: pagemap.marked,
        can_be_marked: memory.can_be_marked,
        ..without_memory(pid, parent)
    })
}

/// A zombie.
fn without_memory(pid: i32, parent: i32) -> Process {
    Process {
        pid,
        parent,
        mappings: Vec::new(),
        lazy: Vec::new(),
        has_memory: false,
        arguments: AddrRange::default(),
        stack_top: None,
        pagemap: 0,
        eager_pages: 0,
        stripped: false,
        can_be_marked: false,
    }
}

fn missing(path: PathBuf, other: PathBuf) -> ImagesError {
    ImagesError::Missing { path, other }
}

fn eager_pages(pagemap: &Pagemap) -> u64 {
    let entries = pagemap.entries.iter();
    let eager = entries.filter(|entry| !entry.flags.has(Flags::LAZY));
    eager.fold(0, |sum, entry| sum.saturating_add(entry.pages))
}
