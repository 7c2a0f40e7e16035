//! `create` on real programs that nobody here wrote.

use super::{Workshop, stderr};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// A Python that has filled some memory, and answers questions about it.
struct Python {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

const PROGRAM: &str = "
import hashlib, mmap, sys
data = {i: str(i) * 10 for i in range(50000)}
shared = mmap.mmap(-1, 1 << 20)
shared[:5] = b'hello'
print('ready', flush=True)
for line in sys.stdin:
    print(hashlib.sha256(repr(data).encode()).hexdigest(), bytes(shared[:5]).decode(), flush=True)
";

impl Python {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut python = Self { child, answers };
        assert_eq!(python.line(), "ready");
        python
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a line");
        line.trim_end().to_string()
    }

    fn ask(&mut self) -> String {
        let pipe = self.child.stdin.as_mut().expect("a pipe");
        pipe.write_all(b"?\n").expect("a reader");
        self.line()
    }

    fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it lives");
        let (_, fields) = stat.rsplit_once(") ").expect("a state");
        fields.chars().next().expect("a state")
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }
}

#[test]
fn a_captured_interpreter_goes_on_and_the_snapshot_has_its_memory() {
    let shop = Workshop::new();
    let mut python = Python::start();
    let before = python.ask();
    let output = shop.ok(&["create", "--pid", &python.pid(), "-o", "snap"]);
    let said = stderr(&output);
    assert!(
        said.contains("stood still for") && said.contains("python3"),
        "{said}"
    );
    assert_eq!(python.ask(), before, "it goes on");
    shop.ok(&["verify", "snap"]);
    let json = shop.json(&["inspect", "snap"]);
    let source = &json["metadata"]["source"];
    assert_eq!(source["type"], "process");
    assert_eq!(source["pid"].to_string(), python.pid());
    assert_eq!(source["command_line"][1], "-c");
    let names: Vec<&str> = json["regions"]
        .as_array()
        .expect("regions")
        .iter()
        .filter_map(|region| region["name"].as_str())
        .collect();
    assert!(
        names.contains(&"[heap]") && names.contains(&"[stack]"),
        "{names:?}"
    );
    let heap = shop
        .ok(&["unpack", "snap", "--region", "[heap]", "-o", "-"])
        .stdout;
    assert!(!heap.is_empty() && heap.len().is_multiple_of(4096));
    // What Python knows is somewhere in it.
    let all = shop.ok(&["unpack", "snap", "-o", "-"]).stdout;
    let contains = |text: &str| {
        all.windows(text.len())
            .any(|bytes| bytes == text.as_bytes())
    };
    assert!(contains(&"49999".repeat(10)));
}

#[test]
fn the_largest_region_and_ranges_are_captured_alone() {
    let shop = Workshop::new();
    let python = Python::start();
    let pid = python.pid();
    let json = shop.json(&[
        "create", "--pid", &pid, "-o", "largest", "--region", "largest",
    ]);
    assert_eq!(json["regions"], 1);
    let all = shop.json(&["create", "--pid", &pid, "-o", "all"]);
    assert!(all["memory_bytes"].as_u64() > json["memory_bytes"].as_u64());
    let regions = shop.json(&["inspect", "largest"]);
    let start = regions["regions"][0]["start"].as_u64().expect("an address");
    let range = format!("{:x}-{:x}", start, start + 8192);
    let part = shop.json(&["create", "--pid", &pid, "-o", "part", "--region", &range]);
    assert_eq!(part["pages"], 2);
}

#[test]
fn leave_stopped_leaves_it_stopped_and_a_signal_lets_it_go_on() {
    let shop = Workshop::new();
    let mut python = Python::start();
    let before = python.ask();
    let arguments = [
        "create",
        "--pid",
        &python.pid(),
        "-o",
        "snap",
        "--leave-stopped",
    ];
    let said = stderr(&shop.ok(&arguments));
    assert!(said.contains("left stopped"), "{said}");
    assert_eq!(python.state(), 'T');
    // A second capture of a stopped process leaves it stopped without being asked.
    shop.ok(&["create", "--pid", &python.pid(), "-o", "again"]);
    assert_eq!(python.state(), 'T');
    let pid = nix::unistd::Pid::from_raw(python.pid().parse().expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("our child");
    assert_eq!(python.ask(), before);
}

#[test]
fn someone_without_the_right_is_told_which_one() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let shop = Workshop::new();
    let python = Python::start();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(shop.path(""), open).expect("our folder");
    // A copy: the build folder need not be open to everybody.
    let program = shop.path("uffd-snapshot");
    std::fs::copy(env!("CARGO_BIN_EXE_uffd-snapshot"), &program).expect("space");
    let output = Command::new(&program)
        .args(["create", "--pid", &python.pid(), "-o", "x"])
        .current_dir(shop.path(""))
        .uid(65534)
        .gid(65534)
        .output()
        .expect("these tests run as root");
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("CAP_SYS_PTRACE") && said.contains(&python.pid()),
        "{said}"
    );
    assert_eq!(shop.names(), ["uffd-snapshot"]);
}
