//! `config.json` of the Hugging Face hub, as far as an encoder needs it.

use super::SlmError;
use serde::{Deserialize, Serialize};

/// The encoder families that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// BERT: learned positions and token types.
    Bert,
    /// MPNet: learned positions from `pad_token_id + 1`, relative position bias shared by all layers.
    Mpnet,
}

/// The shape of an encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Rows of the token type embedding (BERT; 0 for MPNet).
    #[serde(default)]
    pub type_vocab_size: usize,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f32,
    /// Buckets of the relative position bias (MPNet).
    #[serde(default)]
    pub relative_attention_num_buckets: usize,
    /// The padding token; MPNet counts positions from the one after it.
    #[serde(default)]
    pub pad_token_id: usize,
}

/// No size in a config may pass this: it keeps a hostile file from asking for memory.
const MAX_SIZE: usize = 1 << 20;

impl EncoderConfig {
    /// Reads and checks a `config.json`; `file` names it in errors.
    pub fn from_json(json: &[u8], file: &str) -> Result<Self, SlmError> {
        let fail = |problem: String| SlmError::File { file: file.to_owned(), problem };
        let value: serde_json::Value =
            serde_json::from_slice(json).map_err(|e| fail(format!("not valid JSON: {e}")))?;
        let model_type = value.get("model_type").and_then(|v| v.as_str()).unwrap_or("none");
        if !matches!(model_type, "bert" | "mpnet") {
            return Err(SlmError::Architecture { file: file.to_owned(), found: model_type.to_owned() });
        }
        for (key, expected) in [("hidden_act", "gelu"), ("position_embedding_type", "absolute")] {
            if let Some(found) = value.get(key).and_then(|v| v.as_str())
                && found != expected
            {
                return Err(fail(format!("{key} is '{found}', expected '{expected}'")));
            }
        }
        let mut config: Self = serde_json::from_value(value).map_err(|e| fail(e.to_string()))?;
        if config.architecture == Architecture::Mpnet {
            config.type_vocab_size = 0;
            if config.relative_attention_num_buckets == 0 {
                config.relative_attention_num_buckets = 32;
            }
        }
        config.check(file)?;
        Ok(config)
    }

    /// Checks that the sizes make an encoder.
    pub fn check(&self, file: &str) -> Result<(), SlmError> {
        let fail = |problem: String| Err(SlmError::File { file: file.to_owned(), problem });
        for (name, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
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
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            return fail(format!("layer_norm_eps is {}, expected above 0 and below 1", self.layer_norm_eps));
        }
        if self.max_length() == 0 {
            return fail("max_position_embeddings leaves no room for a token".to_owned());
        }
        Ok(())
    }

    /// The position embedding's row of a text's first token.
    pub fn first_position(&self) -> usize {
        match self.architecture {
            Architecture::Bert => 0,
            Architecture::Mpnet => self.pad_token_id + 1,
        }
    }

    /// The longest text in tokens, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_position_embeddings.saturating_sub(self.first_position())
    }

    /// Width of one attention head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
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
            ("\"vocab_size\":9", "\"vocab_size\":-1", "invalid value"),
            ("1e-12", "0", "layer_norm_eps"),
            ("\"gelu\"", "\"relu\"", "relu"),
            ("{", "[", "JSON"),
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
