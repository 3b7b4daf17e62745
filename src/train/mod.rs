//! Training: batches, losses, the optimiser, and one straight loop a method.
//!
//! A trainer asks the trunk for small tensors, puts a loss on them, and hands the loss's gradient
//! back ([`seam`]). Losses ([`loss`]) are pure functions; they see no model and no tokenizer.

pub mod accumulation;
pub mod batch;
pub mod best;
pub mod checkpoint;
pub mod comparisons;
pub mod events;
pub mod foresight;
pub mod held_out;
pub mod length;
pub mod loss;
pub mod metrics;
pub mod mixture;
pub mod optim;
pub mod pairs;
pub mod reference;
pub mod run;
pub mod seam;
pub mod setup;
pub mod turns;

pub mod monitor;
pub mod online;
pub mod rollout;
pub mod rules;
pub mod sources;

pub mod dpo;
pub mod grpo;
pub mod ppo;
pub mod reward;
pub mod rloo;
pub mod sft;
