//! What SECURITY.md and docs/failures.md say is shown by a test that exists.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::{Workshop, memory};

const SECURITY: &str = include_str!("../../SECURITY.md");
const FAILURES: &str = include_str!("../../docs/failures.md");

#[test]
fn every_test_that_they_name_exists() {
    assert!(tests_named_by(SECURITY) >= 40);
    assert!(tests_named_by(FAILURES) >= 30);
}

/// How many. Each of them exists.
fn tests_named_by(text: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lines = text.lines().filter(|line| line.starts_with('|'));
    let mut named = 0;
    for line in lines {
        let Some((_, rest)) = line.split_once(".rs::") else {
            continue;
        };
        let name = rest.split('`').next().unwrap_or_default();
        let path = line
            .rsplit('`')
            .find_map(|part| part.split_once(".rs::"))
            .map(|(path, _)| format!("{path}.rs"));
        let path = path.unwrap_or_default();
        let source = fs::read_to_string(root.join(&path));
        let source = source.unwrap_or_else(|error| panic!("{path}: {error}"));
        let test = format!("fn {name}(");
        let (before, _) = source
            .split_once(&test)
            .unwrap_or_else(|| panic!("there is no {name} in {path}"));
        let attribute = before.trim_end().lines().rev();
        let mut attribute = attribute.take_while(|line| !line.trim().is_empty());
        assert!(
            attribute.any(|line| line.trim() == "#[test]"),
            "{name} of {path} is no test"
        );
        named += 1;
    }
    named
}

/// A line without a test is a promise.
#[test]
fn every_line_names_a_test() {
    let mut in_a_table = false;
    for line in SECURITY.lines().chain(FAILURES.lines()) {
        if line.starts_with("| what") {
            in_a_table = true;
        } else if !line.starts_with('|') {
            in_a_table = false;
        } else if in_a_table && !line.starts_with("|--") {
            assert!(line.contains(".rs::"), "{line}");
        }
    }
}

/// Whatever the mask of whoever makes it is.
#[test]
fn a_snapshot_is_for_its_owner_only() {
    let shop = Workshop::new();
    shop.write("raw", &memory(65536));
    for (output, options) in [("new", &[][..]), ("again", &["--force"])] {
        let mut command = Command::new("sh");
        command
            .args(["-c", "umask 0; exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_uffd-snapshot"))
            .args(["pack", "raw", "-o", output])
            .args(options)
            .current_dir(shop.path(""));
        if output == "again" {
            shop.write(output, b"readable by all");
        }
        let done = command.output().expect("it runs");
        assert!(done.status.success(), "{done:?}");
        let mode = fs::metadata(shop.path(output)).expect("there").mode();
        assert_eq!(mode & 0o777, 0o600, "{output}");
    }
}
