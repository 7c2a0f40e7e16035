//! Files of a directory of images, replaced and removed so that it survives a crash.

use super::refused;
use crate::criu::manifest::Manifest;
use crate::criu::sum;
use crate::failure::Failure;
use crate::output;
use nix::fcntl::{Flock, FlockArg};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// What is being made in our own folder is called like this.
const NEXT: &str = "next";

/// A directory of images that nobody else of us changes.
#[derive(Debug)]
pub(in crate::tool) struct Folder {
    pub(in crate::tool) path: PathBuf,
    locked: Flock<File>,
}

impl Folder {
    /// Keep others of us from changing the directory until this is dropped.
    pub(in crate::tool) fn lock(path: &Path) -> Result<Self, Failure> {
        let file = File::open(path).map_err(Failure::io("open", path))?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            if errno == nix::Error::EWOULDBLOCK {
                refused(path, "another uffd-snapshot is at work in it: wait for it")
            } else {
                Failure::io("lock", path)(errno.into())
            }
        })?;
        let ours = Manifest::folder(path);
        match fs::symlink_metadata(&ours) {
            Ok(kind) if !kind.is_dir() => {
                return Err(refused(
                    path,
                    format!("{ours:?} is not a folder: move it away"),
                ));
            }
            _ => {}
        }
        Ok(Self {
            path: path.to_path_buf(),
            locked,
        })
    }

    pub(in crate::tool) fn pagemap(&self, pid: i32) -> PathBuf {
        self.path.join(format!("pagemap-{pid}.img"))
    }

    pub(in crate::tool) fn pages(&self, id: u32) -> PathBuf {
        self.path.join(format!("pages-{id}.img"))
    }

    /// XXH3 of inventory.img.
    pub(in crate::tool) fn inventory(&self) -> Result<u64, Failure> {
        let path = self.path.join("inventory.img");
        let bytes = fs::read(&path).map_err(Failure::io("read", &path))?;
        Ok(sum(&bytes))
    }

    /// Put a file into the directory, or in the place of one: it appears whole, belongs to whom `like` belongs to, and is on disk when
    /// this returns. It is made in our own folder, which goes when all is done, so that a crash leaves nothing else behind.
    pub(in crate::tool) fn place(
        &self,
        target: &Path,
        like: &Metadata,
        write: impl FnOnce(&File) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let next = self.next();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&next)
            .map_err(Failure::io("create", &next))?;
        write(&file)?;
        // Only root may give files away. To others it is theirs, which is what they would expect.
        let _ = fchown(&file, Some(like.uid()), Some(like.gid()));
        file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))
            .and_then(|()| file.sync_all())
            .map_err(Failure::io("write", target))?;
        fs::rename(&next, target).map_err(Failure::io("create", target))?;
        self.sync()?;
        output::sync_folder(&Manifest::folder(&self.path))
    }

    /// Make the pagemap that is to take the place of a process's: whatever needs room on the disk comes before anything is replaced.
    pub(in crate::tool) fn prepare_pagemap(&self, pid: i32, bytes: &[u8]) -> Result<(), Failure> {
        let now = self.pagemap(pid);
        let like = fs::metadata(&now).map_err(Failure::io("use", &now))?;
        let next = self.next_pagemap(pid);
        self.place(&next, &like, |file| {
            file.write_all_at(bytes, 0)
                .map_err(Failure::io("write", &next))
        })
    }

    /// Put it there. On disk when this returns.
    pub(in crate::tool) fn replace_pagemap(&self, pid: i32) -> Result<(), Failure> {
        let now = self.pagemap(pid);
        fs::rename(self.next_pagemap(pid), &now).map_err(Failure::io("replace", &now))?;
        self.sync()
    }

    fn next_pagemap(&self, pid: i32) -> PathBuf {
        Manifest::folder(&self.path).join(format!("{NEXT}-pagemap-{pid}.img"))
    }

    /// Remove what was being made in our own folder when it was interrupted. Nobody else makes anything there while we have the lock.
    pub(in crate::tool) fn tidy(&self) {
        let entries = fs::read_dir(Manifest::folder(&self.path));
        for path in entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
        {
            let name = path.file_name().and_then(OsStr::to_str);
            if name.is_some_and(|name| name.starts_with(NEXT)) || output::is_partial(&path) {
                // It is removed with the folder in any case.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Remove a file; one that is not there is no error. On disk after [`Folder::sync`].
    pub(in crate::tool) fn remove(&self, target: &Path) -> Result<(), Failure> {
        match fs::remove_file(target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::io("remove", target)(error))
            }
            _ => Ok(()),
        }
    }

    /// Make the names in the directory durable.
    pub(in crate::tool) fn sync(&self) -> Result<(), Failure> {
        self.locked
            .sync_all()
            .map_err(Failure::io("sync", &self.path))
    }

    fn next(&self) -> PathBuf {
        Manifest::folder(&self.path).join(NEXT)
    }

    /// The names in the directory.
    pub(in crate::tool) fn names(&self) -> Result<Vec<String>, Failure> {
        let failed = || Failure::io("read", &self.path);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            // The names of images are ASCII.
            names.extend(name.to_str().map(str::to_owned));
        }
        Ok(names)
    }

    /// A dump beside this one that is built on it, if there is one: it lacks what it has from here.
    pub(in crate::tool) fn child(&self) -> Option<PathBuf> {
        let here = fs::metadata(&self.path).ok()?;
        let beside = fs::canonicalize(&self.path).ok()?;
        let mut beside = fs::read_dir(beside.parent()?).ok()?;
        beside.find_map(|entry| {
            let entry = entry.ok()?.path();
            let parent = fs::metadata(entry.join("parent")).ok()?;
            ((parent.dev(), parent.ino()) == (here.dev(), here.ino())).then_some(entry)
        })
    }
}

/// The metadata of a regular file that is not a link, or `None` if there is nothing.
pub(in crate::tool) fn regular(path: &Path) -> Result<Option<Metadata>, Failure> {
    match fs::symlink_metadata(path) {
        Ok(kind) if kind.is_file() => Ok(Some(kind)),
        Ok(_) => Err(Failure::io("use", path)(io::Error::other(
            "it is not a regular file, or a link to one",
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::io("use", path)(error)),
    }
}

/// The number of an image that is called PREFIX-number.img.
pub(in crate::tool) fn number_of(name: &str, prefix: &str) -> Option<u32> {
    let number = Path::new(name.strip_prefix(prefix)?);
    if number.extension() != Some(OsStr::new("img")) {
        return None;
    }
    number.file_stem()?.to_str()?.parse().ok()
}
