//! Attaching to a process: from its id to a [`Handover`].
//!
//! 1. All threads are stopped.
//! 2. It is decided what goes where, and everything that can fail is tried: the userfaultfd is made inside the target, each
//!    mapping registered and unregistered again, what must be there at once is decoded. Up to here a failure leaves the
//!    target as it was.
//! 3. What is there is dropped, before anything is registered: the drop of registered memory waits for its own REMOVE event to
//!    be read. From here on a failure kills the target, for its memory is gone.
//! 4. Whole mappings are registered. Whatever is present in them by then is written, not owed: pages that the kernel touches
//!    without telling (`eager.rs`), and any that could not be dropped.
//! 5. The threads go on when [`Standing::release`] is called.

use std::fs::File;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use snapshot_format::{Snapshot, Source};

use super::attach_error::AttachError;
use super::contents::Contents;
use super::memory::{Present, drop_content, map_missing, present_pages};
use super::placement::{Choice, Place, Situation, Way, place};
use super::standing::Standing;
use super::{create, left, must_be_present};
use crate::addr::{Addr, AddrRange};
use crate::capture::TargetIdentity;
use crate::capture::plan::candidates;
use crate::serve::{Handover, Target, asked_to_end};
use crate::session::OnFailure;
use crate::source::PageSource;
use crate::space::AddressSpace;
use crate::tracee::{StoppedProcess, TargetMemory, TraceError};
use crate::uffd::{Features, Userfaultfd};

/// How to attach.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The process.
    pub pid: i32,
    /// What to restore, and where; empty for everything.
    pub choices: &'a [Choice],
    /// How long to wait for its threads to stop.
    pub stop_timeout: Duration,
    /// What the kernel must be able to do.
    pub on_failure: OnFailure,
    /// A socket that is to be left open in it.
    pub leaves: Option<BorrowedFd<'a>>,
}

/// A target that stands still and waits to be served, and what was done to it.
#[derive(Debug)]
pub struct Attached {
    /// Lets it go on. What is installed before that it need not wait for.
    pub standing: Standing,
    /// What is to be served.
    pub handover: Handover,
    /// Pieces of regions that are restored lazily.
    pub lazy: usize,
    /// Bytes that were restored because they cannot wait for a fault.
    pub eager_bytes: u64,
    /// The number of the socket that was left open in it.
    pub left: Option<RawFd>,
}

/// Attaches to a process, which stands still afterwards.
///
/// # Errors
/// [`AttachError`]; its text says whether the target was harmed.
pub fn attach(
    snapshot: &Snapshot<File>,
    source: &dyn PageSource,
    options: &Options<'_>,
) -> Result<Attached, AttachError> {
    if snapshot.parent().is_some() {
        return Err(AttachError::Layered);
    }
    let features = wanted_features(snapshot, options.on_failure)?;
    let mut process = StoppedProcess::stop(options.pid, options.stop_timeout)?;
    let prepared = prepare(&mut process, snapshot, source, options, features);
    // A process that was killed fails in many ways; only this one is true.
    process.check_still_there()?;
    let prepared = prepared?;
    let target = prepared.target;
    process.kill_if_we_die()?;
    let mut lost = false;
    let dropped = drop_content(&mut process, &prepared.places, &mut lost);
    let replaced = dropped.and_then(|()| {
        replace(
            &process,
            &prepared.places,
            &prepared.userfaultfd,
            prepared.contents,
            prepared.eager,
        )
    });
    let done = match replaced {
        Ok(done) => done,
        Err(error) if !lost => {
            if let Some(number) = prepared.left {
                drop(left::close(&mut process, number));
            }
            return Err(error);
        }
        Err(error) => {
            if let Err(ended @ TraceError::Ended { .. }) = process.check_still_there() {
                return Err(ended.into());
            }
            let killed = target.kill();
            if killed.is_err() {
                // It stays traced, and so stands still, until this program ends; then the kernel kills it.
                std::mem::forget(process);
            }
            return Err(AttachError::Destroyed {
                pid: target.pid,
                why: Box::new(error),
                killed: killed.is_ok(),
            });
        }
    };
    Ok(Attached {
        standing: Standing::new(process, prepared.follower),
        handover: Handover {
            target: Arc::new(target),
            userfaultfd: prepared.userfaultfd,
            space: done.space,
            kept_by_peer: Vec::new(),
        },
        lazy: prepared
            .places
            .iter()
            .filter(|place| place.way != Way::Eager)
            .count(),
        eager_bytes: done.eager_bytes,
        left: prepared.left,
    })
}

/// What is ready when the target has not been touched yet.
struct Prepared<'a> {
    target: Target,
    /// The same, for who lets it go.
    follower: Target,
    places: Vec<Place>,
    userfaultfd: Userfaultfd,
    contents: Contents<'a>,
    /// Pages that cannot wait for a fault.
    eager: Vec<Addr>,
    left: Option<RawFd>,
}

