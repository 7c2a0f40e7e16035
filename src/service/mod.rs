//! Being a service: what a service manager is told and passes on, and doing without what serving does not need.
//!
//! | file             | holds                                                                   |
//! |------------------|-------------------------------------------------------------------------|
//! | `notify.rs`      | [`Manager`]: sd_notify(3), and its store of descriptors                  |
//! | `names.rs`       | [`Passed`]: descriptors that it passes to this program                   |
//! | `pulse.rs`       | [`Pulse`]: that every loop is alive, and how far it is                   |

mod names;
mod notify;
mod pulse;

pub use self::names::{Numbers, OtherName, Passed, StoredName};
pub use self::notify::{Manager, Word, watchdog_from_environment};
pub use self::pulse::{Beat, Pulse};
