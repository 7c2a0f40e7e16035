//! The pages of a dump into a snapshot.

use super::regions::Planned;
use super::shared::{Shared, Source, is_uniform, key};
use crate::addr::AddrRange;
use crate::criu::{Images, LazyRun, PagesFile, Stored};
use crate::failure::Failure;
use crate::progress::Progress;
use snapshot_format::{PAGE_BYTES, PAGE_SIZE, PageNo, WriteError, Writer};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Pages that are compared at a time.
const AT_ONCE: usize = 64;

/// Writes the pages of `images`.
pub(super) struct Copy<'a> {
    images: &'a Images,
    writer: &'a mut Writer<File>,
    failure: Box<dyn Fn(WriteError) -> Failure>,
    progress: &'a Progress,
    shared: Shared,
    /// Number of the next page.
    next: u64,
    bytes: Vec<u8>,
    earlier: Vec<u8>,
}

impl<'a> Copy<'a> {
    pub(super) fn new(
        images: &'a Images,
        writer: &'a mut Writer<File>,
        failure: impl Fn(WriteError) -> Failure + 'static,
        progress: &'a Progress,
    ) -> Self {
        Self {
            images,
            writer,
            failure: Box::new(failure),
            progress,
            shared: Shared::of(&images.processes),
            next: 0,
            bytes: vec![0; AT_ONCE * PAGE_SIZE],
            earlier: vec![0; AT_ONCE * PAGE_SIZE],
        }
    }

