//! Faults of kernel mode: memory that only the kernel touches, in system calls.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::memory::{Content, Memory, PAGE, bytes_of, call, check, flag, leak, look, word_of};
use crate::scene::{Captured, be_rolled_back};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("calls", calls)];

const PAGES: usize = 200;

pub(crate) fn pipe() -> (File, File) {
    let (read, write) = nix::unistd::pipe().expect("pipe");
    (File::from(read), File::from(write))
}

pub(crate) fn number(descriptor: &impl AsRawFd) -> usize {
    flag(descriptor.as_raw_fd())
}

/// Gives out pages that nobody has touched, with content.
struct Untouched {
    memory: Memory,
    next: usize,
}

impl Untouched {
    /// The first of several pages in a row.
    fn take(&mut self, pages: usize) -> usize {
        let first = self.next;
        self.next += pages;
        assert!(self.next <= self.memory.pages);
        first
    }

    fn with_content(&mut self) -> usize {
        loop {
            let page = self.take(1);
            if self.memory.captured(page) != Content::Zero {
                return page;
            }
            self.memory.check(page);
        }
    }
}

fn calls(words: &[&str]) {
    let memory = Memory::private(0, PAGES);
    be_rolled_back(&[memory]);
    let mut pages = Untouched { memory, next: 0 };
    for _ in 0..8 {
        write_from(&mut pages);
        read_into(&mut pages);
        writev_from(&mut pages);
        futex_wait(&mut pages);
        getrandom_into(&mut pages);
        vmsplice_from(&mut pages);
        direct(&mut pages, words[0]);
    }
    say(&pages.next.to_string());
    memory_is_untouched_behind(&pages);
    say("right");
    end();
}

fn memory_is_untouched_behind(pages: &Untouched) {
    for page in pages.next..pages.memory.pages {
        pages.memory.check(page);
    }
}

fn write_from(pages: &mut Untouched) {
    let first = pages.take(2);
    let (mut read, write) = pipe();
    let arguments = [number(&write), pages.memory.at(first), 2 * PAGE, 0, 0, 0];
    assert_eq!(call(libc::SYS_write, arguments).expect("write"), 2 * PAGE);
    let mut got = vec![0; 2 * PAGE];
    read.read_exact(&mut got).expect("read");
    let content = |page| bytes_of(pages.memory.captured(page));
    assert!(got == [content(first), content(first + 1)].concat());
}

/// Only a part of the page: the rest is the snapshot's.
fn read_into(pages: &mut Untouched) {
    let page = pages.with_content();
    let (read, mut write) = pipe();
    write.write_all(&[0x77; 24]).expect("write");
    let arguments = [number(&read), pages.memory.at(page) + 800, 24, 0, 0, 0];
    assert_eq!(call(libc::SYS_read, arguments).expect("read"), 24);
    expect_part(&pages.memory, page, 800, &[0x77; 24]);
}

/// All of a page but these bytes is as captured.
fn expect_part(memory: &Memory, page: usize, offset: usize, bytes: &[u8]) {
    let mut wanted = bytes_of(memory.captured(page));
    wanted[offset..offset + bytes.len()].copy_from_slice(bytes);
    assert!(copy_of(memory.at(page)) == wanted, "page {page}");
}

/// A page, by way of the kernel.
fn copy_of(address: usize) -> Vec<u8> {
    let (mut read, write) = pipe();
    let arguments = [number(&write), address, PAGE, 0, 0, 0];
    assert_eq!(call(libc::SYS_write, arguments).expect("write"), PAGE);
    let mut got = vec![0; PAGE];
    read.read_exact(&mut got).expect("read");
    got
}

