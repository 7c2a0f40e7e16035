//! Signals that ask the program to end, held while a directory is between two states.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// From the moment this exists such a signal is only remembered.
#[derive(Debug)]
pub(in crate::tool) struct HeldSignals {
    came: Arc<AtomicUsize>,
    registered: Vec<signal_hook::SigId>,
}

impl HeldSignals {
    pub(in crate::tool) fn new() -> Self {
        let came = Arc::new(AtomicUsize::new(0));
        let numbers = [SIGINT, SIGTERM, SIGHUP];
        // One that cannot be held ends the program as a crash would, which the directory survives.
        let registered = numbers.into_iter().filter_map(|signal| {
            let number = usize::try_from(signal).ok()?;
            signal_hook::flag::register_usize(signal, Arc::clone(&came), number).ok()
        });
        let registered = registered.collect();
        Self { came, registered }
    }

    /// Whether the program has been asked to end.
    pub(in crate::tool) fn came(&self) -> bool {
        self.came.load(Ordering::Relaxed) != 0
    }

    /// End as the signal would have ended the program, if there was one.
    pub(in crate::tool) fn obey(self) {
        let signal = self.came.load(Ordering::Relaxed);
        for id in self.registered {
            low_level::unregister(id);
        }
        if let Ok(signal @ 1..) = i32::try_from(signal) {
            let _ = low_level::emulate_default_handler(signal);
        }
    }
}
