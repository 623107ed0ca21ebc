//! A candidate brought, packed as it would be served, and measured on the probe.

use super::PlanError;
use super::catalogue::{Candidate, Origin};
use super::probe::Probe;
use super::remote::Remote;
use crate::annotate::report::wilson;
use crate::hub::{Home, packing, write_atomically};
use crate::sample::Vote;
use crate::slm::SlmError;
use crate::slm::adapter::{hex, sha256_hex, sha256_of};
use crate::slm::pack::{self, PackedSlm, Precision, SlmManifest};
use crate::slm::tokenize::build;
use crate::task::Task;
use crate::tune::agreement::{calibration_error, reliability};
use crate::vote::{LabelMap, argmax};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

/// The longest text of a model of the hub, in tokens, cut to what it takes: as long as those of `models/` take.
const MAX_LENGTH: usize = 128;
/// What is served, and so what is measured.
const PRECISION: Precision = Precision::Int8;

/// A candidate that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The candidate.
    pub id: String,
    /// The id of the packed SLM.
    pub slm: String,
    /// Its version.
    pub version: String,
    /// What a spec says of its labels, where it has to.
    pub label_map: Option<LabelMap>,
    /// Bytes of its packed file.
    pub bytes: u64,
    /// The share of right labels.
    pub accuracy: f64,
    /// Its 95 % interval, by Wilson's score.
    pub interval: [f64; 2],
    /// The expected calibration error of its probabilities.
    pub calibration_error: f64,
    /// Texts a second, on this machine's CPU.
    pub texts_per_second: f64,
    /// Texts whose end it did not see.
    pub truncated: usize,
    /// Its probabilities of the task's labels, `[texts][labels]`; all zero where it gave none of them.
    pub probabilities: Vec<Vec<f32>>,
}

/// Where models lie.
pub struct Place<'a> {
    /// The data home.
    pub home: &'a Home,
    /// The folder with one folder an SLM.
    pub models: Option<&'a Path>,
}

/// Brings a candidate's files and packs it under an id of its own. `Err` says why it is refused.
pub async fn bring(
    candidate: &Candidate,
    task: &Task,
    remote: &Remote,
    place: &Place<'_>,
    bar: &ProgressBar,
) -> Result<SlmManifest, String> {
    let folder = match &candidate.origin {
        Origin::Own(folder) => {
            let models = place.models.ok_or("there is no folder of models")?;
            let packed = packing::pack(models, std::slice::from_ref(&folder.slm.id), &[PRECISION], place.home, bar);
            let packed = packed.map_err(|e| e.to_string())?.into_iter().next();
            return packed.map(|packed| packed.manifest).ok_or_else(|| "it was not packed".to_owned());
        }
        Origin::Folder(path) => path.clone(),
        Origin::Hub { repo, revision } => {
            let told =
                |name: &str, bytes: u64| bar.set_message(format!("{repo}: {name}, {:.1} MB", bytes as f64 / 1e6));
            remote.bring(repo, revision, &candidate.files, place.home, told).await?
        }
    };
    bar.set_message(format!("{}: packing", candidate.id));
    packed(candidate, &folder, task, place.home, bar).map_err(|e| e.to_string())
}

/// The id under which a model of the hub, or of a folder, is packed: the SLMs of `models/` have no two dashes.
pub fn slm_id(candidate: &Candidate) -> String {
    match &candidate.origin {
        Origin::Own(folder) => folder.slm.id.clone(),
        Origin::Hub { .. } => candidate.id.replace('/', "--"),
        Origin::Folder(_) => format!("folder--{}", candidate.id),
    }
}

fn packed(
    candidate: &Candidate,
    folder: &Path,
    task: &Task,
    home: &Home,
    bar: &ProgressBar,
) -> Result<SlmManifest, PlanError> {
    let files = candidate.files.iter().map(|name| Ok::<_, PlanError>((name.as_str(), read(&folder.join(name))?)));
    let files: Vec<(&str, Vec<u8>)> = files.collect::<Result<_, PlanError>>()?;
    let id = slm_id(candidate);
    let mut inputs: Vec<String> = files.iter().map(|(_, bytes)| sha256_hex(bytes)).collect();
    inputs.extend([id.clone(), task.name.clone(), MAX_LENGTH.to_string()]);
    let inputs = hex(&sha256_of(inputs.iter().map(String::as_str)));
    if let Some(manifest) = packing::known(home, &id, PRECISION, &inputs) {
        return Ok(manifest);
    }
    let (mut slm, tokenizer) = load(candidate, (&id, &task.name), &files)?;
    slm.meta.id = id;
    slm.meta.task = task.name.clone();
    Ok(packing::add(slm, &tokenizer, &inputs, PRECISION, home, bar)?.manifest)
}

