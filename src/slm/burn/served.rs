//! Encoders that this module serves and does not train: DeBERTa (arXiv 2006.03654, 2111.09543) and ModernBERT
//! (arXiv 2412.13663). The texts of a batch are of one length, so that nothing is padded.

use super::{Padded, activate, ids_tensor};
use crate::slm::config::{Disentangled, EncoderConfig, Rotary, disentangled_row};
use crate::slm::weights::{self, Dense, EncoderWeights, Head, LayerWeights, Linear, Pooling};
use burn::tensor::activation::softmax;
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Int, Tensor, TensorData};

/// `x W + b`.
#[derive(Debug)]
struct Map {
    weight: Tensor<2>,
    bias: Tensor<1>,
}

impl Map {
    fn new(linear: &Linear, device: &Device) -> Self {
        let (inputs, outputs) = (linear.inputs, linear.outputs);
        let column = |input: usize| (0..outputs).map(move |output| linear.weight[output * inputs + input]);
        let values: Vec<f32> = (0..inputs).flat_map(column).collect();
        Self { weight: tensor([inputs, outputs], &values, device), bias: tensor([outputs], &linear.bias, device) }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.clone()) + self.bias.clone().unsqueeze::<2>()
    }
}

#[derive(Debug)]
struct Norm {
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
}

impl Norm {
    fn new(norm: &weights::Norm, config: &EncoderConfig, device: &Device) -> Self {
        let epsilon = f64::from(config.layer_norm_eps);
        let [gamma, beta] = [&norm.gamma, &norm.beta].map(|values| tensor([values.len()], values, device));
        Self { gamma, beta, epsilon }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        layer_norm(x, self.gamma.clone(), Some(self.beta.clone()), self.epsilon)
    }
}

