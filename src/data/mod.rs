//! Readers and writers of data files, one file a format, streaming.
//!
//! Bytes are pushed in as they come and rows come out, so the same reader serves a file on disk and one dropped on a
//! page. Nothing here does I/O, and memory is bounded by the longest row that is taken ([`MAX_ROW`]). A row that cannot
//! be used is not lost and stops nothing: it comes out with its problem, and is written with it.

mod decode;
mod delimited;
mod encoding;
mod lines;
mod write;

pub use write::Writer;

use crate::sample::Sample;
use decode::Decoder;
use delimited::{Record, Records};
use lines::{Line, Lines};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use thiserror::Error;

/// The longest row in bytes that is taken; a longer one is set aside.
pub const MAX_ROW: usize = 4 << 20;

/// How much of each value of a row that is too long is kept, in bytes.
const CUT: usize = 1024;

/// What can be wrong with a data file as a whole.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DataError {
    /// The name does not say the format, or the format is not served.
    #[error("data-format: {problem}; give one of: csv, tsv, jsonl, txt")]
    Format {
        /// What is wrong.
        problem: String,
    },
    /// No such encoding.
    #[error(
        "data-encoding: there is no encoding '{label}'; give its web name, such as windows-1252, utf-16le, shift_jis"
    )]
    Encoding {
        /// The label that was given.
        label: String,
    },
    /// Looks like UTF-16 but does not say so.
    #[error("data-utf16: the file looks like UTF-16 without a byte order mark; give its encoding: {encoding}")]
    Utf16 {
        /// Which one it looks like.
        encoding: &'static str,
    },
    /// Not a file of text.
    #[error("data-binary: this is {found}, not a text file; export it as csv or jsonl and give that")]
    Binary {
        /// What it is.
        found: &'static str,
    },
    /// No rows.
    #[error("data-empty: there are no rows{detail}")]
    Empty {
        /// What there was.
        detail: &'static str,
    },
    /// The first line cannot be read, so the columns are not known.
    #[error("data-header: {problem}")]
    Header {
        /// What is wrong.
        problem: String,
    },
    /// A column that was asked for is not there.
    #[error("data-column: there is no column '{wanted}'; there are: {columns}")]
    NoColumn {
        /// The column.
        wanted: String,
        /// The columns there are.
        columns: String,
    },
    /// None of the columns has a name that texts usually have.
    #[error("data-text-column: which column holds the texts? Name it; there are: {columns}")]
    NoTextColumn {
        /// The columns there are.
        columns: String,
    },
    /// A quote was opened and never closed.
    #[error("data-quote: row {row} (line {line}) opens a quote that is never closed, so everything after it was swallowed; close it or double it. The {} rows before it are unharmed", row - 1)]
    UnclosedQuote {
        /// The row, from 1.
        row: u64,
        /// The line of the file on which the row starts, from 1.
        line: u64,
    },
    /// A row could not be written.
    #[error("data-write: {0}")]
    Write(String),
}

/// The format of a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Comma-separated values with a header line; where that has no comma, semicolons or tabs.
    Csv,
    /// Tab-separated values with a header line, quoted like csv.
    Tsv,
    /// One JSON object a line.
    Jsonl,
    /// One text a line.
    Txt,
}

impl Format {
    /// A format by its name or a file name's extension, without regard to case.
    pub fn from_extension(extension: &str) -> Result<Self, DataError> {
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Ok(Self::Csv),
            "tsv" | "tab" => Ok(Self::Tsv),
            "jsonl" | "ndjson" => Ok(Self::Jsonl),
            "txt" | "text" => Ok(Self::Txt),
            "json" => Err(DataError::Format { problem: "a JSON file must hold one object a line (jsonl)".into() }),
            other => Err(DataError::Format { problem: format!("'{other}' is not a format that is read or written") }),
        }
    }

    /// The format that a file's name says by its extension.
    pub fn from_name(name: &str) -> Result<Self, DataError> {
        let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
        match file.rsplit_once('.') {
            Some((_, extension)) => Self::from_extension(extension),
            None => {
                Err(DataError::Format { problem: format!("the name '{file}' has no extension that says its format") })
            }
        }
    }
}

