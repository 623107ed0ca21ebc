//! Tiny SLMs that label by words, packed as `pack` packs: what they get right and wrong is known beforehand.

#![allow(dead_code, reason = "each user takes its part")]

use autoannotator::slm::Scoring;
use autoannotator::slm::config::{Architecture, EncoderConfig};
use autoannotator::slm::pack::{self, PackedMeta, PackedWeights, Precision};
use autoannotator::slm::weights::{EncoderWeights, Extras, Head, LayerWeights, Linear, Norm, Pooling};
use serde_json::{Value, json};

const HIDDEN: usize = 16;
const SPECIALS: [&str; 4] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];

/// The words that a tokenizer knows; all others are one unknown token, which says nothing.
pub fn tokenizer(words: &[&str]) -> Vec<u8> {
    let vocab: serde_json::Map<String, Value> =
        SPECIALS.iter().chain(words).enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}
    })
    .to_string()
    .into_bytes()
}

fn config(words: usize) -> EncoderConfig {
    EncoderConfig {
        architecture: Architecture::Bert,
        vocab_size: SPECIALS.len() + words,
        hidden_size: HIDDEN,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: HIDDEN,
        max_position_embeddings: 64,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        relative_attention_num_buckets: 0,
        pad_token_id: 0,
        ..EncoderConfig::default()
    }
}

/// The config.json that belongs to it.
pub fn config_json(labels: &[&str], words: &[&str]) -> Value {
    let mut config = serde_json::to_value(config(words.len())).expect("JSON");
    let names: serde_json::Map<String, Value> =
        labels.iter().enumerate().map(|(id, name)| (id.to_string(), (*name).into())).collect();
    config["id2label"] = names.into();
    config["architectures"] = json!(["AutoannotatorForSequenceClassification"]);
    config
}

fn map() -> Linear {
    Linear { weight: vec![0.0; HIDDEN * HIDDEN], bias: vec![0.0; HIDDEN], outputs: HIDDEN, inputs: HIDDEN }
}

fn norm() -> Norm {
    Norm { gamma: vec![1.0; HIDDEN], beta: vec![0.0; HIDDEN] }
}

/// An SLM that gives a text the label of the word in it; `says` are all words with their labels' indices. It says the first
/// label where it knows no word.
pub fn packed(id: &str, labels: &[&str], says: &[(&str, usize)]) -> Vec<u8> {
    let config = config(says.len());
    let mut words = vec![0.0; config.vocab_size * HIDDEN];
    for (row, (_, label)) in says.iter().enumerate() {
        words[(SPECIALS.len() + row) * HIDDEN + label] = 4.0;
    }
    let layer = LayerWeights {
        query: map(),
        key: map(),
        value: map(),
        output: map(),
        attention_norm: norm(),
        up: map(),
        down: map(),
        output_norm: norm(),
    };
    let weights = EncoderWeights {
        words,
        positions: vec![0.0; config.max_position_embeddings * HIDDEN],
        token_types: vec![0.0; 2 * HIDDEN],
        embedding_norm: norm(),
        layers: vec![layer],
        relative_bias: Vec::new(),
        extras: Extras::default(),
        config: config.clone(),
    };
    let mut head = vec![0.0; labels.len() * HIDDEN];
    (0..labels.len()).for_each(|label| head[label * HIDDEN + label] = 5.0);
    let linear = Linear { weight: head, bias: vec![0.0; labels.len()], outputs: labels.len(), inputs: HIDDEN };
    let meta = PackedMeta {
        format: pack::FORMAT,
        id: id.into(),
        task: "any".into(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        base: "tiny".into(),
        config,
        pooling: Pooling::Mean,
        dense: None,
        scoring: Scoring::Softmax,
        temperature: 1.0,
        max_length: 64,
        precision: Precision::Int8,
    };
    let head = Head { pooling: Pooling::Mean, dense: None, linear, temperature: 1.0 };
    pack::write(&meta, &PackedWeights::Int8(weights.quantize()), &head).expect("packed")
}
