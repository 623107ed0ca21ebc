//! A `tokenizer.json` out of the older files of a model that has none.
//!
//! | class | files | ids are those of |
//! |---|---|---|
//! | BERT, DistilBERT, ELECTRA, MPNet | `vocab.txt` | the class of that name in Python `transformers` |
//! | RoBERTa | `vocab.json`, `merges.txt` | `RobertaTokenizer` |
//! | BERTweet, PhoBERT | `vocab.txt`, `bpe.codes` | `BertweetTokenizer`, `PhobertTokenizer` |
//! | XLM-RoBERTa | `sentencepiece.bpe.model` | `XLMRobertaTokenizer` |
//! | ALBERT | `spiece.model` | `AlbertTokenizer` |
//! | DeBERTa-v2, v3 | `spm.model` | `DebertaV2Tokenizer` |
//!
//! `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` are heeded where they are there.
//!
//! In a few places the ids are those of a class's fast form, which are other than those of the slow one: WordPiece composes
//! no characters and keeps those that Unicode has not assigned; ALBERT's accents go by the category of a character, which
//! matters outside of Latin text; the scores of pieces add up in double precision, so that of cuts that are equally likely
//! (`00 0` and `0 00`) another may win; and a prefix space of RoBERTa (`add_prefix_space`) is put after special tokens inside
//! of a text, too.

use super::Tokenizer;
use super::unigram::{GATHER, SPACE, TRIM};
use crate::slm::SlmError;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::collections::HashMap;

/// A tokenizer class whose files are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Bert,
    Mpnet,
    Roberta,
    Bertweet,
    XlmRoberta,
    Albert,
    DebertaV2,
}

impl Class {
    /// By the `tokenizer_class` of either configuration, or by `model_type`.
    fn find(name: &str) -> Option<Self> {
        let name = name.trim_end_matches("Fast").trim_end_matches("Tokenizer").to_lowercase();
        Some(match name.replace(['-', '_'], "").as_str() {
            "bert" | "distilbert" | "electra" => Self::Bert,
            "mpnet" => Self::Mpnet,
            "roberta" => Self::Roberta,
            "bertweet" | "phobert" => Self::Bertweet,
            "xlmroberta" => Self::XlmRoberta,
            "albert" => Self::Albert,
            "debertav2" => Self::DebertaV2,
            _ => return None,
        })
    }

    /// The files that it is made of.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Bert | Self::Mpnet => &["vocab.txt"],
            Self::Roberta => &["vocab.json", "merges.txt"],
            Self::Bertweet => &["vocab.txt", "bpe.codes"],
            Self::XlmRoberta => &["sentencepiece.bpe.model"],
            Self::Albert => &["spiece.model"],
            Self::DebertaV2 => &["spm.model"],
        }
    }

    /// Its special tokens where the configuration names no others, in the order in which those without an id get one.
    fn specials(self) -> [(&'static str, &'static str); 7] {
        let [begin, end, unknown, separator, pad, class, mask] = match self {
            Self::Bert | Self::DebertaV2 => ["[CLS]", "[SEP]", "[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"],
            Self::Albert => ["[CLS]", "[SEP]", "<unk>", "[SEP]", "<pad>", "[CLS]", "[MASK]"],
            Self::Mpnet => ["<s>", "</s>", "[UNK]", "</s>", "<pad>", "<s>", "<mask>"],
            _ => ["<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"],
        };
        [
            ("bos_token", begin),
            ("eos_token", end),
            ("unk_token", unknown),
            ("sep_token", separator),
            ("pad_token", pad),
            ("cls_token", class),
            ("mask_token", mask),
        ]
    }
}

/// The files that [`from_files`] may ask for.
pub const FILES: [&str; 12] = [
    "tokenizer.json",
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
];

/// The `tokenizer.json` of a model, whose files `file` gives by their names: the one that is there, or else one that is
/// built. What is missing or cannot be built from is an error that says so.
pub fn from_files<'a>(file: impl Fn(&str) -> Option<&'a [u8]>) -> Result<Vec<u8>, SlmError> {
    if let Some(json) = file("tokenizer.json") {
        return Ok(json.to_vec());
    }
    let files = Files::read(&file)?;
    let class = files.class()?;
    let json = match class {
        Class::Bert | Class::Mpnet => wordpiece(&files, class),
        Class::Roberta => byte_bpe(&files, class),
        Class::Bertweet => tweet(&files, class),
        Class::XlmRoberta | Class::Albert | Class::DebertaV2 => unigram(&files, class),
    }?;
    let json = serde_json::to_vec(&json).map_err(|e| fail(e.to_string()))?;
    Tokenizer::from_json(&json, usize::MAX)?;
    Ok(json)
}

