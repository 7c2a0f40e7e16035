//! `uffd-snapshot export-criu`: the pages of a stripped directory back from the snapshot.

use super::criu::belonging::Belonging;
use super::criu::folder::{Folder, regular};
use super::criu::pages::{Part, Reader, parts};
use super::criu::refused;
use super::criu::signals::HeldSignals;
use super::criu::stripping::{self, Original, copy, write};
use super::{print_json, size, threads};
use crate::cli::criu::ExportCriu;
use crate::criu::manifest::Manifest;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::terminal::say;
use snapshot_format::PAGE_BYTES;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::Instant;

pub(super) fn run(args: &ExportCriu) -> Result<(), Failure> {
    let started = Instant::now();
    let folder = Folder::lock(&args.folder)?;
    let manifest = Manifest::find(&folder.path)?.ok_or_else(|| {
        // All that a crash at the very end leaves. It is not removed if there is anything in it.
        let _ = fs::remove_dir(Manifest::folder(&folder.path));
        refused(
            &folder.path,
            "nothing was taken out of it (it has no uffd-restore/manifest.json): restore it as it is",
        )
    })?;
    let belonging = Belonging::open(&folder, &manifest, &args.snapshot)?;
    let export = Export {
        folder: &folder,
        belonging: &belonging,
        originals: stripping::originals(&folder, &manifest)?,
        threads: threads(args.jobs),
        signals: HeldSignals::new(),
    };
    let missing = export.missing()?;
    let bytes: u64 = missing.iter().map(|one| one.process.original_len).sum();
    let progress = Progress::new("exporting", Some(bytes), args.quiet || args.json);
    let mut created = Vec::new();
    let written = export.write_pages(&missing, &mut created, &progress);
    drop(progress);
    if written.is_err() || export.signals.came() {
        for path in &created {
            // The first failure is the one to report.
            let _ = folder.remove(path);
        }
        folder.tidy();
        export.signals.obey();
        written?;
        return Err(refused(&folder.path, "interrupted; it is as it was"));
    }
    let processes = export.originals.len();
    let back = export.put_back(&manifest);
    back.map_err(|failure| Failure::Halfway {
        folder: folder.path.clone(),
        source: Box::new(failure),
    })?;
    report(args, processes, bytes, started)
}

struct Export<'a> {
    folder: &'a Folder,
    belonging: &'a Belonging,
    originals: Vec<Original<'a>>,
    threads: usize,
    signals: HeldSignals,
}

impl Export<'_> {
    /// The processes whose pages file is not there. One that is there is whole: it was never removed, or came back in one piece.
    fn missing(&self) -> Result<Vec<&Original<'_>>, Failure> {
        let mut missing = Vec::new();
        for original in &self.originals {
            let path = self.folder.pages(original.process.original_pages);
            match regular(&path)? {
                Some(file) if file.len() == original.process.original_len => {}
                None if original.replaced => missing.push(original),
                Some(_) => {
                    return Err(refused(
                        &self.folder.path,
                        format!(
                            "{path:?} is in the place where pages are to be put back: move it away"
                        ),
                    ));
                }
                None => {
                    return Err(refused(
                        &self.folder.path,
                        format!("{path:?} is gone: copy the directory again, or dump again"),
                    ));
                }
            }
        }
        Ok(missing)
    }

    fn write_pages(
        &self,
        missing: &[&Original<'_>],
        created: &mut Vec<PathBuf>,
        progress: &Progress,
    ) -> Result<(), Failure> {
        for original in missing {
            if self.signals.came() {
                return Ok(());
            }
            let pagemap = self.folder.pagemap(original.process.pid);
            let like = fs::metadata(&pagemap).map_err(Failure::io("use", &pagemap))?;
            let path = self.folder.pages(original.process.original_pages);
            let written = |file: &File| self.write_file(original, file, progress);
            self.folder.place(&path, &like, written)?;
            created.push(path);
        }
        for original in self.replaced() {
            self.folder
                .prepare_pagemap(original.process.pid, &original.bytes)?;
        }
        Ok(())
    }

    /// The processes whose pagemaps are marked.
    fn replaced(&self) -> impl Iterator<Item = &Original<'_>> {
        self.originals.iter().filter(|one| one.replaced)
    }

    /// One pages file, as the dump wrote it.
    fn write_file(
        &self,
        original: &Original<'_>,
        file: &File,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let to = self.folder.pages(original.process.original_pages);
        let left_path = self.folder.pages(original.process.new_pages);
        let left = File::open(&left_path).map_err(Failure::io("open", &left_path))?;
        let places = self.belonging.places(original.process)?;
        let mut reader = Reader::new(self.belonging, self.threads);
        let (mut at, mut left_at) = (0, 0);
        for part in parts(&original.pagemap, &places, self.belonging)? {
            let len = part.pages() * PAGE_BYTES;
            match part {
                Part::Left(_) => {
                    copy((&left, &left_path, left_at), (file, &to, at), len)?;
                    left_at += len;
                    at += len;
                }
                Part::Moved(first, pages) => reader.read(first, pages, |bytes| {
                    if self.signals.came() {
                        return Err(refused(&self.folder.path, "interrupted; it is as it was"));
                    }
                    write(file, bytes, at, &to)?;
                    at += bytes.len() as u64;
                    progress.add(bytes.len() as u64);
                    Ok(())
                })?,
            }
        }
        if at == original.process.original_len {
            Ok(())
        } else {
            Err(refused(
                &self.folder.path,
                format!("{to:?} would not have its old length: the manifest is damaged"),
            ))
        }
    }

    /// The old pagemaps in the place of the marked ones; then what stood in for them goes, the mark last.
    fn put_back(&self, manifest: &Manifest) -> Result<(), Failure> {
        for original in self.replaced() {
            self.folder.replace_pagemap(original.process.pid)?;
        }
        for process in &manifest.processes {
            self.folder.remove(&self.folder.pages(process.new_pages))?;
        }
        self.folder.sync()?;
        Manifest::remove(&self.folder.path)
    }
}

/// What JSON says.
#[derive(serde::Serialize)]
struct Json {
    directory: String,
    processes: usize,
    written_bytes: u64,
    seconds: f64,
}

fn report(
    args: &ExportCriu,
    processes: usize,
    bytes: u64,
    started: Instant,
) -> Result<(), Failure> {
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        return print_json(&Json {
            directory: args.folder.to_string_lossy().into_owned(),
            processes,
            written_bytes: bytes,
            seconds,
        });
    }
    if !args.quiet {
        say(&format!(
            "{}: {} of {processes} process{} put back, as `criu dump` wrote it, {seconds:.2} s",
            args.folder.display(),
            size(bytes),
            if processes == 1 { "" } else { "es" },
        ));
    }
    Ok(())
}
