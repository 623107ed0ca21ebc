//! The versions that rounds brought the SLMs to: a record of each SLM in the home's store, and the adapters of the rounds
//! by their hash in `<home>/versions/<id>/`. Version 0 is what lies in `models/`.

use super::{Home, HubError, disk, write_atomically};
use crate::slm::adapter::{AdapterFile, SlmFolder};
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// One version after a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// Its number, from 1.
    pub number: usize,
    /// The version that the round went on from.
    pub parent: usize,
    /// Seconds since 1970.
    pub at: u64,
    /// Names the round, so that one that was killed between two steps does not hold it twice.
    #[serde(default)]
    pub round: String,
    /// What the round and its gate found.
    pub report: Value,
    /// Its `slm.toml`.
    slm: String,
}

/// An SLM's versions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// The one that is served.
    pub current: usize,
    /// All of them, in order, but 0.
    pub all: Vec<Version>,
    /// The hash of the adapter in `models/` that they go back to.
    root: String,
}

/// Where an SLM's versions lie.
pub fn folder(home: &Home, id: &str) -> PathBuf {
    home.path().join("versions").join(id)
}

/// An SLM's versions. Where the SLM in `models/` is another than they go back to, it has none: they would not fit it.
pub fn read(home: &Home, slm: &SlmFolder) -> Result<Versions, HubError> {
    let none = || Versions { root: slm.adapter.sha256.clone(), ..Versions::default() };
    let Some(json) = record(home, &slm.id)? else { return Ok(none()) };
    let fail = |problem: String| fail(home, problem);
    let versions: Versions = serde_json::from_str(&json).map_err(|e| fail(e.to_string()))?;
    if versions.root != slm.adapter.sha256 {
        return Ok(none());
    }
    if versions.current > versions.all.len() {
        return Err(fail(format!("version {} is current, but there are {}", versions.current, versions.all.len())));
    }
    Ok(versions)
}

/// The current version's `slm.toml`, read and as text; none where that is the one in `models/`.
pub(super) fn current(home: &Home, slm: &SlmFolder) -> Result<Option<(SlmFolder, String)>, HubError> {
    let versions = read(home, slm)?;
    let Some(version) = versions.current.checked_sub(1).and_then(|at| versions.all.get(at)) else { return Ok(None) };
    let file = home.store().display().to_string();
    Ok(Some((SlmFolder::from_toml(&version.slm, &file)?, version.slm.clone())))
}

/// Adds what the round of this name made of an SLM: `slm` with the round's adapter as its last, whose bytes these are.
/// `models` is the SLM as it lies in `models/`. It becomes current, unless somebody made another version current than the
/// one that the round began with: that choice holds. Returns the version's number, and the current one's.
pub fn add(
    home: &Home,
    models: &SlmFolder,
    slm: &SlmFolder,
    adapter: &[u8],
    (round_name, report): (&str, &impl Serialize),
    at: u64,
) -> Result<(usize, usize), HubError> {
    let folder = folder(home, &slm.id);
    let fail = |problem: String| fail(home, problem);
    let _lock = home.lock("versions")?;
    let mut versions = read(home, models)?;
    let Some((round, before)) = slm.rounds.split_last() else {
        return Err(fail("a version without a round".to_owned()));
    };
    let parent = having(home, &versions, before)?;
    write_atomically(&folder.join(&round.file), adapter)?;
    let number = versions.all.len() + 1;
    let report = serde_json::to_value(report).map_err(|e| fail(e.to_string()))?;
    let toml = toml::to_string(slm).map_err(|e| fail(e.to_string()))?;
    versions.all.push(Version { number, parent, at, round: round_name.to_owned(), report, slm: toml });
    if versions.current == parent {
        versions.current = number;
    }
    write(home, &slm.id, &versions)?;
    Ok((number, versions.current))
}

/// The version with these adapters of rounds; the current one if that is one.
fn having(home: &Home, versions: &Versions, rounds: &[AdapterFile]) -> Result<usize, HubError> {
    let file = home.store().display().to_string();
    for number in std::iter::once(versions.current).chain(0..=versions.all.len()) {
        let version = number.checked_sub(1).and_then(|at| versions.all.get(at));
        let slm = version.map(|version| SlmFolder::from_toml(&version.slm, &file)).transpose()?;
        if slm.map_or_else(Vec::new, |slm| slm.rounds) == rounds {
            return Ok(number);
        }
    }
    Err(fail(home, "the version that the round began with is no longer there; hold the round again"))
}

/// Makes another version current: the parent of the current one, or the one of this number. Returns its number.
pub fn roll_back(home: &Home, models: &SlmFolder, to: Option<usize>) -> Result<usize, HubError> {
    let _lock = home.lock("versions")?;
    let mut versions = read(home, models)?;
    let parent = versions.current.checked_sub(1).and_then(|at| versions.all.get(at)).map(|version| version.parent);
    let fail = |problem: String| Err(HubError::File { file: models.id.clone(), problem });
    let Some(target) = to.or(parent) else {
        return fail("it is at version 0 already: no round has changed it".to_owned());
    };
    if target > versions.all.len() {
        return fail(format!("there is no version {target}; the last one is {}", versions.all.len()));
    }
    versions.current = target;
    write(home, &models.id, &versions)?;
    Ok(target)
}

