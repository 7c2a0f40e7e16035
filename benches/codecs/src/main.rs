//! Measures codecs and checksums over memory images and prints markdown tables.
//! `benches/CODECS.md` has the results and says how to get them.

mod codec;
mod frames;
mod image;
mod measure;
mod sums;

use image::Image;
use std::{fs, path::Path, process::Command, process::Stdio};

const USAGE: &str = "usage: codecs classes|frames|lz4|dictionary|sums|reads|streams IMAGE...
  classes     share of zero, same-filled and other pages
  frames      every codec at every frame size
  lz4         only the LZ4 crates, frames of 1, 4, 16 and 64 pages
  dictionary  zstd with a trained dictionary, small frames
  sums        checksums
  reads       pread(2) from the page cache
  streams     the zstd and lz4 command lines over the whole file, for comparison";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, paths @ ..] = arguments.as_slice() else {
        return usage();
    };
    if paths.is_empty() {
        return usage();
    }
    let load = || paths.iter().map(|path| image::load(path));
    match mode.as_str() {
        "classes" => classes(load()),
        "frames" => load().for_each(|image| frames::run(&image, &frames::SIZES, "")),
        "lz4" => load().for_each(|image| frames::run(&image, &[1, 4, 16, 64], "LZ4 (")),
        "dictionary" => frames::dictionary(&load().collect::<Vec<_>>()),
        "sums" => sums::run(&image::load(&paths[0])),
        "reads" => sums::reads(&paths[0]),
        "streams" => streams(paths),
        _ => usage(),
    }
}

fn usage() {
    eprintln!("{USAGE}");
    std::process::exit(2);
}

fn classes(images: impl Iterator<Item = Image>) {
    println!("\n### Pages\n");
    println!("| image | MiB | zero % | same-filled % | content % | content MiB |");
    println!("|---|--:|--:|--:|--:|--:|");
    for image in images {
        let percent = |pages: usize| pages as f64 * 100.0 / image.pages as f64;
        println!(
            "| {} | {} | {:.1} | {:.1} | {:.1} | {} |",
            image.name,
            image.pages >> 8,
            percent(image.zero),
            percent(image.same),
            percent(image.content.len() / image::PAGE),
            image.content.len() >> 20
        );
    }
}

/// A command line without what does not change its output.
fn label(tool: &[&str]) -> String {
    let words: Vec<&str> = tool
        .iter()
        .filter(|word| !["-q", "-T2"].contains(word))
        .copied()
        .collect();
    words.join(" ")
}

fn streams(paths: &[String]) {
    const TOOLS: [&[&str]; 4] = [
        &["lz4", "-1", "-q"],
        &["zstd", "-1", "-q"],
        &["zstd", "-3", "-q"],
        &["zstd", "-19", "--long=27", "-q", "-T2"],
    ];
    println!("\n### The whole file as one stream: MB\n");
    println!("| image | file | {} |", TOOLS.map(label).join(" | "));
    println!("|---|{}", "--:|".repeat(TOOLS.len() + 1));
    for path in paths {
        let size = fs::metadata(path).expect("the image").len();
        print!(
            "| {} | {:.1}",
            Path::new(path).file_stem().unwrap_or_default().display(),
            size as f64 / 1e6
        );
        for tool in TOOLS {
            let mut child = Command::new(tool[0])
                .args(&tool[1..])
                .args(["-c", path])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("cannot run {}: {error}", tool[0]));
            let mut output = child.stdout.take().expect("a pipe");
            let len = std::io::copy(&mut output, &mut std::io::sink()).expect("its output");
            assert!(child.wait().expect("its end").success());
            print!(" | {:.1}", len as f64 / 1e6);
        }
        println!(" |");
    }
}
