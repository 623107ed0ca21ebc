//! The bases' own tokenizers against the slow Python tokenizer over their vocabulary (`tests/reference/make.py`), on the
//! corpus of `tokens.json`. It wants the bases; `make test` pulls them first.
#![cfg(feature = "native")]

use autoannotator::hub::{Catalogue, Home};
use autoannotator::slm::adapter::sha256_hex;
use autoannotator::slm::tokenize::Tokenizer;
use std::collections::BTreeMap;
use std::path::Path;

fn json(name: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("reference").join(name);
    serde_json::from_slice(&std::fs::read(path).expect(name)).expect(name)
}

fn corpus() -> Vec<String> {
    let text = |item: &serde_json::Value| match item.as_str() {
        Some(text) => text.to_owned(),
        None => item["repeat"].as_str().expect("repeat").repeat(item["times"].as_u64().expect("times") as usize),
    };
    json("tokens.json")["corpus"].as_array().expect("corpus").iter().map(text).collect()
}

#[test]
fn the_bases_tokenizers_give_the_ids_of_the_python_tokenizer() {
    let expected: BTreeMap<String, Vec<String>> = serde_json::from_value(json("bases.json")).expect("bases.json");
    let (corpus, catalogue) = (corpus(), Catalogue::find().expect("catalogue"));
    let home = Home::find(None).expect("home");
    let ids: Vec<&str> = catalogue.bases.iter().map(|base| base.id.as_str()).collect();
    assert!(
        ids.iter().all(|id| expected.contains_key(*id)),
        "a base without expected ids: run tests/reference/make.py"
    );
    for entry in &catalogue.bases {
        let base = entry.cached(&home).expect("the cache can be read").unwrap_or_else(|| {
            panic!(
                "the base {} is not in {}: run `autoannotator pull` first, as `make test` does, or set AUTOANNOTATOR_HOME",
                entry.id,
                home.path().display()
            )
        });
        let tokenizer = Tokenizer::from_json(&base.tokenizer_json, usize::MAX).expect("tokenizer");
        let hashes = &expected[&entry.id];
        assert_eq!(hashes.len(), corpus.len());
        let wrong: Vec<String> = corpus
            .iter()
            .zip(hashes)
            .filter_map(|(text, hash)| {
                let ids = tokenizer.encode(text).expect("encoded").ids;
                let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                let start = || text.chars().take(60).collect::<String>();
                (sha256_hex(&bytes) != *hash).then(|| format!("{:?}: {:?}", start(), &ids[..ids.len().min(60)]))
            })
            .collect();
        assert!(wrong.is_empty(), "{}:\n{}", entry.id, wrong.join("\n"));
    }
}
