//! The hard pool: reviewed hard samples, kept in SQLite until a round trains on them and after.
//!
//! Samples are added, each with its votes and its reviewer, and taken out only where the reviewer takes the label back
//! before a round used it; a round marks those that it used, and what it came to is kept. A review that is told twice is
//! kept once. Beside them stand texts on which the SLMs agreed surely, for rounds to replay where no older data is at hand.
//! Purging leaves no text in the file.

use super::round::{Labelled, Report, contradicted};
use crate::sample::{Annotation, ReviewedBy, Verdict, Vote};
use crate::slm::adapter::{hex, sha256_of};
use crate::task::LabelSet;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use thiserror::Error;

/// The schema that this build reads and writes.
const SCHEMA: i64 = 3;

/// The most texts with a sure consensus that are kept of a task.
const MOST_CONSENSUS: usize = 10_000;

/// The least confidence of a consensus that is kept.
const SURE: f32 = 0.9;

/// What can be wrong with a pool.
#[derive(Debug, Error)]
pub enum PoolError {
    /// The file cannot be read or written, or is no pool.
    #[error("pool-file: {path}: {source}; give another file, or restore this one from a backup")]
    File {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// Somebody else is reading it, so that what was removed may still be on the disk.
    #[error(
        "pool-busy: {path} is being read, so its removed texts may still be on the disk; purge again when nothing uses it"
    )]
    Busy {
        /// The file.
        path: PathBuf,
    },
    /// A later build wrote it.
    #[error("pool-schema: {path} has schema {found}, this build knows {SCHEMA}; use the newer autoannotator")]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
}

/// One SLM's vote on a sample of the pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PooledVote {
    /// The SLM's id.
    pub slm: String,
    /// Its version.
    pub version: String,
    /// Its probabilities, in the task's order of labels.
    pub probabilities: Vec<f32>,
}

/// A reviewed hard sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reviewed {
    /// The text.
    pub text: String,
    /// The reviewer's label.
    pub label: String,
    /// `llm:` and the model, or `human`, with `:` and their id where they gave one.
    pub reviewer: String,
    /// Seconds since 1970 when it was added.
    pub at: u64,
    /// The votes.
    pub votes: Vec<PooledVote>,
}

impl Reviewed {
    /// What of an annotation belongs into the pool: a sample that was voted on, with a reviewer's label; else none.
    pub fn of(annotation: &Annotation) -> Option<Self> {
        let review = annotation.review.as_ref().filter(|_| !matches!(annotation.verdict, Verdict::SetAside { .. }))?;
        let reviewer = match &review.by {
            ReviewedBy::Llm { model } => format!("llm:{model}"),
            ReviewedBy::Human { id: None } => "human".to_owned(),
            ReviewedBy::Human { id: Some(id) } => format!("human:{id}"),
        };
        let pooled = |vote: &Vote| PooledVote {
            slm: vote.slm.clone(),
            version: vote.version.clone(),
            probabilities: vote.probabilities.clone(),
        };
        let votes = annotation.votes.iter().map(pooled).collect();
        Some(Self { text: annotation.sample.text.clone(), label: review.label.clone()?, reviewer, at: now(), votes })
    }

    fn key(&self, task: &str) -> String {
        hex(&sha256_of([task, &self.text, &self.label, &self.reviewer]))
    }
}

/// A text on which all SLMs agreed, and their label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consensus {
    /// The text.
    pub text: String,
    /// The label.
    pub label: String,
}

