//! The probe: the labelled texts that candidates are measured on.

use super::PlanError;
use crate::annotate::set_aside;
use crate::data::{Format, ReadOptions, Reader, Row, find_column};
use crate::slm::adapter::{hex, sha256_of};
use crate::task::LabelSet;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Texts of a probe at least.
pub const FEWEST: usize = 20;
/// Names that columns of labels have, the likeliest first.
const LABEL_NAMES: [&str; 7] = ["label", "labels", "gold", "class", "category", "target", "sentiment"];

/// Labelled texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probe {
    /// The texts, no two the same.
    pub texts: Vec<String>,
    /// The index of each text's label.
    pub gold: Vec<usize>,
    /// What one should know of it.
    pub notes: Vec<String>,
}

/// The rows of the smallest hashes of their places, which lie evenly over a file, and how many have a text.
pub fn draw(path: &Path, text_column: Option<&str>, count: usize) -> Result<(usize, Vec<Row>, Vec<String>), PlanError> {
    let fail = |e: &dyn std::fmt::Display| PlanError::file(path, e);
    let format = Format::from_name(&path.to_string_lossy()).map_err(|e| fail(&e))?;
    let options = ReadOptions { text_column: text_column.map(str::to_owned), encoding: None };
    let mut reader = Reader::new(format, &options).map_err(|e| fail(&e))?;
    let mut input = File::open(path).map_err(|e| fail(&e))?;
    let (mut buffer, mut new, mut all) = (vec![0; 1 << 18], Vec::new(), 0);
    let mut kept: Vec<([u8; 32], Row)> = Vec::new();
    loop {
        let read = input.read(&mut buffer).map_err(|e| fail(&e))?;
        let outcome = match read {
            0 => reader.finish(&mut new),
            read => reader.push(buffer.get(..read).unwrap_or_default(), &mut new),
        };
        outcome.map_err(|e| fail(&e))?;
        for row in new.drain(..).filter(|row| set_aside(row).is_none()) {
            all += 1;
            kept.push((sha256_of([row.number.to_string().as_str()]), row));
        }
        kept.sort_by_key(|(hash, _)| *hash);
        kept.truncate(count);
        if read == 0 {
            let columns = reader.columns().to_vec();
            return Ok((all, kept.into_iter().map(|(_, row)| row).collect(), columns));
        }
    }
}

impl Probe {
    /// Reads a file with a column of texts and one of labels, and keeps `count` rows, drawn evenly over it.
    pub fn read(
        path: &Path,
        text_column: Option<&str>,
        label_column: Option<&str>,
        labels: &LabelSet,
        count: usize,
    ) -> Result<Self, PlanError> {
        let (_, rows, columns) = draw(path, text_column, count)?;
        let column = match label_column {
            Some(name) => find_column(&columns, name).map_err(|e| PlanError::file(path, e))?,
            None => LABEL_NAMES.iter().find_map(|name| find_column(&columns, name).ok()).ok_or_else(|| {
                PlanError::file(
                    path,
                    format!(
                        "which column holds the labels? Name it by --label-column; there are: {}",
                        columns.join(", ")
                    ),
                )
            })?,
        };
        let value = |row: &Row| row.value(&columns, column).map(|label| label.into_owned()).unwrap_or_default();
        let labelled = rows.iter().map(|row| (row.sample.text.clone(), labels.index(&value(row)))).collect();
        let wrong = rows.iter().find(|row| labels.index(&value(row)).is_none()).map(value);
        let probe = Self::of(labelled, labels);
        match (probe.texts.is_empty(), wrong) {
            (true, Some(wrong)) => Err(PlanError::Probe(format!(
                "no row of {} has one of the labels {} (one has '{}'); rename them, or give aliases in labels.toml",
                path.display(),
                labels.names().join(", "),
                super::plain(&wrong, 40)
            ))),
            _ => probe.checked(labels),
        }
    }

    /// Labelled texts; those without a label, and those that stand there twice with different labels, are left out.
    pub fn of(labelled: Vec<(String, Option<usize>)>, labels: &LabelSet) -> Self {
        let mut by_text: BTreeMap<&str, Option<usize>> = BTreeMap::new();
        for (text, label) in labelled.iter().filter(|(_, label)| label.is_some()) {
            by_text
                .entry(text)
                .and_modify(|known| *known = known.filter(|known| Some(*known) == *label))
                .or_insert(*label);
        }
        let mut probe = Self::default();
        for (text, _) in &labelled {
            // Taken out, so that a text that stands there twice counts once.
            if let Some(Some(label)) = by_text.insert(text, None) {
                probe.texts.push(text.clone());
                probe.gold.push(label);
            }
        }
        let left_out = labelled.len() - probe.texts.len();
        if left_out > 0 {
            probe.notes.push(format!(
                "{left_out} of {} texts left out: without one of the labels {}, or there twice",
                labelled.len(),
                labels.names().join(", ")
            ));
        }
        probe
    }

