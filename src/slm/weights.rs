//! The tensors of an encoder, checked against its config, in one layout for every engine.

use super::SlmError;
use super::config::{Architecture, EncoderConfig};
use super::quant::{EMBEDDING_LEVELS, GROUP, Int8Matrix, SUM_OF_EIGHT, WEIGHT_LEVELS, fits_sums};
use safetensors::{Dtype, SafeTensors};

/// A tensor's shape and values.
pub type ShapedTensor<T = f32> = (Vec<usize>, Vec<T>);

/// Somewhere that named tensors come from.
pub trait TensorSource {
    /// The file's name, for errors.
    fn file(&self) -> &str;

    /// Whether it has a tensor of this name.
    fn has(&self, name: &str) -> bool {
        matches!(self.tensor(name), Ok(Some(_)))
    }

    /// The shape and values of a tensor, or none where it has no such tensor.
    fn tensor(&self, name: &str) -> Result<Option<ShapedTensor>, SlmError>;

    /// As [`Self::tensor`], of one that is stored in int8.
    fn int8(&self, _name: &str) -> Result<Option<ShapedTensor<i8>>, SlmError> {
        Ok(None)
    }
}

/// A safetensors file in memory: f32, f16 and bf16 tensors.
pub struct SafetensorsSource<'a> {
    file: String,
    tensors: SafeTensors<'a>,
}

impl<'a> SafetensorsSource<'a> {
    /// Reads the header and checks it against the bytes; `file` names it in errors.
    pub fn new(bytes: &'a [u8], file: &str) -> Result<Self, SlmError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| SlmError::File {
            file: file.to_owned(),
            problem: format!("not a valid safetensors file ({e}); download it again"),
        })?;
        Ok(Self { file: file.to_owned(), tensors })
    }

    /// The names of its tensors.
    pub fn names(&self) -> Vec<String> {
        self.tensors.names().into_iter().map(|name| name.to_owned()).collect()
    }
}

impl TensorSource for SafetensorsSource<'_> {
    fn file(&self) -> &str {
        &self.file
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    fn tensor(&self, name: &str) -> Result<Option<ShapedTensor>, SlmError> {
        let Ok(view) = self.tensors.tensor(name) else { return Ok(None) };
        let values = to_f32(view.dtype(), view.data()).map_err(|problem| self.wrong(name, &problem))?;
        Ok(Some((view.shape().to_vec(), values)))
    }

    fn int8(&self, name: &str) -> Result<Option<ShapedTensor<i8>>, SlmError> {
        let Ok(view) = self.tensors.tensor(name) else { return Ok(None) };
        let values = to_int8(view.dtype(), view.data().to_vec()).map_err(|problem| self.wrong(name, &problem))?;
        Ok(Some((view.shape().to_vec(), values)))
    }
}

impl SafetensorsSource<'_> {
    fn wrong(&self, tensor: &str, problem: &str) -> SlmError {
        SlmError::File { file: self.file.clone(), problem: format!("tensor '{tensor}' {problem}") }
    }
}

/// Little-endian bytes of a float type as f32; another type is an error.
pub(super) fn to_f32(dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, String> {
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    Ok(match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        _ => return Err(format!("is {dtype:?}, expected F32, F16 or BF16")),
    })
}

/// Bytes of int8 numbers, in place; another type is an error.
pub(super) fn to_int8(dtype: Dtype, bytes: Vec<u8>) -> Result<Vec<i8>, String> {
    match dtype {
        Dtype::I8 => Ok(bytes.into_iter().map(|byte| byte as i8).collect()),
        _ => Err(format!("is {dtype:?}, expected I8")),
    }
}

/// A linear map, `y = W x + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear<M = Vec<f32>> {
    /// `[outputs x inputs]`, row by row, as in PyTorch.
    pub weight: M,
    /// `[outputs]`.
    pub bias: Vec<f32>,
    /// Number of outputs.
    pub outputs: usize,
    /// Number of inputs.
    pub inputs: usize,
}

/// The affine part of a LayerNorm.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// `[hidden]`.
    pub gamma: Vec<f32>,
    /// `[hidden]`.
    pub beta: Vec<f32>,
}

/// The weights of one post-norm transformer layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights<M = Vec<f32>> {
    /// Query, `[hidden x hidden]`.
    pub query: Linear<M>,
    /// Key, `[hidden x hidden]`.
    pub key: Linear<M>,
    /// Value, `[hidden x hidden]`.
    pub value: Linear<M>,
    /// Output of the attention, `[hidden x hidden]`.
    pub output: Linear<M>,
    /// After the attention's residual.
    pub attention_norm: Norm,
    /// First of the feed-forward part, `[intermediate x hidden]`, followed by GELU.
    pub up: Linear<M>,
    /// Second of the feed-forward part, `[hidden x intermediate]`.
    pub down: Linear<M>,
    /// After the feed-forward's residual.
    pub output_norm: Norm,
}

