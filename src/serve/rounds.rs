//! Rounds beside the serving: `autoannotator tune` as a process of its own, at low priority, so that neither its memory nor
//! its death is the server's. Started when a task's pool is full or by hand, watched, and stopped by hand. A round that was
//! stopped goes on from where it was when it is started again.

use super::config::RoundFiles;
use super::{ApiError, Server};
use crate::spec::Spec;
use crate::tune::event::{ANOTHER_ROUND, Event, Progress};
use crate::tune::pool::{DrawCounts, Pool, Round, now};
use crate::tune::round::Report;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::stream::{Stream, unfold};
use serde::Serialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;

/// How often the pools are looked at for samples that others added.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

/// How much less a round counts than the serving.
const NICENESS: &str = "10";

/// How rounds are held.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program whose command `tune` holds one.
    pub program: PathBuf,
    /// Arguments for every task.
    pub arguments: Vec<OsString>,
    /// Where the specs are written that it reads.
    pub specs: PathBuf,
    /// Each task's files.
    pub files: BTreeMap<String, RoundFiles>,
}

/// A round at work.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Running {
    /// Seconds since 1970.
    since: u64,
    /// None before it has drawn.
    #[serde(flatten)]
    draw: Option<DrawCounts>,
    #[serde(flatten)]
    progress: Progress,
    reports: Vec<Report>,
}

/// How a round ended.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Last {
    /// `done`, `stopped` or `failed`.
    outcome: &'static str,
    /// Seconds since 1970.
    at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    round: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// None where it ended before it had drawn.
    #[serde(flatten)]
    draw: Option<DrawCounts>,
    reports: Vec<Report>,
}

impl From<Round> for Last {
    fn from(round: Round) -> Self {
        let Round { number, at, draw, reports, .. } = round;
        Self { outcome: "done", at, round: Some(number), problem: None, draw, reports }
    }
}

/// What there is to say of a task's rounds.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct TaskRounds {
    /// Reviewed samples that no round has used.
    unused: usize,
    /// Those at which a round starts by itself; 0 for never.
    starts_at: usize,
    running: Option<Running>,
    last: Option<Last>,
    /// After a round that failed or was stopped: it does not start by itself again before there are so many.
    #[serde(skip)]
    held_back: usize,
}

#[derive(Debug, Clone, Default)]
struct States {
    tasks: BTreeMap<String, TaskRounds>,
    /// The server is about to stop.
    closing: bool,
}

/// The round that runs; one at a time, whatever its task.
struct Current {
    task: String,
    child: Arc<Mutex<Child>>,
    stopped: bool,
}

/// Holds rounds for the tasks whose texts may be kept.
pub(crate) struct Rounds {
    options: Option<Options>,
    pool: Option<Arc<Mutex<Pool>>>,
    /// The spec of each task.
    specs: BTreeMap<String, Arc<Spec>>,
    states: watch::Sender<States>,
    current: Mutex<Option<Current>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Rounds {
    /// For the tasks of these specs whose texts may be kept.
    pub(crate) fn new<'a>(
        options: Option<Options>,
        pool: Option<Arc<Mutex<Pool>>>,
        specs: impl Iterator<Item = &'a Arc<Spec>>,
    ) -> Arc<Self> {
        let (mut kept, mut tasks) = (BTreeMap::new(), BTreeMap::new());
        let mut before = pool.as_deref().map(before).unwrap_or_default();
        for spec in specs.filter(|spec| spec.review.keep_text) {
            kept.insert(spec.task.name.clone(), spec.clone());
            let last = before.remove(&spec.task.name);
            let rounds = TaskRounds { starts_at: spec.tune.pool, last, ..TaskRounds::default() };
            tasks.insert(spec.task.name.clone(), rounds);
        }
        let states = watch::Sender::new(States { tasks, closing: false });
        Arc::new(Self { options, pool, specs: kept, states, current: Mutex::new(None) })
    }

