//! Requests to a store: what is there, and writes under a condition.
//!
//! An answer can be lost after its request did its work; then a repeated conditional write fails by its
//! own success. So every write carries a token of its own, and one that fails looks whether what is there
//! has it.

use std::io::Read;
use std::path::Path as LocalPath;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, CopyMode, CopyOptions, Error as Failed, GetOptions, GetRange, GetResult, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, UpdateVersion,
};

use super::failure::{explain, is_unclear};
use super::location::Location;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::http::backoff::full_jitter;
use crate::http::{Secret, TICK};
use crate::interrupt;

/// Tries of a write whose answer does not come, each with the client's own retries.
const UNCLEAR: u32 = 4;
/// How long a write may still take once Ctrl-C is pressed.
const GRACE: Duration = Duration::from_secs(20);
/// The user metadata that tells whose write an object is.
const TOKEN: &str = "owner";
/// Where large files are until they get their name.
const UPLOADS: &str = ".upload";

/// Which state of an object: what a conditional write is compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    pub e_tag: Option<String>,
    /// Google's generation.
    pub generation: Option<String>,
}

impl Version {
    pub fn of(meta: &ObjectMeta) -> Self {
        Self {
            e_tag: meta.e_tag.clone(),
            generation: meta.version.clone(),
        }
    }

    /// Listings and answers differ in the quotes around a tag.
    pub fn tag(&self) -> Option<&str> {
        self.e_tag.as_deref().map(|tag| tag.trim_matches('"'))
    }
}

/// Under which condition a write is done.
#[derive(Debug, Clone)]
pub enum Condition {
    /// No object has the name.
    Absent,
    /// The object is in this state.
    Unchanged(Version),
}

/// What a conditional write came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    Done(Version),
    /// The condition did not hold; whose token the object has, where that is known.
    Lost(Option<String>),
}

/// The store of a location.
pub struct Store {
    pub location: Location,
    inner: Arc<dyn ObjectStore>,
    secrets: Vec<Secret>,
    backoff: Duration,
    /// Files above this many bytes are put in parts.
    pub large: u64,
    /// What makes this process's writes its own.
    signature: String,
    writes: AtomicU64,
}

impl Store {
    /// `signature` is unique to the writer, in ASCII.
    pub fn open(location: &Location, settings: &Settings, signature: &str) -> Result<Self> {
        Ok(Self {
            inner: settings.open(location)?,
            location: location.clone(),
            secrets: settings.secrets(),
            backoff: settings.backoff,
            large: settings.large,
            signature: signature.to_owned(),
            writes: AtomicU64::new(0),
        })
    }

    pub fn explain(&self, key: &Path, error: &Failed) -> Error {
        explain(self.location.provider, &self.secrets, &self.address(key), error)
    }

    /// How an object is named to the user.
    pub fn address(&self, key: &Path) -> String {
        match self.location.relative(key) {
            Some(name) => format!("{}/{name}", self.location),
            None => self.location.to_string(),
        }
    }

    /// Everything below the location.
    pub async fn list(&self) -> Result<Vec<ObjectMeta>> {
        let path = &self.location.path;
        let listed = self.inner.list(self.prefix()).try_collect().await;
        listed.map_err(|error| self.explain(path, &error))
    }

    /// What is directly below the location.
    pub async fn list_here(&self) -> Result<Vec<ObjectMeta>> {
        let path = &self.location.path;
        let listed = self.inner.list_with_delimiter(self.prefix()).await;
        Ok(listed.map_err(|error| self.explain(path, &error))?.objects)
    }

    fn prefix(&self) -> Option<&Path> {
        let path = &self.location.path;
        (!path.as_ref().is_empty()).then_some(path)
    }

    /// The state of an object, and its token; `None` if there is no such object.
    pub async fn head(&self, key: &Path) -> Result<Option<(ObjectMeta, Option<String>)>> {
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match self.inner.get_opts(key, options).await {
            Ok(found) => Ok(Some((found.meta.clone(), token(&found)))),
            // A bucket that is missing is told by the operations that follow.
            Err(Failed::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.explain(key, &error)),
        }
    }

