//! `autoannotator pool`.

use crate::data::{Format, ReadOptions, Reader, Row};
use crate::hub::Home;
use crate::sample::Verdict;
use crate::task::Task;
use crate::tune::pool::{Consensus, Pool, PooledVote, Reviewed};
use anyhow::{Context, bail, ensure};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Looks into the pool of reviewed hard samples, adds to it, or empties it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator pool show --task sentiment
  autoannotator pool add reviewed.csv --task sentiment --keep-text
                                                            the reviews of a file that the page or `annotate` wrote
  autoannotator pool export --task sentiment > pool.jsonl
  autoannotator pool purge --task sentiment --yes           the texts are gone from the disk afterwards

`autoannotator tune` holds a round on what the pool holds.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args)]
struct Place {
    /// The task: sentiment or toxicity
    #[arg(long, required_unless_present = "spec")]
    task: Option<String>,
    /// The spec of a task of your own
    #[arg(long, conflicts_with = "task")]
    spec: Option<PathBuf>,
    /// The pool's file [default: pool.db in the data home]
    #[arg(long)]
    pool: Option<PathBuf>,
    /// The data home [default: $AUTOANNOTATOR_HOME, or the platform's cache folder]
    #[arg(long)]
    home: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Counts what it holds
    Show(Place),
    /// Adds the reviewed hard samples of labelled files
    Add {
        /// Files that the page or `annotate` wrote: csv, tsv or jsonl
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Keep the files' texts although no spec says keep_text = true in [review]
        #[arg(long)]
        keep_text: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Writes all samples to standard output, one JSON object a line
    Export(Place),
    /// Removes all texts of a task for good
    Purge {
        /// Do it
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        place: Place,
    },
}

impl Place {
    fn open(&self) -> anyhow::Result<(Task, Pool)> {
        let task = super::task_of(self.task.as_deref(), self.spec.as_deref())?;
        let home = Home::find(self.home.as_deref())?;
        let path = self.pool.clone().unwrap_or_else(|| home.store());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok((task, Pool::open(&path)?))
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Show(place) => {
            let (task, pool) = place.open()?;
            let counts = pool.counts(&task.name)?;
            println!("{}: {} unused, {} used by {} rounds", task.name, counts.unused, counts.used, counts.rounds);
            println!("{} texts with a sure consensus, to be replayed", counts.consensus);
            for (name, count) in counts.labels.iter().chain(&counts.reviewers) {
                println!("  {count:>7}  {name}");
            }
        }
        Command::Add { files, keep_text, place } => {
            may_keep(place.spec.as_deref(), keep_text)?;
            let (task, mut pool) = place.open()?;
            for file in files {
                println!("{}", add(&mut pool, &task, &file)?);
            }
        }
        Command::Export(place) => {
            let (task, pool) = place.open()?;
            let mut out = std::io::stdout().lock();
            for sample in pool.all(&task.name)? {
                writeln!(out, "{}", serde_json::to_string(&sample)?)?;
            }
        }
        Command::Purge { yes, place } => {
            let (task, mut pool) = place.open()?;
            let counts = pool.counts(&task.name)?;
            let all = counts.unused + counts.used + counts.consensus;
            if !yes {
                bail!("this would remove {all} texts of {} for good; give --yes", task.name);
            }
            println!("{} texts removed", pool.purge(&task.name)?);
        }
    }
    Ok(())
}

/// Texts go into the pool only if the task's spec lets them be kept, or whoever names the files says so.
pub(super) fn may_keep(spec: Option<&Path>, agreed: bool) -> anyhow::Result<()> {
    let spec = spec.map(super::read_spec).transpose()?;
    ensure!(
        agreed || spec.is_some_and(|spec| spec.review.keep_text),
        "the spec does not let texts be kept: set keep_text = true in [review], or give --keep-text"
    );
    Ok(())
}

/// Adds to the pool what a labelled file holds for it, and says how much that was.
pub(super) fn add(pool: &mut Pool, task: &Task, path: &Path) -> anyhow::Result<String> {
    let Found { reviewed, consensus } = found(path, task)?;
    let new = pool.add(&task.name, &reviewed)?;
    let sure = pool.add_consensus(&task.name, &consensus)?;
    Ok(format!(
        "{}: {} reviewed hard samples, {new} of them new; {sure} new texts with a sure consensus",
        path.display(),
        reviewed.len()
    ))
}

/// What a labelled file holds for the pool.
struct Found {
    reviewed: Vec<Reviewed>,
    consensus: Vec<Consensus>,
}

/// The reviewed samples of a labelled file, whose column `review.label` holds a label, and the surely accepted ones.
fn found(path: &Path, task: &Task) -> anyhow::Result<Found> {
    let format = Format::from_name(&path.to_string_lossy())?;
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut reader = Reader::new(format, &ReadOptions::default())?;
    let mut rows: Vec<Row> = Vec::new();
    reader.push(&bytes, &mut rows).with_context(|| path.display().to_string())?;
    reader.finish(&mut rows).with_context(|| path.display().to_string())?;
    let columns = reader.columns();
    let mut names: Vec<String> = columns.to_vec();
    for row in &rows {
        if let crate::data::Values::Members(members) = &row.values {
            names.extend(
                members.iter().map(|(name, _)| name.clone()).filter(|name| !names.contains(name)).collect::<Vec<_>>(),
            );
        }
    }
    let slms: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(".version")).collect();
    if !names.iter().any(|name| name == "review.label") {
        bail!("{} has no column 'review.label'; give a file that the page or `annotate` wrote", path.display());
    }
    let of = |row: &Row| -> Option<Reviewed> {
        let value =
            |name: &str| row.value(columns, name).map(|value| value.into_owned()).filter(|value| !value.is_empty());
        let label = value("review.label").and_then(|label| task.labels.index(&label))?;
        let reviewer = match (value("review.by")?.as_str(), value("review.model")) {
            ("llm", model) => format!("llm:{}", model.unwrap_or_default()),
            (other, None) => other.to_owned(),
            (other, Some(id)) => format!("{other}:{id}"),
        };
        let names = task.labels.names();
        let vote = |slm: &&str| {
            let probability = |label: &String| value(&format!("{slm}.p.{label}"))?.parse().ok();
            let probabilities: Option<Vec<f32>> = names.iter().map(probability).collect();
            let version = value(&format!("{slm}.version"))?;
            Some(PooledVote { slm: (*slm).to_owned(), version, probabilities: probabilities? })
        };
        Some(Reviewed {
            text: row.sample.text.clone(),
            label: names[label].clone(),
            reviewer,
            at: crate::tune::pool::now(),
            votes: slms.iter().filter_map(vote).collect(),
        })
    };
    let sure = |row: &Row| -> Option<Consensus> {
        let value = |name: &str| row.value(columns, name).map(|value| value.into_owned());
        if value("verdict")? != "accepted" || value("source")? != "consensus" {
            return None;
        }
        let label = task.labels.names()[task.labels.index(&value("label")?)?].clone();
        Consensus::of(&row.sample.text, &Verdict::Accepted { label, confidence: value("confidence")?.parse().ok()? })
    };
    Ok(Found { reviewed: rows.iter().filter_map(of).collect(), consensus: rows.iter().filter_map(sure).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_surely_accepted_is_a_consensus() {
        let folder = tempfile::tempdir().expect("a folder");
        let task = Task::built_in("toxicity").expect("a task");
        let label = &task.labels.names()[0];
        let path = folder.path().join("r.csv");
        let row =
            |text: &str, source: &str, confidence: &str| format!("{text},{label},{source},accepted,{confidence},\n");
        let rows = [row("a", "consensus", "0.97"), row("b", "consensus", "0.6"), row("c", "human", "0.97")];
        std::fs::write(&path, format!("text,label,source,verdict,confidence,review.label\n{}", rows.concat()))
            .expect("writes");
        let found = found(&path, &task).expect("reads");
        assert!(found.reviewed.is_empty());
        assert_eq!(found.consensus, [Consensus { text: "a".into(), label: label.clone() }]);
    }

    #[test]
    fn reviews_are_read_from_csv_and_jsonl() {
        let folder = tempfile::tempdir().expect("a folder");
        let task = Task::built_in("toxicity").expect("a task");
        let [first, second] = [&task.labels.names()[0], &task.labels.names()[1]];
        let csv = format!(
            "text,label,s.version,s.p.{first},s.p.{second},review.by,review.model,review.label\n\
             a,{first},v1,0.25,0.75,llm,m,{first}\nb,{second},v1,0.1,0.9,,,\nc,{second},v1,0.5,0.5,human,anna,{second}\n"
        );
        let line = |text: &str, review: &str| {
            format!(
                "{{\"text\":\"{text}\",\"s.version\":\"v1\",\"s.p.{first}\":0.25,\"s.p.{second}\":0.75,{review}}}\n"
            )
        };
        let jsonl = [
            line("a", &format!("\"review.by\":\"llm\",\"review.model\":\"m\",\"review.label\":\"{first}\"")),
            line("b", "\"review.by\":null,\"review.model\":null,\"review.label\":null"),
        ];
        for (name, content, count) in [("r.csv", csv, 2), ("r.jsonl", jsonl.concat(), 1)] {
            let path = folder.path().join(name);
            std::fs::write(&path, content).expect("writes");
            let found = found(&path, &task).expect("reads").reviewed;
            assert_eq!(found.len(), count, "{name}");
            assert_eq!((found[0].text.as_str(), found[0].reviewer.as_str()), ("a", "llm:m"));
            assert_eq!(found[0].votes[0].probabilities, [0.25, 0.75]);
            assert!(found.iter().skip(1).all(|sample| sample.reviewer == "human:anna" && sample.label == *second));
        }
        let path = folder.path().join("plain.csv");
        std::fs::write(&path, "text,label\na,toxic\n").expect("writes");
        assert!(found(&path, &task).err().is_some_and(|error| error.to_string().contains("review.label")));
    }
}
