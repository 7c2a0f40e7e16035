//! What a snapshot says about its making.

use crate::failure::Failure;
use snapshot_format::{Compression, Metadata, SnapshotId, Source};
use std::time::{SystemTime, UNIX_EPOCH};

/// The given id, or a new one of 128 random bits.
///
/// # Errors
/// The system has no random numbers.
pub(crate) fn id_or_random(id: Option<SnapshotId>) -> Result<SnapshotId, Failure> {
    if let Some(id) = id {
        return Ok(id);
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::io("read", "/dev/urandom".as_ref())(std::io::Error::other(error.to_string()))
    })?;
    Ok(SnapshotId(bytes))
}

/// Metadata of a snapshot of `source` made now on this machine.
#[must_use]
pub(crate) fn metadata(source: Source, compression: Compression) -> Metadata {
    let uname = nix::sys::utsname::uname().ok();
    let text = |get: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        uname
            .as_ref()
            .map(|uname| get(uname).to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    Metadata {
        created_unix: created(),
        creator: concat!("uffd-snapshot ", env!("CARGO_PKG_VERSION")).into(),
        host: text(|uname| uname.nodename()),
        kernel: text(|uname| uname.release()),
        source,
        compressed: compression.into(),
    }
}

/// Now, or what SOURCE_DATE_EPOCH says for output that can be reproduced.
fn created() -> u64 {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    })
}
