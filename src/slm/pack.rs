//! A packed SLM: what a browser downloads and what `annotate` loads, so that both vote with the same bits of weights.
//!
//! One safetensors file holds the merged encoder under the names of [`EncoderWeights::tensors`], `head.weight` and
//! `head.bias`, where the head has more than one map also `head.dense.*` and `head.norm.*`, and, under
//! `__metadata__["autoannotator"]`, the JSON of [`PackedMeta`]. In int8 a large matrix `x` is stored as I8, with F16
//! tensors `x.scales` and, for linear maps that were calibrated, `x.multipliers` (see [`Int8Matrix`]); all else is F32.
//! Its version is the start of its SHA-256. It travels in shards of at most [`SHARD_BYTES`], listed in a [`SlmManifest`],
//! and all manifests stand in one [`Index`].

use super::adapter::{Metrics, hex, sha256_hex};
use super::config::{Activation, EncoderConfig};
use super::quant::Int8Matrix;
use super::weights::{
    Dense, EncoderWeights, Head, Linear, Part, Pooling, Reader, ShapedTensor, TensorSource, is_read, multipliers_name,
    scales_name, to_f32, to_int8,
};
use super::{Scoring, SlmError};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, View};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;

/// The format this code reads and writes.
pub const FORMAT: u32 = 2;

/// The most bytes of a shard: what common static hosts still serve.
pub const SHARD_BYTES: usize = 25 << 20;

/// No packed SLM may pass this: it keeps a hostile manifest from asking for memory.
const MAX_BYTES: u64 = 4 << 30;

const META_KEY: &str = "autoannotator";

/// How the numbers of a packed SLM are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Large matrices in int8 with scales, which the engine computes with; the rest in single precision.
    #[default]
    Int8,
    /// IEEE half precision, two bytes a value; the engine computes in f32.
    F16,
    /// IEEE single precision, four bytes a value.
    F32,
}

impl Precision {
    /// Its name, as in the file: `int8`, `f16` or `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }

    /// The precision that the engine computes in, as votes record it: `int8` or `f32`.
    pub fn computes_in(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::F16 | Self::F32 => "f32",
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Int8, Self::F16, Self::F32];
        all.into_iter().find(|one| one.name() == text).ok_or_else(|| "expected int8, f16 or f32".to_owned())
    }
}

/// What a packed SLM says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedMeta {
    /// The format, [`FORMAT`].
    pub format: u32,
    /// The SLM's id, such as `sentiment-minilm-l3`.
    pub id: String,
    /// The task.
    pub task: String,
    /// Labels in the order of the head's rows.
    pub labels: Vec<String>,
    /// The id of the base it was trained on.
    pub base: String,
    /// The encoder's shape.
    pub config: EncoderConfig,
    /// How the hidden states are pooled.
    pub pooling: Pooling,
    /// What the head applies to the pooled state first, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense: Option<DenseShape>,
    /// How logits become probabilities.
    #[serde(default, skip_serializing_if = "is_softmax")]
    pub scoring: Scoring,
    /// What logits are divided by before that.
    pub temperature: f32,
    /// The longest text in tokens, special tokens included.
    pub max_length: usize,
    /// How the numbers are stored.
    pub precision: Precision,
}

/// What a [`Dense`] is, besides its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseShape {
    /// What follows the linear map.
    pub activation: Activation,
    /// Whether a LayerNorm comes after that.
    pub norm: bool,
}

impl DenseShape {
    /// That of a head's.
    pub fn of(dense: &Dense) -> Self {
        Self { activation: dense.activation, norm: dense.norm.is_some() }
    }
}

fn is_softmax(scoring: &Scoring) -> bool {
    *scoring == Scoring::Softmax
}

impl PackedMeta {
    /// Checks that everything fits together; `file` names it in errors.
    pub fn check(&self, file: &str) -> Result<(), SlmError> {
        let fail = |problem: String| Err(SlmError::File { file: file.to_owned(), problem });
        if self.format != FORMAT {
            let advice = "use the autoannotator that wrote it, or pack it again";
            return fail(format!("packed format {}, this version reads {FORMAT}; {advice}", self.format));
        }
        check_name("id", &self.id, file)?;
        let distinct: BTreeSet<&str> = self.labels.iter().map(|label| label.trim()).collect();
        if self.labels.len() < 2 || distinct.len() != self.labels.len() || distinct.contains("") {
            return fail(format!("labels {:?}, expected at least two, all named, none twice", self.labels));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return fail(format!("temperature {}, expected above 0", self.temperature));
        }
        self.config.check(file)?;
        if self.max_length < 3 || self.max_length > self.config.max_length() {
            return fail(format!("max_length {}, expected 3 to {}", self.max_length, self.config.max_length()));
        }
        Ok(())
    }
}

/// A name that becomes a folder and a part of a URL.
fn check_name(what: &str, name: &str, file: &str) -> Result<(), SlmError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(allowed) {
        let problem = format!("{what} '{name}', expected 1 to 128 letters, digits, '-', '_' or '.', not '.' first");
        return Err(SlmError::File { file: file.to_owned(), problem });
    }
    Ok(())
}

/// An encoder's weights as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum PackedWeights {
    /// Of a file in [`Precision::F16`] or [`Precision::F32`].
    F32(EncoderWeights),
    /// Of a file in [`Precision::Int8`].
    Int8(EncoderWeights<Int8Matrix>),
}

/// A packed SLM, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedSlm {
    /// What it says of itself.
    pub meta: PackedMeta,
    /// The encoder, adapter merged in.
    pub weights: PackedWeights,
    /// The head.
    pub head: Head,
}

