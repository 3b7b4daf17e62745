//! Where the parts of a chart stand: scales, ticks, lines and labels in the units of an SVG view box.
//!
//! Geometry only; the page's template draws it. So text is escaped in one place, and a chart can be
//! tested without reading SVG. Views are 360 units wide, which is about a telephone or a third of
//! the page: labels have nearly the same size everywhere.

use std::fmt::Write;

use serde::Serialize;

use super::figures::{count, duration, percent, significant};
use super::{Curve, Report, Series, Step};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = WIDTH - 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = HEIGHT - 38.0;

/// Series of one curve share a y axis unless the flattest would fill less than this part of it.
const LEAST_SHARE: f64 = 0.1;

/// Lines are thinned to about this many points; more cannot be seen.
const MOST_POINTS: usize = 400;

/// A mark on an axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tick {
    pub at: f64,
    pub label: String,
}

/// A line chart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Panel {
    pub stage: String,
    pub title: String,
    pub x_label: String,
    pub width: f64,
    pub height: f64,
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
    pub x_ticks: Vec<Tick>,
    pub y_ticks: Vec<Tick>,
    pub lines: Vec<Line>,
}

/// One series as it is drawn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    pub name: String,
    /// The value at its end, as text.
    pub last: String,
    /// An SVG path; empty for a single point.
    pub path: String,
    pub end_x: f64,
    pub end_y: f64,
}

/// The charts of a curve: one if its series can share an axis, otherwise one each. A series without
/// a finite point is not drawn.
pub fn panels(curve: &Curve) -> Vec<Panel> {
    let drawn: Vec<&Series> = curve
        .series
        .iter()
        .filter(|series| finite(series).next().is_some())
        .collect();
    if drawn.is_empty() {
        return Vec::new();
    }
    if share_axis(&drawn) {
        return vec![panel(curve, curve.title.clone(), &drawn)];
    }
    drawn
        .iter()
        .map(|series| panel(curve, series.name.clone(), &[*series]))
        .collect()
}

fn share_axis(series: &[&Series]) -> bool {
    let spans: Vec<(f64, f64)> = series.iter().map(|series| span(finite(series).map(|p| p.1))).collect();
    let (low, high) = span(spans.iter().flat_map(|&(low, high)| [low, high]));
    let flattest = spans
        .iter()
        .map(|(low, high)| high - low)
        .filter(|size| *size > 0.0)
        .fold(f64::INFINITY, f64::min);
    series.len() == 1 || flattest.is_infinite() || flattest >= LEAST_SHARE * (high - low)
}

fn panel(curve: &Curve, title: String, series: &[&Series]) -> Panel {
    let points = || series.iter().flat_map(|series| finite(series));
    let (x_low, x_high) = widened(span(points().map(|p| p.0)));
    let y_marks = ticks(widened(span(points().map(|p| p.1))), 4);
    let x = Scale {
        from: (x_low, x_high),
        to: (LEFT, RIGHT),
    };
    let y = Scale {
        from: span(y_marks.iter().copied()),
        to: (BOTTOM, TOP),
    };
    Panel {
        stage: curve.stage.clone(),
        title,
        x_label: curve.x_label.clone(),
        width: WIDTH,
        height: HEIGHT,
        left: LEFT,
        right: RIGHT,
        top: TOP,
        bottom: BOTTOM,
        x_ticks: marks(ticks((x_low, x_high), 5), x),
        y_ticks: marks(y_marks, y),
        lines: series.iter().map(|series| line(series, x, y)).collect(),
    }
}

fn line(series: &Series, x: Scale, y: Scale) -> Line {
    let mut path = String::new();
    for run in series
        .points
        .split(|point| !is_finite(point))
        .filter(|run| run.len() > 1)
    {
        for (index, (px, py)) in thinned(run).into_iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            // Writing to a String cannot fail.
            let _ = write!(path, "{command}{:.1} {:.1}", x.at(px), y.at(py));
        }
    }
    let (end_x, end_y) = finite(series).last().unwrap_or((x.from.0, y.from.0));
    Line {
        name: series.name.clone(),
        last: significant(end_y),
        path,
        end_x: x.at(end_x),
        end_y: y.at(end_y),
    }
}

