//! A classifier of the Hugging Face hub: `config.json` and `model.safetensors` of the original implementation's
//! `...ForSequenceClassification`, with its own head. Its tensors are brought under BERT's names, and its head into one
//! form, so that what reads weights, packs them and computes with them need not know where they come from.

use super::SlmError;
use super::config::{ALL_ACTIVATIONS, Activation, Architecture, EncoderConfig, HubConfig};
use super::pack::{FORMAT, PackedMeta, PackedSlm, PackedWeights, Precision};
use super::weights::{
    Dense, EncoderWeights, Head, Linear, Pooling, Reader, SafetensorsSource, ShapedTensor, TensorSource,
};
use super::{Scoring, pack::DenseShape};

/// What a classifier's `config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub struct HubClassifier {
    /// The encoder's shape.
    pub encoder: EncoderConfig,
    /// Labels in the order of the outputs.
    pub labels: Vec<String>,
    /// How its logits become probabilities.
    pub scoring: Scoring,
    pooling: Pooling,
    /// What follows the first map of the head.
    activation: Activation,
    /// Whether DeBERTa's table of relative positions goes through a LayerNorm.
    normalises_relative: bool,
}

impl HubClassifier {
    /// Reads a `config.json`; `file` names it in errors. Everything that is not served is an error that says why: another
    /// architecture, code of the repository's own, a score instead of labels, a head that is none for whole texts.
    pub fn from_json(json: &[u8], file: &str) -> Result<Self, SlmError> {
        let config = HubConfig::from_json(json, file)?;
        let encoder = config.encoder()?;
        let heads = config.texts("architectures");
        if !heads.is_empty() && !heads.iter().any(|head| head.ends_with("ForSequenceClassification")) {
            let problem = format!("architectures is {heads:?}, expected one that ends with ForSequenceClassification");
            return Err(config.fail(problem));
        }
        let scoring = match config.text("problem_type") {
            None | Some("single_label_classification") => Scoring::Softmax,
            Some("multi_label_classification") => Scoring::Sigmoid,
            Some(other) => {
                let expected = "single_label_classification or multi_label_classification";
                return Err(config.fail(format!("problem_type is '{other}', expected {expected}")));
            }
        };
        let activation = match encoder.architecture {
            Architecture::Distilbert => Activation::Relu,
            Architecture::Electra => Activation::Gelu,
            Architecture::DebertaV2 => config.activation("pooler_hidden_act", "gelu", &ALL_ACTIVATIONS)?,
            Architecture::Modernbert => config.activation("classifier_activation", "gelu", &ALL_ACTIVATIONS)?,
            _ => Activation::Tanh,
        };
        let pooling = match config.text("classifier_pooling") {
            Some("mean") if encoder.architecture == Architecture::Modernbert => Pooling::Mean,
            _ => Pooling::Cls,
        };
        let (labels, normalises_relative) = (config.labels()?, config.normalises_relative());
        Ok(Self { encoder, labels, scoring, pooling, activation, normalises_relative })
    }

    /// Reads encoder and head from the bytes of a safetensors file, which `file` names in errors. A missing tensor, one of
    /// another shape than the config says, or a value that is not finite is an error.
    pub fn read(&self, safetensors: &[u8], file: &str) -> Result<(EncoderWeights, Head), SlmError> {
        let source = SafetensorsSource::new(safetensors, file)?;
        let renamed = Renamed::new(self, &source);
        let weights: EncoderWeights = EncoderWeights::read(&self.encoder, &renamed)?;
        Ok((weights, self.head(&source, renamed.prefix)?))
    }

    fn head(&self, source: &SafetensorsSource<'_>, prefix: &str) -> Result<Head, SlmError> {
        use Architecture::{Albert, Bert, DebertaV2, Distilbert, Electra, Modernbert, Mpnet, Roberta, XlmRoberta};
        let (hidden, labels) = (self.encoder.hidden_size, self.labels.len());
        let (dense, output) = match self.encoder.architecture {
            Bert => (format!("{prefix}pooler.dense"), "classifier"),
            Albert => (format!("{prefix}pooler"), "classifier"),
            DebertaV2 => ("pooler.dense".to_owned(), "classifier"),
            Distilbert => ("pre_classifier".to_owned(), "classifier"),
            Modernbert => ("head.dense".to_owned(), "classifier"),
            Roberta | XlmRoberta | Electra | Mpnet => ("classifier.dense".to_owned(), "classifier.out_proj"),
        };
        let modern = self.encoder.architecture == Modernbert;
        let zeroed = ZeroBiases { source, active: modern, width: hidden };
        let (plain, reader) = (Reader::plain(source), Reader::plain(&zeroed));
        let dense = Dense {
            linear: reader.linear(&dense, hidden, hidden)?,
            activation: self.activation,
            norm: if modern { Some(reader.norm("head.norm", hidden)?) } else { None },
        };
        let linear: Linear = plain.linear(output, labels, hidden)?;
        Ok(Head { pooling: self.pooling, dense: Some(dense), linear, temperature: 1.0 })
    }
}

