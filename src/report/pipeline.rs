//! The picture of a run: which stage fed which, with the rows and the time of each.
//!
//! Two lanes: learning from revisions above, learning from judgements below; prompts come in at the
//! left, evaluation is at the right, and the constitution stands between the lanes because both ask
//! it. A recipe may lack any of these; what is there is drawn. Geometry only, as in [`super::chart`].

use serde::Serialize;

use super::chart::step_lines;
use super::figures::{count, duration};
use super::{Report, Step};
use crate::train::online::METHODS;

const NODE: f64 = 130.0;
const GAP: f64 = 28.0;
const HEIGHT: f64 = 66.0;
const MARGIN: f64 = 6.0;
/// Room for a lane's name at its outer edge; the inner edge is crossed by arrows.
const HEADER: f64 = 32.0;
const PADDING: f64 = 14.0;
/// The strip between the lanes, where the constitution stands.
const MIDDLE: f64 = 96.0;
/// The box around respond, critique and revise.
const GROUP: f64 = 104.0;
/// With more columns the labels would be too small: the page then shows the list of stages alone.
const MOST_COLUMNS: usize = 9;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Picture {
    pub width: f64,
    pub height: f64,
    pub lanes: Vec<Lane>,
    pub groups: Vec<Node>,
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
}

/// A tinted strip behind stages that belong together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lane {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
    pub name: &'static str,
    /// Baseline of the name.
    pub name_y: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
    /// How it is drawn: `stage`, `part` (of a stage) or `source`.
    pub style: &'static str,
    pub title: String,
    /// Under the title, one per line.
    pub lines: Vec<String>,
    /// Everything, untruncated, for the tooltip.
    pub tip: String,
}

impl Node {
    fn left(&self) -> (f64, f64) {
        (self.x, self.y + self.height / 2.0)
    }

    fn right(&self) -> (f64, f64) {
        (self.x + self.width, self.y + self.height / 2.0)
    }

    fn top(&self) -> (f64, f64) {
        (self.x + self.width / 2.0, self.y)
    }

    fn bottom(&self) -> (f64, f64) {
        (self.x + self.width / 2.0, self.y + self.height)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Edge {
    pub path: String,
    /// Advice (the constitution) rather than data.
    pub dashed: bool,
}

/// The stages of a run by their place in the picture.
#[derive(Default)]
struct Parts<'a> {
    world: Option<&'a Step>,
    upper: Vec<&'a Step>,
    /// Of the lower lane: what comes before it forks.
    trunk: Vec<&'a Step>,
    /// One row each: every reward model with the PPO that follows it, every DPO.
    branches: Vec<Vec<&'a Step>>,
    evals: Vec<&'a Step>,
}

impl<'a> Parts<'a> {
    fn of(steps: &'a [Step]) -> Self {
        let mut parts = Self::default();
        let mut rewarded: Option<usize> = None;
        for step in steps {
            let learning = parts.branches.is_empty();
            match step.kind.as_str() {
                "world" if parts.world.is_none() => parts.world = Some(step),
                // Held-out prompts, and their revisions after training, are part of the evaluation.
                "eval" | "world" => parts.evals.push(step),
                "revise" if !learning => parts.evals.push(step),
                "revise" | "sft" => parts.upper.push(step),
                "sample" | "judge" | "balance" => parts.trunk.push(step),
                "dpo" => parts.branches.push(vec![step]),
                "reward" => {
                    rewarded = Some(parts.branches.len());
                    parts.branches.push(vec![step]);
                }
                method if METHODS.contains(&method) => match rewarded {
                    Some(row) => parts.branches[row].push(step),
                    None => parts.branches.push(vec![step]),
                },
                _ if parts.trunk.is_empty() && learning => parts.upper.push(step),
                _ => parts.trunk.push(step),
            }
        }
        // The longer row above, so that the picture looks the same in whatever order they ran.
        parts.branches.sort_by_key(|row| std::cmp::Reverse(row.len()));
        parts
    }

    fn has_lower(&self) -> bool {
        !self.trunk.is_empty() || !self.branches.is_empty()
    }

    /// The columns between the prompts and the evaluation.
    fn columns(&self) -> usize {
        let upper = self.upper.iter().map(|step| columns_of(step)).sum::<usize>();
        let branch = self.branches.iter().map(Vec::len).max().unwrap_or(0);
        upper.max(self.trunk.len() + branch)
    }
}

fn columns_of(step: &Step) -> usize {
    if step.kind == "revise" { 3 } else { 1 }
}

/// The picture of a report's steps; `None` when there is nothing to draw or too much to read.
pub fn picture(report: &Report) -> Option<Picture> {
    let parts = Parts::of(&report.steps);
    let columns = 1 + parts.columns() + usize::from(!parts.evals.is_empty());
    if parts.columns() == 0 || columns > MOST_COLUMNS {
        return None;
    }
    Some(Drawing::new(&parts, columns).finish(&parts, constitution_name(report)))
}

/// The constitution's name and version: its provenance up to a comma or a bracket.
fn constitution_name(report: &Report) -> &str {
    report
        .provenance
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case("constitution"))
        .and_then(|(_, value)| value.split([',', '(']).next())
        .map_or("", str::trim)
}

