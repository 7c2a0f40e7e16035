//! The binary interface as written down in this crate, against the header of the system it is built on.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use uffd_restore::uffd::abi::{
    self, UffdMsg, UffdioApi, UffdioCopy, UffdioFill, UffdioRange, UffdioRegister,
};

/// Of a macro, or of an expression of C that needs a macro: what this crate says.
struct Entry {
    text: &'static str,
    /// The macro that a header without it does not have.
    needs: &'static str,
    ours: u64,
}

fn entry(text: &'static str, ours: u64) -> Entry {
    Entry {
        text,
        needs: text,
        ours,
    }
}

macro_rules! same_name {
    ($($name:ident)*) => { [$(entry(stringify!($name), u64::from(abi::$name))),*] };
}

fn constants() -> Vec<Entry> {
    same_name!(
        UFFD_API UFFD_EVENT_PAGEFAULT UFFD_EVENT_FORK UFFD_EVENT_REMAP UFFD_EVENT_REMOVE UFFD_EVENT_UNMAP
        UFFD_PAGEFAULT_FLAG_WRITE UFFD_PAGEFAULT_FLAG_WP UFFD_PAGEFAULT_FLAG_MINOR UFFD_FEATURE_PAGEFAULT_FLAG_WP
        UFFD_FEATURE_EVENT_FORK UFFD_FEATURE_EVENT_REMAP UFFD_FEATURE_EVENT_REMOVE UFFD_FEATURE_MISSING_HUGETLBFS
        UFFD_FEATURE_MISSING_SHMEM UFFD_FEATURE_EVENT_UNMAP UFFD_FEATURE_SIGBUS UFFD_FEATURE_THREAD_ID
        UFFD_FEATURE_MINOR_HUGETLBFS UFFD_FEATURE_MINOR_SHMEM UFFD_FEATURE_EXACT_ADDRESS
        UFFD_FEATURE_WP_HUGETLBFS_SHMEM UFFD_FEATURE_WP_UNPOPULATED UFFD_FEATURE_POISON UFFD_FEATURE_WP_ASYNC
        UFFD_FEATURE_MOVE UFFDIO_REGISTER_MODE_MISSING UFFDIO_REGISTER_MODE_WP UFFDIO_REGISTER_MODE_MINOR
        UFFDIO_COPY_MODE_DONTWAKE UFFDIO_COPY_MODE_WP UFFDIO_ZEROPAGE_MODE_DONTWAKE UFFDIO_CONTINUE_MODE_DONTWAKE
        UFFDIO_POISON_MODE_DONTWAKE USERFAULTFD_IOC_NEW UFFDIO_API UFFDIO_REGISTER UFFDIO_UNREGISTER UFFDIO_WAKE
        UFFDIO_COPY UFFDIO_ZEROPAGE UFFDIO_CONTINUE UFFDIO_POISON
    )
    .into()
}

