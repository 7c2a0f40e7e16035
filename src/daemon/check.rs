//! `--check`: what this kernel and this user can do, and what is missing for what.

use std::fs::{self, OpenOptions};
use std::process::ExitCode;

use serde::Serialize;

use super::limits::raise_descriptors;
use crate::failure::Failure;
use crate::tool;
use crate::uffd::{Features, NewError, new_for_this_process};

/// `CAP_SYS_PTRACE` of `<linux/capability.h>`.
const CAP_SYS_PTRACE: u32 = 19;
/// `CAP_DAC_OVERRIDE`
const CAP_DAC_OVERRIDE: u32 = 1;
/// `CAP_KILL`
const CAP_KILL: u32 = 5;

/// Something that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    good: bool,
    /// What was found, and what to do if it is not good.
    detail: String,
}

/// A way to use the program, and whether it can work.
#[derive(Debug, Serialize)]
struct Mode {
    mode: &'static str,
    works: bool,
    missing: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct Checked {
    kernel: String,
    features: Vec<&'static str>,
    findings: Vec<Finding>,
    modes: Vec<Mode>,
}

pub(super) fn run(json: bool) -> Result<ExitCode, Failure> {
    let checked = check();
    let works = checked
        .modes
        .iter()
        .any(|mode| mode.mode == SERVE && mode.works);
    if json {
        tool::print_json(&checked)?;
    } else {
        tool::print(&for_people(&checked))?;
    }
    Ok(if works {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

const SERVE: &str = "--pid";

fn check() -> Checked {
    let kernel = nix::sys::utsname::uname()
        .map(|uname| uname.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let features = Features::of_this_kernel();
    let have = features
        .as_ref()
        .map_or(Features::default(), |features| *features);
    let findings = vec![
        userfaultfd(&features),
        events(have),
        device(),
        capability(
            "CAP_SYS_PTRACE",
            CAP_SYS_PTRACE,
            "to trace processes of other users, and to be told of forks: run as root, or give it to this program",
        ),
        capability(
            "CAP_DAC_OVERRIDE",
            CAP_DAC_OVERRIDE,
            "to open /proc/PID/mem of processes of other users",
        ),
        capability(
            "CAP_KILL",
            CAP_KILL,
            "to end targets of other users with --on-failure kill",
        ),
        yama(),
        feature(have, "shared memory", Features::SHMEM, "Linux 4.11"),
        feature(have, "huge pages", Features::HUGETLBFS, "Linux 4.11"),
        feature(
            have,
            "poison",
            Features::POISON,
            "Linux 6.6; until then use --on-failure kill",
        ),
        descriptors(),
    ];
    let bad = |what: &&'static str| {
        findings
            .iter()
            .any(|finding| finding.what == *what && !finding.good)
    };
    let mode = |mode, needs: &[&'static str]| {
        let missing: Vec<&'static str> = needs.iter().copied().filter(|what| bad(what)).collect();
        Mode {
            mode,
            works: missing.is_empty(),
            missing,
        }
    };
    let serve = ["userfaultfd", "events", "CAP_SYS_PTRACE", "Yama"];
    let with = |more: &[&'static str]| [&serve[..], more].concat();
    let modes = vec![
        mode(SERVE, &serve),
        mode(
            "--pid, shared memory (memfd, tmpfs)",
            &with(&["shared memory"]),
        ),
        mode("--pid, huge pages", &with(&["huge pages"])),
        mode(
            "--pid, targets of other users",
            &with(&["/dev/userfaultfd", "CAP_DAC_OVERRIDE"]),
        ),
        mode(
            "--pid, targets under a seccomp filter",
            &with(&["/dev/userfaultfd"]),
        ),
        mode("--on-failure poison", &with(&["poison"])),
        mode("--on-failure kill", &with(&["CAP_KILL"])),
    ];
    Checked {
        kernel,
        features: have.names().collect(),
        findings,
        modes,
    }
}

fn userfaultfd(features: &Result<Features, NewError>) -> Finding {
    let (good, detail) = match features {
        Ok(_) => (true, "can be created".to_owned()),
        Err(NewError::NotInKernel) => (
            false,
            "not in this kernel: it needs CONFIG_USERFAULTFD".to_owned(),
        ),
        Err(NewError::Forbidden(error)) => (
            false,
            format!(
                "not permitted (/dev/userfaultfd: {error}): run as root, make the device readable and writable for this user, \
                 or set the sysctl vm.unprivileged_userfaultfd to 1"
            ),
        ),
        Err(NewError::Other(errno)) => (false, format!("cannot be created: {errno}")),
    };
    Finding {
        what: "userfaultfd",
        good,
        detail,
    }
}

/// Whether the kernel has the four events, and lets this user have that of fork.
fn events(have: Features) -> Finding {
    let missing: Vec<_> = Features::EVENTS
        .and(Features::THREAD_ID)
        .missing_in(have)
        .names()
        .collect();
    let asked = new_for_this_process().map(|userfaultfd| userfaultfd.agree(Features::EVENTS));
    let (good, detail) = match (missing.as_slice(), asked) {
        ([], Ok(Ok(_))) => (
            true,
            "fork, mremap, madvise and munmap are told of".to_owned(),
        ),
        ([], Ok(Err(errno))) => (
            false,
            format!("fork cannot be followed: {errno}: run as root or with CAP_SYS_PTRACE"),
        ),
        ([], Err(_)) => (false, "no userfaultfd to ask".to_owned()),
        (missing, _) => (
            false,
            format!(
                "this kernel lacks {}: Linux 4.14 is needed",
                missing.join(", ")
            ),
        ),
    };
    Finding {
        what: "events",
        good,
        detail,
    }
}

fn device() -> Finding {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd");
    let detail = match &opened {
        Ok(_) => "can be opened: targets need no rights of their own".to_owned(),
        Err(error) => format!(
            "{error}: only targets that may call userfaultfd(2) themselves can be restored (Linux 6.1 has the device; modprobe, \
             mknod or chmod)"
        ),
    };
    Finding {
        what: "/dev/userfaultfd",
        good: opened.is_ok(),
        detail,
    }
}

fn capability(what: &'static str, number: u32, purpose: &str) -> Finding {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let good = effective & (1 << number) != 0;
    let detail = if good {
        "held".to_owned()
    } else {
        format!("not held: needed {purpose}")
    };
    Finding { what, good, detail }
}

fn yama() -> Finding {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let (good, detail) = match scope.trim() {
        "" => (true, "not in this kernel".to_owned()),
        "0" => (true, "does not restrict".to_owned()),
        "3" => (
            false,
            "ptrace_scope is 3: nobody may trace until the next boot".to_owned(),
        ),
        scope => (
            true,
            format!("ptrace_scope is {scope}: only with CAP_SYS_PTRACE"),
        ),
    };
    Finding {
        what: "Yama",
        good,
        detail,
    }
}

fn feature(have: Features, what: &'static str, wanted: Features, since: &str) -> Finding {
    let good = have.has(wanted);
    let detail = if good {
        "supported".to_owned()
    } else {
        format!("not in this kernel: {since}")
    };
    Finding { what, good, detail }
}

fn descriptors() -> Finding {
    const FEW: u64 = 4096;
    let limit = raise_descriptors();
    let good = limit >= FEW;
    let advice = if good {
        ""
    } else {
        ": each forked child takes one; raise RLIMIT_NOFILE"
    };
    Finding {
        what: "descriptors",
        good,
        detail: format!("at most {limit}{advice}"),
    }
}

fn for_people(checked: &Checked) -> String {
    let mut lines = vec![format!("Linux {}", checked.kernel)];
    for finding in &checked.findings {
        let mark = if finding.good { "ok " } else { "NO " };
        lines.push(format!("  {mark} {:<17} {}", finding.what, finding.detail));
    }
    lines.push(String::new());
    for mode in &checked.modes {
        lines.push(if mode.works {
            format!("  works        {}", mode.mode)
        } else {
            format!(
                "  DOES NOT     {}: missing: {}",
                mode.mode,
                mode.missing.join(", ")
            )
        });
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_need_of_a_mode_is_a_finding() {
        let checked = check();
        let text = for_people(&checked);
        for mode in &checked.modes {
            assert!(text.contains(mode.mode));
            assert!(mode.works == mode.missing.is_empty());
        }
        for what in [
            "userfaultfd",
            "events",
            "CAP_SYS_PTRACE",
            "shared memory",
            "huge pages",
            "/dev/userfaultfd",
            "CAP_DAC_OVERRIDE",
            "poison",
            "CAP_KILL",
        ] {
            assert!(
                checked.findings.iter().any(|finding| finding.what == what),
                "{what}"
            );
        }
    }
}
