//! WordPiece with BERT's normalisation: the same ids as the `tokenizers` crate gives, without its alignments.
//!
//! The greedy longest match of Wu et al. (arXiv 1609.08144), on text that is normalised and split as Devlin et al.
//! (arXiv 1810.04805) do it. What a character is (control, mark, punctuation) and how it decomposes is asked of the two
//! crates that `tokenizers` asks, because their Unicode is older than that of others and ids must not differ.
//!
//! A text is taken one chunk between ASCII spaces at a time. No token, added ones included, and no step of the
//! normalisation reaches across such a space, so a long text is left as soon as it has enough tokens.

use super::Encoded;
pub use super::file::Unread;
use super::file::{AddedTokens, Around, File, Type, number, part};
use serde::Deserialize;
use std::collections::HashMap;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

/// A WordPiece tokenizer.
pub struct WordPiece {
    normalizer: Normalizer,
    /// Tokens that begin a word.
    words: HashMap<String, u32>,
    /// Tokens that continue a word, without their prefix.
    pieces: HashMap<String, u32>,
    /// The longest token in bytes.
    longest: usize,
    max_word_chars: usize,
    unknown: u32,
    /// Added tokens that are looked for in the text as it came.
    verbatim: AddedTokens,
    /// Added tokens that are looked for in the normalised text.
    normalized: AddedTokens,
    vocabulary: usize,
    around: Around,
}

// --- the file ---

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Normalizer {
    #[serde(rename = "type")]
    _type: String,
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    #[serde(rename = "type")]
    _type: String,
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
    vocab: HashMap<String, u32>,
}

impl WordPiece {
    /// Reads a `tokenizer.json`. Padding, truncation and decoder are left aside. Whatever else it holds has to be known
    /// here to the last field: the ids are never silently others.
    pub fn from_json(json: &str) -> Result<Self, Unread> {
        let (file, around) = File::read(json)?;
        let model: Model = part("model", Some(file.model), "WordPiece")?;
        let normalizer: Normalizer = part("normalizer", file.normalizer, "BertNormalizer")?;
        part::<Type>("pre_tokenizer", file.pre_tokenizer, "BertPreTokenizer")?;
        let around = around?;
        let unknown = *model
            .vocab
            .get(&model.unk_token)
            .ok_or_else(|| Unread::Other(format!("its unk_token '{}' is not in its vocabulary", model.unk_token)))?;
        let (added, vocabulary) = number(file.added_tokens, &model.vocab)?;
        let (normalized, verbatim): (Vec<_>, Vec<_>) = added.into_iter().partition(|(token, _)| token.normalized);
        // Spaces beside a token are no token's part here: taking them or not is the same.
        let verbatim = AddedTokens::new(&verbatim, str::to_owned)?;
        let normalized = AddedTokens::new(&normalized, |token| normalizer.normalized(token))?;
        if verbatim.have_space() || normalized.have_space() {
            return Err(Unread::Other("an added token has a space".to_owned()));
        }
        Ok(Self {
            verbatim,
            normalized,
            longest: model.vocab.keys().map(String::len).max().unwrap_or_default(),
            pieces: model
                .vocab
                .iter()
                .filter_map(|(token, id)| Some((token.strip_prefix(&model.continuing_subword_prefix)?.to_owned(), *id)))
                .collect(),
            words: model.vocab,
            max_word_chars: model.max_input_chars_per_word,
            normalizer,
            unknown,
            vocabulary,
            around,
        })
    }

    /// The size of its vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    // --- a text ---

    /// Tokenizes one text and cuts its end so that, special tokens included, at most `max_length` tokens are left; there
    /// are never fewer than the special ones.
    pub fn encode(&self, text: &str, max_length: usize) -> Encoded {
        Encoded::around(&self.around, max_length, |limit, ids| {
            let mut normalized = String::new();
            for chunk in text.split([' ', '\t', '\n', '\r']) {
                self.verbatim.split(chunk, ids, |part, _, ids| {
                    normalized.clear();
                    self.normalizer.normalize(part, &mut normalized);
                    self.normalized.split(&normalized, ids, |part, _, ids| self.split(part, limit, ids));
                });
                if ids.len() > limit {
                    break;
                }
            }
        })
    }

