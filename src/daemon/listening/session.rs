//! One VMM, from its connection to its end. A thread of its own: whatever becomes of it, the others are served.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use super::log::{Log, Who};
use super::places::Places;
use crate::addr::AddrRange;
use crate::handover::firecracker::{self, Region};
use crate::handover::peer::Credentials;
use crate::handover::receive::{HandshakeError, Received, Refused};
use crate::serve::{Guard, Handover, Options, Orders, Outcome, Server, Target, Workers};
use crate::source::PageSource;
use crate::space::AddressSpace;
use crate::uffd::Userfaultfd;

/// How long the memory of a process that was killed may take to be given back.
const END_OF_A_PROCESS: Duration = Duration::from_secs(30);

/// What all sessions have in common.
pub(super) struct Common {
    pub(super) source: Arc<dyn PageSource>,
    /// Pages of the memory.
    pub(super) pages: u64,
    pub(super) workers: Workers,
    pub(super) guard: Guard,
    pub(super) places: Places,
    pub(super) options: Options,
    pub(super) allowed_uids: Vec<u32>,
    pub(super) handshake_timeout: Duration,
    pub(super) log: Log,
}

/// Serves the VMM at the other end of a connection. `told` asks to end. `None` if it was not served.
pub(super) fn run(
    common: &Common,
    number: u64,
    stream: &UnixStream,
    told: Arc<EventFd>,
) -> Option<Outcome> {
    let target = known(common, stream)?;
    let deadline = Instant::now() + common.handshake_timeout;
    let received = match firecracker::receive(stream, deadline) {
        Ok(received) => received,
        Err(Refused { error, descriptors }) => {
            // Those that were lost were closed by the kernel: what is missing reads as zeros.
            let lost = matches!(error, HandshakeError::DescriptorsLost);
            if lost {
                let _ = target.kill();
            }
            refuse(common.log, &target, descriptors, &error.to_string());
            return None;
        }
    };
    let (space, server) = match prepare(common, &received, told) {
        Ok(prepared) => prepared,
        Err(why) => {
            refuse(common.log, &target, vec![received.userfaultfd], &why);
            return None;
        }
    };
    let place = common.places.take();
    let Some(watched) = common.guard.watch(&target) else {
        let why = "too many VMMs are served already";
        refuse(common.log, &target, vec![received.userfaultfd], why);
        return None;
    };
    let who = Who::new(number, &target);
    let (owed, regions) = (space.owes(), received.message.len());
    let handover = Handover {
        target,
        userfaultfd: Userfaultfd::from(received.userfaultfd),
        space,
        kept_by_peer: ranges(&received.message),
    };
    let report = server.serve(handover, || {
        common.log.serving(&who, owed, regions);
    });
    drop((watched, place));
    common.log.done(&who, &report);
    Some(report.outcome)
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
    let space = firecracker::address_space(&received.message, common.pages)
        .map_err(|error| error.to_string())?;
    let server = Server::prepare(
        &*common.source,
        common.workers.clone(),
        Orders::Told(told),
        common.options,
    );
    Ok((space, server.map_err(|error| error.to_string())?))
}

fn ranges(regions: &[Region]) -> Vec<AddrRange> {
    regions
        .iter()
        .map(|region| AddrRange::at(region.base, region.size))
        .collect()
}

/// A VMM is not served. If it has handed over its userfaultfd, it waits for pages that nobody will bring, or, if it has kept
/// no descriptor of its own, would find zeros in their place once ours is closed: it is killed before that.
fn refuse(log: Log, peer: &Target, userfaultfds: Vec<OwnedFd>, why: &str) {
    if userfaultfds.is_empty() {
        log.refused(Some(peer.pid), why);
        return;
    }
    match peer.kill() {
        Ok(()) => log.refused(Some(peer.pid), &format!("{why}; it was killed, for it cannot run without its memory")),
        Err(errno) => log.refused(
            Some(peer.pid),
            &format!("{why}; it cannot be killed ({errno}: CAP_KILL is needed): end it, it waits for its memory"),
        ),
    }
    if !peer.ends_within(END_OF_A_PROCESS) {
        // As long as it lives it must not read zeros.
        std::mem::forget(userfaultfds);
    }
}
