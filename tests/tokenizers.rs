//! BPE, unigram and BERTweet tokenizers, and files built from older ones: against the slow Python tokenizers of
//! `transformers` (`tests/reference/tokenizers/make.py`), against the `tokenizers` crate, and with files that lie.
#![cfg(feature = "native")]

use autoannotator::slm::SlmError;
use autoannotator::slm::tokenize::build::from_files;
use autoannotator::slm::tokenize::{Encoded, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

type Files = BTreeMap<String, Vec<u8>>;

const MODELS: [&str; 9] =
    ["bert-cased", "electra", "mpnet", "roberta", "xlm-roberta", "albert", "deberta", "bertweet", "modernbert"];

fn reference() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tokenizers")
}

fn folder(name: &str) -> Files {
    let entries = std::fs::read_dir(reference().join(name)).expect(name).map(|entry| entry.expect("a file").path());
    entries
        .map(|path| {
            let bytes = std::fs::read(&path).expect("read");
            (path.file_name().expect("a name").to_string_lossy().into_owned(), bytes)
        })
        .collect()
}

fn build(files: &Files) -> Result<Vec<u8>, SlmError> {
    from_files(|name| files.get(name).map(Vec::as_slice))
}

fn tokenizer(name: &str, max_length: usize) -> Tokenizer {
    Tokenizer::from_json(&build(&folder(name)).expect(name), max_length).expect(name)
}

static EXPECTED: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_slice(&std::fs::read(reference().join("tokens.json")).expect("read")).expect("JSON")
});

fn corpus() -> Vec<String> {
    let text = |item: &Value| match item.as_str() {
        Some(text) => text.to_owned(),
        None => item["repeat"].as_str().expect("repeat").repeat(item["times"].as_u64().expect("times") as usize),
    };
    EXPECTED["corpus"].as_array().expect("corpus").iter().map(text).collect()
}

// --- equal ids ---

/// Where the ids are those of the fast tokenizers, as `build` says.
fn is_known(name: &str, text: &str) -> bool {
    match name {
        "bert-cased" => text.contains(['\u{301}', '\u{1161}', '\u{fdd0}']),
        "electra" | "mpnet" => text.contains('\u{fdd0}'),
        "albert" => text.contains(['\u{94d}', '\u{20e3}', '\u{488}']),
        "deberta" => text.contains("1,000"),
        _ => false,
    }
}

/// Says what differs from the original.
fn check(name: &str, tokenizer: &Tokenizer) -> String {
    assert_eq!(tokenizer.vocabulary() as u64, EXPECTED["sizes"][name].as_u64().expect("a size"), "{name}");
    let tokens = EXPECTED["tokens"][name].as_array().expect("tokens");
    assert_eq!(tokens.len(), corpus().len());
    let wrong: Vec<String> = corpus()
        .iter()
        .zip(tokens)
        .filter_map(|(text, tokens)| {
            let ids: Vec<u32> = serde_json::from_value(tokens["ids"].clone()).expect("ids");
            let expected = Encoded { ids, truncated: tokens["truncated"].as_bool().unwrap_or_default() };
            let found = tokenizer.encode(text).expect("encoded");
            let start: String = text.chars().take(80).collect();
            (found != expected && !is_known(name, text))
                .then(|| format!("{start:?}:\n  found    {found:?}\n  expected {expected:?}"))
        })
        .collect();
    if wrong.is_empty() {
        String::new()
    } else {
        format!("{name}, {} of {}:\n{}\n", wrong.len(), tokens.len(), wrong.join("\n"))
    }
}

