//! What an import cannot keep in a constitution: white space around texts, keys that are no ids, headings in other words.
//!
//! An item that would be exported otherwise than it came is kept as it came, under a fingerprint of its texts. An export
//! puts it back while the constitution has the same texts; an edited one is written in the usual form. So what is
//! imported and exported is the same, and what is edited is never outvoted by what it was. Keys are kept by id.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Format;
use super::json::Json;
use crate::error::Result;
use crate::record::hex;

const ABOUT: &str = "Items of imported files as they were, where `bylaw constitution export` would write them \
                     otherwise. It puts them back while their texts are unchanged.";

/// Items as they were.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Originals(Vec<Original>);

#[derive(Debug, Clone, PartialEq)]
struct Original {
    format: String,
    fingerprint: String,
    value: Value,
}

impl Originals {
    /// Where those of a constitution file are.
    pub fn beside(constitution: &Path) -> PathBuf {
        constitution.with_extension("originals.json")
    }

    /// What the key of a principle is found by.
    pub fn of_key(id: &str) -> String {
        format!("key {id}")
    }

    /// What the keys of a file are found by.
    pub const KEYS: &'static str = "keys";

    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let json = Json::parse(text, path)?;
        let [_, items] = json.root().fields(["about", "originals"])?;
        let items = items.list()?.into_iter().map(|item| {
            let [format, fingerprint, original] = item.fields(["format", "texts", "original"])?;
            Ok(Original {
                format: format.text()?.to_owned(),
                fingerprint: fingerprint.text()?.to_owned(),
                value: original.value.clone(),
            })
        });
        Ok(Self(items.collect::<Result<_>>()?))
    }

    pub fn to_json(&self) -> Value {
        let items = self.0.iter().map(|original| {
            json!({
                "format": original.format,
                "texts": original.fingerprint,
                "original": original.value,
            })
        });
        json!({ "about": ABOUT, "originals": items.collect::<Vec<_>>() })
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn keep(&mut self, format: Format, fingerprint: String, value: Value) {
        self.0.push(Original {
            format: format.name().to_owned(),
            fingerprint,
            value,
        });
    }

    /// How many items of a format there are.
    pub fn count(&self, format: Format) -> usize {
        let of = self.0.iter().filter(|original| original.format == format.name());
        of.filter(|original| !original.fingerprint.starts_with("key")).count()
    }

    pub fn find(&self, format: Format, fingerprint: &str) -> Option<&Value> {
        let mut all = self.0.iter();
        all.find(|original| original.format == format.name() && original.fingerprint == fingerprint)
            .map(|original| &original.value)
    }
}

/// Fingerprints of the items of one file: equal items are told apart by their order.
#[derive(Debug, Default)]
pub struct Fingerprints(BTreeMap<String, usize>);

impl Fingerprints {
    pub fn next(&mut self, content: &Value) -> String {
        let digits = hex(&Sha256::digest(content.to_string())[..8]);
        let seen = self.0.entry(digits.clone()).or_default();
        *seen += 1;
        match *seen {
            1 => digits,
            count => format!("{digits}-{count}"),
        }
    }
}
