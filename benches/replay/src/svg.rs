//! Curves as an SVG: panels above each other with the same time below.

use std::fmt::Write;

/// A line through points.
pub(crate) struct Curve {
    pub(crate) label: &'static str,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Curves of the same unit.
pub(crate) struct Panel {
    title: &'static str,
    pub(crate) curves: Vec<Curve>,
}

impl Panel {
    pub(crate) fn new(title: &'static str) -> Self {
        Self {
            title,
            curves: Vec::new(),
        }
    }
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 210.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 50.0;
const GAP: f64 = 50.0;
/// Points of a curve at most: there are no more pixels.
const POINTS: usize = 800;
const COLOURS: [&str; 2] = ["#b2560d", "#1b6ca8"];

/// All panels.
pub(crate) fn draw(title: &str, below: &str, panels: &[Panel]) -> String {
    let times = panels.iter().flat_map(|panel| &panel.curves);
    let longest = times
        .flat_map(|curve| &curve.points)
        .map(|(time, _)| *time)
        .fold(1.0, f64::max);
    let height = TOP + panels.len() as f64 * (HEIGHT + GAP) + 20.0;
    let width = LEFT + WIDTH + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>\n"
    );
    for (number, panel) in panels.iter().enumerate() {
        let top = TOP + number as f64 * (HEIGHT + GAP);
        panel_at(&mut svg, panel, top, longest);
    }
    line(
        &mut svg,
        &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{below}</text>",
            LEFT + WIDTH / 2.0,
            height - 12.0
        ),
    );
    svg + "</svg>\n"
}

fn panel_at(svg: &mut String, panel: &Panel, top: f64, longest: f64) {
    let values = panel.curves.iter().flat_map(|curve| &curve.points);
    let most = values.map(|(_, value)| *value).fold(1.0, f64::max);
    let (across, up) = (step(longest), step(most));
    let x = |time: f64| LEFT + time / longest * WIDTH;
    let y = |value: f64| top + HEIGHT - value / most * (HEIGHT - 25.0);
    line(
        svg,
        &format!(
            "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{}</text>",
            top + 8.0,
            panel.title
        ),
    );
    for mark in marks(longest, across) {
        let (x, bottom) = (x(mark), top + HEIGHT);
        line(
            svg,
            &format!(
                "<path d=\"M{x:.1} {:.1}V{bottom:.1}\" stroke=\"#eee\"/>",
                top + 15.0
            ),
        );
        line(
            svg,
            &format!(
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{mark}</text>",
                bottom + 16.0
            ),
        );
    }
    for mark in marks(most, up) {
        let y = y(mark);
        line(
            svg,
            &format!(
                "<path d=\"M{LEFT} {y:.1}H{:.1}\" stroke=\"#ddd\"/>",
                LEFT + WIDTH
            ),
        );
        line(
            svg,
            &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mark}</text>",
                LEFT - 6.0,
                y + 4.0
            ),
        );
    }
    for (number, (curve, colour)) in panel.curves.iter().zip(COLOURS).enumerate() {
        let every = curve.points.len().div_ceil(POINTS).max(1);
        let last = curve.points.len().saturating_sub(1);
        let kept = curve
            .points
            .iter()
            .enumerate()
            .filter(|(at, _)| at % every == 0 || *at == last);
        let points: Vec<String> = kept
            .map(|(_, (time, value))| format!("{:.1},{:.1}", x(*time), y(*value)))
            .collect();
        line(
            svg,
            &format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                points.join(" ")
            ),
        );
        line(
            svg,
            &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{colour}\">{}</text>",
                LEFT + WIDTH,
                top + 8.0 + 16.0 * number as f64,
                curve.label
            ),
        );
    }
}

/// A round number, of which five or so make up all.
fn step(all: f64) -> f64 {
    let power = 10_f64.powf((all / 5.0).log10().floor());
    let times = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|times| times * power * 6.0 >= all);
    times.unwrap_or(10.0) * power
}

fn marks(most: f64, step: f64) -> impl Iterator<Item = f64> {
    (0..=10)
        .map(move |number| f64::from(number) * step)
        .take_while(move |mark| *mark <= most)
}

fn line(svg: &mut String, text: &str) {
    // A string takes everything.
    let _ = writeln!(svg, "{text}");
}
