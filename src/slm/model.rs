//! An SLM ready to vote: tokenizer, engine and what the packed file says of it.

use super::cpu::{CpuEncoder, CpuEngine};
use super::pack::{self, PackedMeta, PackedSlm};
use super::tokenize::Tokenizer;
use super::{Batch, Engine, SlmError, plan_batches, probabilities};
use crate::sample::Vote;
use crate::vote::argmax;

/// Tokens that go through the engine together: enough to keep its panels in use, little enough to stay in the cache.
const TOKENS: usize = 2048;

/// A small language model that votes.
pub struct Slm {
    meta: PackedMeta,
    version: String,
    tokenizer: Tokenizer,
    engine: CpuEngine,
}

impl Slm {
    /// Loads a packed SLM (see [`pack`]) with its `tokenizer.json` on the CPU engine. `threads` are those of the engine;
    /// in wasm it is always one.
    pub fn load(packed: &[u8], tokenizer_json: &[u8], threads: usize) -> Result<Self, SlmError> {
        let version = pack::version(packed);
        let PackedSlm { meta, weights, head } = PackedSlm::read(packed, "the packed SLM")?;
        let tokenizer = Tokenizer::from_json(tokenizer_json, meta.max_length)?;
        if tokenizer.vocabulary() > meta.config.vocab_size {
            return Err(SlmError::Tokenizer(format!(
                "tokenizer.json has {} tokens, the model only {}; they do not belong together",
                tokenizer.vocabulary(),
                meta.config.vocab_size
            )));
        }
        let engine = CpuEngine::from_encoder(CpuEncoder::from_weights(weights).threads(threads), head);
        Ok(Self { meta, version, tokenizer, engine })
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
    pub fn tokenize(&self, text: &str) -> Result<super::tokenize::Encoded, SlmError> {
        self.tokenizer.encode(text)
    }

    /// Raw logits `[texts x labels]`, row by row in the order of the texts.
    pub fn logits(&mut self, texts: &[&str]) -> Result<Vec<f32>, SlmError> {
        Ok(self.run(texts)?.0)
    }

    /// Raw logits `[texts x labels]` of texts that are token ids already, special ones included.
    pub fn logits_of_tokens(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        self.engine.logits(batch)
    }

    /// One vote a text, in the order of the texts. A text's vote does not depend on the others.
    pub fn vote(&mut self, texts: &[&str]) -> Result<Vec<Vote>, SlmError> {
        let (mut values, truncated) = self.run(texts)?;
        let labels = self.meta.labels.len();
        probabilities(&mut values, labels, self.meta.temperature);
        Ok(values.chunks_exact(labels).zip(truncated).map(|(row, truncated)| self.as_vote(row, truncated)).collect())
    }

    fn run(&mut self, texts: &[&str]) -> Result<(Vec<f32>, Vec<bool>), SlmError> {
        let encoded = texts.iter().map(|text| self.tokenizer.encode(text)).collect::<Result<Vec<_>, _>>()?;
        let lengths: Vec<usize> = encoded.iter().map(|text| text.ids.len()).collect();
        let labels = self.meta.labels.len();
        let mut values = vec![0.0; texts.len() * labels];
        for group in plan_batches(&lengths, TOKENS, usize::MAX) {
            let batch = Batch::new(group.iter().map(|text| encoded[*text].ids.as_slice()));
            let rows = self.engine.logits(&batch)?;
            for (text, row) in group.iter().zip(rows.chunks_exact(labels)) {
                values[text * labels..][..labels].copy_from_slice(row);
            }
        }
        Ok((values, encoded.into_iter().map(|text| text.truncated).collect()))
    }

    fn as_vote(&self, probabilities: &[f32], truncated: bool) -> Vote {
        Vote {
            slm: self.meta.id.clone(),
            version: self.version.clone(),
            engine: self.engine.name().to_owned(),
            precision: self.engine.precision().to_owned(),
            label: self.meta.labels[argmax(probabilities)].clone(),
            probabilities: probabilities.to_vec(),
            truncated,
        }
    }
}