impl PackedSlm {
    /// Reads a packed SLM and checks all of it: header, format, every tensor's presence, shape and values, and that there
    /// is nothing else in it. `file` names it in errors.
    pub fn read(bytes: &[u8], file: &str) -> Result<Self, SlmError> {
        let mut unpacker = Unpacker::new(file);
        unpacker.push(bytes)?;
        unpacker.finish()
    }

    fn from_tensors(meta: PackedMeta, source: &Tensors, layers: Range<usize>) -> Result<Self, SlmError> {
        let config = &meta.config;
        let weights = match meta.precision {
            Precision::Int8 => PackedWeights::Int8(EncoderWeights::read_layers(config, source, layers)?),
            Precision::F16 | Precision::F32 => PackedWeights::F32(EncoderWeights::read_layers(config, source, layers)?),
        };
        let (labels, hidden, reader) = (meta.labels.len(), meta.config.hidden_size, Reader::plain(source));
        let dense = match meta.dense {
            None => None,
            Some(DenseShape { activation, norm }) => Some(Dense {
                linear: reader.linear("head.dense", hidden, hidden)?,
                activation,
                norm: if norm { Some(reader.norm("head.norm", hidden)?) } else { None },
            }),
        };
        let linear: Linear = reader.linear("head", labels, hidden)?;
        let fail = |problem: String| Err(SlmError::File { file: source.file.clone(), problem });
        if let Some((name, _)) = source.left.borrow().first_key_value() {
            return fail(format!("tensor '{name}' belongs to no part of the model; pack it again"));
        }
        if let PackedWeights::Int8(weights) = &weights {
            let differ = |[query, key, value, ..]: [&Linear<Int8Matrix>; 6]| {
                [key, value].iter().any(|map| map.weight.multipliers != query.weight.multipliers)
            };
            if weights.layers.iter().any(|layer| differ(layer.linears())) {
                return fail("query, key and value of a layer differ in their multipliers; pack it again".to_owned());
            }
        }
        let head = Head { pooling: meta.pooling, dense, linear, temperature: meta.temperature };
        Ok(Self { meta, weights, head })
    }
}

/// The most bytes of a header: a thousand tensors take a tenth of it.
const MAX_HEADER: u64 = 1 << 20;

/// Room that is taken at once for a tensor; a larger one grows as its bytes arrive, whatever the header says.
const RESERVE: usize = 64 << 20;

/// Reads a packed SLM from its bytes in order, in pieces of any size. The file is never in memory as a whole: each tensor
/// is put together by itself and goes as soon as the model has taken it.
pub struct Unpacker {
    file: String,
    /// Bytes of the header, then of the tensor that is being read.
    buffer: Vec<u8>,
    header: Option<Header>,
    read: BTreeMap<String, Raw>,
    /// Of the layers these alone are kept.
    layers: Option<Range<usize>>,
    /// Bytes of the tensor at hand that were passed over, where it is of none of them.
    passed: usize,
}

struct Header {
    meta: PackedMeta,
    /// The tensors that are still to come, in the order of their bytes.
    next: VecDeque<(String, Dtype, Vec<usize>, usize)>,
}

/// A tensor as it is stored.
struct Raw {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Unpacker {
    /// Starts; `file` names the file in errors.
    pub fn new(file: &str) -> Self {
        Self { file: file.to_owned(), buffer: Vec::new(), header: None, read: BTreeMap::new(), layers: None, passed: 0 }
    }

    /// Keeps these layers alone, with the embeddings if the first is among them: a part of an SLM, see
    /// [`States`](super::model::States). One that cannot be cut there is an error once its header is read.
    pub fn layers(&mut self, layers: Range<usize>) {
        self.layers = Some(layers);
    }

    fn fail(&self, problem: impl Into<String>) -> SlmError {
        SlmError::File { file: self.file.clone(), problem: problem.into() }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), SlmError> {
        while !bytes.is_empty() || self.is_tensor_whole() {
            let (wanted, here) = (self.wanted()?, self.buffer.len() + self.passed);
            let taken = wanted.saturating_sub(here).min(bytes.len());
            if self.is_passed_over() {
                self.passed += taken;
            } else {
                if self.buffer.is_empty() {
                    let room = wanted.min(RESERVE);
                    self.buffer
                        .try_reserve_exact(room)
                        .map_err(|_| self.fail(format!("no memory for {room} bytes")))?;
                }
                self.buffer.extend_from_slice(&bytes[..taken]);
            }
            bytes = &bytes[taken..];
            if here + taken == wanted {
                self.take_whole()?;
            }
        }
        Ok(())
    }

    fn next(&self) -> Option<&(String, Dtype, Vec<usize>, usize)> {
        self.header.as_ref().and_then(|header| header.next.front())
    }

    /// Whether the next tensor is there although no byte is to come: it has none.
    fn is_tensor_whole(&self) -> bool {
        self.next().is_some_and(|(.., len)| *len == self.buffer.len() + self.passed)
    }

    /// Whether the next tensor is of none of the layers that are kept.
    fn is_passed_over(&self) -> bool {
        let layers = self.layers.as_ref();
        self.next().is_some_and(|(name, ..)| layers.is_some_and(|layers| !is_read(name, layers)))
    }

    /// The bytes of what is being read: the header's length, the header, or a tensor.
    fn wanted(&self) -> Result<usize, SlmError> {
        if let Some(header) = &self.header {
            let next = header.next.front().map(|(.., len)| *len);
            return next.ok_or_else(|| self.fail("bytes after its last tensor; download it again"));
        }
        let Some(length) = self.buffer.first_chunk::<8>() else { return Ok(8) };
        match u64::from_le_bytes(*length) {
            length @ 1..=MAX_HEADER => Ok(8 + length as usize),
            length => Err(self.fail(format!("not a safetensors file (a header of {length} bytes)"))),
        }
    }

