//! What comes from `criu restore`, on a thread of its own: the loop never waits for it.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use super::dump::Expected;
use crate::handover::criu::{Announced, CriuError, Message, Messages};
use crate::handover::receive::make_ready;
use crate::serve::{Arrival, Guard, Herald, Newcomer, Target};
use crate::terminal::mention;

/// Announces what comes, until there is no more.
pub(super) fn start(
    stream: UnixStream,
    host: Arc<Target>,
    expected: Arc<Expected>,
    guard: Arc<Guard>,
    herald: Herald,
) -> io::Result<()> {
    let receiver = Receiver {
        messages: Messages::of(stream, Arc::clone(&host))?,
        host,
        expected,
        guard,
        herald,
        begun: false,
        unwatched: 0,
    };
    let thread = thread::Builder::new().name("receive".into());
    thread.spawn(move || receiver.run()).map(drop)
}

struct Receiver {
    messages: Messages,
    host: Arc<Target>,
    expected: Arc<Expected>,
    guard: Arc<Guard>,
    herald: Herald,
    /// Something has come.
    begun: bool,
    /// Processes that cannot be ended if this program is killed.
    unwatched: usize,
}

impl Receiver {
    fn run(mut self) {
        let last = match self.receive_all() {
            Ok(()) => Arrival::Complete,
            // Nothing is on its way. It may have been somebody who looked whether anybody listens.
            Err(error @ CriuError::Closed) if !self.begun => {
                let Self {
                    messages, herald, ..
                } = self;
                drop(messages);
                return announce(&herald, Arrival::Left(error.to_string()));
            }
            Err(error) => Arrival::Failed(error.to_string()),
        };
        let complete = matches!(last, Arrival::Complete);
        self.announce(last);
        if self.unwatched > 0 {
            mention(&format!(
                "uffd-restore: {} of the restored processes cannot be ended by this program, which does not see them (it should be in their pid \
                 namespace, or in one around it): if it is killed, whoever touches what is missing gets SIGBUS",
                self.unwatched
            ));
        }
        if !complete {
            // What may be in it still is not read, nor closed, before its processes have ended.
            std::mem::forget(self.messages);
        }
    }

    fn receive_all(&mut self) -> Result<(), CriuError> {
        if let Some(restored) = self.expected.other_than_of(&self.host) {
            let served = self.expected.folder().to_path_buf();
            return Err(CriuError::OtherImages { restored, served });
        }
        loop {
            let message = self.messages.next()?;
            self.begun = true;
            match message {
                Message::Zombie(_) => {}
                Message::Process(announced) => self.take_in(announced)?,
                Message::Finished => return Ok(()),
            }
        }
    }

    /// It is watched before its descriptor is here: as long as that is on its way, the guard would read it, and learn who sent it.
    fn take_in(&mut self, announced: Announced) -> Result<(), CriuError> {
        let Announced { number, target } = announced;
        let target = target.map(Arc::new);
        let watched = target.as_ref().and_then(|target| self.guard.watch(target));
        self.unwatched += usize::from(watched.is_none());
        let newcomer = self.newcomer(number);
        match newcomer {
            Ok(newcomer) => {
                self.announce(Arrival::Process(Box::new(Newcomer {
                    target,
                    watched,
                    ..newcomer
                })));
                Ok(())
            }
            Err(error) => {
                if let Some(target) = target {
                    let _ = target.kill();
                }
                // It is being killed, or it waits.
                std::mem::forget(watched);
                Err(error)
            }
        }
    }

    fn newcomer(&mut self, number: i32) -> Result<Newcomer, CriuError> {
        let userfaultfd = self.messages.descriptor_of(number)?;
        let refused = match (make_ready(&userfaultfd), self.expected.take(number)) {
            (Ok(()), Some(owed)) => {
                return Ok(Newcomer {
                    target: None,
                    watched: None,
                    userfaultfd,
                    space: owed.space,
                    first: owed.first,
                });
            }
            (Err(error), _) => error.to_string(),
            (_, None) => format!(
                "process {number} is not in {:?}, or came twice: are these the images that are restored?",
                self.expected.folder()
            ),
        };
        // It stays open until this program ends, and by then its process has.
        std::mem::forget(userfaultfd);
        Err(CriuError::Protocol(refused))
    }

    fn announce(&self, arrival: Arrival) {
        announce(&self.herald, arrival);
    }
}

fn announce(herald: &Herald, arrival: Arrival) {
    if let Err(refused) = herald.announce(arrival) {
        // Nobody serves any more. Descriptors stay open until this program ends.
        std::mem::forget(refused);
    }
}
