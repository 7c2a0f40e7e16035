//! `uffd-snapshot working-set`: build, inspect, merge.

use super::leaves_nothing::SmallDisk;
use super::{Workshop, memory, stderr};
use std::fs;

/// A snapshot `snap` of 100 pages, and another one, `other`.
fn shop() -> Workshop {
    let shop = Workshop::new();
    shop.write("raw", &memory(100 * 4096));
    for name in ["snap", "other"] {
        shop.ok(&["pack", "raw", "-o", name, "--quiet"]);
    }
    shop
}

/// The set `name` of the pages of `list`.
fn build(shop: &Workshop, name: &str, list: &str) {
    shop.write("list", list.as_bytes());
    shop.ok(&[
        "working-set",
        "build",
        "snap",
        "--pages",
        "list",
        "-o",
        name,
        "--force",
    ]);
}

fn assert_says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no {part:?} in {said:?}");
    }
    assert!(said.starts_with("uffd-snapshot: "), "{said:?}");
    assert!(!said.contains("panicked"), "{said:?}");
}

fn id(shop: &Workshop, snapshot: &str) -> String {
    shop.json(&["inspect", snapshot])["id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

#[test]
fn a_set_of_a_list_has_its_pages() {
    let shop = shop();
    shop.write(
        "list",
        b"# what is needed\n40 10\n7\n8 # and this\n7\n90 10\n",
    );
    let build = [
        "working-set",
        "build",
        "snap",
        "--pages",
        "list",
        "-o",
        "snap.ws",
    ];
    let built = shop.ok(&build);
    let said = stderr(&built);
    assert!(said.contains("snap.ws: 22 pages (88.0 KiB)"), "{said}");
    let json = shop.json(&[
        "working-set",
        "inspect",
        "snap.ws",
        "--snapshot",
        "snap",
        "--pages",
    ]);
    assert_eq!(json["snapshot"], id(&shop, "snap"));
    assert_eq!(
        (&json["pages"], &json["recordings"]),
        (&22.into(), &1.into())
    );
    assert_eq!(json["file_bytes"], shop.read("snap.ws").len());
    let mut pages = Vec::new();
    for touch in json["touches"].as_array().expect("touches") {
        let number = |at: usize| touch[at].as_u64().expect("a number");
        pages.extend(number(0)..number(0) + number(1));
        assert_eq!(number(2), 0, "a list has no times");
    }
    // All in one window: in the order of their numbers.
    let expected: Vec<u64> = [7, 8].into_iter().chain(40..50).chain(90..100).collect();
    assert_eq!(pages, expected);
    assert_eq!(json["needed_by"][0]["pages"], 22);
    assert!(
        shop.json(&["working-set", "inspect", "snap.ws"])
            .get("touches")
            .is_none()
    );

    let text = shop
        .ok(&["working-set", "inspect", "snap.ws", "--pages"])
        .stdout;
    let text = String::from_utf8(text).expect("UTF-8");
    let id = id(&shop, "snap");
    for part in [
        &*id,
        "recordings  1",
        "22 (88.0 KiB)",
        "by    10 ms 22 pages",
        "SEEN",
        "lz4",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // An existing file is replaced only when asked.
    assert_says(&shop.fails(1, &build), &["snap.ws\" exists", "--force"]);
}

#[test]
fn a_list_may_come_from_a_pipe_and_a_set_from_a_set() {
    let shop = shop();
    let mut command = shop.command(&[
        "working-set",
        "build",
        "snap",
        "--pages",
        "-",
        "-o",
        "a.ws",
        "--json",
    ]);
    let stdin = fs::File::open(shop.write("list", b"3 60\n")).expect("the list");
    let built = command.stdin(stdin).output().expect("the program");
    let json: serde_json::Value = serde_json::from_slice(&built.stdout).expect("JSON");
    assert_eq!(json["pages"], 60, "{}", stderr(&built));
    shop.ok(&[
        "working-set",
        "build",
        "snap",
        "--from",
        "a.ws",
        "-o",
        "b.ws",
        "--codec",
        "stored",
        "--frame-pages",
        "5",
    ]);
    let (a, b) = (
        shop.json(&["working-set", "inspect", "a.ws", "--pages"]),
        shop.json(&["working-set", "inspect", "b.ws", "--pages"]),
    );
    assert_eq!(a["pages"], b["pages"]);
    assert_eq!(b["max_frame_pages"], 5);
    assert_eq!(b["codecs"][0]["codec"], "stored");
    assert!(b["stored_bytes"].as_u64() > a["stored_bytes"].as_u64());
    // In place, as for what it is made of.
    shop.ok(&[
        "working-set",
        "build",
        "snap",
        "--from",
        "b.ws",
        "-o",
        "b.ws",
        "--force",
    ]);
    assert_eq!(shop.read("a.ws"), shop.read("b.ws"));
}

#[test]
fn merging_keeps_what_half_of_the_recordings_have() {
    let shop = shop();
    build(&shop, "1.ws", "1 2\n50 3");
    build(&shop, "2.ws", "1 2");
    build(&shop, "3.ws", "1 1\n60");
    let merge = [
        "working-set",
        "merge",
        "snap",
        "1.ws",
        "2.ws",
        "3.ws",
        "-o",
        "all.ws",
    ];
    shop.ok(&merge);
    let json = shop.json(&["working-set", "inspect", "all.ws", "--pages"]);
    assert_eq!(
        (&json["recordings"], &json["pages"]),
        (&3.into(), &2.into())
    );
    assert_eq!(json["faded_pages"], 4);
    let faded = json["faded_touches"].to_string();
    assert_eq!(faded, "[[50,3,0],[60,1,0]]");
    let text = shop
        .ok(&["working-set", "inspect", "all.ws", "--pages"])
        .stdout;
    let text = String::from_utf8(text).expect("UTF-8");
    for part in [
        ".##",
        "###",
        "..# faded",
        "#.. faded",
        "4 pages not replayed",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_says(&shop.fails(1, &merge), &["exists", "--force"]);
    // One after the other is the same as all at once.
    shop.ok(&[
        "working-set",
        "merge",
        "snap",
        "1.ws",
        "2.ws",
        "-o",
        "two.ws",
    ]);
    shop.ok(&[
        "working-set",
        "merge",
        "snap",
        "two.ws",
        "3.ws",
        "-o",
        "two.ws",
        "--force",
    ]);
    assert_eq!(shop.read("two.ws"), shop.read("all.ws"));
}

#[test]
fn a_set_of_another_snapshot_is_refused_with_both_ids() {
    let shop = shop();
    build(&shop, "snap.ws", "1");
    let ids = [id(&shop, "snap"), id(&shop, "other")];
    for command in [
        &["inspect", "snap.ws", "--snapshot", "other"][..],
        &["build", "other", "--from", "snap.ws", "-o", "x"],
        &["merge", "other", "snap.ws", "-o", "x"],
    ] {
        let said = shop.fails(1, &[&["working-set"], command].concat());
        assert_says(
            &said,
            &[
                "\"snap.ws\"",
                "\"other\"",
                &ids[0],
                &ids[1],
                "record it again",
            ],
        );
    }
    assert!(!shop.path("x").exists());
}

#[test]
fn what_is_not_a_set_is_told_so_by_every_command_that_reads_one() {
    let shop = shop();
    build(&shop, "snap.ws", "0 100");
    let good = shop.read("snap.ws");
    let middle = good.len() / 2;
    let mut flips = [good.clone(), good.clone(), good.clone(), good.clone()];
    flips[0][40] ^= 1;
    flips[1][middle] ^= 1;
    flips[2][good.len() - 41] ^= 1;
    flips[3][8] = 7;
    shop.write("empty", b"");
    shop.write("text", b"hello");
    shop.write("shorter", &good[..100]);
    shop.write("short", &good[..good.len() - 1]);
    for (at, bytes) in flips.iter().enumerate() {
        shop.write(&format!("flip{at}"), bytes);
    }
    // Much longer than it can be read at once, and nothing in it.
    fs::File::create(shop.path("huge"))
        .and_then(|file| file.set_len(1 << 40))
        .expect("a hole");
    nix::unistd::mkfifo(&shop.path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    for (name, parts) in [
        ("empty", &["not a working set", "--record-working-set"][..]),
        ("text", &["not a working set"]),
        ("raw", &["not a working set"]),
        ("huge", &["not a working set"]),
        ("snap", &["this is a snapshot, not a working set"]),
        ("shorter", &["truncated", "100"]),
        ("short", &["truncated"]),
        ("flip0", &["corrupt header", "checksum"]),
        ("flip2", &["corrupt frame table"]),
        ("flip3", &["version 7 is not known", "newer uffd-restore"]),
        ("none", &["No such file"]),
        (".", &["directory"]),
        ("fifo", &["is a pipe"]),
    ] {
        for command in [
            &["inspect", name][..],
            &["build", "snap", "--from", name, "-o", "x"],
            &["merge", "snap", "snap.ws", name, "-o", "x"],
        ] {
            let said = shop.fails(1, &[&["working-set"], command].concat());
            assert_says(&said, parts);
            assert!(said.contains(&format!("{name:?}")), "{said}");
        }
    }
    let said = shop.fails(1, &["working-set", "inspect", "flip1"]);
    assert_says(&said, &["flip1", "corrupt frame at byte"]);
    assert!(!shop.path("x").exists());
}

#[test]
fn a_set_where_a_snapshot_belongs_is_told_so() {
    let shop = shop();
    build(&shop, "snap.ws", "1");
    for command in [
        &["inspect", "snap.ws"][..],
        &["verify", "snap.ws"],
        &["unpack", "snap.ws", "-o", "x"],
        &[
            "working-set",
            "build",
            "snap.ws",
            "--from",
            "snap.ws",
            "-o",
            "x",
        ],
        &["working-set", "inspect", "snap.ws", "--snapshot", "snap.ws"],
        &["working-set", "merge", "snap.ws", "snap.ws", "-o", "x"],
    ] {
        let said = shop.fails(1, command);
        assert_says(&said, &["snap.ws", "this is a working set, not a snapshot"]);
    }
}

#[test]
fn bad_lists_and_bad_usage_are_told_and_leave_nothing() {
    let shop = shop();
    for (list, parts) in [
        (
            &b"1\nfoo"[..],
            &[
                "\"list\", line 2",
                "\"foo\" is not a number",
                "PAGE [COUNT]",
            ][..],
        ),
        (b"99 2", &["line 1", "page 100 does not exist", "100 pages"]),
        (b"\x00\xff", &["line 1", "not text"]),
    ] {
        shop.write("list", list);
        let said = shop.fails(
            1,
            &["working-set", "build", "snap", "--pages", "list", "-o", "x"],
        );
        assert_says(&said, parts);
    }
    for arguments in [
        &["build", "snap", "-o", "x"][..],
        &["build", "snap", "--pages", "list", "--from", "y", "-o", "x"],
        &["build", "snap", "--pages", "list"],
        &[
            "build",
            "snap",
            "--pages",
            "list",
            "-o",
            "x",
            "--frame-pages",
            "0",
        ],
        &[
            "build", "snap", "--pages", "list", "-o", "x", "--level", "3",
        ],
        &["merge", "snap", "-o", "x"],
        &["inspect"],
        &[],
    ] {
        shop.fails(2, &[&["working-set"], arguments].concat());
    }
    assert_says(
        &shop.fails(
            1,
            &["working-set", "build", "snap", "--pages", "none", "-o", "x"],
        ),
        &["\"none\"", "No such file"],
    );
    assert_eq!(shop.names(), ["list", "other", "raw", "snap"]);
}

#[test]
fn pages_that_cannot_be_read_are_left_out_and_counted() {
    let shop = shop();
    let mut snap = shop.read("snap");
    snap[4096 + 20] ^= 0x10;
    shop.write("bad", &snap);
    let bad = shop.json(&["verify", "bad"])["bad_pages"]
        .as_u64()
        .expect("a count");
    shop.write("list", b"0 100");
    let built = shop.ok(&["working-set", "build", "bad", "--pages", "list", "-o", "x"]);
    let said = stderr(&built);
    assert!(
        bad > 0 && said.contains("left out") && said.contains(&format!("{} pages (", 100 - bad)),
        "{said}"
    );
    let json = shop.json(&["working-set", "build", "bad", "--pages", "list", "-o", "y"]);
    assert_eq!(json["left_out_pages"], bad);
}

#[test]
fn a_set_of_another_snapshot_with_the_same_id_is_told_so() {
    let shop = Workshop::new();
    let id = "0123456789abcdef0123456789abcdef";
    for (name, pages) in [("snap", 100), ("small", 10)] {
        shop.write("raw", &memory(pages * 4096));
        shop.ok(&["pack", "raw", "-o", name, "--id", id]);
    }
    build(&shop, "snap.ws", "3\n99");
    let inspect = ["working-set", "inspect", "snap.ws", "--snapshot"];
    shop.ok(&[&inspect[..], &["snap"]].concat());
    let said = shop.fails(1, &[&inspect[..], &["small"]].concat());
    assert_says(&said, &["snap.ws", "another snapshot"]);
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    let shop = shop();
    let _disk = SmallDisk::new(&shop.path("disk"), 64 << 10);
    shop.write("list", b"0 100");
    let said = shop.fails(
        1,
        &[
            "working-set",
            "build",
            "snap",
            "--pages",
            "list",
            "-o",
            "disk/x",
        ],
    );
    assert_says(
        &said,
        &["disk/x", "free some space", "nothing was left behind"],
    );
    assert_eq!(
        fs::read_dir(shop.path("disk")).expect("the disk").count(),
        0
    );
}
