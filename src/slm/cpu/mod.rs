//! The CPU engine: an encoder on our own kernels, in f32 or int8, natively and in wasm.
//!
//! The tokens of a batch lie end to end without padding. A batch is cut into groups of whole texts; a group goes through
//! all layers on one thread, so threads never wait for each other, and what a text gives depends neither on their number
//! nor on the other texts, bit for bit. Rows of activations are padded with zeros to a panel's width.

#[cfg(feature = "native")]
pub mod backward;
mod dot;
mod int8;
mod kernels;
mod positions;
mod simd;

use super::config::{Activation, Disentangled, EncoderConfig, relative_position_bucket};
use super::quant::{ACTIVATION_ZERO, GROUP as INT8_GROUP, Int8Matrix, ROTATION, ROTATION_SCALE};
use super::weights::{Dense, EncoderWeights, Extras, Head, LayerWeights, Linear, Norm, Pooling};
use super::{Batch, Engine, SlmError, finite};
use int8::{Int8Panels, Int8Product, Int8Rows, Layout, Quantize};
pub(super) use kernels::gelu_of as gelu;
use kernels::{Epilogue, Kernels, LayerNorm, Panels, Product, Softmax};
use positions::{Distances, Positions, Relative, Turns};

/// The most tokens of a group, where its first text is not longer.
const GROUP: usize = 256;

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// Plain f32, on any machine; the same bits as `Simd128`.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX2, FMA and AVX-VNNI.
    AvxVnni,
    /// x86-64 with AVX-512F and BW.
    Avx512,
    /// x86-64 with AVX-512F, BW and VNNI.
    Avx512Vnni,
    /// AArch64's NEON.
    Neon,
    /// AArch64 with NEON and its dot products.
    NeonDot,
    /// WebAssembly SIMD, not relaxed.
    Simd128,
    /// WebAssembly SIMD with the relaxed instructions.
    Relaxed,
}

impl Isa {
    /// What this machine has, the slowest first; never empty.
    pub fn available() -> Vec<Self> {
        let all = [
            Self::Scalar,
            Self::Avx2,
            Self::AvxVnni,
            Self::Avx512,
            Self::Avx512Vnni,
            Self::Neon,
            Self::NeonDot,
            Self::Simd128,
            Self::Relaxed,
        ];
        all.into_iter().filter(|isa| isa.kernels().is_some()).collect()
    }

    /// The kernels of the fastest one.
    fn best() -> &'static Kernels {
        Self::available().into_iter().rev().find_map(Self::kernels).unwrap_or(&kernels::SCALAR)
    }

    /// The kernels, where the machine can run them.
    fn kernels(self) -> Option<&'static Kernels> {
        match self {
            Self::Scalar => Some(&kernels::SCALAR),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(&kernels::AVX2)
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => {
                (is_x86_feature_detected!("avxvnni") && Self::Avx2.kernels().is_some()).then_some(&kernels::AVX_VNNI)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => (is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && Self::Avx2.kernels().is_some())
            .then_some(&kernels::AVX512),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => (is_x86_feature_detected!("avx512vnni") && Self::Avx512.kernels().is_some())
                .then_some(&kernels::AVX512_VNNI),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => Some(&kernels::NEON),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod").then_some(&kernels::NEON_DOT),
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Self::Simd128 => Some(&kernels::SIMD128),
            #[cfg(all(target_arch = "wasm32", target_feature = "relaxed-simd"))]
            Self::Relaxed => Some(&kernels::RELAXED),
            #[allow(unreachable_patterns, reason = "on other targets")]
            _ => None,
        }
    }
}

/// How many threads to use where nothing is said: rayon's number natively (`RAYON_NUM_THREADS`), one in wasm.
fn default_threads() -> usize {
    #[cfg(feature = "native")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "native"))]
    1
}

/// A buffer whose part in use begins at a cache line.
struct Aligned<T> {
    values: Vec<T>,
    start: usize,
}

impl<T: Copy> Aligned<T> {
    fn new(value: T, len: usize) -> Self {
        let line = 64 / size_of::<T>();
        let values = vec![value; len + line];
        let start = values.as_ptr().align_offset(64).min(line);
        Self { values, start }
    }

    fn get(&self) -> &[T] {
        &self.values[self.start..]
    }

    fn get_mut(&mut self) -> &mut [T] {
        &mut self.values[self.start..]
    }
}

/// Linear maps of the same inputs, packed as one.
struct Packed {
    weights: PackedWeights,
    bias: Vec<f32>,
    inputs: usize,
    panels: usize,
}

enum PackedWeights {
    F32(Aligned<f32>),
    Int8 { bytes: Aligned<u8>, multipliers: Vec<f32> },
}

/// The large matrices of an encoder, as the engine takes them.
trait Matrix: Sized {
    /// Packs maps of the same inputs, and of the same multipliers, one after the other.
    fn pack(maps: &[&Linear<Self>], inputs: usize, panels: usize, kernels: &Kernels) -> PackedWeights;

    /// The table of word embeddings.
    fn words(self) -> Words;

    /// The map in f32.
    fn plain(map: &Linear<Self>) -> Linear;
}

/// The word embeddings.
enum Words {
    F32(Vec<f32>),
    Int8(Int8Matrix),
}

impl Words {
    fn is_empty(&self) -> bool {
        match self {
            Self::F32(values) => values.is_empty(),
            Self::Int8(matrix) => matrix.values.is_empty(),
        }
    }
}

impl Matrix for Vec<f32> {
    fn pack(maps: &[&Linear], inputs: usize, panels: usize, kernels: &Kernels) -> PackedWeights {
        let panel = kernels.panel;
        let mut values = Aligned::new(0.0, panels * inputs * panel);
        let target = values.get_mut();
        let rows = maps.iter().flat_map(|map| map.weight.chunks_exact(inputs));
        for (output, row) in rows.enumerate() {
            let at = (output / panel) * inputs * panel + output % panel;
            for (input, weight) in row.iter().enumerate() {
                target[at + input * panel] = *weight;
            }
        }
        PackedWeights::F32(values)
    }