/// The lowest and the highest point of every stretch, so that no spike is lost; and the last point.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(MOST_POINTS + 1);
    for stretch in points.chunks(points.len().div_ceil(MOST_POINTS / 2)) {
        let by_y = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (low, high) = (stretch.iter().min_by(by_y), stretch.iter().max_by(by_y));
        if let (Some(&low), Some(&high)) = (low, high) {
            kept.push(if low.0 <= high.0 { low } else { high });
            kept.push(if low.0 <= high.0 { high } else { low });
        }
    }
    kept.extend(points.last());
    kept
}

#[derive(Clone, Copy)]
struct Scale {
    from: (f64, f64),
    to: (f64, f64),
}

impl Scale {
    fn at(self, value: f64) -> f64 {
        let share = (value - self.from.0) / (self.from.1 - self.from.0);
        round(self.to.0 + share * (self.to.1 - self.to.0))
    }
}

fn marks(values: Vec<f64>, scale: Scale) -> Vec<Tick> {
    let step = values.windows(2).map(|pair| pair[1] - pair[0]).next().unwrap_or(1.0);
    let is_nought = |value: f64| value.abs() < step * 1e-6;
    values
        .into_iter()
        .map(|value| Tick {
            at: scale.at(value),
            label: significant(if is_nought(value) { 0.0 } else { value }),
        })
        .filter(|tick| {
            let (low, high) = (scale.to.0.min(scale.to.1), scale.to.0.max(scale.to.1));
            (low - 0.5..=high + 0.5).contains(&tick.at)
        })
        .collect()
}

/// About `wanted` round numbers, from at or below `low` to at or above `high`.
fn ticks((low, high): (f64, f64), wanted: usize) -> Vec<f64> {
    let rough = (high - low) / wanted as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * power)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * power);
    let first = (low / step + 1e-9).floor() as i64;
    let last = (high / step - 1e-9).ceil() as i64;
    (first..=last).map(|k| k as f64 * step).collect()
}

/// A range that is not empty: a constant stands in the middle of its axis.
fn widened((low, high): (f64, f64)) -> (f64, f64) {
    let size = low.abs().max(high.abs());
    if high - low > size * 1e-9 {
        return (low, high);
    }
    let room = if size > 0.0 { size * 0.5 } else { 0.5 };
    (low - room, high + room)
}

fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}

/// The points that can be drawn; sums of larger numbers would overflow an axis.
fn finite(series: &Series) -> impl Iterator<Item = (f64, f64)> + '_ {
    series.points.iter().copied().filter(is_finite)
}

fn is_finite(point: &(f64, f64)) -> bool {
    point.0.abs() < 1e100 && point.1.abs() < 1e100
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// How far a judge or a reward model is from preferring neither length.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bias {
    pub width: f64,
    pub height: f64,
    pub left: f64,
    pub right: f64,
    pub bottom: f64,
    /// Where "no preference" stands.
    pub middle: f64,
    pub ticks: Vec<Tick>,
    pub rows: Vec<BiasRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BiasRow {
    pub name: String,
    pub y: f64,
    pub before: Option<Dot>,
    pub after: Option<Dot>,
}

/// A marked rate. Its label stands on the side away from the other dot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Dot {
    pub x: f64,
    pub label: String,
    pub label_x: f64,
    pub anchor: &'static str,
}