#[test]
fn the_files_of_every_kind_give_the_ids_of_the_original() {
    let max_length = EXPECTED["max_length"].as_u64().expect("a length") as usize;
    let mut wrong: String = MODELS.iter().map(|name| check(name, &tokenizer(name, max_length))).collect();
    let mut plain = folder("bertweet");
    plain.insert("tokenizer_config.json".into(), br#"{"tokenizer_class": "PhobertTokenizer"}"#.to_vec());
    wrong += &check("bertweet-plain", &Tokenizer::from_json(&build(&plain).expect("built"), max_length).expect("read"));
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_maximum_cuts_the_end_and_keeps_the_closing_token() {
    for name in MODELS {
        let whole = tokenizer(name, usize::MAX);
        for text in corpus() {
            let all = whole.encode(&text).expect("encoded").ids;
            for max_length in [3, 4, 5, 9, 64] {
                let found = tokenizer_of(name, max_length).encode(&text).expect("encoded");
                let cut = all.len() > max_length;
                let mut ids = all[..all.len().min(max_length)].to_vec();
                if cut {
                    *ids.last_mut().expect("ids") = *all.last().expect("ids");
                }
                assert_eq!(found, Encoded { ids, truncated: cut }, "{name} {max_length} {:.60}", text);
            }
        }
    }
}

/// Read once for each kind and length.
fn tokenizer_of(name: &str, max_length: usize) -> &'static Tokenizer {
    static ALL: LazyLock<BTreeMap<(String, usize), Tokenizer>> = LazyLock::new(|| {
        let json = MODELS.map(|name| (name, build(&folder(name)).expect(name)));
        json.iter()
            .flat_map(|(name, json)| {
                [3, 4, 5, 9, 64]
                    .map(|length| ((name.to_string(), length), Tokenizer::from_json(json, length).expect("read")))
            })
            .collect()
    });
    &ALL[&(name.to_owned(), max_length)]
}

/// The crate's answer without a limit.
fn oracle(json: &[u8]) -> tokenizers::Tokenizer {
    let mut oracle: tokenizers::Tokenizer =
        std::str::from_utf8(json).expect("UTF-8").parse().expect("the crate reads it");
    oracle.with_padding(None);
    oracle.with_truncation(None).expect("no truncation");
    oracle
}

/// BPE with and without composing, prefix and unknown bytes, and unigram models without a map of characters; with the
/// crate's reading of each.
fn pairs() -> Vec<(Tokenizer, tokenizers::Tokenizer)> {
    let value = |name: &str| -> Value { serde_json::from_slice(&build(&folder(name)).expect(name)).expect("JSON") };
    let (roberta, modernbert, mut deberta) = (value("roberta"), value("modernbert"), value("deberta"));
    let mut files = vec![roberta.clone(), modernbert.clone()];
    let mut prefixed = roberta.clone();
    prefixed["pre_tokenizer"]["add_prefix_space"] = true.into();
    prefixed["added_tokens"][0]["rstrip"] = true.into();
    files.push(prefixed);
    let mut whole = modernbert.clone();
    whole["model"]["ignore_merges"] = true.into();
    files.push(whole);
    // Bytes without a token, known and not.
    for mut lacking in [roberta.clone(), modernbert] {
        for letter in ["Ã", "©", "!"] {
            lacking["model"]["vocab"].as_object_mut().expect("a vocabulary").remove(letter);
        }
        let merges = lacking["model"]["merges"].as_array_mut().expect("merges");
        merges.retain(|merge| !merge.to_string().contains(['Ã', '©', '!']));
        files.push(lacking);
    }
    // As older files are.
    let mut old = roberta;
    old["model"].as_object_mut().expect("a model").remove("type");
    old["post_processor"] = json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": true, "add_prefix_space": false});
    files.push(old);

    let steps = deberta["normalizer"]["normalizers"].as_array_mut().expect("steps");
    steps.retain(|step| step["type"] != "Precompiled");
    files.push(deberta.clone());
    let metaspace =
        |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let replace = json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"});
    let strip = json!({"type": "Strip", "strip_left": false, "strip_right": true});
    let of = |kind: &str| json!({"type": kind});
    for (normalizers, pre_tokenizer) in [
        (vec![strip.clone(), replace], metaspace("always")),
        (vec![], metaspace("first")),
        (vec![of("NFKD"), of("StripAccents"), of("Lowercase")], metaspace("never")),
        (
            vec![json!({"type": "Replace", "pattern": {"String": "``"}, "content": "\""}), of("NFKC")],
            json!({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace("always")]}),
        ),
        (vec![of("NFC"), strip], json!({"type": "Metaspace", "replacement": "▁", "add_prefix_space": true})),
    ] {
        let mut file = deberta.clone();
        file["normalizer"] = json!({"type": "Sequence", "normalizers": normalizers});
        file["pre_tokenizer"] = pre_tokenizer;
        file["added_tokens"][0]["normalized"] = true.into();
        files.push(file);
    }
    files
        .iter()
        .map(|file| {
            let json = file.to_string();
            (Tokenizer::from_json(json.as_bytes(), usize::MAX).expect("read"), oracle(json.as_bytes()))
        })
        .collect()
}

