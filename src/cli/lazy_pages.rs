//! The command line of `uffd-restore lazy-pages`: that of `criu lazy-pages`, and more.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgAction, Args};

use super::restore::{OnFailureName, PrefillName, Touched, parse_rate};

/// `lazy-pages`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  uffd-restore lazy-pages -D images --status-fd 3 3>ready &
  criu restore -d --lazy-pages -D images

  uffd-snapshot import-criu images -o dump.snap --strip
  uffd-restore lazy-pages -d -D images -o lazy.log --snapshot dump.snap
  criu restore -d --lazy-pages -D images

Exit status: 0 every page is in place, or every process has ended; 1 failed; 2 bad usage.")]
pub struct LazyPages {
    /// The images of the dump
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    pub images_dir: PathBuf,
    /// Where the socket is made, and names of files begin [default: the images' directory]
    #[arg(short = 'W', long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Write what there is to say to this file, in the work directory, not to standard error
    #[arg(short = 'o', long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Accepted, as criu has it. There is nothing that is said for each page
    #[arg(short = 'v', long = "verbosity", value_name = "N", num_args = 0..=1)]
    #[arg(default_missing_value = "v", action = ArgAction::Append, allow_hyphen_values = false)]
    pub verbosity: Vec<String>,
    /// Go on in the background once it listens
    #[arg(short = 'd', long)]
    pub daemon: bool,
    /// With -d: write the process id to this file, in the work directory
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Write a zero byte to this descriptor, and close it, once it listens (1: nothing else is printed)
    #[arg(long, value_name = "N")]
    pub status_fd: Option<RawFd>,
    /// Accepted, as criu has it: there are no configuration files
    #[arg(long)]
    pub no_default_config: bool,
    /// Accepted, as criu has it, and not read
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Snapshot that has the pages, as `uffd-snapshot import-criu` writes it
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// Pages to install before they are touched [default: all; while recording, all once that is over]
    #[arg(long, value_enum)]
    pub prefill: Option<PrefillName>,
    /// How long to wait before --prefill all begins, from the end of the restore on
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub prefill_delay: Duration,
    /// How much a second is installed, at most, that nobody has touched, now or last time [default: as much as there is time for]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub prefill_rate: Option<ByteSize>,
    /// How much is fetched, at most, before it is asked for by somebody who reads in order; 0 for nothing
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub read_ahead: ByteSize,
    /// Threads that read and decode [default: one for each CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// Decoded memory that is kept, because processes of a tree have it in common
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub cache_size: ByteSize,
    /// What becomes of a page that cannot be served: whoever touches it gets SIGBUS, or its process is killed
    #[arg(long, value_enum, default_value_t = OnFailureName::Poison)]
    pub on_failure: OnFailureName,
    /// Give up when `criu restore` has not connected after this long; 0s to wait for ever
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub connect_timeout: Duration,
    /// When asked to end: how long to go on installing what is owed
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub finish_within: Duration,
    /// Write numbers to this file, in the work directory, every second, in the text format of Prometheus
    #[arg(long, value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,
    /// Pages that lie in holes of the images are zero: they were copied by something that makes holes
    #[arg(long)]
    pub holes_are_zeros: bool,
    /// For debugging: do not limit the system calls that this program may make while it serves
    #[arg(long)]
    pub no_seccomp: bool,
    /// Print what there is to say as JSON
    #[arg(long)]
    pub json: bool,
    /// No progress, no summary
    #[arg(short, long)]
    pub quiet: bool,
    /// What was touched, and what is.
    #[command(flatten)]
    pub touched: Touched,
    /// What criu has and this has not.
    #[command(flatten)]
    pub refused: Refused,
}

