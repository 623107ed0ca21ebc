//! An SLM ready to vote: tokenizer, engine and what the packed file says of it.

#[cfg(feature = "gpu-burn")]
use super::burn::BurnEngine;
use super::cpu::{CpuEncoder, CpuEngine, Isa};
#[cfg(feature = "gpu")]
use super::gpu::{Gpu, GpuEngine};
use super::pack::{self, PackedMeta, PackedSlm, PackedWeights};
use super::tokenize::{Encoded, Tokenizer};
use super::{Batch, Engine, SlmError, plan_batches};
use crate::sample::Vote;
use crate::task::Task;
use crate::vote::{Ballot, LabelMap, Uncovered};
use std::collections::HashMap;
use std::sync::Arc;

/// Tokens that go through the engine together: enough to keep its panels in use, little enough to stay in the cache.
const TOKENS: usize = 2048;

/// What an SLM runs on.
enum Serving {
    Cpu(Box<CpuEngine>),
    #[cfg(feature = "gpu")]
    Gpu(Box<GpuEngine>),
    #[cfg(feature = "gpu-burn")]
    Burn(Box<BurnEngine>),
}

impl Serving {
    fn name(&self) -> &'static str {
        match self {
            Self::Cpu(engine) => engine.name(),
            #[cfg(feature = "gpu")]
            Self::Gpu(engine) => engine.name(),
            #[cfg(feature = "gpu-burn")]
            Self::Burn(_) => "burn",
        }
    }

    fn precision(&self) -> &'static str {
        match self {
            Self::Cpu(engine) => engine.precision(),
            #[cfg(feature = "gpu")]
            Self::Gpu(engine) => engine.precision(),
            #[cfg(feature = "gpu-burn")]
            Self::Burn(_) => "f32",
        }
    }

    fn cpu(&mut self) -> Result<&mut CpuEngine, SlmError> {
        match self {
            Self::Cpu(engine) => Ok(engine),
            #[cfg(any(feature = "gpu", feature = "gpu-burn"))]
            _ => Err(SlmError::Input("only on the CPU does an SLM work in parts".to_owned())),
        }
    }

    async fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        match self {
            Self::Cpu(engine) => engine.logits(batch),
            #[cfg(feature = "gpu")]
            Self::Gpu(engine) => engine.logits(batch).await,
            #[cfg(feature = "gpu-burn")]
            Self::Burn(engine) => engine.logits_async(batch).await,
        }
    }

    async fn pooled(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        match self {
            Self::Cpu(engine) => engine.pooled(batch),
            #[cfg(feature = "gpu")]
            Self::Gpu(engine) => engine.pooled(batch).await,
            #[cfg(feature = "gpu-burn")]
            Self::Burn(engine) => engine.pooled_async(batch).await,
        }
    }
}

/// Texts on their way through an SLM that was cut (see [`Unpacker::layers`](pack::Unpacker::layers)): its parts lie in
/// several workers, so that none has to hold all of it.
#[derive(Debug, Clone, PartialEq)]
pub struct States {
    /// For each text the place of its tokens among the distinct ones.
    places: Vec<usize>,
    /// For each text whether its end was cut.
    truncated: Vec<bool>,
    /// The number of tokens of each distinct text.
    lengths: Vec<usize>,
    /// Hidden states of the distinct texts, `[tokens x hidden]`.
    values: Vec<f32>,
}

