//! Getting hold of a target: from a process id to memory that is registered and owed.
//!
//! | file              | holds                                                                       |
//! |-------------------|-----------------------------------------------------------------------------|
//! | `attach.rs`       | [`attach`]: all of it, in order                                             |
//! | `placement/`      | which region goes where; decided before anything is touched                 |
//! | `remote_uffd.rs`  | [`create`]: a userfaultfd made inside of a stopped process                  |
//! | `guests.rs`       | descriptors that a target has for a moment, and how they get in and out     |
//! | `eager.rs`        | [`must_be_present`]: pages that cannot wait for a fault                     |
//! | `contents.rs`     | content that goes into the target before it runs                            |
//! | `memory.rs`       | making memory, emptying it, and what is left in it                          |
//! | `error.rs`        | [`HandoverError`]: why a target cannot be got hold of                       |
//! | `attach_error.rs` | [`AttachError`]: why it cannot be attached to                               |

mod attach;
mod attach_error;
mod contents;
mod eager;
mod error;
mod guests;
mod memory;
pub mod placement;
mod remote_uffd;

pub use crate::pidfd::pidfd;
pub use attach::{Attached, Options, attach};
pub use attach_error::AttachError;
pub use eager::must_be_present;
pub use error::HandoverError;
pub use remote_uffd::create;
