//! Labelled rows to bytes: the input's columns untouched, then ours.

use super::{DataError, Format, Row, Values};
use crate::sample::{Annotation, ReviewedBy, Source, Verdict, Vote};
use crate::spec::Spec;
use serde::Serialize;

/// One value of ours; none is an empty field or `null`.
#[derive(Clone, Serialize)]
#[serde(untagged)]
enum Cell<'a> {
    None,
    Text(&'a str),
    Flag(bool),
    Count(u64),
    Probability(f32),
    Money(f64),
}

impl Cell<'_> {
    fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl<'a> From<Option<&'a str>> for Cell<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::None, Self::Text)
    }
}

/// The column that takes what a JSON object has beyond the columns of a csv.
const OTHER: &str = "aa_other";

/// Writes labelled rows as csv, tsv or jsonl. The columns of the input come first, as they were. Ours follow: `label`,
/// `source`, `verdict`, `why`, `confidence`; for each SLM `<slm>.label`, `<slm>.p.<label>` for every label,
/// `<slm>.version`, `<slm>.engine`, `<slm>.precision`, `<slm>.truncated`; and `review.by`, `.model` (a person's id), `.label`, `.why`,
/// `.prompt_tokens`, `.completion_tokens`, `.cost_usd`. One of ours whose name the input has already is prefixed with
/// `aa_`.
pub struct Writer {
    delimiter: Option<u8>,
    columns: Vec<String>,
    /// The input's rows are JSON objects.
    json: bool,
    ours: Vec<String>,
    slms: Vec<String>,
    labels: usize,
}

impl Writer {
    /// A writer of `format` for rows with these columns, labelled as `spec` says. `json`: the rows are JSON objects,
    /// which may have members that `columns` does not name; a csv keeps those as an object in a column `aa_other`.
    pub fn new(format: Format, columns: &[String], json: bool, spec: &Spec) -> Result<Self, DataError> {
        let delimiter = match format {
            Format::Csv => Some(b','),
            Format::Tsv => Some(b'\t'),
            Format::Jsonl => None,
            Format::Txt => {
                let problem = "a txt has no room for labels; name the output .csv, .tsv or .jsonl";
                return Err(DataError::Format { problem: problem.into() });
            }
        };
        let columns = if delimiter.is_none() { distinct(columns) } else { columns.to_vec() };
        let mut ours: Vec<String> = names(spec);
        if json && delimiter.is_some() {
            ours.push(OTHER.to_owned());
        }
        for name in &mut ours {
            while columns.contains(name) {
                name.insert_str(0, "aa_");
            }
        }
        Ok(Self { delimiter, columns, json, ours, slms: spec.slms.clone(), labels: spec.task.labels.len() })
    }

    /// What stands before the first row: the header line, or nothing for jsonl.
    pub fn header(&self) -> Result<Vec<u8>, DataError> {
        match self.delimiter {
            None => Ok(Vec::new()),
            Some(delimiter) => line(delimiter, self.columns.iter().chain(&self.ours).map(String::as_str)),
        }
    }

    /// One labelled row, with its line end.
    pub fn row(&self, row: &Row, annotation: &Annotation) -> Result<Vec<u8>, DataError> {
        let cells = self.cells(annotation);
        match self.delimiter {
            None => Ok(self.object(row, &cells)),
            Some(delimiter) => self.record(delimiter, row, &cells),
        }
    }

