//! `bylaw` turns a constitution into a policy: critique and revision (SL-CAI), preference labels
//! with their length bias controlled (RL-CAI), and the training of SFT, reward-model, DPO and PPO
//! policies on the resulting datasets. ARCHITECTURE.md is the map.

pub mod error;
pub mod interrupt;
pub mod progress;
pub mod record;
pub mod seed;

pub mod constitution;
pub mod model;

pub mod dataset;
pub mod engine;
pub mod prompt;

pub mod train;

pub mod world;
