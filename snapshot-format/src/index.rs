//! The page index as it is built: a tree of 4096-byte nodes, 256 entries each, in page order.
//!
//! Memory is one node per level; finished nodes go to the output at once. A subtree whose pages are all alike has no
//! node, so that memory nobody wrote takes no room in the file.

use crate::codec::checksum;
use crate::entry::{
    Content, ENTRY_LEN, Inner, Limits, decode_inner, decode_leaf, encode_inner, encode_leaf,
};
use crate::page::{PAGE_SIZE, Page, PageNo};
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Entries of a node, pages of a leaf.
pub(crate) const FAN_OUT: u64 = 256;

/// Levels of the tree for so many pages: 1 when the root is a leaf.
pub(crate) fn levels(pages: u64) -> u32 {
    let mut levels = 1;
    let mut reach = FAN_OUT;
    while reach < pages {
        reach = reach.saturating_mul(FAN_OUT);
        levels += 1;
    }
    levels
}

/// Pages below one entry of a node of `level` (0 is a leaf).
pub(crate) fn pages_per_entry(level: u32) -> u64 {
    1 << (8 * level)
}

/// A node being filled.
#[derive(Debug, Default)]
struct Node {
    entries: Vec<[u8; ENTRY_LEN]>,
    /// What all entries so far are, if they are all alike.
    uniform: Option<Content>,
}

impl Node {
    fn push(&mut self, entry: [u8; ENTRY_LEN], uniform: Option<Content>, pages_per_entry: u64) {
        let so_far = self.entries.len() as u64 * pages_per_entry;
        self.uniform = match (self.entries.is_empty(), uniform, self.uniform) {
            (true, Some(Content::Frame { .. }), _) => None,
            (true, uniform, _) => uniform,
            (false, Some(next), Some(first)) if next == first.offset_by(so_far) => Some(first),
            _ => None,
        };
        self.entries.push(entry);
    }

    fn is_full(&self) -> bool {
        self.entries.len() as u64 == FAN_OUT
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.entries.concat();
        bytes.resize(PAGE_SIZE, 0);
        bytes
    }
}

/// Builds the index from the content of the pages, in order.
#[derive(Debug)]
pub(crate) struct IndexBuilder<W> {
    out: W,
    written: u64,
    pages: u64,
    /// Open nodes, leaf first.
    open: Vec<Node>,
    /// The leaf that was read back last, and where it stands in the output.
    read_back: Option<(u64, Box<Page>)>,
}

impl<W: Write> IndexBuilder<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            pages: 0,
            open: vec![Node::default()],
            read_back: None,
        }
    }

    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// The next page is `content`.
    pub(crate) fn push(&mut self, content: Content) -> io::Result<()> {
        self.pages += 1;
        self.push_at(0, encode_leaf(content), Some(content))
    }

    /// The next `pages` pages are alike, starting with `content`, which is not a frame unless it is one page.
    pub(crate) fn push_run(&mut self, content: Content, pages: u64) -> io::Result<()> {
        let mut done = 0;
        while done < pages {
            let here = content.offset_by(done);
            let left = pages - done;
            // Whole subtrees at once where possible: 64 GiB of nothing are one step, not 16 million.
            let level = self.whole_level(left);
            if level > 0 {
                for below in 0..level.min(self.open.len()) {
                    self.close_if_full(below)?;
                }
                let whole = pages_per_entry(u32::try_from(level).unwrap_or(u32::MAX));
                self.pages += whole;
                self.push_at(level, encode_inner(Inner::Uniform(here)), Some(here))?;
                done += whole;
            } else {
                self.push(here)?;
                done += 1;
            }
        }
        Ok(())
    }

    /// The highest level at which the next of `left` pages fill an entry. A root is filled entry by entry, for it has
    /// no parent to be an entry of.
    fn whole_level(&self, left: u64) -> usize {
        let fits = |level: &u32| {
            let whole = pages_per_entry(*level);
            self.pages.is_multiple_of(whole) && left >= whole && self.pages + left > whole
        };
        (1..levels(crate::header::MAX_PAGES))
            .take_while(fits)
            .count()
    }

    fn push_at(
        &mut self,
        level: usize,
        entry: [u8; ENTRY_LEN],
        uniform: Option<Content>,
    ) -> io::Result<()> {
        while level >= self.open.len() {
            self.open.push(Node::default());
        }
        self.close_if_full(level)?;
        let pages_per_entry = pages_per_entry(u32::try_from(level).unwrap_or(u32::MAX));
        self.open[level].push(entry, uniform, pages_per_entry);
        Ok(())
    }

    /// A full node is closed when more comes, and not before: it may be the root.
    fn close_if_full(&mut self, level: usize) -> io::Result<()> {
        if self.open[level].is_full() {
            self.close(level)?;
        }
        Ok(())
    }

    /// Hand the open node of `level` to its parent, as a uniform entry or as a node.
    fn close(&mut self, level: usize) -> io::Result<()> {
        let node = std::mem::take(&mut self.open[level]);
        let inner = match node.uniform {
            Some(content) => Inner::Uniform(content),
            None => {
                let (offset, checksum) = self.write(&node)?;
                Inner::Node { offset, checksum }
            }
        };
        self.push_at(level + 1, encode_inner(inner), node.uniform)
    }

    /// Write a node; returns its offset in the section and its checksum.
    fn write(&mut self, node: &Node) -> io::Result<(u64, u64)> {
        let bytes = node.bytes();
        let offset = self.written;
        self.out.write_all(&bytes)?;
        self.written += bytes.len() as u64;
        Ok((offset, checksum(&bytes)))
    }

    /// Close everything and write the root as the last node. Returns the output, its length and the root's checksum.
    pub(crate) fn finish(mut self) -> io::Result<(W, u64, u64)> {
        let root_level = levels(self.pages) as usize - 1;
        for level in 0..root_level {
            if !self.open[level].entries.is_empty() {
                self.close(level)?;
            }
        }
        let root = std::mem::take(&mut self.open[root_level]);
        let (_, checksum) = self.write(&root)?;
        self.out.flush()?;
        Ok((self.out, self.written, checksum))
    }
}

