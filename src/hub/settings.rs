//! The environment, by the variables that huggingface_hub reads.

use std::path::PathBuf;

use reqwest::Url;

use crate::error::{Error, Result};
use crate::http::Secret;

pub struct Settings {
    pub endpoint: Url,
    pub token: Option<Secret>,
    /// Nothing may be asked of the network.
    pub offline: bool,
}

impl Settings {
    /// `HF_ENDPOINT`, the token, `HF_HUB_OFFLINE`.
    pub fn from_env() -> Result<Self> {
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let wrong = |what: &str| {
            Error::config(format!("HF_ENDPOINT {what}")).help("set it to an address such as https://huggingface.co")
        };
        let url = Url::parse(endpoint.trim_end_matches('/')).map_err(|_| wrong("is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("is not an http:// or https:// address"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong("holds a user name, a password or a query").help("give a token in HF_TOKEN"));
        }
        Ok(Self {
            endpoint: url,
            token: token()?,
            offline: set("HF_HUB_OFFLINE")
                .or_else(|| set("TRANSFORMERS_OFFLINE"))
                .is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())),
        })
    }
}

/// An environment variable that is not empty.
pub fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The directory that huggingface_hub keeps its things in.
pub fn home() -> Result<PathBuf> {
    let below = |name: &str, path: &str| Some(PathBuf::from(set(name)?).join(path));
    set("HF_HOME")
        .map(PathBuf::from)
        .or_else(|| below("XDG_CACHE_HOME", "huggingface"))
        .or_else(|| below("HOME", ".cache/huggingface"))
        .ok_or_else(|| {
            Error::config("there is no place for the cache of models: HOME is not set")
                .help("set HF_HOME to a directory, or pull with --out DIR")
        })
}

/// From the environment, or from the file that `hf auth login` writes.
fn token() -> Result<Option<Secret>> {
    if let Some(token) = Secret::from_env(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
        return Ok(Some(token));
    }
    let path = match (set("HF_TOKEN_PATH"), home()) {
        (Some(path), _) => PathBuf::from(path),
        (None, Ok(home)) => home.join("token"),
        (None, Err(_)) => return Ok(None),
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Secret::new(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read the token in", &path, error).help("set HF_TOKEN, or fix the file's rights")),
    }
}