/// The weights of an encoder; its large matrices are `M`, in f32 or in int8 ([`Int8Matrix`](super::quant::Int8Matrix)).
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderWeights<M = Vec<f32>> {
    /// The shapes.
    pub config: EncoderConfig,
    /// Word embedding, `[vocab x hidden]`.
    pub words: M,
    /// Position embedding, `[max_position_embeddings x hidden]`.
    pub positions: Vec<f32>,
    /// Token type embedding, `[type_vocab x hidden]`; empty for MPNet.
    pub token_types: Vec<f32>,
    /// After the sum of the embeddings.
    pub embedding_norm: Norm,
    /// The layers.
    pub layers: Vec<LayerWeights<M>>,
    /// MPNet's bias by bucket and head, `[buckets x heads]`; empty for BERT.
    pub relative_bias: Vec<f32>,
}

impl<M> LayerWeights<M> {
    /// The linear maps, query, key, value, output, up, down.
    pub fn linears(&self) -> [&Linear<M>; 6] {
        [&self.query, &self.key, &self.value, &self.output, &self.up, &self.down]
    }

    /// The norms, attention, output.
    pub fn norms(&self) -> [&Norm; 2] {
        [&self.attention_norm, &self.output_norm]
    }
}

/// The hub's names of a layer's linear maps and norms, below `encoder.layer.N.`.
fn layer_names(architecture: Architecture) -> ([&'static str; 6], [&'static str; 2]) {
    match architecture {
        Architecture::Bert => (
            [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            ],
            ["attention.output.LayerNorm", "output.LayerNorm"],
        ),
        Architecture::Mpnet => (
            [
                "attention.attn.q",
                "attention.attn.k",
                "attention.attn.v",
                "attention.attn.o",
                "intermediate.dense",
                "output.dense",
            ],
            ["attention.LayerNorm", "output.LayerNorm"],
        ),
    }
}

/// Group and largest value of int8 weights.
const WEIGHTS: (usize, u8) = (GROUP, WEIGHT_LEVELS);

/// Reads tensors of known shape, whatever prefix (`bert.`, `mpnet.`) the file gives them.
struct Reader<'a> {
    source: &'a dyn TensorSource,
    prefix: &'static str,
}

impl<'a> Reader<'a> {
    fn new(source: &'a dyn TensorSource) -> Self {
        for prefix in ["", "bert.", "mpnet."] {
            if source.has(&format!("{prefix}embeddings.LayerNorm.weight")) {
                return Self { source, prefix };
            }
        }
        Self { source, prefix: "" }
    }

    fn tensor(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, SlmError> {
        let tensor = format!("{}{name}", self.prefix);
        let values = self.checked(self.source.tensor(&tensor)?, &tensor, expected)?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(SlmError::NotFinite { file: self.source.file().to_owned(), tensor, index }),
            None => Ok(values),
        }
    }

    /// The values of a tensor that is there and has the shape.
    fn checked<T>(&self, found: Option<(Vec<usize>, T)>, tensor: &str, expected: &[usize]) -> Result<T, SlmError> {
        let (file, tensor, expected) = (self.source.file().to_owned(), tensor.to_owned(), expected.to_vec());
        match found {
            None => Err(SlmError::MissingTensor { file, tensor, expected }),
            Some((found, _)) if found != expected => Err(SlmError::Shape { file, tensor, found, expected }),
            Some((_, values)) => Ok(values),
        }
    }

