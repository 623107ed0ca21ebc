//! What `train` writes: a folder with `slm.toml` and the adapter that turns a base into an SLM.
//!
//! An adapter is a safetensors file of tensors under the hub's names. A tensor that the base has too replaces it (norms,
//! biases, or every tensor after full fine-tuning); a pair `<name>.lora_A.weight` `[rank x inputs]` and
//! `<name>.lora_B.weight` `[outputs x rank]` is added to `<name>.weight` as `alpha / rank * B A` (LoRA, arXiv 2106.09685);
//! `head.weight` `[labels x hidden]` and `head.bias` are the classification head.

use super::SlmError;
use super::weights::{EncoderWeights, Head, Linear, Pooling, SafetensorsSource, ShapedTensor, TensorSource};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// How an adapter was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Low-rank updates of the linear maps, with norms and biases.
    Lora,
    /// All parameters.
    Full,
}

/// The `[adapter]` table of `slm.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterFile {
    /// The file's name in the SLM's folder.
    pub file: String,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
    /// How it was trained.
    pub method: Method,
    /// Rank of the LoRA pairs (0 for full).
    #[serde(default)]
    pub rank: usize,
    /// Numerator of the LoRA scale.
    #[serde(default)]
    pub alpha: f32,
}

/// Figures on the validation file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Share of right labels.
    pub accuracy: f64,
    /// Mean of the labels' F1.
    pub macro_f1: f64,
    /// Mean negative log likelihood after the temperature.
    pub nll: f64,
}

/// `slm.toml`: an SLM as a base plus an adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlmFolder {
    /// The SLM's id, also the folder's name.
    pub id: String,
    /// The task.
    pub task: String,
    /// Labels in the order of the head's rows.
    pub labels: Vec<String>,
    /// The base's id in `bases.toml`.
    pub base: String,
    /// The base's hash over its canonical tensors, hexadecimal.
    pub base_sha256: String,
    /// The longest text in tokens; a longer one is cut and flagged.
    pub max_length: usize,
    /// How the hidden states are pooled.
    pub pooling: Pooling,
    /// Temperature of the softmax, fitted on the validation file.
    pub temperature: f32,
    /// The adapter.
    pub adapter: AdapterFile,
    /// Figures on the validation file.
    pub validation: Metrics,
    /// The adapters of the rounds since, in order, each on top of those before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rounds: Vec<AdapterFile>,
}

impl SlmFolder {
    /// Reads an `slm.toml`; `file` names it in errors.
    pub fn from_toml(text: &str, file: &str) -> Result<Self, SlmError> {
        let fail = |problem: String| SlmError::File { file: file.to_owned(), problem };
        let folder: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        if folder.labels.len() < 2 {
            return Err(fail(format!("{} labels, expected at least 2", folder.labels.len())));
        }
        if !(folder.temperature.is_finite() && folder.temperature > 0.0) {
            return Err(fail(format!("temperature {}, expected above 0", folder.temperature)));
        }
        Ok(folder)
    }

    /// The adapter files, the first one and those of the rounds.
    pub fn adapters(&self) -> impl Iterator<Item = &AdapterFile> {
        std::iter::once(&self.adapter).chain(&self.rounds)
    }

    /// Merges the adapters' bytes, one for each of [`Self::adapters`], into the base's weights, after checking their
    /// hashes; returns the head of the last one.
    pub fn merge<B: AsRef<[u8]>>(&self, adapters: &[B], base: &mut EncoderWeights) -> Result<Head, SlmError> {
        let bytes = |at: usize| adapters.get(at).map(AsRef::as_ref).unwrap_or_default();
        let mut head = self.merge_one(&self.adapter, bytes(0), base)?;
        for (at, round) in self.rounds.iter().enumerate() {
            head = self.merge_one(round, bytes(at + 1), base)?;
        }
        Ok(head)
    }