/// How to read a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// The column of the texts; none looks for one with an obvious name (not used for txt).
    pub text_column: Option<String>,
    /// The web name of the encoding; none means UTF-8, or what a byte order mark says.
    pub encoding: Option<String>,
}

/// The columns of a row, as they were in the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Values {
    /// Fields in the order of the header; fewer or more of them where the row is ragged.
    Fields(Vec<String>),
    /// Members of a JSON object in order: key and value, the value as JSON exactly as it stood.
    Members(Vec<(String, String)>),
}

/// One row of a data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its number, from 1; a header line is not counted.
    pub number: u64,
    /// Its text; empty where there is a problem.
    pub sample: Sample,
    /// Its columns.
    pub values: Values,
    /// Why it cannot be used: a stable code, a colon and the particulars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Row {
    /// The value of column `name`; `columns` are the reader's. JSON text comes unquoted, other JSON as it stands.
    pub fn value(&self, columns: &[String], name: &str) -> Option<Cow<'_, str>> {
        match &self.values {
            Values::Fields(fields) => {
                let index = columns.iter().position(|column| column == name)?;
                fields.get(index).map(|field| Cow::Borrowed(field.as_str()))
            }
            Values::Members(members) => {
                let (_, json) = members.iter().find(|(key, _)| key == name)?;
                match serde_json::from_str::<String>(json) {
                    Ok(text) => Some(Cow::Owned(text)),
                    Err(_) => Some(Cow::Borrowed(json)),
                }
            }
        }
    }
}

/// Names that columns of texts have, the likeliest first.
const TEXT_NAMES: [&str; 17] = [
    "text",
    "tweet",
    "sentence",
    "content",
    "body",
    "comment",
    "comment_text",
    "review",
    "message",
    "post",
    "utterance",
    "document",
    "question",
    "title",
    "description",
    "full_text",
    "input",
];

/// The column in `columns` that is asked for (exactly, else without regard to case and surrounding space).
pub fn find_column<'a>(columns: &'a [String], wanted: &str) -> Result<&'a str, DataError> {
    let fold = |name: &str| name.trim().to_lowercase();
    columns
        .iter()
        .find(|column| *column == wanted)
        .or_else(|| columns.iter().find(|column| fold(column) == fold(wanted)))
        .map(String::as_str)
        .ok_or_else(|| DataError::NoColumn { wanted: wanted.to_owned(), columns: list(columns) })
}

/// The column of the texts: the one that is asked for, else the likeliest by its name.
fn text_column(columns: &[String], wanted: Option<&str>) -> Result<String, DataError> {
    if let Some(wanted) = wanted {
        return find_column(columns, wanted).map(str::to_owned);
    }
    TEXT_NAMES
        .iter()
        .find_map(|name| find_column(columns, name).ok())
        .map(str::to_owned)
        .ok_or_else(|| DataError::NoTextColumn { columns: list(columns) })
}

/// Names in quotes; the first forty, each cut.
fn list(columns: &[String]) -> String {
    let mut names: Vec<String> = columns.iter().take(40).map(|name| format!("'{}'", excerpt(name, 60))).collect();
    if columns.len() > 40 {
        names.push(format!("and {} more", columns.len() - 40));
    }
    names.join(", ")
}

