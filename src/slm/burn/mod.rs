//! The encoder as a burn module: it trains adapters, and it is the oracle of the other engines. On burn's CPU backend, or
//! on burn-wgpu (feature `gpu-burn`).

mod layer;
mod served;

pub use layer::Trained;
use layer::{Attended, Layer, LowRank, Norm, Projection};
use served::Served;

#[cfg(feature = "native")]
use super::Engine;
use super::config::{Activation, Architecture, EncoderConfig, relative_position_bucket};
#[cfg(feature = "native")]
use super::cpu::backward::Parameters;
use super::weights::{EncoderWeights, Head, Pooling, linear_names, norm_names};
use super::{Batch, SlmError, finite};
use burn::module::{Module, Param};
#[cfg(feature = "native")]
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// What the module runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// burn's CPU backend.
    #[default]
    Cpu,
    /// burn-wgpu: on the discrete GPU of this number, or on the adapter that wgpu prefers.
    Wgpu(Option<usize>),
}

impl std::str::FromStr for Backend {
    type Err = String;

    /// `cpu`, `wgpu` or `wgpu:N`.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected cpu, wgpu or wgpu:N".to_owned();
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "wgpu" => Ok(Self::Wgpu(None)),
            Some(("wgpu", number)) => Ok(Self::Wgpu(Some(number.parse().map_err(|_| expected())?))),
            _ => Err(expected()),
        }
    }
}

/// The device of a backend, without a gradient tape. A backend that this build or machine lacks is an error.
pub async fn device(backend: Backend) -> Result<Device, SlmError> {
    match backend {
        #[cfg(feature = "burn")]
        Backend::Cpu => Ok(Device::flex()),
        #[cfg(feature = "gpu-burn")]
        Backend::Wgpu(number) => wgpu_device(number).await,
        #[allow(unreachable_patterns, reason = "with both features")]
        _ => Err(SlmError::NoGpu("this build has no such backend; build it with --features gpu-burn".to_owned())),
    }
}

/// The device, asked for once: a process has one of each number.
#[cfg(feature = "gpu-burn")]
async fn wgpu_device(number: Option<usize>) -> Result<Device, SlmError> {
    use burn::tensor::DeviceKind;
    use std::collections::HashMap;
    use std::sync::Mutex;
    static DEVICES: Mutex<Option<HashMap<Option<usize>, Device>>> = Mutex::new(None);
    let known = || DEVICES.lock().ok().and_then(|devices| devices.as_ref()?.get(&number).cloned());
    if let Some(device) = known() {
        return Ok(device);
    }
    let kind = number.map_or(DeviceKind::DefaultDevice, DeviceKind::DiscreteGpu);
    let made = Device::wgpu_options().device_kind(kind).init_async().await;
    let device = made.map_err(|error| SlmError::NoGpu(error.to_string()))?;
    if let Ok(mut devices) = DEVICES.lock() {
        devices.get_or_insert_default().insert(number, device.clone());
    }
    Ok(device)
}

/// What of a model is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Training {
    /// Nothing: the oracle.
    Nothing,
    /// Low-rank pairs on the linear maps of the layers given, with their norms and biases, and the head.
    Lora {
        /// Rank of a pair.
        rank: usize,
        /// Numerator of the scale.
        alpha: f32,
        /// Rank of the pair on the word embeddings; 0 for none, else from layer 0 upwards only.
        embedding_rank: usize,
        /// Seed of the pairs' start.
        seed: u64,
    },
    /// Every parameter of the layers given and the head; with all layers also the embeddings.
    Full,
}

impl Training {
    /// Whether the embeddings belong to the module.
    pub fn reaches_embeddings(self) -> bool {
        !matches!(self, Self::Lora { embedding_rank: 0, .. })
    }
}

#[derive(Module, Debug)]
struct Embeddings {
    words: Param<Tensor<2>>,
    positions: Param<Tensor<2>>,
    token_type: Option<Param<Tensor<1>>>,
    low_rank: Option<LowRank>,
    norm: Norm,
    projection: Option<Projection>,
}

/// The upper layers of an encoder with its head. The layers below are frozen: their output is this module's input.
#[derive(Module, Debug)]
pub struct Classifier {
    embeddings: Option<Embeddings>,
    layers: Vec<Layer>,
    relative_bias: Option<Param<Tensor<2>>>,
    dense: Option<Projection>,
    head: Projection,
    #[module(skip)]
    shape: Shape,
}

