//! The labels that LLMs gave, by the hash of what they were asked. A table in the order of hashes has another page to write
//! for nearly every review. So reviews are written one after another; where each stands is kept in memory at first, and goes
//! into a table in the order of the hashes sorted, many at a time, so that a page takes several.

use crate::tune::pool::now;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Labels that are kept in memory: so many that were asked for last, and up to as many before them.
const RECENT: usize = 4096;
/// Bits that say which reviews there may be: 4 MiB, in which of 3 million reviews one in 100 is looked for in vain.
const BITS: usize = 1 << 25;
/// Reviews that are sorted into the table together.
const GENERATION: usize = 1 << 15;

/// What leads from the schema in which the table of reviews was in the order of hashes to this one.
pub(super) const MIGRATION: &str = "
    ALTER TABLE review RENAME TO review_by_hash;
    CREATE TABLE review (id INTEGER PRIMARY KEY, hash BLOB NOT NULL, at INTEGER NOT NULL, label TEXT, confidence REAL);
    INSERT INTO review (hash, at, label, confidence) SELECT hash, at, label, confidence FROM review_by_hash;
    DROP TABLE review_by_hash;
    CREATE TABLE review_place (key INTEGER PRIMARY KEY, review INTEGER NOT NULL);
    CREATE TABLE review_placed (through INTEGER NOT NULL);
    INSERT INTO review_placed VALUES (0);
";

/// The label that an LLM gave to what it was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Seconds since it was given.
    pub age: u64,
    /// The label; none where the reply was no label.
    pub label: Option<String>,
    /// Its probability, where the LLM told it.
    pub confidence: Option<f64>,
}

/// What is in memory of the reviews of a store.
#[derive(Default)]
pub(super) struct Reviews {
    /// Labels, and when the LLM gave them: they need not be read again.
    recent: Mutex<Recent<(i64, Known)>>,
    /// Of a store that is open for writing.
    seen: OnceLock<Seen>,
    waiting: Mutex<Waiting>,
}

/// Where reviews stand that the table does not tell yet, or not surely.
#[derive(Default)]
struct Waiting {
    new: HashMap<i64, i64>,
    /// Those that go into the table now, in its order; how many of them are there, and how many this commit adds.
    sorted: Vec<(i64, i64)>,
    placed: usize,
    adds: usize,
    /// Reviews in this commit.
    written: usize,
}

impl Waiting {
    fn place(&self, key: i64) -> Option<i64> {
        let sorted = || self.sorted.binary_search_by_key(&key, |(key, _)| *key).ok();
        self.new.get(&key).copied().or_else(|| sorted().and_then(|at| self.sorted.get(at)).map(|(_, review)| *review))
    }
}

/// What the table is ordered by: of two hashes that share it, the later one's review is found.
fn key(hash: &[u8; 32]) -> i64 {
    hash.iter().take(8).fold(0i64, |key, byte| key << 8 | i64::from(*byte))
}

fn set(connection: &Connection, (key, review): (i64, i64)) -> rusqlite::Result<()> {
    let insert = "INSERT OR REPLACE INTO review_place (key, review) VALUES (?, ?)";
    connection.prepare_cached(insert)?.execute([key, review]).map(|_| ())
}

fn set_through(connection: &Connection, review: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE review_placed SET through = ?")?.execute([review]).map(|_| ())
}

