//! When evaluations are a reason to stop: pure functions of what a run has seen.
//!
//! A window is the mean of as many evaluations as the patience; single evaluations are noisy, and their maximum would
//! be too. An alarm compares the last window with the first one, or with the best one that does not overlap it.

use super::Evaluation;

/// Standard errors by which the held-out reward must have fallen and the proxy risen.
const ERRORS: f64 = 2.0;
/// Nats a token from the reference. Policies that are of use stay an order of magnitude below; the answers of one that
/// is there are such as the reference, whose answers reward models were trained on, would hardly ever give.
const FAR: f64 = 0.5;
/// Of the first window, what is left of the entropy or of distinct-2 when a policy counts as collapsed.
const LEFT_OF_ENTROPY: f64 = 0.2;
const LEFT_OF_DISTINCT: f64 = 0.5;
/// How many times the entropy has grown when answers count as incoherent.
const TIMES_ENTROPY: f64 = 2.0;
/// By how much a share of answers must have grown.
const GROWN: f64 = 0.3;
/// How many times longer or shorter answers must have become.
const TIMES: f64 = 2.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmKind {
    /// The held-out reward falls while the rewards that are learnt from rise.
    OverOptimisation,
    /// The policy is where no reward model has been trained.
    Distance,
    /// Answers are all alike.
    Collapse,
    /// Answers are ever less predictable: rewards push towards noise.
    Incoherence,
    /// Answers begin or end with the same sentence.
    Boilerplate,
    /// Answers refuse.
    Refusals,
    /// Answers have become much longer or shorter.
    Length,
}

impl AlarmKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::OverOptimisation => "over-optimisation",
            Self::Distance => "distance",
            Self::Collapse => "collapse",
            Self::Incoherence => "incoherence",
            Self::Boilerplate => "boilerplate",
            Self::Refusals => "refusals",
            Self::Length => "length",
        }
    }
}

/// An alarm and the numbers behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    pub kind: AlarmKind,
    pub reason: String,
}

/// Means over a window.
struct Window {
    first: f64,
    last: f64,
    proxy: f64,
    held_out: f64,
    /// Of these two means.
    held_out_variance: f64,
    proxy_variance: f64,
    sqrt_kl: f64,
    kl_per_token: f64,
    entropy: f64,
    distinct_2: f64,
    boilerplate: f64,
    refusals: f64,
    tokens: f64,
}

impl Window {
    fn of(seen: &[Evaluation]) -> Self {
        let count = seen.len().max(1) as f64;
        let mean = |of: fn(&Evaluation) -> f64| seen.iter().map(of).sum::<f64>() / count;
        Self {
            first: seen.first().map_or(0.0, |evaluation| evaluation.step),
            last: seen.last().map_or(0.0, |evaluation| evaluation.step),
            proxy: mean(|evaluation| evaluation.proxy),
            held_out: mean(|evaluation| evaluation.held_out),
            held_out_variance: mean(|evaluation| evaluation.held_out_variance) / count,
            proxy_variance: mean(|evaluation| evaluation.proxy_variance) / count,
            sqrt_kl: mean(|evaluation| evaluation.sqrt_kl),
            kl_per_token: mean(|evaluation| evaluation.kl_per_token),
            entropy: mean(|evaluation| evaluation.entropy),
            distinct_2: mean(|evaluation| evaluation.distinct_2),
            boilerplate: mean(|evaluation| evaluation.boilerplate),
            refusals: mean(|evaluation| evaluation.refusals),
            tokens: mean(|evaluation| evaluation.tokens),
        }
    }
}

