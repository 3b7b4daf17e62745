//! The decoder against transformers (`tests/golden`), against its slow twin, and against bad files.
//!
//! Each test says which mistake it catches. The largest differences are printed; see them with
//! `cargo test --test model_parity -- --nocapture`.

#[path = "../support/mod.rs"]
mod support;

mod adapters;
mod configurations;
mod files;
mod gradients;
mod inference;
mod random;

use bylaw::model::cpu::trunk::Wanted;

const NLL: Wanted = Wanted::Logprobs { temperature: 1.0 };
