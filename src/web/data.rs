//! Data files: rows in, labelled rows out.

use super::{from_js, thrown, to_js};
use crate::data::{DataError, Format, ReadOptions, Reader, Row, Values, Writer};
use crate::sample::{Annotation, Sample};
use crate::spec::Spec;
use crate::task::{Label, LabelSet, Task, TaskError};
use serde::{Deserialize, Serialize};
use wasm_bindgen::prelude::*;

/// A row as JavaScript sees it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RowRecord {
    id: String,
    text: String,
    columns: Values,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set_aside: Option<String>,
}

impl From<Row> for RowRecord {
    fn from(row: Row) -> Self {
        let set_aside = crate::annotate::set_aside(&row);
        Self { id: row.sample.id, text: row.sample.text, columns: row.values, set_aside }
    }
}

impl From<RowRecord> for Row {
    fn from(record: RowRecord) -> Self {
        let RowRecord { id, text, columns, set_aside } = record;
        Self { number: id.parse().unwrap_or(0), sample: Sample { id, text }, values: columns, problem: set_aside }
    }
}

/// How to read a file, as JavaScript says it.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ReaderOptions {
    text_column: Option<String>,
    encoding: Option<String>,
}

/// Reads one data file: bytes in, rows out. An error means that the file cannot be read on; its `rows` are those of the
/// same call that came before.
#[wasm_bindgen]
pub struct RowReader(Reader);

#[wasm_bindgen]
impl RowReader {
    /// A reader of one file.
    #[wasm_bindgen(constructor)]
    pub fn new(
        #[wasm_bindgen(unchecked_param_type = "Format")] format: JsValue,
        #[wasm_bindgen(unchecked_optional_param_type = "ReaderOptions")] options: JsValue,
    ) -> Result<Self, JsValue> {
        let options = from_js::<Option<ReaderOptions>>(options, "options")?.unwrap_or_default();
        let options = ReadOptions { text_column: options.text_column, encoding: options.encoding };
        Ok(Self(Reader::new(from_js::<Format>(format, "format")?, &options).map_err(thrown)?))
    }

    /// The rows that the next bytes complete.
    #[wasm_bindgen(unchecked_return_type = "Row[]")]
    pub fn push(&mut self, chunk: &[u8]) -> Result<JsValue, JsValue> {
        let mut rows = Vec::new();
        let result = self.0.push(chunk, &mut rows);
        given(rows, result)
    }

    /// The rows that are left at the end of the file.
    #[wasm_bindgen(unchecked_return_type = "Row[]")]
    pub fn finish(&mut self) -> Result<JsValue, JsValue> {
        let mut rows = Vec::new();
        let result = self.0.finish(&mut rows);
        given(rows, result)
    }

    /// The names of the columns; empty until the first row is known. For jsonl those of the first object.
    #[wasm_bindgen(getter)]
    pub fn columns(&self) -> Vec<String> {
        self.0.columns().to_vec()
    }

    /// The column of the texts, once it is known.
    #[wasm_bindgen(getter, js_name = textColumn)]
    pub fn text_column(&self) -> Option<String> {
        self.0.text_column().map(str::to_owned)
    }
}

fn given(rows: Vec<Row>, result: Result<(), DataError>) -> Result<JsValue, JsValue> {
    let rows = to_js(&rows.into_iter().map(RowRecord::from).collect::<Vec<_>>())?;
    result.map(|()| rows.clone()).map_err(|error| {
        let error = thrown(error);
        // Setting a property of a fresh object cannot fail.
        let _ = js_sys::Reflect::set(&error, &"rows".into(), &rows);
        error
    })
}

/// The format that a file's name says; without one, a file that starts with `{` is jsonl.
#[wasm_bindgen(js_name = sniffFormat, unchecked_return_type = "Format")]
pub fn sniff_format(name: &str, head: &[u8]) -> Result<JsValue, JsValue> {
    let starts_object = head.trim_ascii_start().starts_with(b"{");
    let format = match Format::from_name(name) {
        Err(_) if starts_object => Format::Jsonl,
        other => other.map_err(thrown)?,
    };
    to_js(&format)
}

/// A labelled row as JavaScript gives it.
#[derive(Deserialize)]
struct LabelledRow {
    row: RowRecord,
    annotation: Annotation,
}

/// Writes labelled rows as the companion does: the row's own columns first, then every vote, the verdict and the review.
#[wasm_bindgen]
pub struct Exporter {
    format: Format,
    columns: Vec<String>,
    spec: Spec,
    /// Made with the first row, which says whether rows are JSON objects.
    writer: Option<Writer>,
}

#[wasm_bindgen]
impl Exporter {
    /// An exporter of rows that were read with these columns and voted on by these SLMs.
    #[wasm_bindgen(constructor)]
    pub fn new(
        #[wasm_bindgen(unchecked_param_type = "Format")] format: JsValue,
        #[wasm_bindgen(unchecked_param_type = "Task")] task: JsValue,
        slms: Vec<String>,
        columns: Vec<String>,
    ) -> Result<Self, JsValue> {
        let format: Format = from_js(format, "format")?;
        let task = from_js::<TaskRecord>(task, "task")?.into_task().map_err(thrown)?;
        let spec = Spec::plain(task, slms);
        // A format that cannot be written is said now, not with the first row.
        Writer::new(format, &columns, false, &spec).map_err(thrown)?;
        Ok(Self { format, columns, spec, writer: None })
    }

    /// The bytes of these rows, to be appended to the file; the header comes with the first.
    pub fn push(
        &mut self,
        #[wasm_bindgen(unchecked_param_type = "LabelledRow[]")] rows: JsValue,
    ) -> Result<Vec<u8>, JsValue> {
        let rows: Vec<LabelledRow> = from_js(rows, "rows")?;
        let mut bytes = Vec::new();
        for LabelledRow { row, annotation } in rows {
            let row = Row::from(row);
            let written = self.writer(&row, &mut bytes)?.row(&row, &annotation);
            bytes.extend(written.map_err(thrown)?);
        }
        Ok(bytes)
    }

    /// What is left to append: the header of a file without rows.
    pub fn finish(&mut self) -> Result<Vec<u8>, JsValue> {
        if self.writer.is_some() {
            return Ok(Vec::new());
        }
        let writer = Writer::new(self.format, &self.columns, false, &self.spec).map_err(thrown)?;
        writer.header().map_err(thrown)
    }

    fn writer(&mut self, first: &Row, bytes: &mut Vec<u8>) -> Result<&Writer, JsValue> {
        if self.writer.is_none() {
            let json = matches!(first.values, Values::Members(_));
            let writer = Writer::new(self.format, &self.columns, json, &self.spec).map_err(thrown)?;
            bytes.extend(writer.header().map_err(thrown)?);
            self.writer = Some(writer);
        }
        self.writer.as_ref().ok_or_else(|| thrown("error: there is no writer"))
    }
}

/// A task as JavaScript gives it.
#[derive(Deserialize)]
pub(super) struct TaskRecord {
    name: String,
    labels: Vec<Label>,
}

impl TaskRecord {
    pub(super) fn into_task(self) -> Result<Task, TaskError> {
        Ok(Task { name: self.name, labels: LabelSet::new(self.labels)? })
    }
}
