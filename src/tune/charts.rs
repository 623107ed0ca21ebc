//! An evaluation as a page with pictures.

use super::agreement::{Bin, Estimate, agreements};
use super::evaluate::{Evaluation, Scores};
use plotters::prelude::*;
use std::fmt::Write;

const SIZE: (u32, u32) = (520, 320);

/// Distinct for the colour-blind (Okabe and Ito).
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// A line of a picture: its name and points.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// The page, complete in itself. `labels` are the task's, `title` says what was evaluated.
pub fn page(title: &str, labels: &[String], runs: &[Evaluation]) -> String {
    let mut html = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
        <title>{0}</title><style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1120px;padding:0 1rem;\
        color:#222;background:#f6f6f4}}section{{display:flex;flex-wrap:wrap;gap:1rem}}figure{{margin:0;background:#fff;\
        border:1px solid #ddd;border-radius:8px;padding:.75rem;max-width:100%}}figcaption{{font-weight:600}}svg{{max-width:100%;\
        height:auto}}table{{border-collapse:collapse;margin:.5rem 0}}td,th{{padding:.25rem .75rem;text-align:right;\
        border-bottom:1px solid #eee;font-variant-numeric:tabular-nums}}th:first-child{{text-align:left}}</style><h1>{0}</h1>",
        escape(title)
    );
    for (number, run) in runs.iter().enumerate() {
        let _ = write!(html, "<h2>Run {}: {}</h2><section>", number + 1, sentence(run));
        let course = run.stream.course.iter().map(|(reviews, share)| (*reviews as f64, 100.0 * share)).collect();
        let course = [Line { name: "right so far".to_owned(), points: course }];
        figure(&mut html, "Accuracy on the stream, percent, by reviews", &chart(&course, None));
        let by_quarter = |name: &str, shares: &[f64]| {
            let points = shares.iter().enumerate().map(|(at, share)| (at as f64 + 1.0, 100.0 * share)).collect();
            Line { name: name.to_owned(), points }
        };
        let stream = &run.stream;
        let shares = [by_quarter("hard", &stream.hard_share), by_quarter("reviewed", &stream.review_share)];
        figure(&mut html, "Hard, and reviewed, percent of each quarter", &chart(&shares, None));
        let tested = run.test.first().filter(|scores| scores.texts > 0);
        if let (Some(first), Some(last)) = (tested, run.test.last()) {
            figure(&mut html, "Accuracy on the test file, percent, by round", &chart(&by_round(run), None));
            let lines = [reliable("before", first), reliable("after", last)];
            figure(
                &mut html,
                "Reliability on the test file: percent right, by confidence",
                &chart(&lines, Some(100.0)),
            );
            figure(&mut html, "Test file before the first round, majority", &matrix(labels, first));
            figure(&mut html, "Test file after the last one", &matrix(labels, last));
            figure(&mut html, "Agreement on the test file, percent (95 % interval)", &agreement(first, last));
        }
        html.push_str("</section>");
    }
    html
}

fn sentence(run: &Evaluation) -> String {
    let stream = &run.stream;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let reviewed = stream.reviews as f64 / stream.texts.max(1) as f64;
    format!(
        "{} texts, {} reviewed, {} of the final labels right; rounds: {}",
        stream.texts,
        percent(reviewed),
        percent(stream.accuracy),
        run.rounds.len()
    )
}

fn figure(html: &mut String, caption: &str, content: &str) {
    let _ = write!(html, "<figure><figcaption>{caption}</figcaption>{content}</figure>");
}

/// Each SLM and the majority.
fn by_round(run: &Evaluation) -> Vec<Line> {
    let points = |of: &dyn Fn(&Scores) -> f64| {
        run.test.iter().enumerate().map(|(round, scores)| (round as f64, 100.0 * of(scores))).collect()
    };
    let slm =
        |(at, id): (usize, &String)| Line { name: id.clone(), points: points(&|scores| scores.slms[at].accuracy) };
    let mut lines: Vec<Line> = run.slms.iter().enumerate().map(slm).collect();
    lines.push(Line { name: "majority".to_owned(), points: points(&|scores| scores.majority.accuracy) });
    lines
}

