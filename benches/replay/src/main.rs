//! Measures the replay of working sets and the demand path on the memory of real programs, against what the machine can do in
//! the same run and against other ways, and prints markdown tables. `scripts/bench replay` builds and calls it;
//! `benches/RESULTS.md` has results.

#[path = "../../shared/aims.rs"]
mod aims;
#[path = "../../shared/area.rs"]
mod area;
#[path = "../../shared/cache.rs"]
mod cache;
#[path = "../../shared/codec.rs"]
mod codec;
mod daemon;
mod demand;
mod handler;
mod image;
mod limits;
#[path = "../../shared/measure.rs"]
mod measure;
#[path = "../../shared/one_core.rs"]
mod one_core;
mod orders;
mod plot;
#[path = "../../shared/raw.rs"]
mod raw;
mod redis;
mod rerun;
mod restoring;
mod sizes;
mod svg;
mod target;
mod through;
mod ways;

use std::path::PathBuf;
use std::process::ExitCode;

use aims::Aims;
use image::Image;
use measure::Noise;

const USAGE: &str = "usage: replay-bench [--quick] [--rounds N] [--only PART]... [--plot FILE] --program UFFD-RESTORE --packer UFFD-SNAPSHOT --work FOLDER IMAGE...
PART is demand, rerun, through, ways, sizes, server or plot";

const PARTS: [&str; 7] = [
    "demand", "rerun", "through", "ways", "sizes", "server", "plot",
];

/// What is measured, and where.
#[derive(Debug)]
struct Setup {
    /// The first image and one round: only to see that everything works.
    quick: bool,
    rounds: usize,
    /// The parts to run; all when there are none.
    only: Vec<String>,
    /// Where to draw a restore.
    plot: Option<PathBuf>,
    /// `uffd-restore`.
    program: PathBuf,
    /// `uffd-snapshot`.
    packer: PathBuf,
    /// A folder on a disk for files that are removed again.
    work: PathBuf,
    images: Vec<PathBuf>,
    aims: Aims,
}

/// Measures and prints.
type Part = fn(&Setup, &[Image]);

fn main() -> ExitCode {
    let Some(setup) = parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let before = Noise::now();
    let taken = if setup.quick { 1 } else { setup.images.len() };
    let images: Vec<Image> = setup
        .images
        .iter()
        .take(taken)
        .map(|raw| Image::load(raw))
        .collect();
    let wants = |part: &str| setup.only.is_empty() || setup.only.iter().any(|only| only == part);
    let parts = [
        ("demand", demand::run as Part),
        ("rerun", rerun::run),
        ("through", through::run),
        ("ways", ways::run),
        ("sizes", sizes::run),
    ];
    for (name, run) in parts {
        if wants(name) {
            run(&setup, &images);
        }
    }
    if wants("server") {
        redis::run(&setup);
    }
    if let Some(file) = setup.plot.as_ref().filter(|_| wants("plot")) {
        plot::run(&setup, &images, file);
    }
    setup.aims.print();
    let (others, steal) = Noise::now().since(&before);
    println!("\n## Noise\n");
    println!(
        "Rounds: {}. During the run other programs used {others:.0} % of the machine's CPU time, the hypervisor took {steal:.1} %.",
        setup.rounds
    );
    ExitCode::SUCCESS
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Setup> {
    let mut setup = Setup {
        quick: false,
        rounds: 5,
        only: Vec::new(),
        plot: None,
        program: PathBuf::new(),
        packer: PathBuf::new(),
        work: PathBuf::new(),
        images: Vec::new(),
        aims: Aims::default(),
    };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => (setup.quick, setup.rounds) = (true, 1),
            "--rounds" => {
                let rounds = arguments.next()?.parse().ok();
                setup.rounds = rounds.filter(|&rounds| rounds > 0)?;
            }
            "--only" => setup.only.push(arguments.next()?),
            "--plot" => setup.plot = Some(arguments.next()?.into()),
            "--program" => setup.program = arguments.next()?.into(),
            "--packer" => setup.packer = arguments.next()?.into(),
            "--work" => setup.work = arguments.next()?.into(),
            option if option.starts_with('-') => return None,
            image => setup.images.push(image.into()),
        }
    }
    let known = setup.only.iter().all(|only| PARTS.contains(&only.as_str()));
    let there = setup.work.is_dir() && setup.program.is_file() && setup.packer.is_file();
    (known && there && !setup.images.is_empty()).then_some(setup)
}
