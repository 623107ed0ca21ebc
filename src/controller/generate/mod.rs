//! Ready projects for a spec: a labelling page, an edge worker, a batch job.
//!
//! They are made from templates. What the spec says goes into data files of its own (`project.json`, the spec itself), and
//! the few values beside them are encoded for where they stand; so nothing that a spec or an LLM wrote can become code.

mod files;
mod template;

use crate::hub::HubError;
use crate::slm::pack::{Index, SlmManifest};
use crate::slm::{Scoring, SlmError};
use crate::spec::{ExportFormat, ReviewSpec, ReviewTo, Spec, TuneSpec};
use crate::task::LabelSet;
use crate::vote::{Ballot, BallotError};
use files::{Content, disk};
pub use files::{ProjectFile, State};
use serde::Serialize;
use std::path::{Path, PathBuf};
use template::{fill, word};
use thiserror::Error;

/// What can go wrong when a project is generated.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// An address that cannot be used as it is.
    #[error(
        "generate-address: {what} is '{url}', {problem}; expected http:// or https:// and a host, without a name or password"
    )]
    Address {
        /// What it is the address of.
        what: &'static str,
        /// The address.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The spec sends texts to an LLM but does not say where.
    #[error(
        "generate-review: the spec sends hard samples to an LLM but names no server; give its url in [review], or to = \"person\" or \"none\""
    )]
    Review,
    /// An SLM of the spec is not among the packed ones.
    #[error(
        "generate-slm: '{id}' is not packed in int8 in {folder} (there are: {known}); run `autoannotator pull && autoannotator pack {id}`"
    )]
    Slm {
        /// The SLM.
        id: String,
        /// Where it was looked for.
        folder: String,
        /// The SLMs there.
        known: String,
    },
    /// An SLM names other labels than the spec.
    #[error("generate-labels: '{id}': {problem}")]
    Labels {
        /// The SLM.
        id: String,
        /// What does not fit.
        problem: BallotError,
    },
    /// Too few SLMs fit into a worker.
    #[error(
        "generate-memory: a worker has room for {room} MiB of models, and {fits} of the spec's {wanted} fit; name smaller ones in slms"
    )]
    Memory {
        /// MiB.
        room: u64,
        /// How many fit.
        fits: usize,
        /// How many the spec names.
        wanted: usize,
    },
    /// What should be the npm package is neither a tarball nor a version.
    #[error(
        "generate-package: '{0}' is neither a file that `npm pack` wrote (.tgz, at most 64 MiB, its name of letters, digits, '-', '_' and '.') nor a version such as 0.1.0 or ^0.1.0"
    )]
    Package(String),
    /// A path that leads out of the project.
    #[error("generate-path: '{path}' would lie outside the project's folder; nothing is written there")]
    Path {
        /// The path.
        path: String,
    },
    /// A link in the folder, which may lead anywhere.
    #[error(
        "generate-link: {path} is a link, and may lead out of the project's folder; remove it, or give another --out"
    )]
    Link {
        /// The link.
        path: String,
    },
    /// Files that would be overwritten.
    #[error(
        "generate-differs: these files of {folder} are not what would be written; look at them, then give --force or another --out:\n  {files}"
    )]
    Differs {
        /// The folder.
        folder: String,
        /// Their paths, one a line.
        files: String,
    },
    /// A value that a file of this kind cannot hold.
    #[error("generate-value: the value '{name}' cannot be written into {file}")]
    Value {
        /// The file.
        file: String,
        /// The value's name.
        name: String,
    },
    /// The disk refused.
    #[error("generate-disk: {path}: {error}")]
    Disk {
        /// The path.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A model file is not what its manifest says.
    #[error(transparent)]
    Model(#[from] SlmError),
    /// The cache of models cannot be read.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// Where the models of a page or worker are.
#[derive(Debug, Clone, PartialEq)]
pub enum Models {
    /// A folder that `autoannotator pack` wrote; they are copied into the project.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Its index.
        index: Index,
    },
    /// The address of such a folder, from which they are fetched.
    Address(String),
}

impl Models {
    /// Reads the index of a folder.
    pub fn folder(path: &Path) -> Result<Self, GenerateError> {
        let file = path.join("index.json");
        let index = Index::from_json(&std::fs::read(&file).map_err(disk(&file))?)?;
        Ok(Self::Folder { path: path.to_owned(), index })
    }
}

/// Where the npm package comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Package {
    /// The registry, in this version or range of versions.
    Version(String),
    /// A tarball that `npm pack` wrote, its name and bytes; it is copied into the project.
    Tarball(String, Vec<u8>),
}

