//! Our WordPiece against the `tokenizers` crate: every Unicode scalar value, random text, real text, and files that lie.
#![cfg(feature = "native")]

use autoannotator::hub::{Catalogue, Home};
use autoannotator::slm::tokenize::wordpiece::{Unread, WordPiece};
use autoannotator::slm::tokenize::{Encoded, Tokenizer};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The crate's answer; it cuts by its own rule.
struct Oracle(tokenizers::Tokenizer);

impl Oracle {
    fn new(json: &str) -> Self {
        let mut inner: tokenizers::Tokenizer = json.parse().expect("the crate reads it");
        inner.with_padding(None);
        inner.with_truncation(None).expect("no truncation");
        Self(inner)
    }

    fn encode(&mut self, text: &str, max_length: usize) -> Encoded {
        let cut = tokenizers::TruncationParams { max_length, ..Default::default() };
        self.0.with_truncation((max_length < usize::MAX).then_some(cut)).expect("truncation");
        let encoding = self.0.encode_fast(text, true).expect("encoded");
        Encoded { ids: encoding.get_ids().to_vec(), truncated: !encoding.get_overflowing().is_empty() }
    }
}

struct Pair {
    ours: WordPiece,
    oracle: Oracle,
}

impl Pair {
    fn new(json: &str) -> Self {
        let ours = WordPiece::from_json(json).unwrap_or_else(|why| panic!("{why:?}"));
        let oracle = Oracle::new(json);
        assert_eq!(ours.vocabulary(), oracle.0.get_vocab_size(true));
        Self { ours, oracle }
    }

    /// What differs, if anything does.
    fn difference(&mut self, text: &str, max_length: usize) -> Option<String> {
        let (found, expected) = (self.ours.encode(text, max_length), self.oracle.encode(text, max_length));
        (found != expected).then(|| format!("{text:?} at {max_length}:\n{found:?}, expected\n{expected:?}"))
    }

    fn check(&mut self, text: &str, max_length: usize) {
        if let Some(difference) = self.difference(text, max_length) {
            panic!("{difference}");
        }
    }
}

fn added(content: &str, normalized: bool) -> Value {
    json!({
        "id": 0, "content": content, "single_word": false, "lstrip": content.len().is_multiple_of(2),
        "rstrip": content.len().is_multiple_of(3), "normalized": normalized, "special": !content.len().is_multiple_of(5),
    })
}

fn normalizer(clean: bool, chinese: bool, strip: Option<bool>, lower: bool) -> Value {
    json!({
        "type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese, "strip_accents": strip,
        "lowercase": lower,
    })
}

fn file(normalizer: Value, added: Vec<Value>, post_processor: Value, vocab: Map<String, Value>) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": post_processor, "decoder": null,
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 12, "vocab": vocab,
        },
    })
}

fn vocab<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
    tokens.into_iter().enumerate().map(|(id, token)| (token.to_owned(), id.into())).collect()
}

