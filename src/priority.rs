//! Threads that may wait for others.
#![expect(unsafe_code, reason = "nix has no setpriority(2)")]

/// A tenth of the processor time of a thread that has not been lowered, when there is not enough for both.
const NICE: i32 = 10;

/// Lower the calling thread's priority. Failure changes nothing that matters.
pub(crate) fn lower() {
    // SAFETY: setpriority(2) takes numbers; "who" 0 of PRIO_PROCESS is, on Linux, the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
    }
}
