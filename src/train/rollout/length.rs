//! Length control of a rollout's rewards, before advantages are estimated.
//!
//! Whether longer answers get more cannot be told across prompts, where some ask for longer answers than others; so the
//! slope that is taken out is that of differences between completions of one prompt, iteration by iteration.

use super::RolloutConfig;
use crate::train::length::correlation;
use crate::train::loss::length::slope;

/// What length has to do with the rewards of an iteration, before any control: over completions that end.
#[derive(Debug, Clone, Copy, Default)]
pub struct LengthStats {
    /// Of the rewards on tokens, by pairs: of a prompt where prompts are drawn twice, else of all completions.
    pub slope: f64,
    pub correlation: f64,
    /// Mean of what control took out of the rewards.
    pub taken: f64,
}

/// What came of one completion.
pub struct Outcome {
    pub score: f32,
    pub tokens: usize,
    pub ended: bool,
    /// Completions are compared with others of this prompt alone, if there is one.
    pub prompt: Option<usize>,
}

/// The rewards after length control, and what length had to do with them before. The reward of a completion that
/// does not end is no judgement of its text, so the slope neither sees nor changes it; the penalty does.
pub fn control_length(config: &RolloutConfig, outcomes: &[Outcome]) -> (Vec<f32>, LengthStats) {
    let ended: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.ended).collect();
    let scores: Vec<f64> = ended.iter().map(|outcome| f64::from(outcome.score)).collect();
    let tokens: Vec<f64> = ended.iter().map(|outcome| outcome.tokens as f64).collect();
    let pairs = (0..ended.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
    let slope = slope(
        pairs
            .filter(|(first, second)| ended[*first].prompt == ended[*second].prompt)
            .map(|(first, second)| (scores[first] - scores[second], tokens[first] - tokens[second])),
    );
    let mean = tokens.iter().sum::<f64>() / tokens.len().max(1) as f64;
    let removed = if config.reward_length_residual { slope } else { 0.0 };
    let rewards: Vec<f32> = (outcomes.iter())
        .map(|outcome| {
            let residual = if outcome.ended {
                removed * (outcome.tokens as f64 - mean)
            } else {
                0.0
            };
            let share = outcome.tokens as f32 / config.max_new_tokens as f32;
            outcome.score - residual as f32 - config.length_penalty * share
        })
        .collect();
    let taken = outcomes
        .iter()
        .zip(&rewards)
        .map(|(outcome, reward)| f64::from(outcome.score - reward));
    let stats = LengthStats {
        slope,
        correlation: correlation(&scores, &tokens),
        taken: taken.sum::<f64>() / outcomes.len().max(1) as f64,
    };
    (rewards, stats)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        config: RolloutConfig,
    }

    fn config(flags: &[&str]) -> RolloutConfig {
        let given = ["ppo", "--max-new-tokens", "100"].iter().chain(flags);
        Flags::parse_from(given).config
    }

    /// Two prompts: the second asks for long answers and gets less for them, but within each a token is worth 0.1.
    fn outcomes(by_prompt: bool) -> Vec<Outcome> {
        let outcome = |score: f32, tokens: usize, prompt: usize| Outcome {
            score,
            tokens,
            ended: true,
            prompt: by_prompt.then_some(prompt),
        };
        let unended = Outcome {
            ended: false,
            ..outcome(-1.0, 100, 1)
        };
        let all = [(2.0, 10, 0), (3.0, 20, 0), (-3.0, 50, 1), (-2.0, 60, 1)];
        let mut all: Vec<Outcome> = all
            .into_iter()
            .map(|(score, tokens, prompt)| outcome(score, tokens, prompt))
            .collect();
        all.push(unended);
        all
    }

    /// Catches: a slope across prompts, whose sign is that of the prompts; one that counts answers cut short.
    #[test]
    fn the_slope_is_within_prompts() {
        let (rewards, stats) = control_length(&config(&["--reward-length-residual"]), &outcomes(true));
        assert!((stats.slope - 0.1).abs() < 1e-6, "{}", stats.slope);
        assert!((rewards[0] - rewards[1]).abs() < 1e-5 && (rewards[2] - rewards[3]).abs() < 1e-5);
        assert_eq!(rewards[4], -1.0);
        // The mean stays, so that the value function has nothing to follow.
        assert!((rewards.iter().sum::<f32>() - -1.0).abs() < 1e-5);
        let (_, across) = control_length(&config(&[]), &outcomes(false));
        assert!(across.slope < 0.0 && across.correlation < 0.0);
    }

    /// Catches: a penalty of the whole length, of answers that end alone, or with the wrong sign; rewards that change
    /// by a bit without any control.
    #[test]
    fn the_penalty_is_in_proportion_to_the_room() {
        let before: Vec<f32> = outcomes(false).iter().map(|outcome| outcome.score).collect();
        let (untouched, stats) = control_length(&config(&[]), &outcomes(false));
        assert_eq!(untouched, before);
        assert_eq!(stats.taken, 0.0);
        let (rewards, stats) = control_length(&config(&["--length-penalty", "2"]), &outcomes(false));
        let taken: Vec<f32> = before
            .iter()
            .zip(&rewards)
            .map(|(before, after)| before - after)
            .collect();
        for (taken, expected) in taken.iter().zip([0.2, 0.4, 1.0, 1.2, 2.0]) {
            assert!((taken - expected).abs() < 1e-6, "{taken}, expected {expected}");
        }
        assert!((stats.taken - 4.8 / 5.0).abs() < 1e-6);
    }
}