impl States {
    /// As bytes, which parts of the same crate's version read.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { places, truncated, lengths, values } = self;
        let counts = [places.len(), lengths.len()];
        let texts = places.iter().zip(truncated).flat_map(|(place, truncated)| [*place, usize::from(*truncated)]);
        let numbers = counts.into_iter().chain(texts).chain(lengths.iter().copied());
        let mut bytes = Vec::with_capacity(4 * (2 + 2 * places.len() + lengths.len() + values.len()));
        bytes.extend(numbers.flat_map(|number| (number as u32).to_le_bytes()));
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    /// Reads [`Self::to_bytes`]; bytes that are not such are an error.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SlmError> {
        let fail = || SlmError::Input("these are not the states of texts between two parts of an SLM".to_owned());
        let words = || bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        let numbers =
            |from: usize, count: usize| words().skip(from).take(count).map(|b| u32::from_le_bytes(b) as usize);
        let counts: Vec<usize> = numbers(0, 2).collect();
        let [texts, distinct] = counts[..] else { return Err(fail()) };
        let heads = 2 + 2 * texts + distinct;
        if !bytes.len().is_multiple_of(4) || heads > bytes.len() / 4 {
            return Err(fail());
        }
        let places: Vec<usize> = numbers(2, 2 * texts).step_by(2).collect();
        if places.iter().any(|place| *place >= distinct) {
            return Err(fail());
        }
        Ok(Self {
            places,
            truncated: numbers(3, (2 * texts).saturating_sub(1)).step_by(2).map(|flag| flag != 0).collect(),
            lengths: numbers(2 + 2 * texts, distinct).collect(),
            values: words().skip(heads).map(f32::from_le_bytes).collect(),
        })
    }
}

/// The distinct texts by their tokens, which are computed once, and each text's place among them.
fn distinct(encoded: &[Encoded]) -> (Vec<&[u32]>, Vec<usize>) {
    let mut places: HashMap<&[u32], usize> = HashMap::with_capacity(encoded.len());
    let mut distinct: Vec<&[u32]> = Vec::with_capacity(encoded.len());
    let place_of = |ids| {
        *places.entry(ids).or_insert_with(|| {
            distinct.push(ids);
            distinct.len() - 1
        })
    };
    let place = encoded.iter().map(|text| text.ids.as_slice()).map(place_of).collect();
    (distinct, place)
}

/// The rows of distinct texts, for every text.
fn spread(rows: &[f32], places: &[usize], width: usize) -> Vec<f32> {
    places.iter().flat_map(|place| &rows[place * width..][..width]).copied().collect()
}

/// A small language model that votes.
pub struct Slm {
    meta: PackedMeta,
    version: String,
    tokenizer: Option<Arc<Tokenizer>>,
    engine: Serving,
    ballot: Ballot,
}

impl Slm {
    /// Loads a packed SLM (see [`pack`]) with its `tokenizer.json` on the CPU engine. `threads` are those of the engine;
    /// in wasm it is always one.
    pub fn load(packed: &[u8], tokenizer_json: &[u8], threads: usize) -> Result<Self, SlmError> {
        let read = PackedSlm::read(packed, "the packed SLM")?;
        Self::from_packed(read, pack::version(packed), tokenizer_json, threads)
    }

    /// As [`Self::load`], of a packed SLM that was read and is known to have this version.
    pub fn from_packed(
        packed: PackedSlm,
        version: String,
        tokenizer_json: &[u8],
        threads: usize,
    ) -> Result<Self, SlmError> {
        let tokenizer = Arc::new(Tokenizer::from_json(tokenizer_json, packed.meta.max_length)?);
        Self::with_tokenizer(packed, version, Some(tokenizer), threads, None)
    }

    /// As [`Self::from_packed`], with a tokenizer that other SLMs may share, or none for a part that takes no texts; on a
    /// certain instruction set of the CPU, for none on the best one.
    pub fn with_tokenizer(
        packed: PackedSlm,
        version: String,
        tokenizer: Option<Arc<Tokenizer>>,
        threads: usize,
        isa: Option<Isa>,
    ) -> Result<Self, SlmError> {
        let PackedSlm { meta, weights, head } = packed;
        tokenizer.iter().try_for_each(|tokenizer| fits(tokenizer, &meta))?;
        let encoder = match weights {
            PackedWeights::F32(weights) => CpuEncoder::from_weights(weights, isa),
            PackedWeights::Int8(weights) => CpuEncoder::from_int8(weights, isa),
        };
        let engine = Serving::Cpu(Box::new(CpuEngine::from_encoder(encoder.threads(threads), head)));
        Ok(Self::new(meta, version, tokenizer, engine))
    }