/// Sizes and places of structures and of what is in them.
fn layouts() -> Vec<Entry> {
    let always = "UFFD_API";
    let first = offset_of!(UffdMsg, word);
    let mut all = Vec::new();
    let mut add = |needs, rows: &[(&'static str, usize)]| {
        all.extend(rows.iter().map(|&(text, ours)| Entry {
            text,
            needs,
            ours: ours as u64,
        }));
    };
    add(
        always,
        &[
            ("sizeof(struct uffd_msg)", size_of::<UffdMsg>()),
            (
                "offsetof(struct uffd_msg, event)",
                offset_of!(UffdMsg, event),
            ),
            ("offsetof(struct uffd_msg, arg)", first),
            ("offsetof(struct uffd_msg, arg.pagefault.flags)", first),
            (
                "offsetof(struct uffd_msg, arg.pagefault.address)",
                first + 8,
            ),
            ("offsetof(struct uffd_msg, arg.fork.ufd)", first),
            (
                "sizeof(((struct uffd_msg *)0)->arg.fork.ufd)",
                size_of::<i32>(),
            ),
            ("offsetof(struct uffd_msg, arg.remap.from)", first),
            ("offsetof(struct uffd_msg, arg.remap.to)", first + 8),
            ("offsetof(struct uffd_msg, arg.remap.len)", first + 16),
            ("offsetof(struct uffd_msg, arg.remove.start)", first),
            ("offsetof(struct uffd_msg, arg.remove.end)", first + 8),
            ("sizeof(struct uffdio_api)", size_of::<UffdioApi>()),
            (
                "offsetof(struct uffdio_api, api)",
                offset_of!(UffdioApi, api),
            ),
            (
                "offsetof(struct uffdio_api, features)",
                offset_of!(UffdioApi, features),
            ),
            (
                "offsetof(struct uffdio_api, ioctls)",
                offset_of!(UffdioApi, ioctls),
            ),
            ("sizeof(struct uffdio_range)", size_of::<UffdioRange>()),
            (
                "offsetof(struct uffdio_range, start)",
                offset_of!(UffdioRange, start),
            ),
            (
                "offsetof(struct uffdio_range, len)",
                offset_of!(UffdioRange, len),
            ),
            (
                "sizeof(struct uffdio_register)",
                size_of::<UffdioRegister>(),
            ),
            (
                "offsetof(struct uffdio_register, range)",
                offset_of!(UffdioRegister, range),
            ),
            (
                "offsetof(struct uffdio_register, mode)",
                offset_of!(UffdioRegister, mode),
            ),
            (
                "offsetof(struct uffdio_register, ioctls)",
                offset_of!(UffdioRegister, ioctls),
            ),
            ("sizeof(struct uffdio_copy)", size_of::<UffdioCopy>()),
            (
                "offsetof(struct uffdio_copy, dst)",
                offset_of!(UffdioCopy, dst),
            ),
            (
                "offsetof(struct uffdio_copy, src)",
                offset_of!(UffdioCopy, src),
            ),
            (
                "offsetof(struct uffdio_copy, len)",
                offset_of!(UffdioCopy, len),
            ),
            (
                "offsetof(struct uffdio_copy, mode)",
                offset_of!(UffdioCopy, mode),
            ),
            (
                "offsetof(struct uffdio_copy, copy)",
                offset_of!(UffdioCopy, copy),
            ),
            ("sizeof(struct uffdio_zeropage)", size_of::<UffdioFill>()),
            (
                "offsetof(struct uffdio_zeropage, range)",
                offset_of!(UffdioFill, range),
            ),
            (
                "offsetof(struct uffdio_zeropage, mode)",
                offset_of!(UffdioFill, mode),
            ),
            (
                "offsetof(struct uffdio_zeropage, zeropage)",
                offset_of!(UffdioFill, done),
            ),
        ],
    );
    add(
        "UFFD_FEATURE_THREAD_ID",
        &[
            (
                "offsetof(struct uffd_msg, arg.pagefault.feat.ptid)",
                first + 16,
            ),
            (
                "sizeof(((struct uffd_msg *)0)->arg.pagefault.feat.ptid)",
                size_of::<u32>(),
            ),
        ],
    );
    add(
        "UFFDIO_CONTINUE",
        &[
            ("sizeof(struct uffdio_continue)", size_of::<UffdioFill>()),
            (
                "offsetof(struct uffdio_continue, range)",
                offset_of!(UffdioFill, range),
            ),
            (
                "offsetof(struct uffdio_continue, mode)",
                offset_of!(UffdioFill, mode),
            ),
            (
                "offsetof(struct uffdio_continue, mapped)",
                offset_of!(UffdioFill, done),
            ),
        ],
    );
    add(
        "UFFDIO_POISON",
        &[
            ("sizeof(struct uffdio_poison)", size_of::<UffdioFill>()),
            (
                "offsetof(struct uffdio_poison, range)",
                offset_of!(UffdioFill, range),
            ),
            (
                "offsetof(struct uffdio_poison, mode)",
                offset_of!(UffdioFill, mode),
            ),
            (
                "offsetof(struct uffdio_poison, updated)",
                offset_of!(UffdioFill, done),
            ),
        ],
    );
    all
}

/// What the system's header says, by text; nothing of what it does not have. None without a header or a compiler.
fn of_the_system(entries: &[Entry]) -> Option<BTreeMap<String, u64>> {
    if !Path::new("/usr/include/linux/userfaultfd.h").exists()
        || Command::new("cc").arg("--version").output().is_err()
    {
        return None;
    }
    let mut program = String::from(
        "#include <fcntl.h>\n#include <stddef.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n#include <linux/userfaultfd.h>\nint main(void) {\n",
    );
    for Entry { text, needs, .. } in entries {
        let line = format!(
            "#ifdef {needs}\nprintf(\"%llu {text}\\n\", (unsigned long long)({text}));\n#endif\n"
        );
        program.push_str(&line);
    }
    writeln!(program, "return 0; }}").expect("a string");
    let directory = tempfile::tempdir().expect("a directory");
    let (source, binary) = (
        directory.path().join("header.c"),
        directory.path().join("header"),
    );
    std::fs::write(&source, program).expect("write");
    let compiled = Command::new("cc")
        .arg("-o")
        .args([&binary, &source])
        .output()
        .expect("cc");
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let said = Command::new(&binary).output().expect("run");
    let said = String::from_utf8(said.stdout).expect("text");
    let row = |line: &str| {
        let (value, text) = line.split_once(' ').expect("a value and a text");
        (text.to_owned(), value.parse().expect("a number"))
    };
    Some(said.lines().map(row).collect())
}

#[test]
fn every_number_is_that_of_the_system_header() {
    let entries: Vec<Entry> = constants().into_iter().chain(layouts()).collect();
    let Some(theirs) = of_the_system(&entries) else {
        println!("SKIPPED: needs cc and <linux/userfaultfd.h>");
        return;
    };
    let mut compared = 0;
    for Entry { text, ours, .. } in &entries {
        let Some(value) = theirs.get(*text) else {
            assert!(!OF_LINUX_4_11.contains(text), "{text}: every header has it");
            println!("{text}: not in this header");
            continue;
        };
        assert_eq!(ours, value, "{text}");
        compared += 1;
    }
    assert!(
        compared > 60,
        "the program said less than any header has: {compared}"
    );
}

/// Numbers that came after the oldest header anybody may build with (Linux 5.10), from the kernel's
/// include/uapi/linux/userfaultfd.h. What the system's header has is compared above as well.
#[test]
fn numbers_that_an_older_header_lacks() {
    let later = [
        (abi::UFFD_PAGEFAULT_FLAG_MINOR, 4),
        (abi::UFFD_FEATURE_MINOR_HUGETLBFS, 0x200),
        (abi::UFFD_FEATURE_MINOR_SHMEM, 0x400),
        (abi::UFFD_FEATURE_EXACT_ADDRESS, 0x800),
        (abi::UFFD_FEATURE_WP_HUGETLBFS_SHMEM, 0x1000),
        (abi::UFFD_FEATURE_WP_UNPOPULATED, 0x2000),
        (abi::UFFD_FEATURE_POISON, 0x4000),
        (abi::UFFD_FEATURE_WP_ASYNC, 0x8000),
        (abi::UFFD_FEATURE_MOVE, 0x1_0000),
        (abi::UFFDIO_REGISTER_MODE_MINOR, 4),
        (abi::UFFDIO_CONTINUE_MODE_DONTWAKE, 1),
        (abi::UFFDIO_POISON_MODE_DONTWAKE, 1),
        (abi::USERFAULTFD_IOC_NEW, 0xaa00),
        (abi::UFFDIO_CONTINUE, 0xc020_aa07),
        (abi::UFFDIO_POISON, 0xc020_aa08),
    ];
    for (ours, documented) in later {
        assert_eq!(ours, documented);
    }
}

/// All constants of the header of Linux 4.11 but sums of others, numbers that others are made of, and what its release
/// candidates had and the release had not: `UFFD_EVENT_EXIT` and its feature.
const OF_LINUX_4_11: [&str; 26] = [
    "UFFD_API",
    "UFFDIO_API",
    "UFFDIO_REGISTER",
    "UFFDIO_UNREGISTER",
    "UFFDIO_WAKE",
    "UFFDIO_COPY",
    "UFFDIO_ZEROPAGE",
    "UFFD_EVENT_PAGEFAULT",
    "UFFD_EVENT_FORK",
    "UFFD_EVENT_REMAP",
    "UFFD_EVENT_REMOVE",
    "UFFD_EVENT_UNMAP",
    "UFFD_PAGEFAULT_FLAG_WRITE",
    "UFFD_PAGEFAULT_FLAG_WP",
    "UFFD_FEATURE_PAGEFAULT_FLAG_WP",
    "UFFD_FEATURE_EVENT_FORK",
    "UFFD_FEATURE_EVENT_REMAP",
    "UFFD_FEATURE_EVENT_REMOVE",
    "UFFD_FEATURE_EVENT_UNMAP",
    "UFFD_FEATURE_MISSING_HUGETLBFS",
    "UFFD_FEATURE_MISSING_SHMEM",
    "UFFDIO_REGISTER_MODE_MISSING",
    "UFFDIO_REGISTER_MODE_WP",
    "UFFDIO_COPY_MODE_DONTWAKE",
    "UFFDIO_ZEROPAGE_MODE_DONTWAKE",
    "sizeof(struct uffd_msg)",
];

/// Every structure of that header.
const STRUCTURES_OF_LINUX_4_11: [&str; 6] = [
    "uffd_msg",
    "uffdio_api",
    "uffdio_range",
    "uffdio_register",
    "uffdio_copy",
    "uffdio_zeropage",
];

#[test]
fn all_of_linux_4_11_has_its_place() {
    let entries: Vec<Entry> = constants().into_iter().chain(layouts()).collect();
    let has = |text: &str| entries.iter().any(|entry| entry.text == text);
    for name in OF_LINUX_4_11 {
        assert!(has(name), "{name}");
    }
    for name in STRUCTURES_OF_LINUX_4_11 {
        assert!(has(&format!("sizeof(struct {name})")), "{name}");
    }
}
