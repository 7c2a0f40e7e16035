//! Directories of images, written by hand: an account of the format that shares no code with the one that is tested.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) const PAGE: u64 = 4096;

pub(crate) const INVENTORY: u32 = 0x5831_3116;
pub(crate) const PSTREE: u32 = 0x5027_3030;
pub(crate) const MM: u32 = 0x5749_2820;
pub(crate) const PAGEMAP: u32 = 0x5608_4025;
const COMMON: u32 = 0x5456_4319;

/// A protobuf message that is being written.
#[derive(Default, Clone)]
pub(crate) struct Message(pub(crate) Vec<u8>);

impl Message {
    pub(crate) fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    pub(crate) fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

/// The bytes of an image.
pub(crate) fn image(magic: u32, messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if magic != INVENTORY {
        bytes.extend_from_slice(&COMMON.to_le_bytes());
    }
    bytes.extend_from_slice(&magic.to_le_bytes());
    for Message(message) in messages {
        let len = u32::try_from(message.len()).expect("small");
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(message);
    }
    bytes
}

/// A mapping as mm-PID.img has it.
#[derive(Clone, Copy)]
pub(crate) struct Vma {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) prot: u64,
    pub(crate) flags: u64,
    pub(crate) status: u64,
    pub(crate) madv: u64,
}

impl Vma {
    /// Private and anonymous, readable and writable: what is restored lazily.
    pub(crate) fn lazy(start: u64, end: u64) -> Self {
        Self {
            start,
            end,
            prot: 3,
            flags: 0x22,
            status: 0x201,
            madv: 0,
        }
    }

    fn message(self) -> Message {
        // Some of these are not needed, and have to be skipped.
        Message::default()
            .number(1, self.start)
            .number(2, self.end)
            .number(3, 0)
            .number(4, 0)
            .number(5, self.prot)
            .number(6, self.flags)
            .number(7, self.status)
            .number(8, 1)
            .number(9, self.madv)
    }
}

pub(crate) fn mm(vmas: &[Vma]) -> Vec<u8> {
    image(MM, &[mm_message(vmas)])
}

pub(crate) fn mm_message(vmas: &[Vma]) -> Message {
    let message = Message::default()
        .number(1, 0x40_0000)
        .number(5, 0x7fff_0000_3a10)
        .number(8, 0x7fff_0000_3b00)
        .number(9, 0x7fff_0000_3b20)
        .number(10, 0x7fff_0000_3b20)
        .number(11, 0x7fff_0000_3ff8)
        .number(13, 0x21);
    let message = vmas
        .iter()
        .fold(message, |message, vma| message.bytes(14, &vma.message().0));
    message.number(15, 1)
}

/// An entry of a pagemap: address, pages, flags.
pub(crate) type Entry = (u64, u64, u64);

/// As CRIU 4.2 writes it.
pub(crate) fn pagemap(pages_id: u64, entries: &[Entry]) -> Vec<u8> {
    pagemap_with(pages_id, entries, |(at, pages, flags)| {
        let count = Message::default().number(1, at).number(2, 0);
        count.number(4, flags).number(5, pages)
    })
}

/// As CRIU 3 to 4.1 do.
pub(crate) fn narrow_pagemap(pages_id: u64, entries: &[Entry]) -> Vec<u8> {
    pagemap_with(pages_id, entries, |(at, pages, flags)| {
        Message::default()
            .number(1, at)
            .number(2, pages)
            .number(4, flags)
    })
}

/// As its predecessors did.
pub(crate) fn old_pagemap(pages_id: u64, entries: &[Entry]) -> Vec<u8> {
    pagemap_with(pages_id, entries, |(at, pages, flags)| {
        let entry = Message::default().number(1, at).number(2, pages);
        if flags & 1 != 0 {
            entry.number(3, 1)
        } else {
            entry
        }
    })
}

fn pagemap_with(pages_id: u64, entries: &[Entry], entry: impl Fn(Entry) -> Message) -> Vec<u8> {
    let mut messages = vec![Message::default().number(1, pages_id)];
    messages.extend(entries.iter().copied().map(entry));
    image(PAGEMAP, &messages)
}

pub(crate) fn inventory(version: u64) -> Vec<u8> {
    let message = Message::default().number(1, version).number(2, 1);
    image(INVENTORY, &[message.bytes(3, &[8, 1]).bytes(13, b"bfec")])
}

pub(crate) fn pstree(processes: &[(u64, u64)]) -> Vec<u8> {
    let messages: Vec<_> = processes
        .iter()
        .map(|(pid, parent)| {
            let message = Message::default().number(1, *pid).number(2, *parent);
            message.number(3, *pid).number(4, *pid).number(5, *pid)
        })
        .collect();
    image(PSTREE, &messages)
}

/// A directory of images, with all that has to be in it but pages.
pub(crate) struct Dump {
    root: tempfile::TempDir,
}

impl Dump {
    /// One with an inventory and these processes: numbers, and those of parents.
    pub(crate) fn of(processes: &[(u64, u64)]) -> Self {
        let dump = Self {
            root: tempfile::tempdir().expect("space"),
        };
        fs::create_dir(dump.folder()).expect("space");
        dump.put("inventory.img", &inventory(2));
        dump.put("pstree.img", &pstree(processes));
        dump
    }

    /// One with a process 7 that has these mappings, entries and pages.
    pub(crate) fn with(vmas: &[Vma], entries: &[Entry], pages: &[u8]) -> Self {
        let dump = Self::of(&[(7, 0)]);
        dump.put("mm-7.img", &mm(vmas));
        dump.put("pagemap-7.img", &pagemap(1, entries));
        dump.put("pages-1.img", pages);
        dump
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.root.path().join("dump")
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder().join(name), bytes).expect("space");
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.folder().join(name)).expect("it is there");
    }

    /// A directory beside it that it builds on, or that the last one of those builds on.
    pub(crate) fn parent(
        &self,
        child: &Path,
        name: &str,
        entries: &[Entry],
        pages: &[u8],
    ) -> PathBuf {
        let folder = self.root.path().join(name);
        fs::create_dir(&folder).expect("space");
        fs::write(folder.join("inventory.img"), inventory(2)).expect("space");
        fs::write(folder.join("pagemap-7.img"), pagemap(1, entries)).expect("space");
        fs::write(folder.join("pages-1.img"), pages).expect("space");
        let link = Path::new("..").join(name);
        std::os::unix::fs::symlink(link, child.join("parent")).expect("space");
        folder
    }
}

/// Pages of bytes that tell which they are.
pub(crate) fn pages(numbers: impl IntoIterator<Item = u64>) -> Vec<u8> {
    numbers.into_iter().flat_map(page).collect()
}

/// One of them.
pub(crate) fn page(number: u64) -> Vec<u8> {
    let mut page = vec![0xa5; 4096];
    page[..8].copy_from_slice(&number.to_le_bytes());
    page
}