    fn words(self) -> Words {
        Words::F32(self)
    }

    fn plain(map: &Linear) -> Linear {
        map.clone()
    }
}

impl Matrix for Int8Matrix {
    fn pack(maps: &[&Linear<Self>], inputs: usize, panels: usize, kernels: &Kernels) -> PackedWeights {
        let (panel, groups) = (kernels.panel, inputs.div_ceil(INT8_GROUP));
        let layout = Layout::new(panel, inputs);
        let mut bytes = Aligned::new(0u8, panels * layout.size());
        let target = bytes.get_mut();
        let rows = maps.iter().flat_map(|map| map.weight.values.chunks_exact(inputs));
        let scales = maps.iter().flat_map(|map| map.weight.scales.chunks_exact(groups));
        for (output, (row, scales)) in rows.zip(scales).enumerate() {
            pack_row(row, scales, &layout, kernels, output % panel, &mut target[output / panel * layout.size()..]);
        }
        let mut multipliers = maps[0].weight.multipliers.clone();
        multipliers.resize(inputs, 1.0);
        multipliers[..inputs / ROTATION * ROTATION].iter_mut().for_each(|m| *m *= ROTATION_SCALE);
        multipliers.resize(inputs.next_multiple_of(panel), 0.0);
        PackedWeights::Int8 { bytes, multipliers }
    }

    fn words(self) -> Words {
        Words::Int8(self)
    }

    fn plain(map: &Linear<Self>) -> Linear {
        let Linear { weight, bias, outputs, inputs } = map;
        Linear { weight: weight.plain(*inputs), bias: bias.clone(), outputs: *outputs, inputs: *inputs }
    }
}

/// Packs a row of int8 weights as column `column` of a panel. A function of its own, because engines of wasm make a loop faster
/// only from the next call on.
#[inline(never)]
fn pack_row(row: &[i8], scales: &[f32], layout: &Layout, kernels: &Kernels, column: usize, panel: &mut [u8]) {
    // Two and two inputs stand together.
    let [first, second] = [0, 2].map(|input| (kernels.place)(column, input));
    for (group, (scale, weights)) in scales.iter().zip(row.chunks(INT8_GROUP)).enumerate() {
        let blocks = panel[layout.block(group * INT8_GROUP)..].chunks_exact_mut(4 * layout.columns);
        for (block, weights) in blocks.zip(weights.chunks(4)) {
            let mut four = [0; 4];
            four[..weights.len()].copy_from_slice(weights);
            let [a, b, c, d] = four.map(i8::cast_unsigned);
            block[first..first + 2].copy_from_slice(&[a, b]);
            block[second..second + 2].copy_from_slice(&[c, d]);
        }
        let sum: i32 = weights.iter().map(|weight| i32::from(*weight)).sum();
        let start = -i32::from(ACTIVATION_ZERO) * sum;
        panel[layout.starts(group) + 4 * column..][..4].copy_from_slice(&start.to_ne_bytes());
        panel[layout.scales(group) + 4 * column..][..4].copy_from_slice(&scale.to_ne_bytes());
    }
}

impl Packed {
    fn new<M: Matrix>(maps: &[&Linear<M>], kernels: &Kernels) -> Self {
        let (inputs, outputs) = (maps[0].inputs, maps.iter().map(|map| map.outputs).sum::<usize>());
        let panels = outputs.div_ceil(kernels.panel);
        let mut bias: Vec<f32> = maps.iter().flat_map(|map| &map.bias).copied().collect();
        bias.resize(panels * kernels.panel, 0.0);
        Self { weights: M::pack(maps, inputs, panels, kernels), bias, inputs, panels }
    }
}

/// One layer, packed.
struct Layer {
    qkv: Packed,
    output: Packed,
    up: Packed,
    down: Packed,
    attention_norm: Norm,
    output_norm: Norm,
    /// ModernBERT's.
    gate: Option<Packed>,
    /// DeBERTa's.
    positions: Option<Positions>,
}

impl Layer {
    fn new<M: Matrix>(
        layer: &LayerWeights<M>,
        index: usize,
        (config, extras): (&EncoderConfig, &Extras<M>),
        kernels: &Kernels,
    ) -> Self {
        let positions = |kind: &Disentangled| {
            let relative = |used: bool, shared: &Linear<M>, own: &[Linear]| {
                let own = if kind.shared { None } else { own.get(index) };
                let make = |map: &Linear| Relative::new(&extras.relative, map, config.num_attention_heads, kernels);
                used.then(|| own.map_or_else(|| make(&M::plain(shared)), make))
            };
            Positions {
                keys: relative(kind.content_to_position, &layer.key, &extras.relative_keys),
                queries: relative(kind.position_to_content, &layer.query, &extras.relative_queries),
            }
        };
        Self {
            positions: config.disentangled.as_ref().map(positions),
            gate: extras.gates.get(index).map(|gate| Packed::new(&[gate], kernels)),
            qkv: Packed::new(&[&layer.query, &layer.key, &layer.value], kernels),
            output: Packed::new(&[&layer.output], kernels),
            up: Packed::new(&[&layer.up], kernels),
            down: Packed::new(&[&layer.down], kernels),
            attention_norm: layer.attention_norm.clone(),
            output_norm: layer.output_norm.clone(),
        }
    }
}

