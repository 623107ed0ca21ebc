//! Three tiny SLMs of random weights, packed into a home of their own, and the binary that votes with them.

#![allow(dead_code, reason = "each test file uses its part")]

use autoannotator::slm::config::{Architecture, EncoderConfig};
use autoannotator::slm::pack::{self, Index, PackedMeta, PackedWeights, Precision, SlmManifest};
use autoannotator::slm::weights::{EncoderWeights, Head, Linear, Pooling, TensorSource};
use autoannotator::slm::{Scoring, SlmError};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The built-in sentiment SLMs' ids.
pub const SLMS: [&str; 3] = ["sentiment-minilm-l3", "sentiment-minilm-l6", "sentiment-mpnet"];

/// A test's folder with a home in it.
pub struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    /// A folder with the three SLMs packed in `home/packed`.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let bench = Self { folder };
        let tokenizer = tokenizer();
        let slms = SLMS.iter().enumerate().map(|(seed, id)| {
            let packed = packed(id, seed as u64 + 1);
            let meta = meta(id);
            let manifest = SlmManifest::new(&meta, &packed, tokenizer.as_bytes(), None);
            let place = bench.path("home/packed").join(id).join(&manifest.version);
            fs::create_dir_all(&place).expect("a folder");
            for (part, bytes) in pack::shards(&packed) {
                fs::write(place.join(part.name), bytes).expect("a shard");
            }
            fs::write(place.join("tokenizer.json"), &tokenizer).expect("a tokenizer");
            (manifest, 1.0)
        });
        let index = serde_json::to_vec(&Index::new(slms.collect())).expect("JSON");
        fs::write(bench.path("home/packed/index.json"), index).expect("an index");
        bench
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), bytes).expect("a file");
        self.path(name)
    }

    /// `autoannotator annotate INPUT --task sentiment --out OUT` with more arguments.
    pub fn command(&self, input: &str, out: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_autoannotator"));
        command.env("AUTOANNOTATOR_HOME", self.path("home")).current_dir(self.folder.path());
        command.args(["annotate", input, "--task", "sentiment", "--out", out]).args(more);
        command
    }

    /// Runs it to its end.
    pub fn run(&self, input: &str, out: &str, more: &[&str]) -> Output {
        self.command(input, out, more).output().expect("the binary")
    }

    /// Runs it; it must succeed. Its output, parsed as jsonl.
    pub fn labelled(&self, input: &str, more: &[&str]) -> Vec<serde_json::Value> {
        let output = self.run(input, "labelled.jsonl", more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(!self.path("labelled.jsonl.journal").exists());
        read(&self.path("labelled.jsonl"))
    }

    /// Runs it; it must fail. What it says.
    pub fn refused(&self, input: &str, more: &[&str]) -> String {
        let output = self.run(input, "labelled.jsonl", more);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }
}

/// A jsonl file.
pub fn read(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The same numbers every time (xorshift64*), from -1 to 1.
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.unit()).collect()
    }
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz0123456789";

fn config() -> EncoderConfig {
    EncoderConfig {
        architecture: Architecture::Bert,
        vocab_size: 4 + 2 * LETTERS.len(),
        hidden_size: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 32,
        max_position_embeddings: 64,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        ..EncoderConfig::default()
    }
}

fn meta(id: &str) -> PackedMeta {
    PackedMeta {
        format: pack::FORMAT,
        id: id.into(),
        task: "sentiment".into(),
        labels: ["negative", "neutral", "positive"].map(String::from).into(),
        base: "tiny".into(),
        config: config(),
        pooling: Pooling::Mean,
        dense: None,
        scoring: Scoring::Softmax,
        temperature: 1.0,
        max_length: 64,
        precision: Precision::Int8,
    }
}

/// Tensors of random numbers in the shapes of [`config`].
struct Noise;

impl TensorSource for Noise {
    fn file(&self) -> &str {
        "noise"
    }

    fn tensor(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>, SlmError> {
        let c = config();
        let (h, i) = (c.hidden_size, c.intermediate_size);
        let shape = match name {
            n if n.ends_with("word_embeddings.weight") => vec![c.vocab_size, h],
            n if n.ends_with("position_embeddings.weight") => vec![c.max_position_embeddings, h],
            n if n.ends_with("token_type_embeddings.weight") => vec![c.type_vocab_size, h],
            n if n.ends_with("LayerNorm.weight") || n.ends_with("LayerNorm.bias") => vec![h],
            n if n.ends_with("intermediate.dense.weight") => vec![i, h],
            n if n.ends_with("intermediate.dense.bias") => vec![i],
            n if n.ends_with("output.dense.weight") && !n.contains("attention") => vec![h, i],
            n if n.ends_with(".weight") => vec![h, h],
            _ => vec![h],
        };
        let count = shape.iter().product();
        // Plain norms, so that what a text gives depends on the text and not on the norms' bias.
        if name.contains("LayerNorm") {
            return Ok(Some((shape, vec![if name.ends_with("weight") { 1.0 } else { 0.0 }; count])));
        }
        let seed = name.bytes().fold(0x9E37_79B9u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Ok(Some((shape, Random(seed).many(count))))
    }
}

fn packed(id: &str, seed: u64) -> Vec<u8> {
    let weights: EncoderWeights = EncoderWeights::read(&config(), &Noise).expect("weights");
    let weights = PackedWeights::Int8(weights.quantize());
    // The same encoder under heads that are close to each other, so that the three agree on some rows and not on others.
    let mut head = Random(99).many(3 * 16);
    let other = Random(seed + 7).many(3 * 16);
    head.iter_mut().zip(other).for_each(|(x, y)| *x += 0.6 * y);
    let linear = Linear { weight: head, bias: vec![0.0; 3], inputs: 16, outputs: 3 };
    pack::write(&meta(id), &weights, &Head { pooling: Pooling::Mean, dense: None, linear, temperature: 1.0 })
        .expect("packed")
}

/// A WordPiece tokenizer whose pieces are letters and digits.
fn tokenizer() -> String {
    let mut vocab = serde_json::Map::new();
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(String::from).into_iter();
    let pieces = LETTERS.chars().flat_map(|letter| [letter.to_string(), format!("##{letter}")]);
    for (id, piece) in specials.chain(pieces).enumerate() {
        vocab.insert(piece, id.into());
    }
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}
    })
    .to_string()
}