/// The preferences for the longer of two equally good answers, before and after control.
pub fn bias(report: &Report) -> Option<Bias> {
    let judge = report
        .summary
        .judge
        .as_ref()
        .map(|j| ("Judge", j.prefer_longer_on_ties_before, j.prefer_longer_on_ties_after));
    let reward = report.summary.reward_model.as_ref().map(|r| {
        (
            "Reward model",
            r.prefer_longer_on_ties_before,
            r.prefer_longer_on_ties_after,
        )
    });
    let scale = Scale {
        from: (0.0, 1.0),
        to: (26.0, WIDTH - 26.0),
    };
    let rows: Vec<BiasRow> = [judge, reward]
        .into_iter()
        .flatten()
        .filter(|(_, before, after)| before.is_some() || after.is_some())
        .enumerate()
        .map(|(index, (name, before, after))| bias_row(name, 44.0 + 58.0 * index as f64, before, after, scale))
        .collect();
    let bottom = rows.last()?.y + 22.0;
    Some(Bias {
        width: WIDTH,
        height: bottom + 24.0,
        left: scale.to.0,
        right: scale.to.1,
        bottom,
        middle: scale.at(0.5),
        ticks: [0.0, 0.25, 0.5, 0.75, 1.0]
            .map(|rate| Tick {
                at: scale.at(rate),
                label: format!("{:.0}\u{202f}%", rate * 100.0),
            })
            .to_vec(),
        rows,
    })
}

fn bias_row(name: &str, y: f64, before: Option<f64>, after: Option<f64>, scale: Scale) -> BiasRow {
    // A label needs 44 units beside its dot: at the rim it goes to the inner side.
    let dot = |rate: f64, right_of_other: bool| {
        let x = scale.at(rate.clamp(0.0, 1.0));
        let right = (right_of_other || x < 56.0) && x < WIDTH - 56.0;
        Dot {
            x,
            label: percent(Some(rate)),
            label_x: if right { x + 10.0 } else { x - 10.0 },
            anchor: if right { "start" } else { "end" },
        }
    };
    let before_is_right = before.unwrap_or(0.0) > after.unwrap_or(0.0);
    BiasRow {
        name: name.to_owned(),
        y,
        before: before.filter(|b| b.is_finite()).map(|b| dot(b, before_is_right)),
        after: after.filter(|a| a.is_finite()).map(|a| dot(a, !before_is_right)),
    }
}

/// A stage's part of the time of all stages, for the bars of the stage list.
pub fn time_shares(report: &Report) -> Vec<f64> {
    let longest = report.steps.iter().map(|step| step.seconds).fold(0.0, f64::max);
    let share = |seconds: f64| {
        if longest > 0.0 {
            round(100.0 * seconds / longest)
        } else {
            0.0
        }
    };
    report.steps.iter().map(|step| share(step.seconds)).collect()
}