    /// Looks at the pools from now on, as long as the server is there.
    pub(crate) fn watch(self: &Arc<Self>) {
        if self.pool.is_none() {
            return;
        }
        let rounds = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut clock = tokio::time::interval(LOOKED_AT_EVERY);
            loop {
                clock.tick().await;
                let Some(rounds) = rounds.upgrade() else { return };
                let _ = tokio::task::spawn_blocking(move || rounds.look()).await;
            }
        });
    }

    /// Counts the unused samples, and starts a round where there are enough.
    pub(crate) fn look(self: &Arc<Self>) {
        let Some(pool) = &self.pool else { return };
        let names: Vec<String> = self.states.borrow().tasks.keys().cloned().collect();
        for task in names {
            match lock(pool).counts(&task) {
                Ok(counts) => self.set(&task, |state| state.unused = counts.unused),
                Err(problem) => tracing::error!("{problem}"),
            }
            let full = |state: &TaskRounds| state.starts_at > 0 && state.unused >= state.starts_at.max(state.held_back);
            let full = self.states.borrow().tasks.get(&task).is_some_and(full);
            let free = full && self.options.is_some() && lock(&self.current).is_none();
            if let Some(problem) = free.then(|| self.start(&task)).and_then(Result::err) {
                tracing::error!("round of {task}: {}", problem.message);
            }
        }
    }

    fn set(&self, task: &str, change: impl FnOnce(&mut TaskRounds)) {
        self.states.send_modify(|states| {
            if let Some(state) = states.tasks.get_mut(task) {
                change(state);
            }
        });
    }

    /// Starts a task's round.
    fn start(self: &Arc<Self>, task: &str) -> Result<(), ApiError> {
        let conflict = |message: String| ApiError::new(StatusCode::CONFLICT, "rounds-running", message);
        let mut current = lock(&self.current);
        if let Some(Current { task, .. }) = &*current {
            return Err(conflict(format!("a round of the task {task} is running; wait for it, or stop it")));
        }
        let Some(options) = self.options.as_ref().filter(|_| !self.states.borrow().closing) else {
            return Err(conflict("this server holds no rounds".to_owned()));
        };
        let Some(spec) = self.specs.get(task) else { return Err(conflict(format!("there is no task {task}"))) };
        let path = options.specs.join(format!("rounds-{task}.json"));
        let spawned = std::fs::write(&path, spec.to_json()).and_then(|()| spawn(options, &path, spec));
        let mut child = spawned.map_err(|error| {
            let message = format!("{} cannot be started: {error}", options.program.display());
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "rounds-start", message)
        })?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let child = Arc::new(Mutex::new(child));
        *current = Some(Current { task: task.to_owned(), child: child.clone(), stopped: false });
        tracing::info!("a round of the task {task} starts");
        let running = Running { since: now(), draw: None, progress: Progress::default(), reports: Vec::new() };
        self.set(task, |state| state.running = Some(running));
        drop(current);
        let (rounds, task) = (Arc::downgrade(self), task.to_owned());
        let said = std::thread::spawn(move || err.map(said).unwrap_or_default());
        std::thread::spawn(move || {
            let mut number = None;
            for line in out.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                match (serde_json::from_str(&line), rounds.upgrade()) {
                    (Ok(Event::Done { round }), _) => number = Some(round),
                    (Ok(event), Some(rounds)) => rounds.set(&task, |state| told(state, event)),
                    _ => {}
                }
            }
            let well = ended_well(&child);
            let problem = said.join().unwrap_or_default();
            ended(&rounds, &task, number.filter(|_| well), problem);
        });
        Ok(())
    }

    /// Stops a task's round, if it has one.
    fn stop(&self, task: &str) -> bool {
        let mut current = lock(&self.current);
        match current.as_mut().filter(|current| current.task == task) {
            None => false,
            Some(current) => {
                current.stopped = true;
                // Its end is noticed where its output is read.
                lock(&current.child).kill().is_ok()
            }
        }
    }

    /// Ends what would keep the server from stopping.
    pub(crate) fn close(&self) {
        self.states.send_modify(|states| states.closing = true);
        if let Some(current) = lock(&self.current).as_mut() {
            current.stopped = true;
            let _ = lock(&current.child).kill();
        }
    }

    /// Unused reviewed samples of each task.
    pub(crate) fn unused(&self) -> Vec<(String, usize)> {
        self.states.borrow().tasks.iter().map(|(task, state)| (task.clone(), state.unused)).collect()
    }

    fn state(&self, task: &str) -> Result<TaskRounds, ApiError> {
        self.states.borrow().tasks.get(task).cloned().ok_or_else(|| {
            let message = format!("no texts of the task '{task}' are kept here, so it has no rounds");
            ApiError::new(StatusCode::NOT_FOUND, "rounds-task", message)
        })
    }
}