    fn linear<M: ReadMatrix>(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear<M>, SlmError> {
        Ok(Linear {
            weight: M::read(self, &format!("{name}.weight"), [outputs, inputs], WEIGHTS)?,
            bias: self.tensor(&format!("{name}.bias"), &[outputs])?,
            outputs,
            inputs,
        })
    }

    fn norm(&self, name: &str, hidden: usize) -> Result<Norm, SlmError> {
        Ok(Norm {
            gamma: self.tensor(&format!("{name}.weight"), &[hidden])?,
            beta: self.tensor(&format!("{name}.bias"), &[hidden])?,
        })
    }

    fn layer<M: ReadMatrix>(&self, config: &EncoderConfig, index: usize) -> Result<LayerWeights<M>, SlmError> {
        let [q, k, v, o, up, down] = linear_names(config, index);
        let [attention_norm, output_norm] = norm_names(config, index);
        let (h, i) = (config.hidden_size, config.intermediate_size);
        Ok(LayerWeights {
            query: self.linear(&q, h, h)?,
            key: self.linear(&k, h, h)?,
            value: self.linear(&v, h, h)?,
            output: self.linear(&o, h, h)?,
            up: self.linear(&up, i, h)?,
            down: self.linear(&down, h, i)?,
            attention_norm: self.norm(&attention_norm, h)?,
            output_norm: self.norm(&output_norm, h)?,
        })
    }
}

/// A large matrix that can be read: f32 values, or int8 with its scales and multipliers beside it.
trait ReadMatrix: Sized {
    /// Reads a tensor of this shape. In int8 it has a scale for each group of columns, and a largest value.
    fn read(reader: &Reader<'_>, name: &str, shape: [usize; 2], int8: (usize, u8)) -> Result<Self, SlmError>;
}

impl ReadMatrix for Vec<f32> {
    fn read(reader: &Reader<'_>, name: &str, shape: [usize; 2], _: (usize, u8)) -> Result<Self, SlmError> {
        reader.tensor(name, &shape)
    }
}

impl ReadMatrix for Int8Matrix {
    fn read(
        reader: &Reader<'_>,
        name: &str,
        [rows, columns]: [usize; 2],
        (group, levels): (usize, u8),
    ) -> Result<Self, SlmError> {
        let tensor = format!("{}{name}", reader.prefix);
        let values = reader.checked(reader.source.int8(&tensor)?, &tensor, &[rows, columns])?;
        let largest = values.iter().fold(0, |largest, value| value.unsigned_abs().max(largest));
        if largest > levels {
            let problem =
                format!("tensor '{tensor}' holds a value of size {largest}, expected at most {levels}; pack it again");
            return Err(SlmError::File { file: reader.source.file().to_owned(), problem });
        }
        if (group, levels) == WEIGHTS && !values.chunks_exact(columns.max(1)).all(fits_sums) {
            let problem = format!("tensor '{tensor}': eight weights sum to more than {SUM_OF_EIGHT}; pack it again");
            return Err(SlmError::File { file: reader.source.file().to_owned(), problem });
        }
        let multipliers = multipliers_name(name);
        let has_multipliers = reader.source.has(&format!("{}{multipliers}", reader.prefix));
        Ok(Self {
            values,
            scales: reader.tensor(&scales_name(name), &[rows, columns.div_ceil(group)])?,
            multipliers: if has_multipliers { reader.tensor(&multipliers, &[columns])? } else { Vec::new() },
        })
    }
}

/// The name of the scales of an int8 tensor.
pub(super) fn scales_name(tensor: &str) -> String {
    format!("{tensor}.scales")
}

/// The name of the multipliers of an int8 tensor.
pub(super) fn multipliers_name(tensor: &str) -> String {
    format!("{tensor}.multipliers")
}

#[allow(private_bounds, reason = "the matrices are these two")]
impl<M: ReadMatrix> EncoderWeights<M> {
    /// Reads an encoder in the hub's naming. A missing tensor, a wrong shape or a value that is not finite is an error.
    pub fn read(config: &EncoderConfig, source: &dyn TensorSource) -> Result<Self, SlmError> {
        let reader = Reader::new(source);
        let h = config.hidden_size;
        let bert = config.architecture == Architecture::Bert;
        Ok(Self {
            words: M::read(
                &reader,
                "embeddings.word_embeddings.weight",
                [config.vocab_size, h],
                (h, EMBEDDING_LEVELS),
            )?,
            positions: reader.tensor("embeddings.position_embeddings.weight", &[config.max_position_embeddings, h])?,
            token_types: if bert {
                reader.tensor("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, h])?
            } else {
                Vec::new()
            },
            embedding_norm: reader.norm("embeddings.LayerNorm", h)?,
            layers: (0..config.num_hidden_layers).map(|i| reader.layer(config, i)).collect::<Result<_, _>>()?,
            relative_bias: if bert {
                Vec::new()
            } else {
                let shape = [config.relative_attention_num_buckets, config.num_attention_heads];
                reader.tensor("encoder.relative_attention_bias.weight", &shape)?
            },
            config: config.clone(),
        })
    }
}

/// A part of an encoder: a large matrix, or other values.
pub(super) enum Part<'a, M> {
    Matrix(&'a M),
    Values(&'a [f32]),
}

impl<M> EncoderWeights<M> {
    /// All parts by their names on the hub, with shapes: what [`Self::read`] reads, in a fixed order.
    pub(super) fn parts(&self) -> Vec<(String, Vec<usize>, Part<'_, M>)> {
        use Part::{Matrix, Values};
        let mut parts = vec![Matrix(&self.words), Values(&self.positions)];
        if !self.token_types.is_empty() {
            parts.push(Values(&self.token_types));
        }
        parts.extend([Values(&self.embedding_norm.gamma), Values(&self.embedding_norm.beta)]);
        for layer in &self.layers {
            parts.extend(layer.linears().into_iter().flat_map(|map| [Matrix(&map.weight), Values(&map.bias)]));
            parts.extend(layer.norms().into_iter().flat_map(|norm| [Values(&norm.gamma), Values(&norm.beta)]));
        }
        if !self.relative_bias.is_empty() {
            parts.push(Values(&self.relative_bias));
        }
        let shapes = tensor_shapes(&self.config).into_iter();
        shapes.zip(parts).map(|((name, shape), part)| (name, shape, part)).collect()
    }
}

impl EncoderWeights {
    /// All tensors by their names on the hub, with shapes: what [`Self::read`] reads, in a fixed order.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        fn values<'a>(part: Part<'a, Vec<f32>>) -> &'a [f32] {
            match part {
                Part::Matrix(matrix) => matrix,
                Part::Values(values) => values,
            }
        }
        self.parts().into_iter().map(|(name, shape, part)| (name, shape, values(part))).collect()
    }

