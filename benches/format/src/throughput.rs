//! Pack and unpack against the codec alone, on the same cores, round by round.

use crate::Setup;
use crate::codec::{Decoder, Encoder, KINDS, Kind};
use crate::image::{Frames, Image, Open, open, options, pack};
use crate::measure::{Cost, Series};
use crate::sink::Sink;
use snapshot_format::bulk::{self, Piece};
use snapshot_format::{Error, FrameRef, PAGE_SIZE};
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The frame size measured: the default.
const FRAME_PAGES: u16 = 4;

/// Frames that a thread of the codec alone takes at a time: 2 MiB of content, as in the library.
const UNIT: usize = 128;

/// What is measured in each direction; the first is what the others are compared with.
const PACK: [&str; 4] = [
    "codec alone, MB/s",
    "writer, to nothing",
    "writer, to a file",
    "`uffd-snapshot pack`",
];
const UNPACK: [&str; 4] = [
    "codec alone, MB/s",
    "`bulk::read`",
    "`unpack`, to a file",
    "`unpack`, to a pipe",
];

/// Both, one after the other: the ways that a round goes.
const WAYS: usize = PACK.len() + UNPACK.len();

/// Everything about one image and codec.
struct Case<'a> {
    setup: &'a Setup,
    image: &'a Image,
    kind: Kind,
    jobs: usize,
    content: &'a [u8],
    frames: &'a Frames,
    snapshot: &'a Open,
    path: &'a Path,
}

/// Measure and print.
pub fn run(setup: &Setup) {
    let mut rows = [Vec::new(), Vec::new()];
    let path = setup.work.join("throughput.snap");
    for image in &setup.images() {
        for kind in KINDS {
            let file = File::create(&path).expect("the snapshot");
            let all = setup.cores.count();
            let options = options(kind, FRAME_PAGES, all, &setup.work);
            let (file, _) = pack(&image.bytes, file, options);
            file.sync_all().expect("the snapshot");
            let snapshot = open(&path);
            let frames = Frames::load(&snapshot);
            let content = frames.content(&image.bytes);
            for jobs in [1, 2] {
                if jobs > all {
                    continue;
                }
                let case = Case {
                    setup,
                    image,
                    kind,
                    jobs,
                    content: &content,
                    frames: &frames,
                    snapshot: &snapshot,
                    path: &path,
                };
                for (rows, cells) in rows.iter_mut().zip(case.run()) {
                    rows.push(format!(
                        "| {} | {} | {jobs} |{cells}",
                        image.name,
                        kind.name()
                    ));
                }
            }
        }
    }
    fs::remove_file(&path).expect("the snapshot");
    for ((title, columns), rows) in [("Pack", PACK), ("Unpack", UNPACK)].iter().zip(rows) {
        println!("\n## {title}\n");
        println!(
            "Ratio = time of the codec alone / time of this, median of the rounds (smallest - largest); behind the semicolon the same by CPU time."
        );
        println!("One job has one core for everything around the codec too, two jobs have two.\n");
        println!("| image | codec | jobs | {} |", columns.join(" | "));
        println!("|---|---|--:|{}", "--:|".repeat(columns.len()));
        for row in rows {
            println!("{row}");
        }
    }
}