/// Everything that stays the same from batch to batch.
struct Model {
    config: EncoderConfig,
    kernels: &'static Kernels,
    words: Words,
    positions: Vec<f32>,
    /// The embedding of token type 0, which all tokens have; empty where there is none.
    token_type: Vec<f32>,
    embedding_norm: Norm,
    /// From the embeddings' width to the hidden size.
    projection: Option<Packed>,
    layers: Vec<Layer>,
    /// The layers' order: ALBERT's are used several times.
    order: Vec<usize>,
    /// MPNet's bias: for each head, by distance (key - query), distance 0 in the middle; none for others.
    distances: Vec<Vec<f32>>,
    /// DeBERTa's.
    relative: Option<Distances>,
    /// The convolution beside DeBERTa's first layer: a map for each of its places, and the norm after it.
    convolution: Option<(Vec<Packed>, Norm)>,
    /// ModernBERT's.
    turns: Option<Turns>,
    /// After ModernBERT's last layer.
    final_norm: Option<Norm>,
}

/// The buffers of one thread; they grow to the largest group.
#[derive(Default)]
struct Scratch {
    embedded: Vec<f32>,
    normed: Vec<f32>,
    gated: Vec<f32>,
    relative: Vec<f32>,
    x: Vec<f32>,
    qkv: Vec<f32>,
    context: Vec<f32>,
    y: Vec<f32>,
    inner: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    mixed: Vec<f32>,
    quantized: Int8Rows,
}

/// What goes into the first layer: token ids, or hidden states `[tokens x hidden]`.
#[derive(Clone, Copy)]
enum Input<'a> {
    Ids(&'a [u32]),
    Hidden(&'a [f32]),
}

impl<'a> Input<'a> {
    /// The first tokens and the others.
    fn split(self, tokens: usize, hidden: usize) -> (Self, Self) {
        match self {
            Self::Ids(ids) => (Self::Ids(&ids[..tokens]), Self::Ids(&ids[tokens..])),
            Self::Hidden(states) => {
                let (first, others) = states.split_at(tokens * hidden);
                (Self::Hidden(first), Self::Hidden(others))
            }
        }
    }
}

/// Whole texts that go through the layers together, and where their hidden states go.
struct Group<'a> {
    input: Input<'a>,
    tokens: usize,
    lengths: &'a [usize],
    out: &'a mut [f32],
}

/// An encoder with packed weights.
pub struct CpuEncoder {
    model: Model,
    scratch: Vec<Scratch>,
}

impl CpuEncoder {
    /// Packs the weights for the best instruction set of this machine. `weights` stay as they are; see
    /// [`Self::from_weights`] where they are not needed afterwards.
    pub fn new(weights: &EncoderWeights) -> Self {
        Self::with_isa(weights, None)
    }

    /// As [`Self::new`], for a certain instruction set; where the machine lacks it, or for none, for the best one.
    pub fn with_isa(weights: &EncoderWeights, isa: Option<Isa>) -> Self {
        Self::pack(shell(weights, weights.words.clone()), isa, weights.layers.iter())
    }

    /// The first `layers` layers with the embeddings, in int8; the embeddings alone in f32.
    #[cfg(feature = "native")]
    pub fn lower(weights: &EncoderWeights, layers: usize) -> Self {
        let shell = shell(weights, weights.words.clone());
        match layers {
            0 => Self::from_weights(shell, None),
            _ => {
                let layers = quantized(&weights.layers[..layers.min(weights.layers.len())]);
                Self::from_int8(shell.quantized(layers, Vec::new()), None)
            }
        }
    }

    /// The layers from `first` on in int8, without embeddings: for [`Self::hidden_from`] alone.
    #[cfg(feature = "native")]
    pub fn upper(weights: &EncoderWeights, first: usize) -> Self {
        let layers = quantized(weights.layers.get(first..).unwrap_or_default());
        Self::from_int8(shell(weights, Vec::new()).quantized(layers, Vec::new()), None)
    }

    /// Packs int8 weights layer after layer, as [`Self::from_weights`]; activations are quantised row by row.
    pub fn from_int8(mut weights: EncoderWeights<Int8Matrix>, isa: Option<Isa>) -> Self {
        let layers = std::mem::take(&mut weights.layers);
        Self::pack(weights, isa, layers.into_iter())
    }

    /// Packs layer after layer and frees each as soon as it is packed, so that memory holds the weights about once.
    pub fn from_weights(mut weights: EncoderWeights, isa: Option<Isa>) -> Self {
        let layers = std::mem::take(&mut weights.layers);
        Self::pack(weights, isa, layers.into_iter())
    }

    fn pack<M: Matrix, L: std::borrow::Borrow<LayerWeights<M>>>(
        weights: EncoderWeights<M>,
        isa: Option<Isa>,
        layers: impl Iterator<Item = L>,
    ) -> Self {
        let kernels = isa.and_then(Isa::kernels).unwrap_or_else(Isa::best);
        let EncoderWeights { config, words, positions, mut token_types, embedding_norm, relative_bias, extras, .. } =
            weights;
        token_types.truncate(config.embedding_width());
        let pack = |(index, layer): (usize, L)| Layer::new(layer.borrow(), index, (&config, &extras), kernels);
        let layers: Vec<Layer> = layers.enumerate().map(pack).collect();
        let model = Model {
            distances: distances(&config, &relative_bias, kernels.panel),
            relative: config.disentangled.as_ref().map(|kind| Distances::new(kind, config.max_length())),
            convolution: extras.convolution.map(|(map, norm)| (places(&map, kernels), norm)),
            turns: config.rotary.as_ref().map(|rotary| Turns::new(rotary, &config, kernels.panel)),
            final_norm: extras.final_norm,
            projection: extras.projection.map(|map| Packed::new(&[&map], kernels)),
            order: match config.layer_groups {
                Some(groups) if groups == layers.len() => {
                    (0..config.num_hidden_layers).map(|layer| config.weights_of(layer)).collect()
                }
                _ => (0..layers.len()).collect(),
            },
            layers,
            token_type: token_types,
            config,
            kernels,
            words: words.words(),
            positions,
            embedding_norm,
        };
        Self { model, scratch: Vec::new() }.threads(default_threads())
    }

