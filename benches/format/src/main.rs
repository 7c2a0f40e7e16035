//! Measures snapshot-format against the machine's own limit, in the same run, and prints markdown tables.
//! `scripts/bench format` builds and calls it; `benches/RESULTS.md` has results.

#[path = "../../shared/codec.rs"]
mod codec;
mod fault;
mod image;
mod measure;
mod memory;
mod opening;
mod sink;
mod sizes;
mod throughput;

use image::Image;
use measure::{Cores, cpu_seconds};
use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

/// Bytes of an image that a quick run takes.
const QUICK_BYTES: u64 = 16 << 20;

const USAGE: &str = "usage: format-bench [--quick] [--rounds N] [--only PART]... [--program UFFD-SNAPSHOT] --work FOLDER IMAGE...
PART is throughput, open, page, size or memory";

/// Measures something and prints its table.
type Part = fn(&Setup);

/// What is measured, and where.
pub struct Setup {
    /// Little and few rounds: only to see that everything works.
    quick: bool,
    /// Rounds that count.
    rounds: usize,
    /// The parts to run; all when there are none.
    only: Vec<String>,
    /// `uffd-snapshot`.
    program: Option<PathBuf>,
    /// A folder on a disk for files that are removed again.
    work: PathBuf,
    /// The images' files.
    paths: Vec<PathBuf>,
    /// The cores to use.
    cores: Cores,
}

impl Setup {
    /// The images, in memory.
    fn images(&self) -> Vec<Image> {
        self.paths.iter().map(|path| Image::load(path)).collect()
    }

    /// Take the beginnings of the images for the images.
    fn shorten(&mut self) {
        for path in &mut self.paths {
            let copy = self.work.join(path.file_name().expect("a name"));
            let mut file = File::create(&copy).expect("a copy");
            let image = File::open(&*path).expect("an image");
            std::io::copy(&mut image.take(QUICK_BYTES), &mut file).expect("a copy");
            *path = copy;
        }
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == "memory-child"
    {
        return memory::child(rest);
    }
    if let [first, path] = arguments.as_slice()
        && first == "open-child"
    {
        return opening::child(path);
    }
    let Some(mut setup) = parse(arguments) else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    if setup.quick {
        setup.shorten();
    }
    let (ticks, own) = (Ticks::now(), cpu_seconds());
    // What is short and easily disturbed comes first, what only counts bytes last.
    let parts: [(&str, Part); 5] = [
        ("open", opening::run),
        ("page", fault::run),
        ("throughput", throughput::run),
        ("memory", memory::run),
        ("size", sizes::run),
    ];
    for (name, part) in parts {
        if setup.wants(name) {
            part(&setup);
        }
    }
    let (used, steal, all) = Ticks::now().since(&ticks);
    let others = used - (cpu_seconds() - own);
    println!("\n## Noise\n");
    println!(
        "Rounds: {}. During the run other programs used {:.0} % of the machine's CPU time, the hypervisor took {:.1} %.",
        setup.rounds,
        others.max(0.0) * 100.0 / all,
        steal * 100.0 / all
    );
}

fn parse(arguments: Vec<String>) -> Option<Setup> {
    let mut setup = Setup {
        quick: false,
        rounds: 7,
        only: Vec::new(),
        program: None,
        work: PathBuf::new(),
        paths: Vec::new(),
        cores: Cores::all(),
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => (setup.quick, setup.rounds) = (true, 1),
            "--rounds" => {
                setup.rounds = arguments
                    .next()?
                    .parse()
                    .ok()
                    .filter(|&rounds| rounds > 0)?
            }
            "--only" => setup.only.push(arguments.next()?),
            "--program" => setup.program = Some(arguments.next()?.into()),
            "--work" => setup.work = arguments.next()?.into(),
            _ if argument.starts_with('-') => return None,
            _ => setup.paths.push(argument.into()),
        }
    }
    let known = ["throughput", "open", "page", "size", "memory"];
    let complete = setup.work.is_dir()
        && !setup.paths.is_empty()
        && setup.only.iter().all(|only| known.contains(&only.as_str()));
    complete.then_some(setup)
}

/// Seconds of CPU time of the whole machine, from `/proc/stat`.
struct Ticks(Vec<f64>);

impl Ticks {
    fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").expect("/proc/stat");
        let line = text.lines().next().unwrap_or_default();
        let ticks = line.split_whitespace().skip(1);
        // A hundred ticks are a second on every Linux.
        Self(
            ticks
                .map(|tick| tick.parse::<f64>().unwrap_or(0.0) / 100.0)
                .collect(),
        )
    }

    /// Since `before`: used by programs and the kernel, taken by the hypervisor, all.
    fn since(&self, before: &Self) -> (f64, f64, f64) {
        let passed: Vec<f64> = self
            .0
            .iter()
            .zip(&before.0)
            .map(|(now, then)| now - then)
            .take(8)
            .collect();
        // user nice system idle iowait irq softirq steal
        let [user, nice, system, _, _, irq, softirq, steal] = passed[..] else {
            return (0.0, 0.0, 1.0);
        };
        let used = user + nice + system + irq + softirq;
        (used, steal, passed.iter().sum())
    }
}