impl Consensus {
    /// What of a verdict is sure enough to be replayed; else none.
    pub fn of(text: &str, verdict: &Verdict) -> Option<Self> {
        match verdict {
            Verdict::Accepted { label, confidence } if *confidence >= SURE => {
                Some(Self { text: text.to_owned(), label: label.clone() })
            }
            _ => None,
        }
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// What a pool holds of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Samples that no round has used.
    pub unused: usize,
    /// Samples that a round has used.
    pub used: usize,
    /// All of them by label.
    pub labels: BTreeMap<String, usize>,
    /// All of them by reviewer.
    pub reviewers: BTreeMap<String, usize>,
    /// Rounds held.
    pub rounds: usize,
    /// Texts with a sure consensus, for rounds to replay.
    pub consensus: usize,
}

/// What earlier rounds used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Earlier {
    /// Trained on, or chose the state: to be replayed.
    pub trained: Vec<Labelled>,
    /// Decided at the gate: never trained on, a part of later anchor sets.
    pub gate: Vec<Labelled>,
}

/// Samples for a round, by numbers to mark them with afterwards.
pub struct Drawn {
    /// One a text: a person's last review, else the last one.
    pub rows: Vec<Labelled>,
    /// Reviews left out since every SLM all but ruled them out.
    pub contradicted: usize,
    /// Reviews left out since a later one, or a person's, says otherwise.
    pub overruled: usize,
    ids: Vec<i64>,
}

impl Drawn {
    /// How much it is.
    pub fn counts(&self) -> DrawCounts {
        let Self { rows, contradicted, overruled, .. } = self;
        DrawCounts { samples: rows.len(), contradicted: *contradicted, overruled: *overruled }
    }

    /// The sample that was added last.
    pub fn last(&self) -> Option<i64> {
        self.ids.iter().copied().max()
    }
}

/// How much a round drew from the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrawCounts {
    /// Samples that it is held on.
    pub samples: usize,
    /// Reviews left out since every SLM all but ruled them out.
    pub contradicted: usize,
    /// Reviews left out since a later one, or a person's, says otherwise.
    pub overruled: usize,
}

impl Display for DrawCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, contradicted, overruled } = self;
        write!(f, "{samples} samples ({contradicted} contradicted by all SLMs, {overruled} overruled)")
    }
}

/// A round that was held to its end.
#[derive(Debug, Clone)]
pub struct Round {
    /// Its number; the tasks share one count.
    pub number: i64,
    /// The task.
    pub task: String,
    /// Seconds since 1970 at its end.
    pub at: u64,
    /// The day of that, as YYYY-MM-DD in UTC.
    pub date: String,
    /// How much it drew; none where a build before schema 3 held it, which did not note it.
    pub draw: Option<DrawCounts>,
    /// What it came to for each SLM.
    pub reports: Vec<Report>,
}

impl Round {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        let (draw, reports): (Option<String>, String) = (row.get(4)?, row.get(5)?);
        Ok(Self {
            number: row.get(0)?,
            task: row.get(1)?,
            at: row.get::<_, i64>(2)?.cast_unsigned(),
            date: row.get(3)?,
            draw: draw.and_then(|json| serde_json::from_str(&json).ok()),
            reports: serde_json::from_str(&reports).unwrap_or_default(),
        })
    }
}

/// What leads from each schema to the next.
const MIGRATIONS: [&str; SCHEMA as usize] = [
    "CREATE TABLE IF NOT EXISTS reviewed (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, task TEXT NOT NULL, text TEXT NOT NULL,
        label TEXT NOT NULL, reviewer TEXT NOT NULL, at INTEGER NOT NULL, votes TEXT NOT NULL, round INTEGER
    );
    CREATE INDEX IF NOT EXISTS reviewed_by_task ON reviewed (task, round);
    CREATE TABLE IF NOT EXISTS round (
        id INTEGER PRIMARY KEY, task TEXT NOT NULL, at INTEGER NOT NULL, report TEXT NOT NULL
    );",
    "ALTER TABLE reviewed ADD COLUMN gate INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE consensus (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, task TEXT NOT NULL, text TEXT NOT NULL, label TEXT NOT NULL
    );",
    "ALTER TABLE round ADD COLUMN draw TEXT;",
];

/// A pool file.
pub struct Pool {
    connection: Connection,
    path: PathBuf,
}

