//! `scripts/install`

use std::fs;
use std::path::{Path, PathBuf};

use crate::machine::install;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().expect("a kind").is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

#[track_caller]
fn done(folder: &Path, words: &[&str]) -> String {
    let output = install(folder, words);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn everything_is_where_it_belongs_and_goes_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    assert_eq!(done(root, &[]), "");
    for path in [
        "bin/uffd-restore",
        "bin/uffd-snapshot",
        "lib/systemd/system/uffd-restore@.service",
        "lib/systemd/system/uffd-restore-listen@.service",
        "lib/systemd/system/uffd-restore-listen@.socket",
        "share/man/man8/uffd-restore.8",
        "share/man/man8/uffd-restore-lazy-pages.8",
        "share/man/man1/uffd-snapshot.1",
        "etc/uffd-restore/example.conf",
    ] {
        assert!(root.join("usr/local").join(path).is_file(), "{path}");
    }
    for path in files(root) {
        assert!(path.starts_with(root.join("usr/local")), "{path:?}");
        let text = fs::read_to_string(&path).unwrap_or_default();
        assert!(!text.contains("/usr/bin/uffd-restore"), "{path:?}");
    }
    done(root, &["--uninstall"]);
    assert_eq!(files(root), Vec::<PathBuf>::new());
}

#[test]
fn a_changed_configuration_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path();
    let example = root.join("usr/local/etc/uffd-restore/example.conf");
    let own = root.join("usr/local/etc/uffd-restore/web.conf");
    done(root, &[]);
    let original = fs::read_to_string(&example).expect("there");
    // One that was not changed is kept up to date.
    done(root, &[]);
    assert!(!example.with_extension("conf.new").exists());
    fs::write(&example, "mine").expect("written");
    fs::write(&own, "mine too").expect("written");
    let said = done(root, &[]);
    assert!(said.contains("stays"), "{said}");
    assert_eq!(fs::read_to_string(&example).expect("there"), "mine");
    let new = fs::read_to_string(example.with_extension("conf.new"));
    assert_eq!(new.expect("there"), original);
    done(root, &["--uninstall"]);
    assert_eq!(files(root), [example, own]);
}

#[test]
fn nothing_was_built() {
    let folder = tempfile::tempdir().expect("a folder");
    let output =
        std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install"))
            .env("DESTDIR", folder.path())
            .env("BUILD", folder.path())
            .output()
            .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cargo build --release"), "{said}");
    assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
}