    fn cells<'a>(&self, annotation: &'a Annotation) -> Vec<Cell<'a>> {
        let (verdict, why, confidence) = match &annotation.verdict {
            Verdict::Accepted { confidence, .. } => ("accepted", None, Cell::Probability(*confidence)),
            Verdict::Hard { why } => ("hard", Some(why.as_str()), Cell::None),
            Verdict::SetAside { why } => ("set-aside", Some(why.as_str()), Cell::None),
        };
        let source = annotation.source.map(|source| match source {
            Source::Consensus => "consensus",
            Source::Llm => "llm",
            Source::Human => "human",
        });
        let mut cells =
            vec![annotation.label.as_deref().into(), source.into(), Cell::Text(verdict), why.into(), confidence];
        for slm in &self.slms {
            self.vote(annotation.votes.iter().find(|vote| vote.slm == *slm), &mut cells);
        }
        match &annotation.review {
            None => cells.extend(std::iter::repeat_n(Cell::None, 7)),
            Some(review) => {
                let (by, model) = match &review.by {
                    ReviewedBy::Llm { model } => ("llm", Some(model.as_str())),
                    ReviewedBy::Human { id } => ("human", id.as_deref()),
                };
                cells.extend([
                    Cell::Text(by),
                    model.into(),
                    review.label.as_deref().into(),
                    review.why.as_deref().into(),
                    Cell::Count(review.prompt_tokens),
                    Cell::Count(review.completion_tokens),
                    Cell::Money(review.cost_usd),
                ]);
            }
        }
        cells
    }

    fn vote<'a>(&self, vote: Option<&'a Vote>, cells: &mut Vec<Cell<'a>>) {
        let Some(vote) = vote else {
            cells.extend(std::iter::repeat_n(Cell::None, self.labels + 5));
            return;
        };
        cells.push(Cell::Text(&vote.label));
        let probability = |index| vote.probabilities.get(index).map_or(Cell::None, |p| Cell::Probability(*p));
        cells.extend((0..self.labels).map(probability));
        cells.extend([&vote.version, &vote.engine, &vote.precision].map(|text| Cell::Text(text)));
        cells.push(Cell::Flag(vote.truncated));
    }

    fn record(&self, delimiter: u8, row: &Row, cells: &[Cell<'_>]) -> Result<Vec<u8>, DataError> {
        let mut fields: Vec<String> = match &row.values {
            Values::Fields(fields) => fields.iter().take(self.columns.len()).cloned().collect(),
            Values::Members(_) => {
                let value = |name: &String| row.value(&self.columns, name).unwrap_or_default().into_owned();
                self.columns.iter().map(value).collect()
            }
        };
        fields.resize(self.columns.len(), String::new());
        fields.extend(cells.iter().map(|cell| match cell {
            Cell::None => String::new(),
            Cell::Text(text) => (*text).to_owned(),
            other => other.json(),
        }));
        if self.json {
            fields.push(self.other(row));
        }
        line(delimiter, fields.iter().map(String::as_str))
    }

    /// The members of a row that have no column, as a JSON object; empty where there are none.
    fn other(&self, row: &Row) -> String {
        let Values::Members(members) = &row.values else { return String::new() };
        let more: Vec<String> = members
            .iter()
            .filter(|(key, _)| !self.columns.contains(key))
            .map(|(key, value)| format!("{}:{value}", Cell::Text(key).json()))
            .collect();
        if more.is_empty() { String::new() } else { format!("{{{}}}", more.join(",")) }
    }

    fn object(&self, row: &Row, cells: &[Cell<'_>]) -> Vec<u8> {
        let mut members: Vec<String> = match &row.values {
            Values::Fields(fields) => {
                let pair = |(name, field): (&String, &String)| (name.clone(), Cell::Text(field).json());
                self.columns.iter().zip(fields).map(pair).map(member).collect()
            }
            Values::Members(pairs) => pairs.iter().cloned().map(member).collect(),
        };
        for (name, cell) in self.ours.iter().zip(cells) {
            let mut name = name.clone();
            // Only a later object can have a name that the first did not.
            while matches!(&row.values, Values::Members(pairs) if pairs.iter().any(|(key, _)| *key == name)) {
                name.insert_str(0, "aa_");
            }
            members.push(member((name, cell.json())));
        }
        format!("{{{}}}\n", members.join(",")).into_bytes()
    }
}

fn member((key, value): (String, String)) -> String {
    format!("{}:{value}", Cell::Text(&key).json())
}

/// The names of our columns, in the order of [`Writer::cells`].
fn names(spec: &Spec) -> Vec<String> {
    let mut names: Vec<String> = ["label", "source", "verdict", "why", "confidence"].map(String::from).into();
    for slm in &spec.slms {
        names.push(format!("{slm}.label"));
        names.extend(spec.task.labels.names().iter().map(|label| format!("{slm}.p.{label}")));
        names.extend(["version", "engine", "precision", "truncated"].map(|name| format!("{slm}.{name}")));
    }
    let review = ["by", "model", "label", "why", "prompt_tokens", "completion_tokens", "cost_usd"];
    names.extend(review.map(|name| format!("review.{name}")));
    names
}

/// Keys of an object out of a header: no two the same, none empty.
fn distinct(columns: &[String]) -> Vec<String> {
    let mut keys: Vec<String> = Vec::with_capacity(columns.len());
    for (index, column) in columns.iter().enumerate() {
        let base = if column.is_empty() { format!("column_{}", index + 1) } else { column.clone() };
        let mut key = base.clone();
        let mut copy = 2;
        while keys.contains(&key) {
            key = format!("{base}_{copy}");
            copy += 1;
        }
        keys.push(key);
    }
    keys
}

fn line<'a>(delimiter: u8, fields: impl Iterator<Item = &'a str>) -> Result<Vec<u8>, DataError> {
    let fail = |error: String| DataError::Write(error);
    let mut writer = csv::WriterBuilder::new().delimiter(delimiter).buffer_capacity(512).from_writer(Vec::new());
    writer.write_record(fields).map_err(|error| fail(error.to_string()))?;
    writer.into_inner().map_err(|error| fail(error.to_string()))
}
