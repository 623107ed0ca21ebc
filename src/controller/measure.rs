//! A candidate brought, packed as it would be served, and measured on the probe.

use super::PlanError;
use super::catalogue::{Candidate, Origin};
use super::mapping::LabelMap;
use super::probe::Probe;
use super::remote::Remote;
use crate::annotate::report::wilson;
use crate::hub::{Home, packing, write_atomically};
use crate::slm::SlmError;
use crate::slm::adapter::{hex, sha256_hex, sha256_of};
use crate::slm::pack::{self, PackedSlm, Precision, SlmManifest};
use crate::slm::weights::Linear;
use crate::task::Task;
use crate::tune::agreement::{calibration_error, reliability};
use crate::vote::argmax;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;

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
    map: &LabelMap,
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
    packed(candidate, &folder, map, task, place.home, bar).map_err(|e| e.to_string())
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
    map: &LabelMap,
    task: &Task,
    home: &Home,
    bar: &ProgressBar,
) -> Result<SlmManifest, PlanError> {
    let files = candidate.files.iter().map(|name| Ok::<_, PlanError>((name.as_str(), read(&folder.join(name))?)));
    let files: Vec<(&str, Vec<u8>)> = files.collect::<Result<_, PlanError>>()?;
    let id = slm_id(candidate);
    let mut inputs: Vec<String> = files.iter().map(|(_, bytes)| sha256_hex(bytes)).collect();
    inputs.extend([id.clone(), task.name.clone(), format!("{map:?} {:?}", task.labels.names())]);
    let inputs = hex(&sha256_of(inputs.iter().map(String::as_str)));
    if let Some(manifest) = packing::known(home, &id, PRECISION, &inputs) {
        return Ok(manifest);
    }
    let (slm, tokenizer) = load(candidate, &files)?;
    let mut slm = in_task_order(slm, map, task);
    slm.meta.id = id;
    slm.meta.task = task.name.clone();
    Ok(packing::add(slm, &tokenizer, &inputs, PRECISION, home, bar)?.manifest)
}

fn read(path: &Path) -> Result<Vec<u8>, PlanError> {
    std::fs::read(path).map_err(|e| PlanError::file(path, e))
}

/// Tokens of a text, as the paper has it.
const MAX_LENGTH: usize = 128;

/// The model and its `tokenizer.json` out of its files.
fn load(candidate: &Candidate, files: &[(&str, Vec<u8>)]) -> Result<(PackedSlm, Vec<u8>), PlanError> {
    let fail = |problem: &str| SlmError::File { file: candidate.id.clone(), problem: problem.to_owned() };
    let (name, weights) = files.first().ok_or_else(|| fail("it has no files"))?;
    let tokenizer = files.iter().find(|(name, _)| *name == "tokenizer.json").map(|(_, bytes)| bytes);
    let tokenizer = tokenizer.ok_or_else(|| fail("it has no tokenizer.json"))?;
    let config = files.iter().find(|(name, _)| *name == "config.json").map(|(_, bytes)| bytes.as_slice());
    // A model that `pack` wrote stands on the hub as it is; others have the names of the original implementation.
    let slm = match (PackedSlm::read(weights, &format!("{}/{name}", candidate.id)), config) {
        (Err(_), Some(config)) => crate::slm::hub::read(config, weights, (&candidate.id, ""), MAX_LENGTH)?,
        (read, _) => read?,
    };
    if slm.meta.labels != candidate.labels {
        return Err(fail("its config.json names other labels than its weights").into());
    }
    Ok((slm, pack::plain_tokenizer(tokenizer, "tokenizer.json")?))
}

/// The rows of the head as the task has its labels, under the task's names, where each stands for one of them.
fn in_task_order(mut slm: PackedSlm, map: &LabelMap, task: &Task) -> PackedSlm {
    if !map.is_one_to_one() {
        return slm;
    }
    let Linear { weight, bias, inputs, .. } = &slm.head.linear;
    let from = |label: usize| map.to().iter().position(|to| *to == Some(label)).unwrap_or(label);
    let row = |label: usize| weight.get(from(label) * inputs..(from(label) + 1) * inputs).unwrap_or_default();
    let new_weight: Vec<f32> = (0..task.labels.len()).flat_map(|label| row(label).to_vec()).collect();
    let new_bias = (0..task.labels.len()).filter_map(|label| bias.get(from(label)).copied()).collect();
    (slm.head.linear.weight, slm.head.linear.bias) = (new_weight, new_bias);
    slm.meta.labels = task.labels.names();
    slm
}

