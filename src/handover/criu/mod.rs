//! The hand-over of `criu restore --lazy-pages`: one connection, over which every process that is restored sends its number in the images
//! and its userfaultfd; and in the end a word that says that all have done so and are about to run.
//!
//! | file          | holds                                                                  |
//! |---------------|------------------------------------------------------------------------|
//! | `messages.rs` | [`Messages`]: what comes over the connection, and from whom            |
//! | `unread.rs`   | [`Unread`]: what has come when nobody is left to read it               |

mod messages;
mod unread;

pub use messages::{Announced, CriuError, Message, Messages};
pub use unread::Unread;
