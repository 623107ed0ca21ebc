//! SentencePiece's unigram model (Kudo, arXiv 1804.10959; Kudo and Richardson, arXiv 1808.06226), as XLM-R, ALBERT and
//! DeBERTa-v3 have it: of all ways to cut a word into pieces, the one of the highest sum of log-probabilities.
//!
//! Normalisation by a precompiled map of characters is SentencePiece's own: at each place the longest entry that fits.
//! The `tokenizers` crate looks entries up by grapheme instead and so leaves some sequences, such as decomposed Hangul, as
//! they are; in that the ids here are those of the original.

use super::Encoded;
use super::file::{AddedTokens, Around, File, Unread, known, number};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use unicode_normalization_alignments::UnicodeNormalization;
use unicode_normalization_alignments::char::is_combining_mark;

/// What stands for a space inside a piece.
pub(super) const SPACE: char = '\u{2581}';

/// A unigram tokenizer.
pub struct Unigram {
    steps: Vec<Step>,
    words: Words,
    /// Ids and log-probabilities.
    pieces: HashMap<String, (u32, f64)>,
    /// The longest piece in bytes.
    longest: usize,
    unknown: u32,
    unknown_score: f64,
    verbatim: AddedTokens,
    normalized: AddedTokens,
    vocabulary: usize,
    around: Around,
}

/// One step of the normalisation.
enum Step {
    Charsmap(Charsmap),
    Strip {
        left: bool,
        right: bool,
    },
    /// Spaces at the ends go; of whitespace, only those.
    Trim,
    /// Several spaces become this.
    Collapse(String),
    /// Whitespace as Python has it becomes one space.
    Gather,
    /// Put before a text that is not empty.
    Prepend(String),
    Replace(String, String),
    Lowercase,
    Nfkd,
    Nfkc,
    Nfc,
    StripAccents,
}

/// The pattern of [`Step::Trim`] in a file.
pub(super) const TRIM: &str = "^ +| +$";

/// The pattern of [`Step::Gather`] in a file.
pub(super) const GATHER: &str = r"[\s\x1c-\x1f]+";

/// How normalised text becomes words.
struct Words {
    /// Whether whitespace of any kind is taken out between words.
    split: bool,
    prepend: Prepend,
}

/// Where a space is put before a text that has none there.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Prepend {
    Always,
    First,
    Never,
}

