//! Where a snapshot comes from: a JSON object. Unknown keys are skipped, every key may be missing.

use crate::codec::{Codec, Compression};
use crate::error::{Error, Place};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Longest metadata section, in bytes.
pub(crate) const MAX_METADATA: u64 = 1 << 20;

/// Who made the snapshot, when, of what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Seconds since 1970-01-01 UTC when the snapshot was made.
    #[serde(deserialize_with = "lenient")]
    pub created_unix: u64,
    /// Program and version that wrote the file.
    #[serde(deserialize_with = "lenient")]
    pub creator: String,
    /// Host name.
    #[serde(deserialize_with = "lenient")]
    pub host: String,
    /// Kernel release, as `uname -r` prints.
    #[serde(deserialize_with = "lenient")]
    pub kernel: String,
    /// What the memory was.
    #[serde(deserialize_with = "lenient_object")]
    pub source: Source,
    /// The options that the frames were compressed with.
    #[serde(deserialize_with = "lenient_object")]
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
        #[serde(default, deserialize_with = "lenient")]
        bytes: u64,
    },
    /// Memory of a process.
    Process {
        /// Process id.
        #[serde(default, deserialize_with = "lenient")]
        pid: u64,
        /// Start of the process in clock ticks since boot (`/proc/PID/stat`, field 22): with `pid` and `boot_id` it
        /// names the process.
        #[serde(default, deserialize_with = "lenient")]
        start_time: u64,
        /// `/proc/sys/kernel/random/boot_id`.
        #[serde(default, deserialize_with = "lenient")]
        boot_id: String,
        /// Real user id.
        #[serde(default, deserialize_with = "lenient")]
        uid: u32,
        /// The name of the process (`/proc/PID/comm`).
        #[serde(default, deserialize_with = "lenient")]
        name: String,
        /// The program's path.
        #[serde(default, deserialize_with = "lenient")]
        exe: String,
        /// The command line.
        #[serde(default, deserialize_with = "lenient")]
        command_line: Vec<String>,
        /// Microseconds that the process stood still.
        #[serde(default, deserialize_with = "lenient")]
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
    #[serde(deserialize_with = "lenient")]
    pub codec: String,
    /// The codec's level.
    #[serde(deserialize_with = "lenient")]
    pub level: i32,
    /// Pages in a full frame.
    #[serde(deserialize_with = "lenient")]
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
        let value: Value = serde_json::from_slice(bytes).map_err(|_| wrong())?;
        if !value.is_object() {
            return Err(wrong());
        }
        serde_json::from_value(value).map_err(|_| wrong())
    }
}

/// A value, or the default when it has another type: nothing in the metadata is worth refusing a snapshot for.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// The same for a part that is an object. Serde would take an array of the values as well.
fn lenient_object<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let object = Some(value).filter(Value::is_object);
    Ok(object
        .and_then(|value| serde_json::from_value(value).ok())
        .unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_other_types_are_as_good_as_missing() {
        for json in [
            "{}",
            r#"{"created_unix":"today","host":null,"kernel":7,"compressed":["zstd",3,4],"source":["raw",5]}"#,
            r#"{"created_unix":1.5,"source":null,"compressed":null,"unknown":[1]}"#,
            r#"{"created_unix":-1,"source":{"type":7}}"#,
            r#"{"source":{"type":"from the future","x":1}}"#,
            r#"{"host":"a","host":7}"#,
        ] {
            let read = Metadata::decode(json.as_bytes()).expect(json);
            assert_eq!(read, Metadata::default(), "{json}");
        }
        let read =
            Metadata::decode(br#"{"source":{"type":"process","pid":[],"name":"x","uid":-1}}"#);
        let Source::Process { pid: 0, name, .. } = read.expect("an object").source else {
            panic!("not a process");
        };
        assert_eq!(name, "x");
    }

    #[test]
    fn what_is_not_one_json_object_is_refused() {
        for bytes in [
            &b""[..],
            b"[]",
            b"7",
            b"{} {}",
            b"{",
            b"{\"x\":\"\xff\"}",
            b"null",
            b"{}\0",
        ] {
            assert!(Metadata::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let metadata = Metadata {
            created_unix: 7,
            creator: "test".into(),
            source: Source::Process {
                pid: 1,
                start_time: 2,
                boot_id: "boot".into(),
                uid: 3,
                name: "n".into(),
                exe: "/e".into(),
                command_line: vec!["a".into(), "b".into()],
                stopped_us: 4,
            },
            ..Metadata::default()
        };
        let bytes = metadata.encode().expect("small");
        assert_eq!(Metadata::decode(&bytes).expect("an object"), metadata);
    }
}