/// Waits for the end of a process that may be killed meanwhile.
fn ended_well(child: &Mutex<Child>) -> bool {
    loop {
        match lock(child).try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => {}
            Err(_) => return false,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.close();
    }
}

/// The last round that each task has had, as the pool has it.
fn before(pool: &Mutex<Pool>) -> BTreeMap<String, Last> {
    let rounds = lock(pool).rounds().unwrap_or_else(|problem| {
        tracing::error!("{problem}");
        Vec::new()
    });
    rounds.into_iter().map(|round| (round.task.clone(), Last::from(round))).collect()
}

/// Starts a round's process, at low priority where the system has a `nice`.
fn spawn(options: &Options, path: &std::path::Path, spec: &Spec) -> std::io::Result<Child> {
    let start = |mut command: Command| {
        command.args(["tune", "--json", "--spec"]).arg(path).args(["--slms", &spec.slms.join(",")]);
        command
            .args(&options.arguments)
            .args(options.files.get(&spec.task.name).iter().flat_map(|files| files.arguments()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    };
    if cfg!(unix) {
        let mut nice = Command::new("nice");
        nice.args(["-n", NICENESS]).arg(&options.program);
        match start(nice) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::warn!("there is no `nice` here, so the round has the server's own priority");
            }
            started => return started,
        }
    }
    start(Command::new(&options.program))
}

/// Passes on what a round says on standard error; returns its last line, which is the error if there was one.
fn said(err: impl std::io::Read) -> String {
    let mut last = String::new();
    for line in BufReader::new(err).lines().map_while(Result::ok) {
        tracing::debug!("round: {line}");
        last = line;
    }
    last.strip_prefix("error: ").unwrap_or(&last).to_owned()
}

fn told(state: &mut TaskRounds, event: Event) {
    let Some(running) = &mut state.running else { return };
    match event {
        Event::Pool(draw) => running.draw = Some(draw),
        Event::Progress(progress) => running.progress = progress,
        Event::Slm(report) => running.reports.push(report),
        Event::Done { .. } => {}
    }
}

fn ended(rounds: &Weak<Rounds>, task: &str, round: Option<i64>, problem: String) {
    let Some(rounds) = rounds.upgrade() else { return };
    let mut current = lock(&rounds.current);
    let stopped = current.as_ref().is_some_and(|current| current.stopped);
    let outcome = match round {
        Some(_) => "done",
        None if stopped => "stopped",
        None => "failed",
    };
    // One that a server before left behind still holds the task's lock; it is looked at again later.
    let elsewhere = problem.contains(ANOTHER_ROUND);
    let problem = (outcome == "failed").then_some(problem);
    match &problem {
        Some(problem) => tracing::error!("the round of the task {task} failed: {problem}"),
        None => tracing::info!("the round of the task {task}: {outcome}"),
    }
    rounds.set(task, |state| {
        let (draw, reports) = state.running.take().map(|running| (running.draw, running.reports)).unwrap_or_default();
        state.last = Some(Last { outcome, at: now(), round, problem, draw, reports });
        state.held_back = if outcome == "done" || elsewhere { 0 } else { state.unused + state.starts_at / 10 + 1 };
    });
    *current = None;
    drop(current);
    if !elsewhere {
        rounds.look();
    }
}

/// `GET /v1/rounds`: every task whose texts are kept.
pub(super) async fn list(State(server): State<Arc<Server>>) -> Json<BTreeMap<String, TaskRounds>> {
    Json(server.rounds.states.borrow().tasks.clone())
}

