//! `bylaw` turns a constitution into a policy: critique and revision (SL-CAI), preference labels
//! with their length bias controlled (RL-CAI), and the training of SFT, reward-model, DPO and PPO
//! policies on the resulting datasets. ARCHITECTURE.md is the map.

pub mod error;
pub mod interrupt;
pub mod progress;
pub mod record;
pub mod seed;

pub mod prompt;

pub mod constitution;
pub mod dataset;
