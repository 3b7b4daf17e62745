//! What every training loop does besides its method: resume, update, log, save, stop when asked.

use std::path::{Path, PathBuf};

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::checkpoint::{self, Kept};
use super::metrics::MetricsLog;
use super::optim::{AdamW, OptimConfig};
use crate::error::Result;
use crate::interrupt;
use crate::model::cpu::trunk::Gradients;
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::progress::Progress;

/// Where a run writes and what identifies it.
pub struct Setup<'a> {
    pub dir: PathBuf,
    /// Hash of everything the result depends on; a checkpoint of another run is refused.
    pub fingerprint: String,
    pub label: String,
    pub progress: &'a dyn Progress,
    /// A checkpoint is saved after so many steps; 0 for only when interrupted.
    pub save_steps: usize,
    /// The decoder that is given is trained itself instead of a copy, and whoever holds its tensors sees them change.
    pub in_place: bool,
}

/// What learns besides the decoder.
#[derive(Default)]
pub struct Beside {
    /// A head, and how many times faster than the decoder it learns.
    pub head: Option<(ScalarHead, f64)>,
    pub auxiliary: Option<Auxiliary>,
}

impl Beside {
    pub fn head(head: ScalarHead, rate_factor: f64) -> Self {
        Self {
            head: Some((head, rate_factor)),
            auxiliary: None,
        }
    }
}

/// A variable that explains during training what the result must not learn, and is then left out. It is in the
/// checkpoints, under its name.
pub struct Auxiliary {
    pub name: &'static str,
    pub var: Var,
    pub rate_factor: f64,
}

pub struct Run<'a> {
    setup: Setup<'a>,
    pub decoder: Decoder,
    pub head: Option<ScalarHead>,
    auxiliary: Option<Auxiliary>,
    pub gradients: Gradients,
    config: OptimConfig,
    peak_rate: f64,
    optimizer: AdamW,
    metrics: MetricsLog,
    kept: Kept,
    step: usize,
    total: usize,
}

impl<'a> Run<'a> {
    /// Begins a run of `total` steps on its own copy of what learns in `decoder`, or goes on from its checkpoint.
    pub fn begin(
        setup: Setup<'a>,
        (config, peak_rate): (&OptimConfig, f64),
        decoder: &Decoder,
        beside: Beside,
        total: usize,
    ) -> Result<Self> {
        std::fs::create_dir_all(&setup.dir).map_err(|error| crate::error::Error::io("create", &setup.dir, error))?;
        let mut decoder = match setup.in_place {
            true => decoder.clone(),
            false => decoder.copy()?,
        };
        let (head, head_rate) = beside.head.unzip();
        let auxiliary = beside.auxiliary;
        let named = trainable(&decoder, head.as_ref(), auxiliary.as_ref())?;
        let mut optimizer = AdamW::new(config.clone(), named.iter().map(|(_, tensor)| *tensor))
            .with_rate_factor(decoder.learning().count(), head_rate.unwrap_or(1.0));
        if let Some(auxiliary) = &auxiliary {
            optimizer = optimizer.with_rate_factor(named.len() - 1, auxiliary.rate_factor);
        }
        let (step, kept) = checkpoint::restore(&setup.dir, &setup.fingerprint, &named, &mut optimizer)?;
        decoder.set_updates(optimizer.step);
        let metrics = MetricsLog::open(&setup.dir, step)?;
        setup.progress.start(&setup.label, total as u64, "steps");
        setup.progress.advance(step as u64);
        Ok(Self {
            gradients: Gradients::zeros(&decoder),
            decoder,
            head,
            auxiliary,
            config: config.clone(),
            peak_rate,
            optimizer,
            metrics,
            kept,
            step,
            total,
            setup,
        })
    }

    /// The step to do now, or nothing at the end. Stops here, with a checkpoint, if the user asked.
    pub fn next_step(&mut self) -> Result<Option<usize>> {
        if self.step == self.total {
            return Ok(None);
        }
        if let Err(interrupted) = interrupt::check() {
            self.save()?;
            return Err(interrupted);
        }
        if self.setup.save_steps > 0 && self.step > 0 && self.step.is_multiple_of(self.setup.save_steps) {
            self.save()?;
        }
        Ok(Some(self.step))
    }

