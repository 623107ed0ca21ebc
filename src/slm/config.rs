//! `config.json` of the Hugging Face hub, as far as an encoder needs it.

use super::SlmError;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The encoder families that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// BERT: learned positions and token types.
    #[default]
    Bert,
    /// MPNet: learned positions from `pad_token_id + 1`, relative position bias shared by all layers.
    Mpnet,
    /// RoBERTa, and BERTweet, which is one: BERT with positions from `pad_token_id + 1`.
    Roberta,
    /// XLM-RoBERTa: RoBERTa with another vocabulary.
    XlmRoberta,
    /// DistilBERT: BERT without token types.
    Distilbert,
    /// ELECTRA's discriminator: BERT whose embeddings may be narrower than its layers.
    Electra,
    /// ALBERT: BERT with narrower embeddings and layers that are used several times.
    Albert,
    /// DeBERTa, versions 2 and 3: attention to content and to relative positions apart.
    DebertaV2,
    /// ModernBERT: norms first, rotary positions, gated feed-forward parts, local and global attention in turns.
    Modernbert,
}

impl Architecture {
    /// All of them, by the `model_type` of their `config.json`.
    pub const ALL: [(&'static str, Self); 9] = [
        ("bert", Self::Bert),
        ("roberta", Self::Roberta),
        ("xlm-roberta", Self::XlmRoberta),
        ("distilbert", Self::Distilbert),
        ("electra", Self::Electra),
        ("mpnet", Self::Mpnet),
        ("albert", Self::Albert),
        ("deberta-v2", Self::DebertaV2),
        ("modernbert", Self::Modernbert),
    ];

    /// The `model_type` of its `config.json`.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, one)| *one == self).map_or("bert", |(name, _)| name)
    }
}

/// A function of single values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `x / 2 (1 + erf(x / sqrt 2))`.
    #[default]
    Gelu,
    /// GELU by its approximation with tanh (arXiv 1606.08415).
    GeluTanh,
    /// The hyperbolic tangent.
    Tanh,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// By the hub's name of it.
    pub fn from_hub(name: &str) -> Option<Self> {
        match name {
            "gelu" | "gelu_python" => Some(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Some(Self::GeluTanh),
            "tanh" => Some(Self::Tanh),
            "relu" => Some(Self::Relu),
            _ => None,
        }
    }

    /// Of one value. GELU is off by less than 3e-7.
    pub fn of(self, x: f32) -> f32 {
        match self {
            Self::Gelu => super::cpu::gelu(x),
            Self::GeluTanh => x / (1.0 + (-gelu_slope(x)).exp()),
            Self::Tanh => x.tanh(),
            Self::Relu => x.max(0.0),
        }
    }
}

/// Twice what GELU's approximation takes the tanh of: `x (1 + tanh(u)) / 2` is `x / (1 + e^-2u)`.
fn gelu_slope(x: f32) -> f32 {
    const FACTOR: f32 = 2.0 * 0.797_884_6; // sqrt(2 / pi)
    FACTOR * (x + 0.044_715 * x * x * x)
}

/// DeBERTa's relative positions (arXiv 2006.03654).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Disentangled {
    /// Distances to either side that have an embedding; the table has twice as many rows.
    pub span: usize,
    /// Buckets of distances, the farther half logarithmic; 0 where each distance up to the span has its own.
    #[serde(default)]
    pub buckets: usize,
    /// The distance that the buckets reach to.
    #[serde(default)]
    pub reach: usize,
    /// Whether relative positions go through the layer's own query and key maps, or through maps of their own.
    pub shared: bool,
    /// Whether content attends to positions.
    pub content_to_position: bool,
    /// Whether positions attend to content.
    pub position_to_content: bool,
    /// Whether absolute positions are added to the embeddings.
    pub absolute: bool,
    /// Inputs of the convolution beside the first layer, an odd number; 0 for none.
    #[serde(default)]
    pub convolution: usize,
    /// What follows the convolution.
    #[serde(default)]
    pub convolution_activation: Activation,
}

/// ModernBERT's positions (arXiv 2412.13663).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rotary {
    /// Every so many layers, from the first on, attention is global; in the others it is local.
    pub global_every: usize,
    /// How far local attention reaches to either side.
    pub window: usize,
    /// Base of the angles in layers of global attention.
    pub global_theta: f32,
    /// Base of the angles in layers of local attention.
    pub local_theta: f32,
}

