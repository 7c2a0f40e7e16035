//! Memory images, snapshots of them, and their frames in memory.

use crate::codec::Kind;
use snapshot_format::{
    Content, Cursor, FrameRef, Metadata, PAGE_SIZE, PageNo, SectionKind, Snapshot, SnapshotId,
    Summary, Writer, WriterOptions,
};
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A memory image in memory.
pub struct Image {
    /// Its file.
    pub path: PathBuf,
    /// The file's name without its end.
    pub name: String,
    /// Whole pages.
    pub bytes: Vec<u8>,
}

impl Image {
    /// Read the whole pages of a file.
    pub fn load(path: &Path) -> Self {
        let mut bytes = fs::read(path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        bytes.truncate(bytes.len() / PAGE_SIZE * PAGE_SIZE);
        bytes.shrink_to_fit();
        Self {
            path: path.to_path_buf(),
            name: path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            bytes,
        }
    }
}

/// The options of a writer.
pub fn options(kind: Kind, frame_pages: u16, jobs: usize, spool_dir: &Path) -> WriterOptions {
    WriterOptions {
        compression: kind.compression(frame_pages),
        jobs,
        spool_dir: spool_dir.to_path_buf(),
        ..WriterOptions::default()
    }
}

/// Write a snapshot of `image` to `out`, with the copy into the writer's memory that `uffd-snapshot pack` has as its read.
pub fn pack<W: Write + Seek + Send + 'static>(
    image: &[u8],
    out: W,
    options: WriterOptions,
) -> (W, Summary) {
    let mut writer = Writer::new(out, options).expect("a writer");
    writer.begin_stream().expect("a stream");
    let mut rest = image;
    while !rest.is_empty() {
        let space = writer.space().expect("room");
        let len = space.len().min(rest.len());
        space[..len].copy_from_slice(&rest[..len]);
        writer.commit(len / PAGE_SIZE).expect("the pages fit");
        rest = &rest[len..];
    }
    writer.end_stream(image.len() as u64).expect("the end");
    writer
        .finish(SnapshotId([7; 16]), &Metadata::default())
        .expect("a snapshot")
}

/// An open snapshot in a file.
pub type Open = Arc<Snapshot<File>>;

/// Open a snapshot.
pub fn open(path: &Path) -> Open {
    Arc::new(Snapshot::open(File::open(path).expect("the file")).expect("a snapshot"))
}

/// The frames of a snapshot, in memory.
pub struct Frames {
    /// Every frame once, in the order of their pages.
    pub frames: Vec<FrameRef>,
    /// Every page with content: its number, its frame and its place there.
    pub pages: Vec<(PageNo, FrameRef, u16)>,
    /// The frames section.
    section: Vec<u8>,
    /// Where the section begins in the file.
    pub offset: u64,
}

impl Frames {
    /// Walk the index and read the section.
    pub fn load(snapshot: &Open) -> Self {
        let (_, offset, len) = snapshot
            .sections()
            .find(|(kind, ..)| *kind == SectionKind::Frames)
            .expect("a frames section");
        let mut section = vec![0; usize::try_from(len).expect("it fits")];
        snapshot
            .storage()
            .read_exact_at(&mut section, offset)
            .expect("the section");
        let mut cursor = Cursor::new(Arc::clone(snapshot));
        let (mut frames, mut pages): (Vec<FrameRef>, _) = (Vec::new(), Vec::new());
        for page in (0..snapshot.pages()).map(PageNo) {
            if let Content::Frame { frame, slot } = cursor.content(page).expect("an entry") {
                if frames.last() != Some(&frame) {
                    frames.push(frame);
                }
                pages.push((page, frame, slot));
            }
        }
        Self {
            frames,
            pages,
            section,
            offset,
        }
    }

    /// What the codec gets to decode.
    pub fn payload(&self, frame: &FrameRef) -> &[u8] {
        // Behind eight bytes of checksum.
        let from = usize::try_from(frame.offset).expect("it fits") + 8;
        &self.section[from..from + frame.payload_len as usize]
    }

    /// What the codec gets to compress: the content of all frames, one after the other.
    pub fn content(&self, image: &[u8]) -> Vec<u8> {
        let mut content = Vec::with_capacity(self.pages.len() * PAGE_SIZE);
        for (page, ..) in &self.pages {
            let from = usize::try_from(page.0).expect("it fits") * PAGE_SIZE;
            content.extend_from_slice(&image[from..from + PAGE_SIZE]);
        }
        content
    }
}