impl Reviews {
    fn recent(&self) -> MutexGuard<'_, Recent<(i64, Known)>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads which reviews there are, and puts those into the table that only memory knew the place of.
    pub(super) fn load(&self, connection: &Connection) -> rusqlite::Result<()> {
        let seen = Seen::new();
        // One that reads first and then writes is refused where another commits in between.
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        let through: i64 = transaction.query_row("SELECT through FROM review_placed", [], |row| row.get(0))?;
        let mut generation = Vec::new();
        {
            let mut statement = transaction.prepare("SELECT id, hash FROM review ORDER BY id")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (review, hash): (i64, [u8; 32]) = (row.get(0)?, row.get(1)?);
                seen.add(&hash);
                if review > through {
                    generation.push((key(&hash), review));
                }
                if generation.len() == GENERATION {
                    place_all(&transaction, &mut generation)?;
                }
            }
        }
        place_all(&transaction, &mut generation)?;
        transaction.commit()?;
        // It is loaded once.
        self.seen.set(seen).ok();
        Ok(())
    }

    /// Keeps a label in memory.
    pub(super) fn keep(&self, hash: &[u8; 32], known: &Known) {
        self.seen.get().iter().for_each(|seen| seen.add(hash));
        self.recent().keep(*hash, (now().cast_signed(), known.clone()));
    }

    /// Writes a review.
    pub(super) fn write(&self, connection: &Connection, hash: &[u8; 32], known: &Known) -> rusqlite::Result<()> {
        let insert = "INSERT INTO review (hash, at, label, confidence) VALUES (?, ?, ?, ?)";
        let row = params![hash, now().cast_signed(), known.label, known.confidence];
        connection.prepare_cached(insert)?.execute(row)?;
        let mut waiting = self.waiting();
        waiting.new.insert(key(hash), connection.last_insert_rowid());
        waiting.written += 1;
        Ok(())
    }

    /// Puts more of them into the table, twice as many as were written since: a generation is there before the next is full.
    pub(super) fn place(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut waiting = self.waiting();
        let rest = waiting.sorted.get(waiting.placed..).unwrap_or_default();
        let some = rest.get(..rest.len().min(2 * waiting.written)).unwrap_or_default().to_vec();
        let last = some.len() == rest.len() && !some.is_empty();
        let through = last.then(|| waiting.sorted.iter().map(|(_, review)| *review).max()).flatten();
        waiting.adds = some.len();
        drop(waiting);
        some.into_iter().try_for_each(|place| set(connection, place))?;
        through.map_or(Ok(()), |through| set_through(connection, through))
    }

    /// They are committed.
    pub(super) fn placed(&self) {
        let mut waiting = self.waiting();
        waiting.placed += std::mem::take(&mut waiting.adds);
        waiting.written = 0;
        if waiting.placed == waiting.sorted.len() && waiting.new.len() >= GENERATION {
            waiting.sorted = waiting.new.drain().collect();
            waiting.sorted.sort_unstable();
            waiting.placed = 0;
        }
    }

    /// What memory alone tells of what this is the hash of: a label, or that there is surely none.
    pub(super) fn in_memory(&self, hash: &[u8; 32]) -> Option<Option<Known>> {
        if let Some(known) = self.recent().get(hash) {
            return Some(Some(aged(known)));
        }
        self.seen.get().filter(|seen| !seen.may_hold(hash)).map(|_| None)
    }

    /// What the store tells of it.
    pub(super) fn read(&self, connection: &Connection, hash: &[u8; 32]) -> rusqlite::Result<Option<Known>> {
        let waiting = self.waiting().place(key(hash));
        let placed = || {
            let query = "SELECT review FROM review_place WHERE key = ?";
            connection.prepare_cached(query)?.query_row([key(hash)], |row| row.get(0)).optional()
        };
        let Some(review) = waiting.map_or_else(placed, |review| Ok(Some(review)))? else { return Ok(None) };
        let query = "SELECT at, label, confidence FROM review WHERE id = ? AND hash = ?";
        let row = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, i64>(0)?, Known { age: 0, label: row.get(1)?, confidence: row.get(2)? }))
        };
        let found = connection.prepare_cached(query)?.query_row(params![review, hash], row).optional()?;
        if let Some((at, known)) = found.as_ref().filter(|(_, known)| known.label.is_some()) {
            self.recent().keep(*hash, (*at, known.clone()));
        }
        Ok(found.map(aged))
    }
}