/// The start of a text, at most `max` bytes and whole characters.
fn excerpt(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Reads one data file: bytes in, rows out.
pub struct Reader {
    decoder: Decoder,
    source: Source,
    rows: Rows,
}

/// What cuts the decoded bytes into records.
enum Source {
    /// Delimited text whose header line is not complete yet, so its delimiter is not known.
    Head(Format, Vec<u8>),
    Delimited(Box<Records>),
    Lines(Lines),
}

/// What makes rows of records.
struct Rows {
    wanted: Option<String>,
    json: bool,
    columns: Vec<String>,
    text: Option<String>,
    text_index: usize,
    count: u64,
    /// Bytes of a byte order mark in front of what is counted.
    base: u64,
}

/// A header line longer than this does not delay the choice of the delimiter.
const MAX_HEAD: usize = 64 << 10;

impl Reader {
    /// A reader of one file.
    pub fn new(format: Format, options: &ReadOptions) -> Result<Self, DataError> {
        let mut rows = Rows {
            wanted: options.text_column.clone(),
            json: format == Format::Jsonl,
            columns: Vec::new(),
            text: None,
            text_index: 0,
            count: 0,
            base: 0,
        };
        let source = match format {
            Format::Csv | Format::Tsv => Source::Head(format, Vec::new()),
            Format::Jsonl => Source::Lines(Lines::new(true)),
            Format::Txt => {
                rows.columns = vec!["text".into()];
                rows.text = Some("text".into());
                Source::Lines(Lines::new(false))
            }
        };
        Ok(Self { decoder: Decoder::new(options.encoding.as_deref())?, source, rows })
    }

    /// Takes the next bytes, however the file was cut, and appends the rows that they complete. After an error the rows
    /// appended so far are good and the reader is of no more use.
    pub fn push(&mut self, bytes: &[u8], rows: &mut Vec<Row>) -> Result<(), DataError> {
        let decoded = self.decoder.push(bytes, false)?;
        self.decoded(&decoded, false, rows)
    }

    /// The file is at its end: appends what is left.
    pub fn finish(&mut self, rows: &mut Vec<Row>) -> Result<(), DataError> {
        let decoded = self.decoder.push(&[], true)?;
        self.decoded(&decoded, true, rows)?;
        match (self.rows.count, self.rows.columns.is_empty() || !matches!(self.source, Source::Delimited(_))) {
            (0, true) => Err(DataError::Empty { detail: "; the file is empty" }),
            (0, false) => Err(DataError::Empty { detail: " below the header line" }),
            _ => Ok(()),
        }
    }

    /// The names of the columns in order; empty until the first row is known. For jsonl those of the first object: later
    /// ones may have others.
    pub fn columns(&self) -> &[String] {
        &self.rows.columns
    }

    /// The column of the texts, once it is known.
    pub fn text_column(&self) -> Option<&str> {
        self.rows.text.as_deref()
    }

    /// Whether rows are JSON objects, each with its own members.
    pub fn is_json(&self) -> bool {
        self.rows.json
    }

    fn decoded(&mut self, bytes: &[u8], last: bool, out: &mut Vec<Row>) -> Result<(), DataError> {
        self.rows.base = self.decoder.skipped();
        let Self { source, rows, .. } = self;
        if let Source::Head(format, head) = source {
            head.extend_from_slice(bytes);
            if !last && head.len() < MAX_HEAD && !head.contains(&b'\n') {
                return Ok(());
            }
            let delimiter = if *format == Format::Tsv { b'\t' } else { delimited::delimiter(head) };
            let head = std::mem::take(head);
            *source = Source::Delimited(Box::new(Records::new(delimiter)));
            return Self::cut(source, rows, &head, last, out);
        }
        Self::cut(source, rows, bytes, last, out)
    }

    fn cut(
        source: &mut Source,
        rows: &mut Rows,
        bytes: &[u8],
        last: bool,
        out: &mut Vec<Row>,
    ) -> Result<(), DataError> {
        match source {
            Source::Head(..) => Ok(()),
            Source::Delimited(records) => {
                records.push(bytes, &mut |record| rows.record(record, out))?;
                if !last {
                    return Ok(());
                }
                match records.finish() {
                    Err(line) => Err(DataError::UnclosedQuote { row: rows.count + 1, line }),
                    Ok(Some(record)) => rows.record(record, out),
                    Ok(None) => Ok(()),
                }
            }
            Source::Lines(lines) => {
                lines.push(bytes, &mut |line| rows.line(line, out))?;
                if last { lines.finish(&mut |line| rows.line(line, out)) } else { Ok(()) }
            }
        }
    }
}

impl Rows {
    /// A record of delimited text: the first is the header.
    fn record(&mut self, record: Record, out: &mut Vec<Row>) -> Result<(), DataError> {
        if self.columns.is_empty() {
            return self.header(record);
        }
        let found = record.fields.len();
        let expected = self.columns.len();
        let mut problem = record.too_long.map(too_long);
        let mut fields = Vec::with_capacity(found);
        for field in record.fields {
            let field = String::from_utf8(field).unwrap_or_else(|error| {
                problem.get_or_insert_with(|| not_utf8(self.base + record.offset));
                String::from_utf8_lossy(error.as_bytes()).into_owned()
            });
            fields.push(field);
        }
        if found != expected && problem.is_none() {
            let rest = serde_json::to_string(fields.get(expected..).unwrap_or_default()).unwrap_or_default();
            let rest = if found > expected { format!("; the rest: {}", excerpt(&rest, CUT)) } else { String::new() };
            problem = Some(format!(
                "ragged-row: line {} has {found} fields where the header has {expected}{rest}",
                record.line
            ));
        }
        let text = fields.get(self.text_index).cloned().unwrap_or_default();
        out.push(self.row(text, Values::Fields(fields), problem));
        Ok(())
    }

    fn header(&mut self, record: Record) -> Result<(), DataError> {
        if record.too_long.is_some() {
            let problem =
                "the header line is longer than a row may be; is this a file of rows, and is every quote closed?";
            return Err(DataError::Header { problem: problem.into() });
        }
        let names: Result<Vec<String>, _> = record.fields.into_iter().map(String::from_utf8).collect();
        self.columns = names.map_err(|_| DataError::Header {
            problem: "the header line is not valid UTF-8; give the file's encoding, such as windows-1252".into(),
        })?;
        let text = text_column(&self.columns, self.wanted.as_deref())?;
        self.text_index = self.columns.iter().position(|column| *column == text).unwrap_or_default();
        self.text = Some(text);
        Ok(())
    }

    /// A line of jsonl or txt.
    fn line(&mut self, line: Line<'_>, out: &mut Vec<Row>) -> Result<(), DataError> {
        let text = String::from_utf8_lossy(line.bytes);
        let problem = match (line.too_long, &text) {
            (Some(length), _) => Some(too_long(length)),
            (None, Cow::Owned(_)) => Some(not_utf8(self.base + line.offset)),
            _ => None,
        };
        if !self.json {
            let fields = Values::Fields(vec![text.clone().into_owned()]);
            out.push(self.row(text.into_owned(), fields, problem));
            return Ok(());
        }
        let parsed = match problem {
            Some(problem) => Err(format!("{problem}; the line: {}", excerpt(&text, CUT))),
            None => serde_json::from_str::<crate::spec::Pairs<'_>>(&text)
                .map_err(|error| format!("not-json: {error}; the line: {}", excerpt(&text, CUT))),
        };
        let row = match parsed {
            Ok(pairs) => self.object(pairs.0)?,
            Err(problem) => self.row(String::new(), Values::Members(Vec::new()), Some(problem)),
        };
        out.push(row);
        Ok(())
    }

    fn object(&mut self, pairs: Vec<(String, &RawValue)>) -> Result<Row, DataError> {
        if self.text.is_none() {
            self.columns = pairs.iter().map(|(key, _)| key.clone()).collect();
            self.text = Some(text_column(&self.columns, self.wanted.as_deref())?);
        }
        let name = self.text.as_deref().unwrap_or_default();
        let text = match pairs.iter().find(|(key, _)| key == name) {
            None => Err(format!("no-text: the object has no '{name}'")),
            Some((_, value)) => serde_json::from_str::<String>(value.get())
                .map_err(|_| format!("no-text: '{name}' is not text in quotes but {}", excerpt(value.get(), 60))),
        };
        let (text, problem) = match text {
            Ok(text) => (text, None),
            Err(problem) => (String::new(), Some(problem)),
        };
        let members = pairs.into_iter().map(|(key, value)| (key, value.get().to_owned())).collect();
        Ok(self.row(text, Values::Members(members), problem))
    }

    fn row(&mut self, text: String, values: Values, problem: Option<String>) -> Row {
        self.count += 1;
        let text = if problem.is_none() { text } else { String::new() };
        Row { number: self.count, sample: Sample { id: self.count.to_string(), text }, values, problem }
    }
}

fn too_long(length: u64) -> String {
    format!("row-too-long: {length} bytes, the longest that is taken is {MAX_ROW}; its values are cut here")
}

fn not_utf8(offset: u64) -> String {
    format!(
        "not-utf8: the row that starts at byte {offset} is not valid in the file's encoding; what is wrong is shown as U+FFFD here"
    )
}

#[cfg(test)]
mod tests;