/// The picture while it is drawn, with the nodes that later edges start from or end at.
struct Drawing {
    picture: Picture,
    /// Middle of the strip between the lanes.
    centre: f64,
    /// Upper edge of the lower lane.
    lower_top: f64,
    first: Vec<Node>,
    advised: Vec<Node>,
    last_upper: Option<Node>,
    first_lower: Option<Node>,
    ends_lower: Vec<Node>,
}

impl Drawing {
    fn new(parts: &Parts<'_>, columns: usize) -> Self {
        let upper = if parts.upper.is_empty() {
            0.0
        } else if parts.upper.iter().any(|step| step.kind == "revise") {
            HEADER + GROUP + PADDING
        } else {
            HEADER + HEIGHT + PADDING
        };
        let lower = if parts.has_lower() {
            let rows = parts.branches.len().max(1) as f64;
            HEADER + rows * HEIGHT + (rows - 1.0) * PADDING + PADDING
        } else {
            0.0
        };
        let lane = |y, height, name, name_y| Lane {
            x: column(1) - PADDING,
            y,
            width: column(parts.columns()) + NODE + 2.0 * PADDING - column(1),
            height,
            name,
            name_y,
        };
        let lower_top = MARGIN + upper + MIDDLE;
        let mut picture = Picture {
            width: column(columns - 1) + NODE + PADDING + MARGIN,
            height: lower_top + lower + MARGIN,
            ..Picture::default()
        };
        if upper > 0.0 {
            let name = "Supervised: learn from one’s own revisions";
            picture.lanes.push(lane(MARGIN, upper, name, MARGIN + 21.0));
        }
        if lower > 0.0 {
            let name = "Preferences: learn from one’s own judgements";
            picture
                .lanes
                .push(lane(lower_top, lower, name, lower_top + lower - 12.0));
        }
        let mut drawing = Self {
            picture,
            centre: MARGIN + upper + MIDDLE / 2.0,
            lower_top,
            first: Vec::new(),
            advised: Vec::new(),
            last_upper: None,
            first_lower: None,
            ends_lower: Vec::new(),
        };
        drawing.upper(&parts.upper, MARGIN + HEADER + (upper - HEADER - PADDING) / 2.0);
        drawing.lower(parts, lower);
        drawing
    }

    /// The stages of the upper lane in a row, their middles at `y`.
    fn upper(&mut self, steps: &[&Step], y: f64) {
        let mut at = 1;
        for step in steps {
            let node = if step.kind == "revise" {
                self.revise(step, at, y)
            } else {
                let node = stage(step, at, y);
                self.picture.nodes.push(node.clone());
                node
            };
            at += columns_of(step);
            match &self.last_upper {
                Some(last) => self.picture.edges.push(curve(last.right(), node.left())),
                None => self.first.push(node.clone()),
            }
            self.last_upper = Some(node);
        }
    }

    /// A revise stage: a box around its three parts.
    fn revise(&mut self, step: &Step, at: usize, y: f64) -> Node {
        let group = Node {
            x: column(at) - 2.0,
            y: y - GROUP / 2.0,
            width: 3.0 * NODE + 2.0 * GAP + 4.0,
            height: GROUP,
            style: "group",
            title: shortened(&step.name, 24),
            lines: vec![step_lines(step).join(" · ")],
            tip: tip(step),
        };
        let part = |index: usize, title: &str| Node {
            x: column(at + index) + 9.0,
            y: group.y + 42.0,
            width: NODE - 18.0,
            height: 46.0,
            style: "part",
            title: title.to_owned(),
            lines: Vec::new(),
            tip: String::new(),
        };
        let parts = [part(0, "respond"), part(1, "critique"), part(2, "revise")];
        for pair in parts.windows(2) {
            self.picture.edges.push(curve(pair[0].right(), pair[1].left()));
        }
        self.advised.extend_from_slice(&parts[1..]);
        self.picture.nodes.extend(parts);
        self.picture.groups.push(group.clone());
        group
    }