/// What there is to be alarmed about after the evaluations `seen`.
pub fn alarms(seen: &[Evaluation], patience: usize) -> Vec<Alarm> {
    let patience = patience.max(1);
    if seen.len() < 2 * patience {
        return Vec::new();
    }
    let (earlier, last) = seen.split_at(seen.len() - patience);
    let (first, last) = (Window::of(&earlier[..patience]), Window::of(last));
    let mut found = Vec::new();
    let mut add = |kind, reason: String| found.push(Alarm { kind, reason });
    if let Some(reason) = over_optimised(earlier, &last, patience) {
        add(AlarmKind::OverOptimisation, reason);
    }
    let over = format!("over the last {patience} evaluations");
    if last.kl_per_token > FAR {
        let reason = format!(
            "the policy was {:.2} nats a token from the reference {over} (sqrt(KL) {:.1}), while the proxy went from \
             {:.2} to {:.2}: the reward model has seen no such answers",
            last.kl_per_token, last.sqrt_kl, first.proxy, last.proxy
        );
        add(AlarmKind::Distance, reason);
    }
    if last.entropy > TIMES_ENTROPY * first.entropy {
        let rose = format!(
            "entropy rose from {:.2} to {:.2} nats a token {over}",
            first.entropy, last.entropy
        );
        add(AlarmKind::Incoherence, rose);
    }
    if let Some(reason) = collapsed(&first, &last, &over) {
        add(AlarmKind::Collapse, reason);
    }
    let grown = |what: &str, first: f64, last: f64| {
        let percent = |share: f64| (100.0 * share).round();
        (last > first + GROWN).then(|| {
            format!(
                "{what} rose from {} % to {} % of the answers {over}",
                percent(first),
                percent(last)
            )
        })
    };
    if let Some(reason) = grown("shared first or last sentences", first.boilerplate, last.boilerplate) {
        add(AlarmKind::Boilerplate, reason);
    }
    if let Some(reason) = grown("refusals", first.refusals, last.refusals) {
        add(AlarmKind::Refusals, reason);
    }
    if last.tokens > TIMES * first.tokens || last.tokens * TIMES < first.tokens {
        let went = format!(
            "answers went from {:.0} to {:.0} tokens {over}",
            first.tokens, last.tokens
        );
        add(AlarmKind::Length, went);
    }
    found
}

/// Answers that have become the same, by what is drawn or by what stands in them.
fn collapsed(first: &Window, last: &Window, over: &str) -> Option<String> {
    if last.entropy < LEFT_OF_ENTROPY * first.entropy {
        return Some(format!(
            "entropy fell from {:.2} to {:.2} nats a token {over}",
            first.entropy, last.entropy
        ));
    }
    (last.distinct_2 < LEFT_OF_DISTINCT * first.distinct_2).then(|| {
        format!(
            "distinct-2 fell from {:.2} to {:.2} {over}",
            first.distinct_2, last.distinct_2
        )
    })
}

/// Compares the last window with the best before it by the held-out reward.
fn over_optimised(earlier: &[Evaluation], last: &Window, patience: usize) -> Option<String> {
    let windows = earlier.windows(patience).map(Window::of);
    let best = windows.max_by(|one, other| one.held_out.total_cmp(&other.held_out))?;
    // Without a held-out reward model these are no numbers, and no comparison holds.
    let errors = |one: f64, other: f64| ERRORS * (one + other).sqrt();
    let fell = best.held_out - last.held_out > errors(best.held_out_variance, last.held_out_variance);
    let rose = last.proxy - best.proxy > errors(best.proxy_variance, last.proxy_variance);
    (fell && rose).then(|| {
        format!(
            "the held-out reward fell from {:.2} (iterations {} to {}) to {:.2} over the last {patience} evaluations \
             while the proxy rose from {:.2} to {:.2}",
            best.held_out,
            best.first + 1.0,
            best.last + 1.0,
            last.held_out,
            best.proxy,
            last.proxy
        )
    })
}