    fn take_whole(&mut self) -> Result<(), SlmError> {
        let passed_over = self.is_passed_over();
        if let Some(header) = &mut self.header {
            let bytes = std::mem::take(&mut self.buffer);
            self.passed = 0;
            if let Some((name, dtype, shape, _)) = header.next.pop_front().filter(|_| !passed_over) {
                self.read.insert(name, Raw { dtype, shape, bytes });
            }
        } else if self.buffer.len() > 8 {
            let header = read_header(&self.buffer, &self.file)?;
            let most = header.meta.config.layers_to_cut();
            if let Some(Range { start, end }) = self.layers.clone().filter(|l| l.start >= l.end || l.end > most) {
                return Err(self.fail(format!("it cannot be cut to layers {start} to {end}, of {most}")));
            }
            self.header = Some(header);
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// The SLM, once all bytes are there.
    pub fn finish(self) -> Result<PackedSlm, SlmError> {
        let file = self.file;
        let cut = |part: &str| {
            let problem = format!("it ends before the end of {part}; download it again");
            Err(SlmError::File { file: file.clone(), problem })
        };
        let Some(Header { meta, next }) = self.header else { return cut("its header") };
        if let Some((name, ..)) = next.front() {
            return cut(&format!("tensor '{name}'"));
        }
        let layers = self.layers.unwrap_or(0..meta.config.distinct_layers());
        PackedSlm::from_tensors(meta, &Tensors { file, left: RefCell::new(self.read) }, layers)
    }
}

/// Reads a header, the eight bytes of its length in front.
fn read_header(bytes: &[u8], file: &str) -> Result<Header, SlmError> {
    let fail = |problem: String| SlmError::File { file: file.to_owned(), problem };
    let header = bytes.get(8..).unwrap_or_default();
    // This checks the tensors' offsets and lengths, too.
    let header: Metadata = serde_json::from_slice(header).map_err(|e| fail(format!("not a safetensors file ({e})")))?;
    let json = header.metadata().as_ref().and_then(|map| map.get(META_KEY)).ok_or_else(|| {
        fail(format!(
            "its header has no '{META_KEY}' entry, so it is not a packed SLM; write one with `autoannotator pack`"
        ))
    })?;
    let meta: PackedMeta = serde_json::from_str(json).map_err(|e| fail(format!("header '{META_KEY}': {e}")))?;
    meta.check(file)?;
    let next = header.offset_keys().into_iter().filter_map(|name| {
        let info = header.info(&name)?;
        let (start, end) = info.data_offsets;
        Some((name, info.dtype, info.shape.clone(), end - start))
    });
    Ok(Header { meta, next: next.collect() })
}

/// Tensors that go as they are asked for.
struct Tensors {
    file: String,
    left: RefCell<BTreeMap<String, Raw>>,
}

impl Tensors {
    fn take<T>(
        &self,
        name: &str,
        read: impl Fn(Dtype, Vec<u8>) -> Result<T, String>,
    ) -> Result<Option<(Vec<usize>, T)>, SlmError> {
        let Some(raw) = self.left.borrow_mut().remove(name) else { return Ok(None) };
        let fail = |problem| SlmError::File { file: self.file.clone(), problem: format!("tensor '{name}' {problem}") };
        Ok(Some((raw.shape, read(raw.dtype, raw.bytes).map_err(fail)?)))
    }
}

impl TensorSource for Tensors {
    fn file(&self) -> &str {
        &self.file
    }

    fn has(&self, name: &str) -> bool {
        self.left.borrow().contains_key(name)
    }

    fn tensor(&self, name: &str) -> Result<Option<ShapedTensor>, SlmError> {
        self.take(name, |dtype, bytes| to_f32(dtype, &bytes))
    }

    fn int8(&self, name: &str) -> Result<Option<ShapedTensor<i8>>, SlmError> {
        self.take(name, to_int8)
    }
}

/// One tensor on its way into the file; its bytes are made when they are written, one tensor at a time.
struct Stored<'a> {
    shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    F16(&'a [f32]),
    F32(&'a [f32]),
    Int8(&'a [i8]),
}

impl Values<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F16(values) | Self::F32(values) => values.len(),
            Self::Int8(values) => values.len(),
        }
    }

    /// The first value that cannot be stored.
    fn unfit(&self) -> Option<usize> {
        match self {
            Self::F16(values) => values.iter().position(|value| !half::f16::from_f32(*value).is_finite()),
            Self::F32(values) => values.iter().position(|value| !value.is_finite()),
            Self::Int8(_) => None,
        }
    }
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::F16(_) => Dtype::F16,
            Values::F32(_) => Dtype::F32,
            Values::Int8(_) => Dtype::I8,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self.values {
            Values::F16(values) => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            Values::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::Int8(values) => values.iter().map(|v| *v as u8).collect(),
        })
    }

    fn data_len(&self) -> usize {
        match self.values {
            Values::F16(values) => 2 * values.len(),
            Values::F32(values) => 4 * values.len(),
            Values::Int8(values) => values.len(),
        }
    }
}

