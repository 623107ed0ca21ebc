//! The server's durable memory: money, answers, known reviews and the audit log, in one SQLite file beside the pool. One
//! thread writes, and commits together what came together; what was said to be written is on the disk.

pub use super::reviews::Known;
use super::reviews::{self, Reviews};
use crate::slm::adapter::hex;
use crate::tune::pool::now;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::sync::oneshot;

/// What leads from each schema to the next. The pool, in the same file, counts its own.
pub(super) const MIGRATIONS: [&str; 3] = ["
    CREATE TABLE call (
        id INTEGER PRIMARY KEY, at INTEGER NOT NULL, task TEXT NOT NULL, client TEXT NOT NULL, model TEXT NOT NULL,
        reserved INTEGER NOT NULL, cost INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,
        interrupted INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX call_open ON call (id) WHERE cost IS NULL;
    CREATE TABLE review (hash BLOB PRIMARY KEY, at INTEGER NOT NULL, label TEXT) WITHOUT ROWID;
    CREATE TABLE answer (key TEXT PRIMARY KEY, body BLOB NOT NULL, response TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX answer_by_age ON answer (at);
    CREATE TABLE audit (id INTEGER PRIMARY KEY, at INTEGER NOT NULL, entry TEXT NOT NULL, hash BLOB NOT NULL);
", "
    ALTER TABLE review ADD COLUMN confidence REAL;
    DROP INDEX call_open;
", reviews::MIGRATION];

/// Jobs that are committed together at most.
const TOGETHER: usize = 4096;
/// From one commit to the next at least, and at most where commits take long of late, since half of the time is for others:
/// under load, what comes meanwhile shares a commit; a job that comes alone waits for nothing.
const PACE: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(10)];
/// Jobs after which the log is brought into the file.
const CHECKPOINT: usize = 4096;
const CHECKPOINT_SQL: &str = "PRAGMA wal_checkpoint(PASSIVE)";
/// Seconds that answers are remembered.
const ANSWERS_FOR: u64 = 7 * 24 * 3600;

/// What can be wrong with the store.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// The file cannot be read or written, or is no store.
    #[error("store-file: {path}: {problem}; free the disk, or restore the file from a backup")]
    File {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        problem: String,
    },
    /// A later build wrote it.
    #[error("store-schema: {path} has schema {found}, this build knows {known}; use the newer autoannotator", known = MIGRATIONS.len())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: usize,
    },
    /// A copy cannot be written.
    #[error("store-backup: {path}: {problem}; name a file that is not there yet, on a disk with room")]
    Backup {
        /// The copy.
        path: PathBuf,
        /// What SQLite says.
        problem: String,
    },
    /// The audit log is not what was written.
    #[error("store-audit: entry {entry} of the audit log was changed, or one before it was removed")]
    Audit {
        /// The first entry that does not fit.
        entry: i64,
    },
}

/// A write that waits for its commit. It runs again, alone, where one that shared its transaction failed.
trait Job: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Tells who waits for it.
    fn done(self: Box<Self>, committed: Result<(), String>);
}

struct Write<T, W, D> {
    work: W,
    outcome: Option<T>,
    done: D,
}

impl<T, W, D> Job for Write<T, W, D>
where
    T: Send,
    W: Fn(&Connection) -> rusqlite::Result<T> + Send,
    D: FnOnce(Result<T, String>) + Send,
{
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.outcome = Some((self.work)(connection)?);
        Ok(())
    }

    fn done(self: Box<Self>, committed: Result<(), String>) {
        let Self { outcome, done, .. } = *self;
        done(committed.and_then(|()| outcome.ok_or_else(|| "it was not written".to_owned())));
    }
}

const STOPPED: &str = "its writer has stopped";

/// The way to the thread that writes.
struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Queues a job, or gives it back where the thread has stopped.
    fn send(&self, job: Box<dyn Job>) -> Result<(), Box<dyn Job>> {
        match &self.jobs {
            Some(jobs) => jobs.send(job).map_err(|mpsc::SendError(job)| job),
            None => Err(job),
        }
    }
}

impl Drop for Writer {
    /// What was queued is on the disk before who opens the file next reads it.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store: {STOPPED}");
        }
    }
}

/// An open store. Its last handle waits, when dropped, until what was queued is on the disk.
#[derive(Clone)]
pub struct Store {
    path: Arc<PathBuf>,
    writer: Arc<Writer>,
    reader: Arc<Mutex<Connection>>,
    reviews: Arc<Reviews>,
}

