//! Names that people type and servers send. A server's file names are data: one that would leave its
//! directory is refused.

use std::fmt;
use std::path::{Component, Path};

use crate::error::{Error, Result};

/// What the reference of a model on the hub begins with.
pub const PREFIX: &str = "hf:";

const FORM: &str = "write it as org/name or org/name@revision; a revision is a branch, a tag or a commit";

/// A model's repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// `org/name`; some old ones have no `org`.
    pub id: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl Repository {
    /// Reads `org/name[@revision]`, with `hf:` before it or without.
    pub fn parse(text: &str) -> Result<Self> {
        let bare = text.strip_prefix(PREFIX).unwrap_or(text);
        let (id, revision) = bare.split_once('@').unwrap_or((bare, "main"));
        let parts: Vec<&str> = id.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| is_name(part)) {
            return Err(Error::config(format!("`{text}` does not name a repository of the hub")).help(FORM));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-/+".contains(c);
        if !is_inside(revision) || !revision.chars().all(plain) {
            return Err(Error::config(format!("`{revision}` is no revision")).help(FORM));
        }
        Ok(Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            "main" => f.write_str(&self.id),
            revision => write!(f, "{}@{revision}", self.id),
        }
    }
}

/// An organisation's or a model's name, by the hub's rules.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty()
        && name.chars().all(plain)
        && !name.starts_with(['.', '-'])
        && !name.contains("..")
        && !name.contains("--")
}

/// Whether a path with `/` between its parts stays below where it starts, on any system.
pub fn is_inside(path: &str) -> bool {
    let normal = |component| matches!(component, Component::Normal(_));
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
        && Path::new(path).components().all(normal)
}

/// A full commit, as git names it.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_hex(revision)
}

pub fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `name` fits `pattern`: `*` stands for anything, `/` included, and `?` for one character, as
/// in the patterns of huggingface_hub.
pub fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how far it has eaten.
    let mut star = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match &mut star {
                Some((at, eaten)) => {
                    *eaten += 1;
                    (p, n) = (*at + 1, *eaten);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// A path's or a revision's part of a URL.
pub fn escaped(text: &str, keep: &str) -> String {
    use std::fmt::Write;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || keep.as_bytes().contains(&byte);
    text.bytes().fold(String::new(), |mut url, byte| {
        if plain(byte) {
            url.push(byte.into());
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
        url
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a name that becomes a path or a query; a revision lost.
    #[test]
    fn repositories_are_read() {
        let read = |text: &str| Repository::parse(text).map(|found| (found.id, found.revision));
        let pair = |id: &str, revision: &str| (id.to_owned(), revision.to_owned());
        assert_eq!(read("a/B-1.5_x").unwrap(), pair("a/B-1.5_x", "main"));
        assert_eq!(read("hf:gpt2@refs/pr/1").unwrap(), pair("gpt2", "refs/pr/1"));
        for wrong in [
            "", "a/b/c", "/b", "a/", "../b", "a/..", "a/b?x", "a b", "a/b@", "a/b@../x", "a/b@/x", "a/b@x y", "a--b/c",
            "./a", "~/a", "a/b@x\\y",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    /// Catches: a server's file name that leaves the directory it is written to.
    #[test]
    fn file_names_stay_inside() {
        for good in ["config.json", "onnx/model.onnx", "a b.json", ".gitattributes", "..a"] {
            assert!(is_inside(good), "{good}");
        }
        for wrong in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "a/./b",
            "a\\..\\x",
            "C:x",
            "a/..",
            "x\0",
        ] {
            assert!(!is_inside(wrong), "{wrong}");
        }
    }

    /// Catches: a star that eats too much or too little.
    #[test]
    fn patterns_fit() {
        for (pattern, name, expected) in [
            ("*.gguf", "m-Q8_0.gguf", true),
            ("*.gguf", "a/m.gguf", true),
            ("*Q4_K*.gguf", "m-Q4_K_M.gguf", true),
            ("*Q4_K*.gguf", "m-Q5_K_M.gguf", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("?.json", "a.json", true),
            ("?.json", ".json", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
        assert_eq!(escaped("a b/ü", "/"), "a%20b/%C3%BC");
        assert_eq!(escaped("refs/pr/1", ""), "refs%2Fpr%2F1");
    }
}
