//! One small language model in a worker.

use super::{TaskRecord, from_js, thrown, to_js};
#[cfg(feature = "gpu-burn")]
use crate::slm::burn;
use crate::slm::cpu::Isa;
#[cfg(feature = "gpu")]
use crate::slm::gpu::GpuOptions;
use crate::slm::model::States;
use crate::slm::pack::Unpacker;
use crate::slm::tokenize::Tokenizer;
use crate::slm::{Batch, Scoring, SlmError, model};
use crate::vote::{Ballot, LabelMap};
use std::cell::RefCell;
use std::sync::{Arc, Weak};
use wasm_bindgen::prelude::*;

/// Loads an SLM from its packed file's bytes as they arrive, without a second copy of the whole.
#[wasm_bindgen]
pub struct SlmLoader {
    version: String,
    unpacker: Unpacker,
    /// Whether it is to take texts: the first part of an SLM, or all of it.
    takes_texts: bool,
    isa: Option<Isa>,
}

#[wasm_bindgen]
impl SlmLoader {
    /// Starts; `version` is what the manifest says, whose hashes the bytes were checked against. `deterministic`: with the
    /// kernels that give the same bits in every runtime, also where the build has faster ones.
    #[wasm_bindgen(constructor)]
    pub fn new(version: String, deterministic: Option<bool>) -> Self {
        let isa = deterministic.unwrap_or_default().then_some(Isa::Simd128);
        Self { version, unpacker: Unpacker::new("the packed SLM"), takes_texts: true, isa }
    }

    /// Keeps the layers `from` to `to` (exclusive) alone: a part of an SLM, for `begin`, `advance` and `voteFrom`. Before
    /// the first `push`.
    pub fn layers(&mut self, from: usize, to: usize) {
        self.unpacker.layers(from..to);
        self.takes_texts = from == 0;
    }

    /// Takes the packed file's next bytes, a piece of any size.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), JsValue> {
        self.unpacker.push(bytes).map_err(thrown)
    }

    /// The SLM, with its `tokenizer.json`, once all bytes were pushed. The loader is used up.
    pub fn finish(self, tokenizer: &[u8]) -> Result<Slm, JsValue> {
        let packed = self.unpacker.finish().map_err(thrown)?;
        let tokenizer =
            self.takes_texts.then(|| shared(tokenizer, packed.meta.max_length)).transpose().map_err(thrown)?;
        // One thread: a module without shared memory has no more.
        let slm = model::Slm::with_tokenizer(packed, self.version, tokenizer, 1, self.isa);
        Ok(Slm { inner: slm.map_err(thrown)? })
    }

    /// As `finish`, on a GPU. Where that fails the error's code is `slm-no-gpu` or `slm-gpu`, and the CPU will do.
    #[cfg(feature = "gpu")]
    #[wasm_bindgen(js_name = finishOn)]
    pub async fn finish_on(self, gpu: &Gpu, tokenizer: Vec<u8>) -> Result<Slm, JsValue> {
        let packed = self.unpacker.finish().map_err(thrown)?;
        let tokenizer = shared(&tokenizer, packed.meta.max_length).map_err(thrown)?;
        let slm = model::Slm::on_gpu(packed, self.version, tokenizer, &gpu.inner, now).await;
        Ok(Slm { inner: slm.map_err(thrown)? })
    }

    /// As `finish`, on burn-wgpu, of weights in f16 or f32.
    #[cfg(feature = "gpu-burn")]
    #[wasm_bindgen(js_name = finishOnBurn)]
    pub async fn finish_on_burn(self, tokenizer: Vec<u8>) -> Result<Slm, JsValue> {
        let packed = self.unpacker.finish().map_err(thrown)?;
        let tokenizer = shared(&tokenizer, packed.meta.max_length).map_err(thrown)?;
        let device = burn::device(burn::Backend::Wgpu(None)).await.map_err(thrown)?;
        Ok(Slm { inner: model::Slm::on_burn(packed, self.version, tokenizer, &device).map_err(thrown)? })
    }
}