fn difference(pairs: &[(Tokenizer, tokenizers::Tokenizer)], text: &str) -> Option<String> {
    pairs.iter().enumerate().find_map(|(index, (ours, oracle))| {
        let found = ours.encode(text).expect("encoded").ids;
        let expected = oracle.encode_fast(text, true).expect("encoded").get_ids().to_vec();
        (found != expected).then(|| format!("{index}: {text:?}\n{found:?}, expected\n{expected:?}"))
    })
}

#[test]
fn the_corpus_is_treated_as_the_crate_treats_it() {
    let pairs = pairs();
    for (ours, oracle) in &pairs {
        assert_eq!(ours.vocabulary(), oracle.get_vocab_size(true));
    }
    for text in corpus() {
        assert_eq!(difference(&pairs, &text), None);
    }
}

/// What a character is decides where GPT-2's pattern cuts: with a letter, a digit and a symbol on both sides, a merge
/// across the cut would show.
#[test]
fn every_character_is_of_the_kind_that_the_crate_sees() {
    let mut vocab: BTreeMap<String, u32> = BTreeMap::new();
    let letters: Vec<String> = (0..=255u32).filter_map(char::from_u32).map(String::from).collect();
    let file: Value = serde_json::from_slice(&build(&folder("roberta")).expect("built")).expect("JSON");
    for letter in
        file["model"]["vocab"].as_object().expect("a vocabulary").keys().filter(|token| token.chars().count() == 1)
    {
        vocab.insert(letter.clone(), vocab.len() as u32);
    }
    let bytes: Vec<String> = vocab
        .keys()
        .filter(|letter| letters.contains(letter) || letter.chars().all(|c| c as u32 >= 0x100))
        .cloned()
        .collect();
    let mut merges = Vec::new();
    for edge in ["a", "1", "!"] {
        for byte in &bytes {
            for (left, right) in [(edge, byte.as_str()), (byte.as_str(), edge)] {
                let token = format!("{left}{right}");
                if !vocab.contains_key(&token) {
                    vocab.insert(token, vocab.len() as u32);
                    merges.push(json!([left, right]));
                }
            }
        }
    }
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
    })
    .to_string();
    let pair = [(Tokenizer::from_json(json.as_bytes(), usize::MAX).expect("read"), oracle(json.as_bytes()))];
    let around = |c: char| ["a", "1", "!"].map(|edge| format!("{edge}{c}{edge}")).concat();
    let mut wrong = Vec::new();
    for chars in ('\0'..=char::MAX).collect::<Vec<_>>().chunks(500) {
        let text: String = chars.iter().map(|c| around(*c) + "\n").collect();
        if difference(&pair, &text).is_some() {
            wrong.extend(chars.iter().filter(|c| difference(&pair, &around(**c)).is_some()));
        }
    }
    assert!(wrong.is_empty(), "{} characters: {:?}", wrong.len(), ranges(&wrong));
}

fn ranges(chars: &[char]) -> Vec<String> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for c in chars.iter().map(|c| u32::from(*c)) {
        match ranges.last_mut() {
            Some((_, end)) if *end + 1 == c => *end = c,
            _ => ranges.push((c, c)),
        }
    }
    ranges.iter().map(|(start, end)| format!("{start:X}..={end:X}")).collect()
}

