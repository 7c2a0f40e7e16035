//! `--resume`: going on where all of another run was killed; and `--state-dir`, which makes that possible.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use super::inherited::{Inherited, stored};
use crate::cli::restore::{Cli, Listen, SetName};
use crate::failure::Failure;
use crate::handover;
use crate::service::Pulse;
use crate::takeover::{Beginning, Kept, Resumed, StateFile, Store};
use crate::terminal::mention;

/// Options of the run before that were about what it had inherited, or was to make.
const NOT_AGAIN: [&str; 3] = ["--ready-fd", "--pidfile", "--state-dir"];

/// Goes on with what a state file is of: as that run was told to, but for what is said now.
///
/// # Errors
/// [`Failure`].
pub(super) fn run(given: &Cli, path: &Path) -> Result<ExitCode, Failure> {
    let resumed = Resumed::fetch(path)?;
    let now = std::env::args_os().skip(1);
    let now: Vec<OsString> = without(now, &["--resume"])
        .chain(absolute(given)?)
        .collect();
    let directory = &resumed.directory;
    if let Err(error) = std::env::set_current_dir(directory) {
        // All names may be absolute.
        mention(&format!(
            "uffd-restore: cannot go to {directory:?}, where the run before was started: {error}; relative names are not found"
        ));
    }
    let before = resumed.arguments.iter().map(OsString::from);
    // Where several count, those that are given now are all.
    let instead: &[&str] = match given.peers.allow_uids.is_empty() {
        true => &[],
        false => &["--allow-uid"],
    };
    let before = without(without(before, &NOT_AGAIN), instead);
    let words: Vec<OsString> = before.chain(now).collect();
    let args = parse(words.iter().cloned()).map_err(|error| {
        Failure::Usage(format!(
            "{path:?}: what that run was told is not understood: use the program that it was: {error}"
        ))
    })?;
    let words = words
        .into_iter()
        .map(|word| word.into_string().map_err(not_utf8));
    let resumed = resumed.told(words.collect::<Result<_, _>>()?);
    if args.what.pid.is_some() {
        super::attaching::run(&args, Some(resumed))
    } else {
        super::listening::run(&args, Some(resumed))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn not_utf8(word: OsString) -> Failure {
    Failure::Usage(format!("--resume: the argument {word:?} is not UTF-8"))
}

/// Files that are named now, from where they are named: once more, for the last one counts.
fn absolute(given: &Cli) -> Result<Vec<OsString>, Failure> {
    let set = match &given.touched.working_set {
        Some(SetName::File(path)) => Some(path),
        _ => None,
    };
    let files = [
        ("--snapshot", given.snapshot.as_ref()),
        ("--pidfile", given.pidfile.as_ref()),
        ("--working-set", set),
    ];
    let mut words = Vec::new();
    for (option, path) in files {
        if let Some(path) = path {
            let path = std::path::absolute(path).map_err(Failure::io("look for", path))?;
            words.extend([option.into(), path.into_os_string()]);
        }
    }
    Ok(words)
}

/// Where an option is given more than once the last one counts.
fn parse(words: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let matches = Cli::command()
        .args_override_self(true)
        .try_get_matches_from(words)?;
    Cli::from_arg_matches(&matches)
}

/// All words but some options and their values.
fn without(
    words: impl Iterator<Item = OsString>,
    options: &'static [&'static str],
) -> impl Iterator<Item = OsString> {
    let mut skip = false;
    words.filter(move |word| {
        if std::mem::take(&mut skip) {
            return false;
        }
        let word = word.to_string_lossy();
        let is = |option: &&str| match word.strip_prefix(option) {
            Some("") => Some(true),
            Some(rest) => rest.starts_with('=').then_some(false),
            None => None,
        };
        let found = options.iter().find_map(is);
        skip = found == Some(true);
        found.is_none()
    })
}

/// What this run begins with.
///
/// # Errors
/// [`Failure`].
pub(super) fn beginning(
    args: &Cli,
    inherited: &mut Inherited,
    pulse: &Pulse,
    resumed: Option<Resumed>,
) -> Result<Beginning, Failure> {
    if let Some(resumed) = resumed {
        return Ok(Beginning::Resumed(Box::new(resumed)));
    }
    let stored = stored(inherited)?;
    let Some(folder) = &args.state_dir else {
        return Ok(Beginning::Stored(stored));
    };
    if Store::is_there(pulse) || !stored.is_empty() {
        return Err(Failure::Usage(
            "--state-dir: the service manager keeps what is needed to go on (FileDescriptorStoreMax=): leave the option out".into(),
        ));
    }
    StateFile::begin(folder, &name(args), args.what.pid.is_some()).map(Beginning::State)
}

/// What the state file is called.
fn name(args: &Cli) -> String {
    match (args.what.pid, &args.what.listen) {
        (Some(pid), _) => pid.to_string(),
        (None, Some(Listen::Path(path))) => {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        }
        (None, _) => format!("listen-{}", std::process::id()),
    }
}

/// When all is over: nothing is left behind, neither in the target nor in the folder.
pub(super) fn clean_up(kept: &Kept) {
    let left = kept.is_left();
    // First: nobody has to go on, if this process is killed now.
    kept.forget();
    if let (Some((pid, number)), Some(socket)) = (left, kept.to_be_left())
        && let Err(error) = handover::take_back(pid, number, socket)
    {
        mention(&format!(
            "uffd-restore: process {pid} keeps descriptor {number}, a socket of no use: {error}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> impl Iterator<Item = OsString> + use<> {
        let words: Vec<OsString> = text.split(' ').map(OsString::from).collect();
        words.into_iter()
    }

    #[test]
    fn what_is_said_now_counts() {
        let before =
            "uffd-restore --snapshot a.snap --ready-fd 3 --pid 7 --state-dir=/run/x --jobs 2";
        let now = "--resume /run/x/7.state --snapshot b.snap --quiet";
        let all = without(words(before), &NOT_AGAIN).chain(without(words(now), &["--resume"]));
        let args = parse(all).expect("understood");
        assert_eq!(args.snapshot.as_deref(), Some(Path::new("b.snap")));
        assert_eq!((args.what.pid, args.jobs), (Some(7), Some(2)));
        assert!(args.ready_fd.is_none() && args.state_dir.is_none() && args.quiet);
    }

    #[test]
    fn only_these_options_are_left_out() {
        let left = without(words("--resumed --resume=x a --resume b c"), &["--resume"]);
        let left: Vec<OsString> = left.collect();
        assert_eq!(left, ["--resumed", "a", "c"]);
    }
}