impl Pool {
    /// Opens a pool, or makes one. What is no pool, or a later build's, is an error and stays as it is.
    pub fn open(path: &Path) -> Result<Self, PoolError> {
        let fail = |source| PoolError::File { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(fail)?;
        let pool = Self { connection, path: path.to_owned() };
        pool.connection.busy_timeout(Duration::from_secs(10)).map_err(fail)?;
        let found: i64 = pool.connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fail)?;
        if found > SCHEMA {
            return Err(PoolError::Schema { path: path.to_owned(), found });
        }
        let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;";
        pool.connection.execute_batch(settings).map_err(fail)?;
        if found < SCHEMA {
            pool.connection
                .execute_batch(&format!("BEGIN IMMEDIATE; {}", MIGRATIONS[found.max(0) as usize..].concat()))
                .map_err(fail)?;
            pool.connection.execute_batch(&format!("PRAGMA user_version = {SCHEMA}; COMMIT;")).map_err(fail)?;
        }
        Ok(pool)
    }

    fn fail(&self, source: rusqlite::Error) -> PoolError {
        PoolError::File { path: self.path.clone(), source }
    }

    /// Adds samples, all or none; returns how many were new. They are on the disk afterwards.
    pub fn add(&mut self, task: &str, samples: &[Reviewed]) -> Result<usize, PoolError> {
        let path = self.path.clone();
        let fail = |source| PoolError::File { path: path.clone(), source };
        let transaction = self.connection.transaction().map_err(fail)?;
        let mut new = 0;
        for sample in samples {
            let votes = serde_json::to_string(&sample.votes).unwrap_or_default();
            let values = params![
                sample.key(task),
                task,
                sample.text,
                sample.label,
                sample.reviewer,
                sample.at.cast_signed(),
                votes
            ];
            let insert = "INSERT OR IGNORE INTO reviewed (key, task, text, label, reviewer, at, votes) VALUES (?, ?, ?, ?, ?, ?, ?)";
            let added = transaction.execute(insert, values).map_err(fail)?;
            if added == 0 {
                // Said again, it counts as said last.
                let update = "UPDATE reviewed SET at = ? WHERE key = ? AND round IS NULL";
                transaction.execute(update, params![sample.at.cast_signed(), sample.key(task)]).map_err(fail)?;
            }
            new += added;
        }
        transaction.commit().map_err(fail)?;
        Ok(new)
    }

    /// Takes samples out, all or none, that were added before and that no round has used; returns how many. Other reviews of
    /// their texts stay.
    pub fn retract(&mut self, task: &str, samples: &[Reviewed]) -> Result<usize, PoolError> {
        let path = self.path.clone();
        let fail = |source| PoolError::File { path: path.clone(), source };
        let transaction = self.connection.transaction().map_err(fail)?;
        let delete = "DELETE FROM reviewed WHERE key = ? AND round IS NULL";
        let removed = samples.iter().map(|sample| transaction.execute(delete, [sample.key(task)]));
        let removed = removed.sum::<Result<usize, _>>().map_err(fail)?;
        transaction.commit().map_err(fail)?;
        Ok(removed)
    }

