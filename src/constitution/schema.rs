//! The JSON Schema of constitution files, made of the keys that reading knows ([`super::keys`]), for editors that
//! complete and check TOML as one types.

use serde_json::{Map, Value, json};

use super::keys::{self, Group, Key, Shape};
use super::lints;

/// Where the schema is found.
pub const ID: &str = "https://raw.githubusercontent.com/bylaw/bylaw/main/schemas/constitution.json";

/// The schema (draft 7, which the TOML language servers read).
pub fn constitution() -> Value {
    let mut schema = object(&keys::CONSTITUTION);
    let head = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": ID,
        "title": "Constitution",
        "description": "The principles by which bylaw criticises, revises and compares answers.",
    });
    let mut document = Map::new();
    for part in [head, schema.take()] {
        if let Value::Object(part) = part {
            document.extend(part);
        }
    }
    Value::Object(document)
}

fn object(group: &Group) -> Value {
    let properties: Map<String, Value> = group
        .keys
        .iter()
        .map(|key| (key.name.to_owned(), property(key)))
        .collect();
    let required: Vec<&str> = group
        .keys
        .iter()
        .filter(|key| key.required)
        .map(|key| key.name)
        .collect();
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
    })
}

fn property(key: &Key) -> Value {
    let mut schema = match key.shape {
        Shape::Text => json!({ "type": "string", "minLength": 1 }),
        Shape::Id => json!({ "type": "string", "pattern": "^[a-z0-9-]+$" }),
        Shape::Weight => json!({ "type": "number", "minimum": 0, "default": 1.0 }),
        Shape::Texts => json!({ "type": "array", "items": { "type": "string", "minLength": 1 } }),
        Shape::Lints => {
            let names: Vec<&str> = lints::ALL.iter().map(|(name, _)| *name).collect();
            json!({ "type": "array", "items": { "enum": names } })
        }
        Shape::Names => json!({
            "type": "object",
            "additionalProperties": { "type": "string", "minLength": 1 },
            "propertyNames": { "pattern": "^[a-z][a-z0-9_]*$" },
        }),
        Shape::Table(group) => object(group),
        Shape::Tables(group) => json!({ "type": "array", "items": object(group) }),
    };
    schema["description"] = key.about.into();
    schema
}
