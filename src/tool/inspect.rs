//! `uffd-snapshot inspect`: what is in a snapshot.

mod processes;

use super::{counted, open, pages_size, print, print_json, regions, size};
use crate::cli::snapshot::Inspect;
use crate::failure::Failure;
use crate::terminal::printable;
use serde::Serialize;
use snapshot_format::verify::{FrameCount, Survey, survey};
use snapshot_format::{
    Metadata, PAGE_BYTES, PlacedRegion, SectionKind, Snapshot, Source, page::pages_for,
};
use std::fs::File;
use std::time::{Duration, UNIX_EPOCH};

pub(super) fn run(args: &Inspect) -> Result<(), Failure> {
    let snapshot = open(&args.snapshot)?;
    // A file whose index is damaged still has its regions and its origin to show.
    let mut damage = None;
    let mut count = |range| {
        survey(&snapshot, range)
            .inspect_err(|error| damage = Some(error.to_string()))
            .ok()
    };
    let regions = snapshot.regions().as_slice().iter();
    let view = View {
        file: args.snapshot.to_string_lossy().into_owned(),
        snapshot: &snapshot,
        // Over all, and not the sum: a frame that two regions share counts once.
        total: count(0..snapshot.pages()),
        per_region: regions
            .map(|region| (region, count(region.page_range())))
            .collect(),
        processes: processes::of(&snapshot),
    };
    if args.json {
        print_json(&view.json())?;
    } else {
        print(&view.text())?;
    }
    match damage {
        None => Ok(()),
        Some(error) => Err(Failure::Damaged {
            path: args.snapshot.clone(),
            error,
        }),
    }
}

struct View<'a> {
    file: String,
    snapshot: &'a Snapshot<File>,
    /// None when the index cannot be read.
    total: Option<Survey>,
    per_region: Vec<(&'a PlacedRegion, Option<Survey>)>,
    processes: Vec<processes::Process>,
}

/// What `--json` prints. Lengths and addresses in bytes.
#[derive(Serialize)]
struct Json<'a> {
    file: &'a str,
    format_version: u32,
    id: String,
    metadata: &'a Metadata,
    file_bytes: u64,
    memory_bytes: u64,
    index_bytes: u64,
    max_frame_pages: u16,
    /// Null when the index cannot be read.
    pages: Option<JsonPages>,
    /// Pages of content that are in the file once, for an earlier page is the same.
    repeated_pages: Option<u64>,
    frames: Vec<JsonFrames>,
    parent: Option<String>,
    /// XXH3 of the inventory.img that the processes are from, in hexadecimal.
    images: Option<String>,
    processes: &'a [processes::Process],
    regions: Vec<JsonRegion<'a>>,
    sections: Vec<JsonSection>,
}

#[derive(Serialize)]
struct JsonPages {
    total: u64,
    zero: u64,
    filled: u64,
    content: u64,
    parent: u64,
    lost: u64,
}

#[derive(Serialize)]
struct JsonFrames {
    codec: &'static str,
    frames: u64,
    pages: u64,
    payload_bytes: u64,
}

#[derive(Serialize)]
struct JsonRegion<'a> {
    name: &'a str,
    kind: snapshot_format::RegionKind,
    shared: bool,
    protection: String,
    start: u64,
    length: u64,
    offset: u64,
    page_size: u64,
    first_page: u64,
    pages: Option<JsonPages>,
}

#[derive(Serialize)]
struct JsonSection {
    kind: String,
    offset: u64,
    length: u64,
}

