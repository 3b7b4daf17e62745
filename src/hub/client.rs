//! Requests to the hub: redirects followed by hand, failures sorted, attempts repeated.
//!
//! The token goes to the hub's own address and to no other; a download of a large file is redirected to
//! storage elsewhere, whose address needs none.

use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde_json::Value;

use super::download::Checksum;
use super::names::{Repository, escaped, is_commit};
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::http::backoff::{full_jitter, retry_after};
use crate::http::{self, Secret, root_cause, shortened, unless_interrupted};

/// Attempts in a row without a byte gained, before a request is given up.
pub const ATTEMPTS: u32 = 6;
/// The same where the hub cannot be reached at all.
const REACHING: u32 = 3;
/// The first wait before a new attempt, at most.
const BACKOFF: Duration = Duration::from_millis(500);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may send nothing.
const SILENCE: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 10;
/// An answer that is read whole has no more bytes.
const MAX_BODY: usize = 64 << 20;

pub struct Client {
    http: reqwest::Client,
    endpoint: Url,
    token: Option<Secret>,
    /// What to do without a network.
    by_hand: String,
}

/// The files of a commit.
pub struct Listing {
    pub commit: String,
    pub files: Vec<Listed>,
}

/// A file as the hub lists it.
pub struct Listed {
    pub name: String,
    /// Its size and checksum; some mirrors leave them out.
    pub content: Option<(u64, Checksum)>,
}

/// Why one attempt failed.
pub enum Failure {
    Unreachable(String),
    Again { cause: String, after: Option<Duration> },
    End(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::End(error)
    }
}

impl Client {
    pub fn new(settings: Settings, by_hand: String) -> Result<Self> {
        // Storage may be elsewhere, but never on https:// when the hub is not.
        let plain = settings.endpoint.scheme() == "http";
        Ok(Self {
            http: http::client(plain, |http| {
                http.connect_timeout(CONNECT_TIMEOUT).read_timeout(SILENCE)
            })?,
            endpoint: settings.endpoint,
            token: settings.token,
            by_hand,
        })
    }

    /// The commit of a revision, and its files.
    pub async fn listing(&self, repository: &Repository) -> Result<Listing> {
        let revision = escaped(&repository.revision, "");
        let url = self.url(&format!("api/models/{}/revision/{revision}?blobs=true", repository.id))?;
        let body = self
            .persist(async || {
                let response = self.send(Method::GET, url.clone(), 0).await?;
                match response.status() {
                    StatusCode::OK => self.body(response).await,
                    _ => Err(self.refusal(repository, response).await),
                }
            })
            .await?;
        let strange = || {
            Error::remote(format!("the answer about {repository} is not the hub's"))
                .help(format!("check HF_ENDPOINT: {} was asked", self.endpoint))
        };
        let json: Value = serde_json::from_str(&body).map_err(|error| strange().because(error))?;
        let commit = json["sha"].as_str().filter(|sha| is_commit(sha)).ok_or_else(strange)?;
        let files = json["siblings"].as_array().ok_or_else(strange)?.iter();
        Ok(Listing {
            commit: commit.to_owned(),
            files: files.map(listed).collect::<Option<_>>().ok_or_else(strange)?,
        })
    }

    /// The size and checksum of a file, where the listing does not say them.
    pub async fn content(&self, repository: &Repository, commit: &str, name: &str) -> Result<(u64, Checksum)> {
        let url = self.file_url(repository, commit, name)?;
        let response = self
            .persist(async || {
                let response = self.send(Method::HEAD, url.clone(), 0).await?;
                match response.status() {
                    status if status.is_success() || status.is_redirection() => Ok(response),
                    _ => Err(self.refusal(repository, response).await),
                }
            })
            .await?;
        let header = |name: &str| response.headers().get(name)?.to_str().ok();
        let size = header("x-linked-size").or(header(CONTENT_LENGTH.as_str()));
        let etag = header("x-linked-etag").or(header(ETAG.as_str()));
        let checksum = etag.and_then(|etag| Checksum::parse(etag.trim_start_matches("W/").trim_matches('"')));
        size.and_then(|size| size.parse().ok()).zip(checksum).ok_or_else(|| {
            Error::remote(format!("the hub tells no checksum of {name}")).help(
                "without one a file cannot be checked and is not fetched; is HF_ENDPOINT a mirror that changes headers?",
            )
        })
    }

