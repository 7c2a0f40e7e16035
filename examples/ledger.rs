//! The service of `scripts/demo`: a bank whose accounts live in one piece of memory.
//!
//! `ledger MIB fill` makes up MIB MiB of accounts, `ledger MIB` starts with memory that nothing has been written to, as a
//! restore wants it. It answers lines on standard input:
//!
//! * `get N`: the balance of account N, after checking its history against its checksum
//! * `check`: the sum of all balances, after checking all of them
//! * `count`: how many accounts there are
#![expect(
    unsafe_code,
    reason = "shared memory by a name that a restore can find"
)]

use std::fmt::Write as _;
use std::io::{BufRead, Write};
use std::num::NonZeroUsize;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

/// Bytes of an account: balance, checksum, history.
const ACCOUNT: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let mib: usize = words.next().ok_or("usage: ledger MIB [fill]")?.parse()?;
    let memory = named_memory(mib << 20)?;
    let count = memory.len() / ACCOUNT;
    if words.next().as_deref() == Some("fill") {
        for (number, account) in memory.chunks_exact_mut(ACCOUNT).enumerate() {
            open(number, account);
        }
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_once(' ') {
            Some(("get", number)) => {
                let number: usize = number.parse()?;
                balance(&memory[number % count * ACCOUNT..][..ACCOUNT])?
            }
            None if line == "check" => memory
                .chunks_exact(ACCOUNT)
                .map(balance)
                .sum::<Result<u64, _>>()?,
            None if line == "count" => count as u64,
            _ => return Err(format!("what is {line:?}?").into()),
        };
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(())
}

/// Memory that /proc/PID/maps calls `/memfd:ledger`.
fn named_memory(len: usize) -> Result<&'static mut [u8], Box<dyn std::error::Error>> {
    let file = memfd_create(c"ledger", MFdFlags::MFD_CLOEXEC)?;
    nix::unistd::ftruncate(&file, i64::try_from(len)?)?;
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let size = NonZeroUsize::new(len).ok_or("no memory at all")?;
    // SAFETY: without MAP_FIXED mmap touches no memory that exists, and the file is as long as the mapping.
    let start = unsafe { mmap(None, size, rights, MapFlags::MAP_SHARED, &file, 0) }?;
    // SAFETY: the mapping was made for this slice, has its length, consists of bytes, and is never unmapped.
    Ok(unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast(), len) })
}

/// An account with some money and a history to go with it.
fn open(number: usize, account: &mut [u8]) {
    let mut random = number as u64 * 2 + 1;
    let mut history = String::with_capacity(ACCOUNT);
    while history.len() < ACCOUNT {
        let amount = next(&mut random) % 10_000;
        let _ = write!(
            history,
            "{amount} from account {}; ",
            next(&mut random) % 1_000_000
        );
    }
    let (head, body) = account.split_at_mut(16);
    body.copy_from_slice(&history.as_bytes()[..body.len()]);
    head[..8].copy_from_slice(&1000_u64.to_le_bytes());
    head[8..].copy_from_slice(&checksum(body).to_le_bytes());
}

/// The balance, if the history is the one that was written: zeros are not.
fn balance(account: &[u8]) -> Result<u64, String> {
    let (head, body) = account.split_at(16);
    let word = |bytes: &[u8]| {
        bytes
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    if checksum(body) != word(&head[8..]) || body[0] == 0 {
        return Err("an account's history is not what was written".to_owned());
    }
    Ok(word(head))
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}
