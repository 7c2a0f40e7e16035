//! How large the files are.

use crate::Setup;
use crate::codec::Kind;
use crate::image::{Image, options, pack};
use crate::sink::Sink;
use std::fs;
use std::process::{Command, Stdio};

/// Codec and frame size of the columns; the first is the default.
const FILES: [(Kind, u16); 6] = [
    (Kind::Zstd, 4),
    (Kind::Zstd, 1),
    (Kind::Zstd, 16),
    (Kind::Zstd, 512),
    (Kind::Lz4, 4),
    (Kind::Lz4, 1),
];

/// Measure and print.
pub fn run(setup: &Setup) {
    let stream = if setup.quick { "-3" } else { "-19" };
    println!("\n## File size\n");
    println!(
        "MB of the whole file, index and all; × is against the default, zstd 3 with 4 pages. The last column is what it is compared with.\n"
    );
    print!("| image | raw |");
    for (kind, pages) in FILES {
        print!(" {}, {} KiB |", kind.name(), pages * 4);
    }
    println!(" `zstd {stream} --long=27` |\n|---|{}", "--:|".repeat(8));
    for image in &setup.images() {
        let sizes = FILES.map(|(kind, pages)| {
            let options = options(kind, pages, setup.cores.count(), &setup.work);
            pack(&image.bytes, Sink::default(), options).1.file_len
        });
        let megabytes = |len: u64| len as f64 / 1e6;
        print!(
            "| {} | {:.1} |",
            image.name,
            megabytes(image.bytes.len() as u64)
        );
        for len in sizes.into_iter().chain([compressed(setup, image, stream)]) {
            print!(
                " {:.1} (×{:.2}) |",
                megabytes(len),
                len as f64 / sizes[0] as f64
            );
        }
        println!();
    }
}

/// Bytes of the image as one stream of `zstd`.
fn compressed(setup: &Setup, image: &Image, level: &str) -> u64 {
    let raw = setup.work.join("raw");
    fs::write(&raw, &image.bytes).expect("a copy of the image");
    let mut child = Command::new("zstd")
        .args([level, "--long=27", "-T0", "-q", "-c"])
        .arg(&raw)
        .stdout(Stdio::piped())
        .spawn()
        .expect("zstd");
    let mut output = child.stdout.take().expect("a pipe");
    let len = std::io::copy(&mut output, &mut std::io::sink()).expect("its output");
    assert!(child.wait().expect("its end").success());
    fs::remove_file(&raw).expect("the copy");
    len
}
