//! The Hugging Face hub: which files a repository has, how they get here, and where they lie.
//!
//! [`pull`] brings a model's files; [`local`] finds what was pulled, without any network, and is all
//! that loading a model needs. Files lie in the cache of huggingface_hub, in its layout, so that Python
//! tools and this program share them (huggingface.co/docs/hub/local-cache). Pickles are never fetched.
//!
//! - [`names`]: repositories, revisions, file names, patterns. [`settings`]: the environment.
//! - [`cache`]: the layout. [`client`]: requests with redirects and retries. [`download`]: one file.
//! - [`select`]: which files a model needs. [`pull`](mod@pull): all of it together.

mod cache;
mod client;
mod download;
mod names;
mod pull;
mod select;
mod settings;

use std::path::PathBuf;

pub use self::cache::Cache;
pub use self::names::{PREFIX, Repository, fits};
pub use self::pull::{Pulled, PulledFile, pull};
pub use self::select::Choice;
pub use self::settings::Settings;
use crate::error::Result;

/// Where the model `hf:org/name[@revision]` lies in the cache: a directory, or its only GGUF file.
/// `None` if the reference is no `hf:` one.
pub fn local(reference: &str) -> Result<Option<PathBuf>> {
    let Some(repository) = reference.strip_prefix(PREFIX) else {
        return Ok(None);
    };
    let repository = Repository::parse(repository)?;
    Cache::from_env()?.model(&repository).map(Some)
}