    /// Splits normalised text at spaces and around punctuation; stops soon after `limit` ids.
    fn split(&self, text: &str, limit: usize, ids: &mut Vec<u32>) {
        let mut start = 0;
        for (at, c) in text.char_indices() {
            let punctuation = is_punctuation(c);
            if !punctuation && !c.is_whitespace() {
                continue;
            }
            let next = at + c.len_utf8();
            self.word(&text[start..at], ids);
            if punctuation {
                self.word(&text[at..next], ids);
            }
            if ids.len() > limit {
                return;
            }
            start = next;
        }
        self.word(&text[start..], ids);
    }

    /// The longest token that begins the word, then the longest that continues it, and so on; the unknown token where
    /// there is none.
    fn word(&self, mut rest: &str, ids: &mut Vec<u32>) {
        // There are at most as many characters as bytes.
        if rest.len() > self.max_word_chars && rest.chars().count() > self.max_word_chars {
            ids.push(self.unknown);
            return;
        }
        let first = ids.len();
        let mut tokens = &self.words;
        while !rest.is_empty() {
            let Some((id, length)) = self.longest(tokens, rest) else {
                ids.truncate(first);
                ids.push(self.unknown);
                return;
            };
            ids.push(id);
            rest = &rest[length..];
            tokens = &self.pieces;
        }
    }

    /// The longest of `tokens` that `text` begins with: its id and length in bytes.
    fn longest(&self, tokens: &HashMap<String, u32>, text: &str) -> Option<(u32, usize)> {
        let mut end = text.floor_char_boundary(self.longest);
        while end > 0 {
            if let Some(id) = tokens.get(&text[..end]) {
                return Some((*id, end));
            }
            end = text.floor_char_boundary(end - 1);
        }
        None
    }
}

// --- characters ---

impl Normalizer {
    fn normalized(&self, text: &str) -> String {
        let mut out = String::new();
        self.normalize(text, &mut out);
        out
    }

    /// Appends `text`, normalised, to `out`.
    fn normalize(&self, text: &str, out: &mut String) {
        if text.is_ascii() {
            // Decomposition and marks are not ASCII's.
            let kept = |c: &char| !self.clean_text || matches!(c, '\t' | '\n' | '\r') || !c.is_ascii_control();
            out.extend(text.chars().filter(kept).map(|c| if self.lowercase { c.to_ascii_lowercase() } else { c }));
            return;
        }
        let clean = text.chars().filter(|c| !self.clean_text || !is_dropped(*c));
        let spaced = clean.flat_map(|c| {
            let space = (self.handle_chinese_chars && is_chinese(c)).then_some(' ');
            [space, Some(c), space].into_iter().flatten()
        });
        if self.strip_accents.unwrap_or(self.lowercase) {
            self.lower(spaced.nfd().map(|(c, _)| c).filter(|c| !c.is_mark_nonspacing()), out);
        } else {
            self.lower(spaced, out);
        }
    }

    fn lower(&self, chars: impl Iterator<Item = char>, out: &mut String) {
        if self.lowercase {
            out.extend(chars.flat_map(char::to_lowercase));
        } else {
            out.extend(chars);
        }
    }
}

/// Characters that the cleaning takes out: controls, formats and private ones, but for those that are spaces.
fn is_dropped(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => false,
        '\u{FFFD}' => true,
        _ => c.is_other(),
    }
}

fn is_punctuation(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_punctuation() } else { c.is_punctuation() }
}

/// The blocks of Han characters that are put between spaces, as the crate has them (extension E from U+2B920 only).
fn is_chinese(c: char) -> bool {
    matches!(
        c,
        '\u{3400}'..='\u{4DBF}'
            | '\u{4E00}'..='\u{9FFF}'
            | '\u{F900}'..='\u{FAFF}'
            | '\u{20000}'..='\u{2A6DF}'
            | '\u{2A700}'..='\u{2B73F}'
            | '\u{2B740}'..='\u{2B81F}'
            | '\u{2B920}'..='\u{2CEAF}'
            | '\u{2F800}'..='\u{2FA1F}'
    )
}
