//! The seam between the trunk and the losses: what leaves the trunk becomes the leaves of a small
//! autograd graph, and their gradients go back into the trunk.

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::error::{Error, Result};
use crate::model::cpu::trunk::{self, Gradients, Outlook, Outputs, Sequence, Wanted};
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;

/// The outputs of the trunk for `B` sequences, as variables.
pub struct Leaves {
    /// `(B, T)`: log-probabilities of the completions' tokens, 0 beyond a completion's end. `T` is the
    /// longest completion's length.
    pub logprobs: Var,
    /// `(B, T)`: 1 for a token of a completion.
    pub mask: Tensor,
    /// `(N, hidden)`: hidden states, sequence after sequence, if they were wanted.
    pub hidden: Option<Var>,
    /// Completion tokens of each sequence.
    pub lengths: Vec<usize>,
    /// How the model stood before each of them, where log-probabilities were wanted.
    pub outlooks: Vec<Vec<Outlook>>,
}

impl Leaves {
    /// The log-probabilities of each sequence's completion.
    pub fn rows(&self) -> Result<Vec<Vec<f32>>> {
        let mut rows = self.logprobs.as_tensor().to_vec2::<f32>()?;
        for (row, length) in rows.iter_mut().zip(&self.lengths) {
            row.truncate(*length);
        }
        Ok(rows)
    }

    /// The outputs for sequences whose completions have `lengths` tokens, hidden states of `width` numbers.
    pub fn new(outputs: &Outputs, lengths: Vec<usize>, width: usize) -> Result<Self> {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mask = pad(lengths.iter().map(|length| vec![1.0; *length]), longest);
        let logprobs = if outputs.logprobs.is_empty() {
            vec![0.0; mask.len()]
        } else {
            pad(outputs.logprobs.iter().cloned(), longest)
        };
        let shape = (lengths.len(), longest);
        let hidden = if outputs.hidden.is_empty() {
            None
        } else {
            let rows = outputs.hidden.concat();
            let count = rows.len() / width;
            Some(Var::from_vec(rows, (count, width), &Device::Cpu)?)
        };
        Ok(Self {
            logprobs: Var::from_vec(logprobs, shape, &Device::Cpu)?,
            mask: Tensor::from_vec(mask, shape, &Device::Cpu)?,
            hidden,
            lengths,
            outlooks: outputs.outlooks.clone(),
        })
    }

    /// `(B)`: summed log-probability of each completion.
    pub fn logps(&self) -> Result<Tensor> {
        Ok((self.logprobs.as_tensor() * &self.mask)?.sum(1)?)
    }

    /// `(N)`: what a head reads in the hidden states; its gradient flows into the trunk.
    pub fn apply_head(&self, head: Option<&ScalarHead>) -> Result<Tensor> {
        let (head, hidden) = self.head_and_hidden(head)?;
        head.forward(hidden.as_tensor())
    }

    /// The same, but its gradient stops at the head.
    pub fn apply_head_detached(&self, head: Option<&ScalarHead>) -> Result<Tensor> {
        let (head, hidden) = self.head_and_hidden(head)?;
        head.forward(&hidden.as_detached_tensor())
    }

    fn head_and_hidden<'h>(&self, head: Option<&'h ScalarHead>) -> Result<(&'h ScalarHead, &Var)> {
        match (head, &self.hidden) {
            (Some(head), Some(hidden)) => Ok((head, hidden)),
            _ => Err(Error::unexpected("a head needs hidden states")),
        }
    }

    /// `(B, T)` from one row a sequence, 0 beyond its end: targets, weights, advantages.
    pub fn pad(&self, rows: impl IntoIterator<Item = Vec<f32>>) -> Result<Tensor> {
        let (batch, longest) = self.mask.dims2()?;
        Ok(Tensor::from_vec(pad(rows, longest), (batch, longest), &Device::Cpu)?)
    }

    /// `(B, T)` from values `(N)` that stand sequence after sequence, differentiably.
    pub fn scatter(&self, packed: &Tensor) -> Result<Tensor> {
        let (batch, longest) = self.mask.dims2()?;
        let count = packed.dim(0)?;
        let padded = Tensor::cat(&[packed, &Tensor::zeros(1, packed.dtype(), packed.device())?], 0)?;
        let mut places = Vec::with_capacity(batch * longest);
        let mut next = 0u32;
        for length in &self.lengths {
            places.extend(next..next + *length as u32);
            places.extend(std::iter::repeat_n(count as u32, longest - length));
            next += *length as u32;
        }
        let places = Tensor::from_vec(places, batch * longest, &Device::Cpu)?;
        Ok(padded.index_select(&places, 0)?.reshape((batch, longest))?)
    }

    /// The gradients of the leaves, in the shape that left the trunk.
    fn gradient(&self, store: &GradStore) -> Result<Outputs> {
        let mut outputs = Outputs::default();
        if let Some(gradient) = store.get(self.logprobs.as_tensor()) {
            outputs.logprobs = gradient
                .to_vec2::<f32>()?
                .into_iter()
                .zip(&self.lengths)
                .map(|(mut row, length)| {
                    row.truncate(*length);
                    row
                })
                .collect();
        }
        if let Some(hidden) = &self.hidden
            && let Some(gradient) = store.get(hidden.as_tensor())
        {
            let width = hidden.dim(1)?;
            let flat = gradient.flatten_all()?.to_vec1::<f32>()?;
            // `LastHidden` gives one row a sequence, otherwise one a token.
            let per_token = hidden.dim(0)? != self.lengths.len();
            let mut rest = flat.as_slice();
            for length in &self.lengths {
                let rows = if per_token { *length } else { 1 };
                let (row, tail) = rest.split_at(rows * width);
                outputs.hidden.push(row.to_vec());
                rest = tail;
            }
        }
        Ok(outputs)
    }
}

fn pad(rows: impl IntoIterator<Item = Vec<f32>>, longest: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for mut row in rows {
        row.resize(longest, 0.0);
        out.extend(row);
    }
    out
}

/// One forward and backward pass. `loss` gets the leaves and answers a scalar and what else it wants
/// to tell; the gradients of the decoder are added to `gradients`. The store of the small graph is
/// returned for variables that the loss brought along, such as a head's.
pub fn accumulate<S>(
    decoder: &Decoder,
    batch: &[Sequence],
    wanted: Wanted,
    gradients: &mut Gradients,
    loss: impl FnOnce(&Leaves) -> Result<(Tensor, S)>,
) -> Result<(S, GradStore)> {
    let (outputs, tape) = trunk::forward(decoder, batch, wanted)?;
    let lengths = batch.iter().map(Sequence::completion_len).collect();
    let leaves = Leaves::new(&outputs, lengths, decoder.config.hidden)?;
    let (scalar, stats) = loss(&leaves)?;
    let store = scalar.backward()?;
    trunk::backward(decoder, tape, &leaves.gradient(&store)?, gradients)?;
    Ok((stats, store))
}
