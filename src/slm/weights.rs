//! The tensors of an encoder, checked against its config, in one layout for every engine.

use super::SlmError;
use super::config::{Activation, Architecture, EncoderConfig};
use super::quant::{EMBEDDING_LEVELS, GROUP, Int8Matrix, SUM_OF_EIGHT, WEIGHT_LEVELS, fits_sums};
use safetensors::{Dtype, SafeTensors};
use std::ops::Range;

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

    /// The name that a tensor has in the file, for errors.
    fn name_in_file(&self, name: &str) -> String {
        name.to_owned()
    }

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

impl Norm {
    /// LayerNorm of one row, in place.
    pub fn apply(&self, row: &mut [f32], epsilon: f32) {
        let n = row.len() as f32;
        let mean = row.iter().sum::<f32>() / n;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
        let inverse = 1.0 / (variance + epsilon).sqrt();
        for ((x, gamma), beta) in row.iter_mut().zip(&self.gamma).zip(&self.beta) {
            *x = (*x - mean) * inverse * gamma + beta;
        }
    }
}

/// The weights of one transformer layer; its norms come after what they norm, in ModernBERT before.
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
    /// After the attention's residual; in ModernBERT before the attention, and nothing in the first layer.
    pub attention_norm: Norm,
    /// First of the feed-forward part, `[intermediate x hidden]`, followed by GELU.
    pub up: Linear<M>,
    /// Second of the feed-forward part, `[hidden x intermediate]`.
    pub down: Linear<M>,
    /// After the feed-forward's residual; in ModernBERT before the feed-forward part.
    pub output_norm: Norm,
}

/// What only some encoders have.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extras<M = Vec<f32>> {
    /// From the embeddings' width to the hidden size, after their LayerNorm (ELECTRA, ALBERT).
    pub projection: Option<Linear>,
    /// DeBERTa's embeddings of relative positions, normed, `[2 span x hidden]`.
    pub relative: Vec<f32>,
    /// DeBERTa's maps of them by layer, where they have their own: to keys, `[hidden x hidden]`.
    pub relative_keys: Vec<Linear>,
    /// As `relative_keys`, to queries.
    pub relative_queries: Vec<Linear>,
    /// The convolution beside DeBERTa's first layer, `[hidden x hidden * size]`: by output, then input, then place.
    pub convolution: Option<(Linear, Norm)>,
    /// ModernBERT's gates by layer: as wide as `up`, whose result they are multiplied with after GELU.
    pub gates: Vec<Linear<M>>,
    /// After ModernBERT's last layer.
    pub final_norm: Option<Norm>,
}

