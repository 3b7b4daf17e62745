//! What every HTTP client here shares: how it is made, how it waits, how it tells why it failed.
//!
//! The remote engine and the hub stand on it. Knows no protocol above HTTP.

pub mod backoff;
mod secret;

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use reqwest::{Client, ClientBuilder, redirect};

pub use self::secret::Secret;
use crate::error::{Error, Result};
use crate::interrupt;

/// How often a wait looks for Ctrl-C.
pub const TICK: Duration = Duration::from_millis(200);

/// A client that follows no redirect by itself. `plain` says that nothing but `http://` is asked; then
/// the system's certificates are not needed, and may be missing.
pub fn client(plain: bool, settings: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Result<Client> {
    provide_cryptography();
    let mut builder = Client::builder()
        .user_agent(concat!("bylaw/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none());
    if plain {
        builder = builder.tls_certs_only([]);
    }
    settings(builder).build().map_err(|error| {
        Error::unexpected(format!("no HTTP client can be made: {}", root_cause(&error)))
            .help("an https:// address needs the system's root certificates (package ca-certificates)")
    })
}

/// Names the cryptographic provider of TLS to whoever makes an HTTP client in this process.
pub fn provide_cryptography() {
    // Installed once; a second time is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A wait that Ctrl-C ends.
pub async fn sleep(wait: Duration) -> Result<()> {
    let until = Instant::now() + wait;
    loop {
        interrupt::check()?;
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Ok(());
        }
        tokio::time::sleep(rest.min(TICK)).await;
    }
}

/// What `work` comes to, unless Ctrl-C ends it.
pub async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<T> {
    let mut work = pin!(work);
    loop {
        interrupt::check()?;
        tokio::select! {
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// The innermost reason of an error: reqwest's own says little, and repeats the address.
pub fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The first line's worth of a server's words.
pub fn shortened(text: &str) -> String {
    const LONGEST: usize = 300;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.len() <= LONGEST {
        return text;
    }
    format!("{}…", &text[..text.floor_char_boundary(LONGEST)])
}