/// The shape of an encoder.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// The family.
    #[serde(rename = "model_type")]
    pub architecture: Architecture,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Width of a token's hidden state.
    pub hidden_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads; they divide the hidden size.
    pub num_attention_heads: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Rows of the position embedding.
    pub max_position_embeddings: usize,
    /// Rows of the token type embedding; 0 where there is none.
    #[serde(default)]
    pub type_vocab_size: usize,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f32,
    /// Buckets of the relative position bias (MPNet).
    #[serde(default)]
    pub relative_attention_num_buckets: usize,
    /// The padding token; MPNet and RoBERTa count positions from the one after it.
    #[serde(default)]
    pub pad_token_id: usize,
    /// Width of the embeddings, where a linear map takes them to the hidden size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_size: Option<usize>,
    /// What the feed-forward part applies: GELU, or its approximation.
    #[serde(default, skip_serializing_if = "is_default")]
    pub activation: Activation,
    /// Layers that differ, each used for as many consecutive ones, where they are used several times (ALBERT).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_groups: Option<usize>,
    /// DeBERTa's relative positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disentangled: Option<Disentangled>,
    /// ModernBERT's positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary: Option<Rotary>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// No size in a config may pass this: it keeps a hostile file from asking for memory.
const MAX_SIZE: usize = 1 << 20;

/// A `config.json`, whose values are asked for by name.
pub(super) struct HubConfig<'a> {
    file: &'a str,
    value: Value,
}

impl<'a> HubConfig<'a> {
    /// Reads it; what asks for code of its own, or gives one score instead of labels, is refused.
    pub(super) fn from_json(json: &[u8], file: &'a str) -> Result<Self, SlmError> {
        let fail = |problem: String| SlmError::File { file: file.to_owned(), problem };
        let value: Value = serde_json::from_slice(json).map_err(|e| fail(format!("not valid JSON: {e}")))?;
        let config = Self { file, value };
        if config.get("auto_map").is_some_and(|map| map.as_object().is_none_or(|map| !map.is_empty())) {
            return Err(config.fail("auto_map names code of the repository's own, which is never run; choose a model of a supported architecture without it"));
        }
        if config.get("quantization_config").is_some() {
            return Err(config.fail("its weights are quantised (quantization_config); give the original ones"));
        }
        if config.text("problem_type").is_some_and(|kind| kind == "regression") {
            return Err(config.fail(REGRESSION));
        }
        if config.labels()?.len() < 2 {
            return Err(config.fail(REGRESSION));
        }
        Ok(config)
    }

    /// The value of a key; a null is as good as none.
    fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn fail(&self, problem: impl Into<String>) -> SlmError {
        SlmError::File { file: self.file.to_owned(), problem: problem.into() }
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// A list of texts; what is none is empty.
    pub(super) fn texts(&self, key: &str) -> Vec<&str> {
        self.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> SlmError {
        self.fail(format!("{key} is {value}, expected {expected}"))
    }

    /// A size that must be there.
    fn size(&self, key: &str) -> Result<usize, SlmError> {
        let value = self.get(key).ok_or_else(|| self.fail(format!("there is no '{key}'")))?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| self.wrong(key, value, "a whole number"))
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, SlmError> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    fn number_or(&self, key: &str, default: f32) -> Result<f32, SlmError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().map(|number| number as f32).ok_or_else(|| self.wrong(key, value, "a number"))
    }

    /// An activation; `allowed` says which will do.
    pub(super) fn activation(&self, key: &str, default: &str, allowed: &[Activation]) -> Result<Activation, SlmError> {
        let name = self.text(key).unwrap_or(default);
        Activation::from_hub(name).filter(|one| allowed.contains(one)).ok_or_else(|| {
            let names = ["gelu", "gelu_new", "tanh", "relu"];
            let known =
                names.into_iter().filter(|name| Activation::from_hub(name).is_some_and(|a| allowed.contains(&a)));
            self.fail(format!("{key} is '{name}', expected {}", known.collect::<Vec<_>>().join(" or ")))
        })
    }

    /// The labels in the order of the outputs: those of `id2label`, else the hub's own names for as many as `num_labels`.
    pub(super) fn labels(&self) -> Result<Vec<String>, SlmError> {
        let Some(map) = self.get("id2label").and_then(Value::as_object) else {
            let count = self.size_or("num_labels", 2)?;
            if count > MAX_LABELS {
                return Err(self.fail(format!("num_labels is {count}, expected at most {MAX_LABELS}")));
            }
            return Ok((0..count).map(|label| format!("LABEL_{label}")).collect());
        };
        if map.len() > MAX_LABELS {
            return Err(self.fail(format!("id2label has {} labels, expected at most {MAX_LABELS}", map.len())));
        }
        let mut labels = vec![None; map.len()];
        for (id, name) in map {
            let place = id.parse().ok().and_then(|id: usize| labels.get_mut(id));
            let (Some(place), Some(name)) = (place, name.as_str()) else {
                let problem = format!("id2label has '{id}': {name}, expected names for 0 to {}", map.len() - 1);
                return Err(self.fail(problem));
            };
            *place = Some(name.to_owned());
        }
        labels
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| self.fail("id2label names an output twice, another not"))
    }