const PARTS: [&str; 58] = [
    "a",
    "b",
    "the",
    "ing",
    "É",
    "é",
    "e\u{301}",
    "\u{301}",
    "\u{323}",
    "\u{ad}",
    "\u{1}",
    "\u{1c}",
    "\u{85}",
    "\0",
    "\u{fffd}",
    "\u{feff}",
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\r",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "!",
    "…",
    "¿",
    "中",
    "한",
    "\u{1112}\u{1161}",
    "😀",
    "👍🏽",
    "İ",
    "ſ",
    "ß",
    "1",
    "½",
    "Ⅷ",
    "ⓐ",
    "'s",
    "'",
    "``",
    "[SEP]",
    "<mask>",
    " <s>",
    "[CLS] ",
    "|||IP_ADDRESS|||",
    "▁",
    "#love",
    "@user",
    "http://",
    "www.",
    ".com",
    "(",
    ")",
    ".",
    "&amp;",
];

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => prop::sample::select(PARTS.to_vec()).prop_map(str::to_owned),
        2 => any::<char>().prop_map(String::from),
        1 => (0x21u32..0x2fff).prop_map(|c| char::from_u32(c).map(String::from).unwrap_or_default()),
    ];
    prop_oneof![prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat()), any::<String>()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn random_text_is_treated_as_the_crate_treats_it(text in text()) {
        static PAIRS: LazyLock<Vec<(Tokenizer, tokenizers::Tokenizer)>> = LazyLock::new(pairs);
        // Where a mark of SentencePiece stands in the text itself, the crate joins words that it does not split.
        prop_assert_eq!(difference(&PAIRS, &text), None);
    }

    #[test]
    fn any_text_is_cut_and_framed(text in text()) {
        for name in MODELS {
            let encoded = tokenizer_of(name, 9).encode(&text).expect("encoded");
            prop_assert!((2..=9).contains(&encoded.ids.len()), "{name}");
            let empty = tokenizer_of(name, 9).encode("").expect("encoded").ids;
            prop_assert_eq!(encoded.ids.first(), empty.first());
            prop_assert_eq!(encoded.ids.last(), empty.last());
            prop_assert!(!encoded.truncated || encoded.ids.len() == 9);
        }
    }
}

// --- files ---

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A damaged file is refused or read, whatever it is then.
    #[test]
    fn damage_makes_no_panic(
        model in 0..MODELS.len(), file in 0usize..8, at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
        text in text(),
    ) {
        let mut files = folder(MODELS[model]);
        let count = files.len();
        let (_, bytes) = files.iter_mut().nth(file % count).expect("a file");
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        if let Ok(json) = build(&files) && let Ok(tokenizer) = Tokenizer::from_json(&json, 64) {
            tokenizer.encode(&text).expect("encoded");
        }
    }

    /// The same of what is built: this is what a page loads.
    #[test]
    fn a_damaged_tokenizer_json_makes_no_panic(model in 0..MODELS.len(), at in any::<prop::sample::Index>(), byte in any::<u8>(), text in text()) {
        static FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| MODELS.iter().map(|name| build(&folder(name)).expect("built")).collect());
        let mut json = FILES[model].clone();
        let at = at.index(json.len());
        json[at] = byte;
        if let Ok(tokenizer) = Tokenizer::from_json(&json, 64) {
            tokenizer.encode(&text).expect("encoded");
        }
    }
}

/// Damage that the crate itself panics at.
#[test]
fn a_table_of_characters_that_is_not_there_is_refused() {
    let built = MODELS.map(|name| String::from_utf8(build(&folder(name)).expect("built")).expect("text"));
    let with_table: Vec<_> = built.iter().filter(|json| json.contains("precompiled_charsmap")).collect();
    assert!(!with_table.is_empty());
    for json in with_table {
        for (part, damaged) in
            [("\"precompiled_charsmap\"", "\"precompiled_chars\""), ("_charsmap\":\"", "_charsmap\":\"!")]
        {
            assert!(json.contains(part), "{part}");
            assert!(Tokenizer::from_json(json.replace(part, damaged).as_bytes(), 64).is_err(), "{damaged}");
        }
    }
}

fn refusal(files: &Files) -> String {
    build(files).expect_err("refused").to_string()
}