    /// The stages of the lower lane: a trunk, then the branches one under the other.
    fn lower(&mut self, parts: &Parts<'_>, height: f64) {
        let middle = self.lower_top + PADDING + (height - HEADER - PADDING) / 2.0;
        let mut last: Option<Node> = None;
        for (index, step) in parts.trunk.iter().enumerate() {
            last = Some(self.lower_stage(step, 1 + index, middle, last));
        }
        let trunk_end = last;
        for (row, branch) in parts.branches.iter().enumerate() {
            let offset = row as f64 - (parts.branches.len() - 1) as f64 / 2.0;
            let mut last = trunk_end.clone();
            for (index, step) in branch.iter().enumerate() {
                let at = 1 + parts.trunk.len() + index;
                last = Some(self.lower_stage(step, at, middle + offset * (HEIGHT + PADDING), last));
            }
            self.ends_lower.extend(last);
        }
        if parts.branches.is_empty() {
            self.ends_lower.extend(trunk_end);
        }
    }

    fn lower_stage(&mut self, step: &Step, at: usize, y: f64, last: Option<Node>) -> Node {
        let node = stage(step, at, y);
        match last {
            Some(last) => self.picture.edges.push(curve(last.right(), node.left())),
            None if self.first_lower.is_none() => {
                self.first.push(node.clone());
                self.first_lower = Some(node.clone());
            }
            None => self.first.push(node.clone()),
        }
        if step.kind == "judge" {
            self.advised.push(node.clone());
        }
        self.picture.nodes.push(node.clone());
        node
    }

    /// Adds what stands between the lanes, and the edges to and from it.
    fn finish(mut self, parts: &Parts<'_>, constitution: &str) -> Picture {
        self.policy_edge(parts);
        self.prompts(parts.world);
        self.constitution(constitution);
        self.evaluation(parts);
        self.picture
    }

    /// The policy that the upper lane trained answers in the lower lane.
    fn policy_edge(&mut self, parts: &Parts<'_>) {
        let (Some(from), Some(to)) = (&self.last_upper, &self.first_lower) else {
            return;
        };
        if parts.upper.last().is_none_or(|step| step.kind != "sft") {
            return;
        }
        let ((x, y), (to_x, to_y), turn) = (from.bottom(), to.top(), self.lower_top - 13.0);
        let bend = 10.0 * (to_x - x).signum();
        let path = if (to_x - x).abs() < 20.0 {
            format!("M{x} {y}V{}", to_y - 1.0)
        } else {
            format!(
                "M{x} {y}V{} Q{x} {turn} {} {turn} H{} Q{to_x} {turn} {to_x} {} V{}",
                turn - 10.0,
                x + bend,
                to_x - bend,
                turn + 10.0,
                to_y - 1.0
            )
        };
        self.picture.edges.push(Edge { path, dashed: false });
    }

    fn prompts(&mut self, world: Option<&Step>) {
        let rows = world.and_then(|step| step.rows);
        let lines: Vec<String> = rows
            .map(|rows| format!("{} rows", count(Some(rows))))
            .into_iter()
            .chain(world.map(|step| duration(Some(step.seconds))))
            .collect();
        let node = Node {
            tip: world.map(tip).unwrap_or_default(),
            ..source("prompts", lines, 0, self.centre)
        };
        for first in &self.first {
            let to = first.left();
            let from = if to.1 < self.centre { node.top() } else { node.bottom() };
            self.picture.edges.push(quarter(from, to));
        }
        self.picture.nodes.push(node);
    }

    fn constitution(&mut self, name: &str) {
        let Some(first) = self.advised.first() else {
            return;
        };
        let lines = (!name.is_empty()).then(|| shortened(name, 20)).into_iter().collect();
        let node = Node {
            x: first.x + (first.width - NODE) / 2.0,
            tip: name.to_owned(),
            ..source("constitution", lines, 1, self.centre)
        };
        for advised in &self.advised {
            let above = advised.y < self.centre;
            let (from, to) = if above {
                (node.top(), advised.bottom())
            } else {
                (node.bottom(), advised.top())
            };
            self.picture.edges.push(upright(from, to));
        }
        self.picture.nodes.push(node);
    }

    fn evaluation(&mut self, parts: &Parts<'_>) {
        let evals = &parts.evals;
        let Some(first) = evals.first() else { return };
        let total = Step {
            rows: evals.iter().map(|step| step.rows).sum(),
            rejects: evals.iter().map(|step| step.rejects).sum(),
            seconds: evals.iter().map(|step| step.seconds).sum(),
            name: "evaluation".to_owned(),
            ..(*first).clone()
        };
        let node = Node {
            style: "source",
            ..stage(&total, 1 + parts.columns(), self.centre)
        };
        let ends = self.last_upper.iter().chain(&self.ends_lower);
        for from in ends.map(Node::right) {
            let to = if from.1 < self.centre {
                node.top()
            } else {
                node.bottom()
            };
            self.picture.edges.push(Edge {
                path: format!(
                    "M{} {}C{} {} {} {} {} {}",
                    from.0, from.1, to.0, from.1, to.0, from.1, to.0, to.1
                ),
                dashed: false,
            });
        }
        self.picture.nodes.push(node);
    }
}

