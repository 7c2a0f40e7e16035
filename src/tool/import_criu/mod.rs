//! `uffd-snapshot import-criu`: images of a dump in, snapshot out; and the pages out of the images, if that is wanted.

mod copy;
mod overlap;
mod regions;
mod shared;

use super::criu::belonging::Belonging;
use super::criu::folder::Folder;
use super::criu::signals::HeldSignals;
use super::criu::stripping::{self, Stripped, Stripping};
use super::criu::{planning, refused};
use super::writing::{Output, ReadAhead, Written};
use super::{counted, pages_size, size, threads};
use crate::cli::criu::ImportCriu;
use crate::cli::snapshot::Writing;
use crate::criu::Images;
use crate::criu::manifest::{self, Manifest};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::terminal::say;
use copy::Copy;
use snapshot_format::{Codec, Compression, PAGE_BYTES, ProcessRegions, Processes, Source};
use std::path::Path;

/// What CRIU's users do with a dump: fill all of it, while it is touched at random. Decoding is what that takes most time for, and level -1 takes 20 %
/// less than level 3, in a file that is 17 % larger. Frames of 8 pages would be decoded 5 % faster still, and let a lone fault wait twice as long.
const COMPRESSION: Compression = Compression {
    codec: Codec::Zstd,
    level: -1,
    frame_pages: 4,
};

pub(super) fn run(args: &ImportCriu) -> Result<(), Failure> {
    let folder = Folder::lock(&args.folder)?;
    if is_an_image(args) {
        return Err(refused(
            &folder.path,
            format!(
                "{:?} would be one of its images: choose another name",
                args.output
            ),
        ));
    }
    if let Some(manifest) = Manifest::find(&args.folder)? {
        return finish(args, &folder, &manifest);
    }
    let images = open(args)?;
    // Before anything is written: what cannot be stripped is not imported for it.
    let planned = args.strip.then(|| planning::plan(&folder, &images));
    let planned = planned.transpose()?;
    let written = write(args, &images)?;
    let stripped = match planned {
        Some(processes) if !processes.is_empty() => {
            let manifest = Manifest {
                version: manifest::VERSION,
                snapshot: written.id,
                snapshot_header: super::open(&args.output)?.header_checksum(),
                snapshot_path: absolute(&args.output),
                inventory: images.inventory,
                processes,
            };
            drop(images);
            Some(strip(args, &folder, &manifest)?)
        }
        Some(_) => Some(Stripped::default()),
        None => None,
    };
    report(args, &written, stripped.as_ref())
}

/// With `--force` it would be replaced, and be missing in what is restored.
fn is_an_image(args: &ImportCriu) -> bool {
    let folder = args.output.parent().map(|folder| {
        // A name alone.
        let here = folder.as_os_str().is_empty();
        if here { Path::new(".") } else { folder }
    });
    let whole = |path: &Path| std::fs::canonicalize(path).ok();
    args.output.extension().is_some_and(|end| end == "img")
        && folder.and_then(whole) == whole(&args.folder)
}

/// Images that can be imported.
fn open(args: &ImportCriu) -> Result<Images, Failure> {
    let images = Images::open(&args.folder)?;
    let refused = |what: String| Err(refused(&args.folder, what));
    for process in &images.processes {
        if process.stripped {
            return refused(format!(
                "the pages of process {} are in a snapshot, but uffd-restore/manifest.json, which says in which, is gone: \
                 restore with `uffd-restore lazy-pages --snapshot`, or copy the directory again",
                process.pid
            ));
        }
        if let Some(run) = process.lazy.iter().find(|run| run.stored.is_none()) {
            return refused(format!(
                "the pages of process {} at {} are not in the images: `criu dump --lazy-pages` keeps them for the network; \
                 dump without --lazy-pages",
                process.pid, run.at
            ));
        }
    }
    if !args.holes_are_zeros {
        images.refuse_holes()?;
    }
    Ok(images)
}

