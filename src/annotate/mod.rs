//! The run: batches, progress, journal and resume, report.
//!
//! Nothing here does I/O: rows come in as blocks, annotations go out, and the caller writes them, the [`journal`]'s lines
//! and the [`report`].

pub mod journal;
pub mod report;

use crate::data::Row;
use crate::sample::{Annotation, Verdict, Vote};
use crate::slm::SlmError;
use crate::vote::{Rule, verdict};
use thiserror::Error;

/// What can go wrong in a run.
#[derive(Debug, Error)]
pub enum AnnotateError {
    /// An SLM failed.
    #[error(transparent)]
    Slm(#[from] SlmError),
    /// A voter gave more or fewer votes than there were texts.
    #[error("annotate-votes: a voter gave {found} votes for {expected} texts; this is a defect of the engine")]
    Votes {
        /// How many votes it gave.
        found: usize,
        /// How many texts there were.
        expected: usize,
    },
}

/// Something that votes: one SLM.
pub trait Voter {
    /// One vote a text, in order.
    fn vote(&mut self, texts: &[&str]) -> Result<Vec<Vote>, SlmError>;
}

/// How many rows make a block: the unit of voting, of the journal and of what a killed run does again.
pub const BLOCK: usize = 512;

/// Lets every voter vote on every row, in order, and passes the verdicts. A row with a problem or a text of only
/// whitespace is set aside and not voted on.
pub fn annotate(rows: &[Row], voters: &mut [Box<dyn Voter>], rule: Rule) -> Result<Vec<Annotation>, AnnotateError> {
    let texts: Vec<&str> =
        rows.iter().filter(|row| set_aside(row).is_none()).map(|row| row.sample.text.as_str()).collect();
    let mut votes: Vec<Vec<Vote>> = texts.iter().map(|_| Vec::with_capacity(voters.len())).collect();
    for voter in voters {
        let column = voter.vote(&texts)?;
        if column.len() != texts.len() {
            return Err(AnnotateError::Votes { found: column.len(), expected: texts.len() });
        }
        votes.iter_mut().zip(column).for_each(|(votes, vote)| votes.push(vote));
    }
    let mut votes = votes.into_iter();
    let annotation = |row: &Row| match set_aside(row) {
        Some(why) => Annotation::new(row.sample.clone(), Vec::new(), Verdict::SetAside { why }),
        None => {
            let votes = votes.next().unwrap_or_default();
            let verdict = verdict(rule, &votes);
            Annotation::new(row.sample.clone(), votes, verdict)
        }
    };
    Ok(rows.iter().map(annotation).collect())
}

/// Why a row is not voted on, if so: its problem, or a text of only whitespace.
pub fn set_aside(row: &Row) -> Option<String> {
    let blank = || row.sample.text.trim().is_empty().then(|| "blank-text: there is nothing but whitespace".to_owned());
    row.problem.clone().or_else(blank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Values;
    use crate::sample::Sample;

    /// Votes by whether the text holds a letter.
    struct Fake(&'static str, char);

    impl Voter for Fake {
        fn vote(&mut self, texts: &[&str]) -> Result<Vec<Vote>, SlmError> {
            let vote = |text: &&str| {
                let positive = text.contains(self.1);
                Vote {
                    slm: self.0.into(),
                    version: "1".into(),
                    engine: "fake".into(),
                    precision: "f32".into(),
                    label: if positive { "positive" } else { "negative" }.into(),
                    probabilities: if positive { vec![0.1, 0.1, 0.8] } else { vec![0.6, 0.3, 0.1] },
                    truncated: false,
                }
            };
            Ok(texts.iter().map(vote).collect())
        }
    }

    struct Lazy;

    impl Voter for Lazy {
        fn vote(&mut self, _texts: &[&str]) -> Result<Vec<Vote>, SlmError> {
            Ok(Vec::new())
        }
    }

    fn row(number: u64, text: &str, problem: Option<&str>) -> Row {
        let sample = Sample { id: number.to_string(), text: text.into() };
        Row { number, sample, values: Values::Fields(vec![text.into()]), problem: problem.map(str::to_owned) }
    }

    #[test]
    fn every_row_gets_its_own_votes_and_verdict() {
        let rows =
            [row(1, "ab", None), row(2, " \n\u{3000}", None), row(3, "a", None), row(4, "", Some("ragged-row: x"))];
        let mut voters: Vec<Box<dyn Voter>> = vec![Box::new(Fake("one", 'a')), Box::new(Fake("two", 'b'))];
        let annotations = annotate(&rows, &mut voters, Rule::Unanimous).expect("annotations");
        assert_eq!(annotations.len(), 4);
        assert_eq!(annotations[0].label.as_deref(), Some("positive"));
        assert_eq!(annotations[0].votes.iter().map(|v| v.slm.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        assert!(matches!(&annotations[1].verdict, Verdict::SetAside { why } if why.starts_with("blank-text")));
        assert!(annotations[2].is_open() && annotations[2].votes.len() == 2);
        assert!(matches!(&annotations[3].verdict, Verdict::SetAside { why } if why == "ragged-row: x"));
        assert!(annotations[3].votes.is_empty() && annotations[3].label.is_none());
    }

    #[test]
    fn a_voter_that_skips_texts_is_found_out() {
        let mut voters: Vec<Box<dyn Voter>> = vec![Box::new(Lazy)];
        let outcome = annotate(&[row(1, "a", None)], &mut voters, Rule::Unanimous);
        assert!(matches!(outcome, Err(AnnotateError::Votes { found: 0, expected: 1 })));
    }
}
