//! What a guest says on its console.

use super::PATIENCE;
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

/// A round of the guest's checks.
#[derive(Debug, Clone, Copy)]
pub struct Loop {
    pub number: u64,
    /// In a full round the same for the whole life of a guest.
    pub checksum: u64,
    pub ok: bool,
    /// Everything was checked, and not one page in a hundred.
    pub full: bool,
    /// When its line was there.
    pub at: Instant,
}

/// Lines from the guest, each with the moment of its end.
pub struct Console {
    lines: Receiver<(Instant, Vec<u8>)>,
    /// The beginning of the first line, said before the guest was saved.
    before: String,
    transcript: String,
}

impl Console {
    pub fn listen(output: impl Read + Send + 'static, before: &str) -> Self {
        let (sender, lines) = channel();
        // Ends when QEMU does.
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            loop {
                let mut line = Vec::new();
                let got = output.read_until(b'\n', &mut line);
                if !got.is_ok_and(|got| got > 0) || sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Self {
            lines,
            before: before.to_owned(),
            transcript: String::new(),
        }
    }

    /// The next line, with its end if it has one; `None` when QEMU is gone.
    fn line(&mut self, deadline: Instant) -> Option<(Instant, String)> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok((at, line)) => {
                let line = std::mem::take(&mut self.before) + &String::from_utf8_lossy(&line);
                self.transcript += &line;
                Some((at, line))
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("the guest says nothing; before:\n{}", self.transcript)
            }
        }
    }

    /// Waits for a line in which this finds something.
    pub fn find<T>(
        &mut self,
        what: &str,
        mut looked_for: impl FnMut(Instant, &str) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some((at, line)) = self.line(deadline) else {
                panic!(
                    "QEMU ended before {what}; its guest said:\n{}",
                    self.transcript
                )
            };
            assert!(
                !line.contains("GUEST-FAILED") && !line.contains("Kernel panic"),
                "the guest failed before {what}:\n{}",
                self.transcript
            );
            if let Some(found) = looked_for(at, line.trim_end()) {
                return found;
            }
        }
    }

    /// The next round.
    pub fn next_loop(&mut self) -> Loop {
        self.find("the next round", parse)
    }

    /// What is left to read of a QEMU that ended: the last round, if there is one, and the beginning of a line.
    pub fn rest(&mut self) -> (Option<Loop>, String) {
        let (mut last, mut tail) = (None, String::new());
        while let Some((at, line)) = self.line(Instant::now() + PATIENCE) {
            if line.ends_with('\n') {
                last = parse(at, line.trim_end()).or(last);
            } else {
                tail = line;
            }
        }
        (last, tail)
    }

    pub fn transcript(&self) -> &str {
        &self.transcript
    }
}

fn parse(at: Instant, line: &str) -> Option<Loop> {
    let words: Vec<&str> = line.split(' ').collect();
    let &["LOOP", number, checksum, verdict, kind] = words.as_slice() else {
        return None;
    };
    Some(Loop {
        number: number.parse().expect("a number"),
        checksum: u64::from_str_radix(checksum, 16).expect("a checksum"),
        ok: verdict == "ok",
        full: kind == "full",
        at,
    })
}
