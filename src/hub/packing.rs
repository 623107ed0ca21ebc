//! From the folders in `models/` to what a browser downloads, and back into memory.

use super::{Home, HubError, HubSettings, disk, write_atomically};
use crate::hub::Catalogue;
use crate::slm::Scoring;
use crate::slm::adapter::{Metrics, SlmFolder, sha256_hex};
use crate::slm::hub::HubClassifier;
use crate::slm::model::Slm;
use crate::slm::pack::{
    Assembler, FORMAT, Index, PackedMeta, PackedSlm, PackedWeights, Precision, SlmManifest, flops_per_token,
    plain_tokenizer, shards, write,
};
use crate::slm::quant::{GROUP, Int8Matrix, WEIGHT_LEVELS};
use crate::slm::tokenize::{Tokenizer, build};
use crate::slm::weights::EncoderWeights;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// An SLM's folder: `slm.toml`, read, and where it lies.
#[derive(Debug, Clone, PartialEq)]
pub struct Folder {
    /// What `slm.toml` says.
    pub slm: SlmFolder,
    /// The folder.
    pub path: PathBuf,
    /// Where the adapters of its rounds lie.
    rounds: PathBuf,
    toml: String,
}

impl Folder {
    /// The bytes of its adapters, in the order in which they are merged.
    pub fn adapters(&self) -> Result<Vec<Vec<u8>>, HubError> {
        let first = std::iter::once(self.path.join(&self.slm.adapter.file));
        let rounds = self.slm.rounds.iter().map(|round| self.rounds.join(&round.file));
        first.chain(rounds).map(|path| std::fs::read(&path).map_err(disk(&path))).collect()
    }
}

/// As [`folders`], each SLM in the version that rounds brought it to; see [`versions`](super::versions).
pub fn current(models: &Path, home: &Home) -> Result<Vec<Folder>, HubError> {
    let mut all = folders(models)?;
    for folder in &mut all {
        folder.rounds = super::versions::folder(home, &folder.slm.id);
        if let Some((slm, toml)) = super::versions::current(home, &folder.slm)? {
            (folder.slm, folder.toml) = (slm, toml);
        }
    }
    Ok(all)
}

/// The SLMs in a `models/`, by id. A folder without `slm.toml` is none.
pub fn folders(models: &Path) -> Result<Vec<Folder>, HubError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(models).map_err(disk(models))? {
        let path = entry.map_err(disk(models))?.path();
        let file = path.join("slm.toml");
        if !file.is_file() {
            continue;
        }
        let toml = std::fs::read_to_string(&file).map_err(disk(&file))?;
        let slm = SlmFolder::from_toml(&toml, &file.display().to_string())?;
        if path.file_name().is_none_or(|name| name != slm.id.as_str()) {
            let problem = format!("its id is '{}', expected the folder's name", slm.id);
            return Err(HubError::File { file: file.display().to_string(), problem });
        }
        found.push(Folder { slm, rounds: path.clone(), path, toml });
    }
    found.sort_by(|a, b| a.slm.id.cmp(&b.slm.id));
    Ok(found)
}

/// What an SLM was packed from, and what came of it; it spares the next run the work.
#[derive(Serialize, Deserialize)]
struct Made {
    inputs: String,
    cost: f64,
    manifest: SlmManifest,
}

/// What was done for one SLM.
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// The SLM's manifest.
    pub manifest: SlmManifest,
    /// False where nothing had changed since the last time.
    pub written: bool,
}

