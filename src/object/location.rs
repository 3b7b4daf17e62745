//! Addresses of things in object stores.

use std::fmt;

use object_store::path::Path;

use crate::error::{Error, Result};

const FORMS: &str = "addresses are s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH or \
                     abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH";

/// Whose protocol a store speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// S3 and what is compatible with it.
    Amazon,
    Google,
    Azure,
}

/// A file or a directory in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    scheme: String,
    /// The bucket, as the address has it.
    authority: String,
    pub(super) provider: Provider,
    pub(super) path: Path,
}

/// Whether a reference is the address of something in an object store.
pub fn is_url(reference: &str) -> bool {
    reference
        .split_once("://")
        .is_some_and(|(scheme, _)| provider(scheme).is_some())
}

fn provider(scheme: &str) -> Option<Provider> {
    Some(match scheme {
        "s3" | "s3a" => Provider::Amazon,
        "gs" => Provider::Google,
        "az" | "azure" | "abfs" | "abfss" => Provider::Azure,
        _ => return None,
    })
}

impl Location {
    /// Reads an address. What follows the bucket is taken as it stands: nothing in it is decoded.
    pub fn parse(address: &str) -> Result<Self> {
        let parts = address.split_once("://").and_then(|(scheme, rest)| {
            let provider = provider(scheme)?;
            Some((scheme, provider, rest))
        });
        let Some((scheme, provider, rest)) = parts else {
            return Err(Error::config(format!("`{address}` is not an address in an object store")).help(FORMS));
        };
        let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
        // Not shown: it may be a key.
        if authority.contains(':') || (authority.contains('@') && !scheme.starts_with("abfs")) {
            return Err(Error::config(format!(
                "the {scheme}:// address holds a user name, a password or a port"
            ))
            .help(
                "give keys in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), and the address of a \
                     server of your own in AWS_ENDPOINT_URL",
            ));
        }
        let strange = |c: char| !c.is_ascii_alphanumeric() && !"-._@$".contains(c);
        if authority.is_empty() || authority.contains(strange) {
            return Err(Error::config(format!("`{address}` names no bucket")).help(FORMS));
        }
        let path = Path::parse(key).ok().filter(|_| !key.starts_with('/'));
        let path = path.ok_or_else(|| {
            Error::config(format!("`{address}` has an empty part, `.` or `..` in its path"))
                .help("write the path as the store lists it")
        })?;
        Ok(Self {
            scheme: scheme.to_owned(),
            authority: authority.to_owned(),
            provider,
            path,
        })
    }

    /// The bucket or container.
    pub fn bucket(&self) -> &str {
        self.authority
            .split_once('@')
            .map_or(self.authority.as_str(), |(bucket, _)| bucket)
    }

    /// The storage account that the address itself names.
    pub(super) fn account(&self) -> Option<&str> {
        let (_, host) = self.authority.split_once('@')?;
        host.split('.').next()
    }

    /// The last part of the path, or the bucket.
    pub fn name(&self) -> &str {
        self.path.filename().unwrap_or_else(|| self.bucket())
    }

    /// The place of a file below this directory.
    pub(super) fn child(&self, name: &str) -> Result<Path> {
        let path = Path::parse(name).ok().filter(|path| !path.as_ref().is_empty());
        let path = path.ok_or_else(|| {
            Error::unexpected(format!("`{name}` is no name of a file below {self}")).help("this is a bug in bylaw")
        })?;
        Ok(self.path.parts().chain(path.parts()).collect())
    }

    /// The name of an object relative to this directory, if it is below it and can be a local file's.
    pub(super) fn relative(&self, object: &Path) -> Option<String> {
        let rest: Vec<String> = object
            .prefix_match(&self.path)?
            .map(|part| part.as_ref().to_owned())
            .collect();
        let plain = |part: &String| !["", ".", ".."].contains(&part.as_str()) && !part.contains(['\\', '\0']);
        (!rest.is_empty() && rest.iter().all(plain)).then(|| rest.join("/"))
    }