// --- the file ---

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    #[serde(default, rename = "type")]
    _type: Option<String>,
    unk_id: Option<u32>,
    vocab: Vec<(String, f64)>,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum NormalizerPart {
    Sequence {
        normalizers: Vec<NormalizerPart>,
    },
    Precompiled {
        precompiled_charsmap: String,
    },
    Strip {
        strip_left: bool,
        strip_right: bool,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    Prepend {
        prepend: String,
    },
    Lowercase,
    #[serde(rename = "NFKD")]
    Nfkd,
    #[serde(rename = "NFKC")]
    Nfkc,
    #[serde(rename = "NFC")]
    Nfc,
    StripAccents,
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(String),
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum PreTokenizerPart {
    Sequence {
        pretokenizers: Vec<PreTokenizerPart>,
    },
    WhitespaceSplit,
    Metaspace {
        replacement: char,
        prepend_scheme: Option<Prepend>,
        add_prefix_space: Option<bool>,
        #[serde(default = "yes")]
        split: bool,
        #[serde(rename = "str_rep")]
        _str_rep: Option<String>,
    },
}

fn yes() -> bool {
    true
}

fn steps(part: NormalizerPart, steps: &mut Vec<Step>) -> Result<(), Unread> {
    let step = match part {
        NormalizerPart::Sequence { normalizers } => {
            return normalizers.into_iter().try_for_each(|part| self::steps(part, steps));
        }
        NormalizerPart::Precompiled { precompiled_charsmap } => {
            Step::Charsmap(Charsmap::read(&precompiled_charsmap).map_err(Unread::Invalid)?)
        }
        NormalizerPart::Strip { strip_left: left, strip_right: right } => Step::Strip { left, right },
        NormalizerPart::Replace { pattern: Pattern::Regex(pattern), content } => match pattern.as_str() {
            " {2,}" => Step::Collapse(content),
            TRIM if content.is_empty() => Step::Trim,
            GATHER if content == " " => Step::Gather,
            _ => return Err(Unread::Other(format!("it replaces by the regular expression '{pattern}'"))),
        },
        NormalizerPart::Replace { pattern: Pattern::String(pattern), content } if !pattern.is_empty() => {
            Step::Replace(pattern, content)
        }
        NormalizerPart::Replace { .. } => return Err(Unread::Other("it replaces what is empty".to_owned())),
        NormalizerPart::Prepend { prepend } => Step::Prepend(prepend),
        NormalizerPart::Lowercase => Step::Lowercase,
        NormalizerPart::Nfkd => Step::Nfkd,
        NormalizerPart::Nfkc => Step::Nfkc,
        NormalizerPart::Nfc => Step::Nfc,
        NormalizerPart::StripAccents => Step::StripAccents,
    };
    steps.push(step);
    Ok(())
}

fn words(part: PreTokenizerPart) -> Result<Words, Unread> {
    let other = || Unread::Other("its pre_tokenizer is not SentencePiece's".to_owned());
    match part {
        PreTokenizerPart::Sequence { pretokenizers } => {
            let mut parts = pretokenizers.into_iter();
            match (parts.next(), parts.next(), parts.next()) {
                (Some(PreTokenizerPart::WhitespaceSplit), Some(part @ PreTokenizerPart::Metaspace { .. }), None) => {
                    Ok(Words { split: true, ..words(part)? })
                }
                (Some(part @ PreTokenizerPart::Metaspace { .. }), None, None) => words(part),
                _ => Err(other()),
            }
        }
        PreTokenizerPart::Metaspace { replacement: SPACE, prepend_scheme, add_prefix_space, split: true, .. } => {
            let old = if add_prefix_space.unwrap_or(true) { Prepend::Always } else { Prepend::Never };
            Ok(Words { split: false, prepend: prepend_scheme.unwrap_or(old) })
        }
        _ => Err(other()),
    }
}

impl Unigram {
    /// Reads a `tokenizer.json`; what is not known to the last field is left to others.
    pub fn from_json(json: &str) -> Result<Self, Unread> {
        let (file, around) = File::read(json)?;
        let model: Model = known("model", file.model)?;
        let around = around?;
        let mut steps = Vec::new();
        if let Some(raw) = file.normalizer {
            self::steps(known("normalizer", raw)?, &mut steps)?;
        }
        let Some(raw) = file.pre_tokenizer else { return Err(Unread::Other("it has no pre_tokenizer".to_owned())) };
        let words = words(known("pre_tokenizer", raw)?)?;
        if model.byte_fallback {
            return Err(Unread::Other("its unigram model falls back to bytes".to_owned()));
        }
        let unknown = model.unk_id.filter(|id| usize::try_from(*id).is_ok_and(|id| id < model.vocab.len()));
        let Some(unknown) = unknown else {
            return Err(Unread::Other("its unigram model has no unknown token".to_owned()));
        };
        if let Some((piece, _)) = model.vocab.iter().find(|(_, score)| !score.is_finite()) {
            return Err(Unread::Invalid(format!("the score of '{piece}' is not a number")));
        }
        // SentencePiece's penalty of what is unknown.
        let unknown_score = model.vocab.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min) - 10.0;
        let ids: HashMap<String, u32> = (0..).zip(&model.vocab).map(|(id, (piece, _))| (piece.clone(), id)).collect();
        let (added, more) = number(file.added_tokens, &ids)?;
        let vocabulary = model.vocab.len() + (more - ids.len());
        // What normalisation makes of a text is never a special token.
        let specials = added.iter().filter(|(token, _)| token.special);
        let specials: HashSet<String> = specials.map(|(token, _)| token.content.clone()).collect();
        let (normalized, verbatim): (Vec<_>, Vec<_>) = added.into_iter().partition(|(token, _)| token.normalized);
        let form = |token: &str| normalize(&steps, token);
        let (verbatim, normalized) =
            (AddedTokens::new(&verbatim, str::to_owned)?, AddedTokens::new(&normalized, form)?);
        let pieces: HashMap<String, (u32, f64)> =
            (0..).zip(model.vocab).map(|(id, (piece, score))| (piece, (id, score))).collect();
        let pieces: HashMap<_, _> = pieces.into_iter().filter(|(piece, _)| !specials.contains(piece)).collect();
        let longest = pieces.keys().map(String::len).max().unwrap_or_default();
        Ok(Self { steps, words, pieces, longest, unknown, unknown_score, verbatim, normalized, vocabulary, around })
    }

    /// The size of its vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Tokenizes one text and cuts its end so that, special tokens included, at most `max_length` tokens are left; there
    /// are never fewer than the special ones.
    pub fn encode(&self, text: &str, max_length: usize) -> Encoded {
        Encoded::around(&self.around, max_length, |limit, ids| {
            self.verbatim.split(text, ids, |part, first, ids| {
                let part = normalize(&self.steps, part);
                self.normalized.split(&part, ids, |part, begin, ids| self.text(part, first && begin, limit, ids));
            });
        })
    }

    /// Cuts normalised text into words and those into pieces; stops soon after `limit` ids.
    fn text(&self, text: &str, first: bool, limit: usize, ids: &mut Vec<u32>) {
        let mut spaced = String::new();
        let mut part = |part: &str, first: bool, ids: &mut Vec<u32>| {
            spaced.clear();
            let prepends = match self.words.prepend {
                Prepend::Always => true,
                Prepend::First => first,
                Prepend::Never => false,
            };
            if prepends && !part.starts_with([' ', SPACE]) {
                spaced.push(SPACE);
            }
            spaced.extend(part.chars().map(|c| if c == ' ' { SPACE } else { c }));
            let mut rest = spaced.as_str();
            while let Some(start) = rest.chars().next().filter(|_| ids.len() <= limit) {
                let end = rest[start.len_utf8()..].find(SPACE).map_or(rest.len(), |end| end + start.len_utf8());
                let (word, after) = rest.split_at(end);
                self.word(word, ids);
                rest = after;
            }
        };
        if !self.words.split {
            return part(text, first, ids);
        }
        for (index, word) in text.split_whitespace().enumerate() {
            part(word, first && index == 0 && text.starts_with(word), ids);
        }
    }

    /// The best pieces of one word; neighbours that are unknown count as one.
    fn word(&self, word: &str, ids: &mut Vec<u32>) {
        let mut best: Vec<Option<Way>> = vec![None; word.len() + 1];
        for (from, first) in word.char_indices() {
            let sum = best[from].map_or(0.0, |way| way.sum);
            let mut reach = |length: usize, score: f64, id: u32| {
                let sum = sum + score;
                if best[from + length].is_none_or(|other| sum > other.sum) {
                    best[from + length] = Some(Way { sum, from, id });
                }
            };
            let rest = &word[from..];
            let mut known = false;
            for length in rest.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= self.longest) {
                if let Some((id, score)) = self.pieces.get(&rest[..length]) {
                    known |= length == first.len_utf8();
                    reach(length, *score, *id);
                }
            }
            if !known {
                reach(first.len_utf8(), self.unknown_score, self.unknown);
            }
        }
        let start = ids.len();
        let mut at = word.len();
        while let Some(way) = best[at].filter(|_| at > 0) {
            if way.id != self.unknown || ids[start..].last() != Some(&self.unknown) {
                ids.push(way.id);
            }
            at = way.from;
        }
        ids[start..].reverse();
    }
}

