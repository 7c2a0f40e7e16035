//! Text for people, on a terminal that may be gone, full, or believe what others put into a name.

use std::io::Write;

/// Write lines to standard error. If that is not possible there is nobody to tell.
pub fn say(text: &str) {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    let _ = writeln!(std::io::stderr().lock(), "{}", lines.join("\n"));
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
