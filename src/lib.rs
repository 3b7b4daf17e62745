//! `bylaw` turns a constitution into a policy: critique and revision (SL-CAI), preference labels
//! with their length bias controlled (RL-CAI), and the training of SFT, reward-model, DPO and PPO
//! policies on the resulting datasets. ARCHITECTURE.md is the map; the modules below stand in the
//! order of the layers.

// Level 0: nothing of ours.
pub mod atomic;
pub mod bounds;
pub mod diff;
pub mod error;
pub mod http;
pub mod interrupt;
pub mod judged;
pub mod memory;
pub mod progress;
pub mod record;
pub mod seed;
pub mod small;

// Level 1.
pub mod constitution;
pub mod hub;
pub mod model;
pub mod object;

// Level 2.
pub mod dataset;
pub mod engine;
pub mod prompt;

// Level 3.
pub mod bias;
pub mod select;
pub mod stage;
pub mod survey;

// Level 4.
pub mod job;
pub mod train;

// Level 5.
pub mod eval;
pub mod report;
pub mod world;

// Level 6.
pub mod cli;
pub mod config;