impl View<'_> {
    fn section_len(&self, kind: SectionKind) -> u64 {
        let mut sections = self.snapshot.sections();
        sections
            .find(|&(other, ..)| other == kind)
            .map_or(0, |(_, _, len)| len)
    }

    fn frames(&self) -> Vec<(&'static str, FrameCount)> {
        self.total.map_or_else(Vec::new, |total| {
            vec![
                ("zstd", total.zstd),
                ("lz4", total.lz4),
                ("stored", total.stored),
            ]
        })
    }

    fn json(&self) -> Json<'_> {
        Json {
            file: &self.file,
            format_version: snapshot_format::VERSION,
            id: self.snapshot.id().to_string(),
            metadata: self.snapshot.metadata(),
            file_bytes: self.snapshot.file_len(),
            memory_bytes: self.snapshot.pages() * PAGE_BYTES,
            index_bytes: self.section_len(SectionKind::Index),
            max_frame_pages: self.snapshot.max_frame_pages(),
            pages: self.total.as_ref().map(json_pages),
            repeated_pages: self.total.as_ref().map(Survey::repeated_pages),
            frames: self
                .frames()
                .into_iter()
                .map(|(codec, count)| JsonFrames {
                    codec,
                    frames: count.frames,
                    pages: count.pages,
                    payload_bytes: count.payload_len,
                })
                .collect(),
            parent: self.snapshot.parent().map(|parent| parent.id.to_string()),
            images: (self.snapshot.processes()).map(|one| format!("{:016x}", one.images)),
            processes: &self.processes,
            regions: self.per_region.iter().map(json_region).collect(),
            sections: self
                .snapshot
                .sections()
                .map(|(kind, offset, length)| JsonSection {
                    kind: format!("{kind:?}").to_lowercase(),
                    offset,
                    length,
                })
                .collect(),
        }
    }

    fn text(&self) -> String {
        let snapshot = self.snapshot;
        let pages = snapshot.pages();
        let index = self.section_len(SectionKind::Index);
        let mut lines = vec![
            format!("{}: snapshot {}", self.file, snapshot.id()),
            format!("  format   version {}", snapshot_format::VERSION),
            format!("  made     {}", made(snapshot.metadata())),
            format!("  source   {}", self.source()),
        ];
        if let Some(parent) = snapshot.parent() {
            lines.push(format!("  parent   {} ({:?})", parent.id, parent.path));
        }
        lines.push(format!(
            "  memory   {} in {}, {}",
            pages_size(pages),
            counted(snapshot.regions().as_slice().len() as u64, "region"),
            counted(pages, "page"),
        ));
        lines.extend(self.total.iter().flat_map(|total| classes(total, pages)));
        let repeated = self.total.map_or(0, |total| total.repeated_pages());
        if repeated > 0 {
            let share = percent(repeated, pages);
            let memory = pages_size(repeated);
            lines.push(format!(
                "  shared   {repeated} of those with content, stored once, {memory} ({share})"
            ));
        }
        for (codec, count) in self.frames() {
            if count.frames > 0 {
                lines.push(format!(
                    "  frames   {} {codec}, {} of content in {} ({})",
                    count.frames,
                    pages_size(count.pages),
                    size(count.payload_len),
                    ratio(count.pages * PAGE_BYTES, count.payload_len),
                ));
            }
        }
        let content = self.total.map_or(0, |total| total.content_pages);
        lines.push(format!(
            "  file     {}: {} of the memory, {} of the content",
            size(snapshot.file_len()),
            ratio(pages * PAGE_BYTES, snapshot.file_len()),
            ratio(content * PAGE_BYTES, snapshot.file_len()),
        ));
        lines.push(format!(
            "  index    {} ({} of the memory)",
            size(index),
            percent(index, pages * PAGE_BYTES),
        ));
        lines.push("  START          SIZE       RIGHTS KIND     CONTENT    NAME".into());
        let rows = self.per_region.iter();
        let mut rows = rows.map(|(region, survey)| row(region, survey.as_ref()));
        for process in &self.processes {
            lines.push(processes::heading(process));
            lines.extend(rows.by_ref().take(process.regions));
        }
        lines.extend(rows);
        lines.join("\n")
    }

    fn source(&self) -> String {
        match (&self.snapshot.metadata().source, self.processes.len()) {
            (Source::Unknown, processes @ 1..) => {
                format!("CRIU images of {}", counted(processes as u64, "process"))
            }
            (known, _) => source(known),
        }
    }
}

