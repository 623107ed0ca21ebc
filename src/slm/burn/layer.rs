//! One post-norm transformer layer, with low-rank pairs where they are trained.

use super::Training;
use crate::slm::config::{Activation, EncoderConfig};
#[cfg(feature = "native")]
use crate::slm::cpu::backward::{LayerParameters, Map, Pair};
use crate::slm::weights::{self, LayerWeights};
use burn::module::{Module, Param, ParamId};
use burn::nn::{Dropout, DropoutConfig};
#[cfg(feature = "native")]
use burn::optim::GradientsParams;
use burn::tensor::activation::softmax;
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A trained tensor under its name in the adapter file, in the hub's layout.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

impl Trained {
    /// The parameter as it stands; none where it does not train.
    pub(super) fn of<const D: usize>(name: &str, param: &Param<Tensor<D>>) -> Option<Self> {
        Self::tensor(name, param.val().is_require_grad().then(|| param.val()))
    }

    fn transposed(name: &str, param: &Param<Tensor<2>>) -> Option<Self> {
        Self::tensor(name, param.val().is_require_grad().then(|| param.val().transpose()))
    }

    fn tensor<const D: usize>(name: &str, tensor: Option<Tensor<D>>) -> Option<Self> {
        let tensor = tensor?;
        Some(Self { name: name.to_owned(), shape: tensor.dims().to_vec(), values: super::values(tensor) })
    }
}

/// `x W + b`, and `alpha / rank * (x A) B` where it is adapted. `W` is `[inputs x outputs]`.
#[derive(Module, Debug)]
pub(super) struct Projection {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
    low_rank: Option<LowRank>,
}

/// The pair is kept apart from the weight: the gradient of a merged weight would cost as much as the layer itself.
#[derive(Module, Debug)]
pub(super) struct LowRank {
    a: Param<Tensor<2>>,
    b: Param<Tensor<2>>,
    scale: f64,
}

impl LowRank {
    /// Rows of the pair's product, where `a` is `[rows x rank]` and `b` `[rank x width]`.
    pub(super) fn rows(&self, index: Tensor<1, Int>) -> Tensor<2> {
        self.a.val().select(0, index).matmul(self.b.val() * self.scale)
    }

    /// The pair of such a table: its rows are the adapter file's `lora_B`.
    pub(super) fn trained_rows(&self, name: &str) -> Vec<Trained> {
        let pair = [
            Trained::of(&format!("{name}.lora_A.weight"), &self.b),
            Trained::of(&format!("{name}.lora_B.weight"), &self.a),
        ];
        pair.into_iter().flatten().collect()
    }
}