impl Default for Package {
    /// The package of this version.
    fn default() -> Self {
        Self::Version(env!("CARGO_PKG_VERSION").to_owned())
    }
}

/// The largest tarball that is taken.
const MAX_TARBALL: u64 = 64 << 20;

impl Package {
    /// A tarball where there is a file of this name, else a version.
    pub fn find(text: &str) -> Result<Self, GenerateError> {
        let path = Path::new(text);
        if let Ok(found) = std::fs::metadata(path) {
            let name =
                path.file_name().and_then(|name| name.to_str()).filter(|name| word(name) && name.ends_with(".tgz"));
            return match name {
                Some(name) if found.is_file() && found.len() <= MAX_TARBALL => {
                    Ok(Self::Tarball(name.to_owned(), std::fs::read(path).map_err(disk(path))?))
                }
                _ => Err(GenerateError::Package(text.to_owned())),
            };
        }
        let digits = text.trim_start_matches(['^', '~']);
        if digits.starts_with(|c: char| c.is_ascii_digit()) && word(digits) && text.len() <= digits.len() + 1 {
            return Ok(Self::Version(text.to_owned()));
        }
        Err(GenerateError::Package(text.to_owned()))
    }

    /// What `package.json` says of it.
    fn wanted(&self) -> String {
        match self {
            Self::Version(version) => version.clone(),
            Self::Tarball(name, _) => format!("file:vendor/{name}"),
        }
    }
}

/// An SLM of the spec that a worker has no room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its id.
    pub id: String,
    /// The bytes of its files.
    pub bytes: u64,
}

/// A project that is ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its name: of letters, digits and `-`.
    pub name: String,
    /// Its files.
    pub files: Vec<ProjectFile>,
    /// What a worker goes without.
    pub left_out: Vec<LeftOut>,
}

impl Project {
    /// What is in the place of each file of `folder`.
    pub fn states(&self, folder: &Path) -> Result<Vec<State>, GenerateError> {
        files::states(&self.files, folder)
    }

    /// Writes it: what is new, and with `force` what differs, which is an error otherwise. All of it, or, into a folder that
    /// is not there yet, nothing; each file whole. What was in the place of each file before.
    pub fn write(&self, folder: &Path, force: bool) -> Result<Vec<State>, GenerateError> {
        files::write(&self.files, folder, force)
    }

    fn add(&mut self, path: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        let path = path.into();
        let runs = path.ends_with(".sh");
        self.files.push(ProjectFile { path, content: Content::Bytes(bytes.into()), runs });
    }

    /// Fills templates; a path's `NAME` is the project's, and a name `dot-x` is one of `.x`.
    fn fill(&mut self, templates: &[(&str, &str)], values: &[(&str, &str)]) -> Result<(), GenerateError> {
        let name = self.name.clone();
        let values = [vec![("name", &*name)], values.to_vec()].concat();
        for (path, text) in templates {
            let filled = fill(path, text, &values)?;
            self.add(path.replace("NAME", &name).replace("dot-", "."), filled);
        }
        Ok(())
    }

    fn add_package(&mut self, package: &Package) {
        if let Package::Tarball(name, bytes) = package {
            self.add(format!("vendor/{name}"), bytes.clone());
        }
    }

    fn add_models(&mut self, folder: &Path, slms: &[&SlmManifest]) -> Result<(), GenerateError> {
        let index = Index { slms: slms.iter().map(|slm| (*slm).clone()).collect() };
        self.add("public/models/index.json", json(&index)?);
        for slm in slms {
            let place = format!("{}/{}", slm.id, slm.version);
            for part in slm.shards.iter().chain([&slm.tokenizer]) {
                let content = Content::Model { from: folder.join(&place).join(&part.name), part: part.clone() };
                self.files.push(ProjectFile {
                    path: format!("public/models/{place}/{}", part.name),
                    content,
                    runs: false,
                });
            }
        }
        Ok(())
    }
}

/// What the code of a page or worker reads.
#[derive(Serialize)]
struct Data<'a> {
    spec: Spec,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a LabelSet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    models: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<Vec<String>>,
}