/// A tokenizer in use, with what it was read from.
struct InUse {
    json: Vec<u8>,
    max_length: usize,
    tokenizer: Weak<Tokenizer>,
}

thread_local! {
    static TOKENIZERS: RefCell<Vec<InUse>> = const { RefCell::new(Vec::new()) };
}

/// The tokenizer of a `tokenizer.json`: another SLM's, if one has the same.
fn shared(json: &[u8], max_length: usize) -> Result<Arc<Tokenizer>, SlmError> {
    TOKENIZERS.with_borrow_mut(|all| {
        all.retain(|one| one.tokenizer.strong_count() > 0);
        let same = all.iter().find(|one| one.max_length == max_length && one.json == json);
        if let Some(tokenizer) = same.and_then(|one| one.tokenizer.upgrade()) {
            return Ok(tokenizer);
        }
        let tokenizer = Arc::new(Tokenizer::from_json(json, max_length)?);
        all.push(InUse { json: json.to_vec(), max_length, tokenizer: Arc::downgrade(&tokenizer) });
        Ok(tokenizer)
    })
}

#[cfg(feature = "gpu")]
#[wasm_bindgen]
extern "C" {
    /// Milliseconds, in pages and workers.
    #[wasm_bindgen(js_namespace = performance)]
    fn now() -> f64;
}

/// A GPU that SLMs share.
#[cfg(feature = "gpu")]
#[wasm_bindgen]
pub struct Gpu {
    inner: crate::slm::gpu::Gpu,
}

#[cfg(feature = "gpu")]
#[wasm_bindgen]
impl Gpu {
    /// Asks the browser for a GPU; `software`: one that computes on the CPU will do. There is none: the error's code is
    /// `slm-no-gpu`.
    pub async fn request(software: bool) -> Result<Self, JsValue> {
        Ok(Self { inner: crate::slm::gpu::Gpu::request(GpuOptions { software }).await.map_err(thrown)? })
    }

    /// The adapter in words.
    #[wasm_bindgen(getter)]
    pub fn name(&self) -> String {
        self.inner.describe()
    }

    /// Gives the device up, as a driver's reset would.
    pub fn destroy(&self) {
        self.inner.destroy();
    }
}

/// One small language model: its tokenizer and weights, and what it runs on.
#[wasm_bindgen]
pub struct Slm {
    inner: model::Slm,
}

#[wasm_bindgen]
impl Slm {
    /// Loads the packed file, its shards joined, and its `tokenizer.json`. Both are copied; see `SlmLoader` for less.
    pub fn load(packed: &[u8], tokenizer: &[u8]) -> Result<Self, JsValue> {
        // One thread: a module without shared memory has no more.
        Ok(Self { inner: model::Slm::load(packed, tokenizer, 1).map_err(thrown)? })
    }

    /// Its id, such as `sentiment-minilm-l3`.
    #[wasm_bindgen(getter)]
    pub fn id(&self) -> String {
        self.inner.meta().id.clone()
    }

    /// The version of its weights.
    #[wasm_bindgen(getter)]
    pub fn version(&self) -> String {
        self.inner.version().to_owned()
    }

    /// The task it was trained for.
    #[wasm_bindgen(getter)]
    pub fn task(&self) -> String {
        self.inner.meta().task.clone()
    }

    /// The labels that it was packed with, in the order of the probabilities before `voteOn`.
    #[wasm_bindgen(getter)]
    pub fn labels(&self) -> Vec<String> {
        self.inner.meta().labels.clone()
    }

    /// Makes its votes those of a task, by a spec's `label_map` for it, or by the names and aliases of the labels. Where they
    /// do not fit the error's code is `slm-labels`.
    #[wasm_bindgen(js_name = voteOn, unchecked_return_type = "Uncovered")]
    pub fn vote_on(
        &mut self,
        #[wasm_bindgen(unchecked_param_type = "Task")] task: JsValue,
        #[wasm_bindgen(unchecked_optional_param_type = "LabelMap")] map: JsValue,
    ) -> Result<JsValue, JsValue> {
        let task = from_js::<TaskRecord>(task, "task")?.into_task().map_err(thrown)?;
        let map: Option<LabelMap> = from_js(map, "map")?;
        to_js(self.inner.vote_on(&task, map.as_ref()).map_err(thrown)?)
    }

