//! A small file with everything in it, and all that can be read from a file in a few words.

use super::plan::{Class, ID, Plan, Planned, What, metadata};
use super::rng::page;
use snapshot_format::{
    Codec, Content, Cursor, Error, PAGE_SIZE, PageNo, PageSize, ProcessRegions, Processes,
    Protection, ReadAt, Region, RegionKind, Snapshot, Writer, WriterOptions,
};
use std::io::Cursor as Bytes;
use std::sync::{Arc, OnceLock};

/// Regions of all kinds, pages of all classes, an index of three levels, in about 40 KiB.
pub(crate) fn plan() -> Plan {
    let region = |kind, start: u64, pages: u64, name: &str| Region {
        kind,
        name: name.into(),
        shared: kind == RegionKind::Shared,
        protection: Protection {
            read: true,
            write: kind != RegionKind::Private,
            exec: kind == RegionKind::Private,
        },
        ..Region::raw(start, pages * 4096)
    };
    let huge = Region {
        page_size: PageSize::Huge2M,
        ..region(
            RegionKind::Hugetlb,
            1 << 30,
            512,
            "/anon_hugepage (deleted)",
        )
    };
    let runs = [
        (
            region(RegionKind::Private, 0x5000, 12, "/usr/bin/small"),
            vec![
                (What::Data(6), 6),
                (What::Zeros, 3),
                (What::Lost, 2),
                (What::ZeroBytes, 1),
            ],
        ),
        (
            region(RegionKind::Stack, 0x7fff_0000_0000, 3, "[stack]"),
            vec![(What::Parent(1000), 2), (What::ZeroBytes, 1)],
        ),
        (
            region(RegionKind::Shared, 0x6000_0000, 1, ""),
            vec![(What::Parent(77), 1)],
        ),
        (huge, vec![(What::Zeros, 512)]),
        (
            region(RegionKind::Raw, 1 << 40, 65_600, "sparse"),
            vec![(What::Zeros, 65_600)],
        ),
    ];
    let mut plan = Plan {
        regions: runs
            .into_iter()
            .map(|(region, runs)| Planned { region, runs })
            .collect(),
    };
    plan.regions[4].region.len -= 1000;
    plan
}

/// The memory of four processes, one of them without any: a child that shares most of its parent's pages, and a grandchild
/// that shares pages of both.
pub(crate) fn tree() -> (Plan, Processes) {
    let region = |start: u64, runs: &[(What, u64)]| Planned {
        region: Region {
            kind: RegionKind::Private,
            ..Region::raw(start, runs.iter().map(|&(_, pages)| pages * 4096).sum())
        },
        runs: runs.to_vec(),
    };
    let regions = vec![
        region(0x10_0000, &[(What::Data(6), 8)]),
        region(0x20_0000, &[(What::Data(40), 3), (What::Zeros, 300)]),
        // Pages 311 to 318, then 319 to 621.
        region(
            0x10_0000,
            &[
                (What::Again(0), 3),
                (What::Data(50), 2),
                (What::Again(5), 3),
            ],
        ),
        region(0x20_0000, &[(What::Again(8), 303)]),
        // Pages 622 to 629.
        region(
            0x10_0000,
            &[
                (What::Again(0), 1),
                (What::Again(312), 3),
                (What::Data(60), 1),
                (What::Again(316), 3),
            ],
        ),
    ];
    let process = |pid, regions, pagemap| ProcessRegions {
        pid,
        regions,
        pagemap,
    };
    let processes = Processes {
        images: 0x1234_5678_9abc_def0,
        list: vec![
            process(100, 2, 0x1111_2222_3333_4444),
            process(107, 2, 0x5555_6666_7777_8888),
            process(108, 0, 0),
            process(2_147_483_647, 1, u64::MAX),
        ],
    };
    (Plan { regions }, processes)
}

/// The file of [`tree`].
pub(crate) fn tree_file(options: WriterOptions) -> Vec<u8> {
    let (plan, processes) = tree();
    let mut writer = Writer::new(Bytes::new(Vec::new()), options).expect("good options");
    writer.processes(processes);
    plan.feed(&mut writer, &[u64::MAX]).expect("a good plan");
    let (file, _) = writer.finish(ID, &metadata()).expect("a good plan");
    file.into_inner()
}

/// The plan's file in LZ4 frames of two pages, written once.
pub(crate) fn file() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| plan().write(super::options(Codec::Lz4, 2)))
}

/// Consecutive pages that are alike, or one page with content.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Read {
    first: u64,
    pages: u64,
    class: Class,
    content: Option<Box<[u8]>>,
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{} {:?}", self.first, self.pages, self.class)
    }
}

fn push(all: &mut Vec<Read>, read: Read) {
    match all.last_mut() {
        Some(last) if last.first + last.pages == read.first && read.class != Class::Content => {
            let continued = match last.class {
                Class::Parent(page) => Class::Parent(page + last.pages),
                class => class,
            };
            if continued == read.class {
                last.pages += read.pages;
                return;
            }
        }
        _ => {}
    }
    all.push(read);
}

/// Everything that is in a file whose index has few entries, or the first error.
pub(crate) fn everything<S: ReadAt>(snapshot: &Arc<Snapshot<S>>) -> Result<Vec<Read>, Error> {
    let mut cursor = Cursor::new(Arc::clone(snapshot));
    let mut all = Vec::new();
    let mut first = 0;
    while first < snapshot.pages() {
        let (content, pages) = cursor.run(PageNo(first))?;
        let (class, content) = match content {
            Content::Zero => (Class::Zero, None),
            Content::Fill(word) => (Class::Fill(word), None),
            Content::Parent(page) => (Class::Parent(page.0), None),
            Content::Lost => (Class::Lost, None),
            Content::Frame { .. } => {
                let mut out = [0; PAGE_SIZE];
                cursor.read_page(PageNo(first), &mut out)?;
                (Class::Content, Some(out.into()))
            }
        };
        push(
            &mut all,
            Read {
                first,
                pages,
                class,
                content,
            },
        );
        first += pages;
    }
    Ok(all)
}

/// What must be read from the plan's file.
pub(crate) fn expected(plan: &Plan) -> Vec<Read> {
    let mut all = Vec::new();
    for (first, what) in plan.pages() {
        let (class, content) = match what {
            What::Zeros | What::ZeroBytes => (Class::Zero, None),
            What::Lost => (Class::Lost, None),
            What::Parent(page) => (Class::Parent(page), None),
            What::Again(_) => unreachable!("resolved by the plan"),
            What::Data(seed) => {
                let bytes = page(seed.wrapping_add(first));
                match super::plan::class_of(&bytes) {
                    Class::Content => (Class::Content, Some(bytes.into())),
                    class => (class, None),
                }
            }
        };
        push(
            &mut all,
            Read {
                first,
                pages: 1,
                class,
                content,
            },
        );
    }
    all
}