    /// Moves the parameters along the accumulated gradients, and what learns beside them along those in `store`.
    /// Answers the gradients' norm and the learning rate.
    pub fn update(&mut self, store: &GradStore) -> Result<(f64, f64)> {
        let rate = self.config.rate(self.peak_rate, self.step, self.total);
        let of_head = self.head.iter().flat_map(|head| [&head.weight, &head.bias]);
        let mut beside = of_head
            .chain(self.auxiliary.iter().map(|auxiliary| &auxiliary.var))
            .map(|var| match store.get(var.as_tensor()) {
                Some(gradient) => Ok(gradient.flatten_all()?.to_vec1::<f32>()?),
                None => Ok(vec![0.0; var.elem_count()]),
            })
            .collect::<Result<Vec<_>>>()?;
        let mut gradients: Vec<&mut Vec<f32>> = self.gradients.learning().chain(&mut beside).collect();
        let named = trainable(&self.decoder, self.head.as_ref(), self.auxiliary.as_ref())?;
        let tensors: Vec<&Tensor> = named.iter().map(|(_, tensor)| *tensor).collect();
        let norm = self.optimizer.update(&tensors, &mut gradients, rate)?;
        self.gradients.clear();
        self.decoder.set_updates(self.optimizer.step);
        Ok((norm, rate))
    }

    /// What was kept under this name: in this run, or before the checkpoint that it goes on from.
    pub fn kept(&self, name: &str) -> Option<&[f64]> {
        self.kept.get(name).map(Vec::as_slice)
    }

    /// Keeps numbers for the steps to come, also over a stop.
    pub fn keep(&mut self, name: &str, values: Vec<f64>) {
        self.kept.insert(name.to_owned(), values);
    }

    /// Steps done.
    pub fn step(&self) -> usize {
        self.step
    }

    pub fn dir(&self) -> &Path {
        &self.setup.dir
    }

    pub fn note(&self, line: &str) {
        self.setup.progress.note(line);
    }

    /// Ends a step: logs its figures and shows one of them.
    pub fn end_step(&mut self, figures: &[(&str, f64)], shown: &str) -> Result<()> {
        self.metrics.log(self.step, figures)?;
        self.step += 1;
        self.setup.progress.advance(1);
        self.setup.progress.figure(shown);
        Ok(())
    }

    /// Ends the run; the checkpoint stays until the caller has saved the result.
    pub fn finish(mut self) -> Result<(Decoder, Option<ScalarHead>)> {
        self.metrics.sync()?;
        self.setup.progress.finish();
        Ok((self.decoder, self.head))
    }

    fn save(&mut self) -> Result<()> {
        // First: the checkpoint counts on the lines before it.
        self.metrics.sync()?;
        let named = trainable(&self.decoder, self.head.as_ref(), self.auxiliary.as_ref())?;
        checkpoint::save(
            &self.setup.dir,
            self.step,
            &self.setup.fingerprint,
            (&named, &self.kept),
            &self.optimizer,
        )
    }
}

/// Everything that learns, by name: the decoder's parameters that are not frozen, then the head's, then the auxiliary variable.
fn trainable<'a>(
    decoder: &'a Decoder,
    head: Option<&'a ScalarHead>,
    auxiliary: Option<&'a Auxiliary>,
) -> Result<Vec<(String, &'a Tensor)>> {
    let mut named: Vec<(String, &Tensor)> = decoder
        .learning()
        .map(|parameter| Ok((parameter.name.clone(), parameter.weight.dense()?)))
        .collect::<Result<_>>()?;
    if let Some(head) = head {
        named.push(("score.weight".into(), head.weight.as_tensor()));
        named.push(("score.bias".into(), head.bias.as_tensor()));
    }
    if let Some(auxiliary) = auxiliary {
        named.push((auxiliary.name.into(), auxiliary.var.as_tensor()));
    }
    Ok(named)
}