/// Lets a packed SLM vote on the probe. What was measured before, of the same version on the same probe, is known.
pub async fn measure(
    id: &str,
    manifest: &SlmManifest,
    own_map: &LabelMap,
    task: &Task,
    probe: &Probe,
    home: &Home,
) -> Result<Measured, PlanError> {
    let labels = task.labels.names();
    let identity = LabelMap::new(id, &manifest.labels, &task.labels, &[]).ok().filter(LabelMap::is_identity);
    let map = identity.as_ref().unwrap_or(own_map);
    let key = [manifest.version.as_str(), &probe.hash(), &format!("{map:?}"), &labels.join("\n"), id];
    let path = home.path().join("measurements").join(format!("{}.json", hex(&sha256_of(key))));
    if let Some(known) = known(&path) {
        return Ok(known);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut slm = packing::load(home, &manifest.id, PRECISION.computes_in(), threads)?;
    let texts: Vec<&str> = probe.texts.iter().map(String::as_str).collect();
    slm.vote(texts.get(..texts.len().min(4)).unwrap_or_default()).await?;
    let start = Instant::now();
    let votes = slm.vote(&texts).await?;
    let seconds = start.elapsed().as_secs_f64();
    let probabilities: Vec<Vec<f32>> = votes.iter().map(|vote| map.apply(&vote.probabilities, labels.len())).collect();
    let right = |(row, gold): &(&Vec<f32>, &usize)| row.iter().any(|p| *p > 0.0) && argmax(row) == **gold;
    let right = probabilities.iter().zip(&probe.gold).filter(right).count() as u64;
    let bins = reliability(probabilities.iter().map(Vec::as_slice).zip(probe.gold.iter().copied()));
    let measured = Measured {
        id: id.to_owned(),
        slm: manifest.id.clone(),
        version: manifest.version.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slm::Scoring;
    use crate::slm::config::{Architecture, EncoderConfig};
    use crate::slm::pack::{PackedMeta, PackedWeights};
    use crate::slm::weights::{EncoderWeights, Extras, Head, Norm, Pooling};

    fn slm() -> PackedSlm {
        let config = EncoderConfig {
            architecture: Architecture::Bert,
            vocab_size: 5,
            hidden_size: 2,
            num_hidden_layers: 0,
            num_attention_heads: 1,
            intermediate_size: 2,
            max_position_embeddings: 4,
            type_vocab_size: 1,
            layer_norm_eps: 1e-5,
            ..EncoderConfig::default()
        };
        let norm = || Norm { gamma: vec![1.0; 2], beta: vec![0.0; 2] };
        let weights = EncoderWeights {
            words: vec![0.0; 10],
            positions: vec![0.0; 8],
            token_types: vec![0.0; 2],
            embedding_norm: norm(),
            layers: Vec::new(),
            relative_bias: Vec::new(),
            extras: Extras::default(),
            config: config.clone(),
        };
        let meta = PackedMeta {
            format: pack::FORMAT,
            id: "x".into(),
            task: "x".into(),
            labels: vec!["POS".into(), "NEG".into()],
            base: "x".into(),
            config,
            pooling: Pooling::Mean,
            dense: None,
            scoring: Scoring::Softmax,
            temperature: 1.0,
            max_length: 4,
            precision: Precision::F32,
        };
        let linear = Linear { weight: vec![1.0, 2.0, 3.0, 4.0], bias: vec![5.0, 6.0], outputs: 2, inputs: 2 };
        PackedSlm {
            meta,
            weights: PackedWeights::F32(weights),
            head: Head { pooling: Pooling::Mean, dense: None, linear, temperature: 1.0 },
        }
    }

    #[test]
    fn the_heads_rows_come_in_the_tasks_order() {
        use crate::controller::labels::Labels;
        let task = Labels::named("t", &["negative".into(), "positive".into()]).expect("labels").task().expect("a task");
        let map = LabelMap::new("x", &slm().meta.labels, &task.labels, &[]).expect("a map");
        let ordered = in_task_order(slm(), &map, &task);
        assert_eq!(ordered.meta.labels, ["negative", "positive"]);
        assert_eq!(ordered.head.linear.weight, [3.0, 4.0, 1.0, 2.0]);
        assert_eq!(ordered.head.linear.bias, [6.0, 5.0]);
    }
}
