//! JSON values of which no object has a key twice.
//!
//! JSON leaves open which of two values of one key is meant, and readers disagree. A row is not guessed.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What the reason for a repeated key begins with.
pub const REPEATED: &str = "the key ";

/// Reads one value.
pub fn from_str(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text).map(|Unambiguous(value)| value)
}

struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any).map(Self)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any valid JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unambiguous(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("{REPEATED}`{key}` is there twice")));
            }
            let Unambiguous(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a value that another reader of JSON takes for something else.
    #[test]
    fn values_are_those_of_serde_json() {
        let text =
            r#"{"a": [null, true, -7, 18446744073709551615, 1.5, 1e300, "\u00e9\ud83d\ude00", {}], "b": {"a": []}}"#;
        assert_eq!(from_str(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        for wrong in [
            "",
            "{",
            "[1,]",
            "{\"a\" 1}",
            "1 2",
            "\"\\ud800\"",
            "1e999",
            &"[".repeat(1000),
        ] {
            let expected = serde_json::from_str::<Value>(wrong).unwrap_err().to_string();
            assert_eq!(from_str(wrong).unwrap_err().to_string(), expected, "{wrong}");
        }
    }

    /// Catches: one of two values taken without a word, at whatever depth.
    #[test]
    fn a_repeated_key_has_its_place() {
        let error = from_str(r#"{"a": [{"b": 1, "b": 1}]}"#).unwrap_err();
        assert_eq!(error.to_string(), "the key `b` is there twice at line 1 column 19");
    }
}
