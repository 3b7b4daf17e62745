//! Rotary position embeddings (Su et al. 2021): frequencies, their scalings, and tables of angles.
//!
//! Frequencies and angles are rounded where transformers rounds them: a table made in higher precision
//! would be more exact, and at positions in the thousands another model.

use std::sync::OnceLock;

/// A rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: RopeScaling,
    /// How much of each head rotates, from its start (`partial_rotary_factor`).
    pub partial: f64,
}

/// How rotary frequencies are stretched beyond the trained context.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// All frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a smooth band between.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context: f64,
    },
    /// LongRoPE (Ding et al. 2024): each frequency divided by its own factor, and cosines and sines
    /// multiplied by an attention factor. `short` serves sequences up to `original_context`, and is
    /// all that is used; `long` is kept to be saved again.
    Long {
        short: Vec<f64>,
        long: Vec<f64>,
        original_context: usize,
        /// The context that the long factors were made for (`max_position_embeddings`).
        long_context: usize,
        /// How much longer the context became; `None` is the quotient of the two contexts.
        factor: Option<f64>,
        /// `None` is `sqrt(1 + ln(factor) / ln(original_context))`.
        attention_factor: Option<f64>,
    },
}

impl Rope {
    /// Without scaling, over the whole head.
    pub fn plain(theta: f64) -> Self {
        Self {
            theta,
            scaling: RopeScaling::None,
            partial: 1.0,
        }
    }

    /// How many numbers of a head rotate.
    pub fn rotated(&self, head_dim: usize) -> usize {
        (head_dim as f64 * self.partial) as usize
    }

    /// The frequencies `(rotated / 2)`, after scaling.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let rotated = self.rotated(head_dim);
        (0..rotated / 2)
            .map(|i| {
                let period = (self.theta as f32).powf((2 * i) as f32 / rotated as f32);
                self.scaling.apply(i, period)
            })
            .collect()
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f32 {
        match &self.scaling {
            RopeScaling::Long {
                original_context,
                long_context,
                factor,
                attention_factor,
                ..
            } => {
                let original = *original_context as f64;
                let factor = factor.unwrap_or(*long_context as f64 / original);
                let default = || (1.0 + factor.max(1.0).ln() / original.ln()).sqrt();
                attention_factor.unwrap_or_else(default) as f32
            }
            RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } => 1.0,
        }
    }
}

impl RopeScaling {
    /// Frequency number `index`, which is `1 / period` without scaling.
    fn apply(&self, index: usize, period: f32) -> f32 {
        let frequency = 1.0 / period;
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / *factor as f32,
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let wavelength = std::f32::consts::TAU / frequency;
                let (low, high) = (*low_freq_factor as f32, *high_freq_factor as f32);
                let smooth = ((*original_context as f32 / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / *factor as f32 + smooth * frequency
            }
            Self::Long { short, .. } => 1.0 / (short[index] as f32 * period),
        }
    }
}

/// Positions computed at a time.
const CHUNK: usize = 256;

/// Cosines and sines of a rotary embedding, computed where they are asked for: a context may have a
/// hundred thousand positions, a run a few hundred.
#[derive(Debug)]
pub struct RopeTable {
    frequencies: Vec<f32>,
    attention_factor: f32,
    chunks: Vec<OnceLock<Angles>>,
}

/// `(CHUNK, rotated / 2)` each.
#[derive(Debug)]
struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// A table of `context` positions.
    pub fn new(rope: &Rope, head_dim: usize, context: usize) -> Self {
        Self {
            frequencies: rope.frequencies(head_dim),
            attention_factor: rope.attention_factor(),
            chunks: (0..context.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Cosines and sines `(rotated / 2)` of a position below the context.
    pub fn at(&self, position: u32) -> (&[f32], &[f32]) {
        let (chunk, row) = (position as usize / CHUNK, position as usize % CHUNK);
        let angles = self.chunks[chunk].get_or_init(|| self.compute(chunk));
        let half = self.frequencies.len();
        let range = row * half..(row + 1) * half;
        (&angles.cos[range.clone()], &angles.sin[range])
    }

    fn compute(&self, chunk: usize) -> Angles {
        let positions = chunk * CHUNK..(chunk + 1) * CHUNK;
        let angles = positions.flat_map(|position| self.frequencies.iter().map(move |f| position as f32 * f));
        let (cos, sin) = angles
            .map(|angle| (angle.cos() * self.attention_factor, angle.sin() * self.attention_factor))
            .unzip();
        Angles { cos, sin }
    }
}