/// Write the snapshot.
fn write(args: &ImportCriu, images: &Images) -> Result<Written, Failure> {
    let frame_pages = args.writing.frame_pages;
    let frame_pages = frame_pages.unwrap_or(COMPRESSION.frame_pages);
    let regions = regions::plan(images, frame_pages.into());
    let regions = regions.ok_or_else(|| {
        refused(
            &args.folder,
            "it has more than 1048576 mappings with lazy pages, more than a snapshot can have regions",
        )
    })?;
    let buffer = ReadAhead::Steady(args.buffer.as_u64());
    let mut output = Output::create(&args.output, &args.writing, COMPRESSION, buffer)?;
    let progress = Progress::new(
        "importing",
        Some(lazy_pages(images) * PAGE_BYTES),
        quiet(args),
    );
    let failure = output.failure();
    Copy::new(images, &mut output.writer, failure, &progress).regions(&regions)?;
    drop(progress);
    let mut list: Vec<ProcessRegions> = Vec::new();
    for process in &images.processes {
        list.push(ProcessRegions {
            pid: process.pid.unsigned_abs(),
            regions: 0,
            pagemap: process.pagemap,
        });
    }
    for planned in &regions {
        if let Some(process) = list.get_mut(planned.process) {
            process.regions += 1;
        }
    }
    output.writer.processes(Processes {
        images: images.inventory,
        list,
    });
    output.publish(Source::Unknown)
}

/// Strip a directory whose snapshot has just been written.
fn strip(args: &ImportCriu, folder: &Folder, manifest: &Manifest) -> Result<Stripped, Failure> {
    let belonging = Belonging::open(folder, manifest, &args.output)?;
    let stripping = stripping_of(args, folder, manifest, &belonging);
    compare(args, &stripping)?;
    let signals = HeldSignals::new();
    let prepared = stripping.prepare(&signals);
    if matches!(prepared, Ok(true)) {
        // From here on it is finished, whoever asks for an end: it is a matter of milliseconds.
        return stripping.complete();
    }
    signals.obey();
    prepared?;
    Err(refused(&folder.path, "interrupted; it is as it was"))
}

/// A directory with a manifest: what was interrupted is finished, if that is what is asked for.
fn finish(args: &ImportCriu, folder: &Folder, manifest: &Manifest) -> Result<(), Failure> {
    if is_done(folder, manifest)? {
        return Err(refused(
            &folder.path,
            format!(
                "its pages are in snapshot {} already, which was {:?}: restore with `uffd-restore lazy-pages --snapshot`, \
                 or put them back with `uffd-snapshot export-criu`",
                manifest.snapshot, manifest.snapshot_path
            ),
        ));
    }
    if !args.strip || !args.output.exists() {
        return Err(begun(&folder.path, manifest));
    }
    let belonging = Belonging::open(folder, manifest, &args.output)?;
    let stripping = stripping_of(args, folder, manifest, &belonging);
    compare(args, &stripping)?;
    let signals = HeldSignals::new();
    stripping.resume(&signals)?;
    if signals.came() {
        signals.obey();
        return Err(begun(&folder.path, manifest));
    }
    let stripped = stripping.complete()?;
    if args.writing.json {
        super::print_json(&Finished {
            file: args.output.to_string_lossy().into_owned(),
            id: manifest.snapshot.to_string(),
            stripped: (&stripped).into(),
        })
    } else {
        if !args.writing.quiet {
            say(&format!(
                "{}: what was begun is finished{}",
                args.output.display(),
                outcome(&args.folder, &stripped)
            ));
        }
        Ok(())
    }
}

fn stripping_of<'a>(
    args: &ImportCriu,
    folder: &'a Folder,
    manifest: &'a Manifest,
    belonging: &'a Belonging,
) -> Stripping<'a> {
    Stripping {
        folder,
        manifest,
        belonging,
        threads: threads(args.writing.jobs),
    }
}