fn bert() -> Value {
    json!({"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]})
}

/// Switches of the normaliser, on a vocabulary in which every character below `end` is a token, at the begin of a word
/// and within it: nothing that the normalisation does to them is hidden by the unknown token.
fn transparent(end: u32) -> Vec<Value> {
    let chars: Vec<String> = (0..end).filter_map(char::from_u32).map(String::from).collect();
    let pieces: Vec<String> = chars.iter().map(|c| format!("##{c}")).collect();
    let tokens = ["[UNK]", "[CLS]", "[SEP]"].into_iter().chain(chars.iter().chain(&pieces).map(String::as_str));
    let vocab = vocab(tokens);
    let switches = [(true, true, None, true), (true, true, None, false), (false, false, Some(true), false)];
    let more = [(false, true, Some(false), true), (true, false, Some(true), true), (true, true, Some(false), true)];
    let files = switches.into_iter().chain(more).map(|(clean, chinese, strip, lower)| {
        file(normalizer(clean, chinese, strip, lower), Vec::new(), bert(), vocab.clone())
    });
    files.collect()
}

/// Small vocabularies with added tokens of both kinds, one the beginning of another, and other frames around the text.
fn small() -> Vec<Value> {
    let tokens = [
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "<mask>",
        "a",
        "##a",
        "b",
        "##b",
        "ab",
        "##ab",
        "aba",
        "##ba",
        "é",
        "##é",
        "e",
        "##e",
        "中",
        "##中",
        "!",
        "<",
        ">",
        "[",
        "]",
        "mask",
        "##",
        "##!",
        "😀",
        "i",
        "##i",
        "ß",
        "ss",
        "##s",
        "s",
        "\u{301}",
        "##\u{301}",
        "##abababababababababab",
    ];
    let added = vec![
        added("[SEP]", false),
        added("[CLS]", true),
        added("<mask>", true),
        added("ÉA", true),
        added("ÉA!", true),
        added("aa", false),
        added("aab", false),
        added("b中", false),
        added("<", true),
        added("<new>", false),
    ];
    let template = |single: Value| {
        json!({
            "type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {
                "one": {"id": "one", "ids": [1], "tokens": ["one"]}, "two": {"id": "two", "ids": [2, 3], "tokens": ["x", "y"]},
            },
        })
    };
    let (one, two) =
        (json!({"SpecialToken": {"id": "one", "type_id": 0}}), json!({"SpecialToken": {"id": "two", "type_id": 1}}));
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let frames = [
        Value::Null,
        bert(),
        json!({"type": "RobertaProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1], "trim_offsets": true, "add_prefix_space": false}),
        template(json!([one, text, two])),
        template(json!([text, one])),
        template(json!([two, one, text])),
        template(json!([text])),
    ];
    let files = frames.into_iter().enumerate().map(|(index, frame)| {
        let mut file =
            file(normalizer(index % 4 != 3, true, None, index % 3 != 2), added.clone(), frame, vocab(tokens));
        if index % 2 == 1 {
            file["model"]["continuing_subword_prefix"] = "".into();
        }
        file
    });
    files.collect()
}

/// The tokenizers of the catalogue's bases, from the home that `make test` fills.
fn bases() -> Vec<(String, Pair)> {
    let (catalogue, home) = (Catalogue::find().expect("catalogue"), Home::find(None).expect("home"));
    let read = |entry: &autoannotator::hub::BaseEntry| {
        let base = entry.cached(&home).expect("the cache can be read").unwrap_or_else(|| {
            panic!("the base {} is not in {}: run `autoannotator pull` first", entry.id, home.path().display())
        });
        (entry.id.clone(), Pair::new(std::str::from_utf8(&base.tokenizer_json).expect("UTF-8")))
    };
    catalogue.bases.iter().map(read).collect()
}

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("reference").join(name)
}

fn corpus() -> Vec<String> {
    let tokens: Value = serde_json::from_slice(&std::fs::read(reference("tokens.json")).expect("read")).expect("JSON");
    let text = |item: &Value| match item.as_str() {
        Some(text) => text.to_owned(),
        None => item["repeat"].as_str().expect("repeat").repeat(item["times"].as_u64().expect("times") as usize),
    };
    tokens["corpus"].as_array().expect("corpus").iter().map(text).collect()
}

// --- equal ids ---

#[test]
fn every_scalar_value_is_treated_as_the_crate_treats_it() {
    // Above 0x40000 are only tags and private characters: once through all of them is enough.
    for (index, file) in transparent(0x40000).iter().enumerate() {
        let chars: Vec<char> = ('\0'..=if index == 0 { char::MAX } else { '\u{40000}' }).collect();
        let mut pair = Pair::new(&file.to_string());
        for chars in chars.chunks(1000) {
            let text: String = chars.iter().map(|c| format!("a{c}b ")).collect();
            if pair.difference(&text, usize::MAX).is_some() {
                chars.iter().for_each(|c| pair.check(&format!("a{c}b"), usize::MAX));
                pair.check(&text, usize::MAX);
            }
        }
    }
}

#[test]
fn the_nasty_corpus_is_treated_as_the_crate_treats_it() {
    let mut pairs: Vec<(String, Pair)> = bases();
    let files =
        transparent(0x3100).into_iter().chain(small()).map(|file| (String::new(), Pair::new(&file.to_string())));
    pairs.extend(files);
    for (_, pair) in &mut pairs {
        for text in corpus() {
            [5, 6, 7, 13, 128, usize::MAX].into_iter().for_each(|max_length| pair.check(&text, max_length));
        }
    }
}

#[test]
fn a_hundred_thousand_real_texts_are_treated_as_the_crate_treats_them() {
    let folder = std::env::var_os("AUTOANNOTATOR_SHARED").map(|shared| PathBuf::from(shared).join("data"));
    let Some(files) = folder.and_then(|folder| std::fs::read_dir(folder).ok()) else {
        return eprintln!("skipped: there are no data sets in $AUTOANNOTATOR_SHARED/data");
    };
    let mut texts = Vec::new();
    for file in
        files.map(|file| file.expect("a file").path()).filter(|path| path.extension().is_some_and(|e| e == "csv"))
    {
        let mut reader = csv::Reader::from_path(file).expect("csv");
        let text = reader.headers().expect("headers").iter().position(|name| name == "text").expect("a text column");
        texts.extend(reader.records().map(|row| row.expect("a row").get(text).expect("a text").to_owned()));
    }
    assert!(texts.len() > 100_000, "{} texts", texts.len());
    // Evenly over all files.
    let step = texts.len() / 100_000;
    let mut pairs = bases();
    for (index, text) in texts.iter().step_by(step).take(100_000).enumerate() {
        for (_, pair) in &mut pairs {
            pair.check(text, if index % 4 == 0 { 16 } else { usize::MAX });
        }
    }
}

const PARTS: [&str; 44] = [
    "a",
    "b",
    "ab",
    "aba",
    "É",
    "é",
    "e\u{301}",
    "\u{301}",
    "\u{327}",
    "\u{323}",
    "\u{1d165}",
    "\u{302e}",
    "\u{8d4}",
    "\u{5b0}",
    "\u{e0001}",
    "\u{200d}",
    "\u{ad}",
    "\u{1}",
    "\u{b}",
    "\u{85}",
    "\0",
    "\u{fffd}",
    "\u{feff}",
    " ",
    "\t",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "!",
    "…",
    "¿",
    "中",
    "\u{f900}",
    "\u{2f800}",
    "한",
    "😀",
    "İ",
    "ẞ",
    "ß",
    "[SEP]",
    "[cls]",
    "<mask>",
    "<",
    "\u{ac00}\u{11a8}",
];

/// Strings of any characters, and of those that normalisation and added tokens do something with.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => prop::sample::select(PARTS.to_vec()).prop_map(str::to_owned),
        2 => any::<char>().prop_map(String::from),
        1 => (0x300u32..0x36f).prop_map(|c| char::from_u32(c).map(String::from).unwrap_or_default()),
        1 => (0x21u32..0x2fff).prop_map(|c| char::from_u32(c).map(String::from).unwrap_or_default()),
    ];
    prop_oneof![prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat()), any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_text_is_treated_as_the_crate_treats_it(text in text(), length in 5usize..40) {
        thread_local! {
            static PAIRS: std::cell::RefCell<Vec<Pair>> = std::cell::RefCell::new(
                transparent(0x3100).iter().chain(&small()).map(|file| Pair::new(&file.to_string()))
                    .chain(bases().into_iter().map(|(_, pair)| pair)).collect()
            );
        }
        PAIRS.with_borrow_mut(|pairs| for pair in pairs {
            pair.check(&text, length);
            pair.check(&text, usize::MAX);
        });
    }
}