    /// As [`Self::from_packed`], on a GPU; `now` is a clock in milliseconds, by which the kernels that suit the adapter are
    /// chosen. Where it fails the error is [`SlmError::NoGpu`] or [`SlmError::Gpu`], and the CPU engine will do.
    #[cfg(feature = "gpu")]
    pub async fn on_gpu(
        packed: PackedSlm,
        version: String,
        tokenizer: Arc<Tokenizer>,
        gpu: &Gpu,
        now: impl Fn() -> f64,
    ) -> Result<Self, SlmError> {
        let PackedSlm { meta, weights, head } = packed;
        fits(&tokenizer, &meta)?;
        let mut engine = GpuEngine::new(gpu, weights, &head).await?;
        // What suits an adapter in software is known, and it would take long to find out.
        if !gpu.is_software() {
            engine.tune(now).await?;
        }
        Ok(Self::new(meta, version, Some(tokenizer), Serving::Gpu(Box::new(engine))))
    }

    /// As [`Self::from_packed`], on a device of burn-wgpu: for a model that no kernels of ours take, and to hold them
    /// against it. It takes weights in f16 or f32; others are an error.
    #[cfg(feature = "gpu-burn")]
    pub fn on_burn(
        packed: PackedSlm,
        version: String,
        tokenizer: Arc<Tokenizer>,
        device: &burn::tensor::Device,
    ) -> Result<Self, SlmError> {
        let PackedSlm { meta, weights, head } = packed;
        fits(&tokenizer, &meta)?;
        let PackedWeights::F32(weights) = weights else {
            return Err(SlmError::NoGpu("burn-wgpu takes weights in f16 or f32, and these are in int8".to_owned()));
        };
        let engine = BurnEngine::new(&weights, &head, device);
        Ok(Self::new(meta, version, Some(tokenizer), Serving::Burn(Box::new(engine))))
    }

    fn new(meta: PackedMeta, version: String, tokenizer: Option<Arc<Tokenizer>>, engine: Serving) -> Self {
        let ballot = Ballot::plain(&meta.labels, meta.scoring);
        Self { meta, version, tokenizer, engine, ballot }
    }

    /// Makes its votes those of a task, by a spec's `label_map` for it, or by the names and aliases of the labels; says
    /// which labels have no counterpart. Before, they are of the labels that it was packed with.
    pub fn vote_on(&mut self, task: &Task, map: Option<&LabelMap>) -> Result<&Uncovered, SlmError> {
        let ballot = Ballot::new(&task.labels, &self.meta.labels, self.meta.scoring, map);
        self.ballot = ballot.map_err(|error| SlmError::Labels { id: self.meta.id.clone(), error })?;
        Ok(self.ballot.uncovered())
    }

    /// What the packed file says of the SLM.
    pub fn meta(&self) -> &PackedMeta {
        &self.meta
    }