fn fail(problem: impl Into<String>) -> SlmError {
    SlmError::Tokenizer(problem.into())
}

/// The files of a model, its configurations read.
struct Files<'f, 'a> {
    file: &'f dyn Fn(&str) -> Option<&'a [u8]>,
    config: Value,
    tokenizer_config: Value,
    specials: Value,
    added: Value,
}

impl<'f, 'a> Files<'f, 'a> {
    fn read(file: &'f dyn Fn(&str) -> Option<&'a [u8]>) -> Result<Self, SlmError> {
        let json = |name: &str| match file(name) {
            None => Ok(Value::Null),
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| fail(format!("{name}: {e}"))),
        };
        Ok(Self {
            file,
            config: json("config.json")?,
            tokenizer_config: json("tokenizer_config.json")?,
            specials: json("special_tokens_map.json")?,
            added: json("added_tokens.json")?,
        })
    }

    fn class(&self) -> Result<Class, SlmError> {
        let names = [
            (&self.tokenizer_config, "tokenizer_class"),
            (&self.config, "tokenizer_class"),
            (&self.config, "model_type"),
        ];
        let named = names.iter().find_map(|(config, key)| config.get(key)?.as_str());
        let class = match named.map(|name| (name, Class::find(name))) {
            // Older files of BERTweet do not name their class.
            Some((_, Some(Class::Roberta))) if self.has(Class::Bertweet) && !self.has(Class::Roberta) => {
                Class::Bertweet
            }
            Some((_, Some(class))) => class,
            Some((name, None)) => {
                return Err(fail(format!(
                    "there is no tokenizer.json, and for '{name}' none can be built; known are BERT, DistilBERT, ELECTRA, \
                     MPNet, RoBERTa, BERTweet, PhoBERT, XLM-RoBERTa, ALBERT and DeBERTa-v2. Save one with the fast \
                     tokenizer of Python transformers"
                )));
            }
            None => {
                return Err(fail(
                    "there is no tokenizer.json, and neither tokenizer_config.json nor config.json names a \
                     tokenizer_class or a model_type, so none can be built",
                ));
            }
        };
        let missing: Vec<&str> = class.files().iter().copied().filter(|name| (self.file)(name).is_none()).collect();
        if missing.is_empty() {
            return Ok(class);
        }
        Err(fail(format!(
            "there is no tokenizer.json; to build one for {} {} {} needed, and {} missing",
            named.unwrap_or_default(),
            class.files().join(" and "),
            if class.files().len() == 1 { "is" } else { "are" },
            match &missing[..] {
                [one] => format!("{one} is"),
                all => format!("{} are", all.join(" and ")),
            }
        )))
    }

    fn has(&self, class: Class) -> bool {
        class.files().iter().all(|name| (self.file)(name).is_some())
    }

    fn bytes(&self, name: &str) -> &'a [u8] {
        (self.file)(name).unwrap_or_default()
    }

    /// A file's text with the line ends that Python makes of them.
    fn text(&self, name: &str) -> Result<String, SlmError> {
        let text = std::str::from_utf8(self.bytes(name)).map_err(|e| fail(format!("{name}: not UTF-8: {e}")))?;
        Ok(text.replace("\r\n", "\n").replace('\r', "\n"))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, SlmError> {
        match self.tokenizer_config.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(fail(format!("tokenizer_config.json: {key} is {other}, expected true or false"))),
        }
    }

    /// The special token of this role.
    fn special(&self, class: Class, role: &str) -> String {
        let configured =
            [&self.tokenizer_config, &self.specials].into_iter().find_map(|config| content(config.get(role)?));
        let default = || class.specials().iter().find(|(name, _)| *name == role).map(|(_, token)| (*token).to_owned());
        configured.map(str::to_owned).or_else(default).unwrap_or_default()
    }

    /// The added tokens: the special ones and what the files add. Their ids have to be those that they get here.
    fn added_tokens(&self, class: Class, vocab: &HashMap<String, u32>) -> Result<Vec<Value>, SlmError> {
        let mut tokens: Vec<Value> = Vec::new();
        let mut next = vocab.len() as u32;
        let mask = self.special(class, "mask_token");
        // The masks of the other classes take the space before them in.
        let takes_space = !matches!(class, Class::Bert | Class::DebertaV2 | Class::Bertweet);
        let mut add = |content: &str, flags: Option<&Value>, given: Option<u64>| -> Result<(), SlmError> {
            if content.is_empty() || tokens.iter().any(|token| token["content"] == content) {
                return Ok(());
            }
            let id = vocab.get(content).copied().unwrap_or(next);
            next += u32::from(!vocab.contains_key(content));
            if let Some(given) = given.filter(|given| *given != u64::from(id)) {
                return Err(fail(format!(
                    "the added token '{content}' has the id {given} in the files, and would get {id}; only added tokens \
                     without gaps after the vocabulary are supported"
                )));
            }
            let flag = |key: &str, default: bool| flags.and_then(|flags| flags.get(key)?.as_bool()).unwrap_or(default);
            tokens.push(json!({
                "id": id, "content": content, "single_word": flag("single_word", false),
                "lstrip": flag("lstrip", takes_space && content == mask), "rstrip": flag("rstrip", false),
                "normalized": flag("normalized", false), "special": flag("special", true),
            }));
            Ok(())
        };
        let mut given: BTreeMap<u64, (&str, Option<&Value>)> = BTreeMap::new();
        for (token, id) in self.added.as_object().into_iter().flatten() {
            let id = id.as_u64().ok_or_else(|| fail(format!("added_tokens.json: the id of '{token}' is {id}")))?;
            given.insert(id, (token.as_str(), None));
        }
        for (id, token) in
            self.tokenizer_config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten()
        {
            let id =
                id.parse().map_err(|_| fail(format!("tokenizer_config.json: an added token has the id '{id}'")))?;
            let content = content(token)
                .ok_or_else(|| fail(format!("tokenizer_config.json: added token {id} has no content")))?;
            given.insert(id, (content, Some(token)));
        }
        // Those with an id first: the others are numbered after them.
        for (id, (content, flags)) in &given {
            add(content, *flags, Some(*id))?;
        }
        for (role, _) in class.specials() {
            let configured = [&self.tokenizer_config, &self.specials].into_iter().find_map(|config| config.get(role));
            add(&self.special(class, role), configured, None)?;
        }
        let more = [&self.tokenizer_config, &self.specials]
            .into_iter()
            .find_map(|config| config.get("additional_special_tokens")?.as_array());
        for token in more.into_iter().flatten() {
            add(content(token).unwrap_or_default(), Some(token), None)?;
        }
        Ok(tokens)
    }

    /// The whole file.
    fn json(
        &self,
        class: Class,
        vocab: &HashMap<String, u32>,
        normalizer: Value,
        pre_tokenizer: Value,
        model: Value,
    ) -> Result<Value, SlmError> {
        let added = self.added_tokens(class, vocab)?;
        let id = |token: &str| {
            let found = added.iter().find(|added| added["content"] == token).and_then(|added| added["id"].as_u64());
            found.ok_or_else(|| fail(format!("the special token '{token}' has no id")))
        };
        let (begin, end) = (self.special(class, "cls_token"), self.special(class, "sep_token"));
        let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
        let of = |token: &str| -> Result<Value, SlmError> {
            Ok(json!({"id": token, "ids": [id(token)?], "tokens": [token]}))
        };
        let mut special_tokens = Map::new();
        special_tokens.insert(begin.clone(), of(&begin)?);
        special_tokens.insert(end.clone(), of(&end)?);
        let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
        let (single, pair) = (
            json!([special(&begin), text("A"), special(&end)]),
            json!([special(&begin), text("A"), special(&end), text("B"), special(&end)]),
        );
        let post_processor =
            json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special_tokens});
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": null, "model": model,
        }))
    }

    /// The unknown token, which has to be in the vocabulary.
    fn unknown(&self, class: Class, vocab: &HashMap<String, u32>) -> Result<String, SlmError> {
        let unknown = self.special(class, "unk_token");
        match vocab.contains_key(&unknown) {
            true => Ok(unknown),
            false => Err(fail(format!("the unknown token '{unknown}' is not in {}", class.files().join(" or ")))),
        }
    }
}

