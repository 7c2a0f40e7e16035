//! One VMM, from its connection to its end. A thread of its own: whatever becomes of it, the others are served.

use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;
use snapshot_format::PAGE_BYTES;

use super::log::{Log, Who};
use super::places::Places;
use crate::addr::Addr;
use crate::daemon::working_sets::WorkingSets;
use crate::handover::firecracker::{self, Region};
use crate::handover::peer::Credentials;
use crate::handover::receive::{self, HandshakeError, Received, Refused};
use crate::serve::{
    END_OF_A_PROCESS, Guard, Handover, Options, Orders, Orphaned, Outcome, Server, Target, Workers,
    letting_go,
};
use crate::service::Pulse;
use crate::session::Journal;
use crate::source::PageSource;
use crate::space::AddressSpace;
use crate::takeover::{Directory, Store};
use crate::uffd::{Features, Stop, Userfaultfd};

/// Longer than any hand-over, and not beyond the end of the clock.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What all sessions have in common.
pub(super) struct Common {
    pub(super) source: Arc<dyn PageSource>,
    /// Pages of the memory.
    pub(super) pages: u64,
    pub(super) workers: Workers,
    pub(super) guard: Arc<Guard>,
    pub(super) directory: Directory,
    pub(super) store: Option<Store>,
    pub(super) places: Places,
    pub(super) sets: Arc<WorkingSets>,
    pub(super) options: Options,
    pub(super) allowed_uids: Vec<u32>,
    pub(super) handshake_timeout: Duration,
    /// The peer may not be the one who made the socket.
    pub(super) doubts_owner: bool,
    pub(super) log: Log,
    pub(super) pulse: Pulse,
}

/// Serves the VMM at the other end of a connection. `told` asks to end; `received` is called when it has handed over. `None` if it was
/// not served.
pub(super) fn run(
    common: &Common,
    number: u64,
    stream: &UnixStream,
    told: Arc<EventFd>,
    received: impl FnOnce(),
) -> Option<Outcome> {
    let target = known(common, stream)?;
    // From now on it may have handed over, and must not outlive this program.
    let Some(watched) = common.guard.watch(&target) else {
        let why = "too many VMMs are here, or no descriptors are left (ulimit -n): it was killed";
        let _ = target.kill();
        common.log.refused(Some(target.pid), why);
        return None;
    };
    let handed_over = match catch_unwind(AssertUnwindSafe(|| take_over(common, stream, &target))) {
        Ok(handed_over) => handed_over?,
        Err(_) => {
            let _ = target.kill();
            let why = "this program failed (please report it): it was killed";
            common.log.refused(Some(target.pid), why);
            return None;
        }
    };
    received();
    if common.doubts_owner && is_foreign(&target, &handed_over.message) {
        let why = "the VMM must make the socket pair itself, or connect itself: the kernel names who made it";
        refuse(common, &target, handed_over, why);
        return None;
    }
    let (space, server) = match prepare(common, &handed_over, told) {
        Ok(prepared) => prepared,
        Err(why) => {
            refuse(common, &target, handed_over, &why);
            return None;
        }
    };
    let place = common.places.take();
    let who = Who::new(number, &target);
    let (owed, regions) = (space.owes(), handed_over.message.len());
    let handover = Handover {
        target: Arc::new(target),
        kept_by_peer: handed_over.message.iter().map(Region::addresses).collect(),
        userfaultfd: handed_over.userfaultfd,
        space,
    };
    let (set, recording) = common.sets.for_restore();
    let server = server
        .replaying(set)
        .recording(recording)
        .observed(common.pulse.observer())
        .stored(common.store.as_ref());
    let report = server.serve(handover, || {}, || common.log.serving(&who, owed, regions));
    drop((watched, place));
    common.log.done(&who, &report);
    Some(report.outcome)
}

/// Goes on with a VMM that was served by a process that was killed.
pub(super) fn go_on(
    common: &Common,
    number: u64,
    mut orphaned: Orphaned,
    told: Arc<EventFd>,
    hopeless: bool,
) -> Option<Outcome> {
    let target = orphaned.target();
    orphaned.watch(&common.guard);
    let who = Who::new(number, &target);
    let prepared = Server::prepare(
        &*common.source,
        common.workers.clone(),
        Orders::Told(told),
        common.options,
    );
    let server = match prepared {
        Ok(server) => server,
        Err(error) => {
            common.log.refused(Some(target.pid), &error.to_string());
            // With fewer descriptors and threads open another process may succeed.
            std::process::abort();
        }
    };
    let place = common.places.take();
    // What was being recorded is not complete.
    let (set, _) = common.sets.for_restore();
    let server = server
        .replaying(set)
        .observed(common.pulse.observer())
        .stored(common.store.as_ref());
    let report = server.go_on(orphaned, target, hopeless);
    drop(place);
    common.log.done(&who, &report);
    Some(report.outcome)
}

