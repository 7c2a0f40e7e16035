//! Little-endian fields taken one after the other from untrusted bytes. Every take is bounded.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

/// The bytes not yet taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// True when the next `len` bytes exist and are all zero.
    pub(crate) fn zeros(&mut self, len: usize) -> bool {
        self.take(len)
            .is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
    }
}
