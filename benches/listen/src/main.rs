//! Measures how soon guests have their memory back that come from one file at once, through Firecracker's page-fault
//! protocol, against handlers of a raw file and a plain mapping. `scripts/bench listen` builds and calls it;
//! `benches/RESULTS.md` has results.

mod aims;
#[path = "../../shared/cache.rs"]
mod cache;
mod clones;
mod content;
mod handler;
mod mapping;
#[path = "../../shared/measure.rs"]
mod measure;
mod peer;
mod server;
mod touch;
mod way;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::Ordering;

use measure::{Noise, Series};
use way::Image;

const USAGE: &str = "usage: listen-bench [--quick] [--rounds N] [--only PART]... --program UFFD-RESTORE --packer UFFD-SNAPSHOT --work FOLDER
PART is touch or clones";

const PARTS: [&str; 2] = ["touch", "clones"];

/// What is measured, and where.
#[derive(Debug)]
struct Setup {
    /// Little memory and one round: only to see that everything works.
    quick: bool,
    rounds: usize,
    /// The parts to run; all when there are none.
    only: Vec<String>,
    /// `uffd-restore`.
    program: PathBuf,
    /// `uffd-snapshot`.
    packer: PathBuf,
    /// A folder on a disk for files that are removed again.
    work: PathBuf,
}

impl Setup {
    /// What every page of the guest adds up to.
    fn sums(&self) -> PathBuf {
        self.work.join("memory.sums")
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        // What this program starts to be measured.
        Some((word, rest)) if word == "peer" => peer::run(rest),
        Some((word, rest)) if word == "handler" => handler::run(rest),
        _ => parse(arguments.into_iter()).map(|setup| measure(&setup)),
    };
    if done.is_none() {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    ExitCode::SUCCESS
}

fn measure(setup: &Setup) {
    let before = Noise::now();
    let mib = if setup.quick { 32 } else { 256 };
    let raw = Image {
        name: "raw file".to_owned(),
        path: setup.work.join("memory.raw"),
        frames: None,
    };
    content::write(&raw.path, &setup.sums(), mib << 8);
    let pack = |name, options: &[&str]| Image::pack(setup, &raw, name, options);
    let snapshots = [
        pack("zstd", &[]),
        pack("LZ4", &["--codec", "lz4"]),
        pack("zstd 16 pages", &["--frame-pages", "16"]),
        pack("zstd 64 pages", &["--frame-pages", "64"]),
    ];
    println!("\n## Many VMs from one snapshot\n");
    println!(
        "Guests of {mib} MiB, 15 % zero pages; the raw file comes from the disk at {:.0} MB/s. Seconds from the hand-over until every page that is \
         touched was read completely and checked: medians of {} (smallest-largest), in an order that goes through all ways in every round. \"×\" is \
         against the fastest handler of the raw file, and against the private mapping, in the same round. Cold: no page of the file in the page \
         cache (mincore). The processes run wherever the kernel likes.",
        cache::cold_read_speed(&raw.path),
        setup.rounds
    );
    let snapshots: &[Image] = if listens(setup) {
        &snapshots
    } else {
        eprintln!("listen-bench: uffd-restore has no --listen: only what it is compared with");
        &[]
    };
    let wants = |part: &str| setup.only.is_empty() || setup.only.iter().any(|only| only == part);
    if wants("touch") {
        touch::run(setup, &raw, snapshots);
    }
    if wants("clones") {
        clones::run(setup, &raw, snapshots);
    }
    let (others, steal) = Noise::now().since(&before);
    println!(
        "\nNoise: during the run other programs used {others:.0} % of the machine's CPU time, the hypervisor took {steal:.1} %."
    );
    let hung = way::HUNG.load(Ordering::Relaxed);
    if hung > 0 {
        println!(
            "\n{hung} measurements were made again because a peer waited for ever for a page."
        );
    }
}

fn listens(setup: &Setup) -> bool {
    let output = Command::new(&setup.program).arg("--help").output();
    let text = output.expect("uffd-restore").stdout;
    String::from_utf8_lossy(&text).contains("--listen")
}

/// "0.31 (0.30-0.33)": the median, the smallest and the largest.
fn spread(series: &Series, digits: usize) -> String {
    format!(
        "**{:.digits$}** ({:.digits$}-{:.digits$})",
        series.median(),
        series.percentile(0),
        series.percentile(100)
    )
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Setup> {
    let mut setup = Setup {
        quick: false,
        rounds: 5,
        only: Vec::new(),
        program: PathBuf::new(),
        packer: PathBuf::new(),
        work: PathBuf::new(),
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => (setup.quick, setup.rounds) = (true, 1),
            "--rounds" => {
                let rounds = arguments.next()?.parse().ok();
                setup.rounds = rounds.filter(|&rounds| rounds > 0)?;
            }
            "--only" => setup.only.push(arguments.next()?),
            "--program" => setup.program = arguments.next()?.into(),
            "--packer" => setup.packer = arguments.next()?.into(),
            "--work" => setup.work = arguments.next()?.into(),
            _ => return None,
        }
    }
    let known = setup.only.iter().all(|only| PARTS.contains(&only.as_str()));
    let there = setup.work.is_dir() && setup.program.is_file() && setup.packer.is_file();
    (known && there).then_some(setup)
}