impl Projection {
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = x.clone().matmul(self.weight.val()) + self.bias.val().unsqueeze::<2>();
        match &self.low_rank {
            None => y,
            Some(pair) => y + x.matmul(pair.a.val()).matmul(pair.b.val() * pair.scale),
        }
    }

    pub(super) fn trained(&self, name: &str) -> Vec<Trained> {
        let pair = self.low_rank.as_ref();
        [
            Trained::transposed(&format!("{name}.weight"), &self.weight),
            Trained::of(&format!("{name}.bias"), &self.bias),
            pair.and_then(|pair| Trained::transposed(&format!("{name}.lora_A.weight"), &pair.a)),
            pair.and_then(|pair| Trained::transposed(&format!("{name}.lora_B.weight"), &pair.b)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[cfg(feature = "native")]
impl Projection {
    /// What of it trains, for the CPU's own gradients.
    pub(super) fn parameters(&self) -> Map {
        let pair = self.low_rank.as_ref().map(|LowRank { a, b, scale }| Pair {
            a: super::values(a.val()),
            b: super::values(b.val()),
            scale: *scale as f32,
        });
        let trains = self.weight.val().is_require_grad();
        let weight = if trains { super::values(self.weight.val()) } else { Vec::new() };
        Map { weight, bias: super::values(self.bias.val()), pair }
    }

    /// Hands a gradient over to the optimizer.
    pub(super) fn register(&self, gradient: Map, all: &mut GradientsParams) {
        if !gradient.weight.is_empty() {
            register(&self.weight, gradient.weight, all);
        }
        register(&self.bias, gradient.bias, all);
        if let (Some(own), Some(pair)) = (&self.low_rank, gradient.pair) {
            register(&own.a, pair.a, all);
            register(&own.b, pair.b, all);
        }
    }
}

#[cfg(feature = "native")]
fn register<const D: usize>(param: &Param<Tensor<D>>, gradient: Vec<f32>, all: &mut GradientsParams) {
    let value = param.val().inner();
    let gradient = Tensor::<D>::from_data(TensorData::new(gradient, value.dims()), &value.device());
    all.register(param.id, gradient);
}

#[derive(Module, Debug)]
pub(super) struct Norm {
    gamma: Param<Tensor<1>>,
    beta: Param<Tensor<1>>,
    epsilon: f64,
}

impl Norm {
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        layer_norm(x, self.gamma.val(), Some(self.beta.val()), self.epsilon)
    }

    pub(super) fn trained(&self, name: &str) -> Vec<Trained> {
        let weight = Trained::of(&format!("{name}.weight"), &self.gamma);
        [weight, Trained::of(&format!("{name}.bias"), &self.beta)].into_iter().flatten().collect()
    }
}

#[cfg(feature = "native")]
impl Norm {
    fn parameters(&self) -> weights::Norm {
        weights::Norm { gamma: super::values(self.gamma.val()), beta: super::values(self.beta.val()) }
    }

    fn register(&self, gradient: weights::Norm, all: &mut GradientsParams) {
        register(&self.gamma, gradient.gamma, all);
        register(&self.beta, gradient.beta, all);
    }
}

/// What a layer needs to know of a padded batch and its model.
pub(super) struct Attended {
    pub texts: usize,
    pub length: usize,
    pub heads: usize,
    pub activation: Activation,
    pub bias: Tensor<4>,
}

#[derive(Module, Debug)]
pub(super) struct Layer {
    query: Projection,
    key: Projection,
    value: Projection,
    output: Projection,
    attention_norm: Norm,
    up: Projection,
    down: Projection,
    output_norm: Norm,
    dropout: Dropout,
}

impl Layer {
    /// `x` is `[texts * length x hidden]`.
    pub(super) fn forward(&self, x: Tensor<2>, attended: &Attended) -> Tensor<2> {
        let attention = self.dropout.forward(self.attention(x.clone(), attended));
        let x = self.attention_norm.forward(x + attention);
        let inner = super::activate(attended.activation, self.up.forward(x.clone()));
        self.output_norm.forward(x + self.dropout.forward(self.down.forward(inner)))
    }

    fn attention(&self, x: Tensor<2>, attended: &Attended) -> Tensor<2> {
        let Attended { texts, length, heads, bias, .. } = attended;
        let [tokens, hidden] = x.dims();
        let size = hidden / heads;
        let split = |t: Tensor<2>| t.reshape([*texts, *length, *heads, size]).swap_dims(1, 2);
        let query = split(self.query.forward(x.clone()) * (1.0 / (size as f64).sqrt()));
        let key = split(self.key.forward(x.clone()));
        let value = split(self.value.forward(x));
        let scores = query.matmul(key.swap_dims(2, 3)) + bias.clone();
        let context = self.dropout.forward(softmax(scores, 3)).matmul(value);
        self.output.forward(context.swap_dims(1, 2).reshape([tokens, hidden]))
    }

    fn projections(&self) -> [&Projection; 6] {
        [&self.query, &self.key, &self.value, &self.output, &self.up, &self.down]
    }

    /// What of it trains, for the CPU's own gradients.
    #[cfg(feature = "native")]
    pub(super) fn parameters(&self) -> LayerParameters {
        LayerParameters {
            maps: self.projections().map(Projection::parameters),
            norms: [self.attention_norm.parameters(), self.output_norm.parameters()],
        }
    }

    /// Hands a gradient over to the optimizer.
    #[cfg(feature = "native")]
    pub(super) fn register(&self, gradient: LayerParameters, all: &mut GradientsParams) {
        for (projection, map) in self.projections().into_iter().zip(gradient.maps) {
            projection.register(map, all);
        }
        let [attention, output] = gradient.norms;
        self.attention_norm.register(attention, all);
        self.output_norm.register(output, all);
    }

    pub(super) fn trained(&self, linears: &[String; 6], norms: &[String; 2]) -> Vec<Trained> {
        let mut all: Vec<Trained> =
            linears.iter().zip(self.projections()).flat_map(|(name, p)| p.trained(name)).collect();
        let own_norms = [&self.attention_norm, &self.output_norm];
        all.extend(norms.iter().zip(own_norms).flat_map(|(name, norm)| norm.trained(name)));
        all
    }
}

/// Makes parameters from weights; which of them train follows from the kind of training.
pub(super) struct Maker<'a> {
    device: &'a Device,
    training: Training,
    dropout: Dropout,
    chance: StdRng,
    ids: u64,
}

impl<'a> Maker<'a> {
    pub(super) fn new(device: &'a Device, training: Training, dropout: f64) -> Self {
        let seed = if let Training::Lora { seed, .. } = training { seed } else { 0 };
        let dropout = DropoutConfig::new(dropout).init();
        Self { device, training, dropout, chance: StdRng::seed_from_u64(seed), ids: 0 }
    }

    /// A parameter with a number of its own, so that an optimizer's saved state finds it again.
    fn numbered<const D: usize>(&mut self, tensor: Tensor<D>, trains: bool) -> Param<Tensor<D>> {
        self.ids += 1;
        Param::initialized(ParamId::from(self.ids), tensor.set_require_grad(trains))
    }

    fn param<const D: usize>(&mut self, shape: [usize; D], values: &[f32], trains: bool) -> Param<Tensor<D>> {
        let tensor = Tensor::<D>::from_data(TensorData::new(values.to_vec(), shape), self.device);
        self.numbered(tensor, trains)
    }

    /// A tensor that never trains.
    pub(super) fn fixed<const D: usize>(&mut self, shape: [usize; D], values: &[f32]) -> Param<Tensor<D>> {
        self.param(shape, values, false)
    }

    /// A tensor that trains only when everything does.
    pub(super) fn full<const D: usize>(&mut self, shape: [usize; D], values: &[f32]) -> Param<Tensor<D>> {
        self.param(shape, values, self.training == Training::Full)
    }

    /// A small tensor that trains whenever anything does.
    fn small<const D: usize>(&mut self, shape: [usize; D], values: &[f32]) -> Param<Tensor<D>> {
        self.param(shape, values, self.training != Training::Nothing)
    }

    pub(super) fn norm(&mut self, norm: &weights::Norm, epsilon: f32) -> Norm {
        let h = norm.gamma.len();
        Norm { gamma: self.small([h], &norm.gamma), beta: self.small([h], &norm.beta), epsilon: f64::from(epsilon) }
    }

    fn transposed(&mut self, linear: &weights::Linear, trains: bool) -> Param<Tensor<2>> {
        // Written out in its own order: a product with a strided view is slower, and there will be thousands.
        let (inputs, outputs) = (linear.inputs, linear.outputs);
        let column = |input: usize| (0..outputs).map(move |output| linear.weight[output * inputs + input]);
        let values: Vec<f32> = (0..inputs).flat_map(column).collect();
        self.param([inputs, outputs], &values, trains)
    }

    pub(super) fn head(&mut self, linear: &weights::Linear) -> Projection {
        let weight = self.transposed(linear, self.training != Training::Nothing);
        Projection { weight, bias: self.small([linear.outputs], &linear.bias), low_rank: None }
    }

    /// A map without a pair, which trains only when everything does.
    pub(super) fn map(&mut self, linear: &weights::Linear) -> Projection {
        let weight = self.transposed(linear, self.training == Training::Full);
        Projection { weight, bias: self.full([linear.outputs], &linear.bias), low_rank: None }
    }

    fn projection(&mut self, linear: &weights::Linear) -> Projection {
        let weight = self.transposed(linear, self.training == Training::Full);
        let bias = self.small([linear.outputs], &linear.bias);
        Projection { weight, bias, low_rank: self.low_rank(linear) }
    }

    /// B starts at zero, so that training starts at the base; A as in PEFT, uniform within `1 / sqrt(inputs)`.
    fn low_rank(&mut self, linear: &weights::Linear) -> Option<LowRank> {
        let Training::Lora { rank, alpha, .. } = self.training else { return None };
        let bound = 1.0 / (linear.inputs as f32).sqrt();
        let a: Vec<f32> = (0..linear.inputs * rank).map(|_| self.chance.random_range(-bound..bound)).collect();
        let a = self.param([linear.inputs, rank], &a, true);
        let b = self.numbered(Tensor::zeros([rank, linear.outputs], self.device), true);
        Some(LowRank { a, b, scale: f64::from(alpha) / rank as f64 })
    }

    /// The pair on the word embeddings, whose rows start at zero.
    pub(super) fn embedding_pair(&mut self, words: usize, width: usize) -> Option<LowRank> {
        let Training::Lora { embedding_rank: rank @ 1.., alpha, rank: other, .. } = self.training else { return None };
        let bound = 1.0 / (width as f32).sqrt();
        let b: Vec<f32> = (0..rank * width).map(|_| self.chance.random_range(-bound..bound)).collect();
        let a = self.numbered(Tensor::zeros([words, rank], self.device), true);
        let b = self.param([rank, width], &b, true);
        Some(LowRank { a, b, scale: f64::from(alpha) / other as f64 })
    }

    pub(super) fn layer(&mut self, layer: &LayerWeights, config: &EncoderConfig) -> Layer {
        Layer {
            query: self.projection(&layer.query),
            key: self.projection(&layer.key),
            value: self.projection(&layer.value),
            output: self.projection(&layer.output),
            attention_norm: self.norm(&layer.attention_norm, config.layer_norm_eps),
            up: self.projection(&layer.up),
            down: self.projection(&layer.down),
            output_norm: self.norm(&layer.output_norm, config.layer_norm_eps),
            dropout: self.dropout.clone(),
        }
    }
}
