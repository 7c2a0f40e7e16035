//! How much memory a writer takes: in a process of its own, which has nothing else.

use crate::Setup;
use crate::codec::{KINDS, Kind};
use crate::image::options;
use crate::opening::field;
use snapshot_format::{Metadata, PAGE_SIZE, SnapshotId, Writer};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Measure and print.
pub fn run(setup: &Setup) {
    let mib: u64 = if setup.quick { 256 } else { 1024 };
    println!("\n## Memory of a writer\n");
    println!(
        "Peak RSS of a process that packs {mib} MiB of the images, read piece by piece, to a file; MiB.\n"
    );
    println!("| codec | jobs | peak | of it before the writer |");
    println!("|---|--:|--:|--:|");
    for kind in KINDS {
        for jobs in [1, 2] {
            let output = setup.work.join("memory.snap");
            let program = std::env::current_exe().expect("this program");
            let child = Command::new(program)
                .args(["memory-child", kind.name()])
                .args([jobs.to_string(), mib.to_string()])
                .arg(&output)
                .args(&setup.paths)
                .output()
                .expect("this program");
            assert!(child.status.success(), "the child: {}", child.status);
            let text = String::from_utf8(child.stdout).expect("numbers");
            let numbers: Vec<f64> = text
                .split_whitespace()
                .map(|word| word.parse::<f64>().expect("a number") / 1024.0)
                .collect();
            println!(
                "| {} | {jobs} | **{:.1}** | {:.1} |",
                kind.name(),
                numbers[1],
                numbers[0]
            );
            fs::remove_file(&output).expect("the snapshot");
        }
    }
}

/// The process of its own: prints the KiB that it had before the writer, and at most.
pub fn child(arguments: &[String]) {
    let [kind, jobs, mib, output, images @ ..] = arguments else {
        panic!("memory-child is for the program itself");
    };
    let kind = if kind == Kind::Lz4.name() {
        Kind::Lz4
    } else {
        Kind::Zstd
    };
    let (jobs, mib): (usize, u64) = (
        jobs.parse().expect("a number"),
        mib.parse().expect("a number"),
    );
    let images: Vec<PathBuf> = images.iter().map(PathBuf::from).collect();
    let before = field("/proc/self/status", "VmRSS:");
    let spool = Path::new(output).parent().expect("a folder");
    let file = File::create(output).expect("the output");
    let mut writer = Writer::new(file, options(kind, 4, jobs, spool)).expect("a writer");
    writer.begin_stream().expect("a stream");
    let mut left = mib << 20;
    for path in images.iter().cycle() {
        if left == 0 {
            break;
        }
        let mut image = File::open(path).expect("an image");
        while left > 0 {
            let space = writer.space().expect("room");
            let most = space.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let mut filled = 0;
            while filled < most {
                match image.read(&mut space[filled..most]).expect("an image") {
                    0 => break,
                    len => filled += len,
                }
            }
            writer.commit(filled / PAGE_SIZE).expect("the pages fit");
            left -= (filled / PAGE_SIZE * PAGE_SIZE) as u64;
            if filled < most {
                break;
            }
        }
    }
    writer.end_stream(mib << 20).expect("the end");
    writer
        .finish(SnapshotId([7; 16]), &Metadata::default())
        .expect("a snapshot");
    println!("{before} {}", field("/proc/self/status", "VmHWM:"));
}