/// The best way to a place in a word.
#[derive(Clone, Copy)]
struct Way {
    /// The sum of its scores.
    sum: f64,
    /// Where its last piece begins.
    from: usize,
    /// Its last piece.
    id: u32,
}

// --- normalisation ---

fn normalize(steps: &[Step], text: &str) -> String {
    let mut text = text.to_owned();
    for step in steps {
        text = match step {
            Step::Charsmap(map) => map.apply(&text),
            Step::Strip { left, right } => {
                let text = if *left { text.trim_start() } else { &text };
                if *right { text.trim_end() } else { text }.to_owned()
            }
            Step::Trim => text.trim_matches(' ').to_owned(),
            Step::Collapse(content) => collapse(&text, content),
            Step::Gather => gather(&text),
            Step::Prepend(prepend) if !text.is_empty() => format!("{prepend}{text}"),
            Step::Prepend(_) => text,
            Step::Replace(pattern, content) => text.replace(pattern, content),
            Step::Lowercase => text.chars().flat_map(char::to_lowercase).collect(),
            Step::Nfkd => text.nfkd().map(|(c, _)| c).collect(),
            Step::Nfkc => text.nfkc().map(|(c, _)| c).collect(),
            Step::Nfc => text.nfc().map(|(c, _)| c).collect(),
            Step::StripAccents => text.chars().filter(|c| !is_combining_mark(*c)).collect(),
        };
    }
    text
}