fn prepare<'a>(
    process: &mut StoppedProcess,
    snapshot: &Snapshot<File>,
    source: &'a dyn PageSource,
    options: &Options<'_>,
    features: Features,
) -> Result<Prepared<'a>, AttachError> {
    let pid = process.pid();
    let identity = TargetIdentity::of(process).map_err(AttachError::Look)?;
    let mappings = candidates(process).map_err(AttachError::Look)?;
    let eager: Vec<Addr> = must_be_present(process)?.into_iter().map(Addr).collect();
    let places = place(&Situation {
        regions: snapshot.regions().as_slice(),
        same_process: is_source(&snapshot.metadata().source, &identity),
        mappings: &mappings,
        in_use: &eager,
        choices: options.choices,
    })?;
    let follow =
        |name| Target::open(pid, name).map_err(|errno| AttachError::own("follow", pid, errno));
    let (target, follower) = (follow(identity.name.clone())?, follow(identity.name)?);
    let mut contents = Contents::new(source);
    contents.check(&places, &eager)?;
    let userfaultfd = Userfaultfd::from(create(process)?);
    userfaultfd
        .agree(features)
        .map_err(|errno| AttachError::Agree { pid, errno })?;
    rehearse(&userfaultfd, &places)?;
    if asked_to_end() {
        return Err(AttachError::AskedToEnd);
    }
    map_missing(process, &places)?;
    // While all of its memory is there: it makes the calls.
    let left = options.leaves.map(|socket| left::leave(process, socket));
    let left = left.transpose()?;
    Ok(Prepared {
        target,
        follower,
        places,
        userfaultfd,
        contents,
        eager,
        left,
    })
}

/// True when the target is the very process that the snapshot was taken of.
fn is_source(source: &Source, identity: &TargetIdentity) -> bool {
    match source {
        Source::Process {
            pid,
            start_time,
            boot_id,
            ..
        } => {
            u64::try_from(identity.pid) == Ok(*pid)
                && identity.start_ticks == *start_time
                && !boot_id.is_empty()
                && identity.boot_id == *boot_id
        }
        _ => false,
    }
}

/// What the kernel must be able to do for this snapshot.
fn wanted_features(
    snapshot: &Snapshot<File>,
    on_failure: OnFailure,
) -> Result<Features, AttachError> {
    let have = Features::of_this_kernel().map_err(AttachError::Unavailable)?;
    let regions = || {
        snapshot
            .regions()
            .as_slice()
            .iter()
            .map(|region| &region.region)
    };
    let mut wanted = Features::EVENTS.and(Features::THREAD_ID);
    if regions().any(|region| region.shared) {
        wanted = wanted.and(Features::SHMEM);
    }
    if on_failure == OnFailure::Poison {
        wanted = wanted.and(Features::POISON);
    }
    let missing: Vec<&str> = wanted.missing_in(have).names().collect();
    if !missing.is_empty() {
        return Err(AttachError::KernelTooOld {
            missing: missing.join(", "),
        });
    }
    // For whatever kind the user sends regions to.
    Ok(wanted.and(Features::SHMEM.and(Features::HUGETLBFS).common(have)))
}

/// Registers every mapping and unregisters it again, while nothing is lost yet.
fn rehearse(userfaultfd: &Userfaultfd, places: &[Place]) -> Result<(), AttachError> {
    for place in places.iter().filter(|place| place.way == Way::Lazy) {
        register(userfaultfd, place)?;
    }
    for place in places.iter().filter(|place| place.way == Way::Lazy) {
        userfaultfd
            .unregister(place.mapping)
            .map_err(|errno| AttachError::Register {
                mapping: place.name.clone(),
                errno,
            })?;
    }
    Ok(())
}

fn register(userfaultfd: &Userfaultfd, place: &Place) -> Result<(), AttachError> {
    userfaultfd
        .register(place.mapping)
        .map(drop)
        .map_err(|errno| AttachError::Register {
            mapping: place.name.clone(),
            errno,
        })
}

/// What is there after the memory was replaced.
struct Replaced {
    space: AddressSpace,
    eager_bytes: u64,
}

/// Replaces what is in the target by what is in the snapshot, or by the debt of it.
fn replace(
    process: &StoppedProcess,
    places: &[Place],
    userfaultfd: &Userfaultfd,
    mut contents: Contents<'_>,
    eager: Vec<Addr>,
) -> Result<Replaced, AttachError> {
    let memory = TargetMemory::open(process.memory_tid())?;
    let mut eager_bytes = 0;
    for page in eager {
        if let Some(place) = lazily_placed(places, page) {
            eager_bytes += contents.write_page(place, page, &memory)?;
        }
    }
    let mut space = AddressSpace::new();
    for place in places.iter().filter(|place| place.way != Way::Eager) {
        register(userfaultfd, place)?;
        space.register(place.mapping, place.kind);
        space.owe(place.at, place.first);
    }
    for place in places {
        if place.way == Way::Eager {
            eager_bytes += contents.write_all(place, place.at, &memory)?;
            continue;
        }
        for Present { range, guard } in present_pages(process, place)? {
            // A guard page has no content, and installing any would take the guard away.
            if !guard {
                eager_bytes += contents.write_all(place, range, &memory)?;
            }
            space.settle(range);
        }
    }
    Ok(Replaced { space, eager_bytes })
}

fn lazily_placed(places: &[Place], page: Addr) -> Option<&Place> {
    places
        .iter()
        .find(|place| place.way != Way::Eager && place.at.contains(page))
}

/// A part of a place.
pub(super) fn pages_of(place: &Place, part: AddrRange) -> std::ops::Range<u64> {
    let first = place.first.0 + part.start.since(place.at.start) / snapshot_format::PAGE_BYTES;
    first..first + part.len() / snapshot_format::PAGE_BYTES
}
