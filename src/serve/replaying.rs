//! Installing what was touched last time: before the target runs, and between the turns of the loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::{Engine, tell};
use super::poller::Ready;
use super::pool::Work;
use super::replay::{Plan, Planned, Replay};
use crate::session::{Block, Request, Turn};

/// Frames that are being decoded, or wait to be installed, for each thread that decodes.
const FRAMES: usize = 4;

/// Bytes that all of them may have: each target has so much of its own.
const ROOM: usize = 2 << 20;

impl Engine {
    /// From now on what was touched last time is installed.
    pub(super) fn begin_replay(&mut self) {
        let session = &self.session;
        let roots = self.roots.spaces();
        let spaces = roots.filter_map(|id| Some((id, session.space(id)?)));
        self.supply.replay = self.set.take().map(|set| Replay::new(set, spaces));
    }

    /// Installs as much as can be in the time that the target stands still for it.
    pub(super) fn replay_before(&mut self, started: Instant) {
        let mut ready = Vec::new();
        while self.supply.replay.is_some() {
            let now = Instant::now();
            let left = self
                .options
                .head_start
                .saturating_sub(now.saturating_duration_since(started));
            if left.is_zero() || self.roots.spaces().next().is_none() {
                return;
            }
            let busy = self.replay(now) || self.has_to_replay();
            let most = if busy { Duration::ZERO } else { left };
            let waited = self.poller.wait(Some(most), &mut ready);
            // Whatever else has happened is for the loop to see.
            if waited.is_err() || ready.iter().any(|ready| *ready != Ready::Pool) {
                return;
            }
            self.take_from_pool(now);
        }
    }

    /// Installs a frame that has come, and has more decoded. True if it installed something.
    pub(super) fn replay(&mut self, now: Instant) -> bool {
        if self.supply.replay.is_none() {
            return false;
        }
        let busy = self.install_replayed(now);
        self.ask_for_frames();
        if self.supply.replay.as_ref().is_some_and(Replay::is_over) {
            self.end_replay();
        }
        busy
    }

    fn install_replayed(&mut self, now: Instant) -> bool {
        let Some((plan, block)) = self.supply.replay.as_mut().and_then(Replay::next) else {
            return false;
        };
        let mut all = true;
        for (space, places) in plan.places() {
            match self.session.deliver_replay(*space, &block, places, now) {
                Turn::Idle => self.soon_again(*space),
                Turn::Soon => {
                    self.soon.insert(*space);
                }
                Turn::Later => {
                    self.soon.insert(*space);
                    all = false;
                }
                Turn::Gone => self.gone(*space),
            }
        }
        if all {
            self.supply.pool.give_back(block);
        } else if let Some(replay) = &mut self.supply.replay {
            // What was installed is not owed any more, and passed over the next time.
            replay.put_back(plan, block);
        }
        all
    }

    fn ask_for_frames(&mut self) {
        let most = self.most_frames();
        let session = &self.session;
        while let Some(replay) = &mut self.supply.replay {
            if replay.in_flight() >= most {
                return;
            }
            let work = match replay.plan_next(|id| session.space(id)) {
                Ok(Planned::Frame(plan)) => {
                    let set = replay.set();
                    Work::Frame { set, plan }
                }
                // Others may wait.
                Ok(Planned::Nothing) => return,
                Ok(Planned::End) => return self.fetch_huge(),
                Err(error) => return self.abandon_replay(&error.to_string()),
            };
            if !self.supply.pool.ask(work) {
                return self.abandon_replay("no thread is left to decode it");
            }
        }
    }

    /// Huge pages of which something was touched are fetched as those are of who reads in order.
    fn fetch_huge(&mut self) {
        if let Some(replay) = &mut self.supply.replay {
            self.filling.fetch_soon(replay.huge_pages());
        }
    }

    /// A frame has come, or could not be had.
    pub(super) fn frame_came(
        &mut self,
        plan: Arc<Plan>,
        block: Block,
        failed: Option<String>,
        now: Instant,
    ) {
        // Others were under way when it was given up.
        let Some(replay) = &mut self.supply.replay else {
            return self.supply.pool.give_back(block);
        };
        if let Some(why) = failed {
            return self.abandon_replay(&why);
        }
        for request in replay.came(plan, block) {
            // The target may have gone meanwhile, and a child be left that waits.
            match self.supply.replay.as_ref().and_then(Replay::newest) {
                Some(block) => {
                    let turn = self.session.deliver(&request, block, now);
                    // The frame is at hand.
                    if turn == Turn::Later {
                        self.session.ask_again(&request);
                    }
                    self.after_delivery(&request, turn);
                }
                None => self.ask_again(&request),
            }
        }
    }

    /// Goes on without the working set. Nothing of it that is wrong has been installed.
    fn abandon_replay(&mut self, why: &str) {
        let what =
            format!("the working set cannot be used any further: {why}: going on without it");
        tell(&self.target, &what);
        self.drop_replay();
    }

    /// The same, without a word. Faults that wait for it are answered otherwise.
    pub(super) fn drop_replay(&mut self) {
        let replay = self.supply.replay.take();
        for request in replay.into_iter().flat_map(Replay::into_awaited) {
            self.ask_again(&request);
        }
        self.supply.pool.let_go_of_room();
    }

    fn ask_again(&mut self, request: &Request) {
        self.session.ask_again(request);
        self.soon.insert(request.space);
    }

    /// All that was touched last time is there, or nothing is owed any more.
    pub(super) fn end_replay(&mut self) {
        if let Some(replay) = &self.supply.replay {
            self.replayed_in = Some(replay.elapsed());
        }
        self.drop_replay();
    }

    /// True when there is something to do for it without waiting.
    pub(super) fn has_to_replay(&self) -> bool {
        let replay = self.supply.replay.as_ref();
        replay.is_some_and(|replay| replay.has_work(self.most_frames()))
    }

    fn most_frames(&self) -> usize {
        let replay = self.supply.replay.as_ref();
        let room = replay.map_or(0, |replay| ROOM / replay.frame_bytes().max(1));
        (FRAMES * self.options.jobs.max(1)).min(room.max(2))
    }
}
