//! Measures lazy restore against userfaultfd alone, in the same run, and prints markdown tables.
//! `scripts/bench restore` builds and calls it; `benches/RESULTS.md` has results.

#[path = "../../shared/area.rs"]
mod area;
mod crowd;
mod daemon;
mod demand;
mod detect;
#[path = "../../shared/measure.rs"]
mod measure;
#[path = "../../shared/one_core.rs"]
mod one_core;
mod placement;
#[path = "../../shared/raw.rs"]
mod raw;
mod ready;
mod shared;
mod snapshot;
mod takeover;
mod target;
mod way;

use std::path::PathBuf;
use std::process::ExitCode;

use measure::Noise;
use one_core::on_one_core;

const USAGE: &str = "usage: restore-bench [--quick] [--rounds N] [--only PART]... [--all-cores] --program UFFD-RESTORE --work FOLDER
PART is shared, ready, placement or takeover";

const PARTS: [&str; 4] = ["shared", "ready", "placement", "takeover"];

/// What is measured, and where.
#[derive(Debug)]
struct Setup {
    /// Little and few rounds: only to see that everything works.
    quick: bool,
    /// Rounds that count.
    rounds: usize,
    /// The parts to run; all when there are none.
    only: Vec<String>,
    /// Faults are served wherever the kernel likes, and not on the core of who waits.
    all_cores: bool,
    /// `uffd-restore`.
    program: PathBuf,
    /// A folder on a disk for files that are removed again.
    work: PathBuf,
}

fn main() -> ExitCode {
    let Some(setup) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let wants = |part: &str| setup.only.is_empty() || setup.only.iter().any(|only| only == part);
    let faults = |part: &dyn Fn()| {
        if setup.all_cores {
            part()
        } else {
            on_one_core(part)
        }
    };
    let before = Noise::now();
    if wants("shared") {
        faults(&|| shared::run(&setup));
        detect::run();
    }
    if wants("ready") {
        ready::run(&setup);
        faults(&|| demand::run(&setup));
    }
    if wants("placement") {
        placement::run(&setup);
    }
    if wants("takeover") {
        takeover::stalls(&setup);
        faults(&|| takeover::cost(&setup));
        faults(&|| takeover::confinement(&setup));
    }
    let (others, steal) = Noise::now().since(&before);
    println!("\n## Noise\n");
    println!(
        "Rounds: {}. Faults were served on {} (but for placement). During the run other programs used {others:.0} % of the machine's CPU time, the hypervisor took {steal:.1} %.",
        setup.rounds,
        if setup.all_cores {
            "all cores"
        } else {
            "one core, that of who waits"
        }
    );
    ExitCode::SUCCESS
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Setup> {
    let mut setup = Setup {
        quick: false,
        rounds: 7,
        only: Vec::new(),
        all_cores: false,
        program: PathBuf::new(),
        work: PathBuf::new(),
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => (setup.quick, setup.rounds) = (true, 1),
            "--rounds" => {
                let rounds = arguments.next()?.parse().ok();
                setup.rounds = rounds.filter(|&rounds| rounds > 0)?;
            }
            "--all-cores" => setup.all_cores = true,
            "--only" => setup.only.push(arguments.next()?),
            "--program" => setup.program = arguments.next()?.into(),
            "--work" => setup.work = arguments.next()?.into(),
            _ => return None,
        }
    }
    let known = setup.only.iter().all(|only| PARTS.contains(&only.as_str()));
    (known && setup.work.is_dir() && setup.program.is_file()).then_some(setup)
}