    fn architecture(&self) -> Result<Architecture, SlmError> {
        let found = self.text("model_type").unwrap_or("none");
        let known = Architecture::ALL.into_iter().find(|(name, _)| *name == found);
        let error = || SlmError::Architecture { file: self.file.to_owned(), found: found.to_owned() };
        known.map(|(_, architecture)| architecture).ok_or_else(error)
    }

    /// The encoder's shape. Keys that are missing have the value that they have in the original implementation; the sizes
    /// must be there.
    pub(super) fn encoder(&self) -> Result<EncoderConfig, SlmError> {
        use Architecture::{Albert, Bert, DebertaV2, Distilbert, Electra, Modernbert, Mpnet, Roberta, XlmRoberta};
        let architecture = self.architecture()?;
        if let Some(found) = self.text("position_embedding_type").filter(|found| *found != "absolute") {
            return Err(self.fail(format!("position_embedding_type is '{found}', expected 'absolute'")));
        }
        if self.flag("is_decoder", false) {
            return Err(self.fail("it is a decoder (is_decoder); expected an encoder"));
        }
        let distil = architecture == Distilbert;
        let key = |own: &'static str, others: &'static str| if distil { own } else { others };
        let (act, act_default) = match architecture {
            Distilbert => ("activation", "gelu"),
            Modernbert => ("hidden_activation", "gelu"),
            Albert => ("hidden_act", "gelu_new"),
            _ => ("hidden_act", "gelu"),
        };
        let mut config = EncoderConfig {
            architecture,
            vocab_size: self.size("vocab_size")?,
            hidden_size: self.size(key("dim", "hidden_size"))?,
            num_hidden_layers: self.size(key("n_layers", "num_hidden_layers"))?,
            num_attention_heads: self.size(key("n_heads", "num_attention_heads"))?,
            intermediate_size: self.size(key("hidden_dim", "intermediate_size"))?,
            max_position_embeddings: self.size("max_position_embeddings")?,
            type_vocab_size: match architecture {
                Mpnet | Distilbert | Modernbert => 0,
                DebertaV2 => self.size_or("type_vocab_size", 0)?,
                _ => self.size_or("type_vocab_size", 2)?,
            },
            layer_norm_eps: match architecture {
                Distilbert => 1e-12,
                DebertaV2 => self.number_or("layer_norm_eps", 1e-7)?,
                Modernbert => self.number_or("norm_eps", 1e-5)?,
                Bert | Mpnet | Roberta | XlmRoberta | Electra | Albert => self.number_or("layer_norm_eps", 1e-12)?,
            },
            relative_attention_num_buckets: match architecture {
                Mpnet => self.size_or("relative_attention_num_buckets", 32)?,
                _ => 0,
            },
            pad_token_id: match architecture {
                Roberta | XlmRoberta | Mpnet => self.size_or("pad_token_id", 1)?,
                _ => self.size_or("pad_token_id", 0)?,
            },
            activation: self.activation(act, act_default, &[Activation::Gelu, Activation::GeluTanh])?,
            ..EncoderConfig::default()
        };
        match architecture {
            Electra => {
                let size = self.size_or("embedding_size", 128)?;
                config.embedding_size = Some(size).filter(|size| *size != config.hidden_size);
            }
            Albert => {
                config.embedding_size = Some(self.size_or("embedding_size", 128)?);
                config.layer_groups = Some(self.size_or("num_hidden_groups", 1)?);
                if self.size_or("inner_group_num", 1)? != 1 {
                    return Err(self.fail("inner_group_num is not 1, which is all that is supported"));
                }
            }
            DebertaV2 => config.disentangled = Some(self.disentangled(&config)?),
            Modernbert => config.rotary = Some(self.rotary()?),
            Bert | Mpnet | Roberta | XlmRoberta | Distilbert => {}
        }
        config.check(self.file)?;
        Ok(config)
    }