    /// An object from one of its bytes on.
    pub async fn get(&self, key: &Path, start: u64) -> object_store::Result<GetResult> {
        let options = GetOptions {
            range: (start > 0).then_some(GetRange::Offset(start)),
            ..GetOptions::default()
        };
        self.inner.get_opts(key, options).await
    }

    /// A small object, whole; `None` if there is no such object.
    pub async fn read(&self, key: &Path) -> Result<Option<(Vec<u8>, ObjectMeta)>> {
        let failed = |error: &Failed| self.explain(key, error);
        match self.get(key, 0).await {
            Ok(found) => {
                let meta = found.meta.clone();
                let bytes = found.bytes().await.map_err(|error| failed(&error))?;
                Ok(Some((bytes.to_vec(), meta)))
            }
            Err(Failed::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Writes an object if the condition holds.
    pub async fn write(&self, key: &Path, bytes: Vec<u8>, condition: &Condition) -> Result<Written> {
        let payload = PutPayload::from(bytes);
        let token = self.next_token();
        let mode = match condition {
            Condition::Absent => PutMode::Create,
            Condition::Unchanged(version) => PutMode::Update(UpdateVersion {
                e_tag: version.e_tag.clone(),
                version: version.generation.clone(),
            }),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let options = PutOptions {
                mode: mode.clone(),
                attributes: attributes(&token),
                ..PutOptions::default()
            };
            match self.inner.put_opts(key, payload.clone(), options).await {
                Ok(put) => {
                    return Ok(Written::Done(Version {
                        e_tag: put.e_tag,
                        generation: put.version,
                    }));
                }
                Err(Failed::AlreadyExists { .. } | Failed::Precondition { .. }) => match self.head(key).await? {
                    Some((meta, Some(there))) if there == token => return Ok(Written::Done(Version::of(&meta))),
                    Some((_, there)) => return Ok(Written::Lost(there)),
                    // Removed since, or a conflict of writers that all gave up.
                    None if matches!(condition, Condition::Absent) && tries < UNCLEAR => {}
                    None => return Ok(Written::Lost(None)),
                },
                Err(error) if is_unclear(&error) && tries < UNCLEAR => {}
                Err(error) => return Err(self.explain(key, &error)),
            }
            tokio::time::sleep(full_jitter(self.backoff, tries)).await;
        }
    }

    /// Writes a file that is too large for one request, if no object has the name: in parts under
    /// another name, then by a copy under the condition, which moves no bytes over the network.
    pub async fn create_large(&self, key: &Path, file: &LocalPath) -> Result<Written> {
        let upload = self.location.child(&format!("{UPLOADS}/{}", self.next_token()))?;
        self.write_parts(&upload, file).await?;
        let options = CopyOptions {
            mode: CopyMode::Create,
            ..CopyOptions::default()
        };
        let copied = self.inner.copy_opts(&upload, key, options).await;
        // What stays is removed by the next owner.
        let _ = self.inner.delete(&upload).await;
        match copied {
            Ok(()) => {
                let there = self.head(key).await?;
                Ok(there.map_or(Written::Lost(None), |(meta, _)| Written::Done(Version::of(&meta))))
            }
            Err(Failed::AlreadyExists { .. } | Failed::Precondition { .. }) => Ok(Written::Lost(None)),
            // No conditional copies here: one request, from memory.
            Err(Failed::NotImplemented { .. } | Failed::NotSupported { .. }) => {
                let bytes = std::fs::read(file).map_err(|error| Error::io("read", file, error))?;
                self.write(key, bytes, &Condition::Absent).await
            }
            // The upload may be gone because its completion came through, and only the answer did not.
            Err(error) => match self.head(key).await? {
                Some(_) => Ok(Written::Lost(None)),
                None => Err(self.explain(key, &error)),
            },
        }
    }

    /// Writes a file that is too large for one request in the place of a known version. Stores have no
    /// condition for that: it is looked at before the parts are sent, and not after.
    pub async fn replace_large(&self, key: &Path, file: &LocalPath, known: &Version) -> Result<Written> {
        match self.head(key).await? {
            Some((meta, _)) if Version::of(&meta).tag() == known.tag() => {}
            Some((_, token)) => return Ok(Written::Lost(token)),
            None => return Ok(Written::Lost(None)),
        }
        self.write_parts(key, file).await.map(Written::Done)
    }

    async fn write_parts(&self, key: &Path, file: &LocalPath) -> Result<Version> {
        let token = self.next_token();
        let options = PutMultipartOptions {
            attributes: attributes(&token),
            ..PutMultipartOptions::default()
        };
        let failed = |error: Failed| self.explain(key, &error);
        let mut upload = self.inner.put_multipart_opts(key, options).await.map_err(failed)?;
        let sent = async {
            let unread = |error| Error::io("read", file, error);
            let mut file = std::fs::File::open(file).map_err(unread)?;
            loop {
                let mut part = Vec::new();
                file.by_ref()
                    .take(self.large.div_ceil(4))
                    .read_to_end(&mut part)
                    .map_err(unread)?;
                if part.is_empty() {
                    break;
                }
                upload.put_part(part.into()).await.map_err(failed)?;
            }
            match upload.complete().await {
                Ok(put) => Ok(Version {
                    e_tag: put.e_tag,
                    generation: put.version,
                }),
                // The same as for one request.
                Err(error) => match self.head(key).await? {
                    Some((meta, Some(there))) if there == token => Ok(Version::of(&meta)),
                    _ => Err(failed(error)),
                },
            }
        }
        .await;
        match sent {
            Ok(version) => Ok(version),
            Err(error) => {
                // Best effort: parts that stay are for the bucket's rule on incomplete uploads.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    /// The time of the store: that of an object written now.
    pub async fn now(&self, probe: &Path) -> Result<i64> {
        let failed = |error: Failed| self.explain(probe, &error);
        let payload = PutPayload::from_static(b"clock\n");
        self.inner.put(probe, payload).await.map_err(failed)?;
        let found = self.inner.head(probe).await.map_err(failed);
        let _ = self.inner.delete(probe).await;
        Ok(found?.last_modified.timestamp_millis())
    }

    /// Removes an object; none is no error.
    pub async fn remove(&self, key: &Path) -> Result<()> {
        match self.inner.delete(key).await {
            Ok(()) | Err(Failed::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.explain(key, &error)),
        }
    }

    pub fn backoff(&self) -> Duration {
        self.backoff
    }

    /// Unique to one write.
    fn next_token(&self) -> String {
        format!("{}-{}", self.signature, self.writes.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether a token is one of this writer's.
    pub fn is_own(&self, token: &str) -> bool {
        token
            .strip_prefix(&self.signature)
            .is_some_and(|rest| rest.starts_with('-'))
    }
}

/// Whether a name below a location is one that mirrors use for themselves.
pub fn is_internal(name: &str) -> bool {
    name == super::lease::NAME || name.starts_with(super::lease::CLOCKS) || is_upload(name)
}

/// Whether a name is that of a large file under way.
pub fn is_upload(name: &str) -> bool {
    name.strip_prefix(UPLOADS).is_some_and(|rest| rest.starts_with('/'))
}

/// Lets a write finish, also after Ctrl-C, but not for long.
pub async fn finish<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut asked: Option<Instant> = None;
    loop {
        if let Err(stop) = interrupt::check()
            && asked.get_or_insert_with(Instant::now).elapsed() > GRACE
        {
            return Err(stop);
        }
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

fn attributes(token: &str) -> Attributes {
    Attributes::from_iter([(Attribute::Metadata(TOKEN.into()), token.to_owned())])
}

fn token(found: &GetResult) -> Option<String> {
    let token = found.attributes.get(&Attribute::Metadata(TOKEN.into()))?;
    Some(token.to_string())
}
