//! Byte-pair encoding (Sennrich et al., arXiv 1508.07909) over bytes, as GPT-2, RoBERTa and ModernBERT have it.
//!
//! A text is cut into words by GPT-2's pattern, a word into bytes, and neighbours are merged, the pair that was learned
//! first before the others. The ids are those of the `tokenizers` crate.

use super::Encoded;
use super::file::{AddedTokens, Around, File, Unread, known, number, part};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

/// Pairs of symbols that are merged: the pair's rank, and the symbol that it becomes.
#[derive(Default)]
pub(super) struct Merges(HashMap<(u32, u32), (u32, u32)>);

/// No symbol.
const NONE: u32 = u32::MAX;

impl Merges {
    /// Adds a pair of the next rank, or gives it that rank.
    pub(super) fn push(&mut self, pair: (u32, u32), rank: u32, merged: u32) {
        self.0.insert(pair, (rank, merged));
    }

    /// Merges neighbours until no pair is left, the one of the lowest rank first, of equals the leftmost. Symbols are
    /// below `u32::MAX`.
    pub(super) fn apply(&self, symbols: &mut Vec<u32>) {
        let end = symbols.len();
        let mut next: Vec<usize> = (1..=end).collect();
        let mut previous: Vec<usize> = (0..end).map(|at| at.wrapping_sub(1)).collect();
        let mut heap = BinaryHeap::new();
        let candidate = |at: usize, left: u32, right: u32| {
            let (rank, merged) = self.0.get(&(left, right))?;
            Some(Reverse((*rank, at, left, right, *merged)))
        };
        heap.extend(symbols.windows(2).enumerate().filter_map(|(at, pair)| candidate(at, pair[0], pair[1])));
        while let Some(Reverse((_, at, left, right, merged))) = heap.pop() {
            let taken = next[at];
            // A pair of which a part was merged since.
            if symbols[at] != left || symbols.get(taken) != Some(&right) {
                continue;
            }
            symbols[at] = merged;
            symbols[taken] = NONE;
            next[at] = next[taken];
            if let Some(after) = symbols.get(next[at]) {
                previous[next[at]] = at;
                heap.extend(candidate(at, merged, *after));
            }
            if let Some(before) = symbols.get(previous[at]) {
                heap.extend(candidate(previous[at], *before, merged));
            }
        }
        symbols.retain(|symbol| *symbol != NONE);
    }
}

/// A byte-level BPE tokenizer.
pub struct ByteBpe {
    nfc: bool,
    add_prefix_space: bool,
    /// The token of each byte; what has none is the unknown token, or nothing.
    bytes: [Option<u32>; 256],
    merges: Merges,
    /// Whole words that are tokens, where those go before any merge.
    words: HashMap<Vec<u8>, u32>,
    verbatim: AddedTokens,
    normalized: AddedTokens,
    vocabulary: usize,
    around: Around,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    #[serde(default, rename = "type")]
    _type: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// A pair, in either of the two forms that files have.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Line(String),
    Pair(String, String),
}

