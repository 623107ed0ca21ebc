//! The pool under kill -9: what it said it has is there afterwards.

use autoannotator::tune::pool::{Pool, Reviewed};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

const PLACE: &str = "AUTOANNOTATOR_TEST_POOL";

fn review(number: usize) -> Reviewed {
    let (label, reviewer) = ("positive".to_owned(), "human".to_owned());
    Reviewed { text: format!("text {number}"), label, reviewer, at: 0, votes: Vec::new() }
}

/// What the other test starts and kills: adds samples without end and says each one's number once it is kept.
#[test]
#[ignore = "runs as a process of its own"]
fn adds_without_end() {
    let Some(path) = std::env::var_os(PLACE) else { return };
    let mut pool = Pool::open(Path::new(&path)).expect("opens");
    for number in 0.. {
        assert_eq!(pool.add("sentiment", &[review(number)]).expect("adds"), 1);
        println!("kept {number}");
    }
}

#[test]
fn what_was_kept_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pool.db");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "adds_without_end", "--ignored", "--nocapture"])
        .env(PLACE, &path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let kept = lines.map_while(Result::ok).filter_map(|line| line.split_once("kept ")?.1.parse::<usize>().ok());
    let last = kept.take(50).last().expect("samples");
    child.kill().expect("kills");
    child.wait().expect("ends");
    let pool = Pool::open(&path).expect("opens again");
    let found = pool.all("sentiment").expect("reads");
    assert!(found.len() > last, "{} samples, but {last} was said to be kept", found.len());
    assert!(found.iter().enumerate().all(|(number, sample)| sample.text == format!("text {number}")));
}
