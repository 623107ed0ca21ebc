//! What a hard text looks like when it leaves.

use super::to_js;
use crate::review::redact::{self, Kind, Redacted};
use serde::Serialize;
use wasm_bindgen::prelude::*;

#[derive(Serialize)]
struct Placeholder<'a> {
    placeholder: &'a str,
    kind: Kind,
    original: &'a str,
}

#[derive(Serialize)]
struct RedactedView<'a> {
    text: &'a str,
    placeholders: Vec<Placeholder<'a>>,
}

fn view(redacted: &Redacted) -> Result<JsValue, JsValue> {
    let placeholders = redacted.spans().iter().map(|span| Placeholder {
        placeholder: &span.placeholder,
        kind: span.kind,
        original: redacted.original(span),
    });
    to_js(&RedactedView { text: redacted.text(), placeholders: placeholders.collect() })
}

/// Replaces what could name a person by typed placeholders; says what was replaced, in the text's order.
#[wasm_bindgen(unchecked_return_type = "Redacted")]
pub fn redact(text: &str) -> Result<JsValue, JsValue> {
    view(&redact::redact(text))
}

/// Redacts by the formats, and by a list of names: whole words, in any case.
#[wasm_bindgen]
pub struct Redactor(redact::Redactor);

#[wasm_bindgen]
impl Redactor {
    /// A redactor that knows these names, such as a spec's `review.names`.
    #[wasm_bindgen(constructor)]
    pub fn new(names: Vec<String>) -> Self {
        Self(redact::Redactor::new(names))
    }

    /// What `redact` does, and the names.
    #[wasm_bindgen(unchecked_return_type = "Redacted")]
    pub fn redact(&self, text: &str) -> Result<JsValue, JsValue> {
        view(&self.0.redact(text))
    }
}