// --- files ---

static GOOD: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_slice(&std::fs::read(reference("bert/tokenizer.json")).expect("read")).expect("JSON")
});

fn with(path: &str, value: Value) -> String {
    let mut file = GOOD.clone();
    *file.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
    file.to_string()
}

fn why(json: &str) -> String {
    match WordPiece::from_json(json).err() {
        Some(Unread::Other(why)) => why,
        other => panic!("{other:?}: {json:.200}"),
    }
}

#[test]
fn what_is_not_known_to_the_last_field_is_left_to_the_crate() {
    for kind in ["BPE", "Unigram", "WordLevel"] {
        assert_eq!(why(&with("/model/type", kind.into())), format!("its model is of type {kind}"));
    }
    let mut files = vec![
        with("/version", "2.0".into()),
        with("/normalizer", Value::Null),
        with("/normalizer/type", "NFKC".into()),
        with("/normalizer", json!({"type": "Sequence", "normalizers": [GOOD["normalizer"]]})),
        with("/pre_tokenizer", Value::Null),
        with("/pre_tokenizer/type", "Whitespace".into()),
        with("/post_processor", json!({"type": "ByteLevel"})),
        with("/post_processor/single", json!([])),
        with(
            "/post_processor/single",
            json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]),
        ),
        with("/added_tokens/0/single_word", true.into()),
        with("/added_tokens/0/content", "".into()),
        with("/added_tokens/0/content", "a b".into()),
        with("/added_tokens/0/content", "[UNK]".into()),
        with("/added_tokens/0/id", (-1).into()),
        with("/model/unk_token", "nowhere".into()),
        with("/model/vocab/a", 1e10.into()),
    ];
    for part in ["/normalizer", "/model", "/added_tokens/0", "/post_processor"] {
        let mut file = GOOD.clone();
        file.pointer_mut(part).expect(part)["more"] = true.into();
        files.push(file.to_string());
    }
    for file in files {
        why(&file);
    }
    assert!(WordPiece::from_json(&GOOD.to_string()).is_ok());
}