fn column(index: usize) -> f64 {
    MARGIN + index as f64 * (NODE + GAP)
}

fn stage(step: &Step, at: usize, y: f64) -> Node {
    Node {
        x: column(at),
        y: y - HEIGHT / 2.0,
        width: NODE,
        height: HEIGHT,
        style: "stage",
        title: shortened(&step.name, 17),
        lines: step_lines(step),
        tip: tip(step),
    }
}

fn source(title: &str, lines: Vec<String>, at: usize, y: f64) -> Node {
    let height = 34.0 + 15.0 * lines.len() as f64;
    Node {
        x: column(at),
        y: y - height / 2.0,
        width: NODE,
        height,
        style: "source",
        title: title.to_owned(),
        lines,
        tip: String::new(),
    }
}

fn tip(step: &Step) -> String {
    if step.note.is_empty() {
        step.name.clone()
    } else {
        format!("{}: {}", step.name, step.note)
    }
}

/// From side to side; the last bit is straight, so that the arrow's head is level.
fn curve((from_x, from_y): (f64, f64), (to_x, to_y): (f64, f64)) -> Edge {
    let (end, tip) = (to_x - 7.0, to_x - 1.0);
    let middle = (from_x + end) / 2.0;
    Edge {
        path: format!("M{from_x} {from_y}C{middle} {from_y} {middle} {to_y} {end} {to_y}H{tip}"),
        dashed: false,
    }
}

/// Up or down first, then to the side.
fn quarter(from: (f64, f64), to: (f64, f64)) -> Edge {
    Edge {
        path: format!(
            "M{} {}C{} {} {} {} {} {}",
            from.0,
            from.1,
            from.0,
            to.1,
            from.0,
            to.1,
            to.0 - 1.0,
            to.1
        ),
        dashed: false,
    }
}

/// From a top to a bottom or the other way round.
fn upright(from: (f64, f64), to: (f64, f64)) -> Edge {
    let middle = (from.1 + to.1) / 2.0;
    Edge {
        path: format!(
            "M{} {}C{} {middle} {} {middle} {} {}",
            from.0, from.1, from.0, to.0, to.0, to.1
        ),
        dashed: true,
    }
}

/// At most `most` characters.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most - 1).collect();
    format!("{}…", kept.trim_end())
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn overlap(a: &Node, b: &Node) -> bool {
        a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height
    }

    fn check(picture: &Picture) {
        for lane in &picture.lanes {
            assert!(lane.x + lane.width <= picture.width, "{lane:?}");
            assert!(lane.y + lane.height <= picture.height, "{lane:?}");
        }
        for (index, node) in picture.nodes.iter().enumerate() {
            assert!(node.x >= 0.0 && node.x + node.width <= picture.width, "{node:?}");
            assert!(node.y >= 0.0 && node.y + node.height <= picture.height, "{node:?}");
            for other in &picture.nodes[..index] {
                assert!(!overlap(node, other), "{node:?} {other:?}");
            }
        }
    }

    #[test]
    fn the_whole_run_fits_and_nothing_overlaps() {
        let picture = picture(&fixture::report()).unwrap();
        check(&picture);
        assert_eq!(picture.lanes.len(), 2);
        assert!(picture.nodes.iter().any(|node| node.title == "constitution"));
    }

    #[test]
    fn every_part_of_a_run_may_be_absent() {
        let whole = fixture::report();
        for kind in [
            "world", "revise", "sft", "sample", "judge", "balance", "reward", "dpo", "ppo", "eval",
        ] {
            let mut report = whole.clone();
            report.steps.retain(|step| step.kind == kind);
            if let Some(picture) = picture(&report) {
                check(&picture);
            }
            let mut report = whole.clone();
            report.steps.retain(|step| step.kind != kind);
            check(&picture(&report).unwrap());
        }
    }

    #[test]
    fn too_many_stages_are_left_to_the_list() {
        let mut report = fixture::report();
        let judge = report.steps.iter().find(|step| step.kind == "judge").cloned().unwrap();
        report.steps.extend(vec![judge; 8]);
        assert_eq!(picture(&report), None);
        report.steps.clear();
        assert_eq!(picture(&report), None);
    }

    #[test]
    fn long_names_are_cut_and_kept_whole_in_the_tooltip() {
        assert_eq!(shortened("reward-model-of-the-second-round", 17), "reward-model-of-…");
        assert_eq!(shortened("größe", 17), "größe");
    }
}
