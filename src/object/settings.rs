//! The environment: credentials and endpoints by the variables that each provider's own tools read, and
//! where copies lie.
//!
//! Nothing but the environment is asked for credentials, and they are written nowhere. The service of a
//! cloud machine that hands out credentials is asked only if the environment says so: elsewhere the
//! question would hang.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use reqwest::Url;

use super::location::{Location, Provider};
use crate::error::{Error, Result};
use crate::http::Secret;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How stores are asked, and where copies of their files lie. It holds credentials, so it cannot be
/// printed.
#[derive(Clone)]
pub struct Settings {
    /// `AWS_*`, `GOOGLE_*`, `AZURE_*` and what else names credentials, by name.
    pub variables: BTreeMap<String, String>,
    /// The directory of copies.
    pub cache: PathBuf,
    /// How long a server may send nothing; a file's part must be taken in within it.
    pub silence: Duration,
    /// New attempts of a request.
    pub retries: usize,
    /// The first wait before a new attempt, at most.
    pub backoff: Duration,
    /// Files above this many bytes are put in parts, each a quarter of it.
    pub large: u64,
    /// How long an owner that is not heard of keeps its directory, by the store's clock.
    pub lease: Duration,
}

impl Settings {
    /// From the environment: the providers' variables, and `XDG_CACHE_HOME` or `HOME` for the cache.
    pub fn from_env() -> Result<Self> {
        let prefixes = ["AWS_", "GOOGLE_", "AZURE_", "GCE_METADATA_", "IDENTITY_"];
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, value)| !value.is_empty() && prefixes.iter().any(|prefix| name.starts_with(prefix)))
            .collect();
        let below = |name: &str, path: &str| {
            let home = std::env::var_os(name).filter(|home| !home.is_empty())?;
            Some(PathBuf::from(home).join(path))
        };
        let cache = below("XDG_CACHE_HOME", "bylaw").or_else(|| below("HOME", ".cache/bylaw"));
        let cache = cache.ok_or_else(|| {
            Error::config("there is no place for copies of a store's files: HOME is not set")
                .help("set XDG_CACHE_HOME to a directory with space for them")
        })?;
        Ok(Self::new(variables, cache))
    }

    /// The usual waits.
    pub fn new(variables: BTreeMap<String, String>, cache: PathBuf) -> Self {
        Self {
            variables,
            cache,
            silence: Duration::from_secs(120),
            retries: 8,
            backoff: Duration::from_millis(200),
            large: 64 << 20,
            lease: Duration::from_secs(60),
        }
    }

    fn set(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    fn is_true(&self, name: &str) -> bool {
        self.set(name)
            .is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str()))
    }

    /// Everything that must not be shown.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let hidden = |name: &str| {
            ["SECRET", "TOKEN", "KEY", "SAS", "PASSWORD", "IDENTITY_HEADER"]
                .iter()
                .any(|word| name.contains(word))
                && !name.ends_with("_FILE")
                && name != "AWS_ACCESS_KEY_ID"
        };
        let hidden = self.variables.iter().filter(|(name, _)| hidden(name));
        hidden.filter_map(|(_, value)| Secret::new(value)).collect()
    }

    /// The server that is asked in the place of the provider's own, without a slash at its end.
    pub(super) fn endpoint(&self, provider: Provider) -> Option<&str> {
        let names: &[&str] = match provider {
            Provider::Amazon => &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"],
            Provider::Google => &["GOOGLE_BASE_URL"],
            Provider::Azure => &["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"],
        };
        let set = names.iter().find_map(|name| self.set(name));
        set.map(|endpoint| endpoint.trim_end_matches('/'))
    }

    /// What tells the stores behind two equal addresses apart.
    pub(super) fn origin(&self, location: &Location) -> String {
        let account = match location.provider {
            Provider::Azure => location.account().or_else(|| self.set("AZURE_STORAGE_ACCOUNT_NAME")),
            Provider::Amazon | Provider::Google => None,
        };
        format!(
            "{} {}",
            self.endpoint(location.provider).unwrap_or_default(),
            account.unwrap_or_default()
        )
    }

    /// Whether the endpoint is spoken to without TLS: on this machine only, and only if that is asked for.
    fn plain(&self, provider: Provider) -> Result<bool> {
        let Some(endpoint) = self.endpoint(provider) else {
            return Ok(provider == Provider::Azure && self.is_true("AZURE_STORAGE_USE_EMULATOR"));
        };
        let wrong = |what: &str| Error::config(format!("the address of the object store's server {what}"));
        let remedy = "set AWS_ENDPOINT_URL to an address such as https://minio.example.org";
        let url = Url::parse(endpoint).map_err(|_| wrong("is not a URL").help(remedy))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong("holds a user name, a password or a query").help(remedy));
        }
        let allowed = match provider {
            Provider::Amazon => "AWS_ALLOW_HTTP",
            Provider::Google => "GOOGLE_ALLOW_HTTP",
            Provider::Azure => "AZURE_ALLOW_HTTP",
        };
        match url.scheme() {
            "https" => Ok(false),
            "http" if !is_loopback(&url) => Err(wrong("is an http:// one, and not of this machine").help(
                "data and signatures would go over the network in the clear: use https://, or a tunnel to localhost",
            )),
            "http" if self.is_true(allowed) => Ok(true),
            "http" => Err(wrong("is an http:// one").help(format!("set {allowed}=true to allow it"))),
            _ => Err(wrong("is neither http:// nor https://").help(remedy)),
        }
    }

    fn client(&self, plain: bool) -> ClientOptions {
        ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_read_timeout(self.silence)
            .with_allow_http(plain)
            // Without TLS the system's certificates are not needed, and may be missing.
            .with_no_system_certificates(plain)
    }

    fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: self.backoff,
                ..BackoffConfig::default()
            },
            max_retries: self.retries,
            retry_timeout: Duration::from_secs(180),
        }
    }

    /// The store of a location.
    pub(super) fn open(&self, location: &Location) -> Result<Arc<dyn ObjectStore>> {
        crate::http::provide_cryptography();
        self.check_credentials(location)?;
        let client = self.client(self.plain(location.provider)?);
        let set = |prefix: &'static str| {
            let variables = self.variables.iter().filter(move |(name, _)| name.starts_with(prefix));
            variables.map(|(name, value)| (name.to_ascii_lowercase(), value))
        };
        let made: object_store::Result<Arc<dyn ObjectStore>> = match location.provider {
            Provider::Amazon => {
                let mut builder = AmazonS3Builder::new();
                for (name, value) in set("AWS_") {
                    // Endpoint and client are ours; a variable that is no setting of the store's is not.
                    if let Ok(key) = name.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                if let Some(endpoint) = self.endpoint(location.provider) {
                    builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
                }
                let builder = builder
                    .with_bucket_name(location.bucket())
                    // Large files are created by a conditional copy; not every server knows bulk deletion.
                    .with_copy_if_not_exists(object_store::aws::S3CopyIfNotExists::Multipart)
                    .with_disable_bulk_delete(true)
                    .with_client_options(client)
                    .with_retry(self.retry());
                builder.build().map(|store| Arc::new(store) as _)
            }
            Provider::Google => {
                let mut builder = GoogleCloudStorageBuilder::new();
                for (name, value) in set("GOOGLE_") {
                    if let Ok(key) = name.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                let builder = builder.with_bucket_name(location.bucket());
                let builder = builder.with_client_options(client).with_retry(self.retry());
                builder.build().map(|store| Arc::new(store) as _)
            }
            Provider::Azure => {
                let mut builder = MicrosoftAzureBuilder::new();
                for (name, value) in set("AZURE_") {
                    if let Ok(key) = name.parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                if let Some(account) = location.account() {
                    builder = builder.with_account(account);
                }
                let builder = builder.with_container_name(location.bucket());
                let builder = builder.with_client_options(client).with_retry(self.retry());
                builder.build().map(|store| Arc::new(store) as _)
            }
        };
        made.map_err(|error| {
            let text = super::failure::hide(&error.to_string(), &self.secrets());
            Error::config(format!("the store cannot be used: {}", crate::http::shortened(&text)))
                .at_file(location.to_string())
                .help(credentials(location.provider))
        })
    }

    fn check_credentials(&self, location: &Location) -> Result<()> {
        let enough: &[&str] = match location.provider {
            Provider::Amazon => &[
                "AWS_ACCESS_KEY_ID",
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                "AWS_METADATA_ENDPOINT",
                "AWS_SKIP_SIGNATURE",
            ],
            Provider::Google => &[
                "GOOGLE_APPLICATION_CREDENTIALS",
                "GOOGLE_SERVICE_ACCOUNT",
                "GOOGLE_SERVICE_ACCOUNT_PATH",
                "GOOGLE_SERVICE_ACCOUNT_KEY",
                "GOOGLE_BEARER_TOKEN",
                "GOOGLE_SKIP_SIGNATURE",
                "GCE_METADATA_HOST",
            ],
            Provider::Azure => &[
                "AZURE_STORAGE_ACCOUNT_KEY",
                "AZURE_STORAGE_ACCESS_KEY",
                "AZURE_STORAGE_SAS_TOKEN",
                "AZURE_STORAGE_SAS_KEY",
                "AZURE_STORAGE_TOKEN",
                "AZURE_CLIENT_SECRET",
                "AZURE_STORAGE_CLIENT_SECRET",
                "AZURE_FEDERATED_TOKEN_FILE",
                "AZURE_MSI_ENDPOINT",
                "AZURE_STORAGE_USE_EMULATOR",
                "AZURE_SKIP_SIGNATURE",
                "IDENTITY_ENDPOINT",
            ],
        };
        if enough.iter().any(|name| self.variables.contains_key(*name)) {
            return Ok(());
        }
        Err(Error::config("the environment has no credentials for this store")
            .at_file(location.to_string())
            .help(credentials(location.provider)))
    }
}

/// How credentials are given.
pub(super) fn credentials(provider: Provider) -> &'static str {
    match provider {
        Provider::Amazon => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL where \
             they apply); for the role of an EC2 machine, AWS_METADATA_ENDPOINT=http://169.254.169.254"
        }
        Provider::Google => {
            "set GOOGLE_APPLICATION_CREDENTIALS to a file of credentials; for the account of a Google Cloud machine, \
             GCE_METADATA_HOST=metadata.google.internal"
        }
        Provider::Azure => {
            "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN; for a managed \
             identity, AZURE_MSI_ENDPOINT"
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let owned = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::new(owned.collect(), "cache".into())
    }

    const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "hush-hush")];

    /// Catches: plain HTTP over a network, or on this machine without being asked for.
    #[test]
    fn plain_http_is_for_this_machine_and_must_be_asked_for() {
        let location = Location::parse("s3://b/d").unwrap();
        for (endpoint, allow, fine) in [
            ("http://127.0.0.1:9000", "true", true),
            ("http://[::1]:9000/", "1", true),
            ("http://localhost:9000", "true", true),
            ("https://minio.example.org", "false", true),
            ("http://127.0.0.1:9000", "false", false),
            ("http://10.0.0.1:9000", "true", false),
            ("http://localhost.example.org", "true", false),
            ("ftp://127.0.0.1", "true", false),
            ("http://a:b@127.0.0.1:9000", "true", false),
        ] {
            let mut variables = KEYS.to_vec();
            variables.extend([("AWS_ENDPOINT_URL", endpoint), ("AWS_ALLOW_HTTP", allow)]);
            let opened = settings(&variables).open(&location);
            assert_eq!(opened.is_ok(), fine, "{endpoint} {allow}: {:?}", opened.err());
        }
    }

    /// Catches: a wait for a machine's own service where nothing is set, an error that shows a key.
    #[test]
    fn missing_credentials_are_told_at_once() {
        for address in ["s3://b/d", "gs://b/d", "az://b/d"] {
            let error = settings(&[]).open(&Location::parse(address).unwrap()).err().unwrap();
            assert!(error.message().contains("no credentials"), "{error}");
            assert!(error.help_text().is_some_and(|help| help.contains("set ")));
        }
        let half = settings(&[("AWS_ACCESS_KEY_ID", "AKID")]);
        let error = half.open(&Location::parse("s3://b/d").unwrap()).err().unwrap();
        assert!(error.message().contains("cannot be used"), "{error}");
        let shown = format!("{:?}", settings(&KEYS).secrets());
        assert_eq!(shown, "[[redacted]]");
    }

    /// Catches: the copies of two servers' equal addresses mixed up.
    #[test]
    fn the_endpoint_is_a_part_of_the_origin() {
        let location = Location::parse("s3://b/d").unwrap();
        let origin = |endpoint: &str| settings(&[("AWS_ENDPOINT_URL", endpoint)]).origin(&location);
        assert_eq!(origin("http://127.0.0.1:1/"), origin("http://127.0.0.1:1"));
        assert_ne!(origin("http://127.0.0.1:1"), origin("http://127.0.0.1:2"));
    }
}