/// Reads a classifier of the hub: `config` are the bytes of its `config.json`, `safetensors` those of its
/// `model.safetensors`. Its weights are in f32; `id` and `task` are what it will be known by, `max_length` is the longest
/// text in tokens, cut to what the model takes.
pub fn read(
    config: &[u8],
    safetensors: &[u8],
    (id, task): (&str, &str),
    max_length: usize,
) -> Result<PackedSlm, SlmError> {
    let classifier = HubClassifier::from_json(config, &format!("{id}/config.json"))?;
    let (weights, head) = classifier.read(safetensors, &format!("{id}/model.safetensors"))?;
    let HubClassifier { encoder, labels, scoring, .. } = classifier;
    let meta = PackedMeta {
        format: FORMAT,
        id: id.to_owned(),
        task: task.to_owned(),
        labels,
        base: id.to_owned(),
        max_length: max_length.min(encoder.max_length()),
        config: encoder,
        pooling: head.pooling,
        dense: head.dense.as_ref().map(DenseShape::of),
        scoring,
        temperature: head.temperature,
        precision: Precision::F32,
    };
    meta.check(&format!("{id}/config.json"))?;
    Ok(PackedSlm { meta, weights: PackedWeights::F32(weights), head })
}

/// A file's tensors by the names of [`EncoderWeights::tensors`].
struct Renamed<'a> {
    source: &'a SafetensorsSource<'a>,
    config: &'a EncoderConfig,
    normalises_relative: bool,
    prefix: &'static str,
}

/// Where a tensor is in the file.
struct Place {
    name: String,
    /// Of several that lie in one, row after row, which it is, and how many there are.
    part: Option<(usize, usize)>,
}

impl<'a> Renamed<'a> {
    fn new(classifier: &'a HubClassifier, source: &'a SafetensorsSource<'a>) -> Self {
        let HubClassifier { encoder: config, normalises_relative, .. } = classifier;
        let mut renamed = Self { source, config, normalises_relative: *normalises_relative, prefix: "" };
        let own = match config.architecture {
            Architecture::Bert => "bert.",
            Architecture::Roberta | Architecture::XlmRoberta => "roberta.",
            Architecture::Distilbert => "distilbert.",
            Architecture::Electra => "electra.",
            Architecture::Mpnet => "mpnet.",
            Architecture::Albert => "albert.",
            Architecture::DebertaV2 => "deberta.",
            Architecture::Modernbert => "model.",
        };
        // A file without it is one of the encoder alone; its head will be missed by name.
        if !source.has(&renamed.place("embeddings.word_embeddings.weight").name) {
            renamed.prefix = own;
        }
        renamed
    }

    fn place(&self, name: &str) -> Place {
        let (own, part) = match name.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => {
                let (map, kind) = rest.rsplit_once('.').unwrap_or((rest, ""));
                let (own, part) = self.of_layer(layer, map);
                (format!("{own}.{kind}"), part)
            }
            None => (self.of_model(name), None),
        };
        let name = format!("{}{own}", self.prefix);
        // The names that LayerNorm's parameters had in the first releases.
        let old = [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")];
        let older = old.iter().find_map(|(new, old)| name.strip_suffix(new).map(|stem| format!("{stem}{old}")));
        match older {
            Some(older) if !self.source.has(&name) && self.source.has(&older) => Place { name: older, part },
            _ => Place { name, part },
        }
    }

    fn of_model(&self, name: &str) -> String {
        let pairs: &[(&str, &str)] = match self.config.architecture {
            Architecture::Albert => &[("embeddings_project", "encoder.embedding_hidden_mapping_in")],
            Architecture::Modernbert => &[
                ("embeddings.word_embeddings", "embeddings.tok_embeddings"),
                ("embeddings.LayerNorm", "embeddings.norm"),
            ],
            _ => &[],
        };
        let renamed = pairs.iter().find_map(|(from, to)| name.strip_prefix(from).map(|rest| format!("{to}{rest}")));
        renamed.unwrap_or_else(|| name.to_owned())
    }

    /// A map or norm of a layer.
    fn of_layer(&self, layer: &str, map: &str) -> (String, Option<(usize, usize)>) {
        let whole = |folder: &str, name: &str| (format!("{folder}{layer}.{name}"), None);
        match self.config.architecture {
            Architecture::Distilbert => whole("transformer.layer.", distilbert(map)),
            Architecture::Albert => {
                (format!("encoder.albert_layer_groups.{layer}.albert_layers.0.{}", albert(map)), None)
            }
            Architecture::DebertaV2 => match map {
                "attention.self.query" | "attention.self.key" | "attention.self.value" => {
                    (format!("encoder.layer.{layer}.{map}_proj"), None)
                }
                _ => whole("encoder.layer.", map),
            },
            Architecture::Modernbert => {
                let (name, part) = modernbert(map);
                (format!("layers.{layer}.{name}"), part)
            }
            _ => whole("encoder.layer.", map),
        }
    }

