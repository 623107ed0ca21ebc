//! `autoannotator check`.

use crate::hub::{Home, HubError, models_dir, packing};
use crate::serve::config::Config;
use crate::slm::SlmError;
use crate::slm::model::Slm;
use crate::slm::pack::Index;
use crate::spec::{Lines, PromptStyle, ReviewTo, Spec, SpecError};
use crate::task::Task;
use crate::vote::{Ballot, BallotError, Rule, Uncovered};
use anyhow::Context;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Holds a spec against the models that it names, and says what is wrong and what to do
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator check
  autoannotator check --spec tickets.toml
  autoannotator check --spec tickets.toml --config server.toml --json

Each SLM is looked for where `annotate` finds it, loaded whole, and its labels are held against the task's and the spec's
label_map. Ends with 0 where there is no error (warnings may be), else with 1.")]
pub(super) struct Args {
    /// The spec, in TOML or JSON.
    #[arg(long, default_value = "annotator.toml")]
    spec: PathBuf,
    /// A server's config file, which is checked too.
    #[arg(long)]
    config: Option<PathBuf>,
    /// What the SLMs are to compute in: int8 or f32.
    #[arg(long, default_value = "int8", value_parser = ["int8", "f32"])]
    precision: String,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// The folder with one folder an SLM [default: $AUTOANNOTATOR_MODELS, or models/ here or above].
    #[arg(long)]
    models: Option<PathBuf>,
    /// The folder with what was downloaded and packed [default: $AUTOANNOTATOR_HOME or the platform's cache folder].
    #[arg(long)]
    home: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// A run would fail.
    Error,
    /// A run would do something that may not be meant.
    Warning,
}

/// Something that is wrong, and what to do.
#[derive(Debug, Serialize)]
struct Problem {
    severity: Severity,
    /// The spec's line; none where it is not about the spec.
    line: Option<usize>,
    code: String,
    message: String,
}

/// What was found of an SLM.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    /// `packed`, `not packed`, `unknown` or `broken`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    labels: Vec<String>,
    #[serde(skip_serializing_if = "Uncovered::is_empty")]
    uncovered: Uncovered,
}

#[derive(Debug, Serialize)]
struct Found {
    spec: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<Task>,
    slms: Vec<Row>,
    problems: Vec<Problem>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let path = args.spec.display().to_string();
    let text = std::fs::read_to_string(&args.spec)
        .with_context(|| format!("cannot read the spec {path}; name one with --spec"))?;
    let json = args.spec.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let read = if json { Spec::from_json(&text) } else { Spec::from_toml(&text) };
    let lines = if json { Lines::from_json(&text) } else { Lines::from_toml(&text) };
    let mut check = Check { problems: Vec::new(), rows: Vec::new() };
    let spec = match (read, lines) {
        (Ok(spec), Ok(lines)) => {
            check.slms(&args, &spec, &lines)?;
            check.review(&spec, &lines);
            Some(spec)
        }
        (Err(error), _) | (_, Err(error)) => {
            check.spec(&error);
            None
        }
    };
    if let Some(path) = &args.config {
        check.config(path);
    }
    let Check { problems, rows } = check;
    let ok = problems.iter().all(|problem| problem.severity != Severity::Error);
    let found = Found { spec: path, ok, task: spec.as_ref().map(|spec| spec.task.clone()), slms: rows, problems };
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&found)?),
        false => print!("{}", table(&found, spec.as_ref())),
    }
    let errors = found.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    anyhow::ensure!(ok, "{} has {errors} error{}", found.spec, if errors == 1 { "" } else { "s" });
    Ok(())
}

struct Check {
    problems: Vec<Problem>,
    rows: Vec<Row>,
}

impl Check {
    fn tell(&mut self, severity: Severity, line: Option<usize>, code: &str, message: impl Into<String>) {
        let (code, message) = (code.to_owned(), message.into());
        self.problems.push(Problem { severity, line, code, message });
    }

    /// An error whose message starts with its code.
    fn fail(&mut self, line: Option<usize>, message: &str, advice: &str) {
        let (code, rest) = message.split_once(": ").unwrap_or(("error", message));
        let rest = line.and_then(|line| rest.strip_prefix(&format!("line {line}: "))).unwrap_or(rest);
        self.tell(Severity::Error, line, code, format!("{rest}{advice}"));
    }

    fn spec(&mut self, error: &SpecError) {
        let line = match error {
            SpecError::Syntax { line, .. }
            | SpecError::UnknownKey { line, .. }
            | SpecError::Value { line, .. }
            | SpecError::Labels { line, .. } => Some(*line),
            SpecError::Task(_) => None,
        };
        self.fail(line, &error.to_string(), "");
    }

