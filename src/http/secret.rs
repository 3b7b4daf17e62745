//! Keys and tokens: sent as a header, shown nowhere.

use std::fmt;

use reqwest::header::HeaderValue;

use crate::error::{Error, Result};

const REDACTED: &str = "[redacted]";

/// A key that cannot be printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A key without space at its ends; `None` if nothing is left.
    pub fn new(key: &str) -> Option<Self> {
        let key = key.trim();
        (!key.is_empty()).then(|| Self(key.to_owned()))
    }

    /// The first of these environment variables that is set.
    pub fn from_env(variables: &[&str]) -> Option<Self> {
        let set = |name: &&str| std::env::var(name).ok();
        variables.iter().filter_map(set).find_map(|key| Self::new(&key))
    }

    /// The value of the `Authorization` header.
    pub fn header(&self) -> Result<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).map_err(|_| {
            Error::config("the key or token has characters that cannot be sent")
                .help("set it again, without line breaks or quotes")
        })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// `text` without the key: servers repeat it in their errors.
    pub fn redact(&self, text: &str) -> String {
        text.replace(&self.0, REDACTED)
    }
}

impl fmt::Debug for Secret {
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
        let key = Secret::new(" sk-hush\n").unwrap();
        let shown = format!("{key:?} {:?} {}", key.header().unwrap(), key.redact("bad key sk-hush!"));
        assert!(!shown.contains("hush"), "{shown}");
        assert_eq!(key.header().unwrap().to_str().unwrap(), "Bearer sk-hush");
        let error = Secret::new("sk-\nhush").unwrap().header().unwrap_err();
        assert!(!format!("{error:?}").contains("hush"));
        assert!(Secret::new(" ").is_none());
    }
}
