//! The keys of a `config.json`, read by name.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

pub struct Keys(Map<String, Value>);

impl Keys {
    pub fn parse(text: &str) -> Result<Self> {
        let map = serde_json::from_str(text).map_err(|error| Error::input("not a model configuration").because(error));
        map.map(Self)
    }

    /// Fills in what transformers takes when a key is absent. A `null` stays.
    pub fn or(&mut self, key: &str, default: impl Into<Value>) {
        self.0.entry(key).or_insert_with(|| default.into());
    }

    /// The value of a key; nothing when it is absent or null.
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone())
                .map(Some)
                .map_err(|error| Error::input(format!("`{key}` of the configuration cannot be read")).because(error)),
        }
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        self.read(key)?
            .ok_or_else(|| Error::input(format!("the configuration has no `{key}`")))
    }

    pub fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.read(key)?.unwrap_or(false))
    }

    pub fn text(&self, key: &str) -> Result<String> {
        Ok(self.read(key)?.unwrap_or_default())
    }

    /// The object under a key, as keys of its own.
    pub fn inner(&self, key: &str) -> Result<Self> {
        self.read(key)?
            .map(Self)
            .ok_or_else(|| Error::input(format!("the configuration has no `{key}`")))
    }
}
