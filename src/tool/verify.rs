//! `uffd-snapshot verify`: is every page good?

use super::{counted, open, print_json, regions, size, threads};
use crate::cli::snapshot::Verify;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::terminal::say;
use serde::Serialize;
use snapshot_format::verify::{BadPages, Survey, survey, verify};
use snapshot_format::{PAGE_BYTES, RegionMap};
use std::time::Instant;

/// Runs of bad pages that are listed; all are counted.
const MOST_LISTED: usize = 1000;

/// A run of bad pages.
#[derive(Serialize)]
struct Bad {
    first_page: u64,
    pages: u64,
    region: String,
    address: u64,
    error: String,
}

/// The result, for machines.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    good: bool,
    pages: u64,
    bad_pages: u64,
    lost_pages: Option<u64>,
    parent_pages: Option<u64>,
    /// At most [`MOST_LISTED`] runs.
    bad: &'a [Bad],
    seconds: f64,
}

pub(super) fn run(args: &Verify) -> Result<(), Failure> {
    let started = Instant::now();
    let snapshot = open(&args.snapshot)?;
    let quiet = args.quiet || args.json;
    let total = snapshot.pages();
    let progress = Progress::new("verifying", Some(total * PAGE_BYTES), quiet);
    let (mut bad_pages, mut listed) = (0, Vec::new());
    let found = |run: BadPages| {
        bad_pages += run.pages;
        if listed.len() < MOST_LISTED {
            let bad = describe(snapshot.regions(), &run);
            if !quiet {
                progress.suspended(|| say(&sentence(snapshot.regions(), &run)));
            }
            listed.push(bad);
        }
    };
    verify(&snapshot, threads(args.jobs), found, |pages| {
        progress.add(pages * PAGE_BYTES);
    });
    drop(progress);
    let survey = survey(&snapshot, 0..total).ok();
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        print_json(&Report {
            file: args.snapshot.to_string_lossy().into_owned(),
            good: bad_pages == 0,
            pages: total,
            bad_pages,
            lost_pages: survey.map(|survey| survey.lost_pages),
            parent_pages: survey.map(|survey| survey.parent_pages),
            bad: &listed,
            seconds,
        })?;
    }
    if bad_pages > 0 {
        return Err(Failure::BadPages {
            path: args.snapshot.clone(),
            pages: bad_pages,
            total,
        });
    }
    if !quiet {
        say(&format!(
            "{}: {} ({}), none bad{}, {seconds:.2} s",
            args.snapshot.display(),
            counted(total, "page"),
            size(total * PAGE_BYTES),
            survey.map_or_else(String::new, |survey| unread(&survey)),
        ));
    }
    Ok(())
}

/// Pages that are not bad, but have no content here.
fn unread(survey: &Survey) -> String {
    let lost = match survey.lost_pages {
        0 => String::new(),
        lost => format!("; {} lost at capture time", counted(lost, "page")),
    };
    match survey.parent_pages {
        0 => lost,
        parent => format!(
            "{lost}; {} in the parent, not looked up there",
            counted(parent, "page")
        ),
    }
}

fn describe(map: &RegionMap, run: &BadPages) -> Bad {
    let region = map.region_of(run.first);
    Bad {
        first_page: run.first.0,
        pages: run.pages,
        region: region.map_or_else(String::new, regions::name),
        address: region.map_or(0, |region| region.address_of(run.first)),
        error: run.error.to_string(),
    }
}

fn sentence(map: &RegionMap, run: &BadPages) -> String {
    let place = regions::place(map, run.first, run.pages);
    let pages = match run.pages {
        1 => format!("page {}", run.first),
        pages => format!("pages {}-{}", run.first, run.first.0 + pages - 1),
    };
    format!("bad {pages} ({place}): {}", run.error)
}
