//! `pack` and `unpack` are inverses; `inspect` and `verify` say what is true.

use super::{Workshop, disk_usage, memory, stderr};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

#[test]
fn pack_and_unpack_are_inverses() {
    let shop = Workshop::new();
    for (len, options) in [
        (0, "--codec zstd"),
        (1, "--codec zstd"),
        (4096, "--codec lz4"),
        (4095, "--codec stored"),
        (3_000_001, "--codec zstd --level 19 --frame-pages 512"),
        (3_000_001, "--codec lz4 --frame-pages 1"),
        (5 << 20, "--codec zstd --level -5 --frame-pages 7 --jobs 3"),
    ] {
        shop.write("raw", &memory(len));
        let options: Vec<&str> = options.split(' ').collect();
        shop.ok(&[
            &["pack", "raw", "-o", "snap", "--force"],
            options.as_slice(),
        ]
        .concat());
        shop.ok(&["verify", "snap"]);
        shop.ok(&["unpack", "snap", "-o", "again", "--force"]);
        assert!(shop.read("again") == shop.read("raw"), "{len} {options:?}");
    }
}

#[test]
fn a_pipe_is_packed_to_the_same_file_and_unpacked_to_the_same_bytes() {
    let shop = Workshop::new();
    let raw = memory(3_000_001);
    shop.write("raw", &raw);
    let id = ["--id", "000102030405060708090a0b0c0d0e0f"];
    let reproducible = |arguments: &[&str]| {
        let mut command = shop.command(&[arguments, &id].concat());
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        command
    };
    let packed = reproducible(&["pack", "raw", "-o", "from-file"]).status();
    assert!(packed.expect("the program").success());
    let mut child = reproducible(&["pack", "-", "-o", "from-pipe"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the program");
    // In pieces that are not pages.
    let mut pipe = child.stdin.take().expect("a pipe");
    for piece in raw.chunks(10_007) {
        pipe.write_all(piece).expect("a reader");
    }
    drop(pipe);
    assert!(child.wait().expect("an end").success());
    assert!(shop.read("from-file") == shop.read("from-pipe"));
    assert!(shop.ok(&["unpack", "from-pipe", "-o", "-"]).stdout == raw);
}

#[test]
fn the_same_memory_and_options_give_the_same_file_whatever_the_threads() {
    let shop = Workshop::new();
    shop.write("raw", &memory(9 << 20));
    let mut first = None;
    for jobs in ["1", "2", "8"] {
        let arguments = ["pack", "raw", "-o", "snap", "--force", "--jobs", jobs];
        let id = [
            "--id",
            "ffffffffffffffffffffffffffffffff",
            "--buffer",
            "64MiB",
        ];
        let status = shop
            .command(&[arguments.as_slice(), &id].concat())
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .status();
        assert!(status.expect("the program").success());
        let snap = shop.read("snap");
        assert!(first.get_or_insert_with(|| snap.clone()) == &snap, "{jobs}");
    }
}

#[test]
fn two_snapshots_have_different_ids() {
    let shop = Workshop::new();
    shop.write("raw", b"x");
    let id = |name| shop.json(&["pack", "raw", "-o", name])["id"].clone();
    assert_ne!(id("a"), id("b"));
}

#[test]
fn sixty_four_sparse_gibibytes_take_next_to_nothing() {
    let shop = Workshop::new();
    let raw = File::create(shop.path("raw")).expect("a file");
    raw.set_len(64 << 30).expect("a sparse file");
    let pages = [(0, 1), (5 << 30, 2), ((64 << 30) - 4096, 3)];
    for (at, byte) in pages {
        raw.write_all_at(&[byte; 4000], at).expect("space");
    }
    let report = shop.json(&["pack", "raw", "-o", "snap"]);
    assert_eq!(report["pages"], 16 << 20);
    assert_eq!(report["content_pages"], 3);
    assert!(disk_usage(&shop.path("snap")) < 128 << 10);
    shop.ok(&["verify", "snap"]);
    shop.ok(&["unpack", "snap", "-o", "again"]);
    let again = File::open(shop.path("again")).expect("the file");
    assert_eq!(again.metadata().expect("the file").len(), 64 << 30);
    assert!(disk_usage(&shop.path("again")) < 128 << 10);
    for (at, byte) in pages {
        let mut page = [0; 4096];
        again.read_exact_at(&mut page, at).expect("a page");
        assert_eq!(page[..4000], [byte; 4000]);
        assert_eq!(page[4000..], [0; 96]);
    }
}

#[test]
fn inspect_counts_what_is_there() {
    let shop = Workshop::new();
    let mut raw = vec![0; 40960];
    raw[4096..8192].fill(7);
    raw[8192..8200].fill(1);
    raw.extend([1; 10]);
    shop.write("raw", &raw);
    shop.ok(&[
        "pack",
        "raw",
        "-o",
        "snap",
        "--codec",
        "lz4",
        "--frame-pages",
        "2",
    ]);
    let json = shop.json(&["inspect", "snap"]);
    let counts = ["total", "zero", "filled", "content", "lost", "parent"]
        .map(|class| json["pages"][class].as_u64().expect("a count"));
    assert_eq!(counts, [11, 8, 1, 2, 0, 0]);
    assert_eq!(json["metadata"]["source"]["bytes"], 40970);
    assert_eq!(json["metadata"]["compressed"]["codec"], "lz4");
    assert_eq!(json["regions"][0]["length"], 40970);
    let lz4 = &json["frames"][1];
    assert_eq!((&lz4["codec"], &lz4["frames"]), (&"lz4".into(), &2.into()));
    let text = shop.ok(&["inspect", "snap"]).stdout;
    let text = String::from_utf8(text).expect("UTF-8");
    for part in [
        "8 zero",
        "1 filled",
        "2 content",
        "raw memory",
        "lz4 level 0, 8.0 KiB per frame",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn progress_is_for_terminals_and_quiet_is_quiet() {
    let shop = Workshop::new();
    shop.write("raw", &memory(32 << 20));
    let piped = shop.ok(&["pack", "raw", "-o", "piped"]);
    let said = stderr(&piped);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(piped.stdout.is_empty());
    let quiet = shop.ok(&["pack", "raw", "-o", "quiet", "--quiet"]);
    assert_eq!(stderr(&quiet), "");
    // script(1) gives it a terminal.
    let program = env!("CARGO_BIN_EXE_uffd-snapshot");
    let on_terminal = std::process::Command::new("script")
        .args([
            "-qec",
            &format!("{program} pack raw -o terminal --codec zstd --level 9"),
            "/dev/null",
        ])
        .current_dir(shop.path(""))
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .output()
        .expect("script(1) of util-linux");
    let shown = String::from_utf8_lossy(&on_terminal.stdout);
    for part in ["packing", "32.00 MiB", "B/s", "left"] {
        assert!(shown.contains(part), "no {part:?} in {shown:?}");
    }
}
