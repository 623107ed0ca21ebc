//! The parts of a `tokenizer.json` that tokenizers of every kind share: its frame, added tokens and special tokens.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::collections::{HashMap, HashSet};

/// Why a `tokenizer.json` was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// It is another kind of tokenizer, or asks for something that is not known here: what.
    Other(String),
    /// It is of no use to any reader: why.
    Invalid(String),
}

#[derive(Deserialize)]
pub(super) struct File<'a> {
    version: Option<String>,
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(borrow)]
    pub(super) normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) model: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddedToken {
    #[serde(rename = "id")]
    _id: u32,
    pub(super) content: String,
    single_word: bool,
    /// Whether the spaces before it are a part of it.
    lstrip: bool,
    /// Whether the spaces after it are a part of it.
    rstrip: bool,
    pub(super) normalized: bool,
    pub(super) special: bool,
}

#[derive(Deserialize)]
pub(super) struct Type {
    pub(super) r#type: String,
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

impl<'a> File<'a> {
    /// Reads the frame of a file, and the ids put before and after a text.
    pub(super) fn read(json: &'a str) -> Result<(Self, Result<Around, Unread>), Unread> {
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
        Ok((file, around))
    }
}

/// The type of a file's model. Older files do not name it; then it is the one that has such fields.
pub(super) fn model_type(json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Model<'a> {
        r#type: Option<String>,
        #[serde(borrow)]
        merges: Option<&'a RawValue>,
        #[serde(borrow)]
        unk_id: Option<&'a RawValue>,
    }
    let file: File<'_> = serde_json::from_str(json).ok()?;
    let model: Model<'_> = serde_json::from_str(file.model.get()).ok()?;
    let by_fields = || {
        let of = |field: Option<&RawValue>, kind: &str| field.map(|_| kind.to_owned());
        of(model.merges, "BPE").or_else(|| of(model.unk_id, "Unigram"))
    };
    model.r#type.clone().or_else(by_fields)
}

/// The ids put before and after a text.
pub(super) type Around = (Vec<u32>, Vec<u32>);

/// The file's part called `name`, which has to be of type `kind`.
pub(super) fn part<T: DeserializeOwned>(name: &str, raw: Option<&RawValue>, kind: &str) -> Result<T, Unread> {
    let raw = raw.ok_or_else(|| Unread::Other(format!("it has no {name}")))?.get();
    match serde_json::from_str::<Type>(raw) {
        Ok(Type { r#type }) if r#type == kind => {}
        Ok(Type { r#type }) => return Err(Unread::Other(format!("its {name} is of type {type}"))),
        Err(e) => return Err(Unread::Other(format!("its {name} has no type: {e}"))),
    }
    serde_json::from_str(raw).map_err(|e| Unread::Other(format!("its {name} is a {kind} of an unknown form: {e}")))
}

/// A part of the file that is there, of a form that is known.
pub(super) fn known<'a, T: Deserialize<'a>>(name: &str, raw: &'a RawValue) -> Result<T, Unread> {
    serde_json::from_str(raw.get()).map_err(|e| Unread::Other(format!("its {name} is of an unknown form: {e}")))
}

fn specials(raw: Option<&RawValue>) -> Result<Around, Unread> {
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

/// Gives added tokens their ids, and says how large the vocabulary is with them. A token of the vocabulary keeps its id,
/// the others are numbered on, whatever id the file gives them.
pub(super) fn number(
    tokens: Vec<AddedToken>,
    vocab: &HashMap<String, u32>,
) -> Result<(Vec<(AddedToken, u32)>, usize), Unread> {
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
pub(super) struct AddedTokens {
    /// The longest first.
    tokens: Vec<Added>,
    /// The bytes that one begins with.
    first: [bool; 256],
}

struct Added {
    content: String,
    id: u32,
    lstrip: bool,
    rstrip: bool,
}

impl AddedTokens {
    /// Of tokens and their ids, none empty, none there twice; what is looked for is `form` of a token's content.
    pub(super) fn new<'a>(
        tokens: impl IntoIterator<Item = &'a (AddedToken, u32)>,
        form: impl Fn(&str) -> String,
    ) -> Result<Self, Unread> {
        let added = |(token, id): &(AddedToken, u32)| Added {
            content: form(&token.content),
            id: *id,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
        };
        let mut tokens: Vec<Added> = tokens.into_iter().map(added).collect();
        let mut seen = HashSet::new();
        let mut first = [false; 256];
        for Added { content, .. } in &tokens {
            match content.bytes().next() {
                Some(byte) if seen.insert(content) => first[usize::from(byte)] = true,
                _ => return Err(Unread::Other(format!("its added token '{content}' is empty or twice there"))),
            }
        }
        tokens.sort_by_key(|token| std::cmp::Reverse(token.content.len()));
        Ok(Self { tokens, first })
    }

    /// Whether one holds a space.
    pub(super) fn have_space(&self) -> bool {
        self.tokens.iter().any(|token| token.content.contains(char::is_whitespace))
    }

    /// Pushes the ids of the tokens in `text`, and between them whatever `rest` makes of the parts that are none; it is
    /// told whether a part is the begin of the text.
    pub(super) fn split(&self, text: &str, ids: &mut Vec<u32>, mut rest: impl FnMut(&str, bool, &mut Vec<u32>)) {
        let (mut start, mut at) = (0, 0);
        while let Some(byte) = text.as_bytes().get(at) {
            let found = self.first[usize::from(*byte)].then(|| self.starting(&text.as_bytes()[at..])).flatten();
            let Some(token) = found else {
                at += 1;
                continue;
            };
            let before = &text[start..at];
            let before = if token.lstrip { before.trim_end() } else { before };
            if !before.is_empty() {
                rest(before, start == 0, ids);
            }
            ids.push(token.id);
            at += token.content.len();
            if token.rstrip {
                at = text.len() - text[at..].trim_start().len();
            }
            start = at;
        }
        if start < text.len() {
            rest(&text[start..], start == 0, ids);
        }
    }

    fn starting(&self, text: &[u8]) -> Option<&Added> {
        self.tokens.iter().find(|token| text.starts_with(token.content.as_bytes()))
    }
}
