//! Getting hold of a target's memory: its userfaultfd, and what must be in place before it runs.
//!
//! | file              | holds                                                                       |
//! |-------------------|-----------------------------------------------------------------------------|
//! | `remote_uffd.rs`  | [`create`]: a userfaultfd made inside of a stopped process                  |
//! | `guests.rs`       | descriptors that a target has for a moment, and how they get in and out     |
//! | `pidfd.rs`        | [`pidfd()`], and fetching a descriptor of another process                     |
//! | `eager.rs`        | [`must_be_present`]: pages that cannot wait for a fault                     |
//! | `error.rs`        | [`HandoverError`]                                                           |

mod eager;
mod error;
mod guests;
mod pidfd;
mod remote_uffd;

pub use eager::must_be_present;
pub use error::HandoverError;
pub use pidfd::pidfd;
pub use remote_uffd::create;
