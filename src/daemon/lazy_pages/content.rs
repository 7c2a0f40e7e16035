//! Where the pages of a dump come from: its own files, or a snapshot that they were put into.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use snapshot_format::{PAGE_BYTES, PageNo, Snapshot};

use crate::addr::{Addr, AddrRange};
use crate::criu::manifest::Manifest;
use crate::criu::{Images, LazyRun, Places, Process};
use crate::failure::Failure;
use crate::source::{FrameCache, JoinedSource, PageSource, RawSource, SnapshotSource};
use crate::space::AddressSpace;
use crate::tool;

/// Pages of a dump by process and address.
pub(super) enum Content {
    /// In its own files.
    Files(JoinedSource),
    /// In a snapshot.
    Packed {
        snapshot: Arc<Snapshot<File>>,
        cache: Arc<FrameCache>,
        /// Several processes have pages in common.
        shares: Arc<AtomicBool>,
        places: BTreeMap<i32, Places>,
    },
}

impl Content {
    /// The files of the images.
    pub(super) fn files(images: &Images, holes_are_zeros: bool) -> Result<Self, Failure> {
        let folder = &images.folder;
        let stripped = images.processes.iter().find(|process| process.stripped);
        if let Some(manifest) = Manifest::find(folder)? {
            return Err(Failure::Mismatch(format!(
                "the lazy pages of {folder:?} are in the snapshot {} (it was {:?}): name it with --snapshot, or put them back with \
                 `uffd-snapshot export-criu`",
                manifest.snapshot, manifest.snapshot_path
            )));
        }
        if let Some(process) = stripped {
            return Err(Failure::Mismatch(format!(
                "the lazy pages of process {} in {folder:?} are in a snapshot, and the manifest that says in which is missing: name it with \
                 --snapshot",
                process.pid
            )));
        }
        if !holes_are_zeros {
            images.refuse_holes()?;
        }
        let files = images.files.iter().map(|pages| {
            let file = pages.file.try_clone();
            let file = file.map_err(Failure::io("open", &pages.path))?;
            Ok(RawSource::new(file, &pages.path)?)
        });
        let files = files.collect::<Result<_, Failure>>()?;
        Ok(Self::Files(JoinedSource::new(files)))
    }

    /// The snapshot that the images were put into.
    pub(super) fn packed(images: &Images, path: &Path, cache: u64) -> Result<Self, Failure> {
        let snapshot = tool::open(path)?;
        let manifest = Manifest::find(&images.folder)?;
        let processes = snapshot.processes().ok_or_else(|| {
            Failure::Mismatch(format!(
                "{path:?} has no processes of a dump: give a snapshot that `uffd-snapshot import-criu` wrote"
            ))
        })?;
        let other = |what: &str| {
            Failure::Mismatch(format!(
                "{path:?} is not the snapshot of the images in {:?}: {what}: give the one that was made of them",
                images.folder
            ))
        };
        if processes.images != images.inventory {
            return Err(other("they are of another dump"));
        }
        if manifest.as_ref().is_some_and(|manifest| {
            manifest.snapshot != snapshot.id()
                || manifest.snapshot_header != snapshot.header_checksum()
        }) {
            return Err(other("their pages were moved to another one"));
        }
        // Of what was stripped the manifest knows how it was.
        let original = |process: &Process| {
            let known = manifest.iter().flat_map(|manifest| &manifest.processes);
            let known = known.into_iter().find(|known| known.pid == process.pid);
            known
                .filter(|_| process.stripped)
                .map_or(process.pagemap, |known| known.pagemap)
        };
        let mut places = BTreeMap::new();
        for (record, range) in processes.with_regions() {
            let pid = i32::try_from(record.pid).unwrap_or(0);
            let process = images.processes.iter().find(|process| process.pid == pid);
            let process = process.ok_or_else(|| other(&format!("they have no process {pid}")))?;
            let mappings_are_known = !process.stripped || manifest.is_some();
            if mappings_are_known && original(process) != record.pagemap {
                return Err(other(&format!("process {pid} has other pages there")));
            }
            let regions = snapshot.regions().as_slice().get(range);
            places.insert(pid, Places::of(regions.unwrap_or_default()));
        }
        Ok(Self::Packed {
            snapshot,
            cache: Arc::new(FrameCache::new(cache)),
            shares: Arc::new(AtomicBool::new(places.len() > 1)),
            places,
        })
    }

    /// Owes a process a run of its pages.
    pub(super) fn owe(
        &self,
        space: &mut AddressSpace,
        process: &Process,
        run: &LazyRun,
    ) -> Result<(), Failure> {
        let missing = |at: Addr, why: &str| {
            Failure::Mismatch(format!(
                "the page at {at} of process {} is nowhere to be found: {why}",
                process.pid
            ))
        };
        match self {
            Self::Files(source) => {
                let stored = run.stored.ok_or_else(|| {
                    let why = "the dump left it to a page server (criu dump --lazy-pages): use criu lazy-pages for it";
                    missing(run.at.start, why)
                })?;
                let first = source.first_page(stored.file);
                space.owe(run.at, PageNo(first + stored.page));
            }
            Self::Packed { places, .. } => {
                let places = places.get(&process.pid);
                let mut rest = run.at;
                while !rest.is_empty() {
                    let found = places.and_then(|places| places.find(rest.start.0));
                    let (page, pages) = found.ok_or_else(|| {
                        let why = "the snapshot does not have it: import the images again";
                        missing(rest.start, why)
                    })?;
                    let len = rest.len().min(pages.saturating_mul(PAGE_BYTES));
                    let part = AddrRange::at(rest.start, len);
                    space.owe(part, page);
                    rest.start = part.end;
                }
            }
        }
        Ok(())
    }

    /// Where readers get them from; and the snapshot, if it is one, with the frames that are kept of it.
    pub(super) fn into_source(self) -> (Arc<dyn PageSource>, Option<Packed>) {
        match self {
            Self::Files(source) => (Arc::new(source), None),
            Self::Packed {
                snapshot,
                cache,
                shares,
                ..
            } => {
                let source = SnapshotSource::with_cache(Arc::clone(&snapshot), Arc::clone(&cache))
                    .sharing_while(Arc::clone(&shares));
                let packed = Packed {
                    snapshot,
                    cache,
                    shares,
                };
                (Arc::new(source), Some(packed))
            }
        }
    }
}

/// A snapshot that pages come from.
pub(super) struct Packed {
    pub(super) snapshot: Arc<Snapshot<File>>,
    pub(super) cache: Arc<FrameCache>,
    /// To be set when processes have pages in common.
    pub(super) shares: Arc<AtomicBool>,
}
