//! WordPiece with BERT's normalisation: the same ids as the `tokenizers` crate gives, without its alignments.
//!
//! The greedy longest match of Wu et al. (arXiv 1609.08144), on text that is normalised and split as Devlin et al.
//! (arXiv 1810.04805) do it. What a character is (control, mark, punctuation) and how it decomposes is asked of the two
//! crates that `tokenizers` asks, because their Unicode is older than that of others and ids must not differ.
//!
//! A text is taken one chunk between ASCII spaces at a time. No token, added ones included, and no step of the
//! normalisation reaches across such a space, so a long text is left as soon as it has enough tokens.

use super::Encoded;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

/// Why a `tokenizer.json` was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// It is another kind of tokenizer, or asks for something that is not known here: what.
    Other(String),
    /// It is of no use to any reader: why.
    Invalid(String),
}

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
    before: Vec<u32>,
    after: Vec<u32>,
}

// --- the file ---

#[derive(Deserialize)]
struct File<'a> {
    version: Option<String>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddedToken {
    #[serde(rename = "id")]
    _id: u32,
    content: String,
    single_word: bool,
    // Spaces beside a token are no token's part: taking them or not is the same.
    #[serde(rename = "lstrip")]
    _lstrip: bool,
    #[serde(rename = "rstrip")]
    _rstrip: bool,
    normalized: bool,
    #[serde(rename = "special")]
    _special: bool,
}