/// `GET /v1/rounds/events`: the same, at once and whenever something changes.
pub(super) async fn events(
    State(server): State<Arc<Server>>,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let mut changes = server.rounds.states.subscribe();
    changes.mark_changed();
    let stream = unfold(changes, |mut changes| async move {
        changes.changed().await.ok()?;
        let states = changes.borrow_and_update().clone();
        let event = sse::Event::default().event("rounds").json_data(&states.tasks).ok()?;
        (!states.closing).then_some((Ok(event), changes))
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}

/// A task's name in an address; one that is no UTF-8 is no task's.
fn named(task: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    let unnamed = |_| ApiError::new(StatusCode::NOT_FOUND, "rounds-task", "a task's name is UTF-8, percent-encoded");
    task.map(|Path(task)| task).map_err(unnamed)
}

/// `POST /v1/rounds/{task}`: starts a round now.
pub(super) async fn start(
    State(server): State<Arc<Server>>,
    task: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<TaskRounds>), ApiError> {
    let task = named(task)?;
    server.rounds.state(&task)?;
    server.rounds.start(&task)?;
    Ok((StatusCode::ACCEPTED, Json(server.rounds.state(&task)?)))
}

/// `DELETE /v1/rounds/{task}`: stops the one that runs.
pub(super) async fn stop(
    State(server): State<Arc<Server>>,
    task: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<TaskRounds>), ApiError> {
    let task = named(task)?;
    server.rounds.state(&task)?;
    if !server.rounds.stop(&task) {
        let message = format!("no round of the task {task} is running");
        return Err(ApiError::new(StatusCode::CONFLICT, "rounds-idle", message));
    }
    Ok((StatusCode::ACCEPTED, Json(server.rounds.state(&task)?)))
}

/// Of each type that is told of rounds one with every field, and one with those that are always there.
#[cfg(test)]
pub(super) fn examples(report: Report) -> [(&'static str, serde_json::Value, serde_json::Value); 3] {
    fn json(value: &impl Serialize) -> serde_json::Value {
        serde_json::to_value(value).expect("JSON")
    }
    let draw = Some(DrawCounts { samples: 1, contradicted: 2, overruled: 3 });
    let starting = Running { since: 1, draw: None, progress: Progress::default(), reports: vec![report.clone()] };
    let running = Running { draw, ..starting.clone() };
    let least = Last { outcome: "stopped", at: 1, round: None, problem: None, draw: None, reports: vec![report] };
    let last = Last { round: Some(1), problem: Some("p".into()), draw, ..least.clone() };
    let task = TaskRounds { running: Some(running.clone()), last: Some(last.clone()), ..TaskRounds::default() };
    [
        ("Running", json(&running), json(&starting)),
        ("Last", json(&last), json(&least)),
        ("TaskRounds", json(&task), json(&TaskRounds::default())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::gate::{Decision, Paired};
    use crate::tune::pool::Reviewed;

    #[test]
    fn a_server_that_starts_again_tells_of_the_round_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut pool = Pool::open(&folder.path().join("pool.db")).expect("a pool");
        let spec = "task = \"sentiment\"\n[review]\nto = \"person\"\nkeep_text = true\n";
        let spec = Arc::new(Spec::from_toml(spec).expect("a spec"));
        let review = |label: &str| Reviewed {
            text: "a".into(),
            label: label.into(),
            reviewer: "human".into(),
            at: 1,
            votes: Vec::new(),
        };
        pool.add("sentiment", &[review("positive"), review("negative")]).expect("adds");
        let drawn = pool.draw("sentiment", &spec.task.labels, None).expect("draws");
        let gate = Paired { texts: 20, before: 0.5, after: 0.5, least_gain: 0.0 };
        let decision = Decision::Kept("not surely better".into());
        let report = Report { slm: "s".into(), decision, gate, anchor: None, share: 1.0, trained_on: [70, 0] };
        let number = pool.mark("sentiment", &drawn, &[], &[report]).expect("marks");
        let rounds = Rounds::new(None, Some(Arc::new(Mutex::new(pool))), std::iter::once(&spec));
        let last = serde_json::to_value(&rounds.states.borrow().tasks["sentiment"].last).expect("JSON");
        assert_eq!((&last["outcome"], &last["round"]), (&"done".into(), &number.into()));
        assert_eq!((&last["samples"], &last["contradicted"], &last["overruled"]), (&1.into(), &0.into(), &1.into()));
        assert_eq!(last["reports"][0]["why"], "not surely better");
    }
}
