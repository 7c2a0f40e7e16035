//! The protobuf messages, as far as they are needed. Field numbers and types are CRIU's; what is not here is skipped.
//!
//! What CRIU requires is optional here, so that its absence can be told from a zero.

use prost::Message;

/// inventory.img.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Inventory {
    #[prost(uint32, optional, tag = "1")]
    pub(super) img_version: Option<u32>,
}

/// pstree.img has one for each process.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Pstree {
    #[prost(uint32, optional, tag = "1")]
    pub(super) pid: Option<u32>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) ppid: Option<u32>,
}

/// mm-PID.img.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Mm {
    #[prost(uint64, optional, tag = "5")]
    pub(super) start_stack: Option<u64>,
    #[prost(uint64, optional, tag = "8")]
    pub(super) arg_start: Option<u64>,
    #[prost(uint64, optional, tag = "9")]
    pub(super) arg_end: Option<u64>,
    #[prost(uint64, optional, tag = "11")]
    pub(super) env_end: Option<u64>,
    #[prost(message, repeated, tag = "14")]
    pub(super) vmas: Vec<Vma>,
}

/// A mapping, in mm-PID.img.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Vma {
    #[prost(uint64, optional, tag = "1")]
    pub(super) start: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(super) end: Option<u64>,
    #[prost(uint32, optional, tag = "5")]
    pub(super) prot: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pub(super) flags: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub(super) status: Option<u32>,
    #[prost(uint64, optional, tag = "9")]
    pub(super) madv: Option<u64>,
}

/// The first message of pagemap-PID.img.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct PagemapHead {
    #[prost(uint32, optional, tag = "1")]
    pub(super) pages_id: Option<u32>,
}

/// The other messages of pagemap-PID.img.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct PagemapEntry {
    #[prost(uint64, optional, tag = "1")]
    pub(super) vaddr: Option<u64>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) compat_nr_pages: Option<u32>,
    #[prost(bool, optional, tag = "3")]
    pub(super) in_parent: Option<bool>,
    #[prost(uint32, optional, tag = "4")]
    pub(super) flags: Option<u32>,
    #[prost(uint64, optional, tag = "5")]
    pub(super) nr_pages: Option<u64>,
}
