//! Tokenizers: the hub's `tokenizer.json`, natively and in wasm.
//!
//! The forms that encoders have run on code of our own, the same everywhere: WordPiece with BERT's normalisation
//! ([`wordpiece`]), byte-level BPE ([`bpe`]), SentencePiece's unigram model ([`unigram`]) and BERTweet's ([`tweet`]). Every
//! other file goes to the `tokenizers` crate where the cargo feature of that name is on (it is part of `native`), and is
//! refused by name where it is off: the crate would more than double the wasm module. Natively `build` makes the file out of
//! the older ones of a model that has none.

pub mod bpe;
#[cfg(feature = "native")]
pub mod build;
mod file;
#[cfg(feature = "tokenizers")]
mod other;
pub mod tweet;
pub mod unigram;
pub mod wordpiece;

use super::SlmError;
use bpe::ByteBpe;
use file::{Around, model_type};
use tweet::Tweet;
use unigram::Unigram;
use wordpiece::{Unread, WordPiece};

/// A text as token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The ids, special tokens included.
    pub ids: Vec<u32>,
    /// True where the text was longer than the maximum and its end was cut.
    pub truncated: bool,
}

impl Encoded {
    /// The ids of a text between those put around it, cut to `max_length`. `text` pushes its ids; after those of the limit
    /// that it is given, one more is enough.
    fn around((before, after): &Around, max_length: usize, text: impl FnOnce(usize, &mut Vec<u32>)) -> Self {
        let limit = max_length.saturating_sub(after.len()).max(before.len());
        let mut ids = before.clone();
        text(limit, &mut ids);
        let truncated = ids.len() > limit;
        ids.truncate(limit);
        ids.extend_from_slice(after);
        Self { ids, truncated }
    }
}

/// A tokenizer without padding, which cuts at a maximum length and says so.
pub struct Tokenizer {
    kind: Kind,
    max_length: usize,
}

enum Kind {
    WordPiece(Box<WordPiece>),
    ByteBpe(Box<ByteBpe>),
    Unigram(Box<Unigram>),
    Tweet(Box<Tweet>),
    #[cfg(feature = "tokenizers")]
    Other(Box<other::Other>),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. `max_length` is the longest text in tokens, special tokens included. Whatever padding
    /// and truncation the file asks for is switched off.
    pub fn from_json(json: &[u8], max_length: usize) -> Result<Self, SlmError> {
        let text = std::str::from_utf8(json).map_err(|e| refusal(format!("not UTF-8: {e}")))?;
        let kind = match Kind::read(text) {
            Ok(kind) => kind,
            Err(Unread::Invalid(problem)) => return Err(refusal(problem)),
            #[cfg(feature = "tokenizers")]
            Err(Unread::Other(_)) => {
                Kind::Other(Box::new(other::Other::from_json(text).map_err(|e| refusal(e.to_string()))?))
            }
            #[cfg(not(feature = "tokenizers"))]
            Err(Unread::Other(why)) => {
                return Err(refusal(format!(
                    "{why}; this build reads only WordPiece with BERT's normalisation, byte-level BPE and SentencePiece's \
                     unigram model: take a model with such a tokenizer, or build with the cargo feature `tokenizers`"
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
            Kind::ByteBpe(bpe) => bpe.vocabulary(),
            Kind::Unigram(unigram) => unigram.vocabulary(),
            Kind::Tweet(tweet) => tweet.vocabulary(),
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
    /// The reader of the model's type says what is wrong, WordPiece's where the type is none of the others.
    fn read(json: &str) -> Result<Self, Unread> {
        Ok(match model_type(json).as_deref() {
            Some("BPE") => Self::ByteBpe(Box::new(ByteBpe::from_json(json)?)),
            Some("Unigram") => Self::Unigram(Box::new(Unigram::from_json(json)?)),
            Some("FastBPE") => Self::Tweet(Box::new(Tweet::from_json(json)?)),
            _ => Self::WordPiece(Box::new(WordPiece::from_json(json)?)),
        })
    }

    fn encode(&self, text: &str, max_length: usize) -> Result<Encoded, SlmError> {
        match self {
            Self::WordPiece(wordpiece) => Ok(wordpiece.encode(text, max_length)),
            Self::ByteBpe(bpe) => Ok(bpe.encode(text, max_length)),
            Self::Unigram(unigram) => Ok(unigram.encode(text, max_length)),
            Self::Tweet(tweet) => Ok(tweet.encode(text, max_length)),
            #[cfg(feature = "tokenizers")]
            Self::Other(other) => other.encode(text, max_length).map_err(|e| SlmError::Tokenizer(e.to_string())),
        }
    }
}

fn refusal(problem: String) -> SlmError {
    SlmError::Tokenizer(format!("tokenizer.json: {problem}"))
}