    /// The version of its weights: the first 12 hexadecimal digits of the packed file's SHA-256.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The name of its engine.
    pub fn engine(&self) -> &'static str {
        self.engine.name()
    }

    /// The precision of its engine.
    pub fn precision(&self) -> &'static str {
        self.engine.precision()
    }

    /// The token ids of a text and whether its end was cut.
    pub fn tokenize(&self, text: &str) -> Result<Encoded, SlmError> {
        match &self.tokenizer {
            Some(tokenizer) => tokenizer.encode(text),
            None => Err(SlmError::Input("this part of an SLM takes hidden states, not texts".to_owned())),
        }
    }

    /// Raw logits `[texts x labels]`, row by row in the order of the texts.
    pub async fn logits(&mut self, texts: &[&str]) -> Result<Vec<f32>, SlmError> {
        Ok(self.run(texts).await?.0)
    }

    /// Raw logits `[texts x labels]` of texts that are token ids already, special ones included.
    pub async fn logits_of_tokens(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        self.engine.logits(batch).await
    }

    /// The pooled states `[texts x hidden]` of texts that are token ids already, special ones included.
    pub async fn pooled_of_tokens(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        self.engine.pooled(batch).await
    }

    /// One vote a text, in the order of the texts. A text's vote does not depend on the others. On the CPU the future is
    /// ready at once; a GPU is waited for.
    pub async fn vote(&mut self, texts: &[&str]) -> Result<Vec<Vote>, SlmError> {
        let (mut values, truncated) = self.run(texts).await?;
        let labels = self.meta.labels.len();
        self.meta.scoring.probabilities(&mut values, labels, self.meta.temperature);
        Ok(values.chunks_exact(labels).zip(truncated).map(|(row, truncated)| self.as_vote(row, truncated)).collect())
    }

    /// What the first layers of an SLM that was cut make of texts, on the CPU; see [`States`].
    pub fn begin(&mut self, texts: &[&str]) -> Result<States, SlmError> {
        let encoded = self.encode(texts)?;
        let (distinct, places) = distinct(&encoded);
        let engine = self.engine.cpu()?;
        let batch = Batch::new(distinct.iter().copied());
        let layers = engine.encoder().layers();
        let values = engine.encoder().hidden(&batch, layers)?;
        let truncated = encoded.iter().map(|text| text.truncated).collect();
        Ok(States { places, truncated, lengths: batch.lengths, values })
    }

    /// What the layers behind those make of that.
    pub fn go_on(&mut self, states: States) -> Result<States, SlmError> {
        let values = self.engine.cpu()?.encoder().hidden_from(&states.values, &states.lengths)?;
        Ok(States { values, ..states })
    }

    /// The votes, by the last layers; as [`Self::vote`] of an SLM that was not cut, to the bit.
    pub fn vote_from(&mut self, states: &States) -> Result<Vec<Vote>, SlmError> {
        let logits = self.engine.cpu()?.logits_from(&states.values, &states.lengths)?;
        let labels = self.meta.labels.len();
        let mut values = spread(&logits, &states.places, labels);
        self.meta.scoring.probabilities(&mut values, labels, self.meta.temperature);
        let rows = values.chunks_exact(labels).zip(&states.truncated);
        Ok(rows.map(|(row, truncated)| self.as_vote(row, *truncated)).collect())
    }

    fn encode(&self, texts: &[&str]) -> Result<Vec<Encoded>, SlmError> {
        texts.iter().map(|text| self.tokenize(text)).collect()
    }

    async fn run(&mut self, texts: &[&str]) -> Result<(Vec<f32>, Vec<bool>), SlmError> {
        let encoded = self.encode(texts)?;
        let (distinct, places) = distinct(&encoded);
        let lengths: Vec<usize> = distinct.iter().map(|ids| ids.len()).collect();
        let labels = self.meta.labels.len();
        let mut computed = vec![0.0; distinct.len() * labels];
        for group in plan_batches(&lengths, TOKENS, usize::MAX) {
            let batch = Batch::new(group.iter().map(|text| distinct[*text]));
            let rows = self.engine.logits(&batch).await?;
            for (text, row) in group.iter().zip(rows.chunks_exact(labels)) {
                computed[text * labels..][..labels].copy_from_slice(row);
            }
        }
        let values = spread(&computed, &places, labels);
        Ok((values, encoded.iter().map(|text| text.truncated).collect()))
    }

    fn as_vote(&self, probabilities: &[f32], truncated: bool) -> Vote {
        let (label, probabilities) = self.ballot.vote(probabilities);
        Vote {
            slm: self.meta.id.clone(),
            version: self.version.clone(),
            engine: self.engine.name().to_owned(),
            precision: self.engine.precision().to_owned(),
            label,
            probabilities,
            truncated,
        }
    }
}

/// An error if a tokenizer does not belong to the model.
fn fits(tokenizer: &Tokenizer, meta: &PackedMeta) -> Result<(), SlmError> {
    if tokenizer.vocabulary() > meta.config.vocab_size {
        return Err(SlmError::Tokenizer(format!(
            "tokenizer.json has {} tokens, the model only {}; they do not belong together",
            tokenizer.vocabulary(),
            meta.config.vocab_size
        )));
    }
    Ok(())
}
