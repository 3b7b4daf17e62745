//! The constitutions inside the program.

use crate::error::{Error, Result, nearest};

const ALL: [(&str, &str); 6] = [
    ("harmless", include_str!("../../constitutions/harmless.toml")),
    ("helpful", include_str!("../../constitutions/helpful.toml")),
    ("honest", include_str!("../../constitutions/honest.toml")),
    ("assistant", include_str!("../../constitutions/assistant.toml")),
    ("tutor", include_str!("../../constitutions/tutor.toml")),
    (
        "proving-ground",
        include_str!("../../constitutions/proving-ground.toml"),
    ),
];

pub const BUILTIN_PREFIX: &str = "builtin:";

pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _)| *name)
}

pub fn text(name: &str) -> Result<&'static str> {
    if let Some((_, text)) = ALL.iter().find(|(known, _)| *known == name) {
        return Ok(text);
    }
    let help = match nearest(name, names()) {
        Some(near) => format!("did you mean `{BUILTIN_PREFIX}{near}`?"),
        None => format!(
            "the built-in constitutions are: {}",
            names().collect::<Vec<_>>().join(", ")
        ),
    };
    Err(Error::config(format!("there is no built-in constitution `{name}`")).help(help))
}
