//! How much better than expected: advantages, by a value function (GAE), by the other completions of a prompt (RLOO), or
//! by a group of them (GRPO).

use serde::{Deserialize, Serialize};

/// Advantages and returns of one completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimates {
    pub advantages: Vec<f32>,
    pub returns: Vec<f32>,
}

/// Generalised advantage estimation (Schulman et al. 2016, equation 16) over the tokens of one
/// completion; the value after the last token is 0.
pub fn gae(rewards: &[f32], values: &[f32], gamma: f64, lambda: f64) -> Estimates {
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut running) = (0.0, 0.0);
    for t in (0..rewards.len()).rev() {
        let value = f64::from(values[t]);
        let delta = f64::from(rewards[t]) + gamma * next_value - value;
        running = delta + gamma * lambda * running;
        advantages[t] = running as f32;
        next_value = value;
    }
    let returns = advantages
        .iter()
        .zip(values)
        .map(|(advantage, value)| advantage + value)
        .collect();
    Estimates { advantages, returns }
}

/// Shifts and scales the values of all rows together to mean 0 and (unbiased) variance 1.
pub fn whiten(rows: &mut [Vec<f32>]) {
    let Some((mean, scale)) = moments(rows) else { return };
    for value in rows.iter_mut().flatten() {
        *value = ((f64::from(*value) - mean) * scale) as f32;
    }
}

/// Scales the values of all rows together to (unbiased) variance 1 and leaves their mean: rewards, whose mean says
/// something.
pub fn scale_to_unit_variance(rows: &mut [Vec<f32>]) {
    let Some((mean, scale)) = moments(rows) else { return };
    for value in rows.iter_mut().flatten() {
        *value = ((f64::from(*value) - mean) * scale + mean) as f32;
    }
}

/// The mean of all values, and the inverse of their deviation.
fn moments(rows: &[Vec<f32>]) -> Option<(f64, f64)> {
    let count: usize = rows.iter().map(Vec::len).sum();
    if count < 2 {
        return None;
    }
    let all = || rows.iter().flatten().map(|value| f64::from(*value));
    let mean = all().sum::<f64>() / count as f64;
    let variance = all().map(|value| (value - mean).powi(2)).sum::<f64>() / (count as f64 - 1.0);
    Some((mean, 1.0 / (variance + 1e-8).sqrt()))
}

/// What advantages of a group are divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleRewards {
    // The deviation of the group's rewards (Shao et al. 2024): easy and hard prompts weigh more than others.
    #[default]
    Group,
    // The deviation of all rewards of the batch.
    Batch,
    // Nothing (Dr. GRPO, Liu et al. 2025): a prompt weighs as much as its rewards differ.
    None,
}

/// Added to a deviation before it divides.
const EPSILON: f64 = 1e-4;

/// The advantage of each completion over the mean of the others of its group (Ahmadian et al. 2024, equation 8).
/// `groups` says which group each reward is of; alone in a group there is nothing to compare with, and the advantage is 0.
pub fn leave_one_out(rewards: &[f32], groups: &[usize]) -> Vec<f32> {
    by_group(rewards, groups, |own| {
        let others = own.len().saturating_sub(1).max(1) as f64;
        let sum: f64 = own.iter().sum();
        own.iter().map(|reward| reward - (sum - reward) / others).collect()
    })
}

/// The advantage of each completion over the mean of its group, scaled (Shao et al. 2024, section 4.1.2). Deviations
/// are unbiased, as in TRL.
pub fn normalised(rewards: &[f32], groups: &[usize], scale: ScaleRewards) -> Vec<f32> {
    let all: Vec<f64> = rewards.iter().map(|reward| f64::from(*reward)).collect();
    let of_batch = deviation(&all);
    by_group(rewards, groups, |own| {
        let divisor = match scale {
            ScaleRewards::Group => deviation(own) + EPSILON,
            ScaleRewards::Batch => of_batch + EPSILON,
            ScaleRewards::None => 1.0,
        };
        let mean = own.iter().sum::<f64>() / own.len() as f64;
        own.iter().map(|reward| (reward - mean) / divisor).collect()
    })
}

/// The share of groups whose rewards are all equal: nothing is learnt from them.
pub fn share_without_difference(rewards: &[f32], groups: &[usize]) -> f64 {
    let of_groups = members(groups);
    let equal = |own: &&Vec<usize>| own.iter().all(|row| rewards[*row] == rewards[own[0]]);
    of_groups.iter().filter(equal).count() as f64 / of_groups.len().max(1) as f64
}

fn deviation(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    if count < 2.0 {
        return 0.0;
    }
    let mean = values.iter().sum::<f64>() / count;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt()
}

/// The rows of each group that has any, in the order in which the groups appear.
fn members(groups: &[usize]) -> Vec<Vec<usize>> {
    let mut places = std::collections::HashMap::new();
    let mut all: Vec<Vec<usize>> = Vec::new();
    for (row, group) in groups.iter().enumerate() {
        let place = *places.entry(group).or_insert_with(|| {
            all.push(Vec::new());
            all.len() - 1
        });
        all[place].push(row);
    }
    all
}

/// What `advantages` makes of each group. Where all of a group agree it is exactly 0: rounding of a mean is no
/// advantage, and a small deviation would blow it up.
fn by_group(rewards: &[f32], groups: &[usize], advantages: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f32> {
    let mut out = vec![0.0; rewards.len()];
    for rows in members(groups) {
        let own: Vec<f64> = rows.iter().map(|row| f64::from(rewards[*row])).collect();
        if own.iter().all(|reward| *reward == own[0]) {
            continue;
        }
        for (row, advantage) in rows.into_iter().zip(advantages(&own)) {
            out[row] = advantage as f32;
        }
    }
    out
}
