//! The parts of a step: batches whose gradients are added up, in the memory of one, as if they were one batch.
//!
//! The loss of a step is a mean, and so are its figures: a part counts by its share, which the method knows (of tokens, of
//! pairs, of completions). Gradients of what learns beside the decoder are added up as those of the decoder are.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::run::Run;
use super::seam::Leaves;
use crate::error::Result;
use crate::model::cpu::trunk::{Sequence, Wanted};

/// Figures of a step, by name.
pub type Figures = Vec<(&'static str, f64)>;

/// A part of what a step learns from.
pub struct Part<T> {
    /// What the loss knows of it besides the policy.
    pub of: T,
    pub sequences: Vec<Sequence>,
    /// Its share in the loss of the step; those of all parts are 1 together.
    pub share: f64,
}

impl<T> Part<T> {
    /// All that the step learns from.
    pub fn whole(of: T, sequences: Vec<Sequence>) -> Self {
        Self {
            of,
            sequences,
            share: 1.0,
        }
    }
}

/// What the parts of a step come to.
pub struct Accumulated<S> {
    pub loss: f64,
    /// Means over all parts, each by its share.
    pub figures: Figures,
    /// What each part told besides, in their order.
    pub told: Vec<S>,
}

impl Run<'_> {
    /// Adds the gradients of all parts of a step to the run's. `loss` answers the mean loss of a part, its figures (the same
    /// for each part, means too), and what else it wants to tell; the share is not its concern.
    pub fn accumulate<T, S>(
        &mut self,
        wanted: Wanted,
        parts: impl IntoIterator<Item = Part<T>>,
        mut loss: impl FnMut(&Leaves, &T) -> Result<(Tensor, Figures, S)>,
    ) -> Result<Accumulated<S>> {
        let mut sum = Accumulated {
            loss: 0.0,
            figures: Figures::new(),
            told: Vec::new(),
        };
        for Part { of, sequences, share } in parts {
            let (value, (figures, told)) = self.pass(&sequences, wanted, |leaves| {
                let (loss, figures, told) = loss(leaves, &of)?;
                Ok(((loss * share)?, (figures, told)))
            })?;
            sum.loss += value;
            sum.told.push(told);
            add_shared(&mut sum.figures, figures, share);
        }
        Ok(sum)
    }
}

/// Adds the figures of a part, which are the same for each, to those of all.
fn add_shared(sum: &mut Figures, figures: Figures, share: f64) {
    let shared = figures.into_iter().map(|(name, value)| (name, value * share));
    if sum.is_empty() {
        sum.extend(shared);
    } else {
        for ((_, mean), (_, value)) in sum.iter_mut().zip(shared) {
            *mean += value;
        }
    }
}

/// The gradients of what learns beside the decoder, variable by variable.
#[derive(Default)]
pub(super) struct BesideGradients(Vec<Vec<f32>>);

impl BesideGradients {
    /// Adds what a pass gave to `vars`.
    pub fn add<'v>(&mut self, vars: impl Iterator<Item = &'v Var>, store: &GradStore) -> Result<()> {
        for (at, var) in vars.enumerate() {
            if self.0.len() <= at {
                self.0.push(Vec::new());
            }
            let Some(gradient) = store.get(var.as_tensor()) else {
                continue;
            };
            let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
            match &mut self.0[at] {
                sum if sum.is_empty() => *sum = gradient,
                sum => sum.iter_mut().zip(gradient).for_each(|(sum, value)| *sum += value),
            }
        }
        Ok(())
    }

    /// The sums for `vars`, 0 where no pass gave anything; what is added from now on begins anew.
    pub fn take<'v>(&mut self, vars: impl Iterator<Item = &'v Var>) -> Vec<Vec<f32>> {
        let mut sums = std::mem::take(&mut self.0).into_iter();
        vars.map(|var| match sums.next() {
            Some(sum) if !sum.is_empty() => sum,
            _ => vec![0.0; var.elem_count()],
        })
        .collect()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
