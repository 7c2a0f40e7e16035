//! What the program says of itself is true.

use super::Workshop;
use clap::Parser;
use uffd_restore::cli::snapshot::Cli;

/// Command lines of `uffd-snapshot` in a text, as a shell would split them.
fn examples(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for line in text.lines() {
        let Some((_, line)) = line.split_once("uffd-snapshot ") else {
            continue;
        };
        let indented = text.contains(&format!("  uffd-snapshot {line}"));
        let piped = text.contains(&format!("| uffd-snapshot {line}"));
        if !indented && !piped {
            continue;
        }
        let command = line.split([';', '|', '&', '#']).next().unwrap_or_default();
        let words = command
            .split_whitespace()
            .map(|word| word.replace(['\'', '"'], ""));
        found.push(
            std::iter::once("uffd-snapshot".to_string())
                .chain(words)
                .collect(),
        );
    }
    found
}

#[test]
fn every_command_has_help_with_an_example_that_can_be_typed() {
    let shop = Workshop::new();
    for command in ["create", "pack", "unpack", "inspect", "verify"] {
        let help = shop.ok(&[command, "--help"]).stdout;
        let help = String::from_utf8(help).expect("UTF-8");
        assert!(help.contains("Example"), "{help}");
        let (_, section) = help.split_once("Example").expect("examples");
        let examples = examples(section);
        assert!(!examples.is_empty(), "{section}");
        for example in examples {
            let parsed = Cli::try_parse_from(&example);
            assert!(
                parsed.is_ok(),
                "{example:?}: {}",
                parsed.expect_err("an error")
            );
        }
    }
}

#[test]
fn every_command_line_of_the_readme_can_be_typed() {
    let readme = include_str!("../../README.md");
    let examples = examples(readme);
    assert!(examples.len() >= 5, "{examples:?}");
    for example in examples {
        let parsed = Cli::try_parse_from(&example);
        assert!(
            parsed.is_ok(),
            "{example:?}: {}",
            parsed.expect_err("an error")
        );
    }
}
