//! What `systemd-analyze` says of the units.

use std::process::Command;

use crate::machine::Machine;

const SERVICES: [&str; 2] = ["uffd-restore@.service", "uffd-restore-listen@.service"];
const MOST: f64 = 2.0;

fn analyzed(machine: &Machine, words: &[&str]) -> String {
    let mut command: Command = machine.run("systemd-analyze");
    let output = command.args(words).output().expect("systemd-analyze runs");
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn the_exposure_of_the_units_is_small() {
    let machine = Machine::boot();
    machine.configure("x", "SNAPSHOT=/nowhere\n");
    // In a table a bar is written so.
    let explained = include_str!("../../docs/systemd.md").replace("\\|", "|");
    for service in SERVICES {
        let unit = service.replace('@', "@x");
        let text = analyzed(&machine, &["security", "--no-pager", &unit]);
        let overall = text
            .lines()
            .find_map(|line| line.split_once("exposure level for"));
        let (_, rest) = overall.unwrap_or_else(|| panic!("{text}"));
        let number = rest.split_whitespace().nth(1).expect("a number");
        let exposure: f64 = number.parse().expect("a number");
        assert!(exposure <= MOST, "{service}: {exposure}\n{text}");
        // Each point that remains is explained.
        for line in text.lines().filter(|line| line.starts_with('✗')) {
            let what = line.split_whitespace().nth(1).expect("a setting");
            assert!(
                explained.contains(&format!("`{what}`")),
                "{what} of {service} is not explained"
            );
        }
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let machine = Machine::boot();
    machine.configure("x", "SNAPSHOT=/nowhere\n");
    for unit in [
        "uffd-restore@x.service",
        "uffd-restore-listen@x.service",
        "uffd-restore-listen@x.socket",
    ] {
        let text = analyzed(&machine, &["verify", "--man=no", unit]);
        let ours: Vec<_> = text
            .lines()
            .filter(|line| line.contains("uffd-restore"))
            .collect();
        assert!(ours.is_empty(), "{ours:#?}");
    }
}
