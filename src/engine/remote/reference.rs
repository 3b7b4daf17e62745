//! How endpoints are named: `http(s)://host[:port]/v1#served-name`, several with commas between them.
//!
//! `http://a:8000/v1#m,http://b:8000/v1#m` are two endpoints that serve one model. The name may stand
//! at one of them alone; two different names are an error. An address holds no secret: user names,
//! passwords and query strings are refused, and a refused address is not repeated in the error.

use reqwest::Url;
use sha2::{Digest, Sha256};

use crate::engine::ModelIdentity;
use crate::error::{Error, Result};
use crate::record::hex;

const FORM: &str = "write it as http://host:8000/v1#served-name";

/// Endpoints that serve one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// The name that the model is served under.
    pub model: String,
    /// Addresses without a slash at the end, each once, sorted.
    pub addresses: Vec<String>,
}

/// Whether a model reference names endpoints.
pub fn is_endpoint(reference: &str) -> bool {
    let scheme = reference.trim_start().to_ascii_lowercase();
    scheme.starts_with("http://") || scheme.starts_with("https://")
}

impl Endpoints {
    pub fn parse(reference: &str) -> Result<Self> {
        let mut model: Option<String> = None;
        let mut addresses = Vec::new();
        for (index, part) in parts(reference).into_iter().enumerate() {
            let (address, name) = match part.split_once('#') {
                Some((address, name)) => (address, name.trim()),
                None => (part, ""),
            };
            addresses.push(parse_address(address, index + 1)?);
            match &model {
                _ if name.is_empty() => {}
                Some(other) if other != name => {
                    return Err(Error::config(format!(
                        "the endpoints are asked for two models, `{other}` and `{name}`"
                    ))
                    .help("all endpoints of one reference serve the same model: give them one name"));
                }
                _ => model = Some(name.to_owned()),
            }
        }
        addresses.sort();
        addresses.dedup();
        match model {
            Some(model) => Ok(Self { model, addresses }),
            None => Err(Error::config("the endpoint's model is not named")
                .help(format!("{FORM}; `curl http://host:8000/v1/models` lists the names"))),
        }
    }

    /// For provenance. The weights behind an endpoint cannot be seen, so `sha256` is that of the reference:
    /// it tells one name or place from another, and nothing about the weights.
    pub fn identity(&self) -> ModelIdentity {
        let named = |address: &String| format!("{address}#{}", self.model);
        let reference = self.addresses.iter().map(named).collect::<Vec<_>>().join(",");
        ModelIdentity {
            sha256: hex(&Sha256::digest(&reference)[..]),
            reference,
        }
    }
}

/// Cuts at commas with an address after them: a model's name may have commas of its own.
fn parts(reference: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (comma, _) in reference.match_indices(',') {
        if is_endpoint(&reference[comma + 1..]) {
            parts.push(reference[start..comma].trim());
            start = comma + 1;
        }
    }
    parts.push(reference[start..].trim());
    parts
}

fn parse_address(address: &str, number: usize) -> Result<String> {
    let place = format!("address {number} of the model reference");
    let url =
        Url::parse(address).map_err(|error| Error::config(format!("{place} is not a URL: {error}")).help(FORM))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::config(format!(
            "{place} holds a user name or a password, which would be recorded"
        ))
        .help("give the key in the environment, as BYLAW_API_KEY"));
    }
    if url.query().is_some() {
        return Err(
            Error::config(format!("{place} has a query string, which would be recorded"))
                .help(format!("{FORM}; give a key in the environment, as BYLAW_API_KEY")),
        );
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a name with a comma cut in two, addresses that depend on their order or a last slash.
    #[test]
    fn references_are_read() {
        let one = Endpoints::parse("http://h:8000/v1/#org/m,1").unwrap();
        assert_eq!(one.model, "org/m,1");
        assert_eq!(one.addresses, ["http://h:8000/v1"]);
        let two = Endpoints::parse("https://b/v1, http://a/v1#m").unwrap();
        assert_eq!(two.addresses, ["http://a/v1", "https://b/v1"]);
        assert_eq!(two.identity().reference, "http://a/v1#m,https://b/v1#m");
        assert_eq!(
            two,
            Endpoints::parse("http://a/v1#m,https://b/v1#m,http://a/v1").unwrap()
        );
    }

    /// Catches: a password in the manifest, or repeated by the error that refuses it.
    #[test]
    fn secrets_are_refused_and_not_repeated() {
        for (reference, says) in [
            ("http://me:hush@h/v1#m", "password"),
            ("http://hush@h/v1#m", "user name"),
            ("http://h/v1?key=hush#m", "query"),
            ("http://me:hush@h:x/v1#m", "not a URL"),
            ("http://h/v1", "not named"),
            ("http://a/v1#m,http://b/v1#n", "two models"),
        ] {
            let error = Endpoints::parse(reference).unwrap_err();
            assert!(error.message().contains(says), "{reference}: {error}");
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
            assert!(error.help_text().is_some());
        }
    }
}
