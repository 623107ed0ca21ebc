//! Tokenizers of every kind, by the `tokenizers` crate.

use super::Encoded;
use serde::Deserialize;
use serde_json::Value;
use tokenizers::normalizers::Precompiled;
use tokenizers::{Result, Tokenizer};

pub(super) struct Other {
    inner: Tokenizer,
    /// How many special tokens are put around a text.
    specials: usize,
}

impl Other {
    pub(super) fn from_json(json: &str) -> Result<Self> {
        readable(&serde_json::from_str::<Normalizing>(json)?.normalizer)?;
        let mut inner: Tokenizer = json.parse()?;
        inner.with_padding(None);
        inner.with_truncation(None)?;
        let specials = inner.encode_fast("", true)?.len();
        Ok(Self { inner, specials })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub(super) fn encode(&self, text: &str, max_length: usize) -> Result<Encoded> {
        let mut ids = self.inner.encode_fast(text, true)?.get_ids().to_vec();
        let truncated = ids.len() > max_length;
        if truncated {
            let closing = ids.last().copied().filter(|_| self.specials > 0);
            ids.truncate(max_length - usize::from(closing.is_some()));
            ids.extend(closing);
        }
        Ok(Encoded { ids, truncated })
    }
}

/// The part of a file that says how text is normalised.
#[derive(Deserialize)]
struct Normalizing {
    #[serde(default)]
    normalizer: Value,
}

/// An error where the crate panics: of a normalizer with a table that it cannot read.
fn readable(normalizer: &Value) -> Result<()> {
    if normalizer["type"] == "Precompiled" {
        Precompiled::deserialize(normalizer)?;
    }
    normalizer["normalizers"].as_array().into_iter().flatten().try_for_each(readable)
}