/// How many pages are what, a line for each class that there is.
fn classes(total: &Survey, pages: u64) -> Vec<String> {
    let line = |(what, count): (&str, u64)| {
        let share = percent(count, pages);
        format!("  pages    {count} {what}, {} ({share})", pages_size(count))
    };
    [
        ("zero", total.zero_pages),
        ("filled", total.filled_pages),
        ("content", total.content_pages),
        ("in the parent", total.parent_pages),
        ("lost", total.lost_pages),
    ]
    .into_iter()
    .filter(|&(what, count)| count > 0 || what == "content")
    .map(line)
    .collect()
}

/// A line of the table of regions.
fn row(placed: &PlacedRegion, survey: Option<&Survey>) -> String {
    let region = &placed.region;
    let kind = format!("{:?}", region.kind).to_lowercase();
    format!(
        "  {:<14} {:<10} {}{}   {kind:<8} {:<10} {}",
        format!("{:x}", region.start),
        size(region.len),
        region.protection,
        if region.shared { 's' } else { 'p' },
        survey.map_or_else(|| "?".into(), |survey| pages_size(survey.content_pages)),
        regions::name(placed),
    )
}

fn json_region<'a>((placed, survey): &(&'a PlacedRegion, Option<Survey>)) -> JsonRegion<'a> {
    JsonRegion {
        name: &placed.region.name,
        kind: placed.region.kind,
        shared: placed.region.shared,
        protection: placed.region.protection.to_string(),
        start: placed.region.start,
        length: placed.region.len,
        offset: placed.region.offset,
        page_size: placed.region.page_size.bytes(),
        first_page: placed.first_page.0,
        pages: survey.as_ref().map(json_pages),
    }
}

fn json_pages(survey: &Survey) -> JsonPages {
    let counts = [
        survey.zero_pages,
        survey.filled_pages,
        survey.content_pages,
        survey.parent_pages,
        survey.lost_pages,
    ];
    JsonPages {
        total: counts.iter().sum(),
        zero: survey.zero_pages,
        filled: survey.filled_pages,
        content: survey.content_pages,
        parent: survey.parent_pages,
        lost: survey.lost_pages,
    }
}

fn made(metadata: &Metadata) -> String {
    // A date that no calendar has is no reason to panic.
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(metadata.created_unix));
    let date = match time {
        Some(time) if metadata.created_unix < 253_402_300_800 => {
            humantime::format_rfc3339_seconds(time).to_string()
        }
        _ => format!("{} s after 1970", metadata.created_unix),
    };
    let known = |text: &str| {
        if text.is_empty() {
            "?".to_string()
        } else {
            printable(text)
        }
    };
    format!(
        "{date} by {} on {:?}, Linux {}, {}",
        known(&metadata.creator),
        metadata.host,
        known(&metadata.kernel),
        options(metadata),
    )
}

fn options(metadata: &Metadata) -> String {
    let compressed = &metadata.compressed;
    format!(
        "{} level {}, {} per frame",
        printable(&compressed.codec),
        compressed.level,
        pages_size(u64::from(compressed.frame_pages)),
    )
}

fn source(source: &Source) -> String {
    match source {
        Source::Raw { bytes } => format!(
            "raw memory of {} ({bytes} bytes, {} pages)",
            size(*bytes),
            pages_for(*bytes)
        ),
        Source::Process {
            pid,
            name,
            command_line,
            stopped_us,
            ..
        } => format!(
            "process {pid} {name:?}, stopped for {:.1} ms: {:?}",
            Duration::from_micros(*stopped_us).as_secs_f64() * 1e3,
            command_line.join(" "),
        ),
        _ => "not recorded".into(),
    }
}

/// "3.2 x": how many times smaller `small` is than `large`.
fn ratio(large: u64, small: u64) -> String {
    format!("1/{:.1}", as_f64(large) / as_f64(small.max(1)))
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.2} %", as_f64(part) * 100.0 / as_f64(whole.max(1)))
}

#[expect(clippy::cast_precision_loss, reason = "for people, two digits")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
