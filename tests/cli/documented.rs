//! What the programs say of themselves is true.

use super::Workshop;
use clap::{CommandFactory, Parser};
use uffd_restore::cli::{restore, snapshot};

/// The command lines of a program in a text, as a shell would split them.
fn examples(program: &str, text: &str) -> Vec<Vec<String>> {
    let arguments = text.lines().filter_map(|line| arguments(program, line));
    arguments
        .map(|arguments| split(program, arguments))
        .collect()
}

/// What follows the program's name in a line that is a command, with or without a prompt, or the end of a pipe.
fn arguments<'a>(program: &str, line: &'a str) -> Option<&'a str> {
    let line = line.trim_start().trim_start_matches("$ ");
    let piped = || {
        line.split_once(&format!("| {program} "))
            .map(|(_, rest)| rest)
    };
    line.strip_prefix(&format!("{program} ")).or_else(piped)
}

/// Variables of the shell, and what commands print, stand for a process id; redirections are the shell's.
fn split(program: &str, arguments: &str) -> Vec<String> {
    let arguments = arguments
        .replace("$!", "$pid")
        .replace("$(pidof qemu-system-x86_64)", "$pid");
    let alone = arguments.split([';', '|', '&', '#']).next();
    let words = alone.unwrap_or_default().split_whitespace();
    std::iter::once(program)
        .chain(words.filter(|word| !word.contains(['>', '<'])))
        .map(|word| word.replace(['\'', '"'], ""))
        .map(|word| {
            if word.starts_with('$') {
                "1".to_owned()
            } else {
                word
            }
        })
        .collect()
}

fn assert_can_be_typed<Program: Parser>(program: &str, text: &str, least: usize) {
    let examples = examples(program, text);
    assert!(examples.len() >= least, "{examples:?}");
    for example in examples {
        if let Err(error) = Program::try_parse_from(&example) {
            panic!("{example:?}: {error}");
        }
    }
}

#[test]
fn every_command_has_help_with_an_example_that_can_be_typed() {
    let shop = Workshop::new();
    for command in [
        &["create"][..],
        &["pack"],
        &["unpack"],
        &["inspect"],
        &["verify"],
        &["working-set", "build"],
        &["working-set", "inspect"],
        &["working-set", "merge"],
        &["import-criu"],
        &["export-criu"],
    ] {
        let help = shop.ok(&[command, &["--help"]].concat()).stdout;
        let help = String::from_utf8(help).expect("UTF-8");
        let (_, section) = help.split_once("Example").expect("examples");
        assert_can_be_typed::<snapshot::Cli>("uffd-snapshot", section, 1);
    }
    let help = restore::Cli::command().render_long_help().to_string();
    let (_, section) = help.split_once("Example").expect("examples");
    assert_can_be_typed::<restore::Cli>("uffd-restore", section, 4);
    let mut command = restore::Cli::command();
    let lazy = command
        .find_subcommand_mut("lazy-pages")
        .expect("a command");
    let help = lazy.render_long_help().to_string();
    let (_, section) = help.split_once("Example").expect("examples");
    assert_can_be_typed::<restore::Cli>("uffd-restore", section, 2);
}

#[test]
fn every_command_line_of_the_readme_can_be_typed() {
    let readme = include_str!("../../README.md");
    assert_can_be_typed::<snapshot::Cli>("uffd-snapshot", readme, 8);
    // Lines that the program prints begin with its name and a colon.
    assert_can_be_typed::<restore::Cli>("uffd-restore", readme, 4);
}

#[test]
fn every_command_line_for_criu_can_be_typed() {
    let text = include_str!("../../docs/criu.md");
    assert_can_be_typed::<snapshot::Cli>("uffd-snapshot", text, 2);
    assert_can_be_typed::<restore::Cli>("uffd-restore", text, 3);
}

#[test]
fn every_command_line_for_firecracker_can_be_typed() {
    let text = include_str!("../../docs/firecracker.md");
    assert_can_be_typed::<snapshot::Cli>("uffd-snapshot", text, 1);
    assert_can_be_typed::<restore::Cli>("uffd-restore", text, 2);
}

/// The manual page has every option, and no other.
#[test]
fn the_manual_page_of_lazy_pages_has_all_options() {
    let page = include_str!("../../man/uffd-restore-lazy-pages.8");
    let mut command = restore::Cli::command();
    command.build();
    let lazy = command
        .find_subcommand_mut("lazy-pages")
        .expect("a command");
    let known: Vec<&str> = lazy
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .filter(|long| *long != "help")
        .collect();
    // "-long" behind a "Fl".
    let words: Vec<&str> = page.split_ascii_whitespace().collect();
    let named: Vec<&str> = words
        .windows(2)
        .filter(|pair| matches!(pair[0], "Fl" | ".Fl"))
        .filter_map(|pair| pair[1].strip_prefix('-'))
        .collect();
    // Of the page server it is enough to say that there is none.
    let of_the_server =
        |long: &str| ["address", "port", "ps-socket"].contains(&long) || long.starts_with("tls");
    for long in known.iter().filter(|long| !of_the_server(long)) {
        assert!(named.contains(long), "--{long} is not in the page");
    }
    for long in named {
        assert!(known.contains(&long), "--{long} is no option");
    }
    assert_can_be_typed::<restore::Cli>("uffd-restore", page, 1);
}