    /// A file's bytes from `from` on; the answer may begin at 0 all the same.
    pub async fn open(
        &self,
        repository: &Repository,
        commit: &str,
        name: &str,
        from: u64,
    ) -> Result<Response, Failure> {
        let response = self
            .send(Method::GET, self.file_url(repository, commit, name)?, from)
            .await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            _ => Err(self.refusal(repository, response).await),
        }
    }

    /// Tries until it works, or until that is hopeless.
    async fn persist<T>(&self, attempt: impl AsyncFn() -> Result<T, Failure>) -> Result<T> {
        let mut failures = 0;
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(failure) => {
                    failures += 1;
                    self.wait(failure, failures).await?;
                }
            }
        }
    }

    /// Waits before a new attempt after `failures` in a row, or gives up.
    pub async fn wait(&self, failure: Failure, failures: u32) -> Result<()> {
        let step = full_jitter(BACKOFF, failures);
        let wait = match failure {
            Failure::End(error) => return Err(error),
            Failure::Unreachable(cause) if failures >= REACHING => {
                return Err(
                    Error::remote(format!("{} cannot be reached: {cause}", self.endpoint)).help(format!(
                        "check the network and HF_ENDPOINT; without a network: {}",
                        self.by_hand
                    )),
                );
            }
            Failure::Again { cause, .. } if failures >= ATTEMPTS => {
                return Err(Error::remote(format!("{cause}; given up after {failures} attempts"))
                    .help("what has come is kept: the same command goes on from it"));
            }
            Failure::Again { after, .. } => after.unwrap_or_default().max(step),
            Failure::Unreachable(_) => step,
        };
        http::sleep(wait).await
    }

    fn url(&self, path: &str) -> Result<Url> {
        let base = self.endpoint.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/{path}"))
            .map_err(|error| Error::unexpected(format!("{path} makes no address")).because(error))
    }

    fn file_url(&self, repository: &Repository, commit: &str, name: &str) -> Result<Url> {
        self.url(&format!("{}/resolve/{commit}/{}", repository.id, escaped(name, "/")))
    }

    /// Sends a request and follows redirects; a HEAD only those that stay on the hub, for what it asks
    /// about is told there.
    async fn send(&self, method: Method, mut url: Url, from: u64) -> Result<Response, Failure> {
        for _ in 0..REDIRECTS {
            let own = url.origin() == self.endpoint.origin();
            let mut request = self
                .http
                .request(method.clone(), url.clone())
                .header(ACCEPT_ENCODING, "identity");
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| own) {
                request = request.header(AUTHORIZATION, token.header()?);
            }
            let response = unless_interrupted(request.send())
                .await?
                .map_err(|error| broken(&error))?;
            let location = response
                .headers()
                .get(LOCATION)
                .filter(|_| response.status().is_redirection());
            let Some(location) = location else { return Ok(response) };
            let next = location.to_str().ok().and_then(|to| url.join(to).ok());
            let safe = |next: &Url| next.scheme() == "https" || (next.scheme() == "http" && url.scheme() == "http");
            let Some(next) = next.filter(safe) else {
                return Err(
                    Error::remote(format!("{} redirects to an address that is not safe", self.endpoint))
                        .help("check HF_ENDPOINT")
                        .into(),
                );
            };
            if method == Method::HEAD && next.origin() != self.endpoint.origin() {
                return Ok(response);
            }
            url = next;
        }
        Err(Error::remote(format!("{} redirects without end", self.endpoint))
            .help("check HF_ENDPOINT")
            .into())
    }

    /// A body that is read whole.
    async fn body(&self, mut response: Response) -> Result<String, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = unless_interrupted(response.chunk())
            .await?
            .map_err(|error| broken(&error))?
        {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(Error::remote("the hub's answer has no end")
                    .help("check HF_ENDPOINT")
                    .into());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// What an answer other than the one hoped for means.
    async fn refusal(&self, repository: &Repository, response: Response) -> Failure {
        let status = response.status();
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let after = header(RETRY_AFTER.as_str()).and_then(|value| retry_after(&value, SystemTime::now()));
        let (code, message) = (header("x-error-code").unwrap_or_default(), header("x-error-message"));
        let body = match message {
            Some(message) => message,
            None => self.body(response).await.unwrap_or_default(),
        };
        let json: Value = serde_json::from_str(&body).unwrap_or_default();
        let said = shortened(json["error"].as_str().unwrap_or(&body));
        let said = self.token.as_ref().map_or(said.clone(), |token| token.redact(&said));
        let cause = match said.as_str() {
            "" => format!("{repository}: the hub answers {status}"),
            said => format!("{repository}: the hub answers {status}: {said}"),
        };
        match status.as_u16() {
            408 | 425 | 429 | 500..=599 => Failure::Again { cause, after },
            number => Error::remote(cause).help(self.remedy(repository, number, &code)).into(),
        }
    }

    fn remedy(&self, repository: &Repository, status: u16, code: &str) -> String {
        let page = format!("{}/{}", self.endpoint.as_str().trim_end_matches('/'), repository.id);
        match (status, code, &self.token) {
            (_, "GatedRepo", _) | (403, ..) => {
                format!("accept the model's terms at {page}, and set HF_TOKEN to a token of that account that may read it")
            }
            (_, "RevisionNotFound", _) => {
                format!("there is no revision `{}`: {page}/tree/main lists the branches and tags", repository.revision)
            }
            (401, _, Some(_)) => {
                "check the name, and the token in HF_TOKEN (or the one that `hf auth login` left): the hub says the same \
                 of a repository that is not there and of one that the token may not read"
                    .to_owned()
            }
            (401, _, None) => {
                "check the name; if the repository is private or gated, set HF_TOKEN to a token that may read it".to_owned()
            }
            _ => format!("check the name: {page}"),
        }
    }
}

/// A connection that failed.
pub fn broken(error: &reqwest::Error) -> Failure {
    if error.is_connect() {
        return Failure::Unreachable(root_cause(error));
    }
    let cause = if error.is_timeout() {
        format!("the server sent nothing for {} s", SILENCE.as_secs())
    } else {
        format!("the connection broke ({})", root_cause(error))
    };
    Failure::Again { cause, after: None }
}

/// An entry of `siblings`; files in large storage have a SHA-256, small ones the checksum of a git blob.
fn listed(sibling: &Value) -> Option<Listed> {
    let large = &sibling["lfs"];
    let (size, checksum) = match large.is_object() {
        true => (&large["size"], &large["sha256"]),
        false => (&sibling["size"], &sibling["blobId"]),
    };
    Some(Listed {
        name: sibling["rfilename"].as_str()?.to_owned(),
        content: size.as_u64().zip(checksum.as_str().and_then(Checksum::parse)),
    })
}
