//! What a page costs that the target waits for, alone and while everything else is installed in the background.

use crate::Setup;
use crate::aims::Aim;
use crate::area::Area;
use crate::image::Image;
use crate::limits;
use crate::measure::Series;
use crate::one_core::on_one_core;
use crate::orders;
use crate::restoring::{Restore, Restored, restore};
use crate::target::{Board, Scene};

/// Packing options.
const CASES: [&[&str]; 3] = [
    &[],
    &["--codec", "lz4"],
    &["--codec", "lz4", "--frame-pages", "1"],
];

#[derive(Debug, Default)]
struct Row {
    trip: Series,
    page: Series,
    p50: Series,
    p50_ratio: Series,
    p99: Series,
    p99_ratio: Series,
    filled: Filled,
    spread: Filled,
}

/// What it costs that everything else is installed meanwhile.
#[derive(Debug, Default)]
struct Filled {
    without: Series,
    with: Series,
    waited: Series,
    p50: Series,
    p99: Series,
}

impl Filled {
    fn push(&mut self, without: &Series, with: &Series) {
        self.without.push(without.median());
        self.with.push(with.median());
        self.waited
            .push(with.len() as f64 * 100.0 / without.len() as f64);
        self.p50.push(with.median() / without.median());
        self.p99.push(with.percentile(99) / without.percentile(99));
    }

    fn cells(&self) -> String {
        format!(
            " {:.1} | {:.1} | {} | {} | {:.0} |",
            self.without.median(),
            self.with.median(),
            self.p50.ratio(),
            self.p99.ratio(),
            self.waited.median()
        )
    }
}

/// Measure and print.
pub(crate) fn run(setup: &Setup, images: &[Image]) {
    println!("\n## A page that the target waits for: random demand\n");
    println!(
        "Random pages with content, no two of a frame, one after the other without a pause; µs as the target sees it, everything on one core. \
         The round trip is one thread with poll, read and COPY of one page, the better of one core and all; \"reading\" is `Cursor::read_page` \
         alone. The first ratios are p50 and p99 / (round trip + reading), by their p50. Behind them: `--prefill all` in the background against nothing ahead, \
         on one core and on all (where a core that slept has to wake up): p50 of both, ratio of p50 and of p99 of those touches that waited, \
         and how many did (% of without). Medians of rounds (smallest - largest).\n"
    );
    println!(
        "| image | packed | round trip p50 | reading p50 | p50 | ratio | p99 | ratio | one core: p50 | with prefill | ratio | ratio of p99 | waited, % \
         | all cores: p50 | with prefill | ratio | ratio of p99 | waited, % |"
    );
    println!("|---|---|{}", "--:|".repeat(16));
    for image in images {
        for options in CASES {
            case(setup, image, options);
        }
    }
}

fn case(setup: &Setup, image: &Image, options: &[&str]) {
    let snapshot = image.pack(setup, options);
    let pages = orders::random(image, if setup.quick { 1000 } else { 4000 });
    let board = Board::new(pages.len());
    let area = Area::map(image.pages, None);
    let scene = Scene {
        area: &area,
        board: &board,
        image,
        eager: None,
    };
    let run = |options| restore(setup, scene, &pages, Restore::new(&snapshot, options));
    let none = ["--prefill", "none"];
    let all = ["--prefill", "all"];
    let mut row = Row::default();
    for _ in 0..setup.rounds {
        let trip = limits::round_trip(scene, &pages).median();
        let mut page = 0.0;
        let mut together: Option<[Restored; 2]> = None;
        on_one_core(|| {
            page = limits::read_alone(&snapshot, &pages).median();
            together = Some([run(&none), run(&all)]);
        });
        let [alone, filled] = together
            .expect("it was measured")
            .map(|one| one.touched.waited());
        let [spread, spread_filled] = [run(&none), run(&all)].map(|one| one.touched.waited());
        let limit = trip + page;
        row.trip.push(trip);
        row.page.push(page);
        row.p50.push(alone.median());
        row.p50_ratio.push(alone.median() / limit);
        row.p99.push(alone.percentile(99));
        row.p99_ratio.push(alone.percentile(99) / limit);
        row.filled.push(&alone, &filled);
        row.spread.push(&spread, &spread_filled);
    }
    let packed = match options {
        [] => "as is".to_owned(),
        some => some.join(" "),
    };
    println!(
        "| {} | {packed} | {:.1} | {:.1} | {:.1} | {} | {:.1} | {} |{}{}",
        image.name,
        row.trip.median(),
        row.page.median(),
        row.p50.median(),
        row.p50_ratio.ratio(),
        row.p99.median(),
        row.p99_ratio.ratio(),
        row.filled.cells(),
        row.spread.cells(),
    );
    let case = format!("{} {packed}:", image.name);
    let note = |what: &str, limit, ratio: &Series| {
        setup
            .aims
            .note(what, Aim::AtMost(limit), &case, ratio.median());
    };
    note(
        "random demand, p50 / (round trip + page alone)",
        1.1,
        &row.p50_ratio,
    );
    note(
        "random demand, p99 / (round trip + page alone)",
        2.0,
        &row.p99_ratio,
    );
    for (cores, fill) in [("one core", &row.filled), ("all cores", &row.spread)] {
        note(
            &format!("`--prefill all`, {cores}: p50 / without"),
            1.15,
            &fill.p50,
        );
        note(
            &format!("`--prefill all`, {cores}: p99 / without"),
            2.0,
            &fill.p99,
        );
    }
    std::fs::remove_file(&snapshot).expect("the snapshot");
}