fn tensor<const D: usize>(shape: [usize; D], values: &[f32], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// A layer of either kind.
#[derive(Debug)]
struct Layer {
    query: Map,
    key: Map,
    value: Map,
    output: Map,
    up: Map,
    down: Map,
    attention_norm: Norm,
    output_norm: Norm,
    /// ModernBERT's.
    gate: Option<Map>,
    /// DeBERTa's keys and queries of the relative positions, `[1 x heads x 2 span x size]`.
    positions: [Option<Tensor<4>>; 2],
}

impl Layer {
    fn new(weights: &EncoderWeights, index: usize, layer: &LayerWeights, device: &Device) -> Self {
        let config = &weights.config;
        let map = |linear: &Linear| Map::new(linear, device);
        Self {
            query: map(&layer.query),
            key: map(&layer.key),
            value: map(&layer.value),
            output: map(&layer.output),
            up: map(&layer.up),
            down: map(&layer.down),
            attention_norm: Norm::new(&layer.attention_norm, config, device),
            output_norm: Norm::new(&layer.output_norm, config, device),
            gate: weights.extras.gates.get(index).map(map),
            positions: match &config.disentangled {
                Some(kind) => relative(weights, kind, index, layer, device),
                None => [None, None],
            },
        }
    }
}

/// DeBERTa's keys and queries of the relative positions, where content and positions attend to each other.
fn relative(
    weights: &EncoderWeights,
    kind: &Disentangled,
    index: usize,
    layer: &LayerWeights,
    device: &Device,
) -> [Option<Tensor<4>>; 2] {
    let (hidden, heads) = (weights.config.hidden_size, weights.config.num_attention_heads);
    let rows = 2 * kind.span;
    let table = tensor([rows, hidden], &weights.extras.relative, device);
    let through = |map: Option<&Linear>| {
        let mapped = Map::new(map?, device).forward(table.clone());
        Some(mapped.reshape([1, rows, heads, hidden / heads]).swap_dims(1, 2))
    };
    let own = [&weights.extras.relative_keys, &weights.extras.relative_queries].map(|maps| maps.get(index));
    let [key, query] = if kind.shared { [Some(&layer.key), Some(&layer.query)] } else { own };
    [through(key.filter(|_| kind.content_to_position)), through(query.filter(|_| kind.position_to_content))]
}

/// An encoder with its head.
#[derive(Debug)]
pub(super) struct Served {
    pub config: EncoderConfig,
    words: Tensor<2>,
    positions: Option<Tensor<2>>,
    token_type: Option<Tensor<1>>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    /// A matrix `[hidden x hidden]` for each place of the convolution, its bias and its norm.
    convolution: Option<(Vec<Tensor<2>>, Tensor<1>, Norm)>,
    final_norm: Option<Norm>,
    pooling: Pooling,
    dense: Option<(Map, Dense, Option<Norm>)>,
    head: Map,
}

/// What attention needs to know of the texts of a batch.
struct Shape {
    texts: usize,
    length: usize,
    heads: usize,
}

impl Shape {
    /// Rows of tokens as heads of texts, `[texts x heads x length x size]`.
    fn split(&self, x: Tensor<2>) -> Tensor<4> {
        let [_, hidden] = x.dims();
        x.reshape([self.texts, self.length, self.heads, hidden / self.heads]).swap_dims(1, 2)
    }

    fn join(&self, x: Tensor<4>) -> Tensor<2> {
        let [texts, heads, length, size] = x.dims();
        x.swap_dims(1, 2).reshape([texts * length, heads * size])
    }
}

impl Served {
    pub(super) fn new(weights: &EncoderWeights, head: &Head, device: &Device) -> Self {
        let config = &weights.config;
        let (width, extras) = (config.hidden_size, &weights.extras);
        let norm = |norm| Norm::new(norm, config, device);
        let layers = weights.layers.iter().enumerate();
        let table = |values: &[f32]| tensor([values.len() / width, width], values, device);
        Self {
            words: table(&weights.words),
            positions: (!weights.positions.is_empty()).then(|| table(&weights.positions)),
            token_type: weights.token_types.get(..width).map(|values| tensor([width], values, device)),
            embedding_norm: norm(&weights.embedding_norm),
            layers: layers.map(|(index, layer)| Layer::new(weights, index, layer, device)).collect(),
            convolution: extras.convolution.as_ref().map(|(map, own)| {
                let size = map.inputs / width.max(1);
                let at = |place: usize| {
                    let row = |input| (0..width).map(move |output| map.weight[(output * width + input) * size + place]);
                    tensor([width, width], &(0..width).flat_map(row).collect::<Vec<f32>>(), device)
                };
                ((0..size).map(at).collect(), tensor([width], &map.bias, device), norm(own))
            }),
            final_norm: extras.final_norm.as_ref().map(norm),
            pooling: head.pooling,
            dense: head
                .dense
                .as_ref()
                .map(|dense| (Map::new(&dense.linear, device), dense.clone(), dense.norm.as_ref().map(norm))),
            head: Map::new(&head.linear, device),
            config: config.clone(),
        }
    }

    /// Logits `[texts x labels]` from pooled states.
    pub(super) fn logits(&self, pooled: Tensor<2>) -> Tensor<2> {
        let Some((map, dense, norm)) = &self.dense else { return self.head.forward(pooled) };
        let x = activate(dense.activation, map.forward(pooled));
        self.head.forward(norm.iter().fold(x, |x, norm| norm.forward(x)))
    }

    /// Pooled states `[texts x hidden]` of texts of one length.
    pub(super) fn pooled(&self, ids: &[u32], padded: &Padded) -> Tensor<2> {
        let shape = Shape { texts: padded.texts, length: padded.length, heads: self.config.num_attention_heads };
        let x = self.embed(ids, &shape);
        let x = match &self.config.rotary {
            Some(rotary) => self.modern(x, rotary, &shape),
            None => self.disentangled(x, &shape),
        };
        let states = x.reshape([shape.texts, shape.length, self.config.hidden_size]);
        match self.pooling {
            Pooling::Cls => states.narrow(1, 0, 1),
            Pooling::Mean => states.mean_dim(1),
        }
        .reshape([shape.texts, self.config.hidden_size])
    }

    fn embed(&self, ids: &[u32], shape: &Shape) -> Tensor<2> {
        let device = self.words.device();
        let mut x = self.words.clone().select(0, ids_tensor(ids, &device));
        if let Some(table) = &self.positions {
            let positions: Vec<u32> = (0..shape.texts).flat_map(|_| 0..shape.length as u32).collect();
            x = x + table.clone().select(0, ids_tensor(&positions, &device));
        }
        if let Some(token_type) = &self.token_type {
            x = x + token_type.clone().unsqueeze::<2>();
        }
        self.embedding_norm.forward(x)
    }

    fn disentangled(&self, embedded: Tensor<2>, shape: &Shape) -> Tensor<2> {
        let Some(kind) = &self.config.disentangled else { return embedded };
        let length = shape.length as i64;
        let row = |query: i64, key: i64| disentangled_row(kind, query - key) as u32;
        let by_query: Vec<u32> =
            (0..length).flat_map(|query| (0..length).map(move |key| (query, key))).map(|(q, k)| row(q, k)).collect();
        let by_key: Vec<u32> =
            (0..length).flat_map(|key| (0..length).map(move |query| (query, key))).map(|(q, k)| row(q, k)).collect();
        let device = embedded.device();
        let index = |rows: &[u32]| {
            let square = ids_tensor(rows, &device).reshape([1, 1, shape.length, shape.length]);
            square.repeat(&[shape.texts, shape.heads, 1, 1])
        };
        let (by_query, by_key) = (index(&by_query), index(&by_key));
        let mut x = embedded.clone();
        for (number, layer) in self.layers.iter().enumerate() {
            let attention = attend_disentangled(layer, x.clone(), shape, &by_query, &by_key);
            x = layer.attention_norm.forward(x + attention);
            let inner = activate(self.config.activation, layer.up.forward(x.clone()));
            x = layer.output_norm.forward(x + layer.down.forward(inner));
            if number == 0
                && let Some((places, bias, norm)) = &self.convolution
            {
                let out = convolve(&embedded, places, shape) + bias.clone().unsqueeze::<2>();
                x = norm.forward(x + activate(kind.convolution_activation, out));
            }
        }
        x
    }

    fn modern(&self, mut x: Tensor<2>, rotary: &Rotary, shape: &Shape) -> Tensor<2> {
        let device = x.device();
        let size = self.config.head_size();
        let angles = |theta: f32| Angles::new(theta, shape.length, size, &device);
        let (global, local) = (angles(rotary.global_theta), angles(rotary.local_theta));
        let window = near(rotary.window, shape.length, &device);
        for (number, layer) in self.layers.iter().enumerate() {
            let is_global = number.is_multiple_of(rotary.global_every);
            let (angles, window) = if is_global { (&global, None) } else { (&local, Some(window.clone())) };
            // The embeddings' norm stands before the first layer already.
            let normed = if number == 0 { x.clone() } else { layer.attention_norm.forward(x.clone()) };
            x = x + attend_rotary(layer, normed, shape, angles, window);
            let normed = layer.output_norm.forward(x.clone());
            let mut inner = activate(self.config.activation, layer.up.forward(normed.clone()));
            if let Some(gate) = &layer.gate {
                inner = inner * gate.forward(normed);
            }
            x = x + layer.down.forward(inner);
        }
        self.final_norm.iter().fold(x, |x, norm| norm.forward(x))
    }
}

/// Attention of content to content, of content to positions, and of positions to content.
fn attend_disentangled(
    layer: &Layer,
    x: Tensor<2>,
    shape: &Shape,
    by_query: &Tensor<4, Int>,
    by_key: &Tensor<4, Int>,
) -> Tensor<2> {
    let query = shape.split(layer.query.forward(x.clone()));
    let key = shape.split(layer.key.forward(x.clone()));
    let value = shape.split(layer.value.forward(x));
    let [.., size] = query.dims();
    let mut scores = query.clone().matmul(key.clone().swap_dims(2, 3));
    let [keys, queries] = &layer.positions;
    let wide = |positions: &Tensor<4>| positions.clone().swap_dims(2, 3).repeat(&[shape.texts, 1, 1, 1]);
    if let Some(keys) = keys {
        scores = scores + query.matmul(wide(keys)).gather(3, by_query.clone());
    }
    if let Some(queries) = queries {
        scores = scores + key.matmul(wide(queries)).gather(3, by_key.clone()).swap_dims(2, 3);
    }
    let kinds = 1 + layer.positions.iter().flatten().count();
    let weights = softmax(scores * (1.0 / ((size * kinds) as f64).sqrt()), 3);
    layer.output.forward(shape.join(weights.matmul(value)))
}

/// Cosines and sines of the angles by which queries and keys are turned, `[1 x 1 x length x size]`.
struct Angles {
    cosine: Tensor<4>,
    sine: Tensor<4>,
}

impl Angles {
    fn new(theta: f32, length: usize, size: usize, device: &Device) -> Self {
        let half = size / 2;
        let speeds: Vec<f32> = (0..half).map(|i| 1.0 / theta.powf((2 * i) as f32 / size as f32)).collect();
        let of = |f: fn(f32) -> f32| {
            let row = |position: usize| speeds.iter().chain(&speeds).map(move |speed| f(position as f32 * speed));
            tensor([1, 1, length, size], &(0..length).flat_map(row).collect::<Vec<f32>>(), device)
        };
        Self { cosine: of(f32::cos), sine: of(f32::sin) }
    }

    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let [.., size] = x.dims();
        let (low, high) = (x.clone().narrow(3, 0, size / 2), x.clone().narrow(3, size / 2, size / 2));
        x * self.cosine.clone() + Tensor::cat(vec![high.neg(), low], 3) * self.sine.clone()
    }
}