#[derive(Deserialize)]
struct Type {
    r#type: String,
}

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

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum PostProcessor {
    #[serde(rename = "TemplateProcessing")]
    Template {
        single: Vec<Piece>,
        #[serde(rename = "pair")]
        _pair: Vec<Piece>,
        special_tokens: HashMap<String, SpecialToken>,
    },
    #[serde(rename = "BertProcessing")]
    Bert { sep: (String, u32), cls: (String, u32) },
    #[serde(rename = "RobertaProcessing")]
    Roberta {
        sep: (String, u32),
        cls: (String, u32),
        #[serde(rename = "trim_offsets")]
        _trim_offsets: bool,
        #[serde(rename = "add_prefix_space")]
        _add_prefix_space: bool,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
enum Piece {
    Sequence {
        id: Sequence,
        #[serde(rename = "type_id")]
        _type_id: u32,
    },
    SpecialToken {
        id: String,
        #[serde(rename = "type_id")]
        _type_id: u32,
    },
}

#[derive(Deserialize, PartialEq, Eq)]
enum Sequence {
    A,
    B,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecialToken {
    #[serde(rename = "id")]
    _id: String,
    ids: Vec<u32>,
    #[serde(rename = "tokens")]
    _tokens: Vec<String>,
}

/// The file's part called `name`, which has to be of type `kind`.
fn part<T: DeserializeOwned>(name: &str, raw: Option<&RawValue>, kind: &str) -> Result<T, Unread> {
    let raw = raw.ok_or_else(|| Unread::Other(format!("it has no {name}")))?.get();
    match serde_json::from_str::<Type>(raw) {
        Ok(Type { r#type }) if r#type == kind => {}
        Ok(Type { r#type }) => return Err(Unread::Other(format!("its {name} is of type {type}"))),
        Err(e) => return Err(Unread::Other(format!("its {name} has no type: {e}"))),
    }
    serde_json::from_str(raw).map_err(|e| Unread::Other(format!("its {name} is a {kind} of an unknown form: {e}")))
}

/// The ids put before and after a text.
fn specials(raw: Option<&RawValue>) -> Result<(Vec<u32>, Vec<u32>), Unread> {
    let Some(raw) = raw else { return Ok((Vec::new(), Vec::new())) };
    let processor = serde_json::from_str(raw.get())
        .map_err(|e| Unread::Other(format!("its post_processor is of an unknown form: {e}")))?;
    let (single, special_tokens) = match processor {
        PostProcessor::Bert { sep, cls } | PostProcessor::Roberta { sep, cls, .. } => {
            return Ok((vec![cls.1], vec![sep.1]));
        }
        PostProcessor::Template { single, special_tokens, .. } => (single, special_tokens),
    };
    let mut sides = vec![Vec::new()];
    for piece in &single {
        match (piece, sides.last_mut()) {
            (Piece::SpecialToken { id, .. }, Some(side)) => match special_tokens.get(id) {
                Some(token) => side.extend(&token.ids),
                None => return Err(Unread::Invalid(format!("its post_processor names '{id}' and does not have it"))),
            },
            (Piece::Sequence { id: Sequence::A, .. }, _) => sides.push(Vec::new()),
            _ => return Err(Unread::Invalid("its post_processor wants a second text beside a single one".to_owned())),
        }
    }
    <[Vec<u32>; 2]>::try_from(sides)
        .map(|[before, after]| (before, after))
        .map_err(|_| Unread::Other("its post_processor does not hold the text exactly once".to_owned()))
}

impl WordPiece {
    /// Reads a `tokenizer.json`. Padding, truncation and decoder are left aside. Whatever else it holds has to be known
    /// here to the last field: the ids are never silently others.
    pub fn from_json(json: &str) -> Result<Self, Unread> {
        let file: File<'_> = serde_json::from_str(json).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => Unread::Other(format!("it is of an unknown form: {e}")),
            _ => Unread::Invalid(e.to_string()),
        })?;
        // Before the kind is asked: the crate panics on what is invalid here.
        let around = match specials(file.post_processor) {
            Err(Unread::Invalid(problem)) => return Err(Unread::Invalid(problem)),
            around => around,
        };
        if file.version.as_deref().is_some_and(|version| version != "1.0") {
            return Err(Unread::Other("it is not of version 1.0".to_owned()));
        }
        let model: Model = part("model", Some(file.model), "WordPiece")?;
        let normalizer: Normalizer = part("normalizer", file.normalizer, "BertNormalizer")?;
        part::<Type>("pre_tokenizer", file.pre_tokenizer, "BertPreTokenizer")?;
        let (before, after) = around?;
        let unknown = *model
            .vocab
            .get(&model.unk_token)
            .ok_or_else(|| Unread::Other(format!("its unk_token '{}' is not in its vocabulary", model.unk_token)))?;
        let (added, vocabulary) = number(file.added_tokens, &model.vocab)?;
        let (normalized, verbatim): (Vec<_>, Vec<_>) = added.into_iter().partition(|(token, _)| token.normalized);
        let plain = |token: &AddedToken| token.content.clone();
        Ok(Self {
            verbatim: AddedTokens::new(verbatim.iter().map(|(token, id)| (plain(token), *id)).collect())?,
            normalized: AddedTokens::new(
                normalized.iter().map(|(token, id)| (normalizer.normalized(&token.content), *id)).collect(),
            )?,
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
            before,
            after,
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
        let limit = max_length.saturating_sub(self.after.len()).max(self.before.len());
        let mut ids = self.before.clone();
        let mut normalized = String::new();
        for chunk in text.split([' ', '\t', '\n', '\r']) {
            self.verbatim.split(chunk, &mut ids, |part, ids| {
                normalized.clear();
                self.normalizer.normalize(part, &mut normalized);
                self.normalized.split(&normalized, ids, |part, ids| self.split(part, limit, ids));
            });
            if ids.len() > limit {
                break;
            }
        }
        let truncated = ids.len() > limit;
        ids.truncate(limit);
        ids.extend_from_slice(&self.after);
        Encoded { ids, truncated }
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

// --- added tokens ---

/// Gives added tokens their ids, and says how large the vocabulary is with them. A token of the vocabulary keeps its id,
/// the others are numbered on, whatever id the file gives them.
fn number(tokens: Vec<AddedToken>, vocab: &HashMap<String, u32>) -> Result<(Vec<(AddedToken, u32)>, usize), Unread> {
    let mut size = vocab.len();
    let mut numbered = Vec::with_capacity(tokens.len());
    for token in tokens {
        if token.single_word {
            return Err(Unread::Other(format!("its added token '{}' is a single_word", token.content)));
        }
        let id = match vocab.get(&token.content) {
            Some(id) => *id,
            None => {
                size += 1;
                u32::try_from(size - 1).map_err(|_| Unread::Invalid("it has too many tokens".to_owned()))?
            }
        };
        numbered.push((token, id));
    }
    Ok((numbered, size))
}

/// Tokens that are found anywhere in a text: the leftmost first, and of those the longest.
struct AddedTokens {
    /// The longest first.
    tokens: Vec<(String, u32)>,
    /// The bytes that one begins with.
    first: [bool; 256],
}

impl AddedTokens {
    fn new(mut tokens: Vec<(String, u32)>) -> Result<Self, Unread> {
        let mut seen = HashSet::new();
        let mut first = [false; 256];
        for (token, _) in &tokens {
            match token.bytes().next() {
                Some(byte) if !token.contains(char::is_whitespace) && seen.insert(token) => {
                    first[usize::from(byte)] = true;
                }
                _ => {
                    return Err(Unread::Other(format!(
                        "its added token '{token}' is empty, twice there or has a space"
                    )));
                }
            }
        }
        tokens.sort_by_key(|(token, _)| std::cmp::Reverse(token.len()));
        Ok(Self { tokens, first })
    }

    /// Pushes the ids of the tokens in `text`, and between them whatever `rest` makes of the parts that are none.
    fn split(&self, text: &str, ids: &mut Vec<u32>, mut rest: impl FnMut(&str, &mut Vec<u32>)) {
        let (mut start, mut at) = (0, 0);
        while let Some(byte) = text.as_bytes().get(at) {
            let found = self.first[usize::from(*byte)].then(|| self.starting(&text.as_bytes()[at..])).flatten();
            let Some((token, id)) = found else {
                at += 1;
                continue;
            };
            if start < at {
                rest(&text[start..at], ids);
            }
            ids.push(*id);
            at += token.len();
            start = at;
        }
        if start < text.len() {
            rest(&text[start..], ids);
        }
    }

    fn starting(&self, text: &[u8]) -> Option<&(String, u32)> {
        self.tokens.iter().find(|(token, _)| text.starts_with(token.as_bytes()))
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