impl<W: Read + Write + Seek> IndexBuilder<W> {
    /// What a page that has been pushed is, and how many pages from it on one entry says the same of.
    ///
    /// Finished nodes are read back from the output, where they are found from the open ones on as a reader finds them from
    /// the root on. So nothing is kept for it but the leaf read last: a run of pages costs a read for every 256 of them, and
    /// one more for each level above that has been finished.
    pub(crate) fn run(&mut self, page: PageNo) -> io::Result<(Content, u64)> {
        let (mut level, mut entry, mut first) = self.open_entry(page).ok_or_else(unreadable)?;
        loop {
            let pages = pages_per_entry(level);
            if level == 0 {
                let content = decode_leaf(&entry, &self.limits()).map_err(io::Error::other)?;
                return Ok((content, 1));
            }
            match decode_inner(&entry, pages, &self.limits()).map_err(io::Error::other)? {
                Inner::Uniform(content) => {
                    let into = page.0 - first;
                    return Ok((content.offset_by(into), pages - into));
                }
                Inner::Node { offset, checksum } => {
                    level -= 1;
                    let position = (page.0 - first) / pages_per_entry(level);
                    first += position * pages_per_entry(level);
                    entry = self.entry_at(level, offset, checksum, position)?;
                }
            }
        }
    }

    /// The entry of an open node that `page` is below: its level, itself, and the first of its pages. The open nodes stand for
    /// the last pages, the leaf for the very last.
    fn open_entry(&self, page: PageNo) -> Option<(u32, [u8; ENTRY_LEN], u64)> {
        let mut end = self.pages;
        for (level, node) in (0..).zip(&self.open) {
            let pages = pages_per_entry(level);
            let start = end - node.entries.len() as u64 * pages;
            if (start..end).contains(&page.0) {
                let position = (page.0 - start) / pages;
                let entry = node.entries.get(usize::try_from(position).ok()?)?;
                return Some((level, *entry, start + position * pages));
            }
            end = start;
        }
        None
    }

    /// An entry of a finished node, which is read back and checked unless it is the leaf that was read last.
    fn entry_at(
        &mut self,
        level: u32,
        offset: u64,
        expected: u64,
        position: u64,
    ) -> io::Result<[u8; ENTRY_LEN]> {
        let (at, mut node) = match self.read_back.take() {
            Some(read_back) if level == 0 => read_back,
            kept => {
                self.read_back = kept;
                (u64::MAX, Box::new([0; PAGE_SIZE]))
            }
        };
        if at != offset {
            self.out.seek(SeekFrom::Start(offset))?;
            self.out.read_exact(node.as_mut_slice())?;
            self.out.seek(SeekFrom::Start(self.written))?;
            if checksum(node.as_slice()) != expected {
                return Err(unreadable());
            }
        }
        let entries = node.as_chunks::<ENTRY_LEN>().0;
        let entry = usize::try_from(position).ok();
        let entry = entry.and_then(|position| entries.get(position)).copied();
        if level == 0 {
            self.read_back = Some((offset, node));
        }
        entry.ok_or_else(unreadable)
    }