/// The tensors of an int8 encoder, as they are stored.
fn int8_tensors(weights: &EncoderWeights<Int8Matrix>) -> Vec<(String, Stored<'_>)> {
    let mut all = Vec::new();
    for (name, shape, part) in weights.parts() {
        match part {
            Part::Values(values) => all.push((name, Stored { shape, values: Values::F32(values) })),
            Part::Matrix(matrix) => {
                let (rows, columns) = (shape[0], shape[1]);
                let scales = Stored {
                    shape: vec![rows, matrix.scales.len() / rows.max(1)],
                    values: Values::F16(&matrix.scales),
                };
                all.push((scales_name(&name), scales));
                if !matrix.multipliers.is_empty() {
                    let values = Values::F16(&matrix.multipliers);
                    all.push((multipliers_name(&name), Stored { shape: vec![columns], values }));
                }
                all.push((name, Stored { shape, values: Values::Int8(&matrix.values) }));
            }
        }
    }
    all
}

/// Writes a packed SLM. The same arguments give the same bytes. A value that is not finite in the precision asked for, or
/// parts that do not fit each other, are errors.
pub fn write(meta: &PackedMeta, weights: &PackedWeights, head: &Head) -> Result<Vec<u8>, SlmError> {
    let file = format!("{} (to be packed)", meta.id);
    let fail = |problem: String| SlmError::File { file: file.clone(), problem };
    meta.check(&file)?;
    let config = match weights {
        PackedWeights::F32(weights) => &weights.config,
        PackedWeights::Int8(weights) => &weights.config,
    };
    let dense = head.dense.as_ref().map(DenseShape::of);
    if meta.config != *config || (meta.pooling, meta.dense, meta.temperature) != (head.pooling, dense, head.temperature)
    {
        return Err(fail("its header differs from the weights in config, pooling, head or temperature".to_owned()));
    }
    let values: fn(&[f32]) -> Values<'_> = match meta.precision {
        Precision::F16 => |values| Values::F16(values),
        Precision::F32 | Precision::Int8 => |values| Values::F32(values),
    };
    let mut tensors = match weights {
        PackedWeights::F32(weights) if meta.precision != Precision::Int8 => {
            let tensors = weights.tensors().into_iter();
            tensors.map(|(name, shape, part)| (name, Stored { shape, values: values(part) })).collect()
        }
        PackedWeights::Int8(weights) if meta.precision == Precision::Int8 => int8_tensors(weights),
        _ => return Err(fail(format!("its header says {}, its weights are not", meta.precision.name()))),
    };
    let (labels, hidden) = (meta.labels.len(), meta.config.hidden_size);
    let mut add = |name: &str, shape, part| tensors.push((name.to_owned(), Stored { shape, values: values(part) }));
    if let Some(Dense { linear, norm, .. }) = &head.dense {
        add("head.dense.weight", vec![hidden, hidden], &linear.weight[..]);
        add("head.dense.bias", vec![hidden], &linear.bias[..]);
        if let Some(norm) = norm {
            add("head.norm.weight", vec![hidden], &norm.gamma[..]);
            add("head.norm.bias", vec![hidden], &norm.beta[..]);
        }
    }
    add("head.weight", vec![labels, hidden], &head.linear.weight[..]);
    add("head.bias", vec![labels], &head.linear.bias[..]);
    for (name, Stored { shape, values }) in &tensors {
        if values.len() != shape.iter().product::<usize>() {
            let found = vec![values.len()];
            return Err(SlmError::Shape { file, tensor: name.clone(), found, expected: shape.clone() });
        }
        if let Some(index) = values.unfit() {
            return Err(SlmError::NotFinite { file, tensor: name.clone(), index });
        }
    }
    let json = serde_json::to_string(meta).map_err(|e| fail(e.to_string()))?;
    let header = HashMap::from([(META_KEY.to_owned(), json)]);
    safetensors::serialize(tensors, Some(header)).map_err(|e| fail(e.to_string()))
}

/// Whether the bytes of a safetensors file are a packed SLM, by its header.
pub fn is_packed(bytes: &[u8]) -> bool {
    let header = safetensors::SafeTensors::read_metadata(bytes).ok();
    header.is_some_and(|(_, header)| header.metadata().as_ref().is_some_and(|map| map.contains_key(META_KEY)))
}

/// The version of a packed SLM: the first 12 hexadecimal digits of its SHA-256.
pub fn version(packed: &[u8]) -> String {
    version_of(&sha256_hex(packed))
}

/// The version that belongs to a SHA-256 in hexadecimal.
fn version_of(sha256: &str) -> String {
    sha256.chars().take(12).collect()
}

/// A file with its length and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePart {
    /// Its name, below the SLM's version.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
}

impl FilePart {
    /// Describes some bytes.
    pub fn of(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), bytes: bytes.len() as u64, sha256: sha256_hex(bytes) }
    }

    /// Checks some bytes against it; `slm` names the SLM in errors.
    pub fn verify(&self, bytes: &[u8], slm: &str) -> Result<(), SlmError> {
        let fail = |problem: String| Err(SlmError::File { file: format!("{slm}/{}", self.name), problem });
        if bytes.len() as u64 != self.bytes {
            return fail(format!("{} bytes, expected {}; download it again", bytes.len(), self.bytes));
        }
        let found = sha256_hex(bytes);
        if found != self.sha256 {
            return fail(format!("SHA-256 is {found}, expected {}; download it again", self.sha256));
        }
        Ok(())
    }
}

/// A packed SLM as it lies on a server, below `<id>/<version>/`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlmManifest {
    /// The SLM's id.
    pub id: String,
    /// The task.
    pub task: String,
    /// Labels in the order of the head's rows.
    pub labels: Vec<String>,
    /// The packed file's version.
    pub version: String,
    /// The id of the base.
    pub base: String,
    /// How the numbers are stored.
    pub precision: Precision,
    /// The longest text in tokens.
    pub max_length: usize,
    /// Length of the packed file in bytes.
    pub bytes: u64,
    /// SHA-256 of the packed file, hexadecimal.
    pub sha256: String,
    /// Estimated arithmetic a token, relative to the cheapest SLM of the index.
    pub relative_cost: f64,
    /// The layers between which it can be cut into parts that work one after another; 0 where it is served whole.
    #[serde(default)]
    pub layers: usize,
    /// The packed file in pieces, in order.
    pub shards: Vec<FilePart>,
    /// The tokenizer, padding and truncation switched off.
    pub tokenizer: FilePart,
    /// Figures on the validation file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
}

