//! What /proc says about a thread: pure parsers, and the reading of the files.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::error::TraceError;

/// `PF_KTHREAD` of the kernel's `include/linux/sched.h`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The fields of `/proc/TID/stat` that are used here (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadStat {
    /// The thread's name, at most 15 bytes (64 for kernel workers).
    pub name: String,
    /// State letter: R, S, D, T (stopped by a signal), t (stopped by a tracer), Z, X, I.
    pub state: char,
    /// The parent's process id.
    pub parent: i32,
    /// True for a kernel thread.
    pub kernel_thread: bool,
    /// Threads of the process, including a leader that is a zombie.
    pub threads: usize,
    /// When the process started, in clock ticks (`_SC_CLK_TCK`) since boot. With the pid and the boot id this names a
    /// process for ever.
    pub start_ticks: u64,
}

impl ThreadStat {
    /// Reads `/proc/TID/stat`.
    ///
    /// # Errors
    /// [`TraceError::NoSuchProcess`] when the thread does not exist, [`TraceError::Proc`] otherwise.
    pub fn read(tid: i32) -> Result<Self, TraceError> {
        let text = read_thread_file(tid, "stat")?;
        Self::parse(&text).ok_or_else(|| malformed(tid, "stat"))
    }

    /// The same of a thread whose process is known. What `/proc/TID/stat` says beyond it is summed over all threads of
    /// the process, which takes its time where there are thousands.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn read_in(process: i32, tid: i32) -> Result<Self, TraceError> {
        let text = read_proc_file(tid, format!("/proc/{process}/task/{tid}/stat"))?;
        Self::parse(&text).ok_or_else(|| malformed(tid, "stat"))
    }

    /// The name stands in parentheses and may itself contain parentheses and spaces, hence the last one counts.
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        // The first field after the name is number 3 of proc_pid_stat(5).
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            name: name.to_owned(),
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            kernel_thread: field(9)?.parse::<u64>().ok()? & PF_KTHREAD != 0,
            threads: field(20)?.parse().ok()?,
            start_ticks: field(22)?.parse().ok()?,
        })
    }

    /// True when the thread has ended: its memory, registers and descriptors are gone.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The fields of `/proc/TID/status` that are used here (proc_pid_status(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadStatus {
    /// The id of the process (thread group) the thread belongs to.
    pub process: i32,
    /// Process id of the tracer, 0 for none.
    pub tracer: i32,
    /// Real user id.
    pub uid: u32,
    /// True when seccomp(2) decides which system calls the thread may make.
    pub filtered: bool,
}

impl ThreadStatus {
    /// Reads `/proc/TID/status`.
    ///
    /// # Errors
    /// [`TraceError::NoSuchProcess`] when the thread does not exist, [`TraceError::Proc`] otherwise.
    pub fn read(tid: i32) -> Result<Self, TraceError> {
        let text = read_thread_file(tid, "status")?;
        Self::parse(&text).ok_or_else(|| malformed(tid, "status"))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key == name).then(|| value.trim())
            })
        };
        Some(Self {
            process: field("Tgid")?.parse().ok()?,
            tracer: field("TracerPid")?.parse().ok()?,
            uid: field("Uid")?
                .split_ascii_whitespace()
                .next()?
                .parse()
                .ok()?,
            // A kernel without seccomp has no such line.
            filtered: field("Seccomp").is_some_and(|mode| mode != "0"),
        })
    }
}

/// The thread ids of a process, in no order to rely on.
pub(super) fn thread_ids(pid: i32) -> Result<Vec<i32>, TraceError> {
    let path = PathBuf::from(format!("/proc/{pid}/task"));
    let of = |source| file_error(pid, path.clone(), source);
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(of)? {
        let name = entry.map_err(of)?.file_name();
        ids.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(ids)
}

/// Why a thread that should have stopped did not, as far as can be seen from outside.
pub(super) fn not_stopping(pid: i32, tid: i32, timeout: Duration) -> TraceError {
    let wchan = wait_channel(tid);
    match ThreadStat::read(tid).map_or('?', |stat| stat.state) {
        'D' => TraceError::Uninterruptible {
            pid,
            tid,
            wchan,
            timeout,
        },
        state => TraceError::NotStopping {
            pid,
            tid,
            state,
            wchan,
            timeout,
        },
    }
}

/// Executable mappings of a thread's process: their first address, one past the last, and their name.
pub(super) fn executable_mappings(tid: i32) -> Result<Vec<(u64, u64, String)>, TraceError> {
    let text = read_thread_file(tid, "maps")?;
    Ok(text.lines().filter_map(executable_mapping).collect())
}

fn executable_mapping(line: &str) -> Option<(u64, u64, String)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let rights = fields.next()?;
    // After offset, device and inode.
    let name = fields.nth(3).unwrap_or_default();
    let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).ok());
    rights
        .contains('x')
        .then_some((start?, end?, name.to_owned()))
}