    /// As [`Self::tensors`], to be changed in place.
    pub fn tensors_mut(&mut self) -> Vec<(String, Vec<usize>, &mut [f32])> {
        let mut values: Vec<&mut [f32]> = vec![&mut self.words, &mut self.positions];
        if !self.token_types.is_empty() {
            values.push(&mut self.token_types);
        }
        values.extend([&mut self.embedding_norm.gamma[..], &mut self.embedding_norm.beta]);
        for layer in &mut self.layers {
            let LayerWeights { query, key, value, output, up, down, attention_norm, output_norm } = layer;
            for linear in [query, key, value, output, up, down] {
                values.extend([&mut linear.weight[..], &mut linear.bias]);
            }
            for norm in [attention_norm, output_norm] {
                values.extend([&mut norm.gamma[..], &mut norm.beta]);
            }
        }
        if !self.relative_bias.is_empty() {
            values.push(&mut self.relative_bias);
        }
        tensor_shapes(&self.config)
            .into_iter()
            .zip(values)
            .map(|((name, shape), values)| (name, shape, values))
            .collect()
    }
}

/// The hub's names and shapes of an encoder's tensors, in the order of [`EncoderWeights::tensors`].
fn tensor_shapes(config: &EncoderConfig) -> Vec<(String, Vec<usize>)> {
    let h = config.hidden_size;
    let mut all = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![config.vocab_size, h]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![config.max_position_embeddings, h]),
    ];
    if config.architecture == Architecture::Bert {
        all.push(("embeddings.token_type_embeddings.weight".to_owned(), vec![config.type_vocab_size, h]));
    }
    let both = |name: &str, weight: Vec<usize>| {
        let bias = vec![weight[0]];
        [(format!("{name}.weight"), weight), (format!("{name}.bias"), bias)]
    };
    all.extend(both("embeddings.LayerNorm", vec![h]));
    for index in 0..config.num_hidden_layers {
        for (name, shape) in linear_names(config, index).iter().zip(linear_shapes(config)) {
            all.extend(both(name, shape.to_vec()));
        }
        for name in norm_names(config, index) {
            all.extend(both(&name, vec![h]));
        }
    }
    if config.architecture == Architecture::Mpnet {
        let shape = vec![config.relative_attention_num_buckets, config.num_attention_heads];
        all.push(("encoder.relative_attention_bias.weight".to_owned(), shape));
    }
    all
}

/// The hub's names of the linear maps of layer `index`, in the order of [`LayerWeights::linears`].
pub fn linear_names(config: &EncoderConfig, index: usize) -> [String; 6] {
    layer_names(config.architecture).0.map(|name| format!("encoder.layer.{index}.{name}"))
}

/// The hub's names of the norms of layer `index`, in the order of [`LayerWeights::norms`].
pub fn norm_names(config: &EncoderConfig, index: usize) -> [String; 2] {
    layer_names(config.architecture).1.map(|name| format!("encoder.layer.{index}.{name}"))
}

/// The shapes `[outputs, inputs]` of a layer's linear maps.
fn linear_shapes(config: &EncoderConfig) -> [[usize; 2]; 6] {
    let (h, i) = (config.hidden_size, config.intermediate_size);
    [[h, h], [h, h], [h, h], [h, h], [i, h], [h, i]]
}

/// How the hidden states of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean over the text's tokens, special tokens included (sentence-transformers' masked mean).
    #[default]
    Mean,
    /// The first token.
    Cls,
}

/// A classification head on the pooled hidden state.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// How to pool.
    pub pooling: Pooling,
    /// `[labels x hidden]`.
    pub linear: Linear,
    /// Logits are divided by it before the softmax (calibration).
    pub temperature: f32,
}