/// Options of `criu lazy-pages` that are refused.
#[derive(Debug, Args)]
pub struct Refused {
    /// Pages from another machine.
    #[arg(long, hide = true)]
    pub page_server: bool,
    /// Of the page server.
    #[arg(long, hide = true, value_name = "ADDRESS")]
    pub address: Option<String>,
    /// Of the page server.
    #[arg(long, hide = true, value_name = "PORT")]
    pub port: Option<String>,
    /// Of the page server.
    #[arg(long, hide = true, value_name = "N")]
    pub ps_socket: Option<String>,
    /// Of the page server.
    #[arg(long, hide = true)]
    pub tls: bool,
    /// Of the page server.
    #[arg(long, hide = true, value_name = "FILE")]
    pub tls_cacert: Option<PathBuf>,
    /// Of the page server.
    #[arg(long, hide = true, value_name = "FILE")]
    pub tls_cacrl: Option<PathBuf>,
    /// Of the page server.
    #[arg(long, hide = true, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Of the page server.
    #[arg(long, hide = true, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Of the page server.
    #[arg(long, hide = true)]
    pub tls_no_cn_verify: bool,
    /// Takes pages out of the images once they are read.
    #[arg(long, hide = true)]
    pub auto_dedup: bool,
    /// Run at certain moments.
    #[arg(long, hide = true, value_name = "FILE")]
    pub action_script: Option<PathBuf>,
    /// Images by way of another program.
    #[arg(long, hide = true)]
    pub stream: bool,
}

impl LazyPages {
    /// What cannot be done, in a sentence.
    ///
    /// # Errors
    /// The sentence.
    pub fn check(&self) -> Result<(), String> {
        let refused = &self.refused;
        let server = refused.page_server
            || refused.address.is_some()
            || refused.port.is_some()
            || refused.ps_socket.is_some()
            || refused.tls
            || refused.tls_no_cn_verify
            || [
                &refused.tls_cacert,
                &refused.tls_cacrl,
                &refused.tls_cert,
                &refused.tls_key,
            ]
            .iter()
            .any(|file| file.is_some());
        let (option, instead) = if server {
            (
                "--page-server",
                "pages are read from files here: copy the images, or use criu lazy-pages for this restore",
            )
        } else if refused.auto_dedup {
            (
                "--auto-dedup",
                "images are only read here, so that they can be restored again: delete them when they are not needed any more",
            )
        } else if refused.action_script.is_some() {
            (
                "--action-script",
                "scripts are not run here: wait at --status-fd, or for -d to return",
            )
        } else if refused.stream {
            ("--stream", "images are read by position: store them first")
        } else if self.snapshot.is_none()
            && (self.touched.record_working_set.is_some() || self.touched.working_set.is_some())
        {
            (
                "a working set without --snapshot",
                "it is bound to a snapshot, which uffd-snapshot import-criu makes of the images",
            )
        } else if self.pidfile.is_some() && !self.daemon {
            ("--pidfile", "it goes with -d only, as criu has it")
        } else {
            return Ok(());
        };
        Err(format!("{option} is not supported: {instead}"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::restore::{Cli, Command};

    fn parse(words: &[&str]) -> Result<Box<LazyPages>, clap::Error> {
        let words = [&["uffd-restore", "lazy-pages"], words].concat();
        match Cli::try_parse_from(words)?.command {
            Some(Command::LazyPages(args)) => Ok(args),
            None => panic!("no command"),
        }
    }

    #[test]
    fn what_criu_is_told_is_understood() {
        let args = parse(&[
            "-vvvv",
            "-v",
            "-v4",
            "--verbosity=3",
            "-D/images",
            "--work-dir",
            "w",
            "-o",
            "lp.log",
            "-d",
            "--pidfile",
            "p",
            "--status-fd",
            "7",
            "--no-default-config",
            "--config",
            "c",
        ])
        .expect("all of it");
        assert_eq!(args.images_dir, PathBuf::from("/images"));
        assert_eq!(args.status_fd, Some(7));
        assert!(args.daemon && args.check().is_ok());
        let args = parse(&[]).expect("all has defaults");
        assert_eq!(args.images_dir, PathBuf::from("."));
    }

    #[test]
    fn what_is_not_supported_is_refused_with_a_sentence() {
        for (words, named) in [
            (&["--page-server"][..], "--page-server"),
            (&["--address", "127.0.0.1", "--port", "27"], "--page-server"),
            (&["--tls-cacert", "x"], "--page-server"),
            (&["--tls-no-cn-verify"], "--page-server"),
            (&["--auto-dedup"], "--auto-dedup"),
            (&["--action-script", "x"], "--action-script"),
            (&["--pidfile", "x"], "--pidfile"),
            (&["--record-working-set"], "a working set without"),
        ] {
            let args = parse(words).expect("known");
            let sentence = args.check().expect_err("refused");
            assert!(sentence.starts_with(named), "{sentence}");
        }
    }
}
