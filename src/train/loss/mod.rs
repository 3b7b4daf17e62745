//! The losses: pure functions over small tensors, with documented shapes and named results.
//!
//! Tensors may be `f32` or `f64` and live on the CPU. `logprobs` are per token, `logps` summed per
//! sequence; in a mask, 1 counts.

pub mod advantage;
pub mod dpo;
pub mod grpo;
pub mod hinge;
pub mod ipo;
pub mod kl;
pub mod kto;
pub mod length;
pub mod ops;
pub mod orpo;
pub mod ppo;
pub mod reward;
pub mod rloo;
pub mod robust;
pub mod sft;
pub mod simpo;
pub mod surrogate;