/// The kernel function that the thread sleeps in, `?` when unknown.
fn wait_channel(tid: i32) -> String {
    match std::fs::read_to_string(format!("/proc/{tid}/wchan")) {
        Ok(name) if !name.is_empty() && name != "0" => name,
        _ => "?".to_owned(),
    }
}

/// The name of a process, `?` when it is gone.
pub(super) fn name_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "?".to_owned(), |s| s.trim_end().to_owned())
}

/// What the administrator has to know about Yama (Documentation/admin-guide/LSM/Yama.rst), as the end of a sentence.
pub(super) fn yama_hint() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
        .as_deref()
        .map(str::trim)
    {
        Ok("0") | Err(_) => String::new(),
        Ok("3") => {
            "; /proc/sys/kernel/yama/ptrace_scope is 3: nobody may trace until the next boot"
                .to_owned()
        }
        Ok(scope) => format!(
            "; /proc/sys/kernel/yama/ptrace_scope is {scope}: only root{} may trace",
            if scope == "1" {
                " and a process's ancestors"
            } else {
                ""
            }
        ),
    }
}

fn read_thread_file(tid: i32, file: &str) -> Result<String, TraceError> {
    read_proc_file(tid, format!("/proc/{tid}/{file}"))
}

fn read_proc_file(tid: i32, path: String) -> Result<String, TraceError> {
    let path = PathBuf::from(path);
    // A thread's name may be any bytes.
    match std::fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(source) => Err(file_error(tid, path, source)),
    }
}

fn file_error(pid: i32, path: PathBuf, source: io::Error) -> TraceError {
    // ENOENT: no such directory; ESRCH: it went away between open and read.
    if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) {
        TraceError::NoSuchProcess { pid }
    } else {
        TraceError::Proc { path, source }
    }
}

fn malformed(tid: i32, file: &str) -> TraceError {
    TraceError::Proc {
        path: PathBuf::from(format!("/proc/{tid}/{file}")),
        source: io::Error::new(
            io::ErrorKind::InvalidData,
            "a field is missing or is not a number",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "4711 (a) (b c) t 1 4711 4711 0 -1 4194560 100 0 0 0 0 0 0 0 20 0 7 0 123456 1000 10 1844";

    #[test]
    fn stat_with_parentheses_in_the_name() {
        let stat = ThreadStat::parse(STAT).expect("test data is good");
        assert_eq!(stat.name, "a) (b c");
        assert_eq!(
            (stat.state, stat.parent, stat.threads, stat.start_ticks),
            ('t', 1, 7, 123_456)
        );
        assert!(!stat.kernel_thread && !stat.has_ended());
    }

    #[test]
    fn kernel_threads_carry_a_flag() {
        assert!(
            ThreadStat::read(2)
                .expect("test data is good")
                .kernel_thread
        );
        assert!(
            !ThreadStat::read(1)
                .expect("test data is good")
                .kernel_thread
        );
    }

    #[test]
    fn a_cut_stat_is_malformed() {
        assert_eq!(ThreadStat::parse("4711 (a) t 1 2"), None);
        assert_eq!(ThreadStat::parse(""), None);
    }

    #[test]
    fn executable_mappings_are_those_with_an_x() {
        let line = "7ffe1000-7ffe3000 r-xp 00000000 00:00 0                          [vdso]";
        assert_eq!(
            executable_mapping(line),
            Some((0x7ffe_1000, 0x7ffe_3000, "[vdso]".to_owned()))
        );
        assert_eq!(executable_mapping(&line.replace("r-x", "r--")), None);
        assert_eq!(
            executable_mapping("1000-2000 r-xp 00000000 00:00 0"),
            Some((0x1000, 0x2000, String::new()))
        );
    }

    #[test]
    fn status_by_field_names() {
        let text = "Name:\tx\nTgid:\t7\nPid:\t8\nTracerPid:\t0\nUid:\t1000\t0\t0\t0\n";
        assert_eq!(
            ThreadStatus::parse(text),
            Some(ThreadStatus {
                process: 7,
                tracer: 0,
                uid: 1000,
                filtered: false
            })
        );
        let filtered = format!("{text}Seccomp:\t2\nSeccomp_filters:\t1\n");
        assert!(
            ThreadStatus::parse(&filtered)
                .expect("test data is good")
                .filtered
        );
        assert_eq!(ThreadStatus::parse("Tgid:\t7\n"), None);
    }
}