/// A call that was reserved and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The task.
    pub task: String,
    /// Who asked.
    pub client: String,
    /// Billionths of a US dollar: the cost, or the reserve where it is not settled.
    pub spent: i64,
    /// Whether it was never settled, as far as it is known.
    pub interrupted: bool,
}

impl Store {
    /// Opens a store, or makes one. What is no store, or a later build's, is an error and stays as it is. Calls that a crash
    /// interrupted are settled at their reserve.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self::read_only(path)?;
        store.read(|connection| store.reviews.load(connection))?;
        let fail = |error: rusqlite::Error| store.fail(error);
        let connection = store.reader.lock().unwrap_or_else(PoisonError::into_inner);
        connection
            .execute("UPDATE call SET cost = reserved, interrupted = 1 WHERE cost IS NULL", [])
            .and_then(|_| connection.execute("DELETE FROM answer WHERE at < ?", [long_ago()]))
            .map_err(fail)?;
        drop(connection);
        Ok(store)
    }

    /// As [`Self::open`], but leaves open calls alone: a server may be making them.
    pub fn read_only(path: &Path) -> Result<Self, StoreError> {
        let fail = |error: rusqlite::Error| StoreError::File { path: path.to_owned(), problem: error.to_string() };
        let connection = connect(path).map_err(fail)?;
        let migrate = "CREATE TABLE IF NOT EXISTS store (schema INTEGER NOT NULL);";
        connection.execute_batch(migrate).map_err(fail)?;
        let found = "SELECT coalesce(max(schema), 0) FROM store";
        let found: usize = connection.query_row(found, [], |row| row.get::<_, i64>(0)).map_err(fail)? as usize;
        if found > MIGRATIONS.len() {
            return Err(StoreError::Schema { path: path.to_owned(), found });
        }
        if found < MIGRATIONS.len() {
            let steps = MIGRATIONS[found..].concat();
            let all = format!("BEGIN IMMEDIATE; {steps} INSERT INTO store VALUES ({}); COMMIT;", MIGRATIONS.len());
            connection.execute_batch(&all).map_err(fail)?;
        }
        let (writer, jobs) = mpsc::channel::<Box<dyn Job>>();
        let checkpoints = Checkpoints::new(path.to_owned());
        let reviews = Arc::<Reviews>::default();
        let writing = Writing { connection, reviews: reviews.clone() };
        let thread = std::thread::spawn(move || writing.run(&jobs, checkpoints));
        let writer = Arc::new(Writer { jobs: Some(writer), thread: Some(thread) });
        let reader = connect(path).map_err(fail)?;
        // Most that is read of late is in `recent`.
        reader.execute_batch("PRAGMA cache_size = -1024").map_err(fail)?;
        let reader = Arc::new(Mutex::new(reader));
        Ok(Self { path: Arc::new(path.to_owned()), writer, reader, reviews })
    }

    fn fail(&self, problem: impl ToString) -> StoreError {
        StoreError::File { path: self.path.to_path_buf(), problem: problem.to_string() }
    }

    /// Writes, all or nothing; on the disk afterwards.
    async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (waiting, receive) = oneshot::channel();
        // Who no longer waits need not be told.
        let done = |outcome| drop(waiting.send(outcome));
        self.writer.send(Box::new(Write { work, outcome: None, done })).map_err(|_| self.fail(STOPPED))?;
        receive.await.map_err(|_| self.fail("it cannot be written"))?.map_err(|problem| self.fail(problem))
    }

    /// Returns when all that was to be written before is on the disk, and who waited for it was told.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.write(|_| Ok(())).await
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        work(&reader).map_err(|error| self.fail(error))
    }

    /// What every client spent on every task, in billionths of a US dollar: task, client, sum.
    pub fn spent(&self) -> Result<Vec<(String, String, i64)>, StoreError> {
        self.read(|connection| {
            let sums = "SELECT task, client, sum(coalesce(cost, reserved)) FROM call GROUP BY task, client";
            let mut statement = connection.prepare(sums)?;
            let sum = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            statement.query_map([], sum)?.collect()
        })
    }

    /// Every call so far.
    pub fn calls(&self) -> Result<Vec<Call>, StoreError> {
        self.read(|connection| {
            let mut statement = connection
                .prepare("SELECT task, client, coalesce(cost, reserved), interrupted OR cost IS NULL FROM call")?;
            let call = |row: &rusqlite::Row<'_>| {
                Ok(Call { task: row.get(0)?, client: row.get(1)?, spent: row.get(2)?, interrupted: row.get(3)? })
            };
            statement.query_map([], call)?.collect()
        })
    }

    /// Notes that a call is about to be made; returns its number.
    pub async fn reserve(&self, task: &str, client: &str, model: &str, amount: i64) -> Result<i64, StoreError> {
        let [task, client, model] = [task, client, model].map(str::to_owned);
        self.write(move |connection| {
            let insert = "INSERT INTO call (at, task, client, model, reserved) VALUES (?, ?, ?, ?, ?)";
            connection.prepare_cached(insert)?.execute(params![now().cast_signed(), task, client, model, amount])?;
            Ok(connection.last_insert_rowid())
        })
        .await
    }

    /// Notes what a call came to, and with it the labels of its reply, by the hashes of what was asked. No text is kept.
    /// Nobody waits for it: what is written later, such as the answer to the client, is on the disk no earlier. `done` is
    /// told when it is there.
    pub fn settle(
        &self,
        call: i64,
        cost: i64,
        tokens: [u64; 2],
        labels: Vec<([u8; 32], Known)>,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        labels.iter().for_each(|(hash, known)| self.reviews.keep(hash, known));
        let reviews = self.reviews.clone();
        let work = move |connection: &Connection| {
            let update = "UPDATE call SET cost = ?, prompt_tokens = ?, completion_tokens = ? WHERE id = ?";
            let [prompt, completion] = tokens.map(u64::cast_signed);
            connection.prepare_cached(update)?.execute(params![cost, prompt, completion, call])?;
            labels.iter().try_for_each(|(hash, known)| reviews.write(connection, hash, known))
        };
        let path = self.path.clone();
        let fail = move |problem| StoreError::File { path: path.to_path_buf(), problem };
        let job = Write { work, outcome: None, done: move |outcome: Result<(), String>| done(outcome.map_err(fail)) };
        if let Err(job) = self.writer.send(Box::new(job)) {
            job.done(Err(STOPPED.to_owned()));
        }
    }

    /// What is known of what this is the hash of.
    pub fn review(&self, hash: &[u8; 32]) -> Result<Option<Known>, StoreError> {
        match self.reviews.in_memory(hash) {
            Some(known) => Ok(known),
            None => self.read(|connection| self.reviews.read(connection, hash)),
        }
    }

    /// The answer given to an idempotency key, with the hash of the body it answers.
    pub fn answer(&self, key: &str) -> Result<Option<(Vec<u8>, String)>, StoreError> {
        self.read(|connection| {
            let query = "SELECT body, response FROM answer WHERE key = ? AND at >= ?";
            connection
                .prepare_cached(query)?
                .query_row(params![key, long_ago()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
    }

    /// Keeps an answer by its idempotency key, where there is one, and adds to the audit log.
    pub async fn answered(
        &self,
        key: Option<(String, Vec<u8>, String)>,
        entry: &impl Serialize,
    ) -> Result<(), StoreError> {
        let entry = serde_json::to_string(entry).map_err(|error| self.fail(error))?;
        self.write(move |connection| {
            if let Some((key, body, response)) = &key {
                let insert = "INSERT OR REPLACE INTO answer (key, body, response, at) VALUES (?, ?, ?, ?)";
                connection.prepare_cached(insert)?.execute(params![key, body, response, now().cast_signed()])?;
                connection.prepare_cached("DELETE FROM answer WHERE at < ?")?.execute([long_ago()])?;
            }
            let last = "SELECT hash FROM audit ORDER BY id DESC LIMIT 1";
            let last: Vec<u8> =
                connection.prepare_cached(last)?.query_row([], |row| row.get(0)).optional()?.unwrap_or_default();
            let at = now().cast_signed();
            let insert = "INSERT INTO audit (at, entry, hash) VALUES (?, ?, ?)";
            connection.prepare_cached(insert)?.execute(params![at, entry, link(&last, at, &entry)])?;
            Ok(())
        })
        .await
    }

    /// The audit log: time and entry, the oldest first. A log that does not hold together is an error.
    pub fn audit(&self) -> Result<Vec<(u64, String)>, StoreError> {
        Ok(self.audited()?.0)
    }

    /// The same, and the last entry's hash, to be kept elsewhere: with it a log that was cut short or written anew is found.
    pub fn audited(&self) -> Result<(Vec<(u64, String)>, String), StoreError> {
        let rows: Vec<(i64, i64, String, Vec<u8>)> = self.read(|connection| {
            let mut statement = connection.prepare("SELECT id, at, entry, hash FROM audit ORDER BY id")?;
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
            statement.query_map([], row)?.collect()
        })?;
        let mut last = Vec::new();
        for (place, (id, at, entry, hash)) in rows.iter().enumerate() {
            if *id != place as i64 + 1 || link(&last, *at, entry) != *hash {
                return Err(StoreError::Audit { entry: *id });
            }
            last.clone_from(hash);
        }
        let entries = rows.into_iter().map(|(_, at, entry, _)| (at.cast_unsigned(), entry)).collect();
        Ok((entries, hex(&last)))
    }

    /// Writes a copy to a file that is not there yet, also while a server uses the store.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let copied = self.read(|connection| connection.execute("VACUUM INTO ?", [to.to_string_lossy()]).map(|_| ()));
        copied.map_err(|error| match error {
            StoreError::File { problem, .. } => StoreError::Backup { path: to.to_owned(), problem },
            other => other,
        })
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    // SQLite's own checkpoints, in the midst of a commit, are for when ours fail.
    let set = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 65536;";
    connection.execute_batch(set)?;
    Ok(connection)
}

/// Brings the log into the file beside the commits, which would wait for tens of megabytes otherwise. Only what was written
/// meanwhile is left to the writer: then the log is empty for once, and begins anew.
struct Checkpoints {
    due: mpsc::Sender<()>,
    nearly: Arc<AtomicBool>,
    jobs: usize,
}

impl Checkpoints {
    fn new(path: PathBuf) -> Self {
        let (due, asked) = mpsc::channel();
        let nearly = Arc::new(AtomicBool::new(false));
        let told = nearly.clone();
        std::thread::spawn(move || {
            // Requests come first. Where this is refused, they wait a little longer.
            #[cfg(target_os = "linux")]
            rustix::process::setpriority_process(None, 10).ok();
            while let Ok(()) = asked.recv() {
                let done = connect(&path).and_then(|connection| connection.query_row(CHECKPOINT_SQL, [], |_| Ok(())));
                // SQLite leaves this to the checkpoint that empties the log.
                let synced = done.is_ok() && File::open(&path).and_then(|file| file.sync_data()).is_ok();
                told.store(synced, Ordering::Release);
            }
        });
        Self { due, nearly, jobs: 0 }
    }

    /// After a commit of so many jobs.
    fn committed(&mut self, connection: &Connection, jobs: usize) {
        if self.nearly.swap(false, Ordering::Acquire) {
            // One that fails is made the next time.
            drop(connection.query_row(CHECKPOINT_SQL, [], |_| Ok(())));
        }
        self.jobs += jobs;
        if self.jobs >= CHECKPOINT {
            self.jobs = 0;
            self.due.send(()).ok();
        }
    }
}

/// Answers from before are forgotten.
fn long_ago() -> i64 {
    now().saturating_sub(ANSWERS_FOR).cast_signed()
}

/// Each entry's hash is over the one before: who knows the last one's sees whether any was changed or taken out.
fn link(last: &[u8], at: i64, entry: &str) -> Vec<u8> {
    Sha256::new().chain_update(last).chain_update(at.to_le_bytes()).chain_update(entry).finalize().to_vec()
}

/// What the thread that writes has.
struct Writing {
    connection: Connection,
    reviews: Arc<Reviews>,
}

impl Writing {
    /// All of it or nothing.
    fn transaction(&self, jobs: &mut [Box<dyn Job>]) -> rusqlite::Result<()> {
        let connection = &self.connection;
        let run = |sql| connection.prepare_cached(sql)?.execute([]).map(|_| ());
        run("BEGIN IMMEDIATE")?;
        let written = jobs
            .iter_mut()
            .try_for_each(|job| job.run(connection))
            .and_then(|()| self.reviews.place(connection))
            .and_then(|()| run("COMMIT"));
        match written {
            Ok(()) => self.reviews.placed(),
            Err(_) if !connection.is_autocommit() => run("ROLLBACK")?,
            Err(_) => {}
        }
        written
    }

    fn run(&self, jobs: &mpsc::Receiver<Box<dyn Job>>, mut checkpoints: Checkpoints) {
        let (mut last, mut takes): (Option<Instant>, Duration) = (None, PACE[0] / 2);
        while let Ok(first) = jobs.recv() {
            let pace = (2 * takes).clamp(PACE[0], PACE[1]);
            if let Some(early) = last.and_then(|last| pace.checked_sub(last.elapsed())) {
                std::thread::sleep(early);
            }
            let start = Instant::now();
            last = Some(start);
            let mut together = vec![first];
            together.extend(jobs.try_iter().take(TOGETHER - 1));
            let commit = |jobs: &mut [Box<dyn Job>]| self.transaction(jobs).map_err(|error| error.to_string());
            let committed = commit(&mut together);
            // What one of them fails at must not undo the others.
            let apart = committed.is_err() && together.len() > 1;
            let count = together.len();
            for mut job in together {
                let committed = if apart { commit(std::slice::from_mut(&mut job)) } else { committed.clone() };
                job.done(committed);
            }
            // One that is slow by chance is no reason to wait.
            takes = (15 * takes + start.elapsed()) / 16;
            checkpoints.committed(&self.connection, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::task::{Context, Waker};

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    fn open(folder: &tempfile::TempDir) -> Result<Store, StoreError> {
        Store::open(&folder.path().join("store.db"))
    }

    #[test]
    fn what_was_written_is_there_and_what_broke_off_is_charged() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder).expect("opens");
        block_on(async {
            let first = store.reserve("t", "c", "m", 100).await.expect("reserves");
            let known = Known { age: 0, label: Some("good".into()), confidence: Some(0.75) };
            store.settle(first, 30, [1, 2], vec![([7; 32], known)], |settled| settled.expect("settles"));
            store.reserve("t", "c", "m", 50).await.expect("reserves");
            let answer = ("key".to_owned(), vec![1], "{}".to_owned());
            store.answered(Some(answer.clone()), &json!({ "n": 1 })).await.expect("keeps");
            store.answered(Some(answer), &json!({ "n": 2 })).await.expect("keeps once");
        });
        drop(store);
        let store = open(&folder).expect("opens again");
        assert_eq!(store.calls().expect("reads").iter().map(|call| call.spent).collect::<Vec<_>>(), [30, 50]);
        let known = store.review(&[7; 32]).expect("reads").expect("known");
        assert_eq!((known.label.as_deref(), known.confidence), (Some("good"), Some(0.75)));
        assert_eq!(store.review(&[8; 32]).expect("reads"), None);
        assert_eq!(store.answer("key").expect("reads"), Some((vec![1], "{}".to_owned())));
        assert_eq!(store.audit().expect("holds").len(), 2);
    }

    /// A server that is stopped drops its requests in the midst of their waiting; who opens the store next counts them.
    #[test]
    fn what_was_queued_is_written_before_the_store_is_opened_again() {
        let folder = tempfile::tempdir().expect("a folder");
        for life in 1..=20 {
            let store = open(&folder).expect("opens");
            let mut waiting: Vec<_> = (0..50).map(|_| Box::pin(store.reserve("t", "c", "m", 1))).collect();
            let mut context = Context::from_waker(Waker::noop());
            waiting.iter_mut().for_each(|call| drop(call.as_mut().poll(&mut context)));
            drop(waiting);
            drop(store);
            assert_eq!(open(&folder).expect("opens again").calls().expect("reads").len(), life * 50);
        }
    }

    #[test]
    fn a_changed_audit_log_and_one_with_a_gap_are_found() {
        for damage in [
            "UPDATE audit SET entry = '{\"n\":9}' WHERE id = 2",
            "DELETE FROM audit WHERE id = 2",
            "UPDATE audit SET at = at + 1 WHERE id = 2",
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let store = open(&folder).expect("opens");
            block_on(async {
                for n in 0..4 {
                    store.answered(None, &json!({ "n": n })).await.expect("adds");
                }
            });
            assert_eq!(store.audit().expect("holds").len(), 4);
            let other = Connection::open(folder.path().join("store.db")).expect("opens");
            other.execute_batch(damage).expect("damages");
            assert!(matches!(store.audit(), Err(StoreError::Audit { entry: 2 | 3 })), "{damage}");
        }
    }

    #[test]
    fn a_backup_is_a_store_and_a_newer_or_broken_one_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder).expect("opens");
        block_on(store.reserve("t", "c", "m", 5)).expect("reserves");
        let copy = folder.path().join("copy.db");
        store.backup(&copy).expect("copies");
        assert!(store.backup(&copy).is_err(), "a file that is there is not written over");
        assert_eq!(Store::open(&copy).expect("opens").calls().expect("reads").len(), 1);
        let newer = Connection::open(&copy).expect("opens");
        newer.execute("UPDATE store SET schema = 99", []).expect("changes");
        let message = Store::open(&copy).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.starts_with("store-schema") && message.contains("newer autoannotator"), "{message}");
        let broken = folder.path().join("broken.db");
        std::fs::write(&broken, "no database, but long enough for a header".repeat(30)).expect("writes");
        let message = Store::open(&broken).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.starts_with("store-file") && message.contains("backup"), "{message}");
    }

    #[test]
    fn a_job_that_fails_undoes_none_that_share_its_commit() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder).expect("opens");
        let doubled = store.write(|connection| {
            connection.execute("INSERT INTO audit (at, entry, hash) VALUES (1, 'half', x'00')", [])?;
            connection.execute("INSERT INTO audit (id, at, entry, hash) VALUES (1, 1, 'twice', x'00')", [])
        });
        let entries = [json!({ "n": 1 }), json!({ "n": 2 })];
        // Polled together, they are one commit, unless the writer is quick: then the claim holds anyway.
        let (first, failed, last) = block_on(async {
            tokio::join!(store.answered(None, &entries[0]), doubled, store.answered(None, &entries[1]))
        });
        first.and(last).expect("written");
        assert!(failed.is_err());
        assert_eq!(store.audit().expect("holds together").len(), 2);
    }

    #[test]
    fn that_there_was_no_label_does_not_last() {
        let known = |label: Option<&str>| Known { age: 0, label: label.map(str::to_owned), confidence: Some(0.5) };
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder).expect("opens");
        let settle = |label: Option<&str>| {
            store.settle(1, 0, [0; 2], vec![([7; 32], known(label))], |settled| settled.expect("settles"));
            block_on(store.flush()).expect("written");
        };
        let label = || store.review(&[7; 32]).expect("reads").and_then(|known| known.label);
        settle(None);
        assert_eq!(label(), None);
        settle(Some("good"));
        assert_eq!((label().as_deref(), label().as_deref()), (Some("good"), Some("good")));
    }

    #[test]
    fn a_label_is_not_lost_over_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let known = Known { age: 0, label: Some("good".into()), confidence: None };
        let store = open(&folder).expect("opens");
        store.settle(1, 0, [0; 2], vec![([1; 32], known)], |settled| settled.expect("settles"));
        block_on(store.flush()).expect("written");
        drop(store);
        let store = open(&folder).expect("opens again");
        let label = |n: u8| store.review(&[n; 32]).expect("reads").and_then(|known| known.label);
        assert_eq!((label(1).as_deref(), label(2)), (Some("good"), None));
    }

    #[test]
    fn one_is_opened_while_another_writes() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder).expect("opens");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in (0..u8::MAX).cycle().take_while(|_| !ended.load(Ordering::Acquire)) {
                    let known = Known { age: 0, label: Some("good".into()), confidence: None };
                    store.settle(1, 0, [0; 2], vec![([n; 32], known)], |settled| settled.expect("settles"));
                    block_on(store.flush()).expect("written");
                }
            });
            let opened: Vec<String> =
                (0..100).filter_map(|_| open(&folder).err()).map(|error| error.to_string()).collect();
            ended.store(true, Ordering::Release);
            assert!(opened.is_empty(), "{opened:?}");
        });
    }

    #[test]
    fn pool_and_store_share_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let pool = crate::tune::pool::Pool::open(&folder.path().join("store.db")).expect("a pool");
        let store = open(&folder).expect("a store");
        block_on(store.reserve("t", "c", "m", 5)).expect("reserves");
        assert_eq!(pool.counts("t").expect("counts").unused, 0);
        drop((pool, store));
        assert_eq!(open(&folder).expect("opens again").calls().expect("reads").len(), 1);
        assert!(crate::tune::pool::Pool::open(&folder.path().join("store.db")).is_ok());
    }
}
