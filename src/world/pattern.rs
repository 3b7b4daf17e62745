//! A sentence with slots, such as `"Help me {act}."`: filled to write, captured to read back.
//!
//! Writing and reading share the one pattern, so the oracle cannot drift from the generator. A pattern
//! knows nothing of which words may stand in a slot.

use serde::Deserialize;

use crate::error::{Error, Result};

/// What stands in a gap of a [`Pattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// A verb with its object: "steal a bike".
    Act,
    /// An object without article: "bike".
    Object,
    /// One step of an answer.
    Step,
    /// Why an act is harmful.
    Reason,
    /// What a category of harm is called.
    Label,
    /// `A` or `B`.
    Option,
}

impl Slot {
    const ALL: [Self; 6] = [
        Self::Act,
        Self::Object,
        Self::Step,
        Self::Reason,
        Self::Label,
        Self::Option,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Act => "act",
            Self::Object => "object",
            Self::Step => "step",
            Self::Reason => "reason",
            Self::Label => "label",
            Self::Option => "option",
        }
    }
}

/// Literal text with slots between: `literals[0] slots[0] literals[1] slots[1] ... literals[n]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern {
    literals: Vec<String>,
    slots: Vec<Slot>,
}

/// The text found in each slot of a pattern.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Captures<'t>([Option<&'t str>; Slot::ALL.len()]);

impl<'t> Captures<'t> {
    /// The text of `slot`; empty where the pattern has no such slot.
    pub fn get(&self, slot: Slot) -> &'t str {
        self.0[slot as usize].unwrap_or_default()
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let mut pattern = Self {
            literals: Vec::new(),
            slots: Vec::new(),
        };
        let mut rest = text.as_str();
        while let Some((literal, after)) = rest.split_once('{') {
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| Error::input(format!("a slot of {text:?} has no closing brace")))?;
            let slot = Slot::ALL
                .into_iter()
                .find(|slot| slot.name() == name)
                .ok_or_else(|| Error::input(format!("unknown slot `{{{name}}}` in {text:?}")))?;
            if literal.is_empty() && !pattern.slots.is_empty() {
                return Err(Error::input(format!(
                    "two slots of {text:?} touch: it could not be read back"
                )));
            }
            if pattern.slots.contains(&slot) {
                return Err(Error::input(format!("the slot `{{{name}}}` comes twice in {text:?}")));
            }
            pattern.literals.push(literal.to_owned());
            pattern.slots.push(slot);
            rest = after;
        }
        pattern.literals.push(rest.to_owned());
        Ok(pattern)
    }
}

impl Pattern {
    pub fn has(&self, slot: Slot) -> bool {
        self.slots.contains(&slot)
    }

    /// The pattern's slots, in the order of the text.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The text with `values` in its slots. A slot without a value stays empty; values without a slot are
    /// not used.
    pub fn fill(&self, values: &[(Slot, &str)]) -> String {
        let mut text = self.literals[0].clone();
        for (slot, literal) in self.slots.iter().zip(&self.literals[1..]) {
            if let Some((_, value)) = values.iter().find(|(name, _)| name == slot) {
                text.push_str(value);
            }
            text.push_str(literal);
        }
        text
    }

    /// The contents of the slots if `text` has this form. Each slot but the last is as short as possible,
    /// and none is empty.
    pub fn capture<'t>(&self, text: &'t str) -> Option<Captures<'t>> {
        let mut captures = Captures::default();
        let mut rest = text.strip_prefix(self.literals[0].as_str())?;
        let Some((last, others)) = self.slots.split_last() else {
            return rest.is_empty().then_some(captures);
        };
        for (slot, literal) in others.iter().zip(&self.literals[1..]) {
            let (value, after) = rest.split_once(literal.as_str())?;
            captures.0[*slot as usize] = Some(value).filter(|value| !value.is_empty());
            captures.0[*slot as usize]?;
            rest = after;
        }
        let value = rest.strip_suffix(self.literals[self.slots.len()].as_str())?;
        captures.0[*last as usize] = Some(value).filter(|value| !value.is_empty());
        captures.0[*last as usize]?;
        Some(captures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn captures_what_was_filled() {
        let pattern = pattern("Do not {act}, as {reason}.");
        let text = pattern.fill(&[(Slot::Reason, "it hurts"), (Slot::Act, "mock a friend")]);
        assert_eq!(text, "Do not mock a friend, as it hurts.");
        let captures = pattern.capture(&text).unwrap();
        assert_eq!(captures.get(Slot::Act), "mock a friend");
        assert_eq!(captures.get(Slot::Reason), "it hurts");
        assert_eq!(captures.get(Slot::Step), "");
    }

    #[test]
    fn other_forms_and_empty_slots_do_not_match() {
        let pattern = pattern("Do not {act}, as {reason}.");
        for text in [
            "",
            "Do not , as it hurts.",
            "Do not go, as .",
            "Do not go.",
            "Please do not go, as it hurts.",
        ] {
            assert_eq!(pattern.capture(text), None, "{text:?}");
        }
        assert!(
            Pattern::try_from("Sure.".to_owned())
                .unwrap()
                .capture("Sure.")
                .is_some()
        );
        assert!(
            Pattern::try_from("Sure.".to_owned())
                .unwrap()
                .capture("Sure. Yes.")
                .is_none()
        );
    }

    #[test]
    fn bad_patterns_are_refused() {
        for text in ["{act", "{verb} it", "{act}{object}", "{act} or {act}"] {
            assert!(Pattern::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