/// A token that stands there as text or as a table with its content.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// A vocabulary in the order of its ids, so that the same files always give the same bytes.
fn table(vocab: &HashMap<String, u32>) -> Map<String, Value> {
    let mut tokens: Vec<(u32, &String)> = vocab.iter().map(|(token, id)| (*id, token)).collect();
    tokens.sort_unstable();
    tokens.into_iter().map(|(id, token)| (token.clone(), id.into())).collect()
}

// --- WordPiece ---

fn wordpiece(files: &Files<'_, '_>, class: Class) -> Result<Value, SlmError> {
    if !files.flag("do_basic_tokenize", true)? {
        return Err(fail("tokenizer_config.json: do_basic_tokenize is false, which is not supported"));
    }
    let text = files.text("vocab.txt")?;
    let vocab: HashMap<String, u32> = (0..).zip(lines(&text)).map(|(id, token)| (token.to_owned(), id)).collect();
    let unknown = files.unknown(class, &vocab)?;
    let strip_accents = files.tokenizer_config.get("strip_accents").and_then(Value::as_bool);
    let normalizer = json!({
        "type": "BertNormalizer", "clean_text": true, "strip_accents": strip_accents,
        "handle_chinese_chars": files.flag("tokenize_chinese_chars", true)?, "lowercase": files.flag("do_lower_case", true)?,
    });
    let model = json!({
        "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": table(&vocab),
    });
    files.json(class, &vocab, normalizer, json!({"type": "BertPreTokenizer"}), model)
}

