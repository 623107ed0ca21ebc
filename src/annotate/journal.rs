//! The journal of a run: one JSON object a line, appended, never changed. It lets a killed run go on where it was.
//!
//! The first line pins what the output depends on. After each block a line says how many rows are done and how long the
//! output is; reviews are written down as they come, so that none is paid for twice. A line that was cut off by the kill
//! does not count.

use super::report::{ReviewReport, Tally};
use crate::sample::Review;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// What can be wrong with a journal.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum JournalError {
    /// It belongs to another run.
    #[error("journal-other: an unfinished run left a journal, but not of this run: {}", differences.join("; "))]
    Other {
        /// What is different.
        differences: Vec<String>,
    },
    /// It cannot be understood.
    #[error("journal-broken: line {line} of the journal cannot be read")]
    Broken {
        /// The line, from 1.
        line: usize,
    },
}

/// What the output depends on, by name: input, spec, engine, versions of SLMs.
pub type Pins = BTreeMap<String, String>;

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// The first line.
    Pins(Pins),
    /// Reviews that came in, before their block is written.
    Reviews {
        /// Each review with the id of its sample.
        reviews: Vec<(String, Review)>,
        /// What they cost.
        cost: ReviewReport,
    },
    /// A block is written.
    Block {
        /// Rows done so far.
        rows: u64,
        /// Length of the output in bytes.
        bytes: u64,
        /// The run so far.
        tally: Box<Tally>,
    },
}

impl Entry {
    /// The line, with its end.
    pub fn line(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// Where an unfinished run stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// Rows whose output is written.
    pub rows: u64,
    /// Length of the output that counts, in bytes; what is beyond it must go.
    pub bytes: u64,
    /// The run so far; none before the first block.
    pub tally: Option<Tally>,
    /// Reviews of samples whose block is not written, by sample id.
    pub reviews: BTreeMap<String, Review>,
    /// What those cost.
    pub cost: ReviewReport,
    /// Length of the journal that counts, in bytes; what is beyond it must go.
    pub valid: u64,
}

impl Progress {
    /// Reads a journal. None where it holds not even its first line; an error where it is of another run than `pins`.
    pub fn read(journal: &[u8], pins: &Pins) -> Result<Option<Self>, JournalError> {
        let mut progress = Self::default();
        let mut lines = journal.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).enumerate();
        let Some((_, first)) = lines.next() else { return Ok(None) };
        match serde_json::from_slice(first) {
            Ok(Entry::Pins(found)) => compare(&found, pins)?,
            _ => return Err(JournalError::Broken { line: 1 }),
        }
        progress.valid = first.len() as u64;
        for (index, line) in lines {
            match serde_json::from_slice(line) {
                Ok(Entry::Reviews { reviews, cost }) => {
                    progress.reviews.extend(reviews);
                    add(&mut progress.cost, &cost);
                }
                Ok(Entry::Block { rows, bytes, tally }) => {
                    let valid = progress.valid;
                    progress = Self { rows, bytes, tally: Some(*tally), valid, ..Self::default() };
                }
                _ => return Err(JournalError::Broken { line: index + 1 }),
            }
            progress.valid += line.len() as u64;
        }
        Ok(Some(progress))
    }
}

fn add(sum: &mut ReviewReport, cost: &ReviewReport) {
    sum.calls += cost.calls;
    sum.prompt_tokens += cost.prompt_tokens;
    sum.completion_tokens += cost.completion_tokens;
    sum.cost_usd += cost.cost_usd;
}

fn compare(found: &Pins, wanted: &Pins) -> Result<(), JournalError> {
    let names: std::collections::BTreeSet<&String> = found.keys().chain(wanted.keys()).collect();
    let value = |pins: &Pins, name: &str| pins.get(name).map_or("none", String::as_str).to_owned();
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| found.get(*name) != wanted.get(*name))
        .map(|name| format!("{name} was {}, is {}", value(found, name), value(wanted, name)))
        .collect();
    if differences.is_empty() { Ok(()) } else { Err(JournalError::Other { differences }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::ReviewedBy;
    use crate::spec::Spec;

    fn pins() -> Pins {
        [("input".to_owned(), "abc".to_owned()), ("spec".to_owned(), "s".to_owned())].into()
    }

    fn reviews(id: &str) -> Entry {
        let review = Review {
            label: None,
            by: ReviewedBy::Llm { model: "m".into() },
            why: Some("w".into()),
            prompt_tokens: 1,
            completion_tokens: 1,
            cost_usd: 0.1,
        };
        let cost = ReviewReport { calls: 1, prompt_tokens: 1, completion_tokens: 1, cost_usd: 0.1 };
        Entry::Reviews { reviews: vec![(id.into(), review)], cost }
    }

    #[test]
    fn however_it_was_cut_off_the_last_whole_line_counts() {
        let mut tally = Tally::new(&Spec::built_in("sentiment").expect("built in"), true);
        tally.add_seconds(0.1);
        let block = Entry::Block { rows: 512, bytes: 9999, tally: Box::new(tally.clone()) };
        let lines =
            [Entry::Pins(pins()), reviews("3"), block, reviews("600"), reviews("601")].map(|entry| entry.line());
        let whole = lines.concat();
        let mut ends = vec![0];
        lines.iter().for_each(|line| ends.push(ends[ends.len() - 1] + line.len()));
        for cut in 0..=whole.len() {
            let progress = Progress::read(&whole.as_bytes()[..cut], &pins()).expect("own journal");
            let complete = ends.iter().filter(|end| **end <= cut).count() - 1;
            let Some(progress) = progress else {
                assert_eq!(complete, 0);
                continue;
            };
            assert_eq!(progress.valid as usize, ends[complete]);
            assert_eq!((progress.rows, progress.bytes), if complete >= 3 { (512, 9999) } else { (0, 0) });
            assert_eq!(progress.tally.is_some(), complete >= 3);
            let ids: Vec<&str> = progress.reviews.keys().map(String::as_str).collect();
            assert_eq!(ids, [&[][..], &["3"], &[], &["600"], &["600", "601"]][complete - 1]);
            assert_eq!(progress.cost.calls as usize, ids.len());
        }
    }

    #[test]
    fn another_run_is_refused_with_what_differs() {
        let journal = Entry::Pins(pins()).line();
        let mut other = pins();
        other.insert("spec".into(), "t".into());
        other.insert("engine".into(), "cpu".into());
        let error = Progress::read(journal.as_bytes(), &other).expect_err("another run").to_string();
        assert!(error.contains("spec was s, is t") && error.contains("engine was none, is cpu"), "{error}");
        assert_eq!(Progress::read(b"garbage\n", &pins()), Err(JournalError::Broken { line: 1 }));
        let broken = format!("{journal}{{}}\n");
        assert_eq!(Progress::read(broken.as_bytes(), &pins()), Err(JournalError::Broken { line: 2 }));
    }
}
