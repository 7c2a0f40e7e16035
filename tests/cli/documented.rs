//! What the program says of itself is true.

use super::Workshop;
use clap::Parser;
use uffd_restore::cli::snapshot::Cli;

/// The command lines of `uffd-snapshot` in a text, as a shell would split them.
fn examples(text: &str) -> Vec<Vec<String>> {
    text.lines().filter_map(arguments).map(split).collect()
}

/// What follows `uffd-snapshot` in a line that is a command, with or without a prompt, or the end of a pipe.
fn arguments(line: &str) -> Option<&str> {
    let line = line.trim_start().trim_start_matches("$ ");
    let piped = || line.split_once("| uffd-snapshot ").map(|(_, rest)| rest);
    line.strip_prefix("uffd-snapshot ").or_else(piped)
}

fn split(arguments: &str) -> Vec<String> {
    let alone = arguments.split([';', '|', '&', '#']).next();
    let words = alone.unwrap_or_default().split_whitespace();
    std::iter::once("uffd-snapshot")
        .chain(words)
        .map(|word| word.replace(['\'', '"'], ""))
        .collect()
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