    /// The longest text in tokens, special ones included; what is longer is cut and flagged.
    #[wasm_bindgen(getter, js_name = maxLength)]
    pub fn max_length(&self) -> usize {
        self.inner.meta().max_length
    }

    /// `cpu`, `gpu` or `burn`.
    #[wasm_bindgen(getter)]
    pub fn engine(&self) -> String {
        self.inner.engine().to_owned()
    }

    /// One vote a text, in order. One call at a time: it throws while another is under way.
    #[wasm_bindgen(unchecked_return_type = "Vote[]")]
    pub async fn vote(&mut self, texts: Vec<String>) -> Result<JsValue, JsValue> {
        to_js(&self.inner.vote(&views(&texts)).await.map_err(thrown)?)
    }

    /// What the first part of an SLM makes of texts, as bytes for the next one.
    pub fn begin(&mut self, texts: Vec<String>) -> Result<Vec<u8>, JsValue> {
        Ok(self.inner.begin(&views(&texts)).map_err(thrown)?.to_bytes())
    }

    /// What a middle part makes of that, for the next one.
    pub fn advance(&mut self, states: &[u8]) -> Result<Vec<u8>, JsValue> {
        let states = States::from_bytes(states).map_err(thrown)?;
        Ok(self.inner.go_on(states).map_err(thrown)?.to_bytes())
    }

    /// The votes, by the last part: as `vote` of the whole SLM, to the bit.
    #[wasm_bindgen(js_name = voteFrom, unchecked_return_type = "Vote[]")]
    pub fn vote_from(&mut self, states: &[u8]) -> Result<JsValue, JsValue> {
        let states = States::from_bytes(states).map_err(thrown)?;
        to_js(&self.inner.vote_from(&states).map_err(thrown)?)
    }

    /// Raw logits before the temperature, texts x labels: to hold this build against another.
    pub async fn logits(&mut self, texts: Vec<String>) -> Result<Vec<f32>, JsValue> {
        self.inner.logits(&views(&texts)).await.map_err(thrown)
    }

    /// Raw logits, texts x labels, of texts that are token ids already: all ids end to end, and the number of each text's.
    #[wasm_bindgen(js_name = logitsOfTokens)]
    pub async fn logits_of_tokens(&mut self, ids: Vec<u32>, lengths: Vec<u32>) -> Result<Vec<f32>, JsValue> {
        self.inner.logits_of_tokens(&batch(ids, &lengths)).await.map_err(thrown)
    }

    /// Pooled states, texts x hidden, of texts that are token ids already; see `logitsOfTokens`.
    #[wasm_bindgen(js_name = pooledOfTokens)]
    pub async fn pooled_of_tokens(&mut self, ids: Vec<u32>, lengths: Vec<u32>) -> Result<Vec<f32>, JsValue> {
        self.inner.pooled_of_tokens(&batch(ids, &lengths)).await.map_err(thrown)
    }

    /// The token ids of a text, special ones included: to hold this tokenizer against another.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, JsValue> {
        Ok(self.inner.tokenize(text).map_err(thrown)?.ids)
    }
}

/// Throws, with the code `slm-labels`, where a model with these labels cannot vote on the task without a `label_map`.
#[wasm_bindgen(js_name = checkLabels)]
pub fn check_labels(
    #[wasm_bindgen(unchecked_param_type = "Task")] task: JsValue,
    id: String,
    labels: Vec<String>,
) -> Result<(), JsValue> {
    let task = from_js::<TaskRecord>(task, "task")?.into_task().map_err(thrown)?;
    let ballot = Ballot::new(&task.labels, &labels, Scoring::Softmax, None);
    ballot.map(drop).map_err(|error| thrown(SlmError::Labels { id, error }))
}

fn batch(ids: Vec<u32>, lengths: &[u32]) -> Batch {
    Batch { ids, lengths: lengths.iter().map(|length| *length as usize).collect() }
}

fn views(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}
