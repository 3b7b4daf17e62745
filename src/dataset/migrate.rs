//! Reading datasets that earlier versions wrote.
//!
//! Every change of the format is a step of [`STEPS`]: from one version to the next, what happens to the
//! manifest and to the record batches. Reading applies the steps from the version that was found up to
//! [`CURRENT`]; nothing on disk changes. A version that is newer than the program is refused by name. A
//! small dataset of every version lies in `tests/golden/schema-N`, and every later version must read it.
//!
//! The manifest holds the version as `schema_version`; a shard holds the version that changed its kind last in
//! the metadata of its schema under [`KEY`], so that it can be read without its manifest. A shard without it has
//! columns of version 1.

mod hashes;
mod items;
mod verdicts;

use arrow::record_batch::RecordBatch;
use serde_json::Value;

use super::row::Kind;

/// The version that this program writes.
pub const CURRENT: u32 = 3;

/// Where a shard's schema holds the version.
pub const KEY: &str = "bylaw.schema_version";

/// From one version of the format to the next.
struct Step {
    from: u32,
    manifest: fn(Value) -> Result<Value, String>,
    batch: fn(Kind, RecordBatch) -> Result<RecordBatch, String>,
}

/// In ascending order, without gaps. Version 1 is the first.
const STEPS: &[Step] = &[
    // Votes have a `verdict`.
    Step {
        from: 1,
        manifest: Ok,
        batch: verdicts::add,
    },
    // Votes and rounds have a `principle_hash`.
    Step {
        from: 2,
        manifest: Ok,
        batch: hashes::add,
    },
];

/// A manifest as [`CURRENT`] has it. What is wrong with the version is told for users.
pub fn manifest(value: Value) -> Result<Value, String> {
    manifest_by(STEPS, CURRENT, value)
}

/// The columns as [`CURRENT`] has them.
pub fn batch(kind: Kind, batch: RecordBatch) -> Result<RecordBatch, String> {
    batch_by(STEPS, CURRENT, kind, batch)
}

fn manifest_by(steps: &[Step], current: u32, value: Value) -> Result<Value, String> {
    let version = match value.get("schema_version") {
        None => return Err("`schema_version` is missing".into()),
        Some(version) => version
            .as_u64()
            .and_then(|version| u32::try_from(version).ok())
            .ok_or_else(|| format!("`schema_version` is {version}, expected a number"))?,
    };
    let mut value = taken(steps, current, version)?
        .iter()
        .try_fold(value, |value, step| (step.manifest)(value))?;
    if let Some(found) = value.get_mut("schema_version") {
        *found = current.into();
    }
    Ok(value)
}

fn batch_by(steps: &[Step], current: u32, kind: Kind, batch: RecordBatch) -> Result<RecordBatch, String> {
    let version = match batch.schema_ref().metadata.get(KEY) {
        None => 1,
        Some(text) => text
            .parse()
            .map_err(|_| format!("the schema's `{KEY}` is {text:?}, expected a number"))?,
    };
    taken(steps, current, version)?
        .iter()
        .try_fold(batch, |batch, step| (step.batch)(kind, batch))
}

/// The steps from `version` on.
fn taken(steps: &[Step], current: u32, version: u32) -> Result<&[Step], String> {
    if version > current {
        return Err(format!(
            "it has schema version {version}, which is newer than this program: {} reads versions up to {current}",
            concat!("bylaw ", env!("CARGO_PKG_VERSION"))
        ));
    }
    if version == current {
        return Ok(&[]);
    }
    match steps.iter().position(|step| step.from == version) {
        Some(first) => Ok(&steps[first..]),
        None => Err(format!("there is no schema version {version}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use arrow::datatypes::{Field, Schema};
    use serde_json::json;

    use super::*;

    fn renamed(batch: &RecordBatch, from: &str, to: &str) -> RecordBatch {
        let fields: Vec<Field> = batch
            .schema_ref()
            .fields()
            .iter()
            .map(|field| match field.name() == from {
                true => field.as_ref().clone().with_name(to),
                false => field.as_ref().clone(),
            })
            .collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec()).unwrap()
    }

    /// Two steps as they may come: a column gets another name, and then another one again.
    const TWO: &[Step] = &[
        Step {
            from: 1,
            manifest: |mut value| {
                value["revisions"] = json!([]);
                Ok(value)
            },
            batch: |_, batch| Ok(renamed(&batch, "raw", "text")),
        },
        Step {
            from: 2,
            manifest: |value| match value["revisions"].is_array() {
                true => Ok(value),
                false => Err("no revisions".into()),
            },
            batch: |_, batch| Ok(renamed(&batch, "text", "content")),
        },
    ];

    fn rejects(version: Option<&str>) -> RecordBatch {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        let batch = RecordBatch::try_from_iter([("raw", column)]).unwrap();
        let metadata = version.map(|version| (KEY.to_owned(), version.to_owned()));
        let schema = batch
            .schema_ref()
            .as_ref()
            .clone()
            .with_metadata(metadata.into_iter().collect::<std::collections::HashMap<_, _>>());
        batch.with_schema(Arc::new(schema)).unwrap()
    }

    /// Catches: steps left out, taken twice or in the wrong order.
    #[test]
    fn an_old_dataset_takes_every_step_once() {
        let found = manifest_by(TWO, 3, json!({"schema_version": 1, "rows": 5})).unwrap();
        assert_eq!(found, json!({"schema_version": 3, "rows": 5, "revisions": []}));
        assert_eq!(
            manifest_by(TWO, 3, json!({"schema_version": 2})),
            Err("no revisions".into())
        );
        let column = |version| {
            let batch = batch_by(TWO, 3, Kind::Rejects, rejects(version)).unwrap();
            batch.schema_ref().field(0).name().clone()
        };
        assert_eq!([None, Some("1")].map(column), ["content", "content"]);
        assert_eq!(column(Some("3")), "raw");
    }

    /// Catches: a dataset of a later version read as if it were of this one.
    #[test]
    fn newer_and_unknown_versions_are_refused() {
        let newer = manifest(json!({"schema_version": CURRENT + 1})).unwrap_err();
        assert!(newer.contains("newer than this program: bylaw"), "{newer}");
        assert!(batch(Kind::Rejects, rejects(Some("99"))).is_err());
        assert!(batch(Kind::Rejects, rejects(Some("one"))).is_err());
        for wrong in [json!({}), json!({"schema_version": "1"}), json!({"schema_version": 0})] {
            assert!(manifest(wrong).is_err());
        }
    }

    /// Catches: a gap in the table.
    #[test]
    fn the_steps_lead_to_the_current_version() {
        let from: Vec<u32> = STEPS.iter().map(|step| step.from).collect();
        assert_eq!(from, (1..CURRENT).collect::<Vec<_>>());
    }
}