#[test]
fn what_is_missing_is_named() {
    for (name, file, part) in [
        ("bert-cased", "vocab.txt", "to build one for BertTokenizer vocab.txt is needed, and vocab.txt is missing"),
        (
            "roberta",
            "merges.txt",
            "to build one for roberta vocab.json and merges.txt are needed, and merges.txt is missing",
        ),
        ("bertweet", "bpe.codes", "bpe.codes is missing"),
        ("xlm-roberta", "sentencepiece.bpe.model", "sentencepiece.bpe.model is missing"),
        ("albert", "spiece.model", "spiece.model is missing"),
        ("deberta", "spm.model", "spm.model is missing"),
    ] {
        let mut files = folder(name);
        files.remove(file);
        let message = refusal(&files);
        assert!(
            message.starts_with("slm-tokenizer: there is no tokenizer.json") && message.contains(part),
            "{message}"
        );
    }
    let mut files = folder("roberta");
    files.insert("config.json".into(), br#"{"model_type": "gpt2"}"#.to_vec());
    assert!(refusal(&files).contains("for 'gpt2' none can be built"));
    files.remove("config.json");
    assert!(refusal(&files).contains("names a tokenizer_class"));
    // Older files of BERTweet do not name their class.
    let mut files = folder("bertweet");
    files.insert("config.json".into(), br#"{"model_type": "roberta"}"#.to_vec());
    assert_eq!(build(&files).expect("built"), build(&folder("bertweet")).expect("built"));
}

#[test]
fn what_cannot_be_built_from_is_named() {
    let with = |name: &str, file: &str, bytes: &[u8]| {
        let mut files = folder(name);
        files.insert(file.into(), bytes.to_vec());
        refusal(&files)
    };
    for (message, part) in [
        (with("bert-cased", "vocab.txt", b"a\nb\n"), "the unknown token '[UNK]' is not in vocab.txt"),
        (with("bert-cased", "vocab.txt", b"\xFF"), "vocab.txt: not UTF-8"),
        (with("bert-cased", "tokenizer_config.json", b"{"), "tokenizer_config.json: "),
        (with("bert-cased", "tokenizer_config.json", br#"{"do_lower_case": "no"}"#), "do_lower_case is \"no\""),
        (with("bert-cased", "tokenizer_config.json", br#"{"do_basic_tokenize": false}"#), "do_basic_tokenize"),
        (
            with("electra", "added_tokens.json", br#"{"<brand>": 900}"#),
            "'<brand>' has the id 900 in the files, and would get 500",
        ),
        (with("roberta", "vocab.json", b"[]"), "vocab.json: "),
        (with("roberta", "merges.txt", b"#version: 0.2\na b c\n"), "'a b c' is not two tokens"),
        (with("roberta", "merges.txt", b"#version: 0.2\nzzz b\n"), "names 'zzz', which is not in its vocabulary"),
        (with("bertweet", "vocab.txt", b"word\n"), "'word' is not a token and its count"),
        (with("bertweet", "bpe.codes", b"a b\n"), "'a b' is not a pair and its count"),
        (with("xlm-roberta", "sentencepiece.bpe.model", b"not a model"), "not a protocol buffer"),
        (with("xlm-roberta", "sentencepiece.bpe.model", b""), "it holds no pieces"),
        (with("deberta", "tokenizer_config.json", br#"{"split_by_punct": true}"#), "split_by_punct"),
    ] {
        assert!(message.starts_with("slm-tokenizer: ") && message.contains(part), "{message}");
    }
    // A model of SentencePiece's BPE.
    let mut model = folder("albert")["spiece.model"].clone();
    model.extend([0x12, 2, 0x18, 2]);
    assert!(with("albert", "spiece.model", &model).contains("not a unigram model"));
}

#[test]
fn a_tokenizer_json_that_is_there_is_taken_as_it_is() {
    let mut files = folder("roberta");
    files.insert("tokenizer.json".into(), b"as it is".to_vec());
    assert_eq!(build(&files).expect("taken"), b"as it is");
}

/// What the wasm tests load.
#[test]
fn the_built_files_are_those_that_the_wasm_tests_load() {
    for name in ["roberta", "deberta", "bertweet"] {
        let path = reference().join("built").join(format!("{name}.json"));
        let built = build(&folder(name)).expect("built");
        if std::env::var_os("AUTOANNOTATOR_WRITE_REFERENCE").is_some() {
            std::fs::create_dir_all(reference().join("built")).expect("a folder");
            std::fs::write(&path, &built).expect("written");
        }
        let same = std::fs::read(&path).is_ok_and(|kept| kept == built);
        assert!(same, "{}: run this test with AUTOANNOTATOR_WRITE_REFERENCE=1", path.display());
    }
}
