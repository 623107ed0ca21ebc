//! The tensors of an encoder, checked against its config, in one layout for every engine.

use super::SlmError;
use super::config::{Architecture, EncoderConfig};
use safetensors::{Dtype, SafeTensors};

/// Somewhere that named tensors come from.
pub trait TensorSource {
    /// The file's name, for errors.
    fn file(&self) -> &str;

    /// The shape and values of a tensor, or none where it has no such tensor.
    fn tensor(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>, SlmError>;
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

    fn tensor(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>, SlmError> {
        let Ok(view) = self.tensors.tensor(name) else { return Ok(None) };
        let values = to_f32(view.dtype(), view.data()).ok_or_else(|| SlmError::File {
            file: self.file.clone(),
            problem: format!("tensor '{name}' is {:?}, expected F32, F16 or BF16", view.dtype()),
        })?;
        Ok(Some((view.shape().to_vec(), values)))
    }
}

/// Little-endian bytes of a float type as f32; none for another type.
fn to_f32(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    Some(match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        _ => return None,
    })
}

/// A linear map, `y = W x + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// `[outputs x inputs]`, row by row, as in PyTorch.
    pub weight: Vec<f32>,
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
pub struct LayerWeights {
    /// Query, `[hidden x hidden]`.
    pub query: Linear,
    /// Key, `[hidden x hidden]`.
    pub key: Linear,
    /// Value, `[hidden x hidden]`.
    pub value: Linear,
    /// Output of the attention, `[hidden x hidden]`.
    pub output: Linear,
    /// After the attention's residual.
    pub attention_norm: Norm,
    /// First of the feed-forward part, `[intermediate x hidden]`, followed by GELU.
    pub up: Linear,
    /// Second of the feed-forward part, `[hidden x intermediate]`.
    pub down: Linear,
    /// After the feed-forward's residual.
    pub output_norm: Norm,
}

/// The weights of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderWeights {
    /// The shapes.
    pub config: EncoderConfig,
    /// Word embedding, `[vocab x hidden]`.
    pub words: Vec<f32>,
    /// Position embedding, `[max_position_embeddings x hidden]`.
    pub positions: Vec<f32>,
    /// Token type embedding, `[type_vocab x hidden]`; empty for MPNet.
    pub token_types: Vec<f32>,
    /// After the sum of the embeddings.
    pub embedding_norm: Norm,
    /// The layers.
    pub layers: Vec<LayerWeights>,
    /// MPNet's bias by bucket and head, `[buckets x heads]`; empty for BERT.
    pub relative_bias: Vec<f32>,
}

/// The names of the parts of a layer in the files of an architecture, in the order of [`LINEARS`] then [`NORMS`].
pub const LINEARS: [&str; 6] = ["query", "key", "value", "output", "up", "down"];
/// The norms of a layer.
pub const NORMS: [&str; 2] = ["attention_norm", "output_norm"];

impl LayerWeights {
    /// The linear maps, in the order of [`LINEARS`].
    pub fn linears(&self) -> [&Linear; 6] {
        [&self.query, &self.key, &self.value, &self.output, &self.up, &self.down]
    }

    /// The linear maps, to be changed, in the order of [`LINEARS`].
    pub fn linears_mut(&mut self) -> [&mut Linear; 6] {
        [&mut self.query, &mut self.key, &mut self.value, &mut self.output, &mut self.up, &mut self.down]
    }

    /// The norms, in the order of [`NORMS`].
    pub fn norms(&self) -> [&Norm; 2] {
        [&self.attention_norm, &self.output_norm]
    }

    /// The norms, to be changed, in the order of [`NORMS`].
    pub fn norms_mut(&mut self) -> [&mut Norm; 2] {
        [&mut self.attention_norm, &mut self.output_norm]
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

/// Reads tensors of known shape, whatever prefix (`bert.`, `mpnet.`) the file gives them.
struct Reader<'a> {
    source: &'a dyn TensorSource,
    prefix: &'static str,
}

impl<'a> Reader<'a> {
    fn new(source: &'a dyn TensorSource) -> Result<Self, SlmError> {
        for prefix in ["", "bert.", "mpnet."] {
            if source.tensor(&format!("{prefix}embeddings.LayerNorm.weight"))?.is_some() {
                return Ok(Self { source, prefix });
            }
        }
        Ok(Self { source, prefix: "" })
    }