    fn slms(&mut self, args: &Args, spec: &Spec, lines: &Lines) -> anyhow::Result<()> {
        let home = Home::find(args.home.as_deref())?;
        let index = packing::index(&home).unwrap_or_else(|error| {
            self.fail(None, &error.to_string(), "; write it again with `autoannotator pack`");
            Index::default()
        });
        // A folder of models is of use, but not needed where all is packed.
        let folders = models_dir(args.models.as_deref()).and_then(|models| packing::current(&models, &home));
        let trained: BTreeMap<String, Vec<String>> = match folders {
            Ok(folders) => folders.into_iter().map(|folder| (folder.slm.id, folder.slm.labels)).collect(),
            Err(HubError::NoModels) => BTreeMap::new(),
            Err(error) => {
                self.fail(None, &error.to_string(), "");
                BTreeMap::new()
            }
        };
        for id in &spec.slms {
            let line = Some(lines.of(&["slms", id]));
            let packed = index.slms.iter().filter(|slm| slm.id == *id).map(|slm| slm.precision.computes_in());
            let packed: Vec<&str> = packed.collect();
            let mut row = Row {
                id: id.clone(),
                state: "packed",
                version: None,
                labels: Vec::new(),
                uncovered: Uncovered::default(),
            };
            if packed.contains(&args.precision.as_str()) {
                match load(&home, id, &args.precision) {
                    Ok(slm) => {
                        row.version = Some(slm.version().to_owned());
                        row.labels = slm.meta().labels.clone();
                        row.uncovered = self.labels(spec, lines, id, Ok(slm));
                    }
                    Err(error) => {
                        row.state = "broken";
                        let advice = match error {
                            HubError::Slm(SlmError::Tokenizer(_)) => {
                                "; pack it again with the tokenizer it was trained with"
                            }
                            _ => "; pack it again with `autoannotator pack`",
                        };
                        self.fail(line, &error.to_string(), &format!(" (SLM '{id}'){advice}"));
                    }
                }
            } else if let Some(labels) = trained.get(id) {
                row.state = "not packed";
                row.labels.clone_from(labels);
                row.uncovered = self.labels(spec, lines, id, Err(labels.as_slice()));
                let (flag, precision) =
                    (if args.precision == "f32" { " --precision f16" } else { "" }, &args.precision);
                let message =
                    format!("the SLM '{id}' is not packed in {precision} yet; run `autoannotator pack {id}{flag}`");
                self.tell(Severity::Warning, line, "check-not-packed", message);
            } else {
                row.state = "unknown";
                let mut known: Vec<&str> =
                    index.slms.iter().map(|slm| slm.id.as_str()).chain(trained.keys().map(String::as_str)).collect();
                known.sort_unstable();
                known.dedup();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let message = if packed.is_empty() {
                    format!(
                        "there is no SLM '{id}'; there are: {known}. Name one of them, or train it with `autoannotator train`"
                    )
                } else {
                    format!(
                        "the SLM '{id}' is packed in {} only; give --precision, or pack it again",
                        packed.join(" and ")
                    )
                };
                self.tell(Severity::Error, line, "check-slm-unknown", message);
            }
            self.rows.push(row);
        }
        self.coverage(spec, lines);
        Ok(())
    }

    /// Holds an SLM's labels, of itself or of the folder that it is packed from, against the task.
    fn labels(&mut self, spec: &Spec, lines: &Lines, id: &str, labels: Result<Slm, &[String]>) -> Uncovered {
        let map = spec.label_maps.get(id);
        let uncovered = match labels {
            Ok(mut slm) => slm.vote_on(&spec.task, map).cloned(),
            Err(labels) => Ballot::new(&spec.task.labels, labels, Default::default(), map)
                .map(|ballot| ballot.uncovered().clone())
                .map_err(|error| SlmError::Labels { id: id.to_owned(), error }),
        };
        match uncovered {
            Ok(uncovered) => {
                let line = Some(lines.of(&["label_map", id]));
                if !uncovered.model.is_empty() {
                    let message = format!(
                        "labels of '{id}' that are none of the task: {}; where one of them is the likeliest, the sample is hard. \
                         Name them in the map's labels, or leave it so",
                        uncovered.model.join(", ")
                    );
                    self.tell(Severity::Warning, line, "check-uncovered", message);
                }
                if !uncovered.task.is_empty() {
                    let message = format!("'{id}' never names: {}", uncovered.task.join(", "));
                    self.tell(Severity::Warning, line, "check-uncovered", message);
                }
                uncovered
            }
            Err(error) => {
                let line = match &error {
                    SlmError::Labels { error: BallotError::UnknownModelLabel { label, .. }, .. } => {
                        ["labels", "thresholds"].map(|key| lines.of(&["label_map", id, key, label])).into_iter().max()
                    }
                    SlmError::Labels { error: BallotError::Threshold { key }, .. } => {
                        Some(lines.of(&["label_map", id, key]))
                    }
                    _ if map.is_some() => Some(lines.of(&["label_map", id])),
                    _ => Some(lines.of(&["slms", id])),
                };
                self.fail(line, &error.to_string(), "");
                Uncovered::default()
            }
        }
    }