    /// Sets the number of threads, at least 1; in wasm it is always 1.
    pub fn threads(mut self, threads: usize) -> Self {
        let threads = if cfg!(target_arch = "wasm32") { 1 } else { threads.max(1) };
        self.scratch.resize_with(threads, Scratch::default);
        self
    }

    /// `int8` or `f32`.
    pub fn precision(&self) -> &'static str {
        match self.model.words {
            Words::F32(_) => "f32",
            Words::Int8(_) => "int8",
        }
    }

    /// The encoder's shape.
    pub fn config(&self) -> &EncoderConfig {
        &self.model.config
    }

    /// The hidden states `[tokens x hidden]` after the first `layers` layers; 0 are the embeddings after their LayerNorm.
    /// Token ids or lengths that the model cannot take, or more layers than it has, are an error.
    pub fn hidden(&mut self, batch: &Batch, layers: usize) -> Result<Vec<f32>, SlmError> {
        let Self { model, scratch } = self;
        batch.check(model.config.vocab_size, model.config.max_length())?;
        if model.words.is_empty() {
            return Err(SlmError::Input(
                "these are upper layers alone: they take hidden states, not tokens".to_owned(),
            ));
        }
        if layers > model.order.len() {
            let has = model.order.len();
            return Err(SlmError::Input(format!("{layers} layers were asked for, the model has {has}")));
        }
        let mut out = vec![0.0; batch.ids.len() * model.config.hidden_size];
        let groups = groups(Input::Ids(&batch.ids), &batch.lengths, &mut out, scratch.len());
        run(groups, scratch, |group, scratch| model.encode(group, layers, scratch));
        Ok(out)
    }

    /// The number of its layers, which may be but a part of the model's.
    pub fn layers(&self) -> usize {
        self.model.order.len()
    }

    /// The hidden states after all layers, for an encoder of upper layers alone: from those that go into its first one, of
    /// texts of these lengths.
    pub fn hidden_from(&mut self, states: &[f32], lengths: &[usize]) -> Result<Vec<f32>, SlmError> {
        let Self { model, scratch } = self;
        let taken = 1..=model.config.max_length();
        let fits = lengths.iter().all(|length| taken.contains(length));
        if !fits || lengths.iter().sum::<usize>() * model.config.hidden_size != states.len() {
            return Err(SlmError::Input("the hidden states do not fit the lengths".to_owned()));
        }
        let mut out = vec![0.0; states.len()];
        let groups = groups(Input::Hidden(states), lengths, &mut out, scratch.len());
        run(groups, scratch, |group, scratch| model.encode(group, model.order.len(), scratch));
        Ok(out)
    }
}

/// The maps of a convolution's places, of which the middle one has the bias.
fn places(map: &Linear, kernels: &Kernels) -> Vec<Packed> {
    let (outputs, size) = (map.outputs, map.inputs / map.outputs.max(1));
    let at = |place: usize| {
        let weight: Vec<f32> = map.weight.iter().skip(place).step_by(size.max(1)).copied().collect();
        let bias = if place == size / 2 { map.bias.clone() } else { vec![0.0; outputs] };
        Packed::new(&[&Linear { weight, bias, outputs, inputs: outputs }], kernels)
    };
    (0..size).map(at).collect()
}

/// What an encoder is packed from, without its layers.
fn shell(weights: &EncoderWeights, words: Vec<f32>) -> EncoderWeights {
    EncoderWeights {
        config: weights.config.clone(),
        words,
        positions: weights.positions.clone(),
        token_types: weights.token_types.clone(),
        embedding_norm: weights.embedding_norm.clone(),
        layers: Vec::new(),
        relative_bias: weights.relative_bias.clone(),
        extras: weights.extras.clone(),
    }
}

#[cfg(feature = "native")]
fn quantized(layers: &[LayerWeights]) -> Vec<LayerWeights<Int8Matrix>> {
    use rayon::prelude::*;
    layers.par_iter().map(LayerWeights::quantize).collect()
}

/// What goes into the linear maps of a layer, `[tokens x inputs]` each.
#[cfg(feature = "native")]
pub(crate) struct LayerInputs {
    /// Into query, key and value.
    pub qkv: Vec<f32>,
    /// Into the attention's output.
    pub output: Vec<f32>,
    /// Into the feed-forward part's first map.
    pub up: Vec<f32>,
    /// Into its second.
    pub down: Vec<f32>,
}

#[cfg(feature = "native")]
impl CpuEncoder {
    /// Runs a batch on one thread and hands over, layer after layer, the number of its weights and what goes into its
    /// linear maps.
    pub(crate) fn layer_inputs(
        &mut self,
        batch: &Batch,
        mut each: impl FnMut(usize, LayerInputs),
    ) -> Result<(), SlmError> {
        let Self { model, scratch } = self;
        batch.check(model.config.vocab_size, model.config.max_length())?;
        let Some(scratch) = scratch.first_mut() else { return Ok(()) };
        let (tokens, hidden, inner) = (batch.ids.len(), model.config.hidden_size, model.config.intermediate_size);
        let mut out = vec![0.0; tokens * hidden];
        let group = Group { input: Input::Ids(&batch.ids), tokens, lengths: &batch.lengths, out: &mut out };
        model.encode(group, 0, scratch);
        let rows = |buffer: &[f32], width: usize| -> Vec<f32> {
            buffer.chunks_exact(model.stride(width)).take(tokens).flat_map(|row| &row[..width]).copied().collect()
        };
        for (number, index) in model.order.iter().enumerate() {
            let mut qkv = rows(&scratch.x, hidden);
            model.layer(number, &model.layers[*index], &batch.lengths, tokens, scratch);
            let output = rows(&scratch.context, hidden);
            let up = match &model.turns {
                None => rows(&scratch.y, hidden),
                Some(_) => {
                    let norm = &model.layers[*index].attention_norm;
                    let states = qkv.chunks_exact_mut(hidden).filter(|_| number > 0);
                    states.for_each(|row| norm.apply(row, model.config.layer_norm_eps));
                    rows(&scratch.normed, hidden)
                }
            };
            each(*index, LayerInputs { qkv, output, up, down: rows(&scratch.inner, inner) });
        }
        Ok(())
    }
}

