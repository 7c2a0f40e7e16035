//! Firecracker's hand-over, unmodified, since version 1.1: it connects and sends a userfaultfd, registered with the memory of a VM, and
//! a description of that memory. Nothing is sent back. By then its threads may wait for pages already.
//!
//! | file         | holds                                                              |
//! |--------------|--------------------------------------------------------------------|
//! | `message.rs` | [`parse`]: the description                                         |
//! | `region.rs`  | [`Region`], and what must hold of all regions ([`check`])          |
//! | `space.rs`   | [`address_space`]: what a snapshot owes a VM                       |
//!
//! Another VMM's protocol has a parser of its own, and shares [`super::receive`], [`super::peer`], and, as far as it describes memory in
//! the same way, regions and what follows from them.

mod message;
mod region;
mod space;

use std::os::unix::net::UnixStream;
use std::time::Instant;

pub use self::message::{MAX_REGIONS, MessageError, parse};
pub use self::region::{Region, RegionError, check};
pub use self::space::{MatchError, address_space, owed_everything};
use super::receive::{self, Received, Refused};

/// Receives the hand-over of a Firecracker that has connected. All of it must have come at `deadline`: a peer that sends byte by byte
/// gets no more time than another.
///
/// # Errors
/// [`Refused`], which holds the userfaultfd if one has come: see there what must be done before it is dropped.
pub fn receive(socket: &UnixStream, deadline: Instant) -> Result<Received<Vec<Region>>, Refused> {
    receive::receive(socket, deadline, parse)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
