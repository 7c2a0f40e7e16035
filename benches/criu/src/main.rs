//! Measures lazy restore by CRIU with its own page daemon and with ours, alternating, from the same dump, and prints markdown
//! tables. `scripts/bench criu` builds and calls it; `benches/RESULTS.md` has results.

#[path = "../../shared/aims.rs"]
mod aims;
#[path = "../../shared/area.rs"]
mod area;
mod board;
#[path = "../../shared/cache.rs"]
mod cache;
mod clock;
mod content;
mod criu;
mod daemon;
#[path = "../../shared/measure.rs"]
mod measure;
mod process;
mod redis;
mod rounds;
mod tables;
mod target;
mod way;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aims::Aims;
use measure::Noise;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{UsageWho, getrusage};
use process::Process;
use redis::Redis;
use way::{Kind, Way};
use workload::Workload;

const USAGE: &str = "usage: criu-bench [--quick] [--rounds N] [--only process|redis]... [--files warm|cold] [--ways NAME]... [--raw]
                  [--daemon-option OPTION]... [--import-option OPTION]... --criu CRIU [--program UFFD-RESTORE --packer UFFD-SNAPSHOT] --work FOLDER IMAGE...
NAME is eager, stock, dump, zstd or LZ4";

/// What is touched first and waited for.
const FIRST: usize = 64;

/// What is measured, and where.
#[derive(Debug)]
struct Setup {
    /// Little memory and one round: only to see that everything works.
    quick: bool,
    rounds: usize,
    /// The workloads; all when there are none.
    only: Vec<String>,
    /// Warm or cold; both when there is none.
    files: Option<String>,
    /// The ways; all when there are none.
    ways: Vec<String>,
    /// Every restore's numbers on standard error.
    raw: bool,
    /// For our daemon, and for `import-criu`.
    options: Vec<String>,
    import: Vec<String>,
    criu: PathBuf,
    /// `uffd-restore` and `uffd-snapshot`; without them CRIU alone is measured.
    program: Option<PathBuf>,
    packer: Option<PathBuf>,
    /// A folder on a disk for files that are removed again.
    work: PathBuf,
    images: Vec<PathBuf>,
    aims: Aims,
}

impl Setup {
    fn wants(&self, kind: Kind) -> bool {
        self.ways.is_empty()
            || self
                .ways
                .iter()
                .any(|way| way.eq_ignore_ascii_case(kind.short()))
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == "--target").is_some() {
        let arguments: Vec<String> = arguments.collect();
        let [board, pages, images @ ..] = &arguments[..] else {
            return ExitCode::from(2);
        };
        let images: Vec<PathBuf> = images.iter().map(PathBuf::from).collect();
        target::live(Path::new(board), pages.parse().expect("a number"), &images);
        return ExitCode::SUCCESS;
    }
    let Some(setup) = parse(arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    daemon::pass_nothing_on();
    let before = Noise::now();
    let shared = private_run();
    // What is restored becomes a child of this program, whoever made it.
    set_child_subreaper(true).expect("prctl");

    let wants = |name: &str| setup.only.is_empty() || setup.only.iter().any(|only| only == name);
    if wants("process") {
        let mebibytes = if setup.quick { 64 } else { 512 };
        run(&setup, &Process::new(&setup, mebibytes, &shared));
    }
    if wants("redis") {
        let mebibytes = if setup.quick { 32 } else { 200 };
        match Redis::new(&setup, mebibytes, &shared) {
            Some(redis) => run(&setup, &redis),
            None => println!("\nredis-check-rdb (package redis-tools) is not installed: left out."),
        }
    }
    setup.aims.print();
    let (others, steal) = Noise::now().since(&before);
    println!("\n## Noise\n");
    println!(
        "Rounds: {}. During the run other programs used {others:.0} % of the machine's CPU time (CRIU and targets among them), the hypervisor took {steal:.1} %.",
        setup.rounds
    );
    let own = getrusage(UsageWho::RUSAGE_SELF)
        .expect("getrusage")
        .max_rss() as f64
        / 1024.0;
    println!(
        "A daemon's memory is at least that of this program, {own:.1} MiB, as the kernel counts."
    );
    ExitCode::SUCCESS
}

/// A workload in all ways.
fn run(setup: &Setup, workload: &dyn Workload) {
    let folder = setup.work.join(workload.name());
    let run = setup.work.join("run");
    for folder in [&folder, &run] {
        fs::create_dir_all(folder).expect("a folder");
    }
    let pid = workload.dump(&folder.join("dump"), &run);
    let ways = Way::all(setup, &folder.join("dump"));
    for cold in [false, true] {
        let files = if cold { "cold" } else { "warm" };
        if setup.files.as_ref().is_some_and(|only| only != files) {
            continue;
        }
        let rows = rounds::measure(setup, workload, pid, &ways, cold);
        tables::print(workload, &rows, cold);
        tables::noise(workload, &rows, cold);
        tables::judge(setup, workload, &rows, cold);
    }
    tables::disk(setup, workload, &ways);
    fs::remove_dir_all(&folder).expect("to remove the dumps");
}

/// Gives this program, and all that it starts, a /run of its own in memory: CRIU keeps there what it has found out about the
/// kernel, and everything that is left there goes with this program.
fn private_run() -> PathBuf {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace, for root");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("a private tree");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs on /run");
    let shared = PathBuf::from("/run/criu-bench");
    fs::create_dir(&shared).expect("a folder");
    shared
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Setup> {
    let mut setup = Setup {
        quick: false,
        rounds: 5,
        only: Vec::new(),
        files: None,
        ways: Vec::new(),
        raw: false,
        options: Vec::new(),
        import: Vec::new(),
        criu: PathBuf::new(),
        program: None,
        packer: None,
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
            "--files" => setup.files = Some(arguments.next()?),
            "--ways" => setup.ways.push(arguments.next()?),
            "--raw" => setup.raw = true,
            "--daemon-option" => setup.options.push(arguments.next()?),
            "--import-option" => setup.import.push(arguments.next()?),
            "--criu" => setup.criu = arguments.next()?.into(),
            "--program" => setup.program = Some(arguments.next()?.into()),
            "--packer" => setup.packer = Some(arguments.next()?.into()),
            "--work" => setup.work = arguments.next()?.into(),
            option if option.starts_with('-') => return None,
            image => setup.images.push(image.into()),
        }
    }
    let known = setup
        .only
        .iter()
        .all(|only| ["process", "redis"].contains(&only.as_str()));
    let known = known
        && setup
            .files
            .as_deref()
            .is_none_or(|files| ["warm", "cold"].contains(&files));
    let there = setup.work.is_dir() && setup.criu.is_file();
    (known && there && !setup.images.is_empty()).then_some(setup)
}
