//! Linux userfaultfd: the kernel's interface, by hand (userfaultfd(2), ioctl_userfaultfd(2),
//! Documentation/admin-guide/mm/userfaultfd.rst).
//!
//! | file             | holds                                                              |
//! |------------------|--------------------------------------------------------------------|
//! | `abi.rs`         | structures, constants, ioctl numbers, all asserted                 |
//! | `message.rs`     | [`Message`]: what a userfaultfd says                               |
//! | `outcome.rs`     | [`Outcome`]: what came of an install                               |
//! | `descriptor.rs`  | [`Userfaultfd`]: the descriptor and its operations                 |
//! | `inbox.rs`       | [`Inbox`]: where messages are read to                              |
//! | `receipt.rs`     | [`Receipt`]: where the kernel writes what was installed            |
//! | `features.rs`    | [`Features`]: what this kernel can do, and what each mode needs    |

pub mod abi;
mod descriptor;
mod features;
mod inbox;
mod message;
mod outcome;
mod receipt;

pub use descriptor::{ReadError, Registered, Userfaultfd};
pub use features::{Features, NewError, new_for_this_process};
pub use inbox::Inbox;
pub use message::{Event, Fault, Message};
pub use outcome::{Outcome, Stop};
pub use receipt::{Installed, Put, Receipt};