fn compare(args: &ImportCriu, stripping: &Stripping<'_>) -> Result<(), Failure> {
    let processes = &stripping.manifest.processes;
    let bytes = processes.iter().map(|process| process.original_len).sum();
    let progress = Progress::new("comparing", Some(bytes), quiet(args));
    stripping.compare(&progress)
}

/// Whether nothing is left to be done of what a manifest says.
fn is_done(folder: &Folder, manifest: &Manifest) -> Result<bool, Failure> {
    let originals = stripping::originals(folder, manifest)?;
    Ok(originals.iter().all(|original| {
        original.replaced && !folder.pages(original.process.original_pages).exists()
    }))
}

/// The directory is being stripped.
fn begun(folder: &Path, manifest: &Manifest) -> Failure {
    refused(
        folder,
        format!(
            "its pages are on their way to snapshot {}, which was {:?}: finish it with `uffd-snapshot import-criu --strip -o` \
             that file, or put them back with `uffd-snapshot export-criu --snapshot` that file",
            manifest.snapshot, manifest.snapshot_path
        ),
    )
}

fn lazy_pages(images: &Images) -> u64 {
    let runs = images.processes.iter().flat_map(|process| &process.lazy);
    runs.map(|run| run.at.len() / PAGE_BYTES).sum()
}

fn quiet(args: &ImportCriu) -> bool {
    let Writing { quiet, json, .. } = args.writing;
    quiet || json
}

fn absolute(path: &Path) -> String {
    let absolute = std::fs::canonicalize(path);
    absolute
        .unwrap_or_else(|_| path.to_path_buf())
        .to_string_lossy()
        .into_owned()
}

/// What JSON says of an import.
#[derive(serde::Serialize)]
struct More {
    processes: usize,
    /// Pages that several processes have, and the file once.
    shared_pages: u64,
    stripped: Option<JsonStripped>,
}

/// What JSON says of an import that was finished.
#[derive(serde::Serialize)]
struct Finished {
    file: String,
    id: String,
    stripped: JsonStripped,
}

#[derive(serde::Serialize)]
struct JsonStripped {
    processes: usize,
    left_bytes: u64,
    freed_bytes: u64,
    linked: Vec<String>,
}

impl From<&Stripped> for JsonStripped {
    fn from(stripped: &Stripped) -> Self {
        let text = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
        Self {
            processes: stripped.processes,
            left_bytes: stripped.left,
            freed_bytes: stripped.freed,
            linked: stripped.linked.iter().map(text).collect(),
        }
    }
}

fn report(
    args: &ImportCriu,
    written: &Written,
    stripped: Option<&Stripped>,
) -> Result<(), Failure> {
    let snapshot = super::open(&args.output)?;
    let processes = snapshot.processes().map_or(0, |one| one.list.len());
    let summary = written.summary;
    let more = More {
        processes,
        shared_pages: summary.repeated_pages,
        stripped: stripped.map(JsonStripped::from),
    };
    let shared = match summary.repeated_pages {
        0 => String::new(),
        pages => format!(", {} of it shared and stored once", pages_size(pages)),
    };
    let sentence = format!(
        "{}: {} with {}{shared}, in a file of {}{}",
        args.output.display(),
        counted(processes as u64, "process"),
        pages_size(summary.pages),
        size(summary.file_len),
        stripped.map_or_else(String::new, |stripped| outcome(&args.folder, stripped)),
    );
    written.report_as(&args.writing, &sentence, more)
}

/// What was stripped, for people.
fn outcome(folder: &Path, stripped: &Stripped) -> String {
    let linked = match stripped.linked.as_slice() {
        [] => String::new(),
        [one] => format!(
            " ({} has another name, and still takes its disk)",
            one.display()
        ),
        [one, rest @ ..] => format!(
            " ({} and {} more have other names, and still take their disk)",
            one.display(),
            rest.len()
        ),
    };
    format!(
        "; {} keeps {} and gave back {}{linked}",
        folder.display(),
        size(stripped.left),
        size(stripped.freed),
    )
}
