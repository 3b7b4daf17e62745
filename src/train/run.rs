//! What every training loop does besides its method: resume, update, log, save, stop when asked.

use std::path::{Path, PathBuf};

use candle_core::{Tensor, Var};

use super::accumulation::BesideGradients;
use super::checkpoint::{self, Kept, Series};
use super::metrics::MetricsLog;
use super::optim::{AdamW, OptimConfig};
use super::seam::{self, Leaves};
pub use super::setup::{Export, Keeping, Setup, Speed};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::cpu::trunk::{Gradients, Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;

/// What learns besides the decoder.
#[derive(Default)]
pub struct Beside {
    /// A head, and how many times faster than the decoder it learns.
    pub head: Option<(ScalarHead, f64)>,
    pub auxiliary: Option<Auxiliary>,
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
    gradients: Gradients,
    of_beside: BesideGradients,
    config: OptimConfig,
    peak_rate: f64,
    optimizer: AdamW,
    metrics: MetricsLog,
    kept: Kept,
    step: usize,
    total: usize,
    /// The step of the newest checkpoint.
    saved: Option<usize>,
    /// Whether the parameters have moved since the last step ended: what is between two steps is no state to save.
    between: bool,
    /// The rows of the step in hand.
    rows: Vec<usize>,
    /// A loss of the step in hand that is not finite.
    lost: Option<f64>,
    speed: Speed,
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
        config.check()?;
        std::fs::create_dir_all(&setup.dir).map_err(|error| Error::io("create", &setup.dir, error))?;
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
        let (step, kept) = series(&setup).restore(&named, &mut optimizer, setup.progress)?;
        decoder.set_updates(optimizer.step);
        let metrics = MetricsLog::open(&setup.dir, step, setup.keeping.tensorboard)?;
        setup.progress.start(&setup.label, total as u64, "steps");
        setup.progress.go_on(step as u64);
        Ok(Self {
            gradients: Gradients::zeros(&decoder),
            of_beside: BesideGradients::default(),
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
            saved: (step > 0).then_some(step),
            between: false,
            rows: Vec::new(),
            lost: None,
            speed: Speed::begin(),
            setup,
        })
    }

    /// The step to do now, or nothing at the end. Stops here, with a checkpoint, if the user asked.
    pub fn next_step(&mut self) -> Result<Option<usize>> {
        if self.step == self.total {
            return Ok(None);
        }
        (self.rows, self.lost) = (Vec::new(), None);
        let due = |steps: usize| steps > 0 && self.step > 0 && self.step.is_multiple_of(steps);
        let (export, save) = (due(self.setup.keeping.export_steps()), due(self.setup.save_steps));
        // First: a run that goes on from the checkpoint does not come by here again.
        if export {
            self.export()?;
        }
        if let Err(interrupted) = interrupt::check() {
            self.save()?;
            return Err(interrupted);
        }
        if save {
            self.save()?;
        }
        Ok(Some(self.step))
    }

    /// Tells which rows of the data the step in hand learns from: an error names them.
    pub fn learns_from(&mut self, rows: &[usize]) {
        self.rows = rows.to_vec();
    }

    /// One forward and backward pass ([`seam::accumulate`]) into the run's gradients; answers the value of the loss, and what
    /// it told.
    pub(super) fn pass<S>(
        &mut self,
        batch: &[Sequence],
        wanted: Wanted,
        loss: impl FnOnce(&Leaves) -> Result<(Tensor, S)>,
    ) -> Result<(f64, S)> {
        let mut value = 0.0;
        let watched = |leaves: &Leaves| {
            let (scalar, stats) = loss(leaves)?;
            value = f64::from(scalar.to_scalar::<f32>()?);
            Ok((scalar, stats))
        };
        let (told, store) = seam::accumulate(&self.decoder, batch, wanted, &mut self.gradients, watched)?;
        self.of_beside
            .add(beside(self.head.as_ref(), self.auxiliary.as_ref()), &store)?;
        if !value.is_finite() {
            self.lost = Some(value);
        }
        self.speed.tokens += batch.iter().map(|sequence| sequence.tokens.len() as u64).sum::<u64>();
        Ok((value, told))
    }

    /// Forgets the gradients that were accumulated: the update that they are for is not made.
    pub fn discard(&mut self) {
        self.gradients.clear();
        self.of_beside.clear();
    }

    /// Moves the parameters, and what learns beside them, along the accumulated gradients.
    /// Answers the gradients' norm and the learning rate. A loss or a norm that is not finite ends the run before it
    /// reaches the parameters.
    pub fn update(&mut self) -> Result<(f64, f64)> {
        if let Some(loss) = self.lost {
            return Err(self.stop_at("the loss", loss)?);
        }
        let rate = self.config.rate(self.peak_rate, self.step, self.total);
        let vars = beside(self.head.as_ref(), self.auxiliary.as_ref());
        let mut of_beside = self.of_beside.take(vars);
        let mut gradients: Vec<&mut Vec<f32>> = self.gradients.learning().chain(&mut of_beside).collect();
        let named = trainable(&self.decoder, self.head.as_ref(), self.auxiliary.as_ref())?;
        let tensors: Vec<&Tensor> = named.iter().map(|(_, tensor)| *tensor).collect();
        let norm = self.optimizer.update(&tensors, &mut gradients, rate)?;
        if !norm.is_finite() {
            return Err(self.stop_at("the norm of the gradients", norm)?);
        }
        self.between = true;
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

    /// Passes over the data that are done when the step in hand is, of `epochs` in all steps.
    pub fn epoch(&self, epochs: usize) -> f64 {
        epochs as f64 * (self.step + 1) as f64 / self.total.max(1) as f64
    }

    /// Ends a step: logs its figures and shows one of them.
    pub fn end_step(&mut self, figures: &[(&str, f64)], shown: &str) -> Result<()> {
        self.metrics.log(self.step, figures)?;
        self.step += 1;
        self.between = false;
        self.speed.steps += 1;
        self.setup.progress.advance(1);
        match self.speed.tokens_per_second() {
            Some(rate) => self.setup.progress.figure(&format!("{shown}  {rate:.0} tokens/s")),
            None => self.setup.progress.figure(shown),
        }
        Ok(())
    }

    /// Ends the run; the checkpoint stays until the caller has saved the result.
    pub fn finish(mut self) -> Result<(Decoder, Option<ScalarHead>)> {
        self.metrics.sync()?;
        self.setup.progress.finish();
        self.setup.keeping.speed.set(Some(self.speed.ended()));
        Ok((self.decoder, self.head))
    }

    fn save(&mut self) -> Result<()> {
        if self.saved == Some(self.step) {
            return Ok(());
        }
        // First: the checkpoint counts on the lines before it.
        self.metrics.sync()?;
        let named = trainable(&self.decoder, self.head.as_ref(), self.auxiliary.as_ref())?;
        series(&self.setup).save(self.step, (&named, &self.kept), &self.optimizer)?;
        self.saved = Some(self.step);
        Ok(())
    }

    /// Writes the model as it is now, if the run has somebody who can. Answers where.
    fn export(&self) -> Result<Option<PathBuf>> {
        if self.setup.keeping.export.is_none() {
            return Ok(None);
        }
        let folder = self.setup.dir.join(checkpoint::step_name(self.step));
        checkpoint::create_folder(&folder)?;
        self.export_to(&folder)?;
        Ok(Some(folder))
    }

    /// The same into a folder that is there.
    pub(super) fn export_to(&self, folder: &Path) -> Result<()> {
        match &self.setup.keeping.export {
            Some(export) => (export.save)(folder, &self.decoder, self.head.as_ref()),
            None => Ok(()),
        }
    }

    /// Whether the model that held-out data like best is kept.
    pub(super) fn keeps_best(&self) -> bool {
        self.setup.keeping.best && self.setup.keeping.export.is_some()
    }

    /// Leaves the step in hand undone and says why; what the steps before it made is saved.
    fn stop_at(&mut self, what: &str, value: f64) -> Result<Error> {
        let mut help = String::new();
        // In the middle of a step, as of PPO's updates, the parameters are not those of any step.
        if !self.between && self.step > 0 {
            self.save()?;
            if let Some(folder) = self.export()? {
                let folder = folder.display();
                help = format!("the model as it was before this step is {folder}: --model {folder} goes on from it; ");
            }
        }
        let kept = match self.saved {
            Some(step) => format!("the checkpoint of step {step} is kept, but "),
            None => String::new(),
        };
        let halves = match self.decoder.training.halves {
            true => ", or --dtype f32",
            false => "",
        };
        let rows = match self.rows.is_empty() {
            true => "",
            false => "; or look at the rows of this step",
        };
        help += &format!(
            "{kept}the same command comes to the same point. Give another --out, and try a lower --learning-rate or \
             --max-grad-norm{halves}{rows}"
        );
        let (step, total) = (self.step + 1, self.total);
        let message = format!(
            "{what} is {value} in step {step} of {total}, which is not applied{}",
            self.named_rows()
        );
        Ok(Error::config(message).at_file(&self.setup.dir).help(help))
    }

    fn named_rows(&self) -> String {
        const SHOWN: usize = 8;
        let names = &self.setup.keeping.rows;
        let name = |row: &usize| {
            names
                .get(*row)
                .cloned()
                .unwrap_or_else(|| format!("number {}", row + 1))
        };
        let shown: Vec<String> = self.rows.iter().take(SHOWN).map(name).collect();
        match self.rows.len() {
            0 => String::new(),
            count if count > SHOWN => format!("; its rows are {} and {} more", shown.join(", "), count - SHOWN),
            _ => format!("; its rows are {}", shown.join(", ")),
        }
    }
}

fn series<'s>(setup: &'s Setup<'_>) -> Series<'s> {
    Series {
        dir: &setup.dir,
        fingerprint: &setup.fingerprint,
        keep: setup.keeping.checkpoints,
    }
}

/// What learns besides the decoder, in the order of [`trainable`].
fn beside<'a>(head: Option<&'a ScalarHead>, auxiliary: Option<&'a Auxiliary>) -> impl Iterator<Item = &'a Var> {
    let of_head = head.into_iter().flat_map(|head| [&head.weight, &head.bias]);
    of_head.chain(auxiliary.map(|auxiliary| &auxiliary.var))
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