/// Of the bins with at least five texts.
fn reliable(name: &str, scores: &Scores) -> Line {
    let bins = scores.reliability.iter().filter(|bin| bin.texts >= 5);
    let point = |bin: &Bin| (100.0 * bin.confidence, 100.0 * bin.accuracy);
    Line { name: name.to_owned(), points: bins.map(point).collect() }
}

fn matrix(labels: &[String], scores: &Scores) -> String {
    let head: String = labels.iter().map(|label| format!("<th>{}", escape(label))).collect();
    let mut table = format!("<table><tr><th>gold \\ given{head}");
    for (label, row) in labels.iter().zip(scores.confusion.counts()) {
        let cells: String = row.iter().take(labels.len()).map(|count| format!("<td>{count}")).collect();
        let _ = write!(table, "<tr><th>{}{cells}", escape(label));
    }
    table + "</table>"
}

/// How far the SLMs agree beyond chance.
fn agreement(first: &Scores, last: &Scores) -> String {
    let cell = |of: Estimate| {
        let [value, from, to] = [of.value, of.interval[0], of.interval[1]].map(|share| 100.0 * share);
        format!("<td>{value:.1} ({from:.1} to {to:.1})")
    };
    let pairs = agreements(&first.agreement).into_iter().zip(agreements(&last.agreement));
    let rows: String = pairs
        .map(|((name, before), (_, after))| format!("<tr><th>{}{}{}", escape(&name), cell(before), cell(after)))
        .collect();
    format!("<table><tr><th><th>before<th>after{rows}</table>")
}

/// Lines over their points, as SVG; with `diagonal` from 0 to that value on both axes and the line of equals.
fn chart(lines: &[Line], diagonal: Option<f64>) -> String {
    let mut svg = String::new();
    // Drawing into memory does not fail; a picture without points is left empty.
    let _ = draw(&mut svg, lines, diagonal);
    svg
}

fn draw(svg: &mut String, lines: &[Line], diagonal: Option<f64>) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let range = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = points().map(of).fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        if low > high { (0.0, 1.0) } else { (low, high) }
    };
    let ((left, right), (low, high)) = (range(|point| point.0), range(|point| point.1));
    let (x, y) = match diagonal {
        Some(end) => (0.0..end, 0.0..end),
        None => (left..right.max(left + 1.0), (low - 2.0).max(0.0)..high + 2.0),
    };
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut builder = ChartBuilder::on(&root);
    builder.margin(8).margin_right(20).x_label_area_size(28).y_label_area_size(44);
    let mut chart = builder.build_cartesian_2d(x, y)?;
    let longest = lines.iter().map(|line| line.points.len()).max().unwrap_or(0);
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE).axis_style(BLACK.mix(0.5)).y_labels(8).y_label_formatter(&|y| format!("{y:.0}"));
    mesh.x_labels(longest.clamp(2, 10)).x_label_formatter(&|x| format!("{x:.0}")).draw()?;
    if let Some(end) = diagonal {
        chart.draw_series(LineSeries::new([(0.0, 0.0), (end, end)], BLACK.mix(0.3)))?;
    }
    for (line, color) in lines.iter().zip(COLORS.iter().cycle()) {
        let style = color.stroke_width(2);
        let drawn = chart.draw_series(LineSeries::new(line.points.iter().copied(), style).point_size(3))?;
        drawn.label(&line.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    if lines.len() > 1 {
        let place = SeriesLabelPosition::LowerRight;
        chart.configure_series_labels().position(place).background_style(WHITE.mix(0.8)).draw()?;
    }
    root.present()?;
    drop(chart);
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