/// `a b^T` for `a` of rows of `inner` values and `b` of `columns` such rows, on the best kernels and all threads; rows of
/// the result are `columns` long.
#[cfg(feature = "native")]
pub(crate) fn times_transposed(a: &[f32], b: &[f32], columns: usize, inner: usize) -> Vec<f32> {
    use rayon::prelude::*;
    const ROWS: usize = 96;
    let kernels = Isa::best();
    let panels = columns.div_ceil(kernels.panel);
    let map = Linear { weight: b.to_vec(), bias: vec![0.0; columns], outputs: columns, inputs: inner };
    let PackedWeights::F32(values) = Matrix::pack(&[&map], inner, panels, kernels) else { return Vec::new() };
    let stride = panels * kernels.panel;
    let mut out = vec![0.0; a.len() / inner * columns];
    out.par_chunks_mut(ROWS * columns).zip(a.par_chunks(ROWS * inner)).for_each(|(out, a)| {
        let rows = a.len() / inner;
        let b = Panels { values: values.get(), bias: &[], inputs: inner, count: panels };
        let job = Product { a, stride_a: inner, rows, b, residual: &[], epilogue: Epilogue::Plain };
        let mut c = vec![0.0; rows * stride];
        // SAFETY: `Isa::kernels` gives only kernels that the machine can run; they check their slices.
        unsafe { (kernels.product)(&job, &mut c) };
        for (out, c) in out.chunks_exact_mut(columns).zip(c.chunks_exact(stride)) {
            out.copy_from_slice(&c[..columns]);
        }
    });
    out
}

/// Cuts checked texts into groups of whole ones, of a thread's share of the tokens or [`GROUP`].
fn groups<'a>(
    mut input: Input<'a>,
    mut lengths: &'a [usize],
    mut out: &'a mut [f32],
    threads: usize,
) -> Vec<Group<'a>> {
    let all: usize = lengths.iter().sum();
    let hidden = out.len().checked_div(all).unwrap_or(0);
    let limit = all.div_ceil(threads).min(GROUP);
    let mut groups = Vec::new();
    while !lengths.is_empty() {
        let (mut texts, mut tokens) = (1, lengths[0]);
        while texts < lengths.len() && tokens + lengths[texts] <= limit {
            tokens += lengths[texts];
            texts += 1;
        }
        let (out_here, out_rest) = out.split_at_mut(tokens * hidden);
        let (input_here, input_rest) = input.split(tokens, hidden);
        groups.push(Group { input: input_here, tokens, lengths: &lengths[..texts], out: out_here });
        (input, lengths, out) = (input_rest, &lengths[texts..], out_rest);
    }
    groups
}

/// Works the groups off on as many threads as there are scratches.
fn run<'a>(groups: Vec<Group<'a>>, scratch: &mut [Scratch], work: impl Fn(Group<'a>, &mut Scratch) + Sync) {
    if scratch.len() < 2 || groups.len() < 2 {
        if let Some(scratch) = scratch.first_mut() {
            groups.into_iter().for_each(|group| work(group, scratch));
        }
        return;
    }
    let queue = std::sync::Mutex::new(groups.into_iter());
    // A poisoned queue means that another thread panicked, and the scope panics anyway.
    let next = || queue.lock().ok().and_then(|mut groups| groups.next());
    std::thread::scope(|scope| {
        for scratch in scratch {
            scope.spawn(|| {
                while let Some(group) = next() {
                    work(group, scratch);
                }
            });
        }
    });
}

/// The relative position bias by head and distance, `2 * max_length - 1` values and a panel of zeros behind them; empty for
/// BERT.
pub(super) fn distances(config: &EncoderConfig, bias: &[f32], panel: usize) -> Vec<Vec<f32>> {
    if bias.is_empty() {
        return Vec::new();
    }
    let (heads, reach) = (config.num_attention_heads, config.max_length() as i64);
    let buckets: Vec<usize> = (1 - reach..reach)
        .map(|distance| relative_position_bucket(distance, config.relative_attention_num_buckets))
        .collect();
    let head = |head| {
        let values = buckets.iter().map(|bucket| bias[bucket * heads + head]);
        values.chain(std::iter::repeat_n(0.0, panel)).collect()
    };
    (0..heads).map(head).collect()
}

/// A head's attention scores to weights, in place: `tokens` rows of `stride`; `bias` is added to them by distance.
fn softmax(
    kernels: &Kernels,
    config: &EncoderConfig,
    bias: &[f32],
    (tokens, stride): (usize, usize),
    scores: &mut [f32],
) {
    let scale = config.attention_scale();
    let job = Softmax { stride, tokens, scale, bias, center: config.max_length() - 1 };
    // SAFETY: `Isa::kernels` gives only kernels that the machine can run; they check their slices.
    unsafe { (kernels.softmax)(&job, scores) }
}