/// Puts a space in the place of whitespace, however much.
fn gather(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_python_space(c) {
            true if out.ends_with(' ') => {}
            true => out.push(' '),
            false => out.push(c),
        }
    }
    out
}

/// Whitespace as Python has it.
pub(super) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1C}'..='\u{1F}')
}

/// Puts `content` in the place of several spaces.
fn collapse(text: &str, content: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("  ") {
        out.push_str(&rest[..at]);
        out.push_str(content);
        rest = rest[at..].trim_start_matches(' ');
    }
    out + rest
}

/// A map of character sequences, as SentencePiece compiles it: a double array and the texts that it leads to.
struct Charsmap {
    units: Vec<u32>,
    texts: Vec<u8>,
}

impl Charsmap {
    /// Reads the Base64 of a compiled map.
    fn read(base64: &str) -> Result<Self, String> {
        let blob = from_base64(base64).ok_or("its precompiled_charsmap is not Base64")?;
        let cut = || "its precompiled_charsmap is cut short".to_owned();
        let (size, rest) = blob.split_first_chunk::<4>().ok_or_else(cut)?;
        let (units, texts) = rest.split_at_checked(u32::from_le_bytes(*size) as usize).ok_or_else(cut)?;
        let units = units.as_chunks::<4>().0.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Ok(Self { units, texts: texts.to_vec() })
    }

    fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (length, new) = self.longest(rest.as_bytes()).unwrap_or((first.len_utf8(), &rest[..first.len_utf8()]));
            out.push_str(new);
            // An entry that ends inside of a character is a defect of the map.
            rest = &rest[rest.ceil_char_boundary(length)..];
        }
        out
    }

    /// The longest entry that a text begins with: its bytes, and what takes its place.
    fn longest(&self, text: &[u8]) -> Option<(usize, &str)> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let mut at = offset(*self.units.first()?);
        let mut found = None;
        for (index, byte) in text.iter().enumerate() {
            at ^= u32::from(*byte);
            let Some(unit) = self.units.get(at as usize).filter(|unit| **unit & 0x8000_00FF == u32::from(*byte)) else {
                break;
            };
            at ^= offset(*unit);
            if unit & 0x100 != 0 {
                let value = self.units.get(at as usize)? & 0x7FFF_FFFF;
                found = Some((index + 1, value as usize));
            }
        }
        let (length, start) = found?;
        let new = self.texts.get(start..)?;
        let end = new.iter().position(|byte| *byte == 0).unwrap_or(new.len());
        Some((length, std::str::from_utf8(&new[..end]).ok()?))
    }
}

/// The bytes of Base64 with its padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').bytes().map(|byte| match byte {
        b'A'..=b'Z' => Some(u32::from(byte - b'A')),
        b'a'..=b'z' => Some(u32::from(byte - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(byte - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    });
    let digits: Vec<u32> = digits.collect::<Option<_>>()?;
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_collapse_only_where_there_are_several() {
        assert_eq!(collapse(" a  b   c d  ", "_"), " a_b_c d_");
    }

    #[test]
    fn base64_is_read_with_and_without_padding() {
        assert_eq!(from_base64("YQ==").as_deref(), Some(&b"a"[..]));
        assert_eq!(from_base64("YWI=").as_deref(), Some(&b"ab"[..]));
        assert_eq!(from_base64("YWJj+/8A").as_deref(), Some(&b"abc\xFB\xFF\x00"[..]));
        assert_eq!(from_base64("YW J"), None);
    }

    #[test]
    fn damaged_maps_are_refused_or_map_nothing() {
        assert!(Charsmap::read("AA==").is_err());
        assert!(Charsmap::read("/////w==").is_err());
        let wild = Charsmap::read("CAAAAP///////////////w==").expect("read");
        assert_eq!(wild.apply("a\0é😀"), "a\0é😀");
    }
}
