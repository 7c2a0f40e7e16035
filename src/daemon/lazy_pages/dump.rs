//! The images: what is owed to whom, and where it comes from.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use snapshot_format::PAGE_BYTES;

use super::content::{Content, Packed};
use crate::addr::AddrRange;
use crate::cli::lazy_pages::LazyPages;
use crate::criu::{Images, Process, inventory_of};
use crate::daemon::summary::{as_json, size};
use crate::failure::Failure;
use crate::serve::Target;
use crate::source::PageSource;
use crate::space::{AddressSpace, Kind};
use crate::terminal::printable;
use crate::tool;

/// A dump, ready to be restored from.
pub(super) struct Dump {
    pub(super) source: Arc<dyn PageSource>,
    /// What has the pages, if the images have not.
    pub(super) packed: Option<Packed>,
    pub(super) expected: Arc<Expected>,
    /// Processes that have memory.
    processes: usize,
    /// Those that have none.
    zombies: usize,
    owed: u64,
}

/// Who is to come.
pub(super) struct Expected {
    folder: PathBuf,
    /// XXH3 of inventory.img.
    inventory: u64,
    /// Those that have memory, by their numbers in the images.
    processes: Mutex<BTreeMap<i32, Owed>>,
}

/// What is owed to a process.
pub(super) struct Owed {
    pub(super) space: AddressSpace,
    /// What is to be there first.
    pub(super) first: Vec<AddrRange>,
}

impl Dump {
    pub(super) fn open(
        folder: &Path,
        snapshot: Option<&Path>,
        args: &LazyPages,
    ) -> Result<Self, Failure> {
        let images = Images::open(folder)?;
        let content = match snapshot {
            Some(path) => Content::packed(&images, path, args.cache_size.as_u64())?,
            None => Content::files(&images, args.holes_are_zeros)?,
        };
        let mut processes = BTreeMap::new();
        for process in images.processes.iter().filter(|process| process.has_memory) {
            processes.insert(process.pid, owed_to(process, &content)?);
        }
        let (source, packed) = content.into_source();
        Ok(Self {
            source,
            packed,
            processes: processes.len(),
            zombies: images.processes.len() - processes.len(),
            owed: processes.values().map(|owed| owed.space.owes()).sum(),
            expected: Arc::new(Expected {
                folder: folder.to_path_buf(),
                inventory: images.inventory,
                processes: Mutex::new(processes),
            }),
        })
    }

    /// Refuses what would fail half-way: without descriptors for all of its processes, nor any to find and end those that have come.
    pub(super) fn refuse_without_room(&self, most: u64) -> Result<(), Failure> {
        /// Its userfaultfd, and two by which it is known.
        const EACH: u64 = 3;
        /// For files, threads and what else there is.
        const OTHERS: u64 = 64;
        let needed = self.processes as u64 * EACH + OTHERS;
        // It may not be known.
        if most == 0 || needed <= most {
            return Ok(());
        }
        Err(Failure::Mismatch(format!(
            "{:?} has {}, for which this program would have {needed} files open, and it may have {most}: raise the limit (ulimit -n, \
             LimitNOFILE=)",
            self.expected.folder,
            tool::counted(self.processes as u64, "process"),
        )))
    }

    /// What is said when `criu restore` can connect.
    pub(super) fn listening(&self, socket: &Path, json: bool) -> String {
        #[derive(Serialize)]
        struct Listening<'a> {
            event: &'static str,
            socket: &'a Path,
            images: &'a Path,
            processes: usize,
            owed_bytes: u64,
        }
        let processes = self.processes + self.zombies;
        if json {
            return as_json(&Listening {
                event: "listening",
                socket,
                images: &self.expected.folder,
                processes,
                owed_bytes: self.owed,
            });
        }
        format!(
            "listening on {}: {} of {} from {}",
            printable(&socket.display().to_string()),
            size(self.owed),
            tool::counted(processes as u64, "process"),
            printable(&self.expected.folder.display().to_string()),
        )
    }

    /// What is said when all processes have come, by the bytes that are owed to them then.
    pub(super) fn serving(&self, json: bool) -> impl FnOnce(u64) -> String + use<> {
        #[derive(Serialize)]
        struct Serving {
            event: &'static str,
            processes: usize,
            owed_bytes: u64,
        }
        let processes = self.processes;
        move |owed_bytes| {
            if json {
                return as_json(&Serving {
                    event: "serving",
                    processes,
                    owed_bytes,
                });
            }
            let processes = tool::counted(processes as u64, "process");
            format!("restored {processes}: {} lazily", size(owed_bytes))
        }
    }
}

impl Expected {
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The images that a process has open, if they are of another dump: only by the numbers of the processes these could not be told
    /// from them, and a dump that is made again has the same ones.
    pub(super) fn other_than_of(&self, host: &Target) -> Option<PathBuf> {
        let table = PathBuf::from(format!("/proc/{}/fd", host.pid));
        let mut other = None;
        for open in fs::read_dir(table).into_iter().flatten().flatten() {
            let open = open.path();
            // Only directories have one. What cannot be looked at says nothing.
            let Some(inventory) = inventory_of(&open) else {
                continue;
            };
            if inventory == self.inventory {
                return None;
            }
            other = fs::read_link(&open).ok();
        }
        other
    }

    /// What is owed to the process with this number in the images, once.
    pub(super) fn take(&self, pid: i32) -> Option<Owed> {
        let processes = self.processes.lock();
        processes
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&pid)
    }
}

fn owed_to(process: &Process, content: &Content) -> Result<Owed, Failure> {
    let mut space = AddressSpace::new();
    for mapping in &process.mappings {
        let kind = Kind {
            wiped_on_fork: mapping.wiped_on_fork,
            ..Kind::PRIVATE
        };
        space.register(mapping.at, kind);
    }
    for run in &process.lazy {
        content.owe(&mut space, process, run)?;
    }
    let pages = |range: AddrRange| AddrRange {
        start: range.start.page(PAGE_BYTES),
        end: range.end.plus(PAGE_BYTES - 1).page(PAGE_BYTES),
    };
    let arguments = Some(process.arguments).filter(|range| !range.is_empty());
    let first = arguments.into_iter().chain(process.stack_top);
    Ok(Owed {
        space,
        first: first.map(pages).collect(),
    })
}