impl SlmManifest {
    /// Describes a packed file and its tokenizer; the cost is 1 until [`Index::new`] compares it with others.
    pub fn new(meta: &PackedMeta, packed: &[u8], tokenizer: &[u8], metrics: Option<Metrics>) -> Self {
        let sha256 = sha256_hex(packed);
        Self {
            id: meta.id.clone(),
            task: meta.task.clone(),
            labels: meta.labels.clone(),
            version: version_of(&sha256),
            base: meta.base.clone(),
            precision: meta.precision,
            max_length: meta.max_length,
            bytes: packed.len() as u64,
            sha256,
            relative_cost: 1.0,
            layers: meta.config.layers_to_cut(),
            shards: shards(packed).map(|(part, _)| part).collect(),
            tokenizer: FilePart::of("tokenizer.json", tokenizer),
            metrics,
        }
    }

    /// Checks names, sizes and hashes against each other; a manifest comes from a server and is not believed.
    pub fn check(&self) -> Result<(), SlmError> {
        let file = format!("index.json: {}", self.id);
        let fail = |problem: String| Err(SlmError::File { file: file.clone(), problem });
        check_name("id", &self.id, &file)?;
        let parts = || self.shards.iter().chain([&self.tokenizer]);
        for part in parts() {
            check_name("file", &part.name, &file)?;
        }
        let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hash(&self.sha256) || !parts().all(|part| is_hash(&part.sha256)) {
            return fail("a SHA-256 is not 64 lower-case hexadecimal digits".to_owned());
        }
        if self.version != version_of(&self.sha256) {
            return fail(format!("version {} does not belong to SHA-256 {}", self.version, self.sha256));
        }
        if parts().any(|part| part.bytes == 0 || part.bytes > SHARD_BYTES as u64) {
            return fail(format!("a file of no or more than {SHARD_BYTES} bytes"));
        }
        let sum = self.shards.iter().try_fold(0u64, |sum, part| sum.checked_add(part.bytes));
        if sum != Some(self.bytes) || self.bytes > MAX_BYTES {
            return fail(format!("the shards hold {sum:?} bytes, the manifest says {}", self.bytes));
        }
        Ok(())
    }
}

/// Cuts a packed file into shards, each with its description.
pub fn shards(packed: &[u8]) -> impl Iterator<Item = (FilePart, &[u8])> {
    let count = packed.len().div_ceil(SHARD_BYTES);
    packed.chunks(SHARD_BYTES).enumerate().map(move |(index, bytes)| {
        let name = format!("weights-{:03}-of-{count:03}.bin", index + 1);
        (FilePart::of(&name, bytes), bytes)
    })
}

/// Reads a packed SLM from its shards, in order, each verified as it arrives.
pub struct Assembler<'a> {
    manifest: &'a SlmManifest,
    next: usize,
    hash: Sha256,
    unpacker: Unpacker,
}

impl<'a> Assembler<'a> {
    /// Starts with a manifest, after checking it.
    pub fn new(manifest: &'a SlmManifest) -> Result<Self, SlmError> {
        manifest.check()?;
        Ok(Self { manifest, next: 0, hash: Sha256::new(), unpacker: Unpacker::new(&manifest.id) })
    }

    /// Takes the next shard.
    pub fn push(&mut self, shard: &[u8]) -> Result<(), SlmError> {
        let id = &self.manifest.id;
        let fail = |problem: String| SlmError::File { file: id.clone(), problem };
        let part = self.manifest.shards.get(self.next).ok_or_else(|| fail("a shard too many".to_owned()))?;
        part.verify(shard, id)?;
        self.hash.update(shard);
        self.next += 1;
        self.unpacker.push(shard)
    }

    /// The SLM, once all shards are there and the whole has its hash.
    pub fn finish(self) -> Result<PackedSlm, SlmError> {
        let fail = |problem: String| Err(SlmError::File { file: self.manifest.id.clone(), problem });
        if self.next != self.manifest.shards.len() {
            return fail(format!("{} of {} shards", self.next, self.manifest.shards.len()));
        }
        let found = hex(&self.hash.finalize());
        if found != self.manifest.sha256 {
            return fail(format!("SHA-256 is {found}, expected {}; download it again", self.manifest.sha256));
        }
        self.unpacker.finish()
    }
}

/// `index.json`: the packed SLMs of a server or folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// One manifest an SLM and precision.
    pub slms: Vec<SlmManifest>,
}

impl Index {
    /// An index of SLMs with their costs (see [`flops_per_token`]), made relative to the cheapest.
    pub fn new(slms: Vec<(SlmManifest, f64)>) -> Self {
        let cheapest = slms.iter().map(|(_, cost)| *cost).fold(f64::INFINITY, f64::min);
        let relative = |(slm, cost): (SlmManifest, f64)| {
            let relative_cost = (cost / cheapest * 100.0).round() / 100.0;
            SlmManifest { relative_cost, ..slm }
        };
        Self { slms: slms.into_iter().map(relative).collect() }
    }

    /// Reads an `index.json` and checks every manifest.
    pub fn from_json(json: &[u8]) -> Result<Self, SlmError> {
        let index: Self = serde_json::from_slice(json)
            .map_err(|e| SlmError::File { file: "index.json".to_owned(), problem: e.to_string() })?;
        index.slms.iter().try_for_each(SlmManifest::check)?;
        Ok(index)
    }