impl Merge {
    pub(super) fn pair(&self) -> Option<(&str, &str)> {
        match self {
            Self::Line(line) => line.split_once(' '),
            Self::Pair(left, right) => Some((left, right)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByteLevel {
    #[serde(rename = "type")]
    _type: String,
    add_prefix_space: bool,
    #[serde(default, rename = "trim_offsets")]
    _trim_offsets: bool,
    #[serde(default = "yes")]
    use_regex: bool,
}

fn yes() -> bool {
    true
}

/// Whether text is composed first: by no normaliser, or by NFC.
fn composes(raw: Option<&RawValue>) -> Result<bool, Unread> {
    if raw.is_none() {
        return Ok(false);
    }
    part::<serde::de::IgnoredAny>("normalizer", raw, "NFC").map(|_| true)
}

impl ByteBpe {
    /// Reads a `tokenizer.json`; what is not known to the last field is left to others.
    pub fn from_json(json: &str) -> Result<Self, Unread> {
        let (file, around) = File::read(json)?;
        let model: Model = known("model", file.model)?;
        let level: ByteLevel = part("pre_tokenizer", file.pre_tokenizer, "ByteLevel")?;
        let nfc = composes(file.normalizer)?;
        let around = around?;
        let is_empty = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
        let plain = model.dropout.is_none_or(|dropout| dropout == 0.0)
            && is_empty(&model.continuing_subword_prefix)
            && is_empty(&model.end_of_word_suffix)
            && !model.fuse_unk
            && !model.byte_fallback
            && level.use_regex;
        if !plain {
            return Err(Unread::Other("its BPE is not byte-level in the plain form of GPT-2".to_owned()));
        }
        let unknown = match &model.unk_token {
            None => None,
            Some(token) => Some(*model.vocab.get(token).ok_or_else(|| missing("unk_token", token))?),
        };
        if model.vocab.values().any(|id| *id == NONE) {
            return Err(Unread::Invalid(format!("a token has the id {NONE}")));
        }
        let mut bytes = [unknown; 256];
        for (id, byte) in bytes.iter_mut().zip(0..=u8::MAX) {
            if let Some(found) = model.vocab.get(letter_of(byte).to_string().as_str()) {
                *id = Some(*found);
            }
        }
        let mut merges = Merges::default();
        for (rank, merge) in (0..).zip(&model.merges) {
            let id = |token: &str| model.vocab.get(token).copied().ok_or_else(|| missing("merges", token));
            let Some((left, right)) = merge.pair() else {
                return Err(Unread::Invalid(format!("merge {rank} is not a pair of tokens")));
            };
            merges.push((id(left)?, id(right)?), rank, id(&format!("{left}{right}"))?);
        }
        let words = model.vocab.iter().filter(|_| model.ignore_merges);
        let words = words.filter_map(|(token, id)| Some((bytes_of(token)?, *id))).collect();
        let (added, vocabulary) = number(file.added_tokens, &model.vocab)?;
        let (normalized, verbatim): (Vec<_>, Vec<_>) = added.into_iter().partition(|(token, _)| token.normalized);
        let form = |token: &str| if nfc { token.nfc().map(|(c, _)| c).collect() } else { token.to_owned() };
        let (verbatim, normalized) =
            (AddedTokens::new(&verbatim, str::to_owned)?, AddedTokens::new(&normalized, form)?);
        let add_prefix_space = level.add_prefix_space;
        Ok(Self { nfc, add_prefix_space, bytes, merges, words, verbatim, normalized, vocabulary, around })
    }

    /// The size of its vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Tokenizes one text and cuts its end so that, special tokens included, at most `max_length` tokens are left; there
    /// are never fewer than the special ones.
    pub fn encode(&self, text: &str, max_length: usize) -> Encoded {
        Encoded::around(&self.around, max_length, |limit, ids| {
            let mut composed = String::new();
            self.verbatim.split(text, ids, |part, _, ids| {
                let part = if self.nfc && !part.is_ascii() {
                    composed.clear();
                    composed.extend(part.nfc().map(|(c, _)| c));
                    composed.as_str()
                } else {
                    part
                };
                self.normalized.split(part, ids, |part, _, ids| self.words(part, limit, ids));
            });
        })
    }

    /// Stops soon after `limit` ids.
    fn words(&self, text: &str, limit: usize, ids: &mut Vec<u32>) {
        let prefixed;
        let mut rest = text;
        if self.add_prefix_space && !text.starts_with(' ') {
            prefixed = format!(" {text}");
            rest = &prefixed;
        }
        let mut symbols = Vec::new();
        while !rest.is_empty() && ids.len() <= limit {
            let (word, after) = rest.split_at(word_length(rest));
            rest = after;
            if let Some(id) = self.words.get(word.as_bytes()) {
                ids.push(*id);
                continue;
            }
            symbols.clear();
            symbols.extend(word.bytes().filter_map(|byte| self.bytes[usize::from(byte)]));
            self.merges.apply(&mut symbols);
            ids.extend_from_slice(&symbols);
        }
    }
}

fn missing(place: &str, token: &str) -> Unread {
    Unread::Invalid(format!("its {place} names '{token}', which is not in its vocabulary"))
}

// --- GPT-2's alphabet and words ---

/// The letter that stands for a byte in the vocabulary: itself where it is printed, else one from U+0100 on.
fn letter_of(byte: u8) -> char {
    let printed = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printed(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|byte| !printed(*byte)).count();
    u32::try_from(before).ok().and_then(|before| char::from_u32(0x100 + before)).unwrap_or_default()
}

/// The bytes that a token of the vocabulary stands for; none where it has another letter.
fn bytes_of(token: &str) -> Option<Vec<u8>> {
    token.chars().map(|c| (0..=u8::MAX).find(|byte| letter_of(*byte) == c)).collect()
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Kind {
    Space,
    Letter,
    Number,
    Other,
}

fn kind(c: char) -> Kind {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Kind::Letter,
            '0'..='9' => Kind::Number,
            ' ' | '\t'..='\r' => Kind::Space,
            _ => Kind::Other,
        };
    }
    if c.is_whitespace() {
        Kind::Space
    } else if is_other(c) {
        Kind::Other
    } else if c.is_numeric() {
        Kind::Number
    } else if c.is_alphabetic() && (!c.is_mark() || matches!(c, '\u{1CF2}' | '\u{1CF3}')) && !is_circled(c) {
        Kind::Letter
    } else {
        Kind::Other
    }
}

/// Symbols that are alphabetic and no letters.
fn is_circled(c: char) -> bool {
    matches!(c, '\u{24B6}'..='\u{24E9}' | '\u{1F130}'..='\u{1F149}' | '\u{1F150}'..='\u{1F169}' | '\u{1F170}'..='\u{1F189}')
}

/// Characters that are no letters or numbers in Unicode 16, which the pattern is of, whatever the two sources of [`kind`]
/// say: marks that the older of them does not know, and what came with Unicode 17.
fn is_other(c: char) -> bool {
    matches!(
        c,
        '\u{88F}'
            | '\u{897}'
            | '\u{8D4}'..='\u{8DF}'
            | '\u{AFA}'..='\u{AFC}'
            | '\u{C04}'
            | '\u{C5C}'
            | '\u{CDC}'
            | '\u{CF3}'
            | '\u{D00}'
            | '\u{D81}'
            | '\u{1885}'..='\u{1886}'
            | '\u{1ABF}'..='\u{1AC0}'
            | '\u{1ACC}'..='\u{1ACE}'
            | '\u{A7CE}'..='\u{A7CF}'
            | '\u{A7D2}'
            | '\u{A7D4}'
            | '\u{A7F1}'
            | '\u{A8C5}'
            | '\u{A8FF}'
            | '\u{10940}'..='\u{10959}'
            | '\u{10D24}'..='\u{10D27}'
            | '\u{10D69}'
            | '\u{10EAB}'..='\u{10EAC}'
            | '\u{10EC5}'..='\u{10EC7}'
            | '\u{10EFA}'..='\u{10EFC}'
            | '\u{11073}'..='\u{11074}'
            | '\u{110C2}'
            | '\u{11145}'..='\u{11146}'
            | '\u{111CE}'..='\u{111CF}'
            | '\u{1123E}'
            | '\u{11241}'
            | '\u{113B8}'..='\u{113C0}'
            | '\u{113C2}'
            | '\u{113C5}'
            | '\u{113C7}'..='\u{113CA}'
            | '\u{113CC}'..='\u{113CD}'
            | '\u{11435}'..='\u{11441}'
            | '\u{11443}'..='\u{11445}'
            | '\u{1182C}'..='\u{11838}'
            | '\u{11930}'..='\u{11935}'
            | '\u{11937}'..='\u{11938}'
            | '\u{1193B}'..='\u{1193C}'
            | '\u{11940}'
            | '\u{11942}'
            | '\u{119D1}'..='\u{119D7}'
            | '\u{119DA}'..='\u{119DF}'
            | '\u{119E4}'
            | '\u{11A01}'..='\u{11A0A}'
            | '\u{11A35}'..='\u{11A39}'
            | '\u{11A3B}'..='\u{11A3E}'
            | '\u{11A51}'..='\u{11A5B}'
            | '\u{11A8A}'..='\u{11A97}'
            | '\u{11B60}'..='\u{11B67}'
            | '\u{11C2F}'..='\u{11C36}'
            | '\u{11C38}'..='\u{11C3E}'
            | '\u{11C92}'..='\u{11CA7}'
            | '\u{11CA9}'..='\u{11CB6}'
            | '\u{11D31}'..='\u{11D36}'
            | '\u{11D3A}'
            | '\u{11D3C}'..='\u{11D3D}'
            | '\u{11D3F}'..='\u{11D41}'
            | '\u{11D43}'
            | '\u{11D47}'
            | '\u{11D8A}'..='\u{11D8E}'
            | '\u{11D90}'..='\u{11D91}'
            | '\u{11D93}'..='\u{11D96}'
            | '\u{11DB0}'..='\u{11DDB}'
            | '\u{11DE0}'..='\u{11DE9}'
            | '\u{11EF3}'..='\u{11EF6}'
            | '\u{11F00}'..='\u{11F01}'
            | '\u{11F03}'
            | '\u{11F34}'..='\u{11F3A}'
            | '\u{11F3E}'..='\u{11F40}'
            | '\u{1611E}'..='\u{1612E}'
            | '\u{16EA0}'..='\u{16EB8}'
            | '\u{16EBB}'..='\u{16ED3}'
            | '\u{16F4F}'
            | '\u{16F7F}'..='\u{16F87}'
            | '\u{16FF0}'..='\u{16FF6}'
            | '\u{187F8}'..='\u{187FF}'
            | '\u{18D09}'..='\u{18D1E}'
            | '\u{18D80}'..='\u{18DF2}'
            | '\u{1E000}'..='\u{1E006}'
            | '\u{1E008}'..='\u{1E018}'
            | '\u{1E01B}'..='\u{1E021}'
            | '\u{1E023}'..='\u{1E024}'
            | '\u{1E026}'..='\u{1E02A}'
            | '\u{1E08F}'
            | '\u{1E6C0}'..='\u{1E6DE}'
            | '\u{1E6E0}'..='\u{1E6F5}'
            | '\u{1E6FE}'..='\u{1E6FF}'
            | '\u{1E947}'
            | '\u{2B73A}'..='\u{2B73F}'
            | '\u{2CEA2}'..='\u{2CEAD}'
            | '\u{323B0}'..='\u{33479}'
    )
}

/// Bytes of the word that a text, which is not empty, begins with: GPT-2's
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
fn word_length(text: &str) -> usize {
    if let Some(short) = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].iter().find(|short| text.starts_with(**short)) {
        return short.len();
    }
    let run = |text: &str, wanted: Kind| text.find(|c: char| kind(c) != wanted).unwrap_or(text.len());
    let body = text.strip_prefix(' ').unwrap_or(text);
    if let Some(first) = body.chars().next().map(kind).filter(|kind| *kind != Kind::Space) {
        return text.len() - body.len() + run(body, first);
    }
    let spaces = run(text, Kind::Space);
    let last = text[..spaces].chars().next_back().map_or(0, char::len_utf8);
    // The last space goes with the word after it.
    if spaces < text.len() && spaces > last { spaces - last } else { spaces }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_have_distinct_letters() {
        let letters: std::collections::BTreeSet<char> = (0..=u8::MAX).map(letter_of).collect();
        assert_eq!(letters.len(), 256);
        assert_eq!((letter_of(b' '), letter_of(b'\n'), letter_of(0xAD), letter_of(b'a')), ('Ġ', 'Ċ', 'Ń', 'a'));
    }

    #[test]
    fn words_are_those_of_the_pattern() {
        let words = |mut text: &'static str| {
            let mut words = Vec::new();
            while !text.is_empty() {
                let (word, rest) = text.split_at(word_length(text));
                words.push(word);
                text = rest;
            }
            words
        };
        assert_eq!(words("it's  two\n\n"), ["it", "'s", " ", " two", "\n\n"]);
        assert_eq!(words("a1½ !?'s\t\tx"), ["a", "1½", " !?'", "s", "\t", "\t", "x"]);
        assert_eq!(words("  "), ["  "]);
    }

    proptest! {
        /// Against a search for the best pair in every step.
        #[test]
        fn merges_are_those_of_a_plain_search(
            symbols in prop::collection::vec(0u32..4, 0..40),
            pairs in prop::collection::vec((0u32..8, 0u32..8), 0..12),
        ) {
            let mut merges = Merges::default();
            for (rank, pair) in (0u32..).zip(&pairs) {
                merges.push(*pair, rank, 4 + rank % 4);
            }
            let mut expected = symbols.clone();
            loop {
                let ranked = expected.windows(2).enumerate().filter_map(|(at, pair)| Some((merges.0.get(&(pair[0], pair[1]))?, at)));
                let Some(((_, merged), at)) = ranked.min_by_key(|((rank, _), at)| (*rank, *at)) else { break };
                expected[at] = *merged;
                expected.remove(at + 1);
            }
            let mut found = symbols;
            merges.apply(&mut found);
            prop_assert_eq!(found, expected);
        }
    }
}