#[derive(Debug, Clone)]
struct Shape {
    config: EncoderConfig,
    first_layer: usize,
    pooling: Pooling,
    /// What follows the head's first map.
    head_activation: Activation,
}

/// Texts padded to one length.
pub struct Padded {
    /// 1 for a token, 0 for padding, `[texts x length]`.
    pub mask: Vec<f32>,
    /// The number of texts.
    pub texts: usize,
    /// Tokens a text, padding included.
    pub length: usize,
}

impl Padded {
    /// The shape and mask of texts of these lengths (in tokens), padded to the longest.
    pub fn new(lengths: &[usize]) -> Self {
        let length = lengths.iter().copied().max().unwrap_or(0);
        let mut mask = vec![0.0; lengths.len() * length];
        for (row, n) in mask.chunks_exact_mut(length.max(1)).zip(lengths) {
            row[..*n].fill(1.0);
        }
        Self { mask, texts: lengths.len(), length }
    }

    /// Spreads values that lie end to end, `width` a token, over the padded shape; padding is zero.
    pub fn spread<T: Copy + Default>(&self, lengths: &[usize], values: &[T], width: usize) -> Vec<T> {
        let mut padded = vec![T::default(); self.texts * self.length * width];
        let mut start = 0;
        for (row, n) in padded.chunks_exact_mut((self.length * width).max(1)).zip(lengths) {
            let end = start + n * width;
            row[..n * width].copy_from_slice(&values[start..end]);
            start = end;
        }
        padded
    }
}

impl Classifier {
    /// Builds the module from layer `first_layer` upwards. With `first_layer` 0 the embeddings are part of it
    /// ([`Self::forward_ids`]), unless low-rank pairs leave them as they are. `head` gives the head's start.
    /// `dropout`, in 0..1, is applied where BERT has it (attention weights and the output of both halves of a layer), on a
    /// device with a gradient tape only. For encoders of BERT's layers; what cannot be trained
    /// ([`EncoderConfig::untrainable`]), and a head of more than one map, are for [`Training::Nothing`] alone.
    pub fn new(
        weights: &EncoderWeights,
        head: &Head,
        first_layer: usize,
        training: Training,
        dropout: f64,
        device: &Device,
    ) -> Self {
        let config = &weights.config;
        let mut make = layer::Maker::new(device, training, dropout);
        let h = config.embedding_width();
        let with_embeddings = first_layer == 0 && training.reaches_embeddings();
        let embeddings = with_embeddings.then(|| Embeddings {
            words: make.full([config.vocab_size, h], &weights.words),
            positions: make.full([config.max_position_embeddings, h], &weights.positions),
            // It never trains: the positions can take up whatever it would learn.
            token_type: (!weights.token_types.is_empty()).then(|| make.fixed([h], &weights.token_types[..h])),
            low_rank: make.embedding_pair(config.vocab_size, h),
            norm: make.norm(&weights.embedding_norm, config.layer_norm_eps),
            projection: weights.extras.projection.as_ref().map(|map| make.map(map)),
        });
        let layers = weights.layers[first_layer..].iter().map(|layer| make.layer(layer, config)).collect();
        let buckets = [config.relative_attention_num_buckets, config.num_attention_heads];
        // All layers share it: with layers below that are frozen it has to stay.
        let relative_bias = (config.architecture == Architecture::Mpnet).then(|| match first_layer {
            0 => make.full(buckets, &weights.relative_bias),
            _ => make.fixed(buckets, &weights.relative_bias),
        });
        let head_projection = make.head(&head.linear);
        let dense = head.dense.as_ref().map(|dense| make.map(&dense.linear));
        let head_activation = head.dense.as_ref().map(|dense| dense.activation).unwrap_or_default();
        let shape = Shape { config: config.clone(), first_layer, pooling: head.pooling, head_activation };
        Self { embeddings, layers, relative_bias, dense, head: head_projection, shape }
    }

    /// Logits `[texts x labels]` from the hidden states `[texts x length x hidden]` that go into the first layer.
    pub fn forward(&self, hidden: Tensor<3>, padded: &Padded) -> Tensor<2> {
        self.logits(self.pooled(hidden, padded))
    }

    /// Logits `[texts x labels]` from pooled states.
    fn logits(&self, pooled: Tensor<2>) -> Tensor<2> {
        let dense = |map: &Projection| activate(self.shape.head_activation, map.forward(pooled.clone()));
        self.head.forward(self.dense.as_ref().map(dense).unwrap_or(pooled.clone()))
    }

