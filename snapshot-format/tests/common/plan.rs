//! An input of the writer, written down; the way it is handed over; and what must be read back.

use super::rng::{Rng, page};
use snapshot_format::{
    Metadata, PAGE_SIZE, PageNo, ParentLayer, Region, SnapshotId, Source, Summary, WriteError,
    Writer, WriterOptions,
};
use std::io::{Cursor as Bytes, Seek, Write};

/// What a run of pages is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Pages of bytes; page number `n` of the snapshot is `page(seed + n)`.
    Data(u64),
    /// Zero pages, said to be so.
    Zeros,
    /// Zero pages, given as bytes.
    ZeroBytes,
    Lost,
    /// Pages of the parent, from this one on.
    Parent(u64),
    /// Earlier pages of the snapshot, from this one on.
    Again(u64),
}

/// A region and the runs of pages it is made of.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) region: Region,
    pub(crate) runs: Vec<(What, u64)>,
}

/// An input of the writer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) regions: Vec<Planned>,
}

pub(crate) const ID: SnapshotId = SnapshotId([0xa5; 16]);
pub(crate) const PARENT_PAGES: u64 = 1 << 30;

pub(crate) fn parent_layer() -> ParentLayer {
    ParentLayer {
        id: SnapshotId([0x17; 16]),
        pages: PARENT_PAGES,
        path: "/var/lib/parent.snap".into(),
    }
}

pub(crate) fn metadata() -> Metadata {
    Metadata {
        created_unix: 1_700_000_000,
        creator: "tests".into(),
        host: "h\u{f6}st".into(),
        kernel: "6.12.0".into(),
        source: Source::Raw { bytes: 12345 },
        compressed: snapshot_format::Compressed::default(),
    }
}

impl Plan {
    /// One raw region of these runs.
    pub(crate) fn raw(runs: &[(What, u64)]) -> Self {
        let pages: u64 = runs.iter().map(|&(_, pages)| pages).sum();
        Self {
            regions: vec![Planned {
                region: Region::raw(0, pages * PAGE_SIZE as u64),
                runs: runs.to_vec(),
            }],
        }
    }

    /// Every page's number and what it is: for one that is an earlier page, what that one is.
    pub(crate) fn pages(&self) -> Vec<(u64, What)> {
        let mut all: Vec<(u64, What)> = Vec::new();
        let runs = self.regions.iter().flat_map(|planned| &planned.runs);
        for &(what, pages) in runs {
            for into in 0..pages {
                let number = all.len() as u64;
                let what = match what {
                    What::Parent(first) => What::Parent(first + into),
                    What::Again(first) => {
                        match all[usize::try_from(first + into).expect("in memory")] {
                            (from, What::Data(seed)) => {
                                What::Data(seed.wrapping_add(from).wrapping_sub(number))
                            }
                            (_, other) => other,
                        }
                    }
                    other => other,
                };
                all.push((number, what));
            }
        }
        all
    }

