//! What the programs say of themselves is true.

use super::Workshop;
use clap::{Command, CommandFactory, Parser};
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

/// The long options of a command.
fn options(command: &Command) -> Vec<&str> {
    command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .filter(|long| !["help", "version"].contains(long))
        .collect()
}

/// The long options that a manual page, or a part of one, names: "-long" behind a "Fl".
fn named(page: &str) -> Vec<&str> {
    let words: Vec<&str> = page.split_ascii_whitespace().collect();
    words
        .windows(2)
        .filter(|pair| matches!(pair[0], "Fl" | ".Fl"))
        .filter_map(|pair| pair[1].strip_prefix('-'))
        .collect()
}

/// A manual page has every option, and no other.
#[track_caller]
fn assert_has_all(page: &str, command: &Command, but: &[&str]) {
    let (known, named) = (options(command), named(page));
    for long in known.iter().filter(|long| !but.contains(long)) {
        assert!(named.contains(long), "--{long} is not in the page");
    }
    for long in named {
        assert!(known.contains(&long), "--{long} is no option");
    }
}

#[test]
fn the_manual_page_of_lazy_pages_has_all_options() {
    let page = include_str!("../../man/uffd-restore-lazy-pages.8");
    let mut command = restore::Cli::command();
    command.build();
    let lazy = command
        .find_subcommand_mut("lazy-pages")
        .expect("a command");
    // Of the page server it is enough to say that there is none.
    let of_the_server = [
        "address",
        "port",
        "ps-socket",
        "tls",
        "tls-cacert",
        "tls-cacrl",
        "tls-cert",
        "tls-key",
        "tls-no-cn-verify",
    ];
    assert_has_all(page, lazy, &of_the_server);
    assert_can_be_typed::<restore::Cli>("uffd-restore", page, 1);
}

#[test]
fn the_manual_page_of_the_daemon_has_all_options() {
    let page = include_str!("../../man/uffd-restore.8");
    let mut command = restore::Cli::command();
    command.build();
    assert_has_all(page, &command, &[]);
    assert_can_be_typed::<restore::Cli>("uffd-restore", page, 2);
}

#[test]
fn the_manual_page_of_the_tool_has_all_commands_and_options() {
    let page = include_str!("../../man/uffd-snapshot.1");
    let mut command = snapshot::Cli::command();
    command.build();
    let mut sections = page.split("\n.Ss ").skip(1);
    let mut check = |name: &str, command: &Command| {
        let section = sections.next().unwrap_or_else(|| panic!("no {name}"));
        let (title, text) = section.split_once('\n').expect("a title");
        assert_eq!(title, name, "in the order of the program");
        assert_has_all(text, command, &[]);
    };
    let not_help = |command: &&Command| command.get_name() != "help";
    for command in command.get_subcommands().filter(not_help) {
        let name = command.get_name();
        if !command.has_subcommands() {
            check(name, command);
        }
        for below in command.get_subcommands().filter(not_help) {
            check(&format!("{name} {}", below.get_name()), below);
        }
    }
    assert!(sections.next().is_none(), "a command that there is not");
    assert_can_be_typed::<snapshot::Cli>("uffd-snapshot", page, 5);
}

#[test]
fn every_command_line_for_systemd_can_be_typed() {
    let text = include_str!("../../systemd/uffd-restore@.service");
    assert!(
        text.contains("ExecStart=/usr/bin/uffd-restore --snapshot ${SNAPSHOT} $TARGET $OPTIONS")
    );
    let example = include_str!("../../systemd/example.conf");
    let target = example
        .lines()
        .find_map(|line| line.strip_prefix("TARGET="));
    let words = target.expect("a target").split_whitespace();
    let words = ["uffd-restore", "--snapshot", "x"].into_iter().chain(words);
    assert!(restore::Cli::try_parse_from(words).is_ok());
}