/// Packs SLMs of `models` into `<home>/packed/`, in each of the precisions, and writes its index; `ids` empty means all.
/// SLMs packed before stay in the index, and no file of an earlier version is removed: somebody may be reading it.
pub fn pack(
    models: &Path,
    ids: &[String],
    precisions: &[Precision],
    home: &Home,
    bar: &ProgressBar,
) -> Result<Vec<Packed>, HubError> {
    let all = current(models, home)?;
    if let Some(id) = ids.iter().find(|id| all.iter().all(|folder| folder.slm.id != **id)) {
        let known = all.iter().map(|folder| folder.slm.id.as_str()).collect::<Vec<_>>().join(", ");
        return Err(HubError::UnknownSlm { id: id.clone(), known });
    }
    let (catalogue, settings) = (Catalogue::find()?, HubSettings::from_env());
    let _lock = home.lock("pack")?;
    let mut done = Vec::new();
    for folder in all.iter().filter(|folder| ids.is_empty() || ids.contains(&folder.slm.id)) {
        for precision in precisions {
            done.push(pack_one(folder, *precision, home, &catalogue, &settings, bar)?);
        }
    }
    write_index(home, &mut done)?;
    Ok(done)
}

/// Writes the index of all that was packed, and takes over what it says of `done`.
fn write_index(home: &Home, done: &mut [Packed]) -> Result<(), HubError> {
    let made = all_made(home)?;
    let index = Index::new(made.into_iter().map(|made| (made.manifest, made.cost)).collect());
    write_json(&home.packed().join("index.json"), &index)?;
    for packed in done {
        if let Some(manifest) = index.slms.iter().find(|slm| slm.version == packed.manifest.version) {
            packed.manifest = manifest.clone();
        }
    }
    Ok(())
}

/// A classifier in the layout of the hub, with its own head.
#[derive(Debug, Clone, PartialEq)]
pub struct HubFolder {
    /// The folder, with `config.json`, `model.safetensors` and `tokenizer.json`.
    pub path: PathBuf,
    /// What the SLM will be known by.
    pub id: String,
    /// Its task.
    pub task: String,
    /// The longest text in tokens; cut to what the model takes.
    pub max_length: usize,
}

/// The weights that are read, and those that are not: a pickle runs whatever code it holds.
const WEIGHTS: &str = "model.safetensors";
const PICKLES: [&str; 4] = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.pt", "model.ckpt"];

impl HubFolder {
    fn read(&self, name: &str) -> Result<Vec<u8>, HubError> {
        let path = self.path.join(name);
        std::fs::read(&path).map_err(disk(&path))
    }

    /// The bytes of its weights.
    fn weights(&self) -> Result<Vec<u8>, HubError> {
        if self.path.join(WEIGHTS).is_file() {
            return self.read(WEIGHTS);
        }
        let has = |name: &&str| self.path.join(name).exists();
        let problem = if let Some(pickle) = PICKLES.into_iter().find(has) {
            format!(
                "there is no {WEIGHTS}, and {pickle} is never read: a pickle can run code. Convert it with the original implementation, or choose a revision with safetensors"
            )
        } else if has(&"model.safetensors.index.json") {
            format!("its weights are cut into several files; join them into one {WEIGHTS}")
        } else {
            format!("there is no {WEIGHTS}")
        };
        Err(HubError::File { file: self.path.display().to_string(), problem })
    }

    /// Its `tokenizer.json`, or what older files say.
    fn tokenizer(&self) -> Result<Vec<u8>, HubError> {
        let there = build::FILES.into_iter().filter(|name| self.path.join(name).is_file());
        let files = there.map(|name| Ok((name, self.read(name)?))).collect::<Result<Vec<_>, HubError>>()?;
        let file = |name: &str| files.iter().find(|(own, _)| *own == name).map(|(_, bytes)| bytes.as_slice());
        Ok(plain_tokenizer(&build::from_files(file)?, "tokenizer.json")?)
    }
}

