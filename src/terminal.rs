//! Text for people, on a terminal that may be gone, full, or believe what others put into a name.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Write lines to standard error. If that is not possible there is nobody to tell.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable_lines(text));
}

/// The same for who must not wait: while standard error is a pipe that is full or a terminal that is stopped, lines are lost,
/// and counted.
pub fn mention(text: &str) {
    static LOST: AtomicU64 = AtomicU64::new(0);
    if !takes_output(std::io::stderr()) {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let mut lines = printable_lines(text);
    lines.push('\n');
    let lost = LOST.swap(0, Ordering::Relaxed);
    if lost > 0 {
        lines.insert_str(0, &format!("({lost} lines before this one are lost)\n"));
    }
    // Not by way of the lock, which somebody may hold who waits for the terminal.
    let _ = nix::unistd::write(std::io::stderr(), lines.as_bytes());
}

/// True when a few lines can be written without waiting.
#[must_use]
pub fn takes_output(stream: impl AsFd) -> bool {
    let mut asked = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// `text` with control characters made visible: names of processes, mappings and files may hold any, and a terminal would
/// obey them.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            printable.extend(letter.escape_default());
        } else {
            printable.push(letter);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(
            printable("\u{1b}[2Ja\nb\t\u{7}\u{9b}1m"),
            "\\u{1b}[2Ja\\nb\\t\\u{7}\\u{9b}1m"
        );
        assert_eq!(printable("[heap] Ünïcode 日本"), "[heap] Ünïcode 日本");
    }
}