fn aged((at, known): (i64, Known)) -> Known {
    Known { age: now().saturating_sub(at.cast_unsigned()), ..known }
}

/// Of reviews with the same key the last one stays.
fn place_all(connection: &Connection, generation: &mut Vec<(i64, i64)>) -> rusqlite::Result<()> {
    let Some(through) = generation.iter().map(|(_, review)| *review).max() else { return Ok(()) };
    generation.sort_unstable();
    generation.drain(..).try_for_each(|place| set(connection, place))?;
    set_through(connection, through)
}

/// Which hashes there may be, and surely which not (Bloom 1970): most texts are new, and need not be looked for on the disk.
struct Seen(Vec<AtomicU64>);

impl Seen {
    fn new() -> Self {
        Self((0..BITS / 64).map(|_| AtomicU64::new(0)).collect())
    }

    /// The hash is SHA-256's, so that its parts serve as independent hashes.
    fn places(hash: &[u8; 32]) -> impl Iterator<Item = (usize, u64)> {
        let places = hash.chunks_exact(4).take(6).map(|part| {
            let part = part.iter().fold(0usize, |all, byte| all << 8 | usize::from(*byte));
            part % BITS
        });
        places.map(|place| (place / 64, 1 << (place % 64)))
    }

    fn add(&self, hash: &[u8; 32]) {
        for (word, bit) in Self::places(hash) {
            if let Some(word) = self.0.get(word) {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    fn may_hold(&self, hash: &[u8; 32]) -> bool {
        Self::places(hash)
            .all(|(word, bit)| self.0.get(word).is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0))
    }
}

/// What was asked for of late, by a hash. It never changes.
pub(super) struct Recent<T> {
    new: HashMap<[u8; 32], T>,
    old: HashMap<[u8; 32], T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { new: HashMap::new(), old: HashMap::new() }
    }
}

impl<T: Clone> Recent<T> {
    pub(super) fn get(&mut self, hash: &[u8; 32]) -> Option<T> {
        if let Some(known) = self.new.get(hash) {
            return Some(known.clone());
        }
        let known = self.old.remove(hash)?;
        self.keep(*hash, known.clone());
        Some(known)
    }

