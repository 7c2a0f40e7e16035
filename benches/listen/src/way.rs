//! The ways to bring guests back, and one measurement of any of them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Setup;
use crate::cache;
use crate::peer::{From, Passed, Peer, Walk};
use crate::server::{Ended, Options, Resident, Server, number};

/// Measurements in which a peer waited for ever.
pub(crate) static HUNG: AtomicUsize = AtomicUsize::new(0);

/// A file that guests come from.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Of a snapshot; `None` for the raw file.
    pub(crate) frames: Option<f64>,
}

impl Image {
    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        std::fs::metadata(&self.path).expect("the file").len()
    }

    /// Packs the raw file.
    pub(crate) fn pack(setup: &Setup, raw: &Self, name: &str, options: &[&str]) -> Self {
        let path = setup.work.join(format!("{}.snap", name.replace(' ', "-")));
        let mut command = Command::new(&setup.packer);
        command.arg("pack").arg(&raw.path).arg("-o").arg(&path);
        let output = command.args(options).args(["--quiet", "--json"]).output();
        let output = output.expect("uffd-snapshot");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        Self {
            name: name.to_owned(),
            path,
            frames: number(&said.replace(": ", ":"), "frames"),
        }
    }
}

/// Who serves, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Nobody: a private mapping of the file.
    Map,
    /// A handler that copies so many pages for each fault, 0 for all at the first.
    Handler(usize),
    /// `uffd-restore`.
    Daemon(Options),
}

#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) how: How,
    pub(crate) image: Image,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Seconds from the first hand-over until every peer had checked everything.
    pub(crate) all: f64,
    /// Milliseconds from a peer's hand-over to its first page, the longest.
    pub(crate) first: f64,
    pub(crate) resident: Resident,
    pub(crate) ended: Ended,
}

impl Way {
    pub(crate) fn name(&self) -> String {
        match self.how {
            How::Map => "private mapping of the raw file".to_owned(),
            How::Handler(0) => "raw file, all at the first fault".to_owned(),
            How::Handler(1) => "raw file, a page per fault".to_owned(),
            How::Handler(pages) => format!("raw file, {pages} pages per fault"),
            How::Daemon(options) => format!(
                "uffd-restore, {}, prefill {}",
                self.image.name,
                if options.prefill { "all" } else { "none" }
            ),
        }
    }

    pub(crate) fn is_handler(&self) -> bool {
        matches!(self.how, How::Handler(_))
    }

    pub(crate) fn prefills(&self) -> bool {
        matches!(self.how, How::Daemon(Options { prefill: true, .. }))
    }

    /// The size of the daemon's cache, MiB.
    pub(crate) fn cache(&self) -> Option<u32> {
        match self.how {
            How::Daemon(options) => Some(options.cache),
            How::Map | How::Handler(_) => None,
        }
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.image.frames.is_some()
    }

    /// Serves so many peers at once; each touches the same pages. None when the daemon does not take the file. Once more when a
    /// peer waits for ever, which is counted.
    pub(crate) fn measure(
        &self,
        setup: &Setup,
        walk: Walk,
        cold: bool,
        peers: usize,
    ) -> Option<Sample> {
        for _ in 0..5 {
            match self.attempt(setup, walk, cold, peers)? {
                Some(sample) => return Some(sample),
                None => {
                    HUNG.fetch_add(1, Ordering::Relaxed);
                    eprintln!(
                        "listen-bench: a peer hangs: {}, {}",
                        self.name(),
                        walk.name()
                    );
                }
            }
        }
        panic!("{}: it hangs again and again", self.name());
    }

    /// None in it when a peer waits for ever.
    fn attempt(
        &self,
        setup: &Setup,
        walk: Walk,
        cold: bool,
        peers: usize,
    ) -> Option<Option<Sample>> {
        let file = &self.image.path;
        let server = match self.how {
            How::Map => None,
            How::Handler(at_once) => Some(Server::handler(setup, file, at_once)?),
            How::Daemon(options) => Some(Server::daemon(setup, file, options)?),
        };
        let from = match &server {
            Some(server) => From::Socket(server.socket.clone()),
            None => From::File(file.clone()),
        };
        let mut peers: Vec<Peer> = (0..peers)
            .map(|_| Peer::start(&from, &setup.sums(), walk))
            .collect();
        if cold {
            cache::evict(file);
        } else {
            cache::warm(file);
        }
        peers.iter_mut().for_each(Peer::go);
        let passed: Option<Vec<Passed>> = peers.iter_mut().map(Peer::passed).collect();
        if passed.is_none() {
            peers.iter_mut().for_each(Peer::give_up);
        }
        let resident = server.as_ref().map(Server::resident).unwrap_or_default();
        // Before the server is asked to end: it would bring what the peers have not touched.
        drop(peers);
        let ended = server.map(Server::end).unwrap_or_default();
        let Some(passed) = passed else {
            return Some(None);
        };
        let begun = passed.iter().map(|passed| passed.begun).min()?;
        let all = passed.iter().map(|passed| passed.all).max()?;
        let first = passed.iter().map(|passed| passed.first - passed.begun);
        Some(Some(Sample {
            all: (all - begun).as_secs_f64(),
            first: first.max()?.as_secs_f64() * 1e3,
            resident,
            ended,
        }))
    }
}
