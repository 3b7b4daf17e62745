//! Our own columns beside those of a tool: what an export keeps of a row so that nothing is lost on the
//! way back.
//!
//! They are honoured only together, as `bylaw data convert` writes them: an `id` alone is some other
//! program's, and a row is named by its content then.

use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::string;
use super::kinds::margin;
use super::{Object, Reason, sharegpt};
use crate::dataset::row::Kind;
use crate::record::Preference;

/// The columns that `object` carries beside those of its form, for rows of `kind`.
pub fn columns(kind: Kind, object: &Object) -> &'static [&'static str] {
    let columns: &[&str] = match kind {
        Kind::Prompts => &["id", "source", "tags"],
        Kind::Demonstrations | Kind::UnpairedPreferences => &["id", "weight"],
        Kind::Revisions | Kind::Candidates | Kind::Preferences | Kind::Rejects => return &[],
    };
    let typed = |name: &&str| match (*name, object.get(*name)) {
        ("id", Some(Value::String(id))) => !id.is_empty(),
        ("weight", Some(Value::Number(_))) | ("source" | "tags", Some(_)) => true,
        _ => false,
    };
    if columns.iter().all(typed) { columns } else { &[] }
}

pub(super) fn id(object: &Object) -> Result<String, Reason> {
    string(object, "id").map(str::to_owned)
}

pub(super) fn weight(object: &Object) -> Result<f32, Reason> {
    super::fields::number(object.get("weight"), "weight").map(|weight| weight as f32)
}

/// A preference without its `margin`, which follows from `p_chosen`, and maybe with its texts as a
/// ShareGPT pair.
pub(super) fn preference(object: &Object) -> Option<Result<Preference, Reason>> {
    let kept = Kind::Preferences.schema();
    let mut kept = kept.fields().iter().map(|field| field.name().as_str());
    let whole =
        kept.all(|name| matches!(name, "margin" | "prompt" | "chosen" | "rejected") || object.contains_key(name));
    let exported = whole && (!object.contains_key("margin") || object.contains_key("conversations"));
    exported.then(|| {
        let mut object = object.clone();
        if object.contains_key("conversations") && !object.contains_key("prompt") {
            let pair = sharegpt::pair(&object)?;
            for (name, messages) in [
                ("prompt", pair.prompt),
                ("chosen", pair.chosen),
                ("rejected", pair.rejected),
            ] {
                object.insert(name.to_owned(), json!(messages));
            }
        }
        object.insert("margin".to_owned(), json!(0.0));
        let mut row = Preference::deserialize(&object).map_err(|error| format!("not a row of preferences: {error}"))?;
        row.margin = margin(row.p_chosen);
        Ok(row)
    })
}