/// Lines that only a line feed ends.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.strip_suffix('\n').unwrap_or(text).split('\n').filter(|_| !text.is_empty())
}

// --- BPE ---

fn byte_bpe(files: &Files<'_, '_>, class: Class) -> Result<Value, SlmError> {
    let vocab: HashMap<String, u32> =
        serde_json::from_slice(files.bytes("vocab.json")).map_err(|e| fail(format!("vocab.json: {e}")))?;
    let unknown = files.unknown(class, &vocab)?;
    let text = files.text("merges.txt")?;
    // The first line is the format's version.
    let merges: Vec<&str> = lines(&text).skip(1).filter(|line| !line.trim().is_empty()).collect();
    if let Some(line) = merges.iter().find(|line| line.split(' ').count() != 2) {
        return Err(fail(format!("merges.txt: '{line}' is not two tokens")));
    }
    let add_prefix_space = files.flag("add_prefix_space", false)?;
    let pre_tokenizer =
        json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": true});
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": table(&vocab), "merges": merges,
    });
    files.json(class, &vocab, Value::Null, pre_tokenizer, model)
}

/// HTML's named characters and their numbers.
const ENTITIES: &str = include_str!("entities.txt");

/// Emoji of one character and their names, as the Python package `emoji` 0.6.0, which BERTweet was trained with, has them.
const EMOJI: &str = include_str!("emoji.txt");

fn tweet(files: &Files<'_, '_>, class: Class) -> Result<Value, SlmError> {
    let mut vocab: HashMap<String, u32> = HashMap::new();
    for (id, role) in (0..).zip(["bos_token", "pad_token", "eos_token", "unk_token"]) {
        vocab.insert(files.special(class, role), id);
    }
    for line in lines(&files.text("vocab.txt")?) {
        let Some((token, _)) = line.trim().rsplit_once(' ') else {
            return Err(fail(format!("vocab.txt: '{line}' is not a token and its count")));
        };
        let id = vocab.len() as u32;
        vocab.insert(token.to_owned(), id);
    }
    let unknown = files.unknown(class, &vocab)?;
    let text = files.text("bpe.codes")?;
    let mut merges: Vec<String> = Vec::new();
    for line in lines(&text) {
        let parts: Vec<&str> = line.split_whitespace().collect();
        let [left, right, _] = parts[..] else {
            return Err(fail(format!("bpe.codes: '{line}' is not a pair and its count")));
        };
        merges.push(format!("{left} {right}"));
    }
    let normalizer = if files.flag("normalization", false)? {
        let entities = ENTITIES.lines().filter_map(|line| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), Value::from(char::from_u32(number.parse().ok()?)?.to_string())))
        });
        let emoji = EMOJI.lines().filter_map(|line| {
            let (emoji, name) = line.split_once(' ')?;
            Some((emoji.to_owned(), Value::from(format!(":{name}:"))))
        });
        // The selector of an emoji's colours goes.
        let emoji = emoji.chain([("\u{FE0F}".to_owned(), Value::from(""))]);
        json!({"type": "Tweet", "entities": entities.collect::<Map<_, _>>(), "emoji": emoji.collect::<Map<_, _>>()})
    } else {
        Value::Null
    };
    let model = json!({"type": "FastBPE", "unk_token": unknown, "vocab": table(&vocab), "merges": merges});
    files.json(class, &vocab, normalizer, Value::Null, model)
}

