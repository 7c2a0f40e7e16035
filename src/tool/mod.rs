//! The commands of `uffd-snapshot`.

mod create;
mod criu;
mod export_criu;
mod import_criu;
mod inspect;
mod pack;
mod regions;
mod sink;
mod unpack;
mod verify;
mod working_set;
mod writing;

use crate::cli::snapshot::Command;
use crate::failure::Failure;
use snapshot_format::Snapshot;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Do what was asked for.
///
/// # Errors
/// The one error to print; [`Failure::exit_code`] says how to end.
pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create::run(args),
        Command::Pack(args) => pack::run(&args),
        Command::Unpack(args) => unpack::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::WorkingSet(command) => working_set::run(&command),
        Command::ImportCriu(args) => import_criu::run(&args),
        Command::ExportCriu(args) => export_criu::run(&args),
    }
}

/// Open a snapshot.
pub(crate) fn open(path: &Path) -> Result<Arc<Snapshot<File>>, Failure> {
    Snapshot::open(open_file(path)?)
        .map(Arc::new)
        .map_err(Failure::snapshot(path))
}

/// Open a file that is read by position: no folder, and nothing that can only be read once.
pub(crate) fn open_file(path: &Path) -> Result<File, Failure> {
    // Without blocking: opening a pipe that nobody writes to would wait for ever. Files do not care.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(Failure::io("open", path))?;
    let kind = file.metadata().map_err(Failure::io("open", path))?;
    if kind.is_dir() {
        let error = io::Error::from(io::ErrorKind::IsADirectory);
        return Err(Failure::io("open", path)(error));
    }
    if kind.file_type().is_fifo() || kind.file_type().is_socket() {
        return Err(Failure::NotSeekable(path.to_path_buf()));
    }
    Ok(file)
}

/// Threads to use when the user did not say.
pub(crate) fn threads(asked: Option<u16>) -> usize {
    asked.map_or_else(
        || std::thread::available_parallelism().map_or(1, usize::from),
        usize::from,
    )
}

/// Print data on standard output; a reader that has gone away is not a panic.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(Failure::io("write", "standard output".as_ref()))
}

/// Print a value as indented JSON on standard output.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Failure::io("write", "standard output".as_ref())(io::Error::other(error))
    })?;
    print(&text)
}

/// A length for people: "1.5 GiB".
fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// "1 page", "2 pages", "2 processes".
pub(crate) fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count if what.ends_with('s') => format!("{count} {what}es"),
        count => format!("{count} {what}s"),
    }
}

/// A length of so many pages for people.
fn pages_size(pages: u64) -> String {
    size(pages.saturating_mul(snapshot_format::PAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn more_than_one() {
        assert_eq!(counted(1, "process"), "1 process");
        assert_eq!(counted(4, "process"), "4 processes");
        assert_eq!(counted(0, "page"), "0 pages");
    }
}
