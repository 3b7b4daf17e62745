//! Why a request to a store failed, in words, and what to do about it.

use std::error::Error as StdError;

use object_store::client::{HttpError, HttpErrorKind};

use super::location::Provider;
use super::settings::credentials;
use crate::error::Error;
use crate::http::{Secret, shortened};

/// The error of a request about `address` that is given up.
pub fn explain(provider: Provider, secrets: &[Secret], address: &str, error: &object_store::Error) -> Error {
    use object_store::Error as Failed;
    let whole = hide(&chain(error), secrets);
    let says = |words: &[&str]| words.iter().any(|word| whole.contains(word));
    let endpoint = "check the network, and AWS_ENDPOINT_URL if the store is not the provider's own";
    let rest = "what is finished is kept here; the same command goes on";
    let (what, help) = if let Some(http) = transport(error) {
        match http.kind() {
            HttpErrorKind::Connect => (format!("the store cannot be reached ({})", innermost(http)), endpoint),
            HttpErrorKind::Timeout => ("the store does not answer in time".to_owned(), rest),
            _ => (
                format!("the connection to the store breaks ({})", innermost(http)),
                rest,
            ),
        }
    } else if says(&[
        "NoSuchBucket",
        "ContainerNotFound",
        "The specified bucket does not exist",
    ]) {
        (
            "there is no such bucket".to_owned(),
            "create it, or correct the address",
        )
    } else if says(&[
        "PermanentRedirect",
        "incorrectly configured region",
        "AuthorizationHeaderMalformed",
    ]) {
        let what = "the bucket is in another region, or at another address".to_owned();
        (what, "set AWS_REGION to the bucket's region, or AWS_ENDPOINT_URL")
    } else if matches!(error, Failed::NotFound { .. }) {
        ("there is nothing at this address".to_owned(), "correct the address")
    } else if says(&["RequestTimeTooSkewed", "RequestExpired"]) {
        let what = "the store refuses the time of this machine".to_owned();
        (what, "set the machine's clock; signatures hold for some minutes only")
    } else if matches!(error, Failed::PermissionDenied { .. } | Failed::Unauthenticated { .. })
        || says(&["status code: 403", "status code: 401"])
    {
        let what = format!("the store refuses the credentials ({})", said(&whole));
        let help = "they must allow to read, write, list and delete here";
        return Error::remote(what)
            .at_file(address)
            .help(format!("{help}: {}", credentials(provider)));
    } else {
        match error {
            Failed::NotImplemented { .. } | Failed::NotSupported { .. } => (
                format!("the store cannot do what is needed ({})", said(&whole)),
                "conditional writes must be on: unset AWS_CONDITIONAL_PUT, or use a store that has them",
            ),
            Failed::InvalidPath { .. } => (
                "the store lists a name that cannot be a path".to_owned(),
                "names with empty parts, `.` or `..` are not read: remove or rename it",
            ),
            _ => (format!("the store answers with an error ({})", said(&whole)), rest),
        }
    };
    Error::remote(what).at_file(address).help(help)
}

/// Whether the request may have done its work although it failed: the answer did not come.
pub fn is_unclear(error: &object_store::Error) -> bool {
    transport(error).is_some_and(|http| http.kind() != HttpErrorKind::Connect)
}

/// Whether the server cannot answer with a part of an object.
pub fn is_range_refused(error: &object_store::Error) -> bool {
    let text = chain(error);
    ["non-partial response", "Content-Range", "Requested ", "InvalidRange"]
        .iter()
        .any(|words| text.contains(words))
}

fn transport(error: &object_store::Error) -> Option<&HttpError> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return Some(http);
        }
        cause = error.source();
    }
    None
}

fn innermost(error: &HttpError) -> String {
    let mut cause: &dyn StdError = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn chain(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}

/// What the server itself says, out of the XML or JSON of its answer, or all there is.
fn said(whole: &str) -> String {
    let tag = |name: &str| {
        let (_, rest) = whole.split_once(&format!("<{name}>"))?;
        Some(shortened(rest.split_once('<')?.0))
    };
    match (tag("Code"), tag("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => shortened(whole.rsplit_once("status code: ").map_or(whole, |(_, status)| status)),
    }
}

/// `text` without keys, and without the query of any address in it: signatures stand there.
pub fn hide(text: &str, secrets: &[Secret]) -> String {
    let text = secrets
        .iter()
        .fold(text.to_owned(), |text, secret| secret.redact(&text));
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find("http") {
        let (before, address) = rest.split_at(start);
        shown.push_str(before);
        let end = address.find(char::is_whitespace).unwrap_or(address.len());
        let (address, after) = address.split_at(end);
        shown.push_str(address.split('?').next().unwrap_or_default());
        rest = after;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: keys and signatures in messages, a server's words lost.
    #[test]
    fn messages_hide_keys_and_keep_the_servers_words() {
        let secret = Secret::new("hush").unwrap();
        let text = "GET https://x/y?sig=abc&z=1 failed: key hush, see http://help?q";
        let shown = hide(text, &[secret]);
        assert_eq!(shown, "GET https://x/y failed: key [redacted], see http://help");
        assert_eq!(
            said("x <Error><Code>SlowDown</Code><Message>Reduce\n your rate</Message></Error>"),
            "SlowDown: Reduce your rate"
        );
        assert_eq!(said("Server returned non-2xx status code: 500 oh"), "500 oh");
    }
}
