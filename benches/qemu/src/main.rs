//! Measures how soon a guest runs again and how soon all its memory was right, lazily and in QEMU's own ways, and prints
//! a markdown table. `scripts/bench qemu` builds and calls it.

mod source;
#[path = "../../../tests/support/vm/mod.rs"]
mod vm;
mod way;

use source::Source;
use std::path::{Path, PathBuf};
use vm::flow::Stage;
use vm::machine::RAM_MIB;
use way::{Times, Way};

const USAGE: &str = "usage: qemu-bench [--rounds N] --restore UFFD-RESTORE --snapshot UFFD-SNAPSHOT --repository DIR --cache DIR";

/// What was typed.
#[derive(Default)]
struct Arguments {
    rounds: usize,
    restore: PathBuf,
    snapshot: PathBuf,
    repository: PathBuf,
    cache: PathBuf,
}

fn main() {
    let Some(arguments) = parse() else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    if let Some(missing) = vm::image::missing() {
        eprintln!("qemu-bench: {missing}");
        std::process::exit(1);
    }
    let stage = Stage::new(&arguments.repository, &arguments.cache, &arguments.snapshot);
    let source = Source::make(&stage);
    let ways = Way::all(&source, &arguments.restore);
    let mut times: Vec<Vec<Times>> = ways.iter().map(|_| Vec::new()).collect();
    // Round after round, so that what disturbs the machine for a while disturbs all of them.
    for _ in 0..arguments.rounds {
        for (way, times) in ways.iter().zip(&mut times) {
            times.push(way.run(&stage, &source));
        }
    }

    let (major, minor) = source.version;
    println!(
        "\nGuest: {RAM_MIB} MiB of RAM, {} MiB of it checked, 1 CPU, QEMU {major}.{minor} with TCG. Seconds from the start of the new QEMU to \
         the first verified round of the guest (1 % of the pages, at random), to the first after every page was verified, and until \
         the daemon had brought everything: medians of {} (smallest-largest); files in the page cache.\n",
        source.checked_mib, arguments.rounds
    );
    println!("| way | first round | all verified | all brought | file, MB |");
    println!("|---|--:|--:|--:|--:|");
    for (way, times) in ways.iter().zip(&times) {
        println!(
            "| {} | {} | {} | {} | {:.0} |",
            way.name,
            median(times, |times| Some(times.first)),
            median(times, |times| Some(times.all)),
            median(times, |times| times.brought),
            megabytes(&way.file)
        );
    }
}

fn parse() -> Option<Arguments> {
    let mut parsed = Arguments {
        rounds: 5,
        ..Arguments::default()
    };
    let mut typed = std::env::args().skip(1);
    while let Some(option) = typed.next() {
        let value = typed.next()?;
        match option.as_str() {
            "--rounds" => parsed.rounds = value.parse().ok().filter(|&rounds| rounds > 0)?,
            "--restore" => parsed.restore = value.into(),
            "--snapshot" => parsed.snapshot = value.into(),
            "--repository" => parsed.repository = value.into(),
            "--cache" => parsed.cache = value.into(),
            _ => return None,
        }
    }
    (parsed.snapshot.is_file() && parsed.restore.is_file() && parsed.repository.is_dir())
        .then_some(parsed)
}

fn median(times: &[Times], which: impl Fn(&Times) -> Option<f64>) -> String {
    let mut sorted: Vec<f64> = times.iter().filter_map(which).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.as_slice() {
        [] => String::new(),
        [only] => format!("**{only:.3}**"),
        [first, .., last] => {
            let middle = sorted[(sorted.len() - 1) / 2];
            format!("**{middle:.3}** ({first:.3}-{last:.3})")
        }
    }
}

/// What a file takes on the disk.
fn megabytes(path: &Path) -> f64 {
    use std::os::unix::fs::MetadataExt;
    path.metadata().expect("the file").blocks() as f64 * 512.0 / 1e6
}
