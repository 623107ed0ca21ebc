//! The wasm-bindgen surface: conversions only, no logic. Names are camelCase as JavaScript has them; the records keep
//! the names that serde gives them, so what a page stores reads like what the companion writes.
//!
//! An error is thrown as an `Error` with a stable `code` beside its `message`.

mod data;
mod report;
mod review;
mod slm;

pub use data::{Exporter, RowReader, sniff_format};
pub use report::ReportBuilder;
pub use review::{Redactor, redact};
#[cfg(feature = "gpu")]
pub use slm::Gpu;
pub use slm::{Slm, SlmLoader, check_labels};

use crate::sample::{Annotation, Review, Sample, Verdict, Vote};
use crate::spec::{ExportSpec, ReviewSpec, Spec, TuneSpec};
use crate::task::{Label, LabelSet, Task, TaskError};
use crate::vote::{LabelMap, Rule};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use wasm_bindgen::prelude::*;

/// The records in TypeScript, field for field as serde writes them.
#[wasm_bindgen(typescript_custom_section)]
const TYPES: &'static str = include_str!("types.d.ts");

/// Runs once, as the module is instantiated: a defect's panic says where it was.
#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

/// The crate's version.
#[wasm_bindgen]
pub fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

/// The spec of a built-in task.
#[wasm_bindgen(js_name = builtInSpec, unchecked_return_type = "Spec")]
pub fn built_in_spec(task: &str) -> Result<JsValue, JsValue> {
    to_js(&SpecView::of(&Spec::built_in(task).map_err(thrown)?))
}

/// Reads a spec; `format` is `toml` or `json`.
#[wasm_bindgen(js_name = parseSpec, unchecked_return_type = "Spec")]
pub fn parse_spec(
    text: &str,
    #[wasm_bindgen(unchecked_param_type = "\"toml\" | \"json\"")] format: &str,
) -> Result<JsValue, JsValue> {
    let spec = match format {
        "toml" => Spec::from_toml(text),
        "json" => Spec::from_json(text),
        other => return Err(thrown(format!("argument: a spec's format is 'toml' or 'json', not '{other}'"))),
    };
    to_js(&SpecView::of(&spec.map_err(thrown)?))
}

/// The verdict of a rule over the votes of one sample.
#[wasm_bindgen(unchecked_return_type = "Verdict")]
pub fn verdict(
    #[wasm_bindgen(unchecked_param_type = "Rule")] rule: JsValue,
    #[wasm_bindgen(unchecked_param_type = "Vote[]")] votes: JsValue,
) -> Result<JsValue, JsValue> {
    let rule: Rule = from_js(rule, "rule")?;
    let votes: Vec<Vote> = from_js(votes, "votes")?;
    to_js(&crate::vote::verdict(rule, &votes))
}

/// The annotation as verdict and review leave it: with its label, if it has one, and where that came from.
#[wasm_bindgen(unchecked_return_type = "Annotation")]
pub fn annotation(
    #[wasm_bindgen(unchecked_param_type = "Sample")] sample: JsValue,
    #[wasm_bindgen(unchecked_param_type = "Vote[]")] votes: JsValue,
    #[wasm_bindgen(unchecked_param_type = "Verdict")] verdict: JsValue,
    #[wasm_bindgen(unchecked_optional_param_type = "Review | null")] review: JsValue,
) -> Result<JsValue, JsValue> {
    let sample: Sample = from_js(sample, "sample")?;
    let votes: Vec<Vote> = from_js(votes, "votes")?;
    let verdict: Verdict = from_js(verdict, "verdict")?;
    let review: Option<Review> = from_js(review, "review")?;
    let annotation = Annotation::new(sample, votes, verdict);
    to_js(&match review {
        Some(review) => annotation.with_review(review),
        None => annotation,
    })
}

/// A spec with the labels of its task spelled out, which [`Spec`]'s own JSON leaves out for a built-in one.
#[derive(Serialize)]
struct SpecView<'a> {
    task: &'a Task,
    slms: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    label_map: &'a BTreeMap<String, LabelMap>,
    rule: Rule,
    review: &'a ReviewSpec,
    tune: &'a TuneSpec,
    export: &'a ExportSpec,
}

impl<'a> SpecView<'a> {
    fn of(spec: &'a Spec) -> Self {
        let Spec { task, slms, label_maps, rule, review, tune, export } = spec;
        Self { task, slms, label_map: label_maps, rule: *rule, review, tune, export }
    }
}

/// A task as JavaScript gives it.
#[derive(Deserialize)]
struct TaskRecord {
    name: String,
    labels: Vec<Label>,
}

impl TaskRecord {
    fn into_task(self) -> Result<Task, TaskError> {
        Ok(Task { name: self.name, labels: LabelSet::new(self.labels)? })
    }
}

/// An `Error` with the code that the message starts with.
fn thrown(error: impl std::fmt::Display) -> JsValue {
    let message = error.to_string();
    let code = message.split(": ").next().filter(|code| is_code(code)).unwrap_or("error");
    let error = js_sys::Error::new(&message);
    // Setting a property of a fresh object cannot fail.
    let _ = js_sys::Reflect::set(&error, &"code".into(), &code.into());
    error.into()
}

fn is_code(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A value as plain JavaScript: objects, arrays, numbers, null.
fn to_js(value: &impl Serialize) -> Result<JsValue, JsValue> {
    value.serialize(&serde_wasm_bindgen::Serializer::json_compatible()).map_err(|e| thrown(format!("argument: {e}")))
}

/// A value that JavaScript gave as argument `name`.
fn from_js<T: DeserializeOwned>(value: JsValue, name: &str) -> Result<T, JsValue> {
    serde_wasm_bindgen::from_value(value).map_err(|error| thrown(format!("argument: {name}: {error}")))
}