#[test]
fn other_kinds_go_to_the_crate() {
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "unk_token": null, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    });
    let tokenizer = |max| Tokenizer::from_json(json.to_string().as_bytes(), max).expect("a tokenizer");
    let text = "AB ba abab";
    assert_eq!(tokenizer(100).encode(text).expect("encoded"), Oracle::new(&json.to_string()).encode(text, usize::MAX));
    assert_eq!(tokenizer(2).encode(text).expect("encoded"), Encoded { ids: vec![2, 1], truncated: true });
    assert_eq!(tokenizer(2).vocabulary(), 3);
}

#[test]
fn damaged_and_hostile_files_are_refused() {
    let good = GOOD.to_string();
    for cut in (0..good.len()).filter(|cut| good.is_char_boundary(*cut)) {
        assert!(matches!(WordPiece::from_json(&good[..cut]), Err(Unread::Invalid(_))), "{cut}");
    }
    let nested = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let missing = json!([{"SpecialToken": {"id": "[NONE]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    let second = json!([{"Sequence": {"id": "B", "type_id": 0}}]);
    let files = [
        String::new(),
        "[]".to_owned(),
        "null".to_owned(),
        "{}".to_owned(),
        good.replace(r#""normalizer":{"#, &format!(r#""normalizer":{nested},"x":{{"#)),
        with("/post_processor/single", missing),
        with("/post_processor/single", second),
        with("/model/vocab", json!([])),
        with("/model", json!("WordPiece")),
    ];
    for file in &files {
        let error = Tokenizer::from_json(file.as_bytes(), 128).err().expect("refused").to_string();
        assert!(error.starts_with("slm-tokenizer: tokenizer.json: "), "{error}");
    }
    assert!(Tokenizer::from_json(b"\xFF", 128).is_err());
    assert!(Tokenizer::from_json(good.as_bytes(), 2).err().expect("refused").to_string().contains("no room"));
}

#[test]
fn a_text_without_special_tokens_is_cut_too() {
    let json = with("/post_processor", Value::Null);
    let tokenizer = Tokenizer::from_json(json.as_bytes(), 2).expect("a tokenizer");
    let encoded = tokenizer.encode("the cat sat").expect("encoded");
    assert_eq!((encoded.ids.len(), encoded.truncated), (2, true));
}