/// The evaluation at whose end the held-out reward was best: that which ends the best window.
pub fn best(seen: &[Evaluation], patience: usize) -> Option<usize> {
    // The first windows are short: a run may be over before one is full.
    let window = |end: usize| Window::of(&seen[(end + 1).saturating_sub(patience.max(1))..=end]);
    let ends = (0..seen.len()).map(|end| (end, window(end).held_out));
    // The earliest of equals: it is the nearest to the reference.
    ends.reduce(|best, other| if other.1 > best.1 { other } else { best })
        .map(|(end, _)| end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(step: usize, proxy: f64, held_out: f64) -> Evaluation {
        Evaluation {
            step: step as f64,
            proxy,
            held_out,
            held_out_variance: 0.01,
            proxy_variance: 0.01,
            sqrt_kl: 1.0,
            kl_per_token: 0.03,
            entropy: 1.0,
            distinct_1: 0.5,
            distinct_2: 0.8,
            boilerplate: 0.1,
            refusals: 0.2,
            tokens: 30.0,
        }
    }

    fn kinds(seen: &[Evaluation]) -> Vec<AlarmKind> {
        alarms(seen, 3).into_iter().map(|alarm| alarm.kind).collect()
    }

    /// Rises to step 5, then the held-out reward falls by 0.3 a step and the proxy goes on by `slope`.
    fn turned(slope: f64) -> Vec<Evaluation> {
        let held_out = |step: usize| {
            if step < 6 {
                0.1 * step as f64
            } else {
                0.5 - 0.3 * (step - 5) as f64
            }
        };
        (0..12)
            .map(|step| evaluation(step, slope * step as f64, held_out(step)))
            .collect()
    }

    /// Catches: an alarm when both fall, or both rise; one by noise; windows that overlap; one that comes only at the end.
    #[test]
    fn over_optimisation_needs_a_proxy_that_rises() {
        assert_eq!(kinds(&turned(0.1)), [AlarmKind::OverOptimisation]);
        assert_eq!(kinds(&turned(-0.1)), []);
        let at = (6..=12).find(|count| !kinds(&turned(0.1)[..*count]).is_empty());
        // Two errors of a difference are 0.16. Evaluations 6 to 8 (0.2) are 0.1 below the best window before them, 7 to 9
        // (-0.1) are 0.5 below the best, 4 to 6.
        assert_eq!(at, Some(9));
        let reason = &alarms(&turned(0.1)[..9], 3)[0].reason;
        assert!(
            reason.contains("from 0.40 (iterations 4 to 6) to -0.10") && reason.contains("0.40 to 0.70"),
            "{reason}"
        );
        let unsure = turned(0.1).into_iter().map(|seen| Evaluation {
            proxy_variance: 10.0,
            ..seen
        });
        assert_eq!(kinds(&unsure.collect::<Vec<_>>()), []);
        let noisy: Vec<_> = (0..12)
            .map(|step| evaluation(step, 0.1 * step as f64, 0.1 * (step % 2) as f64))
            .collect();
        assert_eq!(kinds(&noisy), []);
        let without: Vec<_> = turned(0.1)
            .into_iter()
            .map(|seen| Evaluation {
                held_out: f64::NAN,
                ..seen
            })
            .collect();
        assert_eq!(kinds(&without), []);
    }

    /// Catches: a best evaluation that one lucky rollout makes, the latest of equals, one after the turn.
    #[test]
    fn the_best_ends_the_best_window() {
        assert_eq!(best(&turned(0.1), 3), Some(5));
        assert_eq!(best(&[evaluation(0, 0.0, 0.5), evaluation(1, 0.0, 0.5)], 3), Some(0));
        assert_eq!(best(&[], 3), None);
    }

    /// Catches: a threshold against the wrong window or in the wrong direction.
    #[test]
    fn collapse_boilerplate_refusals_and_length_are_told() {
        let ends_as = |change: fn(Evaluation) -> Evaluation| {
            let seen: Vec<_> = (0..8).map(|step| evaluation(step, 0.0, 0.0)).collect();
            let seen: Vec<_> = seen
                .into_iter()
                .map(|seen| if seen.step < 5.0 { seen } else { change(seen) })
                .collect();
            kinds(&seen)
        };
        assert_eq!(ends_as(|seen| seen), []);
        assert_eq!(
            ends_as(|seen| Evaluation { entropy: 0.1, ..seen }),
            [AlarmKind::Collapse]
        );
        assert_eq!(
            ends_as(|seen| Evaluation {
                distinct_2: 0.3,
                ..seen
            }),
            [AlarmKind::Collapse]
        );
        assert_eq!(
            ends_as(|seen| Evaluation { entropy: 2.5, ..seen }),
            [AlarmKind::Incoherence]
        );
        let far = |seen| Evaluation {
            kl_per_token: 0.6,
            ..seen
        };
        assert_eq!(ends_as(far), [AlarmKind::Distance]);
        assert_eq!(
            ends_as(|seen| Evaluation {
                boilerplate: 0.6,
                ..seen
            }),
            [AlarmKind::Boilerplate]
        );
        assert_eq!(
            ends_as(|seen| Evaluation { refusals: 0.6, ..seen }),
            [AlarmKind::Refusals]
        );
        assert_eq!(ends_as(|seen| Evaluation { refusals: 0.0, ..seen }), []);
        assert_eq!(ends_as(|seen| Evaluation { tokens: 70.0, ..seen }), [AlarmKind::Length]);
        assert_eq!(ends_as(|seen| Evaluation { tokens: 10.0, ..seen }), [AlarmKind::Length]);
    }
}
