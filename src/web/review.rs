//! What a hard text looks like when it leaves.

use super::to_js;
use serde::Serialize;
use wasm_bindgen::prelude::*;

#[derive(Serialize)]
struct Placeholder<'a> {
    placeholder: &'static str,
    kind: crate::review::redact::Kind,
    original: &'a str,
}

#[derive(Serialize)]
struct RedactedView<'a> {
    text: &'a str,
    placeholders: Vec<Placeholder<'a>>,
}

/// Replaces what could name a person by typed placeholders; says what was replaced, in the text's order.
#[wasm_bindgen(unchecked_return_type = "Redacted")]
pub fn redact(text: &str) -> Result<JsValue, JsValue> {
    let redacted = crate::review::redact::redact(text);
    let placeholders = redacted.spans().iter().map(|span| Placeholder {
        placeholder: span.kind.placeholder(),
        kind: span.kind,
        original: text.get(span.start..span.end).unwrap_or_default(),
    });
    to_js(&RedactedView { text: redacted.text(), placeholders: placeholders.collect() })
}