    /// Hand everything to `writer` in steps of these sizes, over and over.
    pub(crate) fn feed<W: Write + Seek + Send + 'static>(
        &self,
        writer: &mut Writer<W>,
        steps: &[u64],
    ) -> Result<(), WriteError> {
        let mut steps = steps.iter().copied().cycle();
        let mut number = 0;
        for planned in &self.regions {
            writer.begin_region(planned.region.clone())?;
            for &(what, pages) in &planned.runs {
                let mut into = 0;
                while into < pages {
                    let wanted = steps.next().expect("a cycle").min(pages - into);
                    let step = one_step(writer, what, number, into, wanted)?;
                    number += step;
                    into += step;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn write_to<W: Write + Seek + Send + 'static>(
        &self,
        out: W,
        options: WriterOptions,
        steps: &[u64],
    ) -> Result<(W, Summary), WriteError> {
        let parent = Some(parent_layer());
        let mut writer = Writer::new(out, WriterOptions { parent, ..options })?;
        self.feed(&mut writer, steps)?;
        writer.finish(ID, &metadata())
    }

    /// The file, written in steps of up to `u64::MAX` pages.
    pub(crate) fn write(&self, options: WriterOptions) -> Vec<u8> {
        self.write_in_steps(options, &[u64::MAX])
    }

    pub(crate) fn write_in_steps(&self, options: WriterOptions, steps: &[u64]) -> Vec<u8> {
        let (out, summary) = self
            .write_to(Bytes::new(Vec::new()), options, steps)
            .expect("memory does not fail");
        let bytes = out.into_inner();
        assert_eq!(summary.file_len, bytes.len() as u64);
        bytes
    }

    pub(crate) fn model(&self) -> Model {
        let mut model = Model::default();
        for (number, what) in self.pages() {
            let bytes = match what {
                What::Data(seed) => page(seed.wrapping_add(number)),
                _ => [0; PAGE_SIZE],
            };
            model.bytes.extend_from_slice(&bytes);
            model.classes.push(match what {
                What::Lost => Class::Lost,
                What::Parent(page) => Class::Parent(page),
                _ => class_of(&bytes),
            });
        }
        model
    }

    /// A random plan of up to `most` pages in up to 4 regions.
    pub(crate) fn random(seed: u64, most: u64) -> Self {
        let mut rng = Rng(seed);
        let mut plan = Self::default();
        let mut given = 0;
        for number in 0..=rng.below(4) {
            let mut runs = Vec::new();
            let mut left = 1 + rng.below(most / 4);
            let mut pages = 0;
            while left > 0 {
                let run = (1 + rng.below(left)).min(1 + rng.below(300));
                let what = match rng.below(10) {
                    8 | 9 if given >= run => What::Again(rng.below(given - run + 1)),
                    0 => What::Zeros,
                    1 => What::ZeroBytes,
                    2 => What::Lost,
                    3 => What::Parent(rng.below(PARENT_PAGES - run)),
                    _ => What::Data(rng.next()),
                };
                runs.push((what, run));
                left -= run;
                pages += run;
                given += run;
            }
            let region = Region::raw(number << 40, pages * PAGE_SIZE as u64 - rng.below(4096));
            plan.regions.push(Planned { region, runs });
        }
        plan
    }
}

fn one_step<W: Write + Seek + Send + 'static>(
    writer: &mut Writer<W>,
    what: What,
    number: u64,
    into: u64,
    wanted: u64,
) -> Result<u64, WriteError> {
    match what {
        What::Zeros => writer.zeros(wanted)?,
        What::Lost => writer.lost(wanted)?,
        What::Parent(first) => writer.parent(PageNo(first + into), wanted)?,
        What::Again(first) => writer.repeat(PageNo(first + into), wanted)?,
        What::Data(_) | What::ZeroBytes => {
            let space = writer.space()?.as_chunks_mut::<PAGE_SIZE>().0;
            let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
            let mut filled = 0;
            for (slot, number) in space.iter_mut().zip(number..).take(wanted) {
                *slot = match what {
                    What::Data(seed) => page(seed.wrapping_add(number)),
                    _ => [0; PAGE_SIZE],
                };
                filled += 1;
            }
            writer.commit(filled)?;
            return Ok(filled as u64);
        }
    }
    Ok(wanted)
}

/// What a page must be read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Zero,
    Fill(u64),
    Content,
    Lost,
    Parent(u64),
}

impl Class {
    pub(crate) fn is_present(self) -> bool {
        matches!(self, Self::Zero | Self::Fill(_) | Self::Content)
    }
}

/// Zero, filled or neither, found out in the simplest way.
pub(crate) fn class_of(page: &[u8; PAGE_SIZE]) -> Class {
    let words: Vec<u64> = (page.as_chunks().0.iter())
        .map(|word| u64::from_le_bytes(*word))
        .collect();
    match words[0] {
        first if words.iter().any(|&word| word != first) => Class::Content,
        0 => Class::Zero,
        word => Class::Fill(word),
    }
}

/// What must be read: the bytes of every page (zeros for those that are not there) and what it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    pub(crate) bytes: Vec<u8>,
    pub(crate) classes: Vec<Class>,
}

impl Model {
    pub(crate) fn pages(&self) -> u64 {
        self.classes.len() as u64
    }

    pub(crate) fn page(&self, number: u64) -> &[u8; PAGE_SIZE] {
        &self.bytes.as_chunks().0[usize::try_from(number).expect("in memory")]
    }

    pub(crate) fn class(&self, number: u64) -> Class {
        self.classes[usize::try_from(number).expect("in memory")]
    }

    pub(crate) fn count(&self, is: impl Fn(Class) -> bool) -> u64 {
        self.classes.iter().filter(|&&class| is(class)).count() as u64
    }

    /// Longest ranges of pages that are there.
    pub(crate) fn present_ranges(&self) -> Vec<std::ops::Range<u64>> {
        let mut ranges: Vec<std::ops::Range<u64>> = Vec::new();
        for (number, _) in (0..)
            .zip(&self.classes)
            .filter(|(_, class)| class.is_present())
        {
            match ranges.last_mut() {
                Some(last) if last.end == number => last.end += 1,
                _ => ranges.push(number..number + 1),
            }
        }
        ranges
    }
}