    /// The directory above and the last part, if that part is a pattern of `*` and `?`.
    pub(super) fn pattern(&self) -> Result<Option<(Self, String)>> {
        let mut parts: Vec<String> = self.path.parts().map(|part| part.as_ref().to_owned()).collect();
        let wild = |part: &String| part.contains(['*', '?']);
        if !parts.iter().any(wild) {
            return Ok(None);
        }
        let last = parts.pop().unwrap_or_default();
        if parts.iter().any(wild) {
            return Err(
                Error::config("`*` and `?` are understood in the last part of an address only")
                    .at_file(self.to_string())
                    .help("name one directory, or pass the files of one directory at a time"),
            );
        }
        let mut directory = self.clone();
        directory.path = parts.iter().map(String::as_str).collect();
        Ok(Some((directory, last)))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)?;
        if !self.path.as_ref().is_empty() {
            write!(f, "/{}", self.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a bucket or a path cut at the wrong place, names decoded, a trailing slash that makes
    /// another directory.
    #[test]
    fn addresses_are_read() {
        for (address, bucket, path, shown) in [
            ("s3://b/a/c.jsonl", "b", "a/c.jsonl", "s3://b/a/c.jsonl"),
            ("s3://b/a/", "b", "a", "s3://b/a"),
            ("gs://my-bucket.x", "my-bucket.x", "", "gs://my-bucket.x"),
            ("az://c/ä b%20.arrow", "c", "ä b%20.arrow", "az://c/ä b%20.arrow"),
            (
                "abfss://c@acc.dfs.core.windows.net/d",
                "c",
                "d",
                "abfss://c@acc.dfs.core.windows.net/d",
            ),
        ] {
            let location = Location::parse(address).unwrap();
            assert_eq!(
                (location.bucket(), location.path.as_ref(), location.to_string().as_str()),
                (bucket, path, shown)
            );
        }
        assert_eq!(Location::parse("abfs://c@acc.x/d").unwrap().account(), Some("acc"));
        assert!(is_url("s3://x") && !is_url("http://x") && !is_url("s3:/x") && !is_url("data/s3://x"));
    }

    /// Catches: addresses that lead out of the directory or name nothing, and a key that is repeated in
    /// the error.
    #[test]
    fn wrong_addresses_are_refused() {
        for address in [
            "s3://",
            "s3:///a",
            "s3://b/a/../c",
            "s3://b//a",
            "s3://b c/a",
            "ftp://b/a",
        ] {
            let error = Location::parse(address).unwrap_err();
            assert!(error.help_text().is_some(), "{address}");
        }
        let error = Location::parse("s3://AKID:hush@bucket/a").unwrap_err();
        assert!(!format!("{error:?}").contains("hush"), "{error:?}");
    }

    /// Catches: an object whose name would be written outside of the local directory, a neighbour with
    /// the same beginning, patterns in the middle.
    #[test]
    fn names_stay_inside() {
        let location = Location::parse("s3://b/a").unwrap();
        let relative = |key: &str| location.relative(&Path::parse(key).unwrap());
        assert_eq!(relative("a/.job/units/k.unit").as_deref(), Some(".job/units/k.unit"));
        assert_eq!(relative("ab/c"), None);
        assert_eq!(relative("a"), None);
        assert_eq!(relative("a/c\\..\\d"), None);
        assert_eq!(location.child("d/e").unwrap().as_ref(), "a/d/e");
        assert!(location.child("../e").is_err());
        let (directory, pattern) = Location::parse("s3://b/a/*.jsonl").unwrap().pattern().unwrap().unwrap();
        assert_eq!(
            (directory.to_string().as_str(), pattern.as_str()),
            ("s3://b/a", "*.jsonl")
        );
        assert!(Location::parse("s3://b/a*/c").unwrap().pattern().is_err());
        assert!(location.pattern().unwrap().is_none());
    }
}