    fn disentangled(&self, config: &EncoderConfig) -> Result<Disentangled, SlmError> {
        if !self.flag("relative_attention", false) {
            return Err(self.fail("relative_attention is off; without it DeBERTa is not supported"));
        }
        let hidden = config.hidden_size;
        for (key, expected) in [
            ("embedding_size", hidden),
            ("pooler_hidden_size", hidden),
            ("attention_head_size", hidden / config.num_attention_heads.max(1)),
            ("conv_groups", 1),
        ] {
            let found = self.size_or(key, expected)?;
            if found != expected {
                return Err(self.fail(format!("{key} is {found}, expected {expected}")));
            }
        }
        // Whole numbers below one stand for none.
        let positive =
            |key: &str| self.get(key).and_then(Value::as_i64).filter(|value| *value > 0).unwrap_or(0) as usize;
        let reach = match positive("max_relative_positions") {
            0 => config.max_position_embeddings,
            given => given,
        };
        let buckets = positive("position_buckets");
        let kinds = self.position_kinds();
        let has = |kind: &str| kinds.iter().any(|one| one == kind);
        if let Some(other) = kinds.iter().find(|kind| !["c2p", "p2c"].contains(&kind.as_str())) {
            return Err(self.fail(format!("pos_att_type has '{other}', expected c2p and p2c")));
        }
        Ok(Disentangled {
            span: if buckets > 0 { buckets } else { reach },
            buckets,
            reach,
            shared: self.flag("share_att_key", false),
            content_to_position: has("c2p"),
            position_to_content: has("p2c"),
            absolute: self.flag("position_biased_input", true),
            convolution: positive("conv_kernel_size"),
            convolution_activation: self.activation("conv_act", "tanh", &ALL_ACTIVATIONS)?,
        })
    }

    /// `pos_att_type`, a list or a text with bars.
    fn position_kinds(&self) -> Vec<String> {
        let clean = |kind: &str| kind.trim().to_lowercase();
        let kinds: Vec<String> = match self.get("pos_att_type") {
            Some(Value::String(text)) => text.split('|').map(clean).collect(),
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(clean).collect(),
            _ => Vec::new(),
        };
        kinds.into_iter().filter(|kind| !kind.is_empty()).collect()
    }

    /// Whether the table of relative positions goes through a LayerNorm.
    pub(super) fn normalises_relative(&self) -> bool {
        self.text("norm_rel_ebd")
            .is_some_and(|kinds| kinds.to_lowercase().split('|').any(|kind| kind.trim() == "layer_norm"))
    }

    fn rotary(&self) -> Result<Rotary, SlmError> {
        if self.get("rope_scaling").is_some() {
            return Err(self.fail("rope_scaling is set, which is not supported"));
        }
        // Later releases of the original implementation keep the two bases by kind of layer.
        let theta = |kind: &str| self.get("rope_parameters")?.get(kind)?.get("rope_theta")?.as_f64().map(|x| x as f32);
        let global = theta("full_attention").map_or_else(|| self.number_or("global_rope_theta", 160_000.0), Ok)?;
        // A null stands for the other one's.
        let default = if self.value.get("local_rope_theta").is_some_and(Value::is_null) { global } else { 10_000.0 };
        let local = theta("sliding_attention").map_or_else(|| self.number_or("local_rope_theta", default), Ok)?;
        Ok(Rotary {
            global_every: self.size_or("global_attn_every_n_layers", 3)?,
            window: self.size_or("local_attention", 128)? / 2,
            global_theta: global,
            local_theta: local,
        })
    }
}

/// What an activation of a head or a convolution may be.
pub(super) const ALL_ACTIVATIONS: [Activation; 4] =
    [Activation::Gelu, Activation::GeluTanh, Activation::Tanh, Activation::Relu];

/// No model has more labels: it keeps a hostile file from asking for memory.
const MAX_LABELS: usize = 4096;

const REGRESSION: &str = "its output is a score (regression), not labels; choose a model that classifies";

impl EncoderConfig {
    /// Reads and checks a `config.json`; `file` names it in errors. An architecture that is not served, code of the
    /// repository's own, and a model whose output is a score are errors that say so.
    pub fn from_json(json: &[u8], file: &str) -> Result<Self, SlmError> {
        HubConfig::from_json(json, file)?.encoder()
    }