    pub(super) fn regions(&mut self, regions: &[Planned<'_>]) -> Result<(), Failure> {
        for planned in regions {
            let begun = self.writer.begin_region(planned.region());
            begun.map_err(&self.failure)?;
            let mut at = planned.at.start;
            for run in planned.runs {
                self.zeros(run.at.start.since(at) / PAGE_BYTES)?;
                self.run(planned.process, run)?;
                at = run.at.end;
            }
        }
        Ok(())
    }

    fn zeros(&mut self, pages: u64) -> Result<(), Failure> {
        self.next += pages;
        self.writer.zeros(pages).map_err(&self.failure)
    }

    /// The pages of a run, in pieces that the same is to be done about.
    fn run(&mut self, process: usize, run: &LazyRun) -> Result<(), Failure> {
        // Runs without content were refused.
        let Some(stored) = run.stored else {
            return Ok(());
        };
        let first = self.next;
        let mut remembered = false;
        let mut rest = run.at;
        while !rest.is_empty() {
            let chance = self.shared.chance(process, rest);
            let piece = AddrRange::at(rest.start, chance.len);
            let from = behind(stored, rest.start.since(run.at.start));
            if chance.look || chance.remember {
                self.compared(piece, from, chance.remember)?;
                remembered |= chance.remember;
            } else {
                self.plain(from, chance.len / PAGE_BYTES)?;
            }
            rest.start = piece.end;
        }
        if remembered {
            self.shared.written(Source {
                first,
                at: run.at,
                stored,
            });
        }
        Ok(())
    }

    /// Pages that no other process can have.
    fn plain(&mut self, mut from: Stored, mut pages: u64) -> Result<(), Failure> {
        while pages > 0 {
            let space = self.writer.space().map_err(&self.failure)?;
            let step = pages.min((space.len() / PAGE_SIZE) as u64);
            let len = bytes(step);
            read(self.images, from, &mut space[..len])?;
            self.writer.commit(len / PAGE_SIZE).map_err(&self.failure)?;
            from.page += step;
            pages -= step;
            self.next += step;
            self.progress.add(step * PAGE_BYTES);
        }
        Ok(())
    }

    /// Pages of which an earlier process may have some, or a later one.
    fn compared(&mut self, at: AddrRange, from: Stored, remember: bool) -> Result<(), Failure> {
        let mut rest = at;
        while !rest.is_empty() {
            let pages = (rest.len() / PAGE_BYTES).min(AT_ONCE as u64);
            let from = behind(from, rest.start.since(at.start));
            read(self.images, from, &mut self.bytes[..bytes(pages)])?;
            let here = AddrRange::at(rest.start, pages * PAGE_BYTES);
            let keys = self.keys(here);
            let same = self.same_as_earlier(here, &keys)?;
            self.emit(&keys, &same, remember)?;
            self.progress.add(here.len());
            rest.start = here.end;
        }
        Ok(())
    }

    /// What stands for each of the pages that have been read; `None` for those that take no room anyway.
    fn keys(&self, at: AddrRange) -> Vec<Option<u64>> {
        let pages = self.bytes[..bytes(at.len() / PAGE_BYTES)].chunks_exact(PAGE_SIZE);
        let addresses = (0..).map(|number: u64| at.start.plus(number * PAGE_BYTES));
        addresses
            .zip(pages)
            .map(|(at, page)| (!is_uniform(page)).then(|| key(at, page)))
            .collect()
    }

    /// For each of the pages that have been read, the number of an earlier one with the same content at the same address.
    fn same_as_earlier(
        &mut self,
        at: AddrRange,
        keys: &[Option<u64>],
    ) -> Result<Vec<Option<u64>>, Failure> {
        let addresses = (0..).map(|number: u64| at.start.plus(number * PAGE_BYTES));
        let candidates: Vec<Option<(u64, Stored)>> = addresses
            .zip(keys)
            .map(|(at, key)| self.shared.find((*key)?, at))
            .collect();
        let mut same = vec![None; keys.len()];
        let mut done = 0;
        for together in candidates.chunk_by(|one, next| follow(*one, *next)) {
            let pages = done..done + together.len();
            done = pages.end;
            let Some((first, stored)) = together.first().copied().flatten() else {
                continue;
            };
            let span = pages.start * PAGE_SIZE..pages.end * PAGE_SIZE;
            let earlier = &mut self.earlier[..span.len()];
            read(self.images, stored, earlier)?;
            // The key says that they are probably the same; the bytes say whether they are.
            let pairs = self.bytes[span]
                .chunks_exact(PAGE_SIZE)
                .zip(earlier.chunks_exact(PAGE_SIZE));
            for ((number, slot), (one, other)) in (first..).zip(&mut same[pages]).zip(pairs) {
                *slot = (one == other).then_some(number);
            }
        }
        Ok(same)
    }

    /// Write the pages that have been read.
    fn emit(
        &mut self,
        keys: &[Option<u64>],
        same: &[Option<u64>],
        remember: bool,
    ) -> Result<(), Failure> {
        let mut done = 0;
        for together in same.chunk_by(|one, next| match (one, next) {
            (Some(one), Some(next)) => one + 1 == *next,
            (one, next) => one.is_none() && next.is_none(),
        }) {
            let pages = done..done + together.len();
            done = pages.end;
            match together.first().copied().flatten() {
                Some(first) => {
                    let repeated = self.writer.repeat(PageNo(first), together.len() as u64);
                    repeated.map_err(&self.failure)?;
                    self.next += together.len() as u64;
                }
                None => {
                    if remember {
                        for (number, key) in (self.next..).zip(&keys[pages.clone()]) {
                            if let Some(key) = key {
                                self.shared.remember(*key, number);
                            }
                        }
                    }
                    self.given(pages)?;
                }
            }
        }
        Ok(())
    }

    /// These of the pages that have been read go into the file.
    fn given(&mut self, pages: std::ops::Range<usize>) -> Result<(), Failure> {
        let mut from = &self.bytes[pages.start * PAGE_SIZE..pages.end * PAGE_SIZE];
        while !from.is_empty() {
            let space = self.writer.space().map_err(&self.failure)?;
            let len = space.len().min(from.len());
            space[..len].copy_from_slice(&from[..len]);
            self.writer.commit(len / PAGE_SIZE).map_err(&self.failure)?;
            self.next += (len / PAGE_SIZE) as u64;
            from = &from[len..];
        }
        Ok(())
    }
}

/// Whether two candidates stand behind each other, in the snapshot and in the file.
fn follow(one: Option<(u64, Stored)>, next: Option<(u64, Stored)>) -> bool {
    match (one, next) {
        (Some((page, stored)), Some((next, next_stored))) => {
            page + 1 == next && behind(stored, PAGE_BYTES) == next_stored
        }
        (one, next) => one.is_none() && next.is_none(),
    }
}

/// The place of the page so many bytes further on.
fn behind(stored: Stored, len: u64) -> Stored {
    Stored {
        page: stored.page + len / PAGE_BYTES,
        ..stored
    }
}

fn bytes(pages: u64) -> usize {
    usize::try_from(pages).map_or(usize::MAX, |pages| pages.saturating_mul(PAGE_SIZE))
}

/// Read pages of a file of the dump.
fn read(images: &Images, from: Stored, into: &mut [u8]) -> Result<(), Failure> {
    let Some(PagesFile { path, file, .. }) = images.files.get(from.file) else {
        return Err(Failure::Usage(format!("there is no file {}", from.file)));
    };
    file.read_exact_at(into, from.page.saturating_mul(PAGE_BYTES))
        .map_err(Failure::io("read", path))
}
