//! Nothing is lost when the process that serves is killed: another one takes over.
//!
//! Three processes share one table of descriptors. The *keeper* is the one that was started; it opens the snapshot, starts the others,
//! and waits. The *worker* does everything else, and may die at any instruction. When it does the keeper starts another one, which
//! finds the userfaultfds in the table and what was done with them in the journals ([`crate::session::Journal`]). The *guard*
//! ([`crate::serve::Guard`]) acts when both are dead.
//!
//! | file            | holds                                                                  |
//! |-----------------|------------------------------------------------------------------------|
//! | `keeper.rs`     | [`keep`]: the keeper's whole life                                      |
//! | `deaths.rs`     | of what workers die                                                    |
//! | `attempts.rs`   | trying again to take over                                              |
//! | `life.rs`       | [`Life`]: what a worker knows of those before it                       |
//! | `directory.rs`  | [`Directory`]: which sessions there are, where workers to come find it |
//! | `descriptors.rs` | what is open in the table, and closing what a dead worker left        |
//! | `orphans.rs`    | [`orphaned`]: what a dead worker has left                              |
//! | `blame.rs`      | [`Blaming`]: which page workers die of                                 |
//! | `resume.rs`     | [`Resumed`]: fetching what a run has left that was killed as a whole    |
//! | `sharing.rs`    | a process that shares the table                                        |
//! | `store.rs`      | [`Store`]: where descriptors are when keeper, worker and guard are dead |
//! | `shelf.rs`      | a socket that keeps descriptors open                                   |
//! | `state.rs`      | [`StateFile`]: what else the next run has to know, without a service manager |
//! | `stored.rs`     | [`Stored`]: what was in it when this run began                        |
//! | `leaving.rs`    | leaving everything to the next run                                     |

mod attempts;
mod blame;
mod deaths;
mod descriptors;
mod directory;
mod keeper;
mod leaving;
mod life;
mod orphans;
mod resume;
mod sharing;
mod shelf;
mod state;
mod store;
mod stored;

pub use self::blame::Blaming;
pub(crate) use self::descriptors::{descriptors, link_of};
pub use self::directory::{Directory, Entry};
pub use self::keeper::{Alone, Kept, keep};
pub use self::leaving::Beginning;
pub use self::life::Life;
pub use self::orphans::{Found, orphaned};
pub use self::resume::Resumed;
pub use self::sharing::{Sharing, share_descriptors};
pub(crate) use self::shelf::Shelf;
pub use self::state::StateFile;
pub(crate) use self::store::Deposit;
pub use self::store::Store;
pub use self::stored::Stored;
pub(crate) use self::stored::owned;
