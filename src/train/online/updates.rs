//! What the updates of an iteration tell.

use crate::train::accumulation::Figures;

/// What the updates of an iteration told, averaged.
#[derive(Debug, Default)]
pub(super) struct Updates {
    sums: Figures,
    ratios: Vec<f64>,
    count: usize,
    rate: f64,
    stopped: bool,
}

/// The name under which an update tells how far the policy has moved, and that of its ratio.
pub(super) const APPROX_KL: &str = "policy/approxkl_avg";
pub(super) const RATIO: &str = "val/ratio";

impl Updates {
    /// Whether an update whose figures these are is one too many. Asked before the parameters move.
    pub(super) fn beyond(&mut self, limit: Option<f64>, figures: &[(&'static str, f64)]) -> bool {
        let moved = figures.iter().find(|(name, _)| *name == APPROX_KL);
        self.stopped = matches!((moved, limit), (Some((_, kl)), Some(limit)) if *kl > limit);
        self.stopped
    }

    /// Takes the figures of an update that was made, with its gradient's norm and its learning rate.
    pub(super) fn add(&mut self, mut figures: Figures, (norm, rate): (f64, f64)) {
        figures.push(("grad_norm", norm));
        self.ratios.extend(
            figures
                .iter()
                .filter(|(name, _)| *name == RATIO)
                .map(|(_, ratio)| *ratio),
        );
        if self.sums.is_empty() {
            self.sums = figures;
        } else {
            for ((_, sum), (_, value)) in self.sums.iter_mut().zip(figures) {
                *sum += value;
            }
        }
        self.count += 1;
        self.rate = rate;
    }

    pub(super) fn figures(self, limit: Option<f64>) -> Vec<(String, f64)> {
        let count = self.count.max(1) as f64;
        let mut figures: Vec<(String, f64)> = self
            .sums
            .into_iter()
            .map(|(name, sum)| (name.to_owned(), sum / count))
            .collect();
        if self.ratios.len() > 1 {
            let mean = self.ratios.iter().sum::<f64>() / count;
            let squares: f64 = self.ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum();
            figures.push(("val/ratio_var".into(), squares / (count - 1.0)));
        }
        if limit.is_some() {
            figures.push(("val/updates".into(), self.count as f64));
            figures.push(("val/stopped_on_kl".into(), f64::from(u8::from(self.stopped))));
        }
        // Both of TRL's names: the trainer's and PPO's.
        figures.extend([("learning_rate".into(), self.rate), ("lr".into(), self.rate)]);
        figures
    }
}