    /// The SLM of this id whose engine computes in `precision`: `int8` or `f32`.
    pub fn get(&self, id: &str, precision: &str) -> Option<&SlmManifest> {
        self.slms.iter().find(|slm| slm.id == id && slm.precision.computes_in() == precision)
    }
}

/// Estimated floating-point operations a token, in a text of 32: the linear maps, and the attention's two products.
pub fn flops_per_token(config: &EncoderConfig) -> f64 {
    const TOKENS: f64 = 32.0;
    let (h, i) = (config.hidden_size as f64, config.intermediate_size as f64);
    let gate = if config.rotary.is_some() { h * i } else { 0.0 };
    let linear = 2.0 * (4.0 * h * h + 2.0 * h * i + gate);
    config.num_hidden_layers as f64 * (linear + 4.0 * h * TOKENS)
}

/// A `tokenizer.json` with padding and truncation switched off, everything else as it was.
pub fn plain_tokenizer(json: &[u8], file: &str) -> Result<Vec<u8>, SlmError> {
    let fail = |problem: String| SlmError::File { file: file.to_owned(), problem };
    let mut value: serde_json::Value = serde_json::from_slice(json).map_err(|e| fail(e.to_string()))?;
    let map = value.as_object_mut().ok_or_else(|| fail("expected a JSON object".to_owned()))?;
    for key in ["padding", "truncation"] {
        map.insert(key.to_owned(), serde_json::Value::Null);
    }
    serde_json::to_vec(&value).map_err(|e| fail(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slm::config::Architecture;
    use proptest::prelude::*;

    /// A source that has every tensor, with values made from a seed.
    struct Made {
        seed: u64,
        config: EncoderConfig,
    }

    impl TensorSource for Made {
        fn file(&self) -> &str {
            "made"
        }

        fn tensor(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>, SlmError> {
            let c = &self.config;
            let (h, i) = (c.hidden_size, c.intermediate_size);
            let shape = match name {
                _ if name.contains("word_emb") => vec![c.vocab_size, h],
                _ if name.contains("position_emb") => vec![c.max_position_embeddings, h],
                _ if name.contains("token_type") => vec![c.type_vocab_size, h],
                _ if name.contains("relative") => vec![c.relative_attention_num_buckets, c.num_attention_heads],
                _ if name.ends_with("intermediate.dense.weight") => vec![i, h],
                _ if name.ends_with("intermediate.dense.bias") => vec![i],
                _ if name.contains("LayerNorm") || name.ends_with("bias") => vec![h],
                _ if name.contains("attention") => vec![h, h],
                _ => vec![h, i],
            };
            let mut state = name.bytes().fold(self.seed | 1, |s, b| (s ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
            let values = (0..shape.iter().product()).map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            });
            Ok(Some((shape, values.collect())))
        }
    }

    fn config(architecture: Architecture) -> EncoderConfig {
        let mpnet = architecture == Architecture::Mpnet;
        EncoderConfig {
            architecture,
            vocab_size: 11,
            hidden_size: 8,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            intermediate_size: 12,
            max_position_embeddings: 16,
            type_vocab_size: if mpnet { 0 } else { 2 },
            layer_norm_eps: 1e-12,
            relative_attention_num_buckets: if mpnet { 4 } else { 0 },
            pad_token_id: usize::from(mpnet),
            ..EncoderConfig::default()
        }
    }

    fn model(architecture: Architecture, precision: Precision, seed: u64) -> (PackedMeta, PackedWeights, Head) {
        let config = config(architecture);
        let weights: EncoderWeights =
            EncoderWeights::read(&config, &Made { seed, config: config.clone() }).expect("made");
        let weight = weights.words[..24].to_vec();
        let linear = Linear { weight, bias: vec![0.5, -0.25, 0.0], outputs: 3, inputs: 8 };
        let head = Head { pooling: Pooling::Mean, dense: None, linear, temperature: 1.25 };
        let meta = PackedMeta {
            format: FORMAT,
            id: "sentiment-tiny".into(),
            task: "sentiment".into(),
            labels: ["negative", "neutral", "positive"].map(String::from).to_vec(),
            base: "tiny".into(),
            config,
            pooling: Pooling::Mean,
            dense: None,
            scoring: Scoring::Softmax,
            temperature: 1.25,
            max_length: 12,
            precision,
        };
        let weights = match precision {
            Precision::Int8 => PackedWeights::Int8(int8(&weights)),
            Precision::F16 | Precision::F32 => PackedWeights::F32(weights),
        };
        (meta, weights, head)
    }

    /// Int8 weights, those of the first layer with multipliers.
    fn int8(weights: &EncoderWeights) -> EncoderWeights<Int8Matrix> {
        let mut int8 = weights.quantize();
        let first = &mut int8.layers[0];
        for map in [&mut first.query, &mut first.key, &mut first.value, &mut first.down] {
            map.weight.multipliers = (0..map.inputs).map(|input| 0.5 + input as f32 / 4.0).collect();
        }
        int8
    }

    const PRECISIONS: [Precision; 3] = [Precision::Int8, Precision::F16, Precision::F32];

    fn packed(precision: Precision) -> Vec<u8> {
        let (meta, weights, head) = model(Architecture::Bert, precision, 3);
        write(&meta, &weights, &head).expect("packed")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_written_is_read_back(seed: u64, mpnet: bool, stored in 0..3usize, piece in 1..3000usize) {
            let architecture = if mpnet { Architecture::Mpnet } else { Architecture::Bert };
            let (meta, weights, head) = model(architecture, PRECISIONS[stored], seed);
            let bytes = write(&meta, &weights, &head).expect("written");
            prop_assert_eq!(&bytes, &write(&meta, &weights, &head).expect("written again"));
            let mut unpacker = Unpacker::new("x");
            bytes.chunks(piece).try_for_each(|piece| unpacker.push(piece)).expect("pushed");
            let found = unpacker.finish().expect("read");
            prop_assert_eq!(&found, &PackedSlm::read(&bytes, "x").expect("read at once"));
            prop_assert_eq!(&found.meta, &meta);
            match (&weights, &found.weights) {
                (PackedWeights::F32(weights), PackedWeights::F32(found)) => {
                    for ((name, _, expected), (_, _, values)) in weights.tensors().iter().zip(found.tensors()) {
                        let half = stored == 1;
                        let rounded = |v: &f32| if half { half::f16::from_f32(*v).to_f32() } else { *v };
                        prop_assert!(expected.iter().map(rounded).eq(values.iter().copied()), "{}", name);
                    }
                }
                (expected, found) => prop_assert_eq!(expected, found),
            }
            prop_assert_eq!(&found.head.linear.bias, &head.linear.bias);
            // What was rounded once is not rounded again.
            prop_assert_eq!(bytes, write(&found.meta, &found.weights, &found.head).expect("written a third time"));
        }

        #[test]
        fn damaged_files_are_refused_or_read_but_never_a_panic(
            stored in 0..3usize, at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
        ) {
            let good = packed(PRECISIONS[stored]);
            let mut bad = good.clone();
            let index = at.index(bad.len());
            bad[index] = byte;
            let _ = PackedSlm::read(&bad, "x");
            prop_assert!(PackedSlm::read(&good[..cut.index(good.len())], "x").is_err());
            let _ = Index::from_json(&bad);
        }
    }

    #[test]
    fn headers_that_lie_are_refused_with_what_was_expected() {
        let bytes = packed(Precision::F16);
        let replaced = |from: &str, to: &str| {
            assert_eq!(from.len(), to.len(), "keep the header's length");
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect(from);
            let mut bad = bytes.clone();
            bad[at..at + to.len()].copy_from_slice(to.as_bytes());
            PackedSlm::read(&bad, "bad.safetensors").expect_err(to).to_string()
        };
        for (from, to, word) in [
            ("\\\"format\\\":2", "\\\"format\\\":3", "format 3"),
            ("\"autoannotator\"", "\"autoannotatoR\"", "not a packed SLM"),
            ("\\\"temperature\\\":1.25", "\\\"temperature\\\":-1.5", "temperature"),
            ("\\\"id\\\":\\\"sentiment-tiny\\\"", "\\\"id\\\":\\\"../../../../ab\\\"", "id '"),
            ("\\\"max_length\\\":12", "\\\"max_length\\\":99", "max_length 99"),
            ("\\\"hidden_size\\\":8", "\\\"hidden_size\\\":4", "shape"),
            ("\\\"num_hidden_layers\\\":2", "\\\"num_hidden_layers\\\":9", "encoder.layer.2"),
            ("\\\"num_hidden_layers\\\":2", "\\\"num_hidden_layers\\\":1", "belongs to no part"),
            ("\"head.bias\"", "\"head.bios\"", "head.bias"),
            ("\\\"precision\\\":\\\"f16\\\"", "\\\"precision\\\":\\\"f61\\\"", "f61"),
        ] {
            let error = replaced(from, to);
            assert!(error.contains(word) && error.contains("bad.safetensors"), "{to}: {error}");
        }
    }

    #[test]
    fn labels_that_do_not_fit_the_head_are_refused() {
        let (mut meta, weights, head) = model(Architecture::Bert, Precision::F32, 1);
        meta.labels.pop();
        assert!(write(&meta, &weights, &head).expect_err("two labels").to_string().contains("head.weight"));
        meta.labels = vec!["a".into(), "a".into(), "b".into()];
        assert!(write(&meta, &weights, &head).expect_err("twice").to_string().contains("none twice"));
    }

    #[test]
    fn a_value_too_large_for_f16_is_an_error_not_infinity() {
        let (mut meta, weights, head) = model(Architecture::Bert, Precision::F16, 1);
        let PackedWeights::F32(mut weights) = weights else { panic!("f32") };
        let with = |meta: &PackedMeta, weights: &EncoderWeights| {
            write(meta, &PackedWeights::F32(weights.clone()), &head).map_err(|error| error.to_string())
        };
        weights.words[5] = 70_000.0;
        let error = with(&meta, &weights).expect_err("too large");
        assert!(error.contains("word_embeddings") && error.contains("index 5"), "{error}");
        meta.precision = Precision::F32;
        assert!(with(&meta, &weights).is_ok());
        weights.words[5] = f32::NAN;
        assert!(with(&meta, &weights).is_err());
        meta.precision = Precision::Int8;
        assert!(with(&meta, &weights).expect_err("f32 weights").contains("int8"));
    }

    #[test]
    fn int8_that_the_kernels_cannot_take_is_refused() {
        let (meta, weights, head) = model(Architecture::Bert, Precision::Int8, 1);
        let PackedWeights::Int8(good) = weights else { panic!("int8") };
        let read = |change: fn(&mut EncoderWeights<Int8Matrix>)| -> Result<PackedSlm, String> {
            let mut weights = good.clone();
            change(&mut weights);
            let bytes = write(&meta, &PackedWeights::Int8(weights), &head).map_err(|error| error.to_string())?;
            PackedSlm::read(&bytes, "x").map_err(|error| error.to_string())
        };
        assert!(read(|_| ()).is_ok());
        let error = read(|weights| weights.layers[1].up.weight.values[3] = 127).expect_err("too large");
        assert!(error.contains("intermediate.dense.weight") && error.contains("127"), "{error}");
        let two = |weights: &mut EncoderWeights<Int8Matrix>| {
            weights.layers[1].up.weight.values[..8].copy_from_slice(&[80, 80, 0, 0, 80, 18, 0, 0]);
        };
        assert!(read(two).is_ok(), "four that just fit");
        let error = read(|weights| weights.layers[0].up.weight.values[..8].fill(80)).expect_err("sum of four");
        assert!(error.contains("sum to more than 258"), "{error}");
        let error = read(|weights| weights.layers[0].key.weight.multipliers[0] = 9.0).expect_err("multipliers");
        assert!(error.contains("multipliers"), "{error}");
        let error = read(|weights| weights.layers[0].down.weight.scales[0] = f32::NAN).expect_err("not finite");
        assert!(error.contains("output.dense.weight.scales"), "{error}");
        let error = read(|weights| weights.layers[0].down.weight.scales.truncate(1)).expect_err("too few");
        assert!(error.contains("output.dense.weight.scales"), "{error}");
    }

    /// A manifest over plain bytes; packing 50 MB of weights would be slow.
    fn manifest_of(bytes: &[u8]) -> SlmManifest {
        SlmManifest::new(&model(Architecture::Bert, Precision::F16, 3).0, bytes, b"{}", None)
    }

    #[test]
    fn shards_are_of_a_size_that_hosts_serve() {
        let bytes: Vec<u8> = (0..SHARD_BYTES * 2 + 77).map(|i| ((i * i) >> 7) as u8).collect();
        let manifest = manifest_of(&bytes);
        assert_eq!(
            manifest.shards.iter().map(|s| s.bytes).collect::<Vec<_>>(),
            [SHARD_BYTES as u64, SHARD_BYTES as u64, 77]
        );
        assert_eq!(manifest.version, version(&bytes));
        assert_eq!(shards(&bytes).flat_map(|(_, piece)| piece).copied().collect::<Vec<u8>>(), bytes);
    }

    #[test]
    fn shards_are_read_in_order_and_damage_is_found() {
        let bytes = packed(Precision::Int8);
        let mut manifest = manifest_of(&bytes);
        let mut pieces: Vec<Vec<u8>> = bytes.chunks(bytes.len().div_ceil(3)).map(<[u8]>::to_vec).collect();
        manifest.shards = pieces.iter().zip(["a", "b", "c"]).map(|(piece, name)| FilePart::of(name, piece)).collect();
        let mut assembler = Assembler::new(&manifest).expect("sound");
        pieces.iter().try_for_each(|piece| assembler.push(piece)).expect("sound");
        assert!(assembler.push(&pieces[0]).is_err(), "one too many");
        assert_eq!(assembler.finish().expect("sound"), PackedSlm::read(&bytes, "x").expect("sound"));

        let mut assembler = Assembler::new(&manifest).expect("sound");
        assert!(assembler.push(&pieces[2]).is_err(), "out of order");
        pieces[0][9] ^= 1;
        let error = assembler.push(&pieces[0]).expect_err("damaged").to_string();
        assert!(error.contains("/a: ") && error.contains("download it again"), "{error}");
        assert!(assembler.finish().is_err(), "shards missing");
    }

    #[test]
    fn hostile_indexes_are_refused() {
        let good = manifest_of(b"some weights");
        let read = |slm: &SlmManifest| {
            Index::from_json(&serde_json::to_vec(&Index { slms: vec![slm.clone()] }).expect("json"))
        };
        assert_eq!(read(&good).expect("sound").get("sentiment-tiny", "f32"), Some(&good));
        assert_eq!(read(&good).expect("sound").get("sentiment-tiny", "int8"), None);
        let mut bad = good.clone();
        bad.shards[0].name = "../../etc/passwd".into();
        assert!(read(&bad).is_err());
        let mut bad = good.clone();
        bad.shards[0].bytes = u64::MAX;
        bad.bytes = u64::MAX;
        assert!(read(&bad).is_err());
        let mut bad = good.clone();
        bad.bytes += 1;
        assert!(read(&bad).is_err());
        let mut bad = good.clone();
        bad.sha256 = "x".repeat(64);
        assert!(read(&bad).is_err());
        let mut bad = good;
        bad.version = "000000000000".into();
        assert!(read(&bad).is_err());
    }

    #[test]
    fn costs_are_relative_to_the_cheapest() {
        let mut small = config(Architecture::Bert);
        let one = flops_per_token(&small);
        small.num_hidden_layers *= 3;
        let index = Index::new(vec![(manifest_of(b"a"), flops_per_token(&small)), (manifest_of(b"b"), one)]);
        assert_eq!(index.slms.iter().map(|slm| slm.relative_cost).collect::<Vec<_>>(), [3.0, 1.0]);
    }

    #[test]
    fn padding_is_switched_off_and_nothing_else_changes() {
        let json = br#"{"version":"1.0","truncation":{"max_length":128},"padding":{"strategy":{"Fixed":128}},"model":{"a":1}}"#;
        let plain = plain_tokenizer(json, "tokenizer.json").expect("sound");
        let expected = r#"{"version":"1.0","truncation":null,"padding":null,"model":{"a":1}}"#;
        assert_eq!(String::from_utf8(plain).expect("UTF-8"), expected);
        assert!(plain_tokenizer(b"[]", "x").is_err());
        assert!(plain_tokenizer(b"{", "x").is_err());
    }
}
