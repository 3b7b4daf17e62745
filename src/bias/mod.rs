//! The length bias of preferences: measuring it and controlling it.
//!
//! Pure functions over labels and lengths; no engine, no files.

pub mod audit;
pub mod calibration;
pub mod causal;
pub mod control;
pub mod figures;
pub mod interval;
pub mod labels;
pub mod ledger;
pub mod logistic;
pub mod measure;
pub mod winrate;