    /// What it holds of a task.
    pub fn counts(&self, task: &str) -> Result<Counts, PoolError> {
        let mut counts = Counts::default();
        let grouped = "SELECT label, reviewer, round IS NULL, count(*) FROM reviewed WHERE task = ? GROUP BY 1, 2, 3";
        let mut statement = self.connection.prepare(grouped).map_err(|e| self.fail(e))?;
        let rows =
            statement.query_map([task], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, i64>(3)?)));
        for row in rows.map_err(|e| self.fail(e))? {
            let (label, reviewer, unused, count): (String, String, bool, i64) = row.map_err(|e| self.fail(e))?;
            let count = count as usize;
            *(if unused { &mut counts.unused } else { &mut counts.used }) += count;
            *counts.labels.entry(label).or_default() += count;
            *counts.reviewers.entry(reviewer).or_default() += count;
        }
        let rounds = "SELECT count(*) FROM round WHERE task = ?";
        let rounds: i64 = self.connection.query_row(rounds, [task], |row| row.get(0)).map_err(|e| self.fail(e))?;
        counts.rounds = rounds as usize;
        counts.consensus = self.consensus_count(task)?;
        Ok(counts)
    }

    fn consensus_count(&self, task: &str) -> Result<usize, PoolError> {
        let query = "SELECT count(*) FROM consensus WHERE task = ?";
        let count: i64 = self.connection.query_row(query, [task], |row| row.get(0)).map_err(|e| self.fail(e))?;
        Ok(count as usize)
    }

    /// Adds texts with a sure consensus, at most [`MOST_CONSENSUS`] of a task; returns how many were new.
    pub fn add_consensus(&mut self, task: &str, texts: &[Consensus]) -> Result<usize, PoolError> {
        let room = MOST_CONSENSUS.saturating_sub(self.consensus_count(task)?);
        let path = self.path.clone();
        let fail = |source| PoolError::File { path: path.clone(), source };
        let transaction = self.connection.transaction().map_err(fail)?;
        let mut new = 0;
        for Consensus { text, label } in texts {
            if new == room {
                break;
            }
            let insert = "INSERT OR IGNORE INTO consensus (key, task, text, label) VALUES (?, ?, ?, ?)";
            new +=
                transaction.execute(insert, params![hex(&sha256_of([task, text])), task, text, label]).map_err(fail)?;
        }
        transaction.commit().map_err(fail)?;
        Ok(new)
    }

    /// The texts with a sure consensus, in the order in which they were added.
    pub fn consensus(&self, task: &str, labels: &LabelSet) -> Result<Vec<Labelled>, PoolError> {
        let query = "SELECT text, label FROM consensus WHERE task = ? ORDER BY id";
        let mut statement = self.connection.prepare(query).map_err(|e| self.fail(e))?;
        let rows = statement.query_map([task], |row| Ok((row.get(0)?, row.get(1)?))).map_err(|e| self.fail(e))?;
        let mut all = Vec::new();
        for row in rows {
            let (text, label): (String, String) = row.map_err(|e| self.fail(e))?;
            all.extend(labels.index(&label).map(|label| Labelled { text, label }));
        }
        Ok(all)
    }

    /// Samples of a task, in the order in which they were added.
    fn samples(&self, task: &str, which: Which) -> Result<Vec<(i64, Reviewed)>, PoolError> {
        let condition = match which {
            Which::Unused => "round IS NULL",
            Which::Trained => "round IS NOT NULL AND NOT gate",
            Which::Gate => "round IS NOT NULL AND gate",
        };
        let query = &format!(
            "SELECT id, text, label, reviewer, at, votes FROM reviewed WHERE task = ? AND {condition} ORDER BY at, id"
        );
        let mut statement = self.connection.prepare(query).map_err(|e| self.fail(e))?;
        let read = |row: &rusqlite::Row<'_>| {
            let votes: String = row.get(5)?;
            let sample = Reviewed {
                text: row.get(1)?,
                label: row.get(2)?,
                reviewer: row.get(3)?,
                at: row.get::<_, i64>(4)?.cast_unsigned(),
                votes: serde_json::from_str(&votes).unwrap_or_default(),
            };
            Ok((row.get(0)?, sample))
        };
        let rows = statement.query_map([task], read).map_err(|e| self.fail(e))?;
        rows.collect::<Result<_, _>>().map_err(|e| self.fail(e))
    }

    /// Every sample of a task, to be looked at or kept elsewhere.
    pub fn all(&self, task: &str) -> Result<Vec<Reviewed>, PoolError> {
        let all = [Which::Trained, Which::Gate, Which::Unused].map(|which| self.samples(task, which));
        let all = all.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(all.concat().into_iter().map(|(_, sample)| sample).collect())
    }

    /// The samples that no round has used, ready for one.
    /// With `last` only those that were added before this one, and it.
    pub fn draw(&self, task: &str, labels: &LabelSet, last: Option<i64>) -> Result<Drawn, PoolError> {
        let mut samples = self.samples(task, Which::Unused)?;
        samples.retain(|(id, _)| last.is_none_or(|last| *id <= last));
        Ok(drawn(samples, labels))
    }

    /// The samples that earlier rounds used.
    pub fn earlier(&self, task: &str, labels: &LabelSet) -> Result<Earlier, PoolError> {
        let of = |which| Ok(drawn(self.samples(task, which)?, labels).rows);
        Ok(Earlier { trained: of(Which::Trained)?, gate: of(Which::Gate)? })
    }

    /// Notes a round and marks what it used, and of that what was its `gate` part, in one step; returns the round's number.
    pub fn mark(&mut self, task: &str, drawn: &Drawn, gate: &[Labelled], reports: &[Report]) -> Result<i64, PoolError> {
        let path = self.path.clone();
        let fail = |source| PoolError::File { path: path.clone(), source };
        let reports = serde_json::to_string(reports).unwrap_or_default();
        let draw = serde_json::to_string(&drawn.counts()).unwrap_or_default();
        let transaction = self.connection.transaction().map_err(fail)?;
        let note = "INSERT INTO round (task, at, draw, report) VALUES (?, ?, ?, ?)";
        transaction.execute(note, params![task, now().cast_signed(), draw, reports]).map_err(fail)?;
        let number = transaction.last_insert_rowid();
        for id in &drawn.ids {
            transaction.execute("UPDATE reviewed SET round = ? WHERE id = ?", params![number, id]).map_err(fail)?;
        }
        for Labelled { text, .. } in gate {
            let mark = "UPDATE reviewed SET gate = 1 WHERE round = ? AND task = ? AND text = ?";
            transaction.execute(mark, params![number, task, text]).map_err(fail)?;
        }
        transaction.commit().map_err(fail)?;
        Ok(number)
    }

    /// The rounds that were held, of all tasks, in order.
    pub fn rounds(&self) -> Result<Vec<Round>, PoolError> {
        let query = "SELECT id, task, at, date(at, 'unixepoch'), draw, report FROM round ORDER BY id";
        let mut statement = self.connection.prepare(query).map_err(|e| self.fail(e))?;
        let rows = statement.query_map([], Round::read).map_err(|e| self.fail(e))?;
        rows.collect::<Result<_, _>>().map_err(|e| self.fail(e))
    }

    /// Empties the journal into the file; that somebody else holds it back is an error.
    fn checkpoint(&self) -> Result<(), PoolError> {
        let busy = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        match busy.map_err(|e| self.fail(e))? {
            0 => Ok(()),
            _ => Err(PoolError::Busy { path: self.path.clone() }),
        }
    }

    /// Removes every text of a task; they are gone from the disk afterwards. Returns how many there were.
    pub fn purge(&mut self, task: &str) -> Result<usize, PoolError> {
        let delete = |table| self.connection.execute(&format!("DELETE FROM {table} WHERE task = ?"), [task]);
        let removed = ["reviewed", "consensus"].map(delete);
        let removed = removed.into_iter().sum::<Result<usize, _>>().map_err(|e| self.fail(e))?;
        // The journal holds what was written lately; it is emptied into the file, and the file is written anew.
        self.checkpoint()?;
        self.connection.execute_batch("VACUUM").map_err(|e| self.fail(e))?;
        self.checkpoint()?;
        Ok(removed)
    }
}