    /// The probe, if something can be measured on it.
    pub fn checked(mut self, labels: &LabelSet) -> Result<Self, PlanError> {
        let counts: Vec<usize> =
            (0..labels.len()).map(|label| self.gold.iter().filter(|gold| **gold == label).count()).collect();
        let name = |label: usize| labels.name(label).unwrap_or_default();
        if self.texts.len() < FEWEST {
            let found = self.texts.len();
            return Err(PlanError::Probe(format!(
                "{found} labelled texts, expected at least {FEWEST}, better 200 or more"
            )));
        }
        let present: Vec<usize> = (0..labels.len()).filter(|label| counts[*label] > 0).collect();
        if let [only] = present[..] {
            return Err(PlanError::Probe(format!(
                "all {} texts are labelled '{}', so a model that says nothing else would look best; add texts of the other labels ({})",
                self.texts.len(),
                name(only),
                (0..labels.len()).filter(|label| *label != only).map(name).collect::<Vec<_>>().join(", ")
            )));
        }
        for (label, count) in counts.iter().enumerate().filter(|(_, count)| **count < 10) {
            self.notes.push(format!("only {count} texts of '{}': what is measured says little of it", name(label)));
        }
        if self.texts.len() < 100 {
            self.notes.push(format!("{} texts: differences of a few percent are chance", self.texts.len()));
        }
        Ok(self)
    }

    /// A hash of texts and labels, hexadecimal.
    pub fn hash(&self) -> String {
        let gold: Vec<String> = self.gold.iter().map(usize::to_string).collect();
        hex(&sha256_of(self.texts.iter().map(String::as_str).chain(gold.iter().map(String::as_str))))
    }

    /// The share of the commonest label: what a model without any sense would reach.
    pub fn commonest(&self) -> f64 {
        let most = self.gold.iter().map(|label| self.gold.iter().filter(|other| *other == label).count()).max();
        most.unwrap_or(0) as f64 / self.gold.len().max(1) as f64
    }

    /// A file of it, in csv.
    pub fn write(&self, path: &Path, labels: &LabelSet) -> Result<(), PlanError> {
        let fail = |e: csv::Error| PlanError::file(path, e);
        let mut writer = csv::Writer::from_path(path).map_err(fail)?;
        writer.write_record(["text", "label"]).map_err(fail)?;
        for (text, label) in self.texts.iter().zip(&self.gold) {
            writer.write_record([text.as_str(), labels.name(*label).unwrap_or_default()]).map_err(fail)?;
        }
        writer.flush().map_err(|e| PlanError::file(path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Task;

    fn labels() -> LabelSet {
        Task::built_in("sentiment").expect("built in").labels
    }

    #[test]
    fn texts_count_once_and_contradictions_not_at_all() {
        let of = |text: &str, label| (text.to_owned(), label);
        let probe = Probe::of(
            vec![of("a", Some(0)), of("a", Some(0)), of("b", Some(1)), of("b", Some(2)), of("c", None)],
            &labels(),
        );
        assert_eq!((probe.texts, probe.gold), (vec!["a".to_owned()], vec![0]));
        assert!(probe.notes[0].starts_with("4 of 5 texts left out"));
    }

    #[test]
    fn a_probe_of_one_label_or_few_texts_is_refused() {
        let of = |count: usize, label: usize| (0..count).map(move |n| (format!("{label} {n}"), Some(label)));
        let error = |all: Vec<_>| Probe::of(all, &labels()).checked(&labels()).expect_err("refused").to_string();
        assert!(error(of(50, 1).collect()).contains("all 50 texts are labelled 'neutral'"));
        assert!(error(of(9, 1).chain(of(9, 2)).collect()).contains("18 labelled texts"));
        let probe = Probe::of(of(50, 1).chain(of(60, 2)).collect(), &labels()).checked(&labels()).expect("a probe");
        assert_eq!(probe.notes, ["only 0 texts of 'negative': what is measured says little of it"]);
        assert!((probe.commonest() - 60.0 / 110.0).abs() < 1e-9);
    }

    #[test]
    fn a_file_is_read_by_its_columns() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("probe.csv");
        let rows: String =
            (0..40).map(|n| format!("\"text, {n}\",{}\n", if n % 2 == 0 { "POS" } else { "neg" })).collect();
        std::fs::write(&path, format!("Text,Label\n{rows}x,?\n")).expect("a file");
        let probe = Probe::read(&path, None, None, &labels(), 1000).expect("a probe");
        assert_eq!(probe.texts.len(), 40);
        probe.write(&path, &labels()).expect("written");
        let again = Probe::read(&path, None, Some("label"), &labels(), 1000).expect("a probe");
        assert_eq!(again.texts.len(), 40);
        std::fs::write(&path, format!("text,label\n{}", "a,joy\n".repeat(30))).expect("a file");
        let error = Probe::read(&path, None, None, &labels(), 1000).expect_err("none").to_string();
        assert!(error.contains("'joy'") && error.contains("negative, neutral, positive"), "{error}");
    }
}