    fn tensor(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, SlmError> {
        let tensor = format!("{}{name}", self.prefix);
        let file = || self.source.file().to_owned();
        let Some((found, values)) = self.source.tensor(&tensor)? else {
            return Err(SlmError::MissingTensor { file: file(), tensor, expected: expected.to_vec() });
        };
        if found != expected {
            return Err(SlmError::Shape { file: file(), tensor, found, expected: expected.to_vec() });
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(SlmError::NotFinite { file: file(), tensor, index });
        }
        Ok(values)
    }

    fn linear(&self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, SlmError> {
        Ok(Linear {
            weight: self.tensor(&format!("{name}.weight"), &[outputs, inputs])?,
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

    fn layer(&self, config: &EncoderConfig, index: usize) -> Result<LayerWeights, SlmError> {
        let (linears, norms) = layer_names(config.architecture);
        let (h, i) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        Ok(LayerWeights {
            query: self.linear(&name(linears[0]), h, h)?,
            key: self.linear(&name(linears[1]), h, h)?,
            value: self.linear(&name(linears[2]), h, h)?,
            output: self.linear(&name(linears[3]), h, h)?,
            up: self.linear(&name(linears[4]), i, h)?,
            down: self.linear(&name(linears[5]), h, i)?,
            attention_norm: self.norm(&name(norms[0]), h)?,
            output_norm: self.norm(&name(norms[1]), h)?,
        })
    }
}

impl EncoderWeights {
    /// Reads an encoder in the hub's naming. A missing tensor, a wrong shape or a value that is not finite is an error.
    pub fn read(config: &EncoderConfig, source: &dyn TensorSource) -> Result<Self, SlmError> {
        let reader = Reader::new(source)?;
        let h = config.hidden_size;
        let bert = config.architecture == Architecture::Bert;
        Ok(Self {
            words: reader.tensor("embeddings.word_embeddings.weight", &[config.vocab_size, h])?,
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

    /// All tensors by their names on the hub, with shapes: what [`Self::read`] reads, in a fixed order.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        let config = &self.config;
        let h = config.hidden_size;
        let mut all: Vec<(String, Vec<usize>, &[f32])> = vec![
            ("embeddings.word_embeddings.weight".into(), vec![config.vocab_size, h], &self.words),
            ("embeddings.position_embeddings.weight".into(), vec![config.max_position_embeddings, h], &self.positions),
        ];
        if !self.token_types.is_empty() {
            let shape = vec![config.type_vocab_size, h];
            all.push(("embeddings.token_type_embeddings.weight".into(), shape, &self.token_types));
        }
        fn norm<'a>(all: &mut Vec<(String, Vec<usize>, &'a [f32])>, name: &str, norm: &'a Norm) {
            all.push((format!("{name}.weight"), vec![norm.gamma.len()], &norm.gamma));
            all.push((format!("{name}.bias"), vec![norm.beta.len()], &norm.beta));
        }
        norm(&mut all, "embeddings.LayerNorm", &self.embedding_norm);
        let (linear_names, norm_names) = layer_names(config.architecture);
        for (index, layer) in self.layers.iter().enumerate() {
            for (name, linear) in linear_names.iter().zip(layer.linears()) {
                let name = format!("encoder.layer.{index}.{name}");
                all.push((format!("{name}.weight"), vec![linear.outputs, linear.inputs], &linear.weight));
                all.push((format!("{name}.bias"), vec![linear.outputs], &linear.bias));
            }
            for (name, weights) in norm_names.iter().zip(layer.norms()) {
                norm(&mut all, &format!("encoder.layer.{index}.{name}"), weights);
            }
        }
        if !self.relative_bias.is_empty() {
            let shape = vec![config.relative_attention_num_buckets, config.num_attention_heads];
            all.push(("encoder.relative_attention_bias.weight".into(), shape, &self.relative_bias));
        }
        all
    }
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