impl Case<'_> {
    /// The cells of the table of packing, and of the one of unpacking.
    fn run(&self) -> [String; 2] {
        let mut seconds = vec![Series::default(); WAYS];
        let mut by_wall = vec![Series::default(); WAYS];
        let mut by_cpu = vec![Series::default(); WAYS];
        // The first round warms up and does not count.
        for round in 0..=self.setup.rounds {
            let costs: Vec<Option<Cost>> = (0..WAYS).map(|way| self.cost(way)).collect();
            if round == 0 {
                continue;
            }
            for (way, cost) in costs.iter().enumerate() {
                let alone = costs[way - way % PACK.len()];
                if let (Some(cost), Some(alone)) = (cost, alone) {
                    seconds[way].push(cost.wall);
                    by_wall[way].push(alone.wall / cost.wall);
                    by_cpu[way].push(alone.cpu / cost.cpu);
                }
            }
        }
        let cell = |way: usize| {
            if seconds[way].is_empty() {
                return " - |".into();
            }
            if way.is_multiple_of(PACK.len()) {
                let speed = self.content.len() as f64 / 1e6 / seconds[way].median();
                return format!(" {speed:.0} ±{:.0} % |", seconds[way].spread() / 2.0);
            }
            let (least, most) = by_wall[way].range();
            format!(
                " **{:.2}** ({least:.2} - {most:.2}); {:.2} |",
                by_wall[way].median(),
                by_cpu[way].median()
            )
        };
        [0..PACK.len(), PACK.len()..WAYS].map(|ways| ways.map(cell).collect())
    }

    /// Go one way once.
    fn cost(&self, way: usize) -> Option<Cost> {
        let output = self.setup.work.join("output");
        let program = self.setup.program.as_deref();
        let cores = &self.setup.cores;
        let options = || options(self.kind, FRAME_PAGES, self.jobs, &self.setup.work);
        let cost = match way {
            0 => cores.cost(self.jobs, || self.compress()).1,
            1 => {
                cores
                    .cost(self.jobs, || {
                        pack(&self.image.bytes, Sink::default(), options())
                    })
                    .1
            }
            2 => {
                let file = File::create(&output).expect("the output");
                cores
                    .cost(self.jobs, || pack(&self.image.bytes, file, options()))
                    .1
            }
            3 => {
                let image = &self.image.path;
                let codec = [
                    "--codec",
                    if self.kind == Kind::Zstd {
                        "zstd"
                    } else {
                        "lz4"
                    },
                ];
                let mut command = self.command(program?, "pack", image);
                command.args(codec).arg("-o").arg(&output);
                cores.cost(self.jobs, || succeed(&mut command)).1
            }
            4 => cores.cost(self.jobs, || self.decompress()).1,
            5 => cores.cost(self.jobs, || self.read()).1,
            6 => {
                let mut command = self.command(program?, "unpack", self.path);
                command.arg("-o").arg(&output);
                cores.cost(self.jobs, || succeed(&mut command)).1
            }
            _ => {
                let mut command = self.command(program?, "unpack", self.path);
                command.args(["-o", "-"]);
                cores.cost(self.jobs, || drain(&mut command)).1
            }
        };
        // Gone before the next measurement, so that nothing of it is still being written to the disk.
        if output.exists() {
            fs::remove_file(&output).expect("the output");
        }
        Some(cost)
    }

    fn command(&self, program: &Path, what: &str, input: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .args([what, "--quiet", "--jobs", &self.jobs.to_string()])
            .arg(input);
        command
    }

    /// Every frame's content compressed and thrown away.
    fn compress(&self) {
        // A frame's content begins where the one before ends.
        let starts: Vec<usize> = self
            .frames
            .frames
            .iter()
            .scan(0, |end, frame| {
                let start = *end;
                *end += frame.content_len();
                Some(start)
            })
            .collect();
        let most = usize::from(FRAME_PAGES) * PAGE_SIZE;
        self.in_units(
            || (Encoder::new(self.kind, most), vec![0; most * 2]),
            |(encoder, out), at, frame| {
                let content = &self.content[starts[at]..][..frame.content_len()];
                black_box(encoder.encode(content, out));
            },
        );
    }

    /// Every frame decompressed to the same memory of its thread.
    fn decompress(&self) {
        let most = usize::from(FRAME_PAGES) * PAGE_SIZE;
        self.in_units(
            || (Decoder::new(), vec![0; most]),
            |(decoder, out), _, frame| {
                let payload = self.frames.payload(frame);
                decoder.decode(frame.codec, payload, &mut out[..frame.content_len()]);
                black_box(out);
            },
        );
    }

    /// All frames on as many threads as there are jobs.
    fn in_units<T>(
        &self,
        state: impl Fn() -> T + Sync,
        work: impl Fn(&mut T, usize, &FrameRef) + Sync,
    ) {
        let frames = &self.frames.frames;
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..self.jobs {
                scope.spawn(|| {
                    let mut state = state();
                    loop {
                        let first = next.fetch_add(UNIT, Ordering::Relaxed);
                        if first >= frames.len() {
                            return;
                        }
                        for (at, frame) in frames.iter().enumerate().skip(first).take(UNIT) {
                            work(&mut state, at, frame);
                        }
                    }
                });
            }
        });
    }

    /// All pages through the library, to a consumer that only touches them.
    fn read(&self) {
        let mut touched = 0_u64;
        let pages = self.snapshot.pages();
        bulk::read(self.snapshot, 0..pages, self.jobs, |piece| {
            if let Piece::Bytes(_, bytes) = piece {
                touched += bytes
                    .chunks(PAGE_SIZE)
                    .map(|page| u64::from(page[0]))
                    .sum::<u64>();
            }
            Ok::<(), Error>(())
        })
        .expect("every page");
        black_box(touched);
    }
}

/// Run a program that must succeed.
fn succeed(command: &mut Command) {
    let status = command.status().expect("the program");
    assert!(status.success(), "{command:?}: {status}");
}

/// Run a program and throw away what it prints, read in pieces of what a pipe holds. Splicing it away would wake this
/// thread for every page, and measure the wake-ups.
fn drain(command: &mut Command) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the program");
    let mut output = child.stdout.take().expect("a pipe");
    let mut buffer = vec![0; 64 << 10];
    while output.read(&mut buffer).expect("its output") > 0 {}
    let status = child.wait().expect("its end");
    assert!(status.success(), "{command:?}: {status}");
}