/// The first `len` values of a buffer that grows as needed. What it holds is left over from before.
fn part(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl Model {
    /// The width of a row of activations in memory.
    fn stride(&self, width: usize) -> usize {
        width.next_multiple_of(self.kernels.panel)
    }

    fn encode(&self, group: Group<'_>, layers: usize, scratch: &mut Scratch) {
        let (tokens, hidden) = (group.tokens, self.config.hidden_size);
        let stride = self.stride(hidden);
        let x = part(&mut scratch.x, tokens * stride);
        match group.input {
            Input::Ids(ids) => match &self.projection {
                None => self.embed(ids, group.lengths, x),
                Some(projection) => {
                    let stride = self.stride(self.config.embedding_width());
                    let embedded = part(&mut scratch.embedded, tokens * stride);
                    self.embed(ids, group.lengths, embedded);
                    self.multiply(embedded, stride, projection, &[], Epilogue::Plain, &mut scratch.quantized, x);
                }
            },
            Input::Hidden(states) => {
                for (row, state) in x.chunks_exact_mut(stride).zip(states.chunks_exact(hidden)) {
                    row[..hidden].copy_from_slice(state);
                    row[hidden..].fill(0.0);
                }
            }
        }
        if self.convolution.is_some() {
            part(&mut scratch.embedded, tokens * stride).copy_from_slice(&scratch.x[..tokens * stride]);
        }
        for (number, index) in self.order[..layers].iter().enumerate() {
            self.layer(number, &self.layers[*index], group.lengths, tokens, scratch);
        }
        if let Some(norm) = self.final_norm.as_ref().filter(|_| layers > 0 && layers == self.order.len()) {
            self.normalise(norm, &mut scratch.x[..tokens * stride]);
        }
        for (row, out) in scratch.x.chunks_exact(stride).zip(group.out.chunks_exact_mut(hidden)) {
            out.copy_from_slice(&row[..hidden]);
        }
    }

    /// The embeddings after their LayerNorm, as wide as they are.
    fn embed(&self, ids: &[u32], lengths: &[usize], x: &mut [f32]) {
        let hidden = self.config.embedding_width();
        let first = self.config.first_position();
        let positions = lengths.iter().flat_map(|length| first..first + length);
        for ((row, id), position) in x.chunks_exact_mut(self.stride(hidden)).zip(ids).zip(positions) {
            let (row, pad) = row.split_at_mut(hidden);
            pad.fill(0.0);
            match &self.words {
                Words::F32(words) => row.copy_from_slice(&words[*id as usize * hidden..][..hidden]),
                Words::Int8(words) => {
                    let scale = words.scales[*id as usize];
                    let values = &words.values[*id as usize * hidden..][..hidden];
                    row.iter_mut().zip(values).for_each(|(x, value)| *x = f32::from(*value) * scale);
                }
            }
            // Those whose positions are relative alone have no table.
            let position = self.positions.get(position * hidden..(position + 1) * hidden).unwrap_or_default();
            for other in [&self.token_type[..], position] {
                row.iter_mut().zip(other).for_each(|(x, y)| *x += y);
            }
        }
        self.normalise(&self.embedding_norm, x);
    }

    fn layer(&self, number: usize, layer: &Layer, lengths: &[usize], tokens: usize, scratch: &mut Scratch) {
        if let Some(turns) = &self.turns {
            return self.modern_layer(turns, number, layer, lengths, tokens, scratch);
        }
        let stride = self.stride(self.config.hidden_size);
        let Scratch { embedded, x, qkv, context, y, inner, keys, values, scores, mixed, relative, quantized, .. } =
            scratch;
        let x = part(x, tokens * stride);
        let y = part(y, tokens * stride);
        let qkv = part(qkv, tokens * layer.qkv.bias.len());
        let context = part(context, tokens * stride);
        let inner = part(inner, tokens * layer.up.bias.len());
        self.multiply(x, stride, &layer.qkv, &[], Epilogue::Plain, quantized, qkv);
        let mut first = 0;
        for length in lengths {
            let (from, to) = (first * layer.qkv.bias.len(), (first + length) * layer.qkv.bias.len());
            let context = &mut context[first * stride..(first + length) * stride];
            self.attend(layer, &[], &qkv[from..to], *length, context, [keys, values, scores, mixed, relative]);
            first += length;
        }
        self.multiply(context, stride, &layer.output, x, Epilogue::Plain, quantized, y);
        self.normalise(&layer.attention_norm, y);
        self.feed(layer, y, stride, quantized, inner);
        self.multiply(inner, layer.up.bias.len(), &layer.down, y, Epilogue::Plain, quantized, x);
        self.normalise(&layer.output_norm, x);
        if let Some((places, norm)) = self.convolution.as_ref().filter(|_| number == 0) {
            self.convolve(places, lengths, embedded, quantized, [y, context]);
            x.iter_mut().zip(y.iter()).for_each(|(x, y)| *x += y);
            self.normalise(norm, x);
        }
    }

    /// The activated convolution of texts' states along their tokens, zeros beyond their ends: from `states` to `y`.
    fn convolve(
        &self,
        places: &[Packed],
        lengths: &[usize],
        states: &[f32],
        quantized: &mut Int8Rows,
        [y, buffer]: [&mut [f32]; 2],
    ) {
        let (hidden, middle) = (self.config.hidden_size, places.len() / 2);
        let stride = self.stride(hidden);
        let activation = self.config.disentangled.as_ref().map(|kind| kind.convolution_activation).unwrap_or_default();
        y.fill(0.0);
        let mut first = 0;
        for length in lengths {
            for (place, map) in places.iter().enumerate() {
                let kept = length.saturating_sub(place.abs_diff(middle));
                let (from, to) = (place.saturating_sub(middle), middle.saturating_sub(place));
                if kept > 0 {
                    let a = &states[(first + from) * stride..][..kept * stride];
                    let c = &mut buffer[..kept * stride];
                    self.multiply(a, stride, map, &[], Epilogue::Plain, quantized, c);
                    y[(first + to) * stride..].iter_mut().zip(c.iter()).for_each(|(sum, value)| *sum += value);
                }
            }
            first += length;
        }
        for row in y.chunks_exact_mut(stride) {
            row[..hidden].iter_mut().for_each(|x| *x = activation.of(*x));
        }
    }

    /// A layer of ModernBERT: norms first, turned queries and keys, a gated feed-forward part.
    fn modern_layer(
        &self,
        turns: &Turns,
        number: usize,
        layer: &Layer,
        lengths: &[usize],
        tokens: usize,
        scratch: &mut Scratch,
    ) {
        let hidden = self.config.hidden_size;
        let (stride, wide, inner_stride) = (self.stride(hidden), layer.qkv.bias.len(), layer.up.bias.len());
        let Scratch {
            x, qkv, context, y, inner, keys, values, scores, mixed, relative, quantized, normed, gated, ..
        } = scratch;
        let x = part(x, tokens * stride);
        let y = part(y, tokens * stride);
        let normed = part(normed, tokens * stride);
        let qkv = part(qkv, tokens * wide);
        let context = part(context, tokens * stride);
        let inner = part(inner, tokens * inner_stride);
        let gated = part(gated, tokens * inner_stride);
        normed.copy_from_slice(x);
        // The embeddings' norm stands before the first layer already.
        if number > 0 {
            self.normalise(&layer.attention_norm, normed);
        }
        self.multiply(normed, stride, &layer.qkv, &[], Epilogue::Plain, quantized, qkv);
        turns.turn(number, lengths, qkv, (wide, hidden));
        let mut first = 0;
        for length in lengths {
            let rows = &qkv[first * wide..(first + length) * wide];
            let context = &mut context[first * stride..(first + length) * stride];
            let buffers = [&mut *keys, values, scores, mixed, relative];
            self.attend(layer, turns.window(number), rows, *length, context, buffers);
            first += length;
        }
        self.multiply(context, stride, &layer.output, x, Epilogue::Plain, quantized, y);
        normed.copy_from_slice(y);
        self.normalise(&layer.output_norm, normed);
        self.feed(layer, normed, stride, quantized, inner);
        if let Some(gate) = &layer.gate {
            self.multiply(normed, stride, gate, &[], Epilogue::Plain, quantized, gated);
            inner.iter_mut().zip(gated.iter()).for_each(|(value, gate)| *value *= gate);
        }
        self.multiply(inner, inner_stride, &layer.down, y, Epilogue::Plain, quantized, x);
    }

    /// The feed-forward part's first map with its activation.
    fn feed(&self, layer: &Layer, rows: &[f32], stride: usize, quantized: &mut Int8Rows, inner: &mut [f32]) {
        match self.config.activation {
            Activation::GeluTanh => {
                self.multiply(rows, stride, &layer.up, &[], Epilogue::Plain, quantized, inner);
                // SAFETY: as in `product`.
                unsafe { (self.kernels.gelu_tanh)(inner) }
            }
            _ => self.multiply(rows, stride, &layer.up, &[], Epilogue::Gelu, quantized, inner),
        }
    }

    /// Attention within one text: from the rows of `qkv` to those of `context`.
    /// `bias` is added to all heads' scores by distance.
    fn attend(
        &self,
        layer: &Layer,
        bias: &[f32],
        qkv: &[f32],
        tokens: usize,
        context: &mut [f32],
        buffers: [&mut Vec<f32>; 5],
    ) {
        let [keys, values, scores, mixed, relative] = buffers;
        let (hidden, size, panel) = (self.config.hidden_size, self.config.head_size(), self.kernels.panel);
        let (key_panels, value_panels) = (tokens.div_ceil(panel), size.div_ceil(panel));
        let (stride, score_stride, mixed_stride) = (qkv.len() / tokens, key_panels * panel, value_panels * panel);
        let keys = part(keys, key_panels * size * panel);
        let values = part(values, value_panels * tokens * panel);
        let scores = part(scores, tokens * score_stride);
        let mixed = part(mixed, tokens * mixed_stride);
        keys.fill(0.0);
        values.fill(0.0);
        for head in 0..self.config.num_attention_heads {
            let column = head * size;
            for (token, row) in qkv.chunks_exact(stride).enumerate() {
                let key = &mut keys[token / panel * size * panel + token % panel..];
                for (at, value) in row[hidden + column..][..size].iter().enumerate() {
                    key[at * panel] = *value;
                }
                for (index, part) in row[2 * hidden + column..][..size].chunks(panel).enumerate() {
                    values[(index * tokens + token) * panel..][..part.len()].copy_from_slice(part);
                }
            }
            let b = Panels { values: keys, bias: &[], inputs: size, count: key_panels };
            self.product(&qkv[column..], stride, tokens, b, scores);
            if let (Some(distances), Some(positions)) = (&self.relative, &layer.positions) {
                let (rows, shape) = ((qkv, stride, column, hidden), (tokens, score_stride));
                distances.add(positions, head, rows, shape, self.kernels, relative, scores);
            }
            let bias = self.distances.get(head).map_or(bias, |bias| bias);
            softmax(self.kernels, &self.config, bias, (tokens, score_stride), scores);
            let b = Panels { values, bias: &[], inputs: tokens, count: value_panels };
            self.product(scores, score_stride, tokens, b, mixed);
            let rows = context.chunks_exact_mut(context.len() / tokens);
            for (row, mixed) in rows.zip(mixed.chunks_exact(mixed_stride)) {
                row[column..column + size].copy_from_slice(&mixed[..size]);
            }
        }
    }

    fn product(&self, a: &[f32], stride_a: usize, rows: usize, b: Panels<'_>, c: &mut [f32]) {
        let job = Product { a, stride_a, rows, b, residual: &[], epilogue: Epilogue::Plain };
        // SAFETY: `Isa::kernels` gives only kernels that the machine can run; they check their slices.
        unsafe { (self.kernels.product)(&job, c) }
    }

    /// `c = epilogue(a W + bias)`, or with a residual added.
    #[allow(clippy::too_many_arguments, reason = "a product has that many operands")]
    fn multiply(
        &self,
        a: &[f32],
        stride_a: usize,
        w: &Packed,
        residual: &[f32],
        epilogue: Epilogue,
        quantized: &mut Int8Rows,
        c: &mut [f32],
    ) {
        let (rows, count) = (a.len() / stride_a, w.panels);
        match &w.weights {
            PackedWeights::F32(values) => {
                let b = Panels { values: values.get(), bias: &w.bias, inputs: w.inputs, count };
                let job = Product { a, stride_a, rows, b, residual, epilogue };
                // SAFETY: as in `product`.
                unsafe { (self.kernels.product)(&job, c) }
            }
            PackedWeights::Int8 { bytes, multipliers } => {
                let b = Int8Panels { bytes: bytes.get(), bias: &w.bias, inputs: w.inputs, count };
                let job = Quantize { x: a, stride: stride_a, inputs: w.inputs, multipliers };
                // SAFETY: as in `product`.
                unsafe { (self.kernels.quantize)(&job, quantized) };
                let job = Int8Product { a: quantized, rows, b, residual, epilogue };
                // SAFETY: as in `product`.
                unsafe { (self.kernels.int8_product)(&job, c) }
            }
        }
    }

    fn normalise(&self, norm: &Norm, x: &mut [f32]) {
        let Norm { gamma, beta } = norm;
        let width = gamma.len();
        let job = LayerNorm { stride: self.stride(width), width, gamma, beta, epsilon: self.config.layer_norm_eps };
        // SAFETY: as in `product`.
        unsafe { (self.kernels.layer_norm)(&job, x) }
    }
}

/// An encoder with its head: the [`Engine`] that serves.
pub struct CpuEngine {
    encoder: CpuEncoder,
    head: Head,
    /// The head's first map.
    dense: Option<Packed>,
}

impl CpuEngine {
    /// Packs the weights; see [`CpuEncoder::new`].
    pub fn new(weights: &EncoderWeights, head: Head) -> Self {
        Self::from_encoder(CpuEncoder::new(weights), head)
    }

    /// Puts a head on an encoder, which says the instruction set and the number of threads.
    pub fn from_encoder(encoder: CpuEncoder, head: Head) -> Self {
        let dense = head.dense.as_ref().map(|dense| Packed::new(&[&dense.linear], encoder.model.kernels));
        Self { encoder, head, dense }
    }

    /// See [`CpuEncoder::threads`].
    pub fn threads(self, threads: usize) -> Self {
        Self { encoder: self.encoder.threads(threads), ..self }
    }

    /// The encoder.
    pub fn encoder(&mut self) -> &mut CpuEncoder {
        &mut self.encoder
    }

    /// The pooled states, `[texts x hidden]`.
    pub fn pooled(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        let layers = self.encoder.config().num_hidden_layers;
        let hidden = self.encoder.hidden(batch, layers)?;
        Ok(self.pool_all(&hidden, &batch.lengths))
    }

    fn pool_all(&self, hidden: &[f32], lengths: &[usize]) -> Vec<f32> {
        let width = self.encoder.config().hidden_size;
        let mut rest = hidden;
        let mut pooled = Vec::with_capacity(lengths.len() * width);
        for length in lengths {
            let (text, others) = rest.split_at(length * width);
            pooled.extend(self.pool(text));
            rest = others;
        }
        pooled
    }

    /// Raw logits from the hidden states that go into an encoder of upper layers alone; see
    /// [`CpuEncoder::hidden_from`].
    pub fn logits_from(&mut self, states: &[f32], lengths: &[usize]) -> Result<Vec<f32>, SlmError> {
        let hidden = self.encoder.hidden_from(states, lengths)?;
        self.head_logits(&self.pool_all(&hidden, lengths))
    }

    /// What goes into the head's last map, from the pooled states.
    fn dense(&self, pooled: &[f32]) -> Option<Vec<f32>> {
        let (Some(map), Some(Dense { activation, norm, .. })) = (&self.dense, &self.head.dense) else { return None };
        let Model { config, kernels, .. } = &self.encoder.model;
        let hidden = config.hidden_size;
        let (rows, stride) = (pooled.len() / hidden, map.bias.len());
        let mut out = vec![0.0; rows * stride];
        if let PackedWeights::F32(values) = &map.weights {
            let b = Panels { values: values.get(), bias: &map.bias, inputs: hidden, count: map.panels };
            let job = Product { a: pooled, stride_a: hidden, rows, b, residual: &[], epilogue: Epilogue::Plain };
            // SAFETY: `Isa::kernels` gives only kernels that the machine can run; they check their slices.
            unsafe { (kernels.product)(&job, &mut out) }
        }
        let mut states = Vec::with_capacity(pooled.len());
        for row in out.chunks_exact(stride) {
            let from = states.len();
            states.extend(row[..hidden].iter().map(|x| activation.of(*x)));
            if let Some(norm) = norm {
                norm.apply(&mut states[from..], config.layer_norm_eps);
            }
        }
        Some(states)
    }

    fn head_logits(&self, pooled: &[f32]) -> Result<Vec<f32>, SlmError> {
        let dense = if pooled.is_empty() { None } else { self.dense(pooled) };
        let pooled = dense.as_deref().unwrap_or(pooled);
        let Linear { weight, bias, inputs, .. } = &self.head.linear;
        let mut logits = Vec::with_capacity(pooled.len() / inputs * bias.len());
        for pooled in pooled.chunks_exact(*inputs) {
            for (row, bias) in weight.chunks_exact(*inputs).zip(bias) {
                logits.push(row.iter().zip(pooled).fold(*bias, |sum, (w, x)| sum + w * x));
            }
        }
        finite(logits)
    }

    /// One text's pooled hidden state, from its tokens' ones.
    fn pool(&self, tokens: &[f32]) -> Vec<f32> {
        let hidden = self.encoder.config().hidden_size;
        let mut pooled = tokens[..hidden].to_vec();
        if self.head.pooling == Pooling::Mean {
            for row in tokens[hidden..].chunks_exact(hidden) {
                pooled.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
            }
            let count = (tokens.len() / hidden) as f32;
            pooled.iter_mut().for_each(|sum| *sum /= count);
        }
        pooled
    }
}

impl Engine for CpuEngine {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn precision(&self) -> &'static str {
        self.encoder.precision()
    }

    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, SlmError> {
        let pooled = self.pooled(batch)?;
        self.head_logits(&pooled)
    }
}
