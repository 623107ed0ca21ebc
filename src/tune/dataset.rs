//! Files for training.

use super::{TuneError, io};
use crate::slm::adapter::sha256_hex;
use crate::slm::tokenize::Tokenizer;
use crate::task::LabelSet;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A labelled CSV file and how much of it to use, written `FILE` or `FILE=FRACTION`.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    /// The file.
    pub path: PathBuf,
    /// The share of its rows, above 0 and up to 1.
    pub fraction: f64,
}

impl FromStr for DataFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, fraction) = match text.rsplit_once('=') {
            Some((path, fraction)) => (path, fraction.parse().map_err(|_| format!("'{fraction}' is no fraction"))?),
            None => (text, 1.0),
        };
        if !(fraction > 0.0 && fraction <= 1.0) {
            return Err(format!("the fraction is {fraction}, expected above 0 and up to 1"));
        }
        Ok(Self { path: PathBuf::from(path), fraction })
    }
}

/// What was read of a file, for the run record.
#[derive(Debug, Clone, Serialize)]
pub struct DataRecord {
    /// The file's name without its folder.
    pub file: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Rows used.
    pub rows: usize,
    /// Rows left out because their label is none of the task's or their text is empty.
    pub left_out: usize,
}

/// Texts as token ids, with labels.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// The texts.
    pub texts: Vec<String>,
    /// Token ids of each text.
    pub ids: Vec<Vec<u32>>,
    /// Index of each text's label; texts behind the last one have none.
    pub labels: Vec<usize>,
    /// Where they came from.
    pub files: Vec<DataRecord>,
}

/// The columns that hold text and label.
#[derive(Debug, Clone)]
pub struct Columns {
    /// The text's column.
    pub text: String,
    /// The label's column.
    pub label: String,
}

impl Dataset {
    /// Reads and tokenizes labelled CSV files. Of a file used in part, rows are taken evenly over its length.
    pub fn read(
        files: &[DataFile],
        columns: &Columns,
        labels: &LabelSet,
        tokenizer: &Tokenizer,
    ) -> Result<Self, TuneError> {
        let mut set = Self::default();
        for file in files {
            set.add(file, &columns.text, Some((&columns.label, labels)), tokenizer)?;
        }
        Ok(set)
    }

    /// Some of its labelled texts, by their places, without where they came from.
    pub fn only(&self, places: &[usize]) -> Self {
        let of = |place: &usize| (self.texts[*place].clone(), (self.ids[*place].clone(), self.labels[*place]));
        let (texts, (ids, labels)) = places.iter().map(of).unzip();
        Self { texts, ids, labels, files: Vec::new() }
    }

    /// Reads and tokenizes CSV files for their texts alone; `labels` stays empty.
    pub fn read_texts(files: &[DataFile], column: &str, tokenizer: &Tokenizer) -> Result<Self, TuneError> {
        let mut set = Self::default();
        for file in files {
            set.add(file, column, None, tokenizer)?;
        }
        Ok(set)
    }

    fn add(
        &mut self,
        file: &DataFile,
        text_column: &str,
        label: Option<(&str, &LabelSet)>,
        tokenizer: &Tokenizer,
    ) -> Result<(), TuneError> {
        let fail = |problem: String| TuneError::Data { path: file.path.clone(), problem };
        let bytes = std::fs::read(&file.path).map_err(io(&file.path))?;
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let header = reader.headers().map_err(|e| fail(e.to_string()))?.clone();
        let column = |name: &str| {
            header.iter().position(|have| have == name).ok_or_else(|| {
                fail(format!("no column '{name}'; there are: {}", header.iter().collect::<Vec<_>>().join(", ")))
            })
        };
        let text = column(text_column)?;
        let label = label.map(|(name, labels)| Ok::<_, TuneError>((column(name)?, labels))).transpose()?;
        let (mut rows, mut left_out, mut taken) = (0, 0, 0.0);
        for record in reader.records() {
            let record = record.map_err(|e| fail(e.to_string()))?;
            taken += file.fraction;
            if taken < 1.0 {
                continue;
            }
            taken -= 1.0;
            let text = record.get(text).unwrap_or("").trim();
            let gold = label.map(|(column, labels)| labels.index(record.get(column).unwrap_or("")));
            if text.is_empty() || gold == Some(None) {
                left_out += 1;
                continue;
            }
            self.ids.push(tokenizer.encode(text)?.ids);
            self.texts.push(text.to_owned());
            self.labels.extend(gold.flatten());
            rows += 1;
        }
        if rows == 0 {
            return Err(fail(match label {
                Some((_, labels)) => format!("no row has a text and one of the labels {}", labels.names().join(", ")),
                None => "no row has a text".to_owned(),
            }));
        }
        self.files.push(DataRecord { file: file_name(&file.path), sha256: sha256_hex(&bytes), rows, left_out });
        Ok(())
    }

    /// Puts another set's texts behind these.
    pub fn append(&mut self, other: Self) {
        self.texts.extend(other.texts);
        self.ids.extend(other.ids);
        self.labels.extend(other.labels);
        self.files.extend(other.files);
    }

    /// The number of texts.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