    /// What ModernBERT leaves out: biases, and the norm before the first layer.
    fn left_out(&self, name: &str) -> Option<ShapedTensor> {
        if self.config.architecture != Architecture::Modernbert {
            return None;
        }
        let (hidden, inner) = (self.config.hidden_size, self.config.intermediate_size);
        let is_inner = name.ends_with("intermediate.dense.bias") || name.ends_with("intermediate.gate.bias");
        let width = if is_inner { inner } else { hidden };
        match name {
            "encoder.layer.0.attention.output.LayerNorm.weight" => Some((vec![width], vec![1.0; width])),
            _ if name.ends_with(".bias") => Some((vec![width], vec![0.0; width])),
            _ => None,
        }
    }

    /// DeBERTa's table as its layers take it.
    fn normalised(&self, (shape, mut values): ShapedTensor) -> Result<ShapedTensor, SlmError> {
        let hidden = self.config.hidden_size;
        if self.normalises_relative && shape.last() == Some(&hidden) {
            let norm = Reader::plain(self).norm("encoder.LayerNorm", hidden)?;
            values.chunks_exact_mut(hidden).for_each(|row| norm.apply(row, self.config.layer_norm_eps));
        }
        // Rows beyond the span are never looked at.
        let rows = self.config.disentangled.as_ref().map_or(0, |kind| 2 * kind.span);
        match shape[..] {
            [all, width] if all > rows && width == hidden => {
                values.truncate(rows * hidden);
                Ok((vec![rows, hidden], values))
            }
            _ => Ok((shape, values)),
        }
    }
}

fn distilbert(map: &str) -> &str {
    match map {
        "attention.self.query" => "attention.q_lin",
        "attention.self.key" => "attention.k_lin",
        "attention.self.value" => "attention.v_lin",
        "attention.output.dense" => "attention.out_lin",
        "attention.output.LayerNorm" => "sa_layer_norm",
        "intermediate.dense" => "ffn.lin1",
        "output.dense" => "ffn.lin2",
        "output.LayerNorm" => "output_layer_norm",
        other => other,
    }
}

fn albert(map: &str) -> &str {
    match map {
        "attention.self.query" => "attention.query",
        "attention.self.key" => "attention.key",
        "attention.self.value" => "attention.value",
        "attention.output.dense" => "attention.dense",
        "attention.output.LayerNorm" => "attention.LayerNorm",
        "intermediate.dense" => "ffn",
        "output.dense" => "ffn_output",
        "output.LayerNorm" => "full_layer_layer_norm",
        other => other,
    }
}

fn modernbert(map: &str) -> (&str, Option<(usize, usize)>) {
    match map {
        "attention.self.query" => ("attn.Wqkv", Some((0, 3))),
        "attention.self.key" => ("attn.Wqkv", Some((1, 3))),
        "attention.self.value" => ("attn.Wqkv", Some((2, 3))),
        "attention.output.dense" => ("attn.Wo", None),
        "attention.output.LayerNorm" => ("attn_norm", None),
        "intermediate.dense" => ("mlp.Wi", Some((0, 2))),
        "intermediate.gate" => ("mlp.Wi", Some((1, 2))),
        "output.dense" => ("mlp.Wo", None),
        "output.LayerNorm" => ("mlp_norm", None),
        other => (other, None),
    }
}

impl TensorSource for Renamed<'_> {
    fn file(&self) -> &str {
        self.source.file()
    }

    fn has(&self, name: &str) -> bool {
        self.source.has(&self.place(name).name) || self.left_out(name).is_some()
    }

    fn name_in_file(&self, name: &str) -> String {
        self.place(name).name
    }

    fn tensor(&self, name: &str) -> Result<Option<ShapedTensor>, SlmError> {
        let Place { name: place, part } = self.place(name);
        let Some((mut shape, values)) = self.source.tensor(&place)? else { return Ok(self.left_out(name)) };
        if let (Some((index, of)), Some(rows)) = (part, shape.first_mut())
            && rows.is_multiple_of(of)
        {
            *rows /= of;
            let size = values.len() / of;
            return Ok(Some((shape, values[index * size..(index + 1) * size].to_vec())));
        }
        // One that could not be cut has the wrong shape, and the reader says so.
        match (name, &shape[..]) {
            ("encoder.rel_embeddings.weight", _) => self.normalised((shape, values)).map(Some),
            // A convolution's weights are a matrix with the places of an input side by side.
            ("encoder.conv.conv.weight", [outputs, inputs, size]) => {
                Ok(Some((vec![*outputs, inputs.saturating_mul(*size)], values)))
            }
            _ => Ok(Some((shape, values))),
        }
    }
}

/// A source whose missing biases are zeros, where that is `active`.
struct ZeroBiases<'a> {
    source: &'a SafetensorsSource<'a>,
    active: bool,
    width: usize,
}

impl TensorSource for ZeroBiases<'_> {
    fn file(&self) -> &str {
        self.source.file()
    }

    fn tensor(&self, name: &str) -> Result<Option<ShapedTensor>, SlmError> {
        let found = self.source.tensor(name)?;
        let left_out = self.active && found.is_none() && name.ends_with(".bias");
        Ok(found.or_else(|| left_out.then(|| (vec![self.width], vec![0.0; self.width]))))
    }
}
