//! How often redaction changes what the SLMs say: `redaction_flips TASK FILE.csv ROWS [WORDS]`.
//!
//! The packed SLMs of a built-in task vote on the first ROWS texts (those with WORDS in them, if given) as they are, and
//! on those that redaction changes as they would leave the device. Printed: texts with a redaction, votes of single SLMs
//! and verdicts that changed, per 1,000.

use anyhow::{Context, Result};
use autoannotator::Spec;
use autoannotator::data::{Format, ReadOptions, Reader};
use autoannotator::hub::{Home, packing};
use autoannotator::review::redact::{Kind, Redacted};
use autoannotator::sample::{Verdict, Vote};
use autoannotator::vote::{Rule, verdict};
use std::collections::BTreeMap;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [task, path, rows, words @ ..] = args.as_slice() else {
        anyhow::bail!("redaction_flips TASK FILE.csv ROWS [WORDS]");
    };
    let spec = Spec::built_in(task)?;
    let texts = texts(path, rows.parse().context("ROWS is a number")?, words.first().map(String::as_str))?;
    let redactor = spec.review.redactor();
    let redacted: Vec<(usize, Redacted)> = texts
        .iter()
        .map(|text| redactor.redact(text))
        .enumerate()
        .filter(|(_, redacted)| !redacted.spans().is_empty())
        .collect();
    let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
    for (kind, count) in redacted.iter().flat_map(|(_, redacted)| redacted.counts()) {
        *kinds.entry(kind).or_default() += count;
    }
    println!("{} texts, {} with a redaction: {kinds:?}", texts.len(), redacted.len());

    let before: Vec<&str> = redacted.iter().filter_map(|(at, _)| texts.get(*at)).map(String::as_str).collect();
    let after: Vec<&str> = redacted.iter().map(|(_, redacted)| redacted.text()).collect();
    let home = Home::find(None)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut ballots: Vec<[Vec<Vote>; 2]> = before.iter().map(|_| Default::default()).collect();
    for id in &spec.slms {
        let mut slm = packing::load(&home, id, "int8", threads)?;
        let votes = [pollster::block_on(slm.vote(&before))?, pollster::block_on(slm.vote(&after))?];
        let pairs = || votes[0].iter().zip(&votes[1]);
        told(
            &format!("votes of {id}"),
            pairs().filter(|(old, new)| old.label != new.label).count(),
            texts.len(),
            before.len(),
        );
        for (ballot, (old, new)) in ballots.iter_mut().zip(pairs()) {
            ballot[0].push(old.clone());
            ballot[1].push(new.clone());
        }
    }
    for (name, rule) in [("majority", Rule::Majority), ("unanimous", Rule::Unanimous)] {
        let label = |votes: &[Vote]| match verdict(rule, votes) {
            Verdict::Accepted { label, .. } => Some(label),
            _ => None,
        };
        let changed = ballots.iter().filter(|[old, new]| label(old) != label(new)).count();
        told(&format!("{name} verdicts"), changed, texts.len(), before.len());
    }
    Ok(())
}

fn told(what: &str, changed: usize, texts: usize, redacted: usize) {
    let per = |whole: usize| 1000.0 * changed as f64 / whole.max(1) as f64;
    println!(
        "{what}: {changed} changed, {:.1} of 1,000 texts, {:.1} of 1,000 redacted ones",
        per(texts),
        per(redacted)
    );
}

/// The first texts of a file that hold the words.
fn texts(path: &str, count: usize, words: Option<&str>) -> Result<Vec<String>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {path}"))?;
    let mut reader = Reader::new(Format::from_name(path)?, &ReadOptions::default())?;
    let mut rows = Vec::new();
    reader.push(&bytes, &mut rows)?;
    reader.finish(&mut rows)?;
    let wanted = |text: &String| !text.trim().is_empty() && words.is_none_or(|words| text.contains(words));
    Ok(rows.into_iter().map(|row| row.sample.text).filter(wanted).take(count).collect())
}
