//! The program `uffd-snapshot` as its users run it.

mod create;
mod criu_crashes;
#[expect(dead_code, reason = "the tests of images use the rest")]
#[path = "../criu_images/writer.rs"]
mod criu_writer;
mod documented;
mod dumps;
mod errors;
mod export_criu;
mod import_criu;
mod leaves_nothing;
mod pack;
mod reviewed;
mod security;
mod working_set;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder of its own for a test, and the program run in it.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("space");
        path
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("the file")
    }

    /// Names of everything in the folder, hidden files too.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the folder");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.into_string().expect("UTF-8"))
            .collect();
        names.sort();
        names
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uffd-snapshot"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output();
        output.expect("the program runs")
    }

    /// Run and expect success.
    fn ok(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            stderr(&output)
        );
        output
    }

    /// Run and expect this exit status; returns what was said.
    fn fails(&self, status: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?} printed data");
        stderr(&output)
    }

    /// Run with --json and parse what it prints.
    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).expect("JSON")
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Memory of all sorts: zero, filled, compressible and random pages, with a length that ends in a page.
fn memory(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut memory = Vec::with_capacity(len + 4096);
    while memory.len() < len {
        let page = memory.len() / 4096;
        match random() % 4 {
            0 => memory.extend([0; 4096]),
            1 => memory.extend((page as u64 + 1).to_le_bytes().repeat(512)),
            2 => memory.extend(format!("page {page:11}").repeat(256).into_bytes()),
            _ => memory.extend((0..512).flat_map(|_| random().to_le_bytes())),
        }
    }
    memory.truncate(len);
    memory
}

/// Bytes of disk that a file takes.
fn disk_usage(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).expect("the file").blocks() * 512
}
