//! Which processes the regions of a file belong to, for a file that holds a tree of them.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::error::{Error, Place};
use crate::fields::Fields;
use std::collections::HashSet;

/// Most processes of a snapshot.
pub const MAX_PROCESSES: u64 = 1 << 20;

/// Bytes in front of the records.
const HEAD_LEN: u64 = 16;

/// Bytes of a record.
const RECORD_LEN: u64 = 32;

/// Longest list of processes, in bytes.
pub(crate) const MAX_PROCESSES_LEN: u64 = HEAD_LEN + MAX_PROCESSES * RECORD_LEN;

/// The processes whose memory is in a snapshot, and what binds it to the images that it was taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    /// XXH3-64 of the `inventory.img` of the images.
    pub images: u64,
    /// The processes, in the order of their regions.
    pub list: Vec<ProcessRegions>,
}

/// A process and how many regions are its.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessRegions {
    /// The process's id, as it is in the images.
    pub pid: u32,
    /// How many regions are its: those behind the regions of the processes before it.
    pub regions: u64,
    /// XXH3-64 of the process's `pagemap-PID.img` as the dump wrote it; 0 for a process without one.
    pub pagemap: u64,
}

impl Processes {
    /// Each process, and which of the file's regions are its.
    pub fn with_regions(
        &self,
    ) -> impl Iterator<Item = (&ProcessRegions, std::ops::Range<usize>)> + '_ {
        let mut next = 0_usize;
        self.list.iter().map(move |process| {
            let first = next;
            // `check` has seen that all of them together are as many as there are regions.
            let regions = usize::try_from(process.regions).unwrap_or(usize::MAX);
            next = next.saturating_add(regions);
            (process, first..next)
        })
    }

    /// Whether this is what the format allows for a file of `regions` regions.
    pub(crate) fn check(&self, regions: u64) -> Result<(), &'static str> {
        let count = self.list.len() as u64;
        if !(1..=MAX_PROCESSES).contains(&count) {
            return Err("the number of processes is not 1 to 1048576");
        }
        let mut pids = HashSet::with_capacity(self.list.len());
        let mut sum = 0_u64;
        for process in &self.list {
            if process.pid == 0 || process.pid > i32::MAX.unsigned_abs() {
                return Err("a process id is not one");
            }
            if !pids.insert(process.pid) {
                return Err("a process is there twice");
            }
            sum = sum.saturating_add(process.regions);
        }
        if sum != regions {
            return Err("the processes have not as many regions as there are");
        }
        Ok(())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.list.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.images.to_le_bytes());
        for process in &self.list {
            for field in [process.pid.into(), process.regions, process.pagemap, 0_u64] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
        }
        bytes
    }

    /// Decode the section of a file with `regions` regions.
    pub(crate) fn decode(bytes: &[u8], regions: u64) -> Result<Self, Error> {
        let corrupt = |what| Error::corrupt(Place::Processes, what);
        let short = || corrupt("the section is cut short");
        let mut fields = Fields::new(bytes);
        let count = fields.u64().ok_or_else(short)?;
        let images = fields.u64().ok_or_else(short)?;
        // Compared with the bytes that are there before anything is allocated for it.
        let expected = count
            .checked_mul(RECORD_LEN)
            .and_then(|len| len.checked_add(HEAD_LEN));
        if expected != Some(bytes.len() as u64) {
            return Err(corrupt(
                "the section is not as long as its processes need it",
            ));
        }
        let mut list = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        for _ in 0..count {
            let pid = fields.u32().ok_or_else(short)?;
            if !fields.zeros(4) {
                return Err(corrupt("a reserved field is not zero"));
            }
            let regions = fields.u64().ok_or_else(short)?;
            let pagemap = fields.u64().ok_or_else(short)?;
            if !fields.zeros(8) {
                return Err(corrupt("a reserved field is not zero"));
            }
            list.push(ProcessRegions {
                pid,
                regions,
                pagemap,
            });
        }
        let processes = Self { images, list };
        processes.check(regions).map_err(corrupt)?;
        Ok(processes)
    }
}
