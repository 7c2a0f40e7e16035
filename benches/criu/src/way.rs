//! Ways to bring a process back, and the files that each needs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Setup;
use crate::cache;
use crate::daemon::Daemon;

/// Who delivers the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `criu restore` itself, before the process runs.
    Eager,
    /// `criu lazy-pages`.
    Stock,
    /// `uffd-restore lazy-pages` from the dump as it is.
    Plain,
    /// The same from a snapshot, compressed as `import-criu` does by default.
    Zstd,
    /// The same with LZ4.
    Lz4,
}

impl Kind {
    pub(crate) const OURS: [Self; 3] = [Self::Plain, Self::Zstd, Self::Lz4];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Eager => "`criu restore`, not lazily",
            Self::Stock => "`criu lazy-pages`",
            Self::Plain => "`uffd-restore`, the same dump",
            Self::Zstd => "`uffd-restore`, imported, zstd",
            Self::Lz4 => "`uffd-restore`, imported, LZ4",
        }
    }

    /// For lines that must be short.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Stock => "stock",
            Self::Plain => "dump",
            Self::Zstd => "zstd",
            Self::Lz4 => "LZ4",
        }
    }

    fn codec(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Zstd => Some(&[]),
            Self::Lz4 => Some(&["--codec", "lz4"]),
            _ => None,
        }
    }
}

/// A way with its files.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) kind: Kind,
    /// What `criu restore` reads.
    pub(crate) dump: PathBuf,
    snapshot: Option<PathBuf>,
}

impl Way {
    /// Those that this run can try: ours only with the programs for it.
    pub(crate) fn all(setup: &Setup, dump: &Path) -> Vec<Self> {
        let mut ways: Vec<Self> = [Kind::Eager, Kind::Stock]
            .map(|kind| Self {
                kind,
                dump: dump.to_path_buf(),
                snapshot: None,
            })
            .into();
        if setup.program.is_some() {
            let ours = Kind::OURS.iter().filter(|kind| setup.wants(**kind));
            ways.extend(ours.map(|&kind| Self::ours(setup, kind, dump)));
        }
        ways.retain(|way| setup.wants(way.kind));
        ways
    }

    fn ours(setup: &Setup, kind: Kind, dump: &Path) -> Self {
        let Some(codec) = kind.codec() else {
            return Self {
                kind,
                dump: dump.to_path_buf(),
                snapshot: None,
            };
        };
        let stripped = dump.with_extension(kind.short());
        copy(dump, &stripped);
        let snapshot = stripped.with_extension(format!("{}.snap", kind.short()));
        let mut import = Command::new(setup.packer.as_ref().expect("uffd-snapshot"));
        import
            .arg("import-criu")
            .arg(&stripped)
            .arg("-o")
            .arg(&snapshot);
        import.args(["--strip", "--quiet"]).args(codec);
        let output = import.args(&setup.import).output().expect("uffd-snapshot");
        assert!(output.status.success(), "{output:?}");
        Self {
            kind,
            dump: stripped,
            snapshot: Some(snapshot),
        }
    }

    /// A daemon that listens; none for who needs none.
    pub(crate) fn daemon(&self, setup: &Setup, run: &Path) -> Option<Daemon> {
        let command = match self.kind {
            Kind::Eager => return None,
            Kind::Stock => Command::new(&setup.criu),
            _ => Command::new(setup.program.as_ref().expect("uffd-restore")),
        };
        let mut more = Vec::new();
        if self.kind != Kind::Stock {
            more.push("--json".to_owned());
            more.extend(setup.options.iter().cloned());
        }
        if let Some(snapshot) = &self.snapshot {
            let snapshot = snapshot.to_str().expect("a name");
            more.extend(["--snapshot", snapshot].map(str::to_owned));
        }
        Some(Daemon::start(command, &self.dump, run, &more))
    }

    /// Fills the page cache with all that is read, or empties it of that.
    pub(crate) fn prepare(&self, cold: bool) {
        for file in self.files() {
            let empty = fs::metadata(&file).expect("a file").len() == 0;
            match cold {
                _ if empty => {}
                true => cache::evict(&file),
                false => cache::warm(&file),
            }
        }
    }

    /// Bytes on the disk.
    pub(crate) fn disk(&self) -> u64 {
        let blocks = |file: &PathBuf| fs::metadata(file).expect("a file").blocks();
        self.files().iter().map(blocks).sum::<u64>() * 512
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut all = files(&self.dump);
        all.extend(self.snapshot.clone());
        all
    }
}

/// All regular files in a folder and its folders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("its kind");
        if kind.is_dir() {
            all.extend(files(&entry.path()));
        } else if kind.is_file() {
            all.push(entry.path());
        }
    }
    all
}

/// Copies a folder that has files only.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new folder");
    for file in files(from) {
        let name = file.file_name().expect("a name");
        fs::copy(&file, to.join(name)).expect("to copy");
    }
}
