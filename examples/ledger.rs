//! A small service with a lot of state, for `scripts/demo`: accounts between which threads move money all the time.
//!
//! `ledger MIB` prints "ready" and then answers every line on standard input with the sum of all accounts and the number
//! of transfers so far. The sum never changes, whatever instant one looks at: if a snapshot of the process did not show
//! one instant, it would show another sum.

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// An account: its balance and what a bank would keep beside it.
struct Account {
    balance: u64,
    history: String,
}

const THREADS: usize = 4;
const ACCOUNT_BYTES: usize = 1024;

fn main() -> std::io::Result<()> {
    let mib = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let accounts = mib.unwrap_or(256_usize) * (1 << 20) / ACCOUNT_BYTES;
    let ledger: Arc<Vec<Mutex<Account>>> = Arc::new((0..accounts).map(open).collect());
    let transfers = Arc::new(AtomicU64::new(0));
    for seed in 0..THREADS {
        let (ledger, transfers) = (Arc::clone(&ledger), Arc::clone(&transfers));
        std::thread::spawn(move || move_money(&ledger, &transfers, seed as u64 + 1));
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        let sum = sum(&ledger);
        writeln!(stdout, "{sum} {}", transfers.load(Ordering::Relaxed))?;
        stdout.flush()?;
    }
    Ok(())
}

fn open(number: usize) -> Mutex<Account> {
    let mut history = String::with_capacity(ACCOUNT_BYTES - 64);
    let mut random = number as u64 * 2 + 1;
    while history.len() < ACCOUNT_BYTES - 100 {
        let amount = next(&mut random) % 10_000;
        history.push_str(&format!("{amount} from account {number}; "));
    }
    Mutex::new(Account {
        balance: 1000,
        history,
    })
}

/// Transfers lock both accounts, the lower number first.
fn move_money(ledger: &[Mutex<Account>], transfers: &AtomicU64, seed: u64) {
    let mut random = seed;
    loop {
        let count = ledger.len() as u64;
        let pick = |random: &mut u64| usize::try_from(next(random) % count).unwrap_or(0);
        let (from, to) = (pick(&mut random), pick(&mut random));
        if from == to {
            continue;
        }
        let (low, high) = (from.min(to), from.max(to));
        let (Ok(mut low), Ok(mut high)) = (ledger[low].lock(), ledger[high].lock()) else {
            return;
        };
        if low.balance > 0 {
            low.balance -= 1;
            high.balance += 1;
        }
        transfers.fetch_add(1, Ordering::Relaxed);
        drop((low, high));
        std::thread::yield_now();
    }
}

/// All accounts at once: nobody moves money while every one of them is locked.
fn sum(ledger: &[Mutex<Account>]) -> u64 {
    let locked: Vec<_> = ledger
        .iter()
        .filter_map(|account| account.lock().ok())
        .collect();
    locked
        .iter()
        .map(|account| account.balance + u64::from(account.history.is_empty()))
        .sum()
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}
