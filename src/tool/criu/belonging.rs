//! The snapshot that belongs to a directory of images.

use super::folder::Folder;
use super::refused;
use crate::criu::Places;
use crate::criu::manifest::{Manifest, StrippedProcess};
use crate::failure::Failure;
use crate::tool::open;
use snapshot_format::Snapshot;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A snapshot that has the pages of a directory of images.
#[derive(Debug)]
pub(in crate::tool) struct Belonging {
    pub(in crate::tool) snapshot: Arc<Snapshot<File>>,
    pub(in crate::tool) path: PathBuf,
}

impl Belonging {
    /// Open the snapshot that the manifest of a directory names, and no other.
    pub(in crate::tool) fn open(
        folder: &Folder,
        manifest: &Manifest,
        path: &Path,
    ) -> Result<Self, Failure> {
        let inventory = folder.inventory()?;
        if inventory != manifest.inventory {
            return Err(refused(
                &folder.path,
                "inventory.img is not the one that its pages were taken out with: another dump was written over it, or files were mixed up",
            ));
        }
        let snapshot = open(path)?;
        let (id, header) = (snapshot.id(), snapshot.header_checksum());
        if (id, header) != (manifest.snapshot, manifest.snapshot_header) {
            return Err(refused(
                &folder.path,
                format!(
                    "its pages are in snapshot {}, which was {:?}, and {path:?} is {}snapshot {id}: give that one",
                    manifest.snapshot,
                    manifest.snapshot_path,
                    if id == manifest.snapshot {
                        "another "
                    } else {
                        ""
                    },
                ),
            ));
        }
        let belonging = Self {
            snapshot,
            path: path.to_path_buf(),
        };
        if belonging.images() != Some(inventory) {
            return Err(belonging.strange());
        }
        Ok(belonging)
    }

    fn images(&self) -> Option<u64> {
        self.snapshot.processes().map(|processes| processes.images)
    }

    /// Where the memory of a process is.
    pub(in crate::tool) fn places(&self, process: &StrippedProcess) -> Result<Places, Failure> {
        let pid = u32::try_from(process.pid).ok();
        let mut found = self
            .snapshot
            .processes()
            .into_iter()
            .flat_map(|processes| processes.with_regions())
            .filter(|(record, _)| Some(record.pid) == pid && record.pagemap == process.pagemap);
        let (_, regions) = found.next().ok_or_else(|| self.strange())?;
        let regions = self.snapshot.regions().as_slice().get(regions);
        regions.map(Places::of).ok_or_else(|| self.strange())
    }

    fn strange(&self) -> Failure {
        refused(
            &self.path,
            "it is not a snapshot of these images: give the one that `import-criu` wrote of them",
        )
    }
}