// --- SentencePiece ---

fn unigram(files: &Files<'_, '_>, class: Class) -> Result<Value, SlmError> {
    let name = class.files().first().copied().unwrap_or_default();
    let model = SentencePiece::read(files.bytes(name)).map_err(|problem| fail(format!("{name}: {problem}")))?;
    if files.flag("split_by_punct", false)? {
        return Err(fail("tokenizer_config.json: split_by_punct is true, which is not supported"));
    }
    let lowest = model.pieces.iter().map(|piece| piece.score).fold(0.0, f32::min);
    let score = |piece: &Piece| match piece.kind {
        // Never found in a text.
        UNUSED => f64::from(lowest) - 1000.0,
        // The original cuts what ends in a digit and a comma before the comma.
        _ if class == Class::Albert && is_number_comma(&piece.text) => f64::from(piece.score) - 100.0,
        _ => f64::from(piece.score),
    };
    let scored = |piece: &Piece| (piece.text.clone(), score(piece));
    let (pieces, unknown): (Vec<(String, f64)>, usize) = if class == Class::XlmRoberta {
        // fairseq's four come first; the model's first three are others.
        let first = ["<s>", "<pad>", "</s>", "<unk>"].map(|token| (token.to_owned(), 0.0));
        let all = first.into_iter().chain(model.pieces.iter().skip(3).map(scored)).chain([("<mask>".to_owned(), 0.0)]);
        (all.collect(), 3)
    } else {
        (model.pieces.iter().map(scored).collect(), model.unknown)
    };
    if unknown >= pieces.len() {
        return Err(fail(format!("{name}: there is no piece {unknown}, which is to be the unknown one")));
    }
    let vocab: HashMap<String, u32> = (0..).zip(&pieces).map(|(id, (piece, _))| (piece.clone(), id)).collect();
    if vocab.len() < pieces.len() {
        return Err(fail(format!("{name}: a piece is there twice")));
    }
    let mut steps: Vec<Value> = Vec::new();
    let replace =
        |pattern: &str, content: &str| json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content});
    if class == Class::Albert {
        if files.flag("remove_space", true)? {
            steps.push(replace(GATHER, " "));
        }
        steps.extend(
            ["``", "''"].map(|quote| json!({"type": "Replace", "pattern": {"String": quote}, "content": "\""})),
        );
        if !files.flag("keep_accents", false)? {
            steps.extend([json!({"type": "NFKD"}), json!({"type": "StripAccents"})]);
        }
    }
    if files.flag("do_lower_case", class == Class::Albert)? {
        steps.push(json!({"type": "Lowercase"}));
    }
    if !model.charsmap.is_empty() {
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": base64(model.charsmap)}));
    }
    if model.trims {
        steps.extend([replace(TRIM, ""), replace(" {2,}", " ")]);
    }
    if model.prepends {
        // Whatever the text begins with.
        steps.push(json!({"type": "Prepend", "prepend": SPACE}));
    }
    let pre_tokenizer = json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "never", "split": true});
    let normalizer = json!({"type": "Sequence", "normalizers": steps});
    let described = json!({"type": "Unigram", "unk_id": unknown, "vocab": pieces, "byte_fallback": false});
    let mut json = files.json(class, &vocab, normalizer, pre_tokenizer, described)?;
    // What the model's makers defined is found in any text, before all else.
    if let Some(added) = json.get_mut("added_tokens").and_then(Value::as_array_mut) {
        for piece in model.pieces.iter().filter(|piece| piece.kind == USER_DEFINED) {
            if added.iter().all(|token| token["content"] != piece.text.as_str()) {
                added.push(json!({
                    "id": vocab.get(&piece.text), "content": piece.text, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": false,
                }));
            }
        }
    }
    Ok(json)
}

fn is_number_comma(piece: &str) -> bool {
    piece.strip_suffix(',').and_then(|rest| rest.chars().next_back()).is_some_and(char::is_numeric)
}

/// What is needed of a SentencePiece model.
struct SentencePiece<'a> {
    pieces: Vec<Piece>,
    unknown: usize,
    charsmap: &'a [u8],
    /// Whether a space is put before a text.
    prepends: bool,
    /// Whether spaces are taken off the ends, and several made one.
    trims: bool,
}

struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

const NORMAL: u64 = 1;
const USER_DEFINED: u64 = 4;
const UNUSED: u64 = 5;
const UNIGRAM: u64 = 1;

impl<'a> SentencePiece<'a> {
    /// Reads the protocol buffer `ModelProto` of SentencePiece.
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut model = Self { pieces: Vec::new(), unknown: 0, charsmap: &[], prepends: true, trims: true };
        let mut kind = UNIGRAM;
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(bytes)) => {
                    let mut piece = Piece { text: String::new(), score: 0.0, kind: NORMAL };
                    for field in Fields(bytes) {
                        match field? {
                            (1, Field::Bytes(text)) => {
                                let text =
                                    std::str::from_utf8(text).map_err(|e| format!("a piece is not UTF-8: {e}"))?;
                                piece.text = text.to_owned();
                            }
                            (2, Field::Four(bytes)) => piece.score = f32::from_le_bytes(bytes),
                            (3, Field::Number(kind)) => piece.kind = kind,
                            _ => {}
                        }
                    }
                    if piece.text.is_empty() || !piece.score.is_finite() {
                        return Err("a piece has no text, or a score that is not a number".to_owned());
                    }
                    model.pieces.push(piece);
                }
                (2, Field::Bytes(bytes)) => {
                    for field in Fields(bytes) {
                        match field? {
                            (3, Field::Number(number)) => kind = number,
                            (24, Field::Number(1)) => {
                                return Err("it puts spaces after words, which is not supported".to_owned());
                            }
                            (35, Field::Number(1)) => {
                                return Err("it falls back to bytes, which is not supported".to_owned());
                            }
                            (40, Field::Number(number)) => {
                                model.unknown = usize::try_from(number).unwrap_or(usize::MAX)
                            }
                            _ => {}
                        }
                    }
                }
                (3, Field::Bytes(bytes)) => {
                    for field in Fields(bytes) {
                        match field? {
                            (2, Field::Bytes(charsmap)) => model.charsmap = charsmap,
                            (3, Field::Number(flag)) => model.prepends = flag != 0,
                            (4, Field::Number(flag)) => model.trims = flag != 0,
                            (5, Field::Number(0)) => {
                                return Err("it does not escape spaces, which is not supported".to_owned());
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if kind != UNIGRAM {
            return Err("it is not a unigram model, and others of SentencePiece are not supported".to_owned());
        }
        if model.pieces.is_empty() {
            return Err("it holds no pieces, so it is no SentencePiece model".to_owned());
        }
        Ok(model)
    }
}

/// The fields of a protocol buffer, in order.
struct Fields<'a>(&'a [u8]);

enum Field<'a> {
    Number(u64),
    Four([u8; 4]),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.number()?;
        let value = match tag & 7 {
            0 => Field::Number(self.number()?),
            1 => {
                let (bytes, rest) = self.0.split_at_checked(8)?;
                self.0 = rest;
                Field::Bytes(bytes)
            }
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Field::Bytes(bytes)
            }
            5 => {
                let (bytes, rest) = self.0.split_first_chunk::<4>()?;
                self.0 = rest;
                Field::Four(*bytes)
            }
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| "it is damaged: not a protocol buffer".to_owned()))
    }
}

/// Base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let sextet = (bits >> (18 - 6 * digit)) & 63;
            out.push(if digit <= group.len() { char::from(DIGITS[sextet as usize]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("abcd", "YWJjZA==")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn classes_are_found_by_their_names() {
        for (name, class) in [
            ("XLMRobertaTokenizerFast", Class::XlmRoberta),
            ("xlm-roberta", Class::XlmRoberta),
            ("deberta-v2", Class::DebertaV2),
            ("DistilBertTokenizer", Class::Bert),
            ("BertweetTokenizer", Class::Bertweet),
        ] {
            assert_eq!(Class::find(name), Some(class), "{name}");
        }
        assert_eq!(Class::find("GPT2Tokenizer"), None);
        assert_eq!(Class::find("PreTrainedTokenizerFast"), None);
    }

    #[test]
    fn tables_are_whole() {
        assert_eq!(ENTITIES.lines().count(), 252);
        assert!(EMOJI.lines().count() > 1000);
        assert!(EMOJI.lines().all(|line| {
            line.split_once(' ').is_some_and(|(emoji, name)| emoji.chars().count() == 1 && !name.is_empty())
        }));
    }
}
