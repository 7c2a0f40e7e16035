//! Getting hold of a target: from a process id to memory that is registered and owed.
//!
//! | file              | holds                                                                       |
//! |-------------------|-----------------------------------------------------------------------------|
//! | `attach.rs`       | [`attach`]: all of it, in order                                             |
//! | `standing.rs`     | [`Standing`]: it stands still until it is let go                            |
//! | `placement/`      | which region goes where; decided before anything is touched                 |
//! | `remote_uffd.rs`  | [`create`]: a userfaultfd made inside of a stopped process                  |
//! | `guests.rs`       | descriptors that a target has for a moment, and how they get in and out     |
//! | `left.rs`         | a socket that is left open in a target                                      |
//! | `eager.rs`        | [`must_be_present`]: pages that cannot wait for a fault                     |
//! | `contents.rs`     | content that goes into the target before it runs                            |
//! | `memory.rs`       | making memory, emptying it, and what is left in it                          |
//! | `firecracker/`    | the hand-over of a Firecracker that connects by itself                      |
//! | `criu/`           | the hand-over of `criu restore --lazy-pages`                                |
//! | `receive.rs`      | messages and a userfaultfd from whoever connects                            |
//! | `peer.rs`         | who that is, and whether it may                                             |
//! | `scm.rs`          | one recvmsg(2) with descriptors                                             |
//! | `error.rs`        | [`HandoverError`]: why a target cannot be got hold of                       |
//! | `attach_error.rs` | [`AttachError`]: why it cannot be attached to                               |

mod attach;
mod attach_error;
mod contents;
pub mod criu;
mod eager;
mod error;
pub mod firecracker;
mod guests;
mod left;
mod memory;
pub mod peer;
pub mod placement;
pub mod receive;
mod remote_uffd;
mod scm;
mod standing;

pub use crate::pidfd::pidfd;
pub use attach::{Attached, Options, attach};
pub use attach_error::AttachError;
pub use eager::must_be_present;
pub use error::HandoverError;
pub use left::take_back;
pub use remote_uffd::create;
pub use standing::{Released, Standing};
