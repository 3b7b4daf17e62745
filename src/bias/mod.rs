//! The length bias of preferences: measuring it and controlling it.
//!
//! Pure functions over labels and lengths; no engine, no files.

pub mod control;
pub mod interval;
pub mod measure;
pub mod winrate;