fn fail(home: &Home, problem: impl ToString) -> HubError {
    HubError::File { file: home.store().display().to_string(), problem: problem.to_string() }
}

/// The store's table of versions, which it shares with the pool and the server.
fn table(home: &Home) -> Result<Connection, HubError> {
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(home.store())?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS versions (slm TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;",
        )?;
        Ok(connection)
    };
    open().map_err(|error| fail(home, error))
}

/// An SLM's record; one that an earlier build left in a file is taken over when it is next written.
fn record(home: &Home, id: &str) -> Result<Option<String>, HubError> {
    if home.store().exists() {
        let query = "SELECT record FROM versions WHERE slm = ?";
        let found = table(home)?.query_row(query, [id], |row| row.get(0)).optional();
        if let Some(json) = found.map_err(|error| fail(home, error))? {
            return Ok(Some(json));
        }
    }
    let path = folder(home, id).join("versions.json");
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some).map_err(disk(&path)),
    }
}

fn write(home: &Home, id: &str, versions: &Versions) -> Result<(), HubError> {
    let json = serde_json::to_string(versions).map_err(|error| fail(home, error))?;
    let insert = "INSERT OR REPLACE INTO versions (slm, record) VALUES (?, ?)";
    table(home)?.execute(insert, [id, json.as_str()]).map(drop).map_err(|error| fail(home, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slm::adapter::{AdapterFile, Method, Metrics, sha256_hex};
    use crate::slm::weights::Pooling;

    fn adapter(bytes: &[u8]) -> AdapterFile {
        let sha256 = sha256_hex(bytes);
        AdapterFile {
            file: format!("round-{}.safetensors", &sha256[..12]),
            sha256,
            method: Method::Lora,
            rank: 1,
            alpha: 1.0,
        }
    }

    fn slm(first: &[u8]) -> SlmFolder {
        SlmFolder {
            id: "tiny".into(),
            task: "sentiment".into(),
            labels: vec!["a".into(), "b".into()],
            base: "base".into(),
            base_sha256: "00".into(),
            max_length: 16,
            pooling: Pooling::Mean,
            temperature: 1.0,
            adapter: adapter(first),
            validation: Metrics { accuracy: 0.5, macro_f1: 0.5, nll: 0.5 },
            rounds: Vec::new(),
        }
    }

    #[test]
    fn a_roll_back_during_a_round_holds() {
        let place = tempfile::tempdir().expect("a folder");
        let home = Home::find(Some(place.path())).expect("a home");
        let root = slm(b"first");
        let mut next = root.clone();
        next.rounds.push(adapter(b"one"));
        add(&home, &root, &next, b"one", ("r1", &"good"), 1).expect("adds");
        // A round from version 1 ends after somebody went back to 0.
        next.rounds.push(adapter(b"two"));
        roll_back(&home, &root, None).expect("goes back");
        assert_eq!(add(&home, &root, &next, b"two", ("r2", &"good"), 2).expect("adds"), (2, 0));
        let versions = read(&home, &root).expect("reads");
        assert_eq!((versions.current, versions.all[1].parent), (0, 1));
        assert_eq!(roll_back(&home, &root, Some(2)).expect("takes it"), 2);
        // A round from a version that nobody knows of.
        let stray = SlmFolder { rounds: vec![adapter(b"stray"), adapter(b"three")], ..root.clone() };
        assert!(add(&home, &root, &stray, b"three", ("r3", &"good"), 3).is_err());
    }

    #[test]
    fn versions_add_up_and_roll_back() {
        let place = tempfile::tempdir().expect("a folder");
        let home = Home::find(Some(place.path())).expect("a home");
        let root = slm(b"first");
        assert_eq!(current(&home, &root).expect("reads"), None);
        assert!(roll_back(&home, &root, None).is_err());
        let mut next = root.clone();
        next.rounds.push(adapter(b"one"));
        assert_eq!(add(&home, &root, &next, b"one", ("r1", &"good"), 1).expect("adds"), (1, 1));
        next.rounds.push(adapter(b"two"));
        assert_eq!(add(&home, &root, &next, b"two", ("r2", &"good"), 2).expect("adds"), (2, 2));
        assert_eq!(current(&home, &root).expect("reads").map(|(slm, _)| slm), Some(next.clone()));
        assert_eq!(std::fs::read(folder(&home, "tiny").join(&next.rounds[1].file)).expect("reads"), b"two");
        assert_eq!(roll_back(&home, &root, None).expect("goes back"), 1);
        assert_eq!(current(&home, &root).expect("reads").map(|(slm, _)| slm.rounds.len()), Some(1));
        assert_eq!(roll_back(&home, &root, Some(0)).expect("goes back"), 0);
        assert_eq!(current(&home, &root).expect("reads"), None);
        assert!(roll_back(&home, &root, Some(3)).is_err());
        // A backup of the store has them; a file of an earlier build is read where there is no record.
        let record = record(&home, "tiny").expect("reads").expect("there");
        std::fs::remove_file(home.store()).expect("removes");
        assert_eq!(read(&home, &root).expect("reads").all, []);
        std::fs::write(folder(&home, "tiny").join("versions.json"), record).expect("writes");
        assert_eq!(read(&home, &root).expect("reads").all.len(), 2);
        // Another SLM of that id in models/ starts anew.
        assert_eq!(read(&home, &slm(b"other")).expect("reads").all, []);
    }
}