    /// The pooled states `[texts x hidden]`, from the same.
    fn pooled(&self, hidden: Tensor<3>, padded: &Padded) -> Tensor<2> {
        let device = hidden.device();
        let [texts, length, width] = hidden.dims();
        let mask = Tensor::<2>::from_data(TensorData::new(padded.mask.clone(), [texts, length]), &device);
        let attended = Attended {
            texts,
            length,
            bias: self.attention_bias(&mask, length),
            heads: self.shape.config.num_attention_heads,
            activation: self.shape.config.activation,
        };
        let x = self.through_layers(hidden, &attended);
        match self.shape.pooling {
            Pooling::Cls => x.narrow(1, 0, 1).reshape([texts, width]),
            Pooling::Mean => {
                let count = mask.clone().sum_dim(1);
                let weights = (mask / count).reshape([texts, 1, length]);
                weights.matmul(x).reshape([texts, width])
            }
        }
    }

    fn through_layers(&self, hidden: Tensor<3>, attended: &Attended) -> Tensor<3> {
        let shape = hidden.dims();
        let mut x = hidden.reshape([shape[0] * shape[1], shape[2]]);
        let config = &self.shape.config;
        for index in 0..config.num_hidden_layers - self.shape.first_layer {
            // ALBERT's are used several times, and from the first on.
            let layer = if config.layer_groups.is_some() { config.weights_of(index) } else { index };
            x = self.layers[layer].forward(x, attended);
        }
        x.reshape(shape)
    }

    /// Logits from token ids, padded with any id; only for a module that holds the embeddings.
    pub fn forward_ids(&self, ids: &[u32], padded: &Padded) -> Result<Tensor<2>, SlmError> {
        Ok(self.forward(self.embed(ids, padded)?, padded))
    }

    /// The embeddings of padded token ids, `[texts x length x hidden]`.
    fn embed(&self, ids: &[u32], padded: &Padded) -> Result<Tensor<3>, SlmError> {
        let embeddings = self
            .embeddings
            .as_ref()
            .ok_or_else(|| SlmError::Input("this module starts above the embeddings".to_owned()))?;
        let device = embeddings.words.val().device();
        let config = &self.shape.config;
        let index = ids_tensor(ids, &device);
        let first = config.first_position() as u32;
        let positions: Vec<u32> =
            (0..padded.texts).flat_map(|_| (0..padded.length).map(|p| first + p as u32)).collect();
        let positions = ids_tensor(&positions, &device);
        let mut x = embeddings.words.val().select(0, index.clone()) + embeddings.positions.val().select(0, positions);
        if let Some(pair) = &embeddings.low_rank {
            x = x + pair.rows(index);
        }
        if let Some(token_type) = &embeddings.token_type {
            x = x + token_type.val().unsqueeze::<2>();
        }
        let x = embeddings.norm.forward(x);
        let x = embeddings.projection.iter().fold(x, |x, map| map.forward(x));
        Ok(x.reshape([padded.texts, padded.length, config.hidden_size]))
    }

    /// What is added to the attention scores: minus a billion at padding, and MPNet's relative position bias.
    fn attention_bias(&self, mask: &Tensor<2>, length: usize) -> Tensor<4> {
        let [texts, _] = mask.dims();
        let bias = ((mask.clone() - 1.0) * 1e9).reshape([texts, 1, 1, length]);
        let Some(table) = &self.relative_bias else { return bias };
        let config = &self.shape.config;
        let buckets: Vec<i32> = (0..length as i64)
            .flat_map(|query| (0..length as i64).map(move |key| key - query))
            .map(|relative| relative_position_bucket(relative, config.relative_attention_num_buckets) as i32)
            .collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(buckets, [length * length]), &mask.device());
        let relative = table.val().select(0, index).swap_dims(0, 1);
        bias + relative.reshape([1, config.num_attention_heads, length, length])
    }

    /// What training changes, under the names of the adapter file.
    pub fn trained(&self) -> Vec<Trained> {
        let config = &self.shape.config;
        let mut all = Vec::new();
        if let Some(embeddings) = &self.embeddings {
            all.extend(Trained::of("embeddings.word_embeddings.weight", &embeddings.words));
            all.extend(Trained::of("embeddings.position_embeddings.weight", &embeddings.positions));
            if let Some(pair) = &embeddings.low_rank {
                all.extend(pair.trained_rows("embeddings.word_embeddings"));
            }
            all.extend(embeddings.norm.trained("embeddings.LayerNorm"));
            all.extend(embeddings.projection.iter().flat_map(|map| map.trained("embeddings_project")));
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let index = index + self.shape.first_layer;
            all.extend(layer.trained(&linear_names(config, index), &norm_names(config, index)));
        }
        if let Some(table) = &self.relative_bias {
            all.extend(Trained::of("encoder.relative_attention_bias.weight", table));
        }
        all.extend(self.head.trained("head"));
        all
    }
}

