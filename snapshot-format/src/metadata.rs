//! Where a snapshot comes from: a JSON object. Unknown keys are skipped, every key may be missing.

use crate::codec::{Codec, Compression};
use crate::error::{Error, Place};
use serde::{Deserialize, Serialize};

/// Longest metadata section, in bytes.
pub(crate) const MAX_METADATA: u64 = 1 << 20;

/// Who made the snapshot, when, of what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Seconds since 1970-01-01 UTC when the snapshot was made.
    pub created_unix: u64,
    /// Program and version that wrote the file.
    pub creator: String,
    /// Host name.
    pub host: String,
    /// Kernel release, as `uname -r` prints.
    pub kernel: String,
    /// What the memory was.
    pub source: Source,
    /// The options that the frames were compressed with.
    pub compressed: Compressed,
}

/// What the memory was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// A raw memory file.
    Raw {
        /// Its length in bytes.
        #[serde(default)]
        bytes: u64,
    },
    /// Memory of a process.
    Process {
        /// Process id.
        #[serde(default)]
        pid: u64,
        /// Start of the process in clock ticks since boot (`/proc/PID/stat`, field 22): with `pid` and `boot_id` it
        /// names the process.
        #[serde(default)]
        start_time: u64,
        /// `/proc/sys/kernel/random/boot_id`.
        #[serde(default)]
        boot_id: String,
        /// Effective user id.
        #[serde(default)]
        uid: u32,
        /// The name of the process (`/proc/PID/comm`).
        #[serde(default)]
        name: String,
        /// The program's path.
        #[serde(default)]
        exe: String,
        /// The command line.
        #[serde(default)]
        command_line: Vec<String>,
        /// Microseconds that the process stood still.
        #[serde(default)]
        stopped_us: u64,
    },
    /// Not recorded, or of a type that this reader does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

/// The options that frames were compressed with, for people; readers need none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compressed {
    /// `stored`, `lz4` or `zstd`.
    pub codec: String,
    /// The codec's level.
    pub level: i32,
    /// Pages in a full frame.
    pub frame_pages: u16,
}

impl From<Compression> for Compressed {
    fn from(compression: Compression) -> Self {
        Self {
            codec: compression.codec.to_string(),
            level: match compression.codec {
                Codec::Zstd => compression.level,
                Codec::Stored | Codec::Lz4 => 0,
            },
            frame_pages: compression.frame_pages,
        }
    }
}

impl Metadata {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        let bytes = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        if bytes.len() as u64 > MAX_METADATA {
            return Err(format!("the metadata is over {MAX_METADATA} bytes"));
        }
        Ok(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = || Error::corrupt(Place::Metadata, "not the JSON object it should be");
        // Serde would take an array of the values as well.
        if !bytes.trim_ascii_start().starts_with(b"{") {
            return Err(wrong());
        }
        serde_json::from_slice(bytes).map_err(|_| wrong())
    }
}