/// Minus a billion where a key is farther than the window from its query.
fn near(window: usize, length: usize, device: &Device) -> Tensor<4> {
    let far = |(query, key): (usize, usize)| if query.abs_diff(key) > window { -1e9 } else { 0.0 };
    let pairs = (0..length).flat_map(|query| (0..length).map(move |key| (query, key)));
    tensor([1, 1, length, length], &pairs.map(far).collect::<Vec<f32>>(), device)
}

fn attend_rotary(layer: &Layer, x: Tensor<2>, shape: &Shape, angles: &Angles, window: Option<Tensor<4>>) -> Tensor<2> {
    let query = angles.turn(shape.split(layer.query.forward(x.clone())));
    let key = angles.turn(shape.split(layer.key.forward(x.clone())));
    let value = shape.split(layer.value.forward(x));
    let [.., size] = query.dims();
    let scores = query.matmul(key.swap_dims(2, 3)) * (1.0 / (size as f64).sqrt());
    let scores = window.into_iter().fold(scores, |scores, window| scores + window);
    layer.output.forward(shape.join(softmax(scores, 3).matmul(value)))
}

/// The convolution of texts' states along their tokens, zeros beyond their ends, without its bias.
fn convolve(x: &Tensor<2>, places: &[Tensor<2>], shape: &Shape) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let states = x.clone().reshape([shape.texts, shape.length, width]);
    let middle = places.len() / 2;
    let mut sum = Tensor::<2>::zeros([tokens, width], &x.device());
    for (place, weight) in places.iter().enumerate() {
        let shift = place.abs_diff(middle);
        if shift >= shape.length {
            continue;
        }
        let zeros = Tensor::<3>::zeros([shape.texts, shift, width], &x.device());
        let kept = shape.length - shift;
        let shifted = match place < middle {
            _ if shift == 0 => states.clone(),
            true => Tensor::cat(vec![zeros, states.clone().narrow(1, 0, kept)], 1),
            false => Tensor::cat(vec![states.clone().narrow(1, shift, kept), zeros], 1),
        };
        sum = sum + shifted.reshape([tokens, width]).matmul(weight.clone());
    }
    sum
}