/// What it hands over.
fn take_over(
    common: &Common,
    stream: &UnixStream,
    target: &Target,
) -> Option<Received<Vec<Region>>> {
    let deadline = Instant::now() + common.handshake_timeout.min(LONGEST);
    match firecracker::receive(stream, deadline) {
        Ok(received) => Some(received),
        Err(Refused { error, descriptors }) => {
            // Those that were lost were closed by the kernel: what is missing reads as zeros.
            let lost = matches!(error, HandshakeError::DescriptorsLost);
            if lost || !descriptors.is_empty() {
                end(common, target, &error.to_string());
                if !target.ends_within(END_OF_A_PROCESS) {
                    // As long as it lives it must not read zeros.
                    std::mem::forget(descriptors);
                }
            } else {
                common.log.refused(Some(target.pid), &error.to_string());
            }
            None
        }
    }
}

/// Who it is, if it may be served.
fn known(common: &Common, stream: &UnixStream) -> Option<Target> {
    let credentials = Credentials::of(stream)
        .inspect_err(|error| common.log.refused(None, &error.to_string()))
        .ok()?;
    // Who may not is not ours to end, and nothing of it has been received.
    credentials
        .allowed(&common.allowed_uids)
        .and_then(|()| credentials.target(stream))
        .inspect_err(|error| {
            common
                .log
                .refused(Some(credentials.pid), &error.to_string());
        })
        .ok()
}

fn prepare(
    common: &Common,
    received: &Received<Vec<Region>>,
    told: Arc<EventFd>,
) -> Result<(AddressSpace, Server), String> {
    check(&received.userfaultfd)?;
    let space = firecracker::address_space(&received.message, common.pages)
        .map_err(|error| error.to_string())?;
    let server = Server::prepare(
        &*common.source,
        common.workers.clone(),
        Orders::Told(told),
        common.options,
    );
    let server = server.map_err(|error| error.to_string())?;
    let journal = Journal::new().map_err(|errno| format!("no journal can be kept: {errno}"))?;
    Ok((space, server.kept(&common.directory, journal)))
}

/// A userfaultfd that can be used, and tells of nothing that would cost the others.
fn check(userfaultfd: &Userfaultfd) -> Result<(), String> {
    let events = receive::features(userfaultfd).unwrap_or_default();
    if events.has(Features::FORK) {
        return Err(
            "its userfaultfd tells of forks, and each would take a descriptor from the other VMMs: no VMM that is known asks for that"
                .into(),
        );
    }
    match userfaultfd.probe(Addr::NOWHERE, PAGE_BYTES) {
        Some(Stop::Other(errno)) => Err(format!(
            "its userfaultfd cannot be used ({errno}): it was not made ready (UFFDIO_API)"
        )),
        _ => Ok(()),
    }
}

/// A VMM that has handed over is not served. It waits for pages that nobody will bring, or, if it has kept no descriptor of its own,
/// would find zeros in their place once ours is closed: it is killed before that. If the memory is not that of the process which
/// connected (another one made the socket), nobody is killed, and the memory is poisoned.
fn refuse(common: &Common, peer: &Target, received: Received<Vec<Region>>, why: &str) {
    if !is_foreign(peer, &received.message) {
        end(common, peer, why);
        if peer.ends_within(END_OF_A_PROCESS) {
            return;
        }
    } else {
        let why = format!(
            "{why}; its memory is not that of process {}, and was poisoned",
            peer.pid
        );
        common.log.refused(Some(peer.pid), &why);
    }
    let space = firecracker::owed_everything(&received.message);
    if let Err(userfaultfd) = letting_go::poison(received.userfaultfd, space) {
        // As long as it lives it must not read zeros.
        std::mem::forget(userfaultfd);
    }
}

/// True if the memory is known not to be that of the process.
fn is_foreign(peer: &Target, regions: &[Region]) -> bool {
    let first = regions.first();
    first.is_some_and(|region| peer.misses_pages_at(region.base) == Some(false))
}

/// Kills it, and says so.
fn end(common: &Common, peer: &Target, why: &str) {
    let then = match peer.kill() {
        Ok(()) => "it was killed, for it cannot run without its memory".to_owned(),
        Err(errno) => format!("it cannot be killed ({errno}: CAP_KILL is needed): end it"),
    };
    common
        .log
        .refused(Some(peer.pid), &format!("{why}; {then}"));
}
