//! A `tokenizer.json`, and a text behind its last line feed.
#![no_main]

use autoannotator::slm::tokenize::Tokenizer;
use libfuzzer_sys::fuzz_target;

const LONGEST: usize = 64;

fuzz_target!(|data: &[u8]| {
    let end = data.iter().rposition(|byte| *byte == b'\n').unwrap_or(data.len());
    let (json, text) = data.split_at(end);
    let Ok(tokenizer) = Tokenizer::from_json(json, LONGEST) else { return };
    let Ok(encoded) = tokenizer.encode(&String::from_utf8_lossy(text)) else { return };
    assert!(encoded.ids.len() <= LONGEST);
});