    /// Entries that were written here need to be found, not judged.
    fn limits(&self) -> Limits {
        Limits {
            frames_len: u64::MAX,
            index_len: self.written,
            max_frame_pages: crate::header::MAX_FRAME_PAGES,
            parent_pages: u64::MAX,
        }
    }
}

/// The spool does not give back what was written to it.
fn unreadable() -> io::Error {
    io::Error::other("the index, as far as it is written, cannot be read back")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes written for pages of these contents.
    fn nodes(runs: &[(Content, u64)]) -> usize {
        let mut builder = IndexBuilder::new(Vec::new());
        for &(content, pages) in runs {
            builder.push_run(content, pages).expect("a Vec");
        }
        let (bytes, len, _) = builder.finish().expect("a Vec");
        assert_eq!(bytes.len() as u64, len);
        bytes.len() / PAGE_SIZE
    }

    #[test]
    fn the_tree_is_as_deep_as_its_pages_need() {
        for (pages, expected) in [(0, 1), (1, 1), (256, 1), (257, 2), (65536, 2), (65537, 3)] {
            assert_eq!(levels(pages), expected, "{pages} pages");
        }
        assert_eq!(levels(crate::header::MAX_PAGES), 5);
    }

    #[test]
    fn uniform_memory_is_a_root_and_nothing_else() {
        for pages in [0, 1, 255, 256, 257, 65535, 65536, 65537, 1 << 24] {
            assert_eq!(nodes(&[(Content::Zero, pages)]), 1, "{pages} pages");
        }
    }

    #[test]
    fn a_different_page_costs_one_node_per_level() {
        assert_eq!(
            nodes(&[
                (Content::Zero, 70000),
                (Content::Fill(7), 1),
                (Content::Zero, 70000)
            ]),
            3
        );
    }

    #[test]
    fn every_page_can_be_looked_up_at_any_time() {
        let frame = |offset| Content::Frame {
            frame: crate::FrameRef {
                offset,
                payload_len: 4096,
                pages: 1,
                codec: crate::Codec::Stored,
            },
            slot: 0,
        };
        let runs = [
            (Content::Zero, 3),
            (Content::Parent(PageNo(7)), 70_000),
            (frame(1), 1),
            (Content::Fill(9), 255),
            (Content::Lost, 140_000),
            (frame(2), 1),
        ];
        let mut builder = IndexBuilder::new(io::Cursor::new(Vec::new()));
        let mut pushed = Vec::new();
        for number in 0..600 {
            let (content, pages) = *runs.get(number % 17).unwrap_or(&(frame(number as u64), 1));
            builder.push_run(content, pages).expect("a Vec");
            let first = pushed.last().map_or(0, |&(_, first, pages)| first + pages);
            pushed.push((content, first, pages));
            let step = 1 + number % 13;
            for &(content, first, pages) in pushed.iter().rev().step_by(step) {
                for into in [0, pages / 2, pages - 1] {
                    let (found, alike) = builder.run(PageNo(first + into)).expect("it is there");
                    assert_eq!(found, content.offset_by(into), "page {}", first + into);
                    assert!((1..=pages - into).contains(&alike), "{alike}");
                }
            }
        }
        let pages = builder.pages();
        assert!(builder.run(PageNo(pages)).is_err());
        assert!(pages > 1 << 22, "{pages}");
    }

    #[test]
    fn an_index_that_does_not_come_back_as_it_was_is_an_error() {
        let mut builder = IndexBuilder::new(io::Cursor::new(Vec::new()));
        for page in 0..1000 {
            builder.push(Content::Fill(1 + page)).expect("a Vec");
        }
        builder.out.get_mut()[5] ^= 1;
        assert!(builder.run(PageNo(3)).is_err());
        assert!(builder.run(PageNo(256)).is_ok());
    }

    #[test]
    fn consecutive_pages_of_the_parent_are_uniform_and_others_are_not() {
        let parent = |page| Content::Parent(crate::PageNo(page));
        assert_eq!(nodes(&[(parent(1000), 70000)]), 1);
        assert_eq!(nodes(&[(parent(1000), 1000), (parent(2001), 69000)]), 3);
    }
}
