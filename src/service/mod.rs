//! Being a service: what a service manager is told and passes on, and doing without what serving does not need.
//!
//! | file             | holds                                                                   |
//! |------------------|-------------------------------------------------------------------------|
//! | `notify.rs`      | [`Manager`]: sd_notify(3), and its store of descriptors                  |
//! | `names.rs`       | [`Passed`]: descriptors that it passes to this program                   |
//! | `pulse.rs`       | [`Pulse`]: that every loop is alive, and how far it is                   |
//! | `board.rs`       | what the loops have said, for that                                      |
//! | `confinement.rs` | [`Confinement`]: what serving does without, prepared and begun           |
//! | `privileges.rs`  | capabilities, and what each is for                                      |
//! | `seccomp.rs`, `calls.rs` | the system calls of serving                                      |

mod board;
mod calls;
mod confinement;
mod names;
mod notify;
mod privileges;
mod pulse;
mod seccomp;

pub use self::confinement::{Confinement, ConfinementError, Plan, TO_WRITE};
pub use self::names::{Numbers, OtherName, Passed, StoredName};
pub use self::notify::{Manager, Word, watchdog_from_environment};
pub use self::privileges::{
    Capability, Starting, being_born_with, born_with, hide, keep_only, permitted,
};
pub use self::pulse::{Beat, Pulse};
pub use self::seccomp::{Allowed, Filter, FilterError};