/// Packs a classifier of the hub with its own head into `<home>/packed/`, in each of the precisions, and writes its index.
pub fn pack_hub_folder(
    folder: &HubFolder,
    precisions: &[Precision],
    home: &Home,
    bar: &ProgressBar,
) -> Result<Vec<Packed>, HubError> {
    let config = folder.read("config.json")?;
    // What the config refuses need not be looked for.
    HubClassifier::from_json(&config, &folder.path.join("config.json").display().to_string())?;
    let bytes = folder.weights()?;
    let tokenizer = folder.tokenizer()?;
    let _lock = home.lock("pack")?;
    let PackedSlm { mut meta, weights, head } =
        crate::slm::hub::read(&config, &bytes, (&folder.id, &folder.task), folder.max_length)?;
    Tokenizer::from_json(&tokenizer, meta.max_length)?;
    let hashes = [&config, &bytes, &tokenizer].map(|bytes| sha256_hex(bytes)).join(" ");
    drop(bytes);
    let mut done = Vec::new();
    for precision in precisions {
        meta.precision = *precision;
        meta.check(&folder.id)?;
        let parts =
            [FORMAT.to_string(), MANIFEST.to_owned(), calibration(*precision), hashes.clone(), format!("{meta:?}")];
        let inputs = sha256_hex(parts.join(" ").as_bytes());
        if let Some(packed) = unchanged(home, &meta.id, *precision, &inputs) {
            done.push(packed);
            continue;
        }
        bar.set_message(format!("packing {} in {}", meta.id, precision.name()));
        let bytes = match precision {
            Precision::F16 | Precision::F32 => write(&meta, &weights, &head)?,
            Precision::Int8 => {
                let PackedWeights::F32(plain) = &weights else { continue };
                let int8 = PackedWeights::Int8(quantize(plain, &tokenizer, &meta, bar)?);
                write(&meta, &int8, &head)?
            }
        };
        done.push(place(home, &meta, &bytes, &tokenizer, None, inputs)?);
    }
    write_index(home, &mut done)?;
    Ok(done)
}

/// Of what manifests say besides the packed file's meta; more of it has everything packed anew.
const MANIFEST: &str = "layers";

/// What int8 weights depend on besides the SLM.
fn calibration(precision: Precision) -> String {
    match precision {
        Precision::Int8 => format!("{GROUP} {WEIGHT_LEVELS} {}", sha256_hex(CALIBRATION)),
        Precision::F16 | Precision::F32 => String::new(),
    }
}

/// The SLM as it was packed from the same inputs before.
fn unchanged(home: &Home, id: &str, precision: Precision, inputs: &str) -> Option<Packed> {
    let made = read_made(&record_path(home, id, precision), home)?;
    (made.inputs == inputs).then_some(Packed { manifest: made.manifest, written: false })
}

/// Puts a packed SLM where it is served from, and records what it was made of.
fn place(
    home: &Home,
    meta: &PackedMeta,
    bytes: &[u8],
    tokenizer: &[u8],
    validation: Option<Metrics>,
    inputs: String,
) -> Result<Packed, HubError> {
    let manifest = SlmManifest::new(meta, bytes, tokenizer, validation);
    let target = version_dir(home, &manifest);
    for (part, shard) in shards(bytes) {
        write_atomically(&target.join(&part.name), shard)?;
    }
    write_atomically(&target.join(&manifest.tokenizer.name), tokenizer)?;
    let made = Made { inputs, cost: flops_per_token(&meta.config), manifest: manifest.clone() };
    write_json(&record_path(home, &meta.id, meta.precision), &made)?;
    Ok(Packed { manifest, written: true })
}

fn pack_one(
    folder: &Folder,
    precision: Precision,
    home: &Home,
    catalogue: &Catalogue,
    settings: &HubSettings,
    bar: &ProgressBar,
) -> Result<Packed, HubError> {
    let slm = &folder.slm;
    let adapters = folder.adapters()?;
    let entry = catalogue.get(&slm.base)?;
    if slm.base_sha256 != entry.tensors_sha256 {
        let file = folder.path.join("slm.toml").display().to_string();
        let problem =
            format!("base_sha256 is {}, but the base '{}' has {}", slm.base_sha256, entry.id, entry.tensors_sha256);
        return Err(HubError::File { file, problem });
    }
    let parts = [
        FORMAT.to_string(),
        MANIFEST.to_owned(),
        precision.name().to_owned(),
        calibration(precision),
        entry.tensors_sha256.clone(),
        entry.tokenizer_sha256.clone(),
        sha256_hex(folder.toml.as_bytes()),
        sha256_hex(&adapters.concat()),
    ];
    let inputs = sha256_hex(parts.join(" ").as_bytes());
    if let Some(packed) = unchanged(home, &slm.id, precision, &inputs) {
        return Ok(packed);
    }
    bar.set_message(format!("packing {} in {}", slm.id, precision.name()));
    let base = catalogue.base(&slm.base, home, settings, bar)?;
    let mut weights = base.weights()?;
    let head = slm.merge(&adapters, &mut weights)?;
    let meta = PackedMeta {
        format: FORMAT,
        id: slm.id.clone(),
        task: slm.task.clone(),
        labels: slm.labels.clone(),
        base: slm.base.clone(),
        config: weights.config.clone(),
        pooling: slm.pooling,
        dense: None,
        scoring: Scoring::Softmax,
        temperature: slm.temperature,
        max_length: slm.max_length,
        precision,
    };
    let tokenizer = plain_tokenizer(&base.tokenizer_json, "tokenizer.json")?;
    let model = PackedSlm { meta, weights: PackedWeights::F32(weights), head };
    finish(model, &tokenizer, inputs, Some(slm.validation.clone()), home, bar)
}