fn writev_from(pages: &mut Untouched) {
    let first = pages.take(4);
    let at = |page: usize| pages.memory.at(first + page);
    // From the last to the first, and pieces over borders.
    let vectors = leak([
        [at(3), PAGE],
        [at(2) + 100, 50],
        [at(1) - 64, 128],
        [at(0), 8],
    ]);
    let (mut read, write) = pipe();
    let arguments = [number(&write), vectors, 4, 0, 0, 0];
    let length = PAGE + 50 + 128 + 8;
    assert_eq!(call(libc::SYS_writev, arguments).expect("writev"), length);
    let mut got = vec![0; length];
    read.read_exact(&mut got).expect("read");
    let content = |page: usize| bytes_of(pages.memory.captured(first + page));
    let wanted = [
        &content(3)[..],
        &content(2)[100..150],
        &content(0)[PAGE - 64..],
        &content(1)[..64],
        &content(0)[..8],
    ]
    .concat();
    assert!(got == wanted);
}

/// The kernel compares the word: it sees the snapshot's.
fn futex_wait(pages: &mut Untouched) {
    let page = pages.with_content();
    let low = |word: u64| usize::try_from(word & 0xffff_ffff).expect("64 bits");
    let is = low(word_of(pages.memory.captured(page), 1));
    let (wait_private, moment) = (128, leak([0_u64, 1000]));
    let word = pages.memory.at(page) + 8;
    let wait = |value: usize| {
        call(libc::SYS_futex, [word, wait_private, value, moment, 0, 0])
            .expect_err("nobody wakes it")
            .raw_os_error()
    };
    assert_eq!(wait(is), Some(libc::ETIMEDOUT));
    assert_eq!(wait(is ^ 1), Some(libc::EAGAIN));
    pages.memory.check(page);
}

fn getrandom_into(pages: &mut Untouched) {
    let page = pages.with_content();
    let arguments = [pages.memory.at(page) + 40, 16, 0, 0, 0, 0];
    assert_eq!(call(libc::SYS_getrandom, arguments).expect("getrandom"), 16);
    let got = copy_of(pages.memory.at(page));
    expect_part(&pages.memory, page, 40, &got[40..56]);
}

/// The page itself goes into the pipe.
fn vmsplice_from(pages: &mut Untouched) {
    let page = pages.with_content();
    let (mut read, write) = pipe();
    let vector = leak([pages.memory.at(page), PAGE]);
    let arguments = [number(&write), vector, 1, 0, 0, 0];
    assert_eq!(call(libc::SYS_vmsplice, arguments).expect("vmsplice"), PAGE);
    let mut got = vec![0; PAGE];
    read.read_exact(&mut got).expect("read");
    assert!(got == bytes_of(pages.memory.captured(page)));
}

/// A file that is read and written past the page cache: the disk takes from and puts into the pages.
fn direct(pages: &mut Untouched, folder: &str) {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_TMPFILE)
        .open(folder)
        .expect("a folder of a file system with O_DIRECT");
    let first = pages.take(3);
    let from = pages.memory.at(first);
    let arguments = [number(&file), from, 3 * PAGE, 0, 0, 0];
    assert_eq!(call(libc::SYS_write, arguments).expect("write"), 3 * PAGE);
    file.rewind().expect("seek");
    let into = pages.take(3);
    let arguments = [number(&file), pages.memory.at(into), 3 * PAGE, 0, 0, 0];
    assert_eq!(call(libc::SYS_read, arguments).expect("read"), 3 * PAGE);
    for page in 0..3 {
        check(
            pages.memory.at(into + page),
            pages.memory.captured(first + page),
        );
        assert_eq!(
            look(pages.memory.at(first + page)),
            pages.memory.captured(first + page)
        );
    }
}

#[test]
fn faults_of_system_calls() {
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let captured = Captured::new("calls", disk.path().to_str().expect("UTF-8"));
    let mut scene = captured.restore(&[]);
    let touched = scene.target.hear_numbers()[0];
    assert!(touched > 8 * 15);
    let done = scene.finish();
    assert_eq!(done.all_pages(), PAGES as u64, "{done:?}");
    assert!(done.pages("demand") > PAGES as u64 / 2, "{done:?}");
}
