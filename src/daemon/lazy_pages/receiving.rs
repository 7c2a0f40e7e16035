//! What comes from `criu restore`, on a thread of its own: the loop never waits for it.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use super::dump::Dump;
use crate::addr::AddrRange;
use crate::handover::criu::{self, CriuError, Message, Messages, Sought};
use crate::handover::receive::make_ready;
use crate::serve::{Arrival, Guard, Herald, Known, Newcomer, Target};
use crate::terminal::mention;

/// Announces what comes, until there is no more.
pub(super) fn start(
    stream: UnixStream,
    host: Arc<Target>,
    dump: Dump,
    guard: Guard,
    herald: Herald,
) -> std::io::Result<()> {
    let thread = thread::Builder::new().name("receive".into());
    let receiver = Receiver {
        messages: Messages::of(stream),
        host,
        dump,
        guard,
        herald,
        come: Vec::new(),
    };
    thread.spawn(move || receiver.run()).map(drop)
}

struct Receiver {
    messages: Messages,
    host: Arc<Target>,
    dump: Dump,
    guard: Guard,
    herald: Herald,
    /// By their order; those that nothing is owed to cannot be found, and need not be.
    come: Vec<Option<Sought>>,
}

impl Receiver {
    fn run(mut self) {
        // As long as it has not finished, what it has restored descends from it.
        let watched = self.guard.watch(&self.host);
        let outcome = loop {
            match self.messages.next() {
                Ok(Message::Zombie(_)) => {}
                Ok(Message::Process(pid, userfaultfd)) => match self.dump.take(pid) {
                    Some(owed) => {
                        if let Err(error) = make_ready(&userfaultfd) {
                            std::mem::forget(userfaultfd);
                            break Err(CriuError::Protocol(error.to_string()));
                        }
                        let range = owed.space.next_run(AddrRange::new(0, u64::MAX));
                        let misses = range.map(|(range, _)| range.start);
                        self.come.push(misses.map(|misses| Sought { pid, misses }));
                        let newcomer = Newcomer {
                            number: self.come.len() - 1,
                            userfaultfd,
                            space: owed.space,
                            first: owed.first,
                        };
                        self.announce(Arrival::Process(Box::new(newcomer)));
                    }
                    None => {
                        let what = format!(
                            "process {pid} is not in {:?}, or came twice: are these the images that are restored?",
                            self.dump.folder()
                        );
                        // It stays open until this program ends, and by then its process has.
                        std::mem::forget(userfaultfd);
                        break Err(CriuError::Protocol(what));
                    }
                },
                Ok(Message::Finished) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let known = self.known();
        self.announce(match outcome {
            Ok(()) => Arrival::Complete(known),
            Err(error) => Arrival::Failed {
                why: error.to_string(),
                known,
            },
        });
        drop(watched);
        // The tasks share the other end, and this one stays open as criu's own does.
        std::mem::forget(self.messages);
    }

    /// Which processes they are, as far as that can be told.
    fn known(&self) -> Vec<Known> {
        let numbers: Vec<usize> = (0..self.come.len())
            .filter(|&number| self.come.get(number).copied().flatten().is_some())
            .collect();
        let sought: Vec<Sought> = self.come.iter().copied().flatten().collect();
        let found = criu::find(&sought, self.host.pid);
        let unknown = found.iter().filter(|found| found.is_none()).count();
        if unknown > 0 {
            mention(&format!(
                "uffd-restore: {unknown} of {} processes are not known by their numbers here: nobody watches over them, and if this program is \
                 killed, what is missing in them becomes zeros",
                found.len()
            ));
        }
        numbers
            .into_iter()
            .zip(found)
            .filter_map(|(number, target)| {
                let target = target?;
                Some(Known {
                    number,
                    watched: self.guard.watch(&target),
                    target,
                })
            })
            .collect()
    }

    fn announce(&self, arrival: Arrival) {
        if let Err(refused) = self.herald.announce(arrival) {
            // Nobody serves any more. Descriptors stay open until this program ends.
            std::mem::forget(refused);
        }
    }
}
