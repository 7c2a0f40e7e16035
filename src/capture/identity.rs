//! Whose memory it is.

use std::path::PathBuf;

use super::error::CaptureError;
use crate::tracee::{StoppedProcess, ThreadStat, ThreadStatus};

/// What names a process, for people and for checks. Pid, start time and boot id together name it for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetIdentity {
    /// The process id, as this program sees it.
    pub pid: i32,
    /// When it started, in clock ticks (`_SC_CLK_TCK`) since boot.
    pub start_ticks: u64,
    /// The kernel's id of this boot (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// The process's name, at most 15 bytes.
    pub name: String,
    /// The program it runs, if that can be known. A deleted file has ` (deleted)` at its end.
    pub exe: Option<PathBuf>,
    /// Its command line. Bytes that are not UTF-8 are U+FFFD.
    pub command_line: Vec<String>,
    /// Its real user id.
    pub uid: u32,
}

impl TargetIdentity {
    /// Reads it from a process that stands still, and so cannot become another program meanwhile.
    pub(crate) fn of(process: &StoppedProcess) -> Result<Self, CaptureError> {
        let (pid, tid) = (process.pid(), process.memory_tid());
        // Information, like the rest: without it nobody will take another process for this one.
        let boot_id =
            std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let leader = ThreadStat::read(pid)?;
        Ok(Self {
            pid,
            start_ticks: leader.start_ticks,
            boot_id: boot_id.trim_end().to_owned(),
            name: leader.name,
            exe: std::fs::read_link(format!("/proc/{tid}/exe")).ok(),
            command_line: command_line(tid),
            uid: ThreadStatus::read(tid)?.uid,
        })
    }
}

/// Empty if the process hides or has overwritten it: it is information, nothing depends on it.
fn command_line(tid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{tid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let text = text.strip_suffix('\0').unwrap_or(&text);
    if text.is_empty() {
        Vec::new()
    } else {
        text.split('\0').map(str::to_owned).collect()
    }
}