/// The weights of an encoder; its large matrices are `M`, in f32 or in int8 ([`Int8Matrix`]).
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderWeights<M = Vec<f32>> {
    /// The shapes.
    pub config: EncoderConfig,
    /// Word embedding, `[vocab x embedding]`; the embeddings are as wide as the hidden states, or `embedding_size`.
    pub words: M,
    /// Position embedding, `[max_position_embeddings x embedding]`; empty where positions are relative alone.
    pub positions: Vec<f32>,
    /// Token type embedding, `[type_vocab x embedding]`; empty where there is none.
    pub token_types: Vec<f32>,
    /// After the sum of the embeddings.
    pub embedding_norm: Norm,
    /// The layers that differ: see [`EncoderConfig::weights_of`].
    pub layers: Vec<LayerWeights<M>>,
    /// MPNet's bias by bucket and head, `[buckets x heads]`; empty for others.
    pub relative_bias: Vec<f32>,
    /// What only some have.
    pub extras: Extras<M>,
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

/// The names of a layer's linear maps and norms, below `encoder.layer.N.`: BERT's for all but MPNet.
fn layer_names(architecture: Architecture) -> ([&'static str; 6], [&'static str; 2]) {
    match architecture {
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
        _ => (
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
    }
}

/// Group and largest value of int8 weights.
const WEIGHTS: (usize, u8) = (GROUP, WEIGHT_LEVELS);

/// Reads tensors of known shape, whatever prefix (`bert.`, `mpnet.`) the file gives them.
pub(super) struct Reader<'a> {
    source: &'a dyn TensorSource,
    prefix: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a dyn TensorSource) -> Self {
        for prefix in ["", "bert.", "mpnet."] {
            if source.has(&format!("{prefix}embeddings.LayerNorm.weight")) {
                return Self { source, prefix };
            }
        }
        Self { source, prefix: "" }
    }

    /// Of names as they are.
    pub(super) fn plain(source: &'a dyn TensorSource) -> Self {
        Self { source, prefix: "" }
    }

    pub(super) fn tensor(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, SlmError> {
        let tensor = format!("{}{name}", self.prefix);
        let values = self.checked(self.source.tensor(&tensor)?, &tensor, expected)?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => {
                let (file, tensor) = (self.source.file().to_owned(), self.source.name_in_file(&tensor));
                Err(SlmError::NotFinite { file, tensor, index })
            }
            None => Ok(values),
        }
    }

    /// The values of a tensor that is there and has the shape.
    fn checked<T>(&self, found: Option<(Vec<usize>, T)>, tensor: &str, expected: &[usize]) -> Result<T, SlmError> {
        let (file, expected) = (self.source.file().to_owned(), expected.to_vec());
        let tensor = self.source.name_in_file(tensor);
        match found {
            None => Err(SlmError::MissingTensor { file, tensor, expected }),
            Some((found, _)) if found != expected => Err(SlmError::Shape { file, tensor, found, expected }),
            Some((_, values)) => Ok(values),
        }
    }

    #[allow(private_bounds, reason = "the matrices are these two")]
    pub(super) fn linear<M: ReadMatrix>(
        &self,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Linear<M>, SlmError> {
        Ok(Linear {
            weight: M::read(self, &format!("{name}.weight"), [outputs, inputs], WEIGHTS)?,
            bias: self.tensor(&format!("{name}.bias"), &[outputs])?,
            outputs,
            inputs,
        })
    }

    pub(super) fn norm(&self, name: &str, hidden: usize) -> Result<Norm, SlmError> {
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
impl<M: ReadMatrix + Default> EncoderWeights<M> {
    /// Reads an encoder under BERT's and MPNet's names on the hub, which those of other architectures are brought to (see
    /// [`hub`](super::hub)). A missing tensor, a wrong shape or a value that is not finite is an error.
    pub fn read(config: &EncoderConfig, source: &dyn TensorSource) -> Result<Self, SlmError> {
        Self::read_layers(config, source, 0..config.distinct_layers())
    }

    /// As [`Self::read`], of these layers alone; the tables of the embeddings are those of the first one.
    pub fn read_layers(
        config: &EncoderConfig,
        source: &dyn TensorSource,
        layers: Range<usize>,
    ) -> Result<Self, SlmError> {
        let reader = Reader::new(source);
        let width = config.embedding_width();
        let [words, positions, token_types] = TABLES;
        let table = |name: &str, rows: usize| match rows {
            rows if rows > 0 && layers.start == 0 => reader.tensor(name, &[rows, width]),
            _ => Ok(Vec::new()),
        };
        Ok(Self {
            words: match layers.start {
                0 => M::read(&reader, words, [config.vocab_size, width], (width, EMBEDDING_LEVELS))?,
                _ => M::default(),
            },
            positions: table(positions, if config.has_positions() { config.max_position_embeddings } else { 0 })?,
            token_types: table(token_types, config.type_vocab_size)?,
            embedding_norm: reader.norm(EMBEDDING_NORM, width)?,
            layers: layers.map(|i| reader.layer(config, i)).collect::<Result<_, _>>()?,
            relative_bias: match config.architecture {
                Architecture::Mpnet => {
                    let shape = [config.relative_attention_num_buckets, config.num_attention_heads];
                    reader.tensor(RELATIVE_BIAS, &shape)?
                }
                _ => Vec::new(),
            },
            extras: Extras::read(config, &reader)?,
            config: config.clone(),
        })
    }
}

#[allow(private_bounds, reason = "the matrices are these two")]
impl<M: ReadMatrix + Default> Extras<M> {
    fn read(config: &EncoderConfig, reader: &Reader<'_>) -> Result<Self, SlmError> {
        let linear = |(name, [outputs, inputs]): (String, [usize; 2])| reader.linear(&name, outputs, inputs);
        let mut extras = Self::default();
        for (part, shape) in extra_maps(config) {
            match part {
                Extra::Projection => extras.projection = Some(linear(shape)?),
                Extra::RelativeKey => extras.relative_keys.push(linear(shape)?),
                Extra::RelativeQuery => extras.relative_queries.push(linear(shape)?),
                Extra::Convolution => {
                    extras.convolution = Some((linear(shape)?, reader.norm(CONVOLUTION_NORM, config.hidden_size)?));
                }
                Extra::Gate => {
                    let (name, [outputs, inputs]) = shape;
                    extras.gates.push(reader.linear(&name, outputs, inputs)?);
                }
            }
        }
        if let Some(kind) = &config.disentangled {
            extras.relative = reader.tensor(RELATIVE, &[2 * kind.span, config.hidden_size])?;
        }
        if config.rotary.is_some() {
            extras.final_norm = Some(reader.norm(FINAL_NORM, config.hidden_size)?);
        }
        Ok(extras)
    }
}

impl<M> Extras<M> {
    /// The linear maps in the order of [`extra_maps`], but for the gates.
    fn maps(&self) -> impl Iterator<Item = &Linear> {
        let paired = self.relative_keys.len().max(self.relative_queries.len());
        let relative = (0..paired).flat_map(|i| [self.relative_keys.get(i), self.relative_queries.get(i)]).flatten();
        self.projection.iter().chain(relative).chain(self.convolution.iter().map(|(map, _)| map))
    }

    /// The norms and the table, in the order of [`tensor_shapes`].
    fn values(&self) -> Vec<&[f32]> {
        let norms = self.convolution.iter().map(|(_, norm)| norm).chain(&self.final_norm);
        let mut values: Vec<&[f32]> = norms.flat_map(|norm| [&norm.gamma[..], &norm.beta]).collect();
        if !self.relative.is_empty() {
            values.push(&self.relative);
        }
        values
    }

    /// With other gates.
    pub(super) fn with_gates<N>(&self, gates: Vec<Linear<N>>) -> Extras<N> {
        Extras {
            projection: self.projection.clone(),
            relative: self.relative.clone(),
            relative_keys: self.relative_keys.clone(),
            relative_queries: self.relative_queries.clone(),
            convolution: self.convolution.clone(),
            gates,
            final_norm: self.final_norm.clone(),
        }
    }
}

impl Extras {
    /// As [`Self::maps`] with gates and [`Self::values`], to be changed in place.
    fn slices_mut(&mut self) -> Vec<&mut [f32]> {
        let Self { projection, relative, relative_keys, relative_queries, convolution, gates, final_norm } = self;
        let (convolution, convolution_norm) = convolution.as_mut().map(|(map, norm)| (map, norm)).unzip();
        let (mut keys, mut queries) = (relative_keys.iter_mut(), relative_queries.iter_mut());
        let mut maps: Vec<&mut Linear> = projection.iter_mut().collect();
        loop {
            let pair = [keys.next(), queries.next()];
            if pair.iter().all(Option::is_none) {
                break;
            }
            maps.extend(pair.into_iter().flatten());
        }
        maps.extend(convolution);
        maps.extend(gates);
        let mut slices: Vec<&mut [f32]> =
            maps.into_iter().flat_map(|map| [&mut map.weight[..], &mut map.bias[..]]).collect();
        let norms = convolution_norm.into_iter().chain(final_norm);
        slices.extend(norms.flat_map(|norm| [&mut norm.gamma[..], &mut norm.beta[..]]));
        if !relative.is_empty() {
            slices.push(relative);
        }
        slices
    }
}

/// The embeddings' tables: words, positions, token types.
const TABLES: [&str; 3] = [
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "embeddings.token_type_embeddings.weight",
];

/// Whether [`EncoderWeights::read_layers`] reads a tensor.
pub(super) fn is_read(tensor: &str, layers: &Range<usize>) -> bool {
    let layer = tensor.strip_prefix("encoder.layer.").and_then(|rest| rest.split('.').next()?.parse().ok());
    match layer {
        Some(layer) => layers.contains(&layer),
        None => layers.start == 0 || !TABLES.iter().any(|table| tensor.starts_with(table)),
    }
}

const EMBEDDING_NORM: &str = "embeddings.LayerNorm";
const RELATIVE_BIAS: &str = "encoder.relative_attention_bias.weight";
const RELATIVE: &str = "encoder.rel_embeddings.weight";
const CONVOLUTION_NORM: &str = "encoder.conv.LayerNorm";
const FINAL_NORM: &str = "final_norm";

/// A linear map of [`Extras`].
#[derive(Clone, Copy)]
enum Extra {
    Projection,
    RelativeKey,
    RelativeQuery,
    Convolution,
    Gate,
}

/// The linear maps of [`Extras`] that an encoder has, with names and shapes.
fn extra_maps(config: &EncoderConfig) -> Vec<(Extra, (String, [usize; 2]))> {
    let (h, i) = (config.hidden_size, config.intermediate_size);
    let mut maps = Vec::new();
    if let Some(width) = config.embedding_size {
        maps.push((Extra::Projection, ("embeddings_project".to_owned(), [h, width])));
    }
    let of_layer = |layer: usize, name: &str| format!("encoder.layer.{layer}.{name}");
    if let Some(kind) = &config.disentangled {
        for layer in (0..config.num_hidden_layers).filter(|_| !kind.shared) {
            if kind.content_to_position {
                maps.push((Extra::RelativeKey, (of_layer(layer, "attention.self.pos_key_proj"), [h, h])));
            }
            if kind.position_to_content {
                maps.push((Extra::RelativeQuery, (of_layer(layer, "attention.self.pos_query_proj"), [h, h])));
            }
        }
        if kind.convolution > 0 {
            maps.push((Extra::Convolution, ("encoder.conv.conv".to_owned(), [h, h * kind.convolution])));
        }
    }
    if config.rotary.is_some() {
        let gate = |layer| (Extra::Gate, (of_layer(layer, "intermediate.gate"), [i, h]));
        maps.extend((0..config.num_hidden_layers).map(gate));
    }
    maps
}

/// A part of an encoder: a large matrix, or other values.
pub(super) enum Part<'a, M> {
    Matrix(&'a M),
    Values(&'a [f32]),
}

impl<M> EncoderWeights<M> {
    /// All parts by their names, with shapes: what [`Self::read`] reads, in a fixed order.
    pub(super) fn parts(&self) -> Vec<(String, Vec<usize>, Part<'_, M>)> {
        use Part::{Matrix, Values};
        let mut parts = vec![Matrix(&self.words)];
        parts.extend(
            [&self.positions, &self.token_types].into_iter().filter(|table| !table.is_empty()).map(|t| Values(t)),
        );
        parts.extend([Values(&self.embedding_norm.gamma), Values(&self.embedding_norm.beta)]);
        for layer in &self.layers {
            parts.extend(layer.linears().into_iter().flat_map(|map| [Matrix(&map.weight), Values(&map.bias)]));
            parts.extend(layer.norms().into_iter().flat_map(|norm| [Values(&norm.gamma), Values(&norm.beta)]));
        }
        if !self.relative_bias.is_empty() {
            parts.push(Values(&self.relative_bias));
        }
        parts.extend(self.extras.maps().flat_map(|map| [Values(&map.weight), Values(&map.bias)]));
        parts.extend(self.extras.gates.iter().flat_map(|map| [Matrix(&map.weight), Values(&map.bias)]));
        parts.extend(self.extras.values().into_iter().map(Values));
        let shapes = tensor_shapes(&self.config).into_iter();
        shapes.zip(parts).map(|((name, shape), part)| (name, shape, part)).collect()
    }
}

impl EncoderWeights {
    /// All tensors by their names, with shapes: what [`Self::read`] reads, in a fixed order.
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
        let mut values: Vec<&mut [f32]> = vec![&mut self.words];
        values.extend([&mut self.positions[..], &mut self.token_types].into_iter().filter(|table| !table.is_empty()));
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
        values.extend(self.extras.slices_mut());
        tensor_shapes(&self.config)
            .into_iter()
            .zip(values)
            .map(|((name, shape), values)| (name, shape, values))
            .collect()
    }
}

/// The names and shapes of an encoder's tensors, in the order of [`EncoderWeights::tensors`].
fn tensor_shapes(config: &EncoderConfig) -> Vec<(String, Vec<usize>)> {
    let (h, width) = (config.hidden_size, config.embedding_width());
    let positions = if config.has_positions() { config.max_position_embeddings } else { 0 };
    let tables = TABLES.into_iter().zip([config.vocab_size, positions, config.type_vocab_size]);
    let mut all: Vec<(String, Vec<usize>)> =
        tables.filter(|(_, rows)| *rows > 0).map(|(name, rows)| (name.to_owned(), vec![rows, width])).collect();
    let both = |name: &str, weight: Vec<usize>| {
        let bias = vec![weight[0]];
        [(format!("{name}.weight"), weight), (format!("{name}.bias"), bias)]
    };
    all.extend(both(EMBEDDING_NORM, vec![width]));
    for index in 0..config.distinct_layers() {
        for (name, shape) in linear_names(config, index).iter().zip(linear_shapes(config)) {
            all.extend(both(name, shape.to_vec()));
        }
        for name in norm_names(config, index) {
            all.extend(both(&name, vec![h]));
        }
    }
    if config.architecture == Architecture::Mpnet {
        let shape = vec![config.relative_attention_num_buckets, config.num_attention_heads];
        all.push((RELATIVE_BIAS.to_owned(), shape));
    }
    all.extend(extra_maps(config).into_iter().flat_map(|(_, (name, shape))| both(&name, shape.to_vec())));
    if let Some(kind) = &config.disentangled {
        if kind.convolution > 0 {
            all.extend(both(CONVOLUTION_NORM, vec![h]));
        }
        all.push((RELATIVE.to_owned(), vec![2 * kind.span, h]));
    }
    if config.rotary.is_some() {
        all.extend(both(FINAL_NORM, vec![h]));
    }
    all
}

/// The names of the linear maps of layer `index`, in the order of [`LayerWeights::linears`].
pub fn linear_names(config: &EncoderConfig, index: usize) -> [String; 6] {
    layer_names(config.architecture).0.map(|name| format!("encoder.layer.{index}.{name}"))
}

/// The names of the norms of layer `index`, in the order of [`LayerWeights::norms`].
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

/// What a head applies to the pooled state before its linear map.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// `[hidden x hidden]`.
    pub linear: Linear,
    /// What follows it.
    pub activation: Activation,
    /// A LayerNorm after that, of the encoder's epsilon (ModernBERT).
    pub norm: Option<Norm>,
}

/// A classification head on the pooled hidden state.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    /// How to pool.
    pub pooling: Pooling,
    /// What comes before the linear map, where anything does.
    pub dense: Option<Dense>,
    /// `[labels x hidden]`.
    pub linear: Linear,
    /// Logits are divided by it before they become probabilities (calibration).
    pub temperature: f32,
}