    /// When the newer half is full, the older one is forgotten.
    pub(super) fn keep(&mut self, hash: [u8; 32], known: T) {
        if self.new.len() >= RECENT {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(hash, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::store::MIGRATIONS;

    fn hash(n: usize) -> [u8; 32] {
        crate::slm::adapter::sha256_of([n.to_string().as_str()])
    }

    fn known(label: &str) -> Known {
        Known { age: 0, label: Some(label.to_owned()), confidence: Some(0.5) }
    }

    fn table(schemas: usize) -> Connection {
        let connection = Connection::open_in_memory().expect("opens");
        connection.execute_batch(&MIGRATIONS[..schemas].concat()).expect("migrates");
        connection
    }

    /// The label, as the file tells it.
    fn label(reviews: &Reviews, connection: &Connection, n: usize) -> Option<String> {
        *reviews.recent() = Recent::default();
        reviews.read(connection, &hash(n)).expect("reads").and_then(|known| known.label)
    }

    #[test]
    fn what_was_asked_for_of_late_is_not_read_again() {
        let mut recent: Recent<(i64, Known)> = Recent::default();
        for n in 0..3 * RECENT {
            recent.keep(hash(n), (n as i64, known("good")));
        }
        assert_eq!(recent.get(&hash(3 * RECENT - 1)), Some((3 * RECENT as i64 - 1, known("good"))));
        assert_eq!((recent.get(&hash(0)), recent.new.len(), recent.old.len()), (None, RECENT, RECENT));
        assert!(recent.get(&hash(RECENT)).is_some() && recent.new.len() == 1, "what is old and asked for is new again");
    }

    #[test]
    fn what_was_never_labelled_is_not_looked_for() {
        let seen = Seen::new();
        (0..20_000).for_each(|n| seen.add(&hash(n)));
        assert!((0..20_000).all(|n| seen.may_hold(&hash(n))));
        assert!((20_000..40_000).filter(|n| seen.may_hold(&hash(*n))).count() < 20);
    }

    #[test]
    fn a_review_is_found_while_it_waits_while_it_is_placed_and_when_all_is_read_anew() {
        let (connection, reviews) = (table(MIGRATIONS.len()), Reviews::default());
        reviews.load(&connection).expect("loads");
        let write = |n: usize, label: &str| reviews.write(&connection, &hash(n), &known(label)).expect("writes");
        let step = |count: usize| {
            reviews.waiting().written = count / 2;
            reviews.place(&connection).expect("places");
            reviews.placed();
        };
        (0..GENERATION).for_each(|n| write(n, "first"));
        step(0);
        assert_eq!(reviews.waiting().sorted.len(), GENERATION, "a generation is full");
        step(GENERATION / 2);
        // What is said again, and what is new, waits for the next one.
        (0..100).for_each(|n| write(n, "second"));
        (GENERATION..GENERATION + 100).for_each(|n| write(n, "new"));
        let told = |reviews: &Reviews| {
            for n in (0..GENERATION + 100).step_by(97) {
                let expected = if n < 100 {
                    "second"
                } else if n < GENERATION {
                    "first"
                } else {
                    "new"
                };
                assert_eq!(label(reviews, &connection, n).as_deref(), Some(expected), "{n}");
            }
            assert_eq!(label(reviews, &connection, GENERATION + 100), None);
        };
        told(&reviews);
        let through = || connection.query_row("SELECT through FROM review_placed", [], |row| row.get::<_, i64>(0));
        assert_eq!(through().expect("reads"), 0);
        // A crash in the midst of a generation.
        let again = Reviews::default();
        again.load(&connection).expect("loads");
        told(&again);
        step(GENERATION);
        told(&reviews);
        assert_eq!(through().expect("reads"), GENERATION as i64);
    }

    #[test]
    fn what_waits_does_not_grow_with_the_reviews() {
        let (connection, reviews) = (table(MIGRATIONS.len()), Reviews::default());
        reviews.load(&connection).expect("loads");
        // A commit may be of one review or of many: a call can have 32 texts.
        for n in 0..5 * GENERATION {
            reviews.write(&connection, &hash(n), &known("good")).expect("writes");
            if n % 32 == 0 || n < GENERATION {
                reviews.place(&connection).expect("places");
                reviews.placed();
            }
        }
        let waiting = reviews.waiting();
        assert!(waiting.new.len() <= GENERATION + 32 && waiting.sorted.len() <= GENERATION + 32);
    }

    #[test]
    fn what_was_undone_is_not_taken_for_another() {
        let (connection, reviews) = (table(MIGRATIONS.len()), Reviews::default());
        reviews.load(&connection).expect("loads");
        let transaction = connection.unchecked_transaction().expect("begins");
        reviews.write(&connection, &hash(1), &known("lost")).expect("writes");
        transaction.rollback().expect("undoes");
        reviews.write(&connection, &hash(2), &known("kept")).expect("writes");
        assert_eq!(label(&reviews, &connection, 1), None);
        assert_eq!(label(&reviews, &connection, 2).as_deref(), Some("kept"));
    }

    #[test]
    fn reviews_of_the_schema_before_are_found() {
        let connection = table(2);
        let insert = "INSERT INTO review (hash, at, label, confidence) VALUES (?, 1, 'old', NULL)";
        (0..10).for_each(|n| {
            connection.execute(insert, [hash(n)]).expect("inserts");
        });
        connection.execute_batch(MIGRATIONS[2]).expect("migrates");
        let reviews = Reviews::default();
        reviews.load(&connection).expect("loads");
        assert!((0..10).all(|n| label(&reviews, &connection, n).as_deref() == Some("old")));
        assert_eq!(label(&reviews, &connection, 10), None);
    }
}