/// Which samples are read.
#[derive(Clone, Copy)]
enum Which {
    Unused,
    Trained,
    Gate,
}

/// One review a text: of several the last one by a person, else the last one; none that all SLMs contradict unless a person
/// made it. What is left out is used up as well.
fn drawn(samples: Vec<(i64, Reviewed)>, labels: &LabelSet) -> Drawn {
    let mut drawn = Drawn { rows: Vec::new(), contradicted: 0, overruled: 0, ids: Vec::new() };
    let mut last: BTreeMap<String, (bool, usize)> = BTreeMap::new();
    for (id, sample) in samples {
        drawn.ids.push(id);
        let Some(label) = labels.index(&sample.label) else { continue };
        let human = sample.reviewer.starts_with("human");
        if !human && contradicted(label, sample.votes.iter().map(|vote| vote.probabilities.as_slice())) {
            drawn.contradicted += 1;
            continue;
        }
        match last.get_mut(&sample.text) {
            None => {
                last.insert(sample.text, (human, label));
            }
            Some((by_human, kept)) => {
                drawn.overruled += usize::from(*kept != label);
                if human || !*by_human {
                    (*by_human, *kept) = (human, label);
                }
            }
        }
    }
    drawn.rows = last.into_iter().map(|(text, (_, label))| Labelled { text, label }).collect();
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Task;
    use crate::tune::gate::{Decision, Paired};

    fn review(text: &str, label: &str, reviewer: &str) -> Reviewed {
        Reviewed { text: text.into(), label: label.into(), reviewer: reviewer.into(), at: 1, votes: Vec::new() }
    }

    fn kept(slm: &str) -> Report {
        let gate = Paired { texts: 20, before: 0.5, after: 0.5, least_gain: 0.0 };
        let decision = Decision::Kept("not surely better".into());
        Report { slm: slm.into(), decision, gate, anchor: None, share: 1.0, trained_on: [70, 0] }
    }

    fn pool() -> (tempfile::TempDir, Pool) {
        let folder = tempfile::tempdir().expect("a folder");
        let pool = Pool::open(&folder.path().join("pool.db")).expect("opens");
        (folder, pool)
    }

    #[test]
    fn a_review_is_kept_once_and_used_once() {
        let (folder, mut pool) = pool();
        let samples = [review("a", "positive", "human"), review("b", "negative", "llm:m")];
        assert_eq!(pool.add("sentiment", &samples).expect("adds"), 2);
        assert_eq!(pool.add("sentiment", &samples).expect("adds"), 0);
        assert_eq!(pool.add("toxicity", &samples[..1]).expect("adds"), 1);
        let labels = Task::built_in("sentiment").expect("a task").labels;
        let drawn = pool.draw("sentiment", &labels, None).expect("draws");
        assert_eq!(drawn.rows.len(), 2);
        pool.mark("sentiment", &drawn, &drawn.rows[..1], &[]).expect("marks");
        drop(pool);
        let pool = Pool::open(&folder.path().join("pool.db")).expect("opens again");
        assert!(pool.draw("sentiment", &labels, None).expect("draws").rows.is_empty());
        let earlier = pool.earlier("sentiment", &labels).expect("reads");
        assert_eq!((&earlier.gate[..], &earlier.trained[..]), drawn.rows.split_at(1));
        let counts = pool.counts("sentiment").expect("counts");
        assert_eq!((counts.unused, counts.used, counts.rounds), (0, 2, 1));
        assert_eq!(counts.reviewers["llm:m"], 1);
    }

    #[test]
    fn a_round_can_be_looked_up_with_what_it_drew() {
        let (_folder, mut pool) = pool();
        let labels = Task::built_in("sentiment").expect("a task").labels;
        let vote = PooledVote { slm: "s".into(), version: "v".into(), probabilities: vec![0.998, 0.001, 0.001] };
        let denied = Reviewed { votes: vec![vote], ..review("c", "positive", "llm:m") };
        let samples = [review("a", "positive", "llm:m"), review("a", "negative", "human"), denied];
        pool.add("sentiment", &samples).expect("adds");
        let drawn = pool.draw("sentiment", &labels, None).expect("draws");
        let number = pool.mark("sentiment", &drawn, &[], &[kept("s")]).expect("marks");
        let rounds = pool.rounds().expect("reads");
        assert_eq!((rounds.len(), rounds[0].number, rounds[0].task.as_str()), (1, number, "sentiment"));
        assert_eq!(rounds[0].draw, Some(DrawCounts { samples: 1, contradicted: 1, overruled: 1 }));
        assert_eq!(rounds[0].reports[0].decision, kept("s").decision);
        assert!(rounds[0].date.starts_with("20") && rounds[0].at > 0, "{}", rounds[0].date);
    }

    #[test]
    fn what_is_said_again_counts_as_said_last_and_a_draw_can_be_repeated() {
        let (_folder, mut pool) = pool();
        let labels = Task::built_in("sentiment").expect("a task").labels;
        let at = |label: &str, at| Reviewed { at, ..review("a", label, "human") };
        for sample in [at("positive", 1), at("negative", 2), at("positive", 3)] {
            pool.add("sentiment", &[sample]).expect("adds");
        }
        let first = pool.draw("sentiment", &labels, None).expect("draws");
        assert_eq!((first.rows.len(), first.rows[0].label), (1, labels.index("positive").expect("a label")));
        pool.add("sentiment", &[Reviewed { at: 4, ..review("b", "neutral", "human") }]).expect("adds");
        assert_eq!(pool.draw("sentiment", &labels, first.last()).expect("draws").rows, first.rows);
        assert_eq!(pool.draw("sentiment", &labels, None).expect("draws").rows.len(), 2);
    }

    #[test]
    fn a_review_is_taken_back_until_a_round_has_used_it() {
        let (_folder, mut pool) = pool();
        let labels = Task::built_in("sentiment").expect("a task").labels;
        let (mine, theirs) = (review("a", "positive", "human:me"), review("a", "negative", "human:you"));
        pool.add("sentiment", &[mine.clone(), theirs.clone()]).expect("adds");
        assert_eq!(pool.retract("toxicity", std::slice::from_ref(&mine)).expect("retracts"), 0);
        assert_eq!(pool.retract("sentiment", &[mine.clone(), mine.clone()]).expect("retracts"), 1);
        let drawn = pool.draw("sentiment", &labels, None).expect("draws");
        assert_eq!(drawn.rows, [Labelled { text: "a".into(), label: labels.index("negative").expect("a label") }]);
        pool.mark("sentiment", &drawn, &[], &[]).expect("marks");
        assert_eq!(pool.retract("sentiment", &[theirs]).expect("retracts"), 0);
        assert_eq!(pool.add("sentiment", &[mine]).expect("adds"), 1);
    }

    #[test]
    fn only_a_sure_consensus_is_kept_and_once() {
        let (_folder, mut pool) = pool();
        let of = |text, confidence| Consensus::of(text, &Verdict::Accepted { label: "neutral".into(), confidence });
        let texts: Vec<Consensus> = [of("a", 0.95), of("b", 0.5), of("a", 0.99)].into_iter().flatten().collect();
        assert_eq!(texts.len(), 2);
        assert_eq!(pool.add_consensus("sentiment", &texts).expect("adds"), 1);
        assert_eq!(pool.add_consensus("sentiment", &texts).expect("adds"), 0);
        let labels = Task::built_in("sentiment").expect("a task").labels;
        let label = labels.index("neutral").expect("a label");
        let found = pool.consensus("sentiment", &labels).expect("reads");
        assert_eq!(found, [Labelled { text: "a".into(), label }]);
        assert_eq!(pool.counts("sentiment").expect("counts").consensus, 1);
    }

    #[test]
    fn a_pool_of_the_first_schema_is_brought_forward() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pool.db");
        let old = Connection::open(&path).expect("opens");
        old.execute_batch(MIGRATIONS[0]).expect("makes");
        old.execute_batch(
            "INSERT INTO reviewed (key, task, text, label, reviewer, at, votes, round) \
             VALUES ('k', 'sentiment', 'a', 'neutral', 'human', 1, '[]', 1); PRAGMA user_version = 1;",
        )
        .expect("fills");
        let report = serde_json::to_string(&[kept("s")]).expect("JSON");
        old.execute("INSERT INTO round (task, at, report) VALUES ('sentiment', 86400, ?)", [report]).expect("fills");
        drop(old);
        let labels = Task::built_in("sentiment").expect("a task").labels;
        let pool = Pool::open(&path).expect("opens");
        assert_eq!(pool.earlier("sentiment", &labels).expect("reads").trained.len(), 1);
        let rounds = pool.rounds().expect("reads");
        assert_eq!((rounds[0].date.as_str(), rounds[0].draw, rounds[0].reports.len()), ("1970-01-02", None, 1));
        assert!(Pool::open(&path).expect("opens again").consensus("sentiment", &labels).expect("reads").is_empty());
    }

    #[test]
    fn a_person_overrules_and_the_last_review_counts() {
        let labels = Task::built_in("sentiment").expect("a task").labels;
        let samples = [
            review("a", "positive", "llm:m"),
            review("a", "negative", "human"),
            review("a", "neutral", "llm:n"),
            review("b", "positive", "llm:m"),
            review("b", "negative", "llm:n"),
            review("c", "unheard of", "human"),
        ];
        let drawn = drawn(samples.into_iter().enumerate().map(|(at, sample)| (at as i64, sample)).collect(), &labels);
        let label = |name| labels.index(name).expect("a label");
        let row = |text: &str, name| Labelled { text: text.into(), label: label(name) };
        assert_eq!(drawn.rows, [row("a", "negative"), row("b", "negative")]);
        assert_eq!((drawn.overruled, drawn.ids.len()), (3, 6));
    }

    #[test]
    fn an_llm_that_all_contradict_is_left_out_but_a_person_is_not() {
        let labels = Task::built_in("toxicity").expect("a task").labels;
        let first = labels.names()[0].clone();
        let vote = PooledVote { slm: "s".into(), version: "v".into(), probabilities: vec![0.001, 0.999] };
        let by = |text: &str, who| Reviewed { votes: vec![vote.clone(); 2], ..review(text, &first, who) };
        let drawn = drawn(vec![(1, by("a", "llm:m")), (2, by("b", "human"))], &labels);
        assert_eq!((drawn.rows.len(), drawn.contradicted), (1, 1));
        assert_eq!(drawn.rows[0].text, "b");
    }

    #[test]
    fn what_was_purged_is_gone_from_the_disk() {
        let (folder, mut pool) = pool();
        let secret = "a sentence that nobody may find again";
        let of = |n: usize| review(&format!("{secret} {n}"), "positive", "human");
        pool.add("sentiment", &(0..200).map(of).collect::<Vec<_>>()).expect("adds");
        pool.add_consensus("sentiment", &[Consensus { text: of(1000).text, label: "neutral".into() }]).expect("adds");
        pool.add("toxicity", &[review("this one stays", "toxic", "human")]).expect("adds");
        let found = |text: &str| {
            let files = std::fs::read_dir(folder.path()).expect("lists");
            let holds = |bytes: Vec<u8>| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            files.flatten().any(|file| holds(std::fs::read(file.path()).expect("reads")))
        };
        assert!(found(secret));
        assert_eq!(pool.purge("sentiment").expect("purges"), 201);
        assert!(!found(secret));
        assert!(found("this one stays"));
        assert_eq!(pool.counts("toxicity").expect("counts").unused, 1);
    }

    #[test]
    fn what_is_no_pool_is_refused_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pool.db");
        std::fs::write(&path, "this is a text file, and a long one, so that it has room for a header".repeat(20))
            .expect("writes");
        let before = std::fs::read(&path).expect("reads");
        let message = Pool::open(&path).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.starts_with("pool-file"), "{message}");
        assert_eq!(std::fs::read(&path).expect("reads"), before);
        let newer = folder.path().join("newer.db");
        let connection = Connection::open(&newer).expect("opens");
        connection.pragma_update(None, "user_version", 99).expect("sets");
        drop(connection);
        let message = Pool::open(&newer).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.starts_with("pool-schema"), "{message}");
    }
}