/// What a step took, for a picture: its rows, and its time.
pub fn step_lines(step: &Step) -> Vec<String> {
    let rows = step.rows.map(|rows| format!("{} rows", count(Some(rows))));
    rows.into_iter().chain([duration(Some(step.seconds))]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(series: &[(&str, &[(f64, f64)])]) -> Curve {
        Curve {
            stage: "ppo".into(),
            title: "Reward".into(),
            x_label: "iteration".into(),
            series: series
                .iter()
                .map(|(name, points)| Series {
                    name: (*name).into(),
                    points: points.to_vec(),
                })
                .collect(),
        }
    }

    /// Every number of a chart is finite and inside its view.
    fn check(panels: &[Panel]) {
        for panel in panels {
            let json = serde_json::to_string(panel).unwrap();
            assert!(
                !json.contains("NaN") && !json.contains("null") && !json.contains("inf"),
                "{json}"
            );
            assert!(panel.x_ticks.len() >= 2 && panel.y_ticks.len() >= 2, "{json}");
            for line in &panel.lines {
                assert!((panel.left..=panel.right).contains(&line.end_x), "{json}");
                assert!((panel.top..=panel.bottom).contains(&line.end_y), "{json}");
            }
        }
    }

    #[test]
    fn one_point_a_constant_and_nothing() {
        let single = panels(&curve(&[("reward", &[(3.0, 0.7)])]));
        check(&single);
        assert_eq!(single[0].lines[0].path, "");
        assert_eq!(single[0].lines[0].last, "0.7");

        let constant = panels(&curve(&[("kl", &[(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)])]));
        check(&constant);
        let middle = (constant[0].top + constant[0].bottom) / 2.0;
        assert!((constant[0].lines[0].end_y - middle).abs() < 1.0);

        assert_eq!(panels(&curve(&[("reward", &[])])), []);
        assert_eq!(panels(&curve(&[])), []);
    }

    #[test]
    fn what_is_not_finite_interrupts_a_line() {
        let points = [
            (0.0, 1.0),
            (1.0, 2.0),
            (2.0, f64::NAN),
            (3.0, 2.0),
            (4.0, 3.0),
            (5.0, f64::INFINITY),
        ];
        let drawn = panels(&curve(&[("loss", &points)]));
        check(&drawn);
        assert_eq!(drawn[0].lines[0].path.matches('M').count(), 2);
        assert_eq!(drawn[0].lines[0].last, "3");
        assert_eq!(panels(&curve(&[("loss", &[(0.0, f64::NAN)])])), []);
    }

    #[test]
    fn series_of_different_sizes_get_an_axis_each() {
        let drawn = panels(&curve(&[
            ("reward", &[(0.0, -0.4), (9.0, 0.9)]),
            ("tokens", &[(0.0, 34.0), (9.0, 60.0)]),
        ]));
        check(&drawn);
        assert_eq!(
            drawn.iter().map(|p| p.title.as_str()).collect::<Vec<_>>(),
            ["reward", "tokens"]
        );
        let together = panels(&curve(&[
            ("chosen", &[(0.0, 0.0), (9.0, 0.9)]),
            ("rejected", &[(0.0, 0.0), (9.0, -1.1)]),
        ]));
        check(&together);
        assert_eq!(together.len(), 1);
    }

    #[test]
    fn a_long_line_is_thinned_but_keeps_its_spike_and_its_end() {
        let mut points: Vec<(f64, f64)> = (0..50_000).map(|i| (f64::from(i), 1.0)).collect();
        points[20_000].1 = 9.0;
        let thin = thinned(&points);
        assert!(thin.len() <= MOST_POINTS + 1);
        assert!(thin.contains(&(20_000.0, 9.0)));
        assert_eq!(thin.last(), Some(&(49_999.0, 1.0)));
    }

    #[test]
    fn round_ticks_that_enclose_the_data() {
        assert_eq!(ticks((0.0, 1.0), 4), [0.0, 0.5, 1.0]);
        assert_eq!(ticks((-0.3, 12.0), 4), [-5.0, 0.0, 5.0, 10.0, 15.0]);
        assert_eq!(ticks((31.2, 32.9), 4), [31.0, 31.5, 32.0, 32.5, 33.0]);
    }

    #[test]
    fn bias_labels_stand_apart_and_inside() {
        let mut report = super::super::fixture::report();
        for (before, after) in [(0.88, 0.51), (0.5, 0.5), (1.0, 0.0), (0.0, 0.02), (0.3, 0.5)] {
            if let Some(judge) = &mut report.summary.judge {
                judge.prefer_longer_on_ties_before = Some(before);
                judge.prefer_longer_on_ties_after = Some(after);
            }
            let chart = bias(&report).unwrap();
            for dot in [&chart.rows[0].before, &chart.rows[0].after].into_iter().flatten() {
                let (from, to) = match dot.anchor {
                    "start" => (dot.label_x, dot.label_x + 44.0),
                    _ => (dot.label_x - 44.0, dot.label_x),
                };
                assert!(from >= 0.0 && to <= WIDTH, "{before} {after}: {dot:?}");
            }
        }
        report.summary.judge = None;
        report.summary.reward_model = None;
        assert_eq!(bias(&report), None);
    }
}