/// The template files of a kind.
macro_rules! templates {
    ($folder:literal: $($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../templates/", $folder, "/", $path)))),+]
    };
}

const PAGE: &[(&str, &str)] = templates!("page":
    "README.md", "dot-gitignore", "index.html", "package.json", "public/_headers", "public/icon.svg", "src/dom.ts", "src/keep.ts", "src/main.ts",
    "src/project.ts", "src/read.ts", "src/run.ts", "src/style.css", "src/views.ts", "src/write.ts", "tsconfig.json", "vite.config.js",
);
const WORKER: &[(&str, &str)] =
    templates!("worker": "README.md", "dot-gitignore", "package.json", "src/index.js", "wrangler.toml");
const CLI: &[(&str, &str)] =
    templates!("cli": "NAME.service", "NAME.timer", "README.md", "annotate.sh", "dot-gitignore");

/// What answers a request is the example's, which is tested on several runtimes.
const HANDLER: &str = include_str!("../../../examples/edge-worker/src/handler.js");

/// A labelling page: it loads the spec's SLMs in the browser, lets a person review what is hard, and exports.
pub fn page(spec: &Spec, models: &Models, package: &Package) -> Result<Project, GenerateError> {
    let review = review_address(spec)?;
    let mut project = project(spec, "page");
    let (title, wanted) = (title(&spec.task.name), package.wanted());
    project.fill(PAGE, &[("title", &title), ("package", &wanted)])?;
    project.add_package(package);
    let from = address_of(models)?;
    let slms = chosen(spec, models)?;
    if let Models::Folder { path, .. } = models {
        project.add_models(path, &slms)?;
    }
    let connect = from.iter().chain(&review).map(|address| address.origin.clone()).collect();
    let mut spec = public(spec, spec.slms.clone());
    spec.review.url = review.map(|address| address.url);
    let labels = spec.task.labels.clone();
    let models = from.as_ref().map_or("models/", |address| &address.url);
    let data = Data { spec, labels: Some(&labels), models: Some(models), connect: Some(connect) };
    project.add("src/project.json", json(&data)?);
    Ok(project)
}

/// Bytes of model files that a worker takes: the memory of WebAssembly is half as much again, and a worker has 128 MB.
const WORKER_BYTES: u64 = 64 << 20;

/// A Cloudflare worker that answers `POST /annotate`, with as many of the spec's SLMs, in their order, as its memory holds.
/// Of models at an address the sizes are not known, so all are taken.
pub fn worker(spec: &Spec, models: &Models, package: &Package) -> Result<Project, GenerateError> {
    let review = review_address(spec)?;
    let from = address_of(models)?;
    let mut project = project(spec, "worker");
    let (title, wanted) = (title(&spec.task.name), package.wanted());
    let [from, review] = [from, review].map(|address| address.map(|address| address.url).unwrap_or_default());
    project.fill(WORKER, &[("title", &title), ("package", &wanted), ("models", &from), ("review", &review)])?;
    project.add("src/handler.js", HANDLER);
    project.add("public/.gitkeep", "");
    project.add_package(package);
    let mut slms = spec.slms.clone();
    if let Models::Folder { path, .. } = models {
        let (fit, left_out) = fitting(&chosen(spec, models)?);
        if fit.len() < slms.len().min(2) {
            return Err(GenerateError::Memory { room: WORKER_BYTES >> 20, fits: fit.len(), wanted: slms.len() });
        }
        project.left_out = left_out;
        slms = fit.iter().map(|slm| slm.id.clone()).collect();
        project.add_models(path, &fit)?;
    }
    let mut spec = public(spec, slms);
    spec.review.url = None; // a setting, in wrangler.toml
    project.add("src/project.json", json(&Data { spec, labels: None, models: None, connect: None })?);
    Ok(project)
}

/// A batch job: a script that labels the files of a folder by the spec, and systemd units that start it every hour. `source`
/// is the spec's file, whose bytes are kept as they are; `program` this program; `folder` the project's, absolute.
pub fn cli(spec: &Spec, source: &SpecFile, program: &Path, folder: &Path) -> Result<Project, GenerateError> {
    review_address(spec)?;
    let mut project = project(spec, "annotate");
    let text = |path: &Path, name: &str| {
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| GenerateError::Value { file: path.display().to_string(), name: name.into() })
    };
    let format = match spec.export.format {
        ExportFormat::Csv => "csv",
        ExportFormat::Jsonl => "jsonl",
    };
    let file = if source.json { "annotator.json" } else { "annotator.toml" };
    let title = title(&spec.task.name);
    let (program, script) = (text(program, "program")?, text(&folder.join("annotate.sh"), "script")?);
    let values = [("title", &*title), ("spec", file), ("format", format), ("program", &*program), ("script", &*script)];
    project.fill(CLI, &values)?;
    project.add(file, source.bytes.clone());
    Ok(project)
}

