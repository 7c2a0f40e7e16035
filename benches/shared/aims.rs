//! What is aimed at, and by how much it was reached.

use std::cell::RefCell;

/// Which side of a number is good.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Debug)]
struct Line {
    what: String,
    aim: Aim,
    values: Vec<(String, f64)>,
}

/// All that was aimed at, in the order of the parts.
#[derive(Debug, Default)]
pub(crate) struct Aims(RefCell<Vec<Line>>);

impl Aims {
    /// Adds a value of a case. The first value of an aim makes its line.
    pub(crate) fn note(&self, what: &str, aim: Aim, case: &str, value: f64) {
        let mut lines = self.0.borrow_mut();
        let values = (case.to_owned(), value);
        match lines.iter_mut().find(|line| line.what == what) {
            Some(line) => line.values.push(values),
            None => lines.push(Line {
                what: what.to_owned(),
                aim,
                values: vec![values],
            }),
        }
    }

    pub(crate) fn print(&self) {
        let lines = self.0.borrow();
        if lines.is_empty() {
            return;
        }
        println!("\n## Aims\n\n| what | aim | measured | met? |\n|---|--:|---|---|");
        for line in lines.iter() {
            let met = line
                .values
                .iter()
                .filter(|(_, value)| line.aim.is_met(*value));
            let met = match met.count() {
                0 => "**no**".to_owned(),
                all if all == line.values.len() => "**yes**".to_owned(),
                some => format!("{some} of {}", line.values.len()),
            };
            let values = line.values.iter();
            let values: Vec<String> = values
                .map(|(case, value)| format!("{case} {value:.2}"))
                .collect();
            println!(
                "| {} | {} | {} | {met} |",
                line.what,
                line.aim.text(),
                values.join(", ")
            );
        }
    }
}

impl Aim {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {limit:.2}"),
            Self::AtLeast(limit) => format!("≥ {limit:.2}"),
        }
    }
}
