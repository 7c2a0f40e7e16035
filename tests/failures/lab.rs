//! A folder with snapshots, good and bad.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snapshot_format::{
    Compression, Content, Cursor, Metadata, PAGE_SIZE, PageNo, PageSize, Region, RegionKind,
    SectionKind, Snapshot, SnapshotId, Source, Writer, WriterOptions,
};

/// The first and the last word of a page of a snapshot: this, plus its number.
pub(crate) const CONTENT: u64 = 0xc0de_0000_0000;

/// What a snapshot is to hold.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) pages: u64,
    /// Pages that were lost at capture time.
    pub(crate) lost: Vec<u64>,
    /// All of them were.
    pub(crate) all_lost: bool,
    pub(crate) frame_pages: u16,
    /// Name and kind of each region; all have `pages` pages.
    pub(crate) regions: Vec<(String, RegionKind)>,
    pub(crate) source: Source,
}

impl Plan {
    /// One region without a name.
    pub(crate) fn of(pages: u64) -> Self {
        Self {
            pages,
            lost: Vec::new(),
            all_lost: false,
            frame_pages: 4,
            regions: vec![(String::new(), RegionKind::Private)],
            source: Source::Unknown,
        }
    }

    /// Regions of these names.
    pub(crate) fn named(pages: u64, names: &[&str]) -> Self {
        let regions = names
            .iter()
            .map(|name| ((*name).to_owned(), RegionKind::Private));
        Self {
            regions: regions.collect(),
            ..Self::of(pages)
        }
    }
}

/// The folder. Other users may read it.
pub(crate) struct Lab(tempfile::TempDir);

impl Lab {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("permissions");
        Self(folder)
    }

    /// A lab with a good snapshot of this many pages, and its path.
    pub(crate) fn with_snapshot(pages: u64) -> (Self, PathBuf) {
        let lab = Self::new();
        let path = lab.snapshot("snap", &Plan::of(pages));
        (lab, path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn snapshot(&self, name: &str, plan: &Plan) -> PathBuf {
        let path = self.path(name);
        let file = File::create(&path).expect("create");
        let options = WriterOptions {
            compression: Compression {
                frame_pages: plan.frame_pages,
                ..Compression::default()
            },
            ..WriterOptions::default()
        };
        let mut writer = Writer::new(file, options).expect("writer");
        for (index, (name, kind)) in plan.regions.iter().enumerate() {
            writer
                .begin_region(region(index as u64, plan.pages, name, *kind))
                .expect("region");
            if plan.all_lost {
                writer.lost(plan.pages).expect("lost");
                continue;
            }
            for page in 0..plan.pages {
                if plan.lost.contains(&page) {
                    writer.lost(1).expect("lost");
                } else {
                    writer.space().expect("space")[..PAGE_SIZE].copy_from_slice(&content(page));
                    writer.commit(1).expect("commit");
                }
            }
        }
        let metadata = Metadata {
            source: plan.source.clone(),
            ..Metadata::default()
        };
        writer
            .finish(SnapshotId([7; 16]), &metadata)
            .expect("finish");
        path
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("write");
        path
    }
}

/// Far from where anybody maps anything, one behind the other with room between.
fn region(index: u64, pages: u64, name: &str, kind: RegionKind) -> Region {
    let huge = kind == RegionKind::Hugetlb;
    Region {
        start: 0x1000_0000_0000 + index * (1 << 32),
        kind,
        shared: kind == RegionKind::Shared,
        page_size: if huge {
            PageSize::Huge2M
        } else {
            PageSize::Small
        },
        name: name.to_owned(),
        ..Region::raw(0, pages * PAGE_SIZE as u64)
    }
}

/// A page that is no repetition of anything.
fn content(page: u64) -> [u8; PAGE_SIZE] {
    let mut bytes = [0; PAGE_SIZE];
    let mut state = page + 1;
    let (words, _) = bytes.as_chunks_mut::<8>();
    for word in words.iter_mut() {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        *word = state.to_le_bytes();
    }
    let mark = (CONTENT + page).to_le_bytes();
    words[0] = mark;
    words[words.len() - 1] = mark;
    bytes
}

/// Where a section begins in the file, and its length.
pub(crate) fn section(path: &Path, kind: SectionKind) -> (u64, u64) {
    let snapshot = Snapshot::open(File::open(path).expect("open")).expect("a snapshot");
    let found = snapshot.sections().find(|(its, _, _)| *its == kind);
    let (_, offset, len) = found.expect("the section");
    (offset, len)
}

/// Changes one bit of a file, at an offset.
pub(crate) fn flip(path: &Path, offset: u64) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).expect("write");
}

/// Damages the frame that has a page. Returns all pages of that frame.
pub(crate) fn damage(path: &Path, page: u64) -> Vec<u64> {
    let snapshot = Arc::new(Snapshot::open(File::open(path).expect("open")).expect("a snapshot"));
    let pages = snapshot.pages();
    let mut cursor = Cursor::new(snapshot);
    let mut frame_of = |page| match cursor.content(PageNo(page)).expect("content") {
        Content::Frame { frame, .. } => Some(frame),
        _ => None,
    };
    let frame = frame_of(page).expect("a page in a frame");
    let all = (0..pages)
        .filter(|&other| frame_of(other) == Some(frame))
        .collect();
    // In the payload, behind the checksum.
    flip(
        path,
        section(path, SectionKind::Frames).0 + frame.offset + 8 + 20,
    );
    all
}
