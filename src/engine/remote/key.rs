//! The API key: from the environment alone, sent as a header, shown nowhere.

use std::fmt;

use reqwest::header::HeaderValue;

use crate::error::{Error, Result};

/// The variables that may hold the key; the first one that is set counts.
pub const VARIABLES: [&str; 2] = ["BYLAW_API_KEY", "OPENAI_API_KEY"];

const REDACTED: &str = "[redacted]";

/// A key that cannot be printed.
#[derive(Clone)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key without space at its ends; `None` if nothing is left.
    pub fn new(key: &str) -> Option<Self> {
        let key = key.trim();
        (!key.is_empty()).then(|| Self(key.to_owned()))
    }

    pub fn from_env() -> Option<Self> {
        let set = |name| std::env::var(name).ok();
        VARIABLES.into_iter().filter_map(set).find_map(|key| Self::new(&key))
    }

    /// The value of the `Authorization` header.
    pub fn header(&self) -> Result<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).map_err(|_| {
            Error::config("the API key has characters that cannot be sent")
                .help(format!("set {} again, without line breaks or quotes", VARIABLES[0]))
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// `text` without the key: servers repeat it in their errors.
    pub fn redact(&self, text: &str) -> String {
        text.replace(&self.0, REDACTED)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a derived `Debug`, a header that is shown, an error with the key in it.
    #[test]
    fn the_key_is_not_shown() {
        let key = ApiKey::new(" sk-hush\n").unwrap();
        let shown = format!("{key:?} {:?} {}", key.header().unwrap(), key.redact("bad key sk-hush!"));
        assert!(!shown.contains("hush"), "{shown}");
        assert_eq!(key.header().unwrap().to_str().unwrap(), "Bearer sk-hush");
        let error = ApiKey::new("sk-\nhush").unwrap().header().unwrap_err();
        assert!(!format!("{error:?}").contains("hush"));
        assert!(ApiKey::new(" ").is_none());
    }
}
