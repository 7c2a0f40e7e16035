//! Why a snapshot does not fit a target.

use bytesize::ByteSize;
use snapshot_format::PlacedRegion;

/// Why a snapshot does not fit a target. Nothing of the target has been touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// Regions that belong to the process that was captured, and the target is another one.
    #[error(
        "the snapshot has memory that makes sense only in the process it was captured from, and the target is another \
         one: restoring it would destroy the target:\n{regions}\nchoose what to restore with --region NAME or \
         --region NAME=ADDRESS"
    )]
    AnotherProcess {
        /// Which, for people.
        regions: String,
    },
    /// A rollback of the heap without the data of programs and libraries.
    #[error(
        "the snapshot has the heap but not the data of the program and its libraries, which must be of the same moment:\n\
         {mappings}\ncapture with `uffd-snapshot create --private-files`, or choose what to restore with --region"
    )]
    WithoutData {
        /// Mappings of the target that are not in the snapshot.
        mappings: String,
    },
    /// The user named a region that there is not.
    #[error("the snapshot has no region \"{name}\"; it has:\n{regions}")]
    NoSuchRegion {
        /// What was named.
        name: String,
        /// What there is.
        regions: String,
    },
    /// The user named several.
    #[error(
        "\"{name}\" names several regions of the snapshot: name one by its address (0x…):\n{regions}"
    )]
    SeveralRegions {
        /// What was named.
        name: String,
        /// Which.
        regions: String,
    },
    /// Several mappings of the target fit.
    #[error(
        "region {region} fits several mappings of the target: say which with --region NAME=ADDRESS:\n{mappings}"
    )]
    Ambiguous {
        /// The region.
        region: String,
        /// Which.
        mappings: String,
    },
    /// No mapping fits.
    #[error(
        "the target has no mapping that region {region} fits; say where it goes with --region NAME=ADDRESS (at addresses \
         that are free it is mapped). Its largest mappings are:\n{mappings}"
    )]
    Missing {
        /// The region.
        region: String,
        /// What there is.
        mappings: String,
    },
    /// The place is too small.
    #[error(
        "region {region} does not fit at {at}: only {covered} of it is mapped there:\n{mappings}"
    )]
    TooSmall {
        /// The region.
        region: String,
        /// The place.
        at: String,
        /// Bytes of it that are mapped, for people.
        covered: String,
        /// What is there.
        mappings: String,
    },
    /// The mapping is of another kind.
    #[error("region {region} cannot go into {mapping}: {why}")]
    WrongKind {
        /// The region.
        region: String,
        /// The mapping.
        mapping: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another userfaultfd has the mapping.
    #[error(
        "{mapping} is served by another userfaultfd already: is another uffd-restore running for this target? End that \
         first"
    )]
    AlreadyServed {
        /// The mapping.
        mapping: String,
    },
    /// Nothing is mapped there, and this kind of memory cannot be made from outside.
    #[error(
        "nothing is mapped at {at}, where region {region} belongs, and shared memory can only be made by the target \
         itself: start it so that it has this memory"
    )]
    NotThere {
        /// The region.
        region: String,
        /// The place.
        at: String,
    },
    /// The target maps the same shared memory a second time, and would find zeros there.
    #[error(
        "{mapping} is mapped a second time, as {other}, which is not to be restored: what is read there first would be zero for \
         both; restore both (--region for each)"
    )]
    MappedElsewhere {
        /// The mapping to restore.
        mapping: String,
        /// The other one.
        other: String,
    },
    /// Two regions in one place.
    #[error("two regions would go to the same addresses, {first} and {second}: check --region")]
    Overlap {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
}

/// A region, for people.
pub(super) fn describe(region: &PlacedRegion) -> String {
    let name = match region.region.name.as_str() {
        "" => "anonymous memory",
        name => name,
    };
    let size = ByteSize(region.region.len).display().iec().to_string();
    format!(
        "\"{}\" ({:#x}, {size})",
        name.escape_debug(),
        region.region.start
    )
}

/// A list, not too long.
pub(super) fn shortened(items: &[String]) -> String {
    const MOST: usize = 10;
    let mut lines: Vec<String> = items
        .iter()
        .take(MOST)
        .map(|item| format!("  {item}"))
        .collect();
    if items.len() > MOST {
        lines.push(format!("  and {} more", items.len() - MOST));
    }
    lines.join("\n")
}