    /// Labels that no vote, or no agreement, can bring about.
    fn coverage(&mut self, spec: &Spec, lines: &Lines) {
        let known: Vec<&Row> = self.rows.iter().filter(|row| !row.labels.is_empty()).collect();
        if known.len() < spec.slms.len() {
            return;
        }
        let mut found = Vec::new();
        for label in spec.task.labels.names() {
            let without = known.iter().filter(|row| row.uncovered.task.contains(&label)).count();
            let naming = known.len() - without;
            if naming == 0 {
                found.push(format!("no SLM ever names '{label}'; only a reviewer can give it"));
            } else if without > 0 && spec.rule == Rule::Unanimous {
                found.push(format!(
                    "'{label}' is never unanimous, because not every SLM names it; rule = \"majority\" would accept it"
                ));
            }
        }
        for message in found {
            self.tell(Severity::Warning, Some(lines.of(&["label_map"])), "check-uncovered", message);
        }
    }

    fn review(&mut self, spec: &Spec, lines: &Lines) {
        let review = &spec.review;
        if review.to != ReviewTo::Llm {
            return;
        }
        let line = |key: &str| Some(lines.of(&["review", key]));
        if review.usd_per_million.is_none() {
            let message = "an LLM reviews and its prices are not given, so no cost can be told before a run; set usd_per_million = \
                           { prompt = .., completion = .. } in [review]";
            self.tell(Severity::Warning, line("usd_per_million"), "check-prices", message);
        }
        let names = spec.task.labels.names();
        let undefined = spec.task.labels.iter().filter(|label| label.definition.is_none());
        let undefined: Vec<&str> = undefined.map(|label| label.name.as_str()).collect();
        if !undefined.is_empty() {
            let message = format!(
                "an LLM reviews and is told no more than the name of: {}; give these labels a definition",
                undefined.join(", ")
            );
            self.tell(Severity::Warning, Some(lines.of(&["labels"])), "check-definition", message);
        }
        let unshown = names.iter().filter(|name| review.examples.iter().all(|example| example.label != **name));
        let unshown: Vec<&str> = unshown.map(String::as_str).collect();
        if review.style == PromptStyle::FewShot && !unshown.is_empty() {
            let message = format!(
                "the examples show no text of: {}; an LLM leans to the labels it was shown",
                unshown.join(", ")
            );
            self.tell(Severity::Warning, line("examples"), "check-examples", message);
        }
    }

    /// A server's config; what it says is not about a line of the spec.
    fn config(&mut self, path: &Path) {
        let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
        let outcome = read.and_then(|file| {
            Config::read(&file, |name| std::env::var(name).ok()).map(drop).map_err(|error| format!("{error:#}"))
        });
        if let Err(problem) = outcome {
            let problem = problem.strip_prefix("serve-config: ").unwrap_or(&problem);
            self.tell(Severity::Error, None, "serve-config", format!("{}: {problem}", path.display()));
        }
    }
}

fn load(home: &Home, id: &str, precision: &str) -> Result<Slm, HubError> {
    packing::load(home, id, precision, 1)
}

fn table(found: &Found, spec: Option<&Spec>) -> String {
    let mut lines = Vec::new();
    if let Some(spec) = spec {
        let rule = if spec.rule == Rule::Unanimous { "unanimous" } else { "majority" };
        let names = spec.task.labels.names().join(", ");
        lines.push(format!("{}: task '{}' ({names}), {rule}", found.spec, spec.task.name));
        let width = found.slms.iter().map(|row| row.id.chars().count()).max().unwrap_or(0);
        for row in &found.slms {
            let version = row.version.as_deref().unwrap_or("-");
            lines.push(format!("  {:width$}  {:10}  {version:12}  {}", row.id, row.state, row.labels.join(", ")));
        }
    }
    for problem in &found.problems {
        let severity = if problem.severity == Severity::Error { "error" } else { "warning" };
        let place = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        lines.push(format!("{severity:7}  {place}{} [{}]", problem.message, problem.code));
    }
    if found.problems.is_empty() {
        lines.push("nothing is wrong".to_owned());
    }
    lines.join("\n") + "\n"
}
