//! Lists of pages as people and scripts write them.

use crate::failure::Failure;
use snapshot_format::PageNo;
use snapshot_format::working_set::MAX_SET_PAGES;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Longest line, in bytes: what is longer is no list.
const MAX_LINE: u64 = 4096;

/// The pages of a list, in its order; "-" is standard input. All of them are below `pages`.
pub(super) fn read(path: &Path, pages: u64) -> Result<Vec<PageNo>, Failure> {
    if path.as_os_str() == "-" {
        return parse(path, io::stdin().lock(), pages);
    }
    let file = File::open(path).map_err(Failure::io("open", path))?;
    parse(path, BufReader::new(file), pages)
}

fn parse(path: &Path, mut input: impl BufRead, pages: u64) -> Result<Vec<PageNo>, Failure> {
    let mut list = Vec::new();
    let mut bytes = Vec::new();
    let mut line = 0;
    loop {
        line += 1;
        bytes.clear();
        let read = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
        if read.map_err(Failure::io("read", path))? == 0 {
            return Ok(list);
        }
        let wrong = |what: String| Failure::PageList {
            path: path.to_path_buf(),
            line,
            what,
        };
        let text = std::str::from_utf8(&bytes).ok();
        let text = text.filter(|_| (bytes.len() as u64) < MAX_LINE || bytes.ends_with(b"\n"));
        let text = text.ok_or_else(|| wrong(format!("this is not text; {EXPECTED}")))?;
        let Some((first, count)) = numbers(text).map_err(&wrong)? else {
            continue;
        };
        let end = first.checked_add(count).filter(|&end| end <= pages);
        let end = end.ok_or_else(|| {
            wrong(format!(
                "page {} does not exist, the snapshot has {pages} pages",
                first.saturating_add(count).saturating_sub(1)
            ))
        })?;
        if list.len() as u64 + count > MAX_SET_PAGES {
            return Err(wrong(format!(
                "these are more than {MAX_SET_PAGES} pages, which no working set has; list those that are needed first"
            )));
        }
        list.extend((first..end).map(PageNo));
    }
}

const EXPECTED: &str = "a line is \"PAGE [COUNT]\", in decimal numbers";

/// Page and count of a line; None when there is nothing on it.
fn numbers(line: &str) -> Result<Option<(u64, u64)>, String> {
    let data = line.split('#').next().unwrap_or_default();
    let mut words = data.split_whitespace();
    let Some(page) = words.next() else {
        return Ok(None);
    };
    let count = words.next();
    if let Some(word) = words.next() {
        return Err(format!("there is {word:?} behind the count; {EXPECTED}"));
    }
    let number = |word: &str| {
        let parsed = word.parse::<u64>();
        parsed.map_err(|_| format!("{word:?} is not a number; {EXPECTED}"))
    };
    match (number(page)?, count.map_or(Ok(1), number)?) {
        (_, 0) => Err("a count of no pages; the least is 1".into()),
        numbers => Ok(Some(numbers)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8]) -> Result<Vec<u64>, String> {
        let list = parse("list".as_ref(), text, 100).map_err(|failure| failure.to_string())?;
        Ok(list.into_iter().map(|page| page.0).collect())
    }

    #[test]
    fn pages_and_counts_in_the_order_of_the_list() {
        let text = b"# replay\n7\n\n 3 2 # two\n99 1\r\n0\t1";
        assert_eq!(parsed(text).expect("a list"), [7, 3, 4, 99, 0]);
        assert!(parsed(b"").expect("a list").is_empty());
    }

    #[test]
    fn what_is_no_list_is_named_by_its_line() {
        let long = vec![b' '; 5000];
        for (text, line, what) in [
            (&b"1\nx"[..], 2, "\"x\" is not a number"),
            (b"1 2 3", 1, "\"3\" behind the count"),
            (b"1\n2\n3 0", 3, "no pages"),
            (b"-1", 1, "not a number"),
            (
                b"100",
                1,
                "page 100 does not exist, the snapshot has 100 pages",
            ),
            (b"99 2", 1, "page 100 does not exist"),
            (b"5 18446744073709551615", 1, "does not exist"),
            (b"\xff\xfe", 1, "not text"),
            (&long, 1, "not text"),
        ] {
            let said = parsed(text).expect_err(what);
            assert!(
                said.contains(what) && said.contains(&format!("line {line}:")),
                "{said}"
            );
        }
    }
}
