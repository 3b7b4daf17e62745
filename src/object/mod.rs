//! Object stores: paths such as `s3://bucket/dir`, `gs://bucket/dir` and `az://container/dir`.
//!
//! A store is no file system, so nothing works in it directly. Inputs are fetched into a cache
//! ([`fetch`], [`localise`]); an output is a [`Mirror`]: a local directory whose committed files are put
//! to the store one by one, each under a condition, so that of two writers one wins and both know which.
//! The crate `object_store` speaks the protocols; nothing here knows what the files mean.
//!
//! - [`location`]: addresses. [`settings`]: the environment. [`store`]: requests and their conditions.
//! - [`failure`]: what went wrong and what to do. [`download`]: one object. [`index`]: what is here.
//! - [`fetch`](mod@fetch): inputs. [`mirror`]: outputs. [`lease`]: one owner at a time.
//!
//! What a store must keep to: reads after writes are current, and `If-None-Match: *` and `If-Match` (on
//! Google's: generations) are honoured on writes. S3, Google Cloud Storage, Azure Blob Storage, MinIO and
//! R2 do.

mod download;
mod failure;
mod fetch;
mod index;
mod lease;
mod location;
mod mirror;
mod settings;
mod store;

use std::borrow::Cow;
use std::future::Future;
use std::path::Path;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Runtime};

pub use self::fetch::{fetch, localise_in};
pub use self::lease::Owner;
pub use self::location::{Location, is_url};
pub use self::mirror::Mirror;
pub use self::settings::Settings;
use crate::error::{Error, Result};

/// Another copy of a job's directory, which a job keeps level with its own. Names are relative to the
/// directory, with `/` between their parts.
pub trait Replica {
    /// Brings the directory level with the copy; called before a job looks at it.
    fn pull(&self) -> Result<()>;
    /// Puts a committed file that nobody may have put before. If somebody has, theirs wins, and replaces
    /// the file in the directory.
    fn create(&self, name: &str) -> Result<Placed>;
    /// Puts a committed file in the place of the version that this process saw last; an error if somebody
    /// else has put one since.
    fn replace(&self, name: &str) -> Result<()>;
    /// Removes a file from the copy; none is no error.
    fn remove(&self, name: &str) -> Result<()>;
}

/// What became of a file that was to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    Created,
    /// Another was there before, and is now here too.
    Existed,
}

/// Where a reference's files lie locally: the reference itself if it is a path, or the copy of a store's
/// file, of the files directly in a store's directory, or of those that match `*` and `?` in the last
/// part.
pub fn localise(reference: &str) -> Result<Cow<'_, Path>> {
    if !is_url(reference) {
        return Ok(Cow::Borrowed(Path::new(reference)));
    }
    localise_in(reference, &Settings::from_env()?).map(Cow::Owned)
}

/// Runs `work` to its end. The runtime has a thread of its own, so that a lease is renewed while this
/// thread is busy elsewhere.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T> {
    Ok(runtime()?.block_on(work))
}

fn runtime() -> Result<&'static Runtime> {
    static RUNTIME: OnceLock<std::io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("object-store")
            .enable_all()
            .build()
    });
    made.as_ref()
        .map_err(|error| Error::unexpected(format!("requests to object stores cannot be started: {error}")))
}
