//! A process with much memory that touches it at random.

use std::path::{Path, PathBuf};

use crate::board::{Board, State, Word};
use crate::clock::now;
use crate::criu::{self, Restoring};
use crate::daemon::{Daemon, Ended};
use crate::measure::Random;
use crate::workload::{Order, Seen, Workload};
use crate::{FIRST, Setup};

/// See [`crate::target`], which is the other side.
pub(crate) struct Process<'a> {
    setup: &'a Setup,
    board: Board,
    pages: usize,
}

impl<'a> Process<'a> {
    /// Of so many mebibytes.
    pub(crate) fn new(setup: &'a Setup, mebibytes: usize, shared: &Path) -> Self {
        let pages = mebibytes << 8;
        Self {
            setup,
            board: Board::create(shared.join("board"), pages),
            pages,
        }
    }
}

impl Workload for Process<'_> {
    fn name(&self) -> &'static str {
        "process"
    }

    fn during(&self) -> &'static str {
        self.unit()
    }

    fn pauses(&self) -> &'static [u64] {
        &[20, 0]
    }

    fn unit(&self) -> &'static str {
        "pages"
    }

    fn dump(&self, into: &Path, run: &Path) -> i32 {
        let program: PathBuf = std::env::current_exe().expect("this program");
        let target = criu::start(&program, |command| {
            command.arg("--target").arg(&self.board.path);
            command.arg(self.pages.to_string()).args(&self.setup.images);
        });
        self.board.wait(State::Filled);
        criu::dump(&self.setup.criu, target, into, run)
    }

    fn order(&self, order: Order) {
        let count = u32::try_from(self.pages).expect("less than 16 TiB");
        let mut pages: Vec<u32> = (0..count).collect();
        Random::new(order.seed).shuffle(&mut pages);
        self.board.set_order(&pages);
        let most = order.pause.map_or(FIRST, |_| self.pages);
        self.board.set(Word::Most, most as u64);
        self.board.set(Word::Work, order.pause.unwrap_or(0) * 1000);
        self.board.set(Word::Stop, 0);
        self.board.set(Word::State, State::Filled as u64);
        self.board.set(Word::FirstDone, 0);
        self.board.set(Word::Go, 1);
    }

    fn watch(
        &self,
        _: Order,
        restoring: &mut Restoring,
        daemon: Option<Daemon>,
        run: &Path,
    ) -> Seen {
        let ended = match daemon {
            Some(daemon) => {
                let ended = daemon.wait(run);
                restoring.wait();
                ended
            }
            None => {
                restoring.wait();
                Ended::without(now())
            }
        };
        self.board.set(Word::Stop, 1);
        self.board.wait(State::Checked);
        let wrong = self.board.get(Word::Wrong);
        assert_eq!(
            wrong, 0,
            "restored pages have another content than they should"
        );
        Seen {
            first: self.board.get(Word::FirstDone),
            each: self.board.took(),
            ended,
        }
    }
}
