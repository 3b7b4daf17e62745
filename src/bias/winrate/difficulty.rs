//! How hard an instruction is for whoever plays against the baseline: one value for each instruction, from several
//! models at once.
//!
//! The first stage of Dubois et al. 2024 (arXiv 2404.04475, section 3): a joint regression over all models with a
//! coefficient for each instruction, `log-odds = theta_m + phi_m · x + gamma_i`. Two things are decided here. Each
//! `gamma` has a standard normal prior, because a handful of models says little of one instruction (AlpacaEval had over
//! a hundred). And the value that a model is given comes from the *other* models alone: with few of them, its own
//! verdict would come back to it as a covariate and explain what length explains. Knows nothing of intervals.

use crate::bias::logistic::{Observation, fit};

/// Strength of the priors of `gamma` and `phi`.
const PRIOR: f64 = 1.0;

/// Strength of the prior of `theta`: as good as none, but a model that wins everything gets a finite one.
const WEAK: f64 = 0.01;

/// Rounds of the alternation at most, and the change of a difficulty that ends it.
const ROUNDS: usize = 5000;
const SMALL: f64 = 1e-11;

/// One comparison, as this stage sees it.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    pub model: usize,
    pub instruction: usize,
    /// Effect of length: tanh of the standardised difference.
    pub x: f64,
    pub target: f64,
}

/// The difficulty of each trial's instruction for its model; `None` where no other model answered it.
/// `None` for all if the rounds do not end.
pub fn difficulties(trials: &[Trial], models: usize, instructions: usize) -> Option<Vec<Option<f64>>> {
    let joint = Joint::new(trials, models, instructions);
    let (skills, gammas) = joint.solve()?;
    let mut values = vec![None; trials.len()];
    for (instruction, members) in joint.of_instruction.iter().enumerate() {
        for &member in members {
            let others = members
                .iter()
                .map(|other| &trials[*other])
                .filter(|other| other.model != trials[member].model);
            let rows: Vec<_> = others.map(|other| resting(other, &skills[other.model])).collect();
            values[member] = match rows.is_empty() {
                true => None,
                false => Some(gamma(&rows, gammas[instruction])?),
            };
        }
    }
    Some(values)
}

/// The trials of instructions that two models or more answered.
struct Joint<'a> {
    trials: &'a [Trial],
    of_model: Vec<Vec<usize>>,
    of_instruction: Vec<Vec<usize>>,
}

impl<'a> Joint<'a> {
    fn new(trials: &'a [Trial], models: usize, instructions: usize) -> Self {
        let mut of_instruction = vec![Vec::new(); instructions];
        for (index, trial) in trials.iter().enumerate() {
            of_instruction[trial.instruction].push(index);
        }
        for members in &mut of_instruction {
            let first = members.first().map(|index| trials[*index].model);
            if members.iter().all(|index| Some(trials[*index].model) == first) {
                members.clear();
            }
        }
        let mut of_model = vec![Vec::new(); models];
        for members in &of_instruction {
            for index in members {
                of_model[trials[*index].model].push(*index);
            }
        }
        Self {
            trials,
            of_model,
            of_instruction,
        }
    }

    /// Coefficients `(theta, phi)` of the models and difficulties of the instructions, by turns: each block's own
    /// optimum given the other, and the common shift between them, which turns alone would take ages to find.
    fn solve(&self) -> Option<(Vec<[f64; 2]>, Vec<f64>)> {
        let mut skills = vec![[0.0; 2]; self.of_model.len()];
        let mut gammas = vec![0.0; self.of_instruction.len()];
        for _ in 0..ROUNDS {
            let before = gammas.clone();
            for (skill, members) in skills.iter_mut().zip(&self.of_model) {
                let rows: Vec<Observation<2>> = members
                    .iter()
                    .map(|index| &self.trials[*index])
                    .map(|trial| Observation {
                        x: [1.0, trial.x],
                        offset: gammas[trial.instruction],
                        target: trial.target,
                    })
                    .collect();
                *skill = fit(&rows, |_| 1.0, &[WEAK, PRIOR], *skill).ok()?;
            }
            for (value, members) in gammas.iter_mut().zip(&self.of_instruction) {
                let trials = members.iter().map(|index| &self.trials[*index]);
                let rows: Vec<_> = trials.map(|trial| resting(trial, &skills[trial.model])).collect();
                *value = gamma(&rows, *value)?;
            }
            self.shift(&mut skills, &mut gammas);
            let change = before.iter().zip(&gammas).map(|(old, new)| (old - new).abs());
            if change.fold(0.0, f64::max) <= SMALL {
                return Some((skills, gammas));
            }
        }
        None
    }

    /// Adds to all difficulties, and takes from all models, what makes the priors likeliest; the likelihood does not
    /// see it.
    fn shift(&self, skills: &mut [[f64; 2]], gammas: &mut [f64]) {
        let shared = |members: &&Vec<usize>| !members.is_empty();
        let instructions = self.of_instruction.iter().filter(shared).count() as f64;
        let models = self.of_model.iter().filter(shared).count() as f64;
        let skill: f64 = skills.iter().map(|skill| skill[0]).sum();
        let sum: f64 = gammas.iter().sum();
        let by = (WEAK * skill - PRIOR * sum) / (PRIOR * instructions + WEAK * models);
        if !by.is_finite() {
            return;
        }
        let blocks = gammas.iter_mut().zip(&self.of_instruction);
        for (gamma, _) in blocks.filter(|(_, members)| !members.is_empty()) {
            *gamma += by;
        }
        let blocks = skills.iter_mut().zip(&self.of_model);
        for (skill, _) in blocks.filter(|(_, members)| !members.is_empty()) {
            skill[0] -= by;
        }
    }
}

/// A trial of which the model's part is settled and the difficulty is asked.
fn resting(trial: &Trial, skill: &[f64; 2]) -> Observation<1> {
    Observation {
        x: [1.0],
        offset: skill[0] + skill[1] * trial.x,
        target: trial.target,
    }
}

fn gamma(rows: &[Observation<1>], start: f64) -> Option<f64> {
    match rows.is_empty() {
        true => Some(0.0),
        false => fit(rows, |_| 1.0, &[PRIOR], [start]).ok().map(|[value]| value),
    }
}