#[cfg(feature = "native")]
impl Classifier {
    /// What trains, for the gradients on our own kernels; only for a module without embeddings.
    pub fn parameters(&self) -> Parameters {
        Parameters { layers: self.layers.iter().map(Layer::parameters).collect(), head: self.head.parameters() }
    }

    /// Such a gradient in the form that optimizers take.
    pub fn gradients(&self, gradient: Parameters) -> GradientsParams {
        let mut all = GradientsParams::new();
        for (layer, gradient) in self.layers.iter().zip(gradient.layers) {
            layer.register(gradient, &mut all);
        }
        self.head.register(gradient.head, &mut all);
        all
    }
}

/// The burn module as an engine: the oracle, and what serves on burn-wgpu what the GPU engine does not take.
pub struct BurnEngine {
    model: Model,
}

enum Model {
    Classifier(Box<Classifier>),
    Served(Box<Served>),
}

impl Model {
    fn config(&self) -> &EncoderConfig {
        match self {
            Self::Classifier(model) => &model.shape.config,
            Self::Served(model) => &model.config,
        }
    }

    /// Pooled states of texts of one length.
    fn pooled(&self, ids: &[u32], padded: &Padded) -> Result<Tensor<2>, SlmError> {
        match self {
            Self::Classifier(model) => Ok(model.pooled(model.embed(ids, padded)?, padded)),
            Self::Served(model) => Ok(model.pooled(ids, padded)),
        }
    }

    fn logits(&self, pooled: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Classifier(model) => model.logits(pooled),
            Self::Served(model) => model.logits(pooled),
        }
    }
}

impl BurnEngine {
    /// The whole encoder with its head on a device without a gradient tape: see [`device`].
    pub fn new(weights: &EncoderWeights, head: &Head, device: &Device) -> Self {
        let model = if weights.config.is_bert_like() {
            Model::Classifier(Box::new(Classifier::new(weights, head, 0, Training::Nothing, 0.0, device)))
        } else {
            Model::Served(Box::new(Served::new(weights, head, device)))
        };
        Self { model }
    }

    /// Raw logits, `[texts x labels]`.
    pub async fn logits_async(&self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        self.run(batch, |pooled| self.model.logits(pooled)).await
    }

    /// Pooled states, `[texts x hidden]`.
    pub async fn pooled_async(&self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        self.run(batch, |pooled| pooled).await
    }

    /// Texts beside each other go through together only if their lengths are equal: padding would let a text's neighbours
    /// into its sums.
    async fn run(&self, batch: &Batch, last: impl Fn(Tensor<2>) -> Tensor<2>) -> Result<Vec<f32>, SlmError> {
        let config = self.model.config();
        batch.check(config.vocab_size, config.max_length())?;
        let mut parts = Vec::new();
        let mut rest = batch.ids.as_slice();
        for lengths in batch.lengths.chunk_by(|one, other| one == other) {
            let (ids, others) = rest.split_at(lengths.iter().sum());
            parts.push(last(self.model.pooled(ids, &Padded::new(lengths))?));
            rest = others;
        }
        // Read once all are under way.
        let mut values = Vec::new();
        for part in parts {
            let data = part.into_data_async().await.map_err(|error| SlmError::Gpu(format!("{error:?}")))?;
            values.extend(data.try_into_vec::<f32>().map_err(|error| SlmError::Gpu(format!("{error:?}")))?);
        }
        finite(values)
    }
}

#[cfg(feature = "native")]
impl Engine for BurnEngine {
    fn name(&self) -> &'static str {
        "burn"
    }

    fn precision(&self) -> &'static str {
        "f32"
    }

    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        pollster::block_on(self.logits_async(batch))
    }
}

/// Token ids or rows of a table, as an index.
fn ids_tensor(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let count = ids.len();
    Tensor::from_data(TensorData::new(ids, [count]), device)
}

/// An activation.
fn activate<const D: usize>(activation: Activation, x: Tensor<D>) -> Tensor<D> {
    use burn::tensor::activation::{gelu, gelu_approximate, relu};
    match activation {
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_approximate(x),
        Activation::Tanh => x.tanh(),
        Activation::Relu => relu(x),
    }
}

/// A tensor's values.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec::<f32>().unwrap_or_default()
}
