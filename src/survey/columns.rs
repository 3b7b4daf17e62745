//! What is in each column: how many values, how many of them missing or empty.

use serde::Serialize;
use serde_json::Value;

/// Counts of one column; of what is inside a list, over all items of all rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// `rounds[].critique`.
    pub name: String,
    pub values: u64,
    /// Null, or a number that is not one.
    pub null: u64,
    /// `""`, white space alone, or `[]`.
    pub empty: u64,
}

/// The columns in the order of their first appearance.
#[derive(Debug, Default)]
pub struct Columns(Vec<Column>);

impl Columns {
    /// Counts the values of a row, an object.
    pub fn add(&mut self, row: &Value) {
        let mut next = 0;
        for (name, value) in row.as_object().into_iter().flatten() {
            self.value(name, value, &mut next);
        }
    }

    fn value(&mut self, name: &str, value: &Value, next: &mut usize) {
        let column = self.column(name, next);
        column.values += 1;
        match value {
            Value::Null => column.null += 1,
            Value::String(text) if text.trim().is_empty() => column.empty += 1,
            Value::Array(items) if items.is_empty() => column.empty += 1,
            Value::Array(items) => {
                for item in items {
                    match item {
                        Value::Object(fields) => {
                            for (field, value) in fields {
                                self.value(&format!("{name}[].{field}"), value, next);
                            }
                        }
                        item => self.value(&format!("{name}[]"), item, next),
                    }
                }
            }
            Value::Object(fields) => {
                for (field, value) in fields {
                    self.value(&format!("{name}.{field}"), value, next);
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// The column, looked for first where the one after the last stands: rows repeat their order.
    fn column(&mut self, name: &str, next: &mut usize) -> &mut Column {
        let found = match self.0.get(*next) {
            Some(column) if column.name == name => Some(*next),
            _ => self.0.iter().position(|column| column.name == name),
        };
        let index = found.unwrap_or_else(|| {
            self.0.push(Column {
                name: name.to_owned(),
                values: 0,
                null: 0,
                empty: 0,
            });
            self.0.len() - 1
        });
        *next = index + 1;
        &mut self.0[index]
    }

    pub fn finish(self) -> Vec<Column> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Catches: what is inside of lists not looked at, zero or false taken for nothing.
    #[test]
    fn nothing_and_empty_are_counted() {
        let mut columns = Columns::default();
        columns.add(&json!({"id": "a", "list": [], "votes": [{"cot": null}, {"cot": "x"}], "n": 0, "b": false}));
        columns.add(&json!({"id": " ", "list": [{"role": ""}], "votes": [], "n": null, "b": true}));
        let found: Vec<_> = columns
            .finish()
            .into_iter()
            .map(|column| (column.name, column.values, column.null, column.empty))
            .collect();
        let expected = [
            ("id", 2, 0, 1),
            ("list", 2, 0, 1),
            ("votes", 2, 0, 1),
            ("votes[].cot", 2, 1, 0),
            ("n", 2, 1, 0),
            ("b", 2, 0, 0),
            ("list[].role", 1, 0, 1),
        ];
        assert_eq!(
            found,
            expected.map(|(name, values, null, empty)| (name.to_owned(), values, null, empty))
        );
    }
}
