//! The hand-over of `criu restore --lazy-pages`: one connection, over which every process that is restored sends its number in the images
//! and its userfaultfd; and in the end a word that says that all have done so and are about to run.
//!
//! | file          | holds                                                                  |
//! |---------------|------------------------------------------------------------------------|
//! | `messages.rs` | [`Messages`]: what comes over the connection                           |
//! | `finding.rs`  | [`find`]: which process is the one that has this number in the images  |

mod finding;
mod messages;

pub use finding::{Sought, find};
pub use messages::{CriuError, Message, Messages};