/// Brings a model's weights into the precision that its header asks for, and writes it.
fn finish(
    model: PackedSlm,
    tokenizer: &[u8],
    inputs: String,
    validation: Option<Metrics>,
    home: &Home,
    bar: &ProgressBar,
) -> Result<Packed, HubError> {
    let PackedSlm { meta, weights, head } = model;
    let weights = match weights {
        PackedWeights::F32(weights) if meta.precision == Precision::Int8 => {
            PackedWeights::Int8(quantize(&weights, tokenizer, &meta, bar)?)
        }
        weights => weights,
    };
    let bytes = write(&meta, &weights, &head)?;
    place(home, &meta, &bytes, tokenizer, validation, inputs)
}

/// An SLM that [`add`] packed of the same inputs before, and that the index lists.
pub fn known(home: &Home, id: &str, precision: Precision, inputs: &str) -> Option<SlmManifest> {
    let packed = unchanged(home, id, precision, &added_inputs(inputs, precision))?;
    index(home).ok()?.slms.into_iter().find(|listed| listed.version == packed.manifest.version && listed.id == id)
}

/// Packs a model that is none of `models/` into `<home>/packed/`, under the id of its header, and adds it to the index.
/// `inputs` is a hash of all that it is made of. Weights in int8 stay as they are.
pub fn add(
    mut model: PackedSlm,
    tokenizer: &[u8],
    inputs: &str,
    precision: Precision,
    home: &Home,
    bar: &ProgressBar,
) -> Result<Packed, HubError> {
    if let PackedWeights::F32(_) = model.weights {
        model.meta.precision = precision;
    }
    let inputs = added_inputs(inputs, model.meta.precision);
    let _lock = home.lock("pack")?;
    let mut done = [finish(model, tokenizer, inputs, None, home, bar)?];
    write_index(home, &mut done)?;
    let [packed] = done;
    Ok(packed)
}

fn added_inputs(inputs: &str, precision: Precision) -> String {
    sha256_hex(format!("{inputs} {FORMAT} {} {}", precision.name(), calibration(precision)).as_bytes())
}

/// The texts that int8 weights are calibrated by, in the column `text`: the page's sample file.
const CALIBRATION: &[u8] = include_bytes!("../../www/public/sample-tweets.csv");

fn quantize(
    weights: &EncoderWeights,
    tokenizer: &[u8],
    meta: &PackedMeta,
    bar: &ProgressBar,
) -> Result<EncoderWeights<Int8Matrix>, HubError> {
    let fail = |e: csv::Error| HubError::File { file: "sample-tweets.csv".to_owned(), problem: e.to_string() };
    let tokenizer = Tokenizer::from_json(tokenizer, meta.max_length)?;
    let mut reader = csv::Reader::from_reader(CALIBRATION);
    let column = reader.headers().map_err(fail)?.iter().position(|name| name == "text").unwrap_or(0);
    let mut texts = Vec::new();
    for record in reader.records() {
        texts.push(tokenizer.encode(record.map_err(fail)?.get(column).unwrap_or_default())?.ids);
    }
    let layers = meta.config.num_hidden_layers;
    let told = |layer| bar.set_message(format!("packing {} in int8, layer {layer} of {layers}", meta.id));
    Ok(weights.quantize_for(&texts, told)?)
}

