//! Variables: `{{ name }}` in a text stands for what `[variables]` or the recipe says.
//!
//! Nothing else of a template language: a text is a text, and what stands in for a name is not read again.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::{Diagnostic, Findings, Located, Place};
use crate::error::nearest;

/// Puts the values in the place of their names, which are added to `used`. What has no value is a finding and stays.
pub fn fill(
    text: &mut Located<String>,
    values: &BTreeMap<String, String>,
    used: &mut BTreeSet<String>,
    findings: &Findings,
) {
    let mut filled = String::with_capacity(text.value.len());
    let mut rest = text.value.as_str();
    while let Some(start) = rest.find("{{") {
        filled.push_str(&rest[..start]);
        let Some(end) = rest[start..].find("}}").map(|end| start + end + 2) else {
            findings.error(
                "open-placeholder",
                text.at.of_part(rest[start..].lines().next().unwrap_or_default()),
                "`{{` has no `}}` behind it",
                "a variable is written {{ name }}",
            );
            break;
        };
        let placeholder = &rest[start..end];
        let name = placeholder[2..placeholder.len() - 2].trim();
        match values.get(name) {
            Some(value) => {
                used.insert(name.to_owned());
                filled.push_str(value);
            }
            None => {
                findings.add(unknown(name, placeholder, text.at.of_part(placeholder), values));
                filled.push_str(placeholder);
            }
        }
        rest = &rest[end..];
    }
    filled.push_str(rest);
    text.value = filled;
}

fn unknown(name: &str, placeholder: &str, place: Place, values: &BTreeMap<String, String>) -> Diagnostic {
    let message = format!("nothing fills the placeholder `{placeholder}`");
    if !is_name(name) {
        let help = "a variable is written {{ name }}, with a name of lower-case letters, digits and underscores";
        return Diagnostic::error("unfilled-placeholder", place, message, help);
    }
    match nearest(name, values.keys().map(String::as_str)) {
        Some(near) => {
            let help = format!("did you mean `{{{{ {near} }}}}`?");
            Diagnostic::error("unfilled-placeholder", place, message, help).replace(format!("{{{{ {near} }}}}"))
        }
        None => {
            let help = format!("say what it stands for: [variables], and under it {name} = \"...\"");
            Diagnostic::error("unfilled-placeholder", place, message, help)
        }
    }
}

pub fn check_name(name: &str, place: &Place, findings: &Findings) {
    if !is_name(name) {
        findings.error(
            "bad-name",
            place.clone(),
            format!("the variable {name:?} has other characters than lower-case letters, digits and underscores"),
            "write it like `audience`",
        );
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}