fn read(path: &Path) -> Result<Vec<u8>, PlanError> {
    std::fs::read(path).map_err(|e| PlanError::file(path, e))
}

/// The model and its `tokenizer.json` out of its files.
fn load(
    candidate: &Candidate,
    (id, task): (&str, &str),
    files: &[(&str, Vec<u8>)],
) -> Result<(PackedSlm, Vec<u8>), PlanError> {
    let fail = |problem: String| SlmError::File { file: candidate.id.clone(), problem };
    let file = |name: &str| files.iter().find(|(own, _)| *own == name).map(|(_, bytes)| bytes.as_slice());
    let missing = |name: &str| fail(format!("it has no {name}"));
    let weights = file("model.safetensors").ok_or_else(|| missing("model.safetensors"))?;
    let config = file("config.json").ok_or_else(|| missing("config.json"))?;
    // A model that `pack` wrote stands on the hub as it is; others have a head of their original implementation.
    let slm = match pack::is_packed(weights) {
        true => PackedSlm::read(weights, &format!("{}/model.safetensors", candidate.id))?,
        false => crate::slm::hub::read(config, weights, (id, task), MAX_LENGTH)?,
    };
    if slm.meta.labels != candidate.labels || slm.meta.scoring != candidate.scoring {
        return Err(fail("its config.json names other labels than its weights".to_owned()).into());
    }
    let tokenizer = match file("tokenizer.json") {
        Some(json) => pack::plain_tokenizer(json, "tokenizer.json")?,
        None => build::from_files(file)?,
    };
    Ok((slm, tokenizer))
}

/// Lets a packed SLM vote on the probe. What was measured before, of the same version on the same probe, is known.
pub async fn measure(
    id: &str,
    manifest: &SlmManifest,
    map: Option<&LabelMap>,
    task: &Task,
    probe: &Probe,
    home: &Home,
) -> Result<Measured, PlanError> {
    let labels = task.labels.names();
    let key = [manifest.version.as_str(), &probe.hash(), &format!("{map:?}"), &labels.join("\n"), id];
    let path = home.path().join("measurements").join(format!("{}.json", hex(&sha256_of(key))));
    if let Some(known) = known(&path) {
        return Ok(known);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut slm = packing::load(home, &manifest.id, PRECISION.computes_in(), threads)?;
    let texts: Vec<&str> = probe.texts.iter().map(String::as_str).collect();
    slm.vote_on(task, map)?;
    slm.vote(texts.get(..texts.len().min(4)).unwrap_or_default()).await?;
    let start = Instant::now();
    let votes = slm.vote(&texts).await?;
    let seconds = start.elapsed().as_secs_f64();
    // A vote without a label is none.
    let row = |vote: &Vote| if vote.label.is_empty() { vec![0.0; labels.len()] } else { vote.probabilities.clone() };
    let probabilities: Vec<Vec<f32>> = votes.iter().map(row).collect();
    let right = |(row, gold): &(&Vec<f32>, &usize)| row.iter().any(|p| *p > 0.0) && argmax(row) == **gold;
    let right = probabilities.iter().zip(&probe.gold).filter(right).count() as u64;
    let bins = reliability(probabilities.iter().map(Vec::as_slice).zip(probe.gold.iter().copied()));
    let measured = Measured {
        id: id.to_owned(),
        slm: manifest.id.clone(),
        version: manifest.version.clone(),
        label_map: map.cloned(),
        bytes: manifest.bytes,
        accuracy: right as f64 / texts.len().max(1) as f64,
        interval: wilson(right, texts.len() as u64),
        calibration_error: calibration_error(&bins),
        texts_per_second: texts.len() as f64 / seconds.max(1e-9),
        truncated: votes.iter().filter(|vote| vote.truncated).count(),
        probabilities,
    };
    let json = serde_json::to_vec(&measured).map_err(|e| PlanError::file(&path, e))?;
    write_atomically(&path, &json)?;
    Ok(measured)
}

fn known(path: &Path) -> Option<Measured> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
