//! The report of a run.

use super::data::TaskRecord;
use super::{from_js, thrown, to_js};
use crate::annotate::report::{ReviewReport, Tally};
use crate::sample::Annotation;
use crate::spec::Spec;
use crate::task::LabelSet;
use wasm_bindgen::prelude::*;

/// Counts a run up into the object that the companion's `--report` writes.
#[wasm_bindgen]
pub struct ReportBuilder {
    labels: LabelSet,
    tally: Tally,
}

#[wasm_bindgen]
impl ReportBuilder {
    /// An empty report; `gold`: gold labels will be given.
    #[wasm_bindgen(constructor)]
    pub fn new(
        #[wasm_bindgen(unchecked_param_type = "Task")] task: JsValue,
        slms: Vec<String>,
        gold: bool,
    ) -> Result<Self, JsValue> {
        let task = from_js::<TaskRecord>(task, "task")?.into_task().map_err(thrown)?;
        let labels = task.labels.clone();
        let spec = Spec::plain(task, slms);
        Ok(Self { labels, tally: Tally::new(&spec, gold) })
    }

    /// Adds a row, with the text of its gold label.
    pub fn add(
        &mut self,
        #[wasm_bindgen(unchecked_param_type = "Annotation")] annotation: JsValue,
        gold: Option<String>,
    ) -> Result<(), JsValue> {
        let annotation: Annotation = from_js(annotation, "annotation")?;
        self.tally.add(&annotation, gold.and_then(|gold| self.labels.index(&gold)));
        Ok(())
    }

    /// Adds what reviews cost.
    #[wasm_bindgen(js_name = addReview)]
    pub fn add_review(
        &mut self,
        #[wasm_bindgen(unchecked_param_type = "ReviewCost")] cost: JsValue,
    ) -> Result<(), JsValue> {
        self.tally.add_review(&from_js::<ReviewReport>(cost, "cost")?);
        Ok(())
    }

    /// What it amounts to after `seconds` of work.
    #[wasm_bindgen(unchecked_return_type = "Report")]
    pub fn finish(&self, seconds: f64) -> Result<JsValue, JsValue> {
        let mut tally = self.tally.clone();
        tally.add_seconds(seconds);
        to_js(&tally.report())
    }
}