    /// Merges one adapter into the weights that it was trained on.
    pub fn merge_one(&self, adapter: &AdapterFile, bytes: &[u8], base: &mut EncoderWeights) -> Result<Head, SlmError> {
        let file = format!("{}/{}", self.id, adapter.file);
        let found = sha256_hex(bytes);
        if found != adapter.sha256 {
            let problem = format!("SHA-256 is {found}, slm.toml says {}; fetch the file again", adapter.sha256);
            return Err(SlmError::File { file, problem });
        }
        let source = SafetensorsSource::new(bytes, &file)?;
        let scale = if adapter.rank == 0 { 0.0 } else { adapter.alpha / adapter.rank as f32 };
        let mut unused: BTreeSet<String> = source.names().into_iter().collect();
        let mut reader = AdapterReader { source: &source, unused: &mut unused };
        for (name, shape, values) in base.tensors_mut() {
            reader.replace(&name, &shape, values)?;
            if let Some(stem) = name.strip_suffix(".weight") {
                reader.add_low_rank(stem, &shape, values, scale)?;
            }
        }
        let (labels, hidden) = (self.labels.len(), base.config.hidden_size);
        let mut linear =
            Linear { weight: vec![0.0; labels * hidden], bias: vec![0.0; labels], outputs: labels, inputs: hidden };
        for (name, shape, values) in
            [("head.weight", vec![labels, hidden], &mut linear.weight), ("head.bias", vec![labels], &mut linear.bias)]
        {
            if !reader.replace(name, &shape, values)? {
                return Err(SlmError::MissingTensor { file, tensor: name.to_owned(), expected: shape });
            }
        }
        if let Some(name) = unused.first() {
            let problem = format!("tensor '{name}' belongs to no part of the base '{}'", self.base);
            return Err(SlmError::File { file, problem });
        }
        Ok(Head { pooling: self.pooling, dense: None, linear, temperature: self.temperature })
    }
}

struct AdapterReader<'a, 'b> {
    source: &'a SafetensorsSource<'b>,
    unused: &'a mut BTreeSet<String>,
}

impl AdapterReader<'_, '_> {
    fn take(&mut self, name: &str) -> Result<Option<ShapedTensor>, SlmError> {
        let found = self.source.tensor(name)?;
        self.unused.remove(name);
        if let Some((_, values)) = &found
            && let Some(index) = values.iter().position(|value| !value.is_finite())
        {
            let (file, tensor) = (self.source.file().to_owned(), name.to_owned());
            return Err(SlmError::NotFinite { file, tensor, index });
        }
        Ok(found)
    }

    fn shape_error(&self, tensor: &str, found: Vec<usize>, expected: Vec<usize>) -> SlmError {
        SlmError::Shape { file: self.source.file().to_owned(), tensor: tensor.to_owned(), found, expected }
    }

    /// Replaces `values` by the adapter's tensor of the same name; false where it has none.
    fn replace(&mut self, name: &str, shape: &[usize], values: &mut [f32]) -> Result<bool, SlmError> {
        let Some((found, new)) = self.take(name)? else { return Ok(false) };
        if found != shape {
            return Err(self.shape_error(name, found, shape.to_vec()));
        }
        values.copy_from_slice(&new);
        Ok(true)
    }

    /// Adds `scale * B A` to `values` where the adapter has the pair.
    fn add_low_rank(&mut self, stem: &str, shape: &[usize], values: &mut [f32], scale: f32) -> Result<(), SlmError> {
        let (name_a, name_b) = (format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight"));
        let (Some((shape_a, a)), Some((shape_b, b))) = (self.take(&name_a)?, self.take(&name_b)?) else {
            return Ok(());
        };
        let [outputs, inputs] = shape else {
            return Err(self.shape_error(&name_a, shape_a, shape.to_vec()));
        };
        let rank = shape_a.first().copied().unwrap_or(0);
        if shape_a != [rank, *inputs] {
            return Err(self.shape_error(&name_a, shape_a, vec![rank, *inputs]));
        }
        if shape_b != [*outputs, rank] {
            return Err(self.shape_error(&name_b, shape_b, vec![*outputs, rank]));
        }
        for (row, b) in values.chunks_exact_mut(*inputs).zip(b.chunks_exact(rank.max(1))) {
            for (b, a) in b.iter().zip(a.chunks_exact(*inputs)) {
                let factor = scale * b;
                row.iter_mut().zip(a).for_each(|(value, a)| *value += factor * a);
            }
        }
        Ok(())
    }
}

/// The SHA-256 of some bytes, hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The SHA-256 over texts, each with its length before it, so that none can borrow from its neighbour.
pub(crate) fn sha256_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
