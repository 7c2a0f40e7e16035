//! Not enough memory: in the cgroup of the target, in that of the daemon.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::actor::{Actor, Survey};
use super::daemon::{Daemon, in_shell, restoring};
use super::lab::Lab;
use super::support::wait_until;

/// Begins when the group has been made.
const PREFILL: [&str; 2] = ["--prefill=all", "--prefill-delay=300ms"];

/// A memory cgroup of version 1 or 2, removed at the end.
struct Cgroup {
    path: PathBuf,
    limit: &'static str,
    usage: &'static str,
}

impl Cgroup {
    /// `None` where none can be made.
    fn new(name: &str) -> Option<Self> {
        let [first, second] = [
            (
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            ),
            ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ];
        let there = |(folder, limit, _): &(&str, &str, &str)| {
            fs::metadata(format!("{folder}/{limit}")).is_ok()
                || fs::read_to_string(format!("{folder}/cgroup.subtree_control"))
                    .is_ok_and(|all| all.contains("memory"))
        };
        let (folder, limit, usage) = [first, second].into_iter().find(there)?;
        let path = PathBuf::from(folder).join(format!("uffd-restore-test-{name}"));
        let made = fs::create_dir(&path).ok();
        if made.is_none() {
            println!("SKIPPED: no memory cgroup can be made here");
        }
        made.map(|()| Self { path, limit, usage })
    }

    /// With a process in it.
    fn with(process: i32, bytes: u64) -> Option<Self> {
        let group = Self::new(&process.to_string())?;
        group.limit(bytes);
        fs::write(group.processes(), process.to_string()).expect("it lives");
        Some(group)
    }

    fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    fn limit(&self, bytes: u64) {
        fs::write(self.path.join(self.limit), bytes.to_string()).expect("a limit");
    }

    fn usage(&self) -> u64 {
        let usage = fs::read_to_string(self.path.join(self.usage)).expect("a number");
        usage.trim().parse().expect("a number")
    }

    /// Nobody is ended for want of memory; whoever needs some waits. Not with version 2.
    fn ends_nobody(&self) -> bool {
        fs::write(self.path.join("memory.oom_control"), "1").is_ok()
    }

    fn let_go(&self, process: i32) {
        let root = self.path.parent().expect("a parent").join("cgroup.procs");
        fs::write(root, process.to_string()).expect("out of the group");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Those in it may need a moment to end.
        for _ in 0..1000 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The kernel's answer is to end the target, as it would without us; what must not be is a page of zeros, or a daemon that
/// goes on for ever.
#[test]
fn a_target_at_the_limit_of_its_memory_cgroup_gets_no_zeros() {
    const PAGES: u64 = 16384;
    let (_lab, snapshot) = Lab::with_snapshot(PAGES);
    // What is installed before anybody asks counts as well, and ends it just the same.
    for (more, command) in [(&[][..], "survey"), (&PREFILL, "")] {
        let mut actor = Actor::start(PAGES);
        let daemon = Daemon::serving(&snapshot, &actor, more);
        let Some(_group) = Cgroup::with(actor.pid(), 16 << 20) else {
            return;
        };
        if !command.is_empty() {
            actor.target.tell(command);
        }
        wait_until("the kernel to end it", || actor.has_ended());
        let ended = daemon.end();
        ended.assert(0, &["it ended"]);
        assert!(
            ended.err.matches("no memory for its pages").count() <= 1,
            "{ended:?}"
        );
    }
}

#[test]
fn a_target_goes_on_when_its_memory_cgroup_has_room_again() {
    const PAGES: u64 = 8192;
    let (_lab, snapshot) = Lab::with_snapshot(PAGES);
    for more in [&[][..], &PREFILL] {
        let mut actor = Actor::start(PAGES);
        let daemon = Daemon::serving(&snapshot, &actor, more);
        let Some(group) = Cgroup::with(actor.pid(), 8 << 20) else {
            return;
        };
        if !group.ends_nobody() {
            println!("not shown with cgroups of version 2: the kernel ends the target at once");
            return;
        }
        if more.is_empty() {
            actor.target.tell("survey");
        }
        daemon.complain("no memory for its pages");
        group.let_go(actor.pid());
        if !more.is_empty() {
            actor.target.tell("survey");
        }
        assert_eq!(Survey::parse(&actor.target.hear()), Survey::new(PAGES));
        daemon.end().assert(0, &["all memory is in place"]);
    }
}

/// The process that serves is chosen first, and another one takes over; if there is no room even for that, everybody waits until there is.
#[test]
fn a_daemon_at_the_limit_of_its_memory_cgroup_loses_nothing() {
    const PAGES: u64 = 16384;
    let (_lab, snapshot) = Lab::with_snapshot(PAGES);
    let mut actor = Actor::start(PAGES);
    let Some(group) = Cgroup::new(&format!("daemon-{}", actor.pid())) else {
        return;
    };
    let script = format!("echo $$ >{}; exec \"$@\"", group.processes().display());
    let more = ["--prefill=all", "--prefill-delay=300ms"];
    let daemon = Daemon::spawn(in_shell(&script, &restoring(&snapshot, &actor, &more)));
    daemon.hear("serving");
    let keeper = format!("/proc/{}/oom_score_adj", daemon.pid());
    // It takes CAP_SYS_RESOURCE.
    let protected = fs::read_to_string(keeper).expect("it runs").trim() == "-1000";
    // The threads that decode have not worked yet: they need more than that.
    group.limit(group.usage() + (64 << 10));
    actor.target.tell("survey");
    daemon.complain("killed by SIGKILL: another one takes over");
    std::thread::sleep(Duration::from_millis(500));
    group.limit(256 << 20);
    if !protected && actor.has_ended() {
        // The keeper as well, which had no luck.
        daemon.end().assert(137, &["must not read as zeros"]);
        return;
    }
    assert_eq!(Survey::parse(&actor.target.hear()), Survey::new(PAGES));
    daemon.finish().assert(0, &["all memory is in place"]);
}
