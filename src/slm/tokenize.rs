//! Tokenizers: the hub's `tokenizer.json` through the `tokenizers` crate, natively and in wasm.

use super::SlmError;
use std::str::FromStr;

/// A text as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The ids, special tokens included.
    pub ids: Vec<u32>,
    /// True where the text was longer than the maximum and its end was cut.
    pub truncated: bool,
}

/// A tokenizer without padding, which cuts at a maximum length and says so.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    max_length: usize,
    specials: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. `max_length` is the longest text in tokens, special tokens included. Whatever padding
    /// and truncation the file asks for is switched off.
    pub fn from_json(json: &[u8], max_length: usize) -> Result<Self, SlmError> {
        let fail = |problem: String| SlmError::Tokenizer(format!("tokenizer.json: {problem}"));
        let text = std::str::from_utf8(json).map_err(|e| fail(format!("not UTF-8: {e}")))?;
        let mut inner = tokenizers::Tokenizer::from_str(text).map_err(|e| fail(e.to_string()))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| fail(e.to_string()))?;
        let specials = inner.encode_fast("", true).map_err(|e| fail(e.to_string()))?.len();
        if max_length <= specials {
            return Err(fail(format!(
                "a maximum of {max_length} tokens leaves no room beside {specials} special ones"
            )));
        }
        Ok(Self { inner, max_length, specials })
    }

    /// The size of its vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Tokenizes one text. A text longer than the maximum loses its end, never its closing special token.
    pub fn encode(&self, text: &str) -> Result<Encoded, SlmError> {
        let encoding = self.inner.encode_fast(text, true).map_err(|e| SlmError::Tokenizer(e.to_string()))?;
        let mut ids = encoding.get_ids().to_vec();
        let truncated = ids.len() > self.max_length;
        if truncated && self.specials > 0 {
            let closing = ids[ids.len() - 1];
            ids.truncate(self.max_length - 1);
            ids.push(closing);
        }
        Ok(Encoded { ids, truncated })
    }
}