    /// Checks that the sizes make an encoder.
    pub fn check(&self, file: &str) -> Result<(), SlmError> {
        let fail = |problem: String| Err(SlmError::File { file: file.to_owned(), problem });
        let (groups, embedding) = (self.layer_groups.unwrap_or(1), self.embedding_size.unwrap_or(1));
        for (name, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("embedding_size", embedding),
            ("num_hidden_groups", groups),
        ] {
            if size == 0 || size > MAX_SIZE {
                return fail(format!("{name} is {size}, expected 1 to {MAX_SIZE}"));
            }
        }
        if self.type_vocab_size > MAX_SIZE || self.relative_attention_num_buckets > MAX_SIZE {
            return fail(format!("type_vocab_size or relative_attention_num_buckets is above {MAX_SIZE}"));
        }
        if self.architecture == Architecture::Bert && self.type_vocab_size == 0 {
            return fail("type_vocab_size is 0, expected at least 1".to_owned());
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return fail(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if groups > self.num_hidden_layers {
            return fail(format!("num_hidden_groups is {groups}, expected at most {}", self.num_hidden_layers));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            return fail(format!("layer_norm_eps is {}, expected above 0 and below 1", self.layer_norm_eps));
        }
        if !matches!(self.activation, Activation::Gelu | Activation::GeluTanh) {
            return fail("activation is not gelu or gelu-tanh".to_owned());
        }
        if self.max_length() == 0 {
            return fail("max_position_embeddings leaves no room for a token".to_owned());
        }
        let kinds = [Architecture::DebertaV2, Architecture::Modernbert].map(|kind| self.architecture == kind);
        if [self.disentangled.is_some(), self.rotary.is_some()] != kinds {
            return fail(format!("the positions do not belong to {}", self.architecture.name()));
        }
        if let Some(Disentangled { span, buckets, reach, convolution, .. }) = self.disentangled
            && (span == 0 || span > MAX_SIZE / 2 || reach > MAX_SIZE || convolution > 64 || buckets == 1)
        {
            return fail("position_buckets, max_relative_positions or conv_kernel_size is out of bounds".to_owned());
        }
        if self.disentangled.as_ref().is_some_and(|kind| kind.convolution > 0 && kind.convolution.is_multiple_of(2)) {
            return fail("conv_kernel_size is even, expected an odd number".to_owned());
        }
        if let Some(Rotary { global_every, global_theta, local_theta, .. }) = self.rotary {
            let sound = |theta: f32| theta.is_finite() && theta > 0.0;
            // No table bounds the positions, but their angles are kept.
            if self.max_position_embeddings > MAX_SIZE / 16 {
                return fail(format!("max_position_embeddings is above {}", MAX_SIZE / 16));
            }
            if global_every == 0 || !sound(global_theta) || !sound(local_theta) || !self.head_size().is_multiple_of(2) {
                return fail("rotary positions of these sizes are not possible".to_owned());
            }
        }
        Ok(())
    }

    /// The position embedding's row of a text's first token.
    pub fn first_position(&self) -> usize {
        match self.architecture {
            Architecture::Mpnet | Architecture::Roberta | Architecture::XlmRoberta => self.pad_token_id + 1,
            _ => 0,
        }
    }

    /// Whether absolute positions are added to the embeddings.
    pub fn has_positions(&self) -> bool {
        self.rotary.is_none() && self.disentangled.as_ref().is_none_or(|kind| kind.absolute)
    }

    /// The longest text in tokens, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_position_embeddings.saturating_sub(self.first_position())
    }

    /// Width of one attention head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// What attention scores are multiplied by: one over the root of a head's width, and of what is added up.
    pub fn attention_scale(&self) -> f32 {
        let kinds = self
            .disentangled
            .as_ref()
            .map_or(1, |kind| 1 + usize::from(kind.content_to_position) + usize::from(kind.position_to_content));
        1.0 / ((self.head_size() * kinds) as f32).sqrt()
    }

    /// Width of the embeddings.
    pub fn embedding_width(&self) -> usize {
        self.embedding_size.unwrap_or(self.hidden_size)
    }

    /// Number of layers that have weights of their own.
    pub fn distinct_layers(&self) -> usize {
        self.layer_groups.unwrap_or(self.num_hidden_layers)
    }

    /// Which of the weights layer `index` has.
    pub fn weights_of(&self, index: usize) -> usize {
        index * self.distinct_layers() / self.num_hidden_layers
    }

    /// Whether its layers are BERT's, with MPNet's bias at most: what the GPU engine and the trainer take. The CPU engine
    /// and the burn module take all.
    pub fn is_bert_like(&self) -> bool {
        self.disentangled.is_none() && self.rotary.is_none()
    }

    /// The layers between which it can be cut into parts that work one after another; 0 where it is served whole.
    pub fn layers_to_cut(&self) -> usize {
        if self.is_bert_like() && self.layer_groups.is_none() { self.num_hidden_layers } else { 0 }
    }

    /// Why it cannot be trained, where it cannot.
    pub fn untrainable(&self) -> Option<String> {
        let name = self.architecture.name();
        if !self.is_bert_like() {
            return Some(format!(
                "{name} is served, not trained; train on BERT, RoBERTa, DistilBERT, ELECTRA or MPNet"
            ));
        }
        if self.layer_groups.is_some() || self.activation != Activation::Gelu {
            return Some(format!("{name} with shared layers or an approximate GELU is served, not trained"));
        }
        None
    }
}

/// The row of DeBERTa's table for a distance (query minus key): by buckets of which the farther are logarithmic, or by
/// the distance itself, cut at the span.
pub fn disentangled_row(kind: &Disentangled, distance: i64) -> usize {
    let bucket = if kind.buckets > 0 { log_bucket(distance, kind.buckets, kind.reach) } else { distance };
    let span = kind.span as i64;
    (bucket + span).clamp(0, 2 * span - 1) as usize
}

fn log_bucket(distance: i64, buckets: usize, reach: usize) -> i64 {
    let middle = (buckets / 2) as i64;
    let size = distance.abs();
    if size <= middle {
        return distance;
    }
    // f32 as in the original: a boundary must fall into the same bucket.
    let mid = middle as f32;
    let ratio = (size as f32 / mid).ln() / ((reach as f32 - 1.0) / mid).ln();
    let log = (ratio * (mid - 1.0)).ceil() as i64 + middle;
    log * distance.signum()
}

/// The bucket of a relative position (key minus query), as T5 and MPNet do it: bidirectional, half of the buckets exact,
/// the other half logarithmic up to a distance of 128.
pub fn relative_position_bucket(relative: i64, buckets: usize) -> usize {
    const MAX_DISTANCE: f64 = 128.0;
    let half = buckets / 2;
    let base = if relative > 0 { half } else { 0 };
    let distance = relative.unsigned_abs() as usize;
    let exact = half / 2;
    if distance < exact {
        return base + distance;
    }
    // f32 as in the original: a boundary must fall into the same bucket.
    let ratio = (distance as f32 / exact as f32).ln() / (MAX_DISTANCE as f32 / exact as f32).ln();
    let log = exact + (ratio * (half - exact) as f32) as usize;
    base + log.min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_and_foreign_configs_are_refused() {
        let good = r#"{"model_type":"bert","vocab_size":9,"hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,
            "intermediate_size":16,"max_position_embeddings":16,"type_vocab_size":2,"layer_norm_eps":1e-12,"hidden_act":"gelu"}"#;
        assert!(EncoderConfig::from_json(good.as_bytes(), "config.json").is_ok());
        for (from, to, word) in [
            ("bert", "gpt2", "gpt2"),
            ("\"hidden_size\":8", "\"hidden_size\":7", "multiple"),
            ("\"vocab_size\":9", "\"vocab_size\":99999999999", "vocab_size"),
            ("\"vocab_size\":9", "\"vocab_size\":-1", "whole number"),
            ("1e-12", "0", "layer_norm_eps"),
            ("\"gelu\"", "\"relu\"", "relu"),
            ("{", "[", "JSON"),
            ("{", "{\"auto_map\":{\"AutoModel\":\"own.Own\"},", "auto_map"),
            ("{", "{\"problem_type\":\"regression\",", "regression"),
            ("{", "{\"id2label\":{\"0\":\"LABEL_0\"},", "regression"),
            ("{", "{\"id2label\":{\"0\":\"a\",\"2\":\"b\"},", "id2label"),
            ("{", "{\"num_labels\":99999999999,", "num_labels"),
            ("{", "{\"is_decoder\":true,", "decoder"),
        ] {
            let bad = good.replacen(from, to, 1);
            let error = EncoderConfig::from_json(bad.as_bytes(), "config.json").expect_err(to).to_string();
            assert!(error.contains(word) && error.contains("config.json"), "{error}");
        }
    }

    #[test]
    fn buckets_stay_in_range_and_mirror() {
        for relative in 0..600 {
            let left = relative_position_bucket(-relative, 32);
            let right = relative_position_bucket(relative, 32);
            assert!(left < 16 && right < 32);
            assert_eq!(right, if relative == 0 { left } else { left + 16 });
        }
    }
}
