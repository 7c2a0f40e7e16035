//! A systemd of its own. It sees the machine's files, but for `/tmp` and `/run`, which are empty, and `/usr/local`, which is what
//! `scripts/install` has made. Ended when dropped.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{PATIENCE, wait_until};

const SYSTEMD: [&str; 2] = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// What units have to be there, for the dependencies that every unit has.
const TARGETS: [&str; 5] = ["test", "sysinit", "basic", "shutdown", "sockets"];

pub(crate) struct Machine {
    first: Child,
    /// The number of its process 1, here.
    systemd: i32,
    folder: tempfile::TempDir,
    name: String,
}

/// What `scripts/install` has made, in a folder of its own.
pub(crate) fn install(into: &Path, words: &[&str]) -> Output {
    let programs = Path::new(env!("CARGO_BIN_EXE_uffd-restore")).parent();
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install"))
        .args(words)
        .env("DESTDIR", into)
        .env("PREFIX", "/usr/local")
        .env("SYSCONFDIR", "/usr/local/etc")
        .env("BUILD", programs.expect("a folder"))
        .output()
        .expect("scripts/install runs")
}

impl Machine {
    pub(crate) fn boot() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let systemd = SYSTEMD.into_iter().find(|path| Path::new(path).exists());
        let systemd = systemd.expect("a systemd (apt-get install systemd)");
        // Not in /tmp, which the machine does not see.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let installed = install(folder.path(), &[]);
        assert!(installed.status.success(), "{installed:?}");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("uffd-restore-test-{}-{number}", std::process::id());
        let mut command = Command::new("unshare");
        command
            .args(["-pmf", "--kill-child", "--mount-proc", "sh"])
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/systemd/boot.sh"
            ))
            .arg(folder.path().join("usr/local"))
            .args([&name, systemd])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("console")).expect("a file"));
        // Dies with this test; and what it started with it.
        let dies = || {
            Ok(nix::sys::prctl::set_pdeathsig(
                nix::sys::signal::Signal::SIGKILL,
            )?)
        };
        fs::create_dir_all(folder.path().join("usr/local/log")).expect("a folder");
        for target in TARGETS {
            let text = "[Unit]\nDefaultDependencies=no\n";
            fs::write(units(&folder).join(format!("{target}.target")), text).expect("a unit");
        }
        let first = spawn(&mut command, dies);
        let mut this = Self {
            first,
            systemd: 0,
            folder,
            name,
        };
        wait_until("process 1", || this.find_systemd());
        wait_until("systemd", || {
            let state = this.systemctl(&["is-system-running"]);
            String::from_utf8_lossy(&state.stdout).trim() == "running"
        });
        // There is no journal: what units say goes to files.
        for unit in ["uffd-restore@.service", "uffd-restore-listen@.service"] {
            this.drop_in(
                unit,
                "log",
                "[Service]\nReadWritePaths=/usr/local/log\nStandardOutput=append:/usr/local/log/%p-%i.out\n\
                 StandardError=append:/usr/local/log/%p-%i.err\n",
            );
        }
        this
    }

    fn find_systemd(&mut self) -> bool {
        let path = format!("/proc/{0}/task/{0}/children", self.first.id());
        let children = fs::read_to_string(path).unwrap_or_default();
        let child = children.split_whitespace().next();
        self.systemd = child.and_then(|pid| pid.parse().ok()).unwrap_or(0);
        self.systemd != 0
    }

    /// A command that runs a program in there.
    pub(crate) fn run(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.systemd.to_string(), "-m", "-p", "-C", "--"])
            .arg(program);
        command
    }

    /// This test program, in there.
    pub(crate) fn run_this(&self) -> Command {
        self.run(std::env::current_exe().expect("this program"))
    }

    pub(crate) fn systemctl(&self, words: &[&str]) -> Output {
        self.run("systemctl")
            .args(words)
            .output()
            .expect("systemctl runs")
    }

    /// The same; it must work.
    #[track_caller]
    pub(crate) fn must(&self, words: &[&str]) {
        let output = self.systemctl(words);
        assert!(
            output.status.success(),
            "{words:?}: {output:?}\n{}",
            self.logs()
        );
    }

    /// A property of a unit.
    pub(crate) fn show(&self, unit: &str, property: &str) -> String {
        let output = self.systemctl(&["show", "--value", "-p", property, unit]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Waits until a property is so.
    #[track_caller]
    pub(crate) fn wait_for(&self, unit: &str, property: &str, holds: impl Fn(&str) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let value = self.show(unit, property);
            if holds(&value) {
                return;
            }
            let logs = || self.logs();
            assert!(
                std::time::Instant::now() < deadline,
                "{unit}: {property}={value}\n{}",
                logs()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Makes a unit.
    pub(crate) fn unit(&self, name: &str, text: &str) {
        fs::write(units(&self.folder).join(name), text).expect("a unit");
        self.must(&["daemon-reload"]);
    }

    /// Adds to a unit.
    pub(crate) fn drop_in(&self, unit: &str, name: &str, text: &str) {
        let folder = units(&self.folder).join(format!("{unit}.d"));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(format!("{name}.conf")), text).expect("a drop-in");
        self.must(&["daemon-reload"]);
    }

    /// Writes the configuration of a service.
    pub(crate) fn configure(&self, name: &str, text: &str) {
        let path = self.inside(&format!("/usr/local/etc/uffd-restore/{name}.conf"));
        fs::write(path, text).expect("a configuration");
    }

    /// Where a file of the machine's `/usr/local` is, here.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    /// Everything that was said.
    pub(crate) fn logs(&self) -> String {
        let folder = fs::read_dir(self.inside("/usr/local/log")).expect("a folder");
        let mut paths: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
        paths.push(self.folder.path().join("console"));
        let texts = paths.iter().map(|path| {
            let text = fs::read_to_string(path).unwrap_or_default();
            format!("== {}\n{text}", path.display())
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// The number here of a process that has another one in there.
    pub(crate) fn outside(&self, pid: &str) -> i32 {
        let innermost = |status: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let numbers: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
            (numbers.len() == 2 && numbers[1] == pid).then(|| numbers[0].parse().expect("a pid"))
        };
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let processes = fs::read_dir("/proc").expect("proc").flatten();
        let mut found = processes
            .filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok())
            .filter_map(|status| innermost(&status))
            .filter(|&pid| namespace(pid) == namespace(self.systemd));
        found.next().expect("it lives")
    }
}

fn units(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("usr/local/lib/systemd/system")
}

#[expect(unsafe_code, reason = "a death signal between fork and exec")]
fn spawn(
    command: &mut Command,
    before: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) -> Child {
    // SAFETY: a system call and nothing else.
    unsafe { command.pre_exec(before) };
    command.spawn().expect("unshare runs")
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        drop(self.first.kill());
        drop(self.first.wait());
        // The folders of its cgroups are left.
        let sweep = format!(
            "umount -R /sys/fs/cgroup 2>/dev/null || true; mount -t cgroup2 cgroup2 /sys/fs/cgroup; \
             for try in 1 2 3 4 5 6 7 8 9; do \
             find /sys/fs/cgroup/{} -depth -type d -exec rmdir {{}} + 2>/dev/null && break; sleep 0.1; done",
            self.name
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &sweep]);
        drop(command.stderr(Stdio::null()).status());
    }
}
