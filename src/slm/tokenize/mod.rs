//! Tokenizers: the hub's `tokenizer.json`, natively and in wasm.
//!
//! WordPiece with BERT's normalisation, which BERT and MPNet have, runs on [`wordpiece`]. Every other file goes to the
//! `tokenizers` crate where the cargo feature of that name is on (it is part of `native`), and is refused by name where
//! it is off: the crate would more than double the wasm module.

#[cfg(feature = "tokenizers")]
mod other;
pub mod wordpiece;

use super::SlmError;
use wordpiece::{Unread, WordPiece};

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
    kind: Kind,
    max_length: usize,
}

enum Kind {
    WordPiece(Box<WordPiece>),
    #[cfg(feature = "tokenizers")]
    Other(Box<other::Other>),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. `max_length` is the longest text in tokens, special tokens included. Whatever padding
    /// and truncation the file asks for is switched off.
    pub fn from_json(json: &[u8], max_length: usize) -> Result<Self, SlmError> {
        let text = std::str::from_utf8(json).map_err(|e| refusal(format!("not UTF-8: {e}")))?;
        let kind = match WordPiece::from_json(text) {
            Ok(wordpiece) => Kind::WordPiece(Box::new(wordpiece)),
            Err(Unread::Invalid(problem)) => return Err(refusal(problem)),
            #[cfg(feature = "tokenizers")]
            Err(Unread::Other(_)) => {
                Kind::Other(Box::new(other::Other::from_json(text).map_err(|e| refusal(e.to_string()))?))
            }
            #[cfg(not(feature = "tokenizers"))]
            Err(Unread::Other(why)) => {
                return Err(refusal(format!(
                    "{why}; this build reads only WordPiece with BERT's normalisation: take a model with such a \
                     tokenizer, or build with the cargo feature `tokenizers`"
                )));
            }
        };
        let specials = kind.encode("", usize::MAX)?.ids.len();
        if max_length <= specials {
            return Err(refusal(format!(
                "a maximum of {max_length} tokens leaves no room beside {specials} special ones"
            )));
        }
        Ok(Self { kind, max_length })
    }

    /// The size of its vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        match &self.kind {
            Kind::WordPiece(wordpiece) => wordpiece.vocabulary(),
            #[cfg(feature = "tokenizers")]
            Kind::Other(other) => other.vocabulary(),
        }
    }

    /// Tokenizes one text. A text longer than the maximum loses its end, never its closing special token.
    pub fn encode(&self, text: &str) -> Result<Encoded, SlmError> {
        self.kind.encode(text, self.max_length)
    }
}

impl Kind {
    fn encode(&self, text: &str, max_length: usize) -> Result<Encoded, SlmError> {
        match self {
            Self::WordPiece(wordpiece) => Ok(wordpiece.encode(text, max_length)),
            #[cfg(feature = "tokenizers")]
            Self::Other(other) => other.encode(text, max_length).map_err(|e| SlmError::Tokenizer(e.to_string())),
        }
    }
}

fn refusal(problem: String) -> SlmError {
    SlmError::Tokenizer(format!("tokenizer.json: {problem}"))
}
