//! What was measured, for people, and against what was aimed at.

use crate::aims::Aim;
use crate::measure::Series;
use crate::rounds::Row;
use crate::way::{Kind, Way};
use crate::workload::Workload;
use crate::{FIRST, Setup};

/// The tables of one workload, with warm or with cold files.
pub(crate) fn print(workload: &dyn Workload, rows: &[(Kind, Row)], cold: bool) {
    println!("\n## {}, {} files\n", workload.name(), files(cold));
    println!(
        "| way | first {FIRST} {}, ms | × stock | all in, ms | × stock | daemon: CPU, ms | memory, MiB |\n|---|{}",
        workload.unit(),
        "--:|".repeat(6)
    );
    for (kind, row) in rows {
        let ratio = |of: fn(&Row) -> &Series| ratio(rows, *kind, of(row), of);
        print!(
            "| {} | {:.1} | {} | {:.0} | {} |",
            kind.name(),
            row.first.median(),
            // The eager way has fewer of them.
            if *kind == Kind::Eager {
                String::new()
            } else {
                ratio(|row| &row.first)
            },
            row.all.median(),
            ratio(|row| &row.all),
        );
        match kind {
            Kind::Eager => println!(" | |"),
            _ => println!(" {:.0} | {:.1} |", row.cpu.median(), row.peak.median()),
        }
    }
    for (case, pause) in workload.pauses().iter().enumerate() {
        print_touching(workload, rows, case, *pause);
    }
}

fn print_touching(workload: &dyn Workload, rows: &[(Kind, Row)], case: usize, pause: u64) {
    let pause = match pause {
        0 => "without a pause".to_owned(),
        pause => format!("and {pause} µs of work after each"),
    };
    println!(
        "\nDuring the fill, {} one after the other {pause}:\n\n| way | p50, µs | p99, µs | × stock | p99 of those that waited | longest, ms | touches | waited, % | all in, ms | × stock |\n|---|{}",
        workload.during(),
        "--:|".repeat(9)
    );
    for (kind, row) in rows.iter().filter(|(kind, _)| *kind != Kind::Eager) {
        let touching = &row.touching[case];
        println!(
            "| {} | {:.1} | {:.0} | {} | {:.0} | {:.1} | {:.0} | {:.1} | {:.0} | {} |",
            kind.name(),
            touching.p50.median(),
            touching.p99.median(),
            ratio(rows, *kind, &touching.p99, |row| &row.touching[case].p99),
            touching.waited_p99.median(),
            touching.longest.median(),
            touching.touches.median(),
            touching.waited.median(),
            touching.all.median(),
            ratio(rows, *kind, &touching.all, |row| &row.touching[case].all),
        );
    }
}

/// Against the same of stock, round by round; nothing for stock itself.
fn ratio<'a>(
    rows: &'a [(Kind, Row)],
    kind: Kind,
    value: &Series,
    of: impl Fn(&'a Row) -> &'a Series,
) -> String {
    match stock(rows) {
        Some(stock) if kind != Kind::Stock => value.over(of(stock)).ratio(),
        _ => String::new(),
    }
}

fn files(cold: bool) -> &'static str {
    if cold { "cold" } else { "warm" }
}

fn stock(rows: &[(Kind, Row)]) -> Option<&Row> {
    let found = rows.iter().find(|(kind, _)| *kind == Kind::Stock);
    found.map(|(_, row)| row)
}

/// Notes how far the aims are reached.
pub(crate) fn judge(setup: &Setup, workload: &dyn Workload, rows: &[(Kind, Row)], cold: bool) {
    let Some(stock) = stock(rows) else { return };
    for (kind, row) in rows.iter().filter(|(kind, _)| Kind::OURS.contains(kind)) {
        let case = format!("{} {} {}:", workload.name(), files(cold), kind.short());
        let note = |what: &str, aim, value: &Series| {
            setup.aims.note(what, aim, &case, value.median());
        };
        for (case, pause) in workload.pauses().iter().enumerate() {
            let p99 = row.touching[case].p99.over(&stock.touching[case].p99);
            let what = match pause {
                0 => "p99 of a touch during the fill, no pause / stock".to_owned(),
                pause => format!("p99 of a touch during the fill, {pause} µs between / stock"),
            };
            note(&what, Aim::AtMost(1.0 / 3.0), &p99);
        }
        let all = row.all.over(&stock.all);
        match kind {
            Kind::Plain => note("all in, the dump as it is / stock", Aim::AtMost(0.8), &all),
            Kind::Zstd => note("all in, zstd / stock", Aim::AtMost(1.1), &all),
            _ => note(
                "all in, LZ4 / stock (no aim of its own: that of zstd)",
                Aim::AtMost(1.1),
                &all,
            ),
        }
        if cold {
            let faster = stock.first.over(&row.first);
            note(
                "first answers, cold: times as fast as stock",
                Aim::AtLeast(1.3),
                &faster,
            );
        } else {
            let slower = row.first.over(&stock.first);
            note("first answers, warm / stock", Aim::AtMost(1.0), &slower);
        }
    }
}

/// How much of the disk each way takes.
pub(crate) fn disk(setup: &Setup, workload: &dyn Workload, ways: &[Way]) {
    let Some(stock) = ways.iter().find(|way| way.kind == Kind::Stock) else {
        return;
    };
    println!(
        "\n## {}, on the disk\n\n| what | MB | × the dump |\n|---|--:|--:|",
        workload.name()
    );
    for way in ways
        .iter()
        .filter(|way| !matches!(way.kind, Kind::Eager | Kind::Plain))
    {
        let ratio = way.disk() as f64 / stock.disk() as f64;
        let what = match way.kind {
            Kind::Stock => "the dump".to_owned(),
            kind => format!("stripped dump and snapshot, {}", kind.short()),
        };
        println!("| {what} | {:.1} | {ratio:.3} |", way.disk() as f64 / 1e6);
        if way.kind != Kind::Stock {
            let case = format!("{} {}:", workload.name(), way.kind.short());
            setup
                .aims
                .note("disk / the dump", Aim::AtMost(0.4), &case, ratio);
        }
    }
}

/// How much stock differs from itself: its second restore of a round against its first.
pub(crate) fn noise(workload: &dyn Workload, rows: &[(Kind, Row)], cold: bool) {
    let Some(stock) = stock(rows) else { return };
    let each = 1 + workload.pauses().len();
    let [first, second] = [0, 1].map(|number| stock.first.one_of(each, number));
    println!(
        "\nNoise, {} {}: the first answers of stock, second restore of a round / first: {}.",
        workload.name(),
        files(cold),
        second.over(&first).ratio()
    );
}