/// The file that a spec was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecFile {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether it is JSON rather than TOML.
    pub json: bool,
}

fn project(spec: &Spec, kind: &str) -> Project {
    Project { name: format!("{}-{kind}", slug(&spec.task.name)), files: Vec::new(), left_out: Vec::new() }
}

/// A name for packages, workers and units: small letters, digits and `-`, at most 40.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let joined = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    let short = joined.get(..joined.len().min(40)).unwrap_or_default().trim_matches('-');
    if short.is_empty() { "task".to_owned() } else { short.to_owned() }
}

/// A task's name for people: one line, without what would turn the text around it.
fn title(name: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let spaced: String = name.chars().filter(|c| !turns(*c)).map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The part of a spec that a page or worker needs. The rest is the server's, or nobody's business where it is published.
fn public(spec: &Spec, slms: Vec<String>) -> Spec {
    let ReviewSpec { to, redact, names, .. } = spec.review.clone();
    let names = if to == ReviewTo::Llm { names } else { Vec::new() };
    let review = ReviewSpec { to, redact, names, ..ReviewSpec::default() };
    Spec { slms, review, tune: TuneSpec::default(), ..spec.clone() }
}

/// An address that was looked at, and the origin of it for a content security policy.
#[derive(Debug)]
struct Address {
    url: String,
    origin: String,
}

/// Checks an address. A host may hold nothing that means something in a policy.
fn address(what: &'static str, url: &str) -> Result<Address, GenerateError> {
    let fail = |problem: String| GenerateError::Address { what, url: url.to_owned(), problem };
    let parsed = reqwest::Url::parse(url).map_err(|error| fail(format!("which is none ({error})")))?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(fail("which cannot be used here".into()));
    }
    let plain = |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.:[]_".contains(&byte));
    if !parsed.host_str().is_some_and(|host| !host.is_empty() && plain(host)) {
        return Err(fail("whose host is not of letters, digits, '-' and '.'".into()));
    }
    Ok(Address { url: parsed.as_str().to_owned(), origin: parsed.origin().ascii_serialization() })
}

fn review_address(spec: &Spec) -> Result<Option<Address>, GenerateError> {
    match (spec.review.to, &spec.review.url) {
        (ReviewTo::Llm, Some(url)) => address("the url in [review]", url).map(Some),
        (ReviewTo::Llm, None) => Err(GenerateError::Review),
        _ => Ok(None),
    }
}

fn address_of(models: &Models) -> Result<Option<Address>, GenerateError> {
    match models {
        Models::Address(url) => address("--models", url).map(Some),
        Models::Folder { .. } => Ok(None),
    }
}

/// The manifests of the spec's SLMs in its order; none for models at an address.
fn chosen<'a>(spec: &Spec, models: &'a Models) -> Result<Vec<&'a SlmManifest>, GenerateError> {
    let Models::Folder { path, index } = models else { return Ok(Vec::new()) };
    let find = |id: &String| {
        let slm = index.get(id, "int8").ok_or_else(|| {
            let mut known: Vec<&str> = index.slms.iter().map(|slm| slm.id.as_str()).collect();
            known.dedup();
            GenerateError::Slm { id: id.clone(), folder: path.display().to_string(), known: known.join(", ") }
        })?;
        // A map is held against the model when that is loaded.
        if !spec.label_maps.contains_key(id) {
            Ballot::new(&spec.task.labels, &slm.labels, Scoring::Softmax, None)
                .map_err(|problem| GenerateError::Labels { id: id.clone(), problem })?;
        }
        Ok(slm)
    };
    spec.slms.iter().map(find).collect()
}

/// Those that a worker has room for, one after the other, and those that it has none for.
fn fitting<'a>(slms: &[&'a SlmManifest]) -> (Vec<&'a SlmManifest>, Vec<LeftOut>) {
    let (mut fit, mut left_out, mut used) = (Vec::new(), Vec::new(), 0);
    for slm in slms {
        let bytes = slm.bytes + slm.tokenizer.bytes;
        if used + bytes <= WORKER_BYTES {
            used += bytes;
            fit.push(*slm);
        } else {
            left_out.push(LeftOut { id: slm.id.clone(), bytes });
        }
    }
    (fit, left_out)
}

fn json(value: &impl Serialize) -> Result<String, GenerateError> {
    let fail = |_| GenerateError::Value { file: "project.json".into(), name: "spec".into() };
    serde_json::to_string_pretty(value).map(|json| json + "\n").map_err(fail)
}

#[cfg(test)]
mod tests;