fn record_path(home: &Home, id: &str, precision: Precision) -> PathBuf {
    home.0.join("packing").join(format!("{id}.{}.json", precision.name()))
}

fn version_dir(home: &Home, manifest: &SlmManifest) -> PathBuf {
    home.packed().join(&manifest.id).join(&manifest.version)
}

/// A record, where it can be read and its files are there with their lengths.
fn read_made(path: &Path, home: &Home) -> Option<Made> {
    let made: Made = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    made.manifest.check().ok()?;
    let folder = version_dir(home, &made.manifest);
    let whole = made
        .manifest
        .shards
        .iter()
        .chain([&made.manifest.tokenizer])
        .all(|part| std::fs::metadata(folder.join(&part.name)).is_ok_and(|file| file.len() == part.bytes));
    whole.then_some(made)
}

fn all_made(home: &Home) -> Result<Vec<Made>, HubError> {
    let folder = home.0.join("packing");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&folder).map_err(disk(&folder))?.flatten();
    // A record of another name is one of an earlier version.
    let of = |path: PathBuf| {
        read_made(&path, home).filter(|made| path == record_path(home, &made.manifest.id, made.manifest.precision))
    };
    let mut made: Vec<Made> = entries.filter_map(|entry| of(entry.path())).collect();
    made.sort_by(|a, b| a.cost.total_cmp(&b.cost).then_with(|| a.manifest.id.cmp(&b.manifest.id)));
    Ok(made)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), HubError> {
    let json = serde_json::to_vec_pretty(value)
        .map_err(|e| HubError::File { file: path.display().to_string(), problem: e.to_string() })?;
    write_atomically(path, &json)
}

/// The index of `<home>/packed/`; empty where nothing was packed.
pub fn index(home: &Home) -> Result<Index, HubError> {
    match std::fs::read(home.packed().join("index.json")) {
        Ok(json) => Ok(Index::from_json(&json)?),
        Err(_) => Ok(Index::default()),
    }
}

/// A packed SLM as it lies in `<home>/packed/`, every byte verified.
pub struct Unpacked {
    /// Its weights and what the file says of it.
    pub packed: PackedSlm,
    /// The version of its weights.
    pub version: String,
    /// Its `tokenizer.json`.
    pub tokenizer: Vec<u8>,
}

/// Reads a packed SLM; `precision` is what its engine is to compute in, `int8` or `f32`.
pub fn read(home: &Home, id: &str, precision: &str) -> Result<Unpacked, HubError> {
    let index = index(home)?;
    let manifest = index.get(id, precision).ok_or_else(|| {
        let names = index.slms.iter().map(|slm| format!("{} ({})", slm.id, slm.precision.computes_in()));
        let known = names.reduce(|all, name| format!("{all}, {name}")).unwrap_or_else(|| "none".to_owned());
        HubError::NotPacked { id: id.to_owned(), precision: precision.to_owned(), known }
    })?;
    let folder = version_dir(home, manifest);
    let read = |name: &str| std::fs::read(folder.join(name)).map_err(disk(&folder.join(name)));
    let mut assembler = Assembler::new(manifest)?;
    for part in &manifest.shards {
        assembler.push(&read(&part.name)?)?;
    }
    let tokenizer = read(&manifest.tokenizer.name)?;
    manifest.tokenizer.verify(&tokenizer, id)?;
    Ok(Unpacked { packed: assembler.finish()?, version: manifest.version.clone(), tokenizer })
}

/// Loads a packed SLM on the CPU engine; see [`read`]. `threads` are those of the engine.
pub fn load(home: &Home, id: &str, precision: &str, threads: usize) -> Result<Slm, HubError> {
    let Unpacked { packed, version, tokenizer } = read(home, id, precision)?;
    Ok(Slm::from_packed(packed, version, &tokenizer, threads)?)
}
