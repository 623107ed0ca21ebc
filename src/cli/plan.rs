//! `autoannotator plan`.

use crate::controller::catalogue::{self, Candidate, Refused, Snapshot, Wants};
use crate::controller::labels::{self, Labels, UNNAMED};
use crate::controller::llm::{Consent, Cost, Llm};
use crate::controller::mapping::{self, Given};
use crate::controller::measure::{self, Measured, Place};
use crate::controller::probe::{self, FEWEST, Probe};
use crate::controller::rank::{self, Ranked};
use crate::controller::remote::{Query, Remote};
use crate::controller::select::{Choice, Field, Outcome};
use crate::controller::{PlanError, plain, write};
use crate::hub::{Home, HubSettings, models_dir};
use crate::serve::config::Config;
use crate::serve::store::Store;
use crate::slm::adapter::{hex, sha256_of};
use crate::spec::{Prices, ReviewTo, Spec};
use crate::task::Task;
use crate::vote::{LabelMap, Rule};
use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Texts of which an LLM is shown when it proposes labels, and the characters of each.
const SHOWN: usize = 20;
const SHOWN_CHARS: usize = 300;
/// US dollars that a plan may spend where nothing is said.
const BUDGET: f64 = 1.0;

/// Chooses the SLMs of a new task by measurement, and writes its annotator.toml
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator plan \"label these app reviews as bug, praise or question\" --texts reviews.csv --probe labelled.csv
  autoannotator plan \"label these app reviews as bug, praise or question\" --texts reviews.csv --budget-usd 0.50 \\
      --usd-per-million 0.15,0.60 --yes            the LLM labels the probe, within the budget
  autoannotator plan --task sentiment --probe labelled.csv --no-llm --max-mb 60      by flags alone
  autoannotator plan --task reviews --definitions labels.toml --probe labelled.csv --catalogue plan/catalogue.json --offline

What happens, each step by flags where you prefer: an LLM proposes labels, written to OUT/labels.toml for you to edit (--labels,
--definitions, --task); the hub's catalogue is searched (--search, --licence, --language, --catalogue, --folder, --no-hub) and
what cannot be loaded refused with its reason; the LLM ranks the candidates by id out of that list (--candidate, --no-llm: by
downloads); the first of them (--shortlist) are brought and measured on a probe of labelled texts (--probe, else the LLM
labels --probe-size of --texts); the -k of the best accuracy together are chosen under --max-mb. OUT/annotator.toml is written.

The LLM is that of `serve`: AUTOANNOTATOR_LLM_URL, _KEY, _MODEL, or [llm] of --config. What a step costs is told before, and
asked for unless --yes. Texts are redacted before they leave. A plan that was stopped goes on by the same command: replies,
files and measurements are kept. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and AUTOANNOTATOR_OFFLINE are honoured. Nothing that an
LLM or the hub wrote is run; pickles and models with code of their own are refused.")]
pub(super) struct Args {
    /// What is to be labelled and how, in a sentence
    sentence: Option<String>,
    /// A file of the texts to label (csv, tsv, jsonl or txt)
    #[arg(long)]
    texts: Option<PathBuf>,
    /// The folder of the plan: labels.toml, catalogue.json, plan.json and, at the end, annotator.toml
    #[arg(long, default_value = "plan")]
    out: PathBuf,
    /// The task's name; a built-in one brings its labels
    #[arg(long)]
    task: Option<String>,
    /// The labels, by commas
    #[arg(long, value_delimiter = ',', conflicts_with = "definitions")]
    labels: Vec<String>,
    /// The labels with definitions, in the form of OUT/labels.toml
    #[arg(long)]
    definitions: Option<PathBuf>,
    /// A file of labelled texts to measure on
    #[arg(long)]
    probe: Option<PathBuf>,
    /// The column of the texts, where it cannot be guessed
    #[arg(long)]
    text_column: Option<String>,
    /// The column of the probe's labels, where it cannot be guessed
    #[arg(long)]
    label_column: Option<String>,
    /// Texts of the probe at most, drawn evenly over the file
    #[arg(long, default_value_t = 300)]
    probe_size: usize,
    /// What the plan may spend on the LLM, in all [default: 1]
    #[arg(long)]
    budget_usd: Option<f64>,
    /// US dollars for a million tokens of the LLM's prompt and reply
    #[arg(long, value_name = "PROMPT,REPLY", value_delimiter = ',', num_args = 1)]
    usd_per_million: Option<Vec<f64>>,
    /// A config file of `serve` whose [llm] is asked
    #[arg(long)]
    config: Option<PathBuf>,
    /// Ask no LLM, whatever the environment says
    #[arg(long)]
    no_llm: bool,
    /// A word to look for models by; may be given more than once
    #[arg(long)]
    search: Vec<String>,
    /// Models of a word that the hub is asked for
    #[arg(long, default_value_t = 40)]
    limit: usize,
    /// A licence that models may have, such as apache-2.0; may be given more than once [default: any]
    #[arg(long)]
    licence: Vec<String>,
    /// A language that models may be for, such as en; may be given more than once [default: any]
    #[arg(long)]
    language: Vec<String>,
    /// A snapshot of the catalogue instead of the hub's search, such as OUT/catalogue.json of an earlier plan
    #[arg(long)]
    catalogue: Option<PathBuf>,
    /// A model's folder in the hub's layout; may be given more than once
    #[arg(long)]
    folder: Vec<PathBuf>,
    /// Search no hub
    #[arg(long)]
    no_hub: bool,
    /// Leave the SLMs of models/ out
    #[arg(long)]
    no_models: bool,
    /// The folder with one folder an SLM [default: $AUTOANNOTATOR_MODELS, or models/ here or above]
    #[arg(long)]
    models: Option<PathBuf>,
    /// Use only what was brought before
    #[arg(long)]
    offline: bool,
    /// What a model's label stands for, where its name does not say; may be given more than once
    #[arg(long, value_name = "MODEL:LABEL=TASK_LABEL")]
    map: Vec<Given>,
    /// A candidate to measure, in the place of a ranking; may be given more than once
    #[arg(long, value_name = "ID")]
    candidate: Vec<String>,
    /// Candidates that are measured
    #[arg(long, default_value_t = 8)]
    shortlist: usize,
    /// SLMs that are chosen
    #[arg(short, default_value_t = 3)]
    k: usize,
    /// Megabytes of all chosen SLMs together at most, packed in int8
    #[arg(long)]
    max_mb: Option<f64>,
    /// When their votes make a label: unanimous or majority
    #[arg(long, default_value = "unanimous", value_parser = parse_rule)]
    rule: Rule,
    /// Agree to the proposed labels and to what steps cost, within the budget
    #[arg(long)]
    yes: bool,
    /// Overwrite an annotator.toml
    #[arg(long)]
    force: bool,
    /// Forget the replies and the labels of an earlier plan in this folder
    #[arg(long)]
    fresh: bool,
    /// Print the result as one JSON object; all else goes to stderr
    #[arg(long)]
    json: bool,
    /// The data home [default: $AUTOANNOTATOR_HOME, or the platform's cache folder]
    #[arg(long)]
    home: Option<PathBuf>,
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    match text {
        "unanimous" => Ok(Rule::Unanimous),
        "majority" => Ok(Rule::Majority),
        _ => Err("expected unanimous or majority".to_owned()),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Plan::new(args)?.run())
}

/// A plan on its way.
struct Plan {
    args: Args,
    home: Home,
    remote: Remote,
    models: Option<PathBuf>,
    notes: Vec<String>,
    /// Held while the plan's folder is written.
    _lock: File,
}

/// A candidate, and what a spec says of its labels where it has to.
type Mapped = (Candidate, Option<LabelMap>);

/// Those that are right more often than saying the commonest label would be, if there are any: the others can only be chosen by
/// luck, to break ties.
fn with_sense(
    measured: Vec<(Measured, String)>,
    commonest: f64,
    refused: &mut Vec<Refused>,
) -> Vec<(Measured, String)> {
    let (sense, none): (Vec<_>, Vec<_>) = measured.into_iter().partition(|(one, _)| one.accuracy > commonest);
    if sense.is_empty() {
        return none;
    }
    refused.extend(none.into_iter().map(|(one, _)| Refused {
        why: format!(
            "measure-accuracy: it is right on {:.1} % of the probe, and saying its commonest label would be on {:.1} %",
            100.0 * one.accuracy,
            100.0 * commonest
        ),
        id: one.id,
    }));
    sense
}

/// What was measured and chosen.
struct Found {
    candidates: usize,
    refused: Vec<Refused>,
    measured: Vec<(Measured, String)>,
    field: Field,
    choice: Choice,
    outcome: Outcome,
}

impl Plan {
    fn new(args: Args) -> anyhow::Result<Self> {
        ensure!(args.k > 0 && args.shortlist > 0 && args.limit > 0, "-k, --shortlist and --limit must be at least 1");
        ensure!(args.probe_size >= FEWEST, "--probe-size is {}; expected at least {FEWEST}", args.probe_size);
        std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
        let lock = File::create(args.out.join("plan.lock"))?;
        if matches!(lock.try_lock(), Err(std::fs::TryLockError::WouldBlock)) {
            bail!("another plan is at work in {}; wait for it or give another --out", args.out.display());
        }
        let spec = args.out.join("annotator.toml");
        // Before anything is spent.
        if spec.exists() && !args.force {
            bail!("{} is there already and is not overwritten; give --force, or another --out", spec.display());
        }
        if args.fresh {
            for name in ["plan.json", "labels.toml"] {
                let path = args.out.join(name);
                if path.exists() {
                    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                }
            }
        }
        let home = Home::find(args.home.as_deref())?;
        std::fs::create_dir_all(home.path()).with_context(|| format!("cannot make {}", home.path().display()))?;
        let mut settings = HubSettings::from_env();
        settings.offline |= args.offline;
        let remote = Remote::new(settings)?;
        let models = match (args.no_models, models_dir(args.models.as_deref())) {
            (true, _) => None,
            (false, Ok(models)) => Some(models),
            (false, Err(error)) if args.models.is_some() => return Err(error.into()),
            (false, Err(_)) => None,
        };
        Ok(Self { args, home, remote, models, notes: Vec::new(), _lock: lock })
    }

    /// A line for the person.
    fn say(&self, line: impl std::fmt::Display) {
        if self.args.json { eprintln!("{line}") } else { println!("{line}") }
    }

    fn note(&mut self, note: String) {
        self.say(format!("note: {note}"));
        self.notes.push(note);
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let mut llm = self.llm()?;
        if self.args.probe.is_none() && (llm.is_none() || self.args.texts.is_none()) {
            bail!(
                "what shall candidates be measured on? Give --probe FILE with labelled texts, or --texts FILE and an LLM to label some (AUTOANNOTATOR_LLM_URL and _MODEL)"
            );
        }
        let Some(labels) = self.labels(llm.as_mut()).await? else { return Ok(()) };
        let task = labels.task()?;
        // What is wrong with the probe is known before anything is brought.
        let given = self.args.probe.clone().map(|path| self.given_probe(&path, &task)).transpose()?;
        let (candidates, mut refused) = self.catalogue(&labels).await?;
        let candidates = self.mapped(&task, candidates, &mut refused);
        self.refusals(&refused);
        if candidates.is_empty() {
            return Err(PlanError::Candidates(format!(
                "no model is left of {}; look at the reasons above, or train SLMs on texts of your own by `autoannotator train`",
                refused.len()
            ))
            .into());
        }
        let ranked = self.ranked(llm.as_mut(), &task, &candidates).await?;
        let probe = match given {
            Some(probe) => probe,
            None => self.labelled_probe(llm.as_mut(), &task).await?,
        };
        let (measured, mut more) = self.measured(&task, &probe, &candidates, ranked).await?;
        let measured = with_sense(measured, probe.commonest(), &mut more);
        self.refusals(&more);
        refused.extend(more);
        let found = self.chosen(&task, &probe, measured, candidates.len(), refused)?;
        let passes = found.outcome.interval[0] > probe.commonest();
        let spec = if passes { Some(self.write(&task, &probe, &found)?) } else { None };
        self.report(&task, &probe, &found, llm.as_ref(), spec.as_deref())?;
        match spec {
            Some(_) => Ok(()),
            None => Err(PlanError::NonePasses(format!(
                "the best ensemble is right on {:.1} % of the probe (at least {:.1} %), and saying its commonest label would be on {:.1} %; \
                 no spec is written. If an LLM labelled the probe, correct its labels in probe.csv and give that as --probe; make SLMs from a few \
                 hundred labelled texts by `autoannotator cold-start`; or give other candidates",
                100.0 * found.outcome.accuracy,
                100.0 * found.outcome.interval[0],
                100.0 * probe.commonest()
            ))
            .into()),
        }
    }

    /// The LLM, where one is configured.
    fn llm(&self) -> anyhow::Result<Option<Llm>> {
        let args = &self.args;
        if args.no_llm {
            return Ok(None);
        }
        let read =
            |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let file = args.config.as_ref().map(read).transpose()?.unwrap_or_default();
        let Some(mut config) = Config::read(&file, |name| std::env::var(name).ok())?.llm else { return Ok(None) };
        match args.usd_per_million.as_deref() {
            None => {}
            Some([prompt, completion]) if *prompt >= 0.0 && *completion >= 0.0 => {
                let prices = Prices { prompt: *prompt, completion: *completion };
                config.upstreams.iter_mut().for_each(|upstream| upstream.prices = prices);
            }
            Some(_) => bail!("--usd-per-million takes two numbers, such as 0.15,0.60"),
        }
        let known = |prices: Prices| prices.prompt > 0.0 || prices.completion > 0.0;
        let priced = args.usd_per_million.is_some() || config.upstreams.iter().all(|upstream| known(upstream.prices));
        ensure!(
            priced || args.budget_usd.is_none(),
            "--budget-usd needs the LLM's prices: give --usd-per-million (0,0 for one that costs nothing)"
        );
        let budget = args.budget_usd.unwrap_or(BUDGET);
        ensure!(budget >= 0.0, "--budget-usd is {budget}; expected 0 or more");
        let place = std::fs::canonicalize(&args.out).unwrap_or(args.out.clone()).display().to_string();
        let client = format!("plan-{}", hex(&sha256_of([place.as_str()])).get(..12).unwrap_or_default());
        let model = config.upstreams.iter().map(|upstream| upstream.model.clone()).collect::<Vec<_>>().join(", ");
        let consent = consent(args.yes, model, budget, priced);
        let store = Store::open(&self.home.store())?;
        let path = args.out.join("plan.json");
        Ok(Some(Llm::new(config, store, Some(budget), priced, client, path, consent)?))
    }

    /// The labels; none where the person is to look at them first.
    async fn labels(&mut self, llm: Option<&mut Llm>) -> anyhow::Result<Option<Labels>> {
        let args = &self.args;
        let read = |path: &Path| -> anyhow::Result<Labels> {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(Labels::from_toml(&text, &path.display().to_string())?)
        };
        if let Some(path) = &args.definitions {
            return read(path).map(Some);
        }
        if !args.labels.is_empty() {
            return Ok(Some(Labels::named(args.task.as_deref().unwrap_or(UNNAMED), &args.labels)?));
        }
        if let Some(name) = &args.task {
            let task = Task::built_in(name).context("or give its labels by --labels or --definitions")?;
            return Ok(Some(Labels::named(name, &task.labels.names())?));
        }
        let file = args.out.join("labels.toml");
        if !file.is_file() {
            let (Some(sentence), Some(llm)) = (&args.sentence, llm) else {
                bail!(
                    "which labels? Give them by --labels, --definitions or --task, or a sentence and an LLM to propose them (AUTOANNOTATOR_LLM_URL and _MODEL)"
                )
            };
            let proposal = propose(llm, sentence, &self.sample()?).await?;
            crate::hub::write_atomically(&file, proposal.to_toml()?.as_bytes())?;
        }
        let labels = read(&file)?;
        self.say(format!("labels, in {}:", file.display()));
        for label in labels.task()?.labels.iter() {
            self.say(format!("  {}: {}", label.name, label.definition.as_deref().unwrap_or("(no definition)")));
        }
        if args.yes || ask("Go on with these labels?")?.unwrap_or(false) {
            return Ok(Some(labels));
        }
        self.say(format!("edit {} where it is wrong, and run the same command again with --yes", file.display()));
        if args.json {
            println!("{}", json!({ "step": "labels", "file": file }));
        }
        Ok(None)
    }

    /// Some of the texts, redacted, for an LLM to see what they are like.
    fn sample(&self) -> anyhow::Result<Vec<String>> {
        let Some(path) = &self.args.texts else { return Ok(Vec::new()) };
        let (_, rows, _) = probe::draw(path, self.args.text_column.as_deref(), SHOWN)?;
        let redactor = crate::spec::ReviewSpec::default().redactor();
        Ok(rows.iter().map(|row| plain(redactor.redact(&row.sample.text).text(), SHOWN_CHARS)).collect())
    }

    fn given_probe(&mut self, path: &Path, task: &Task) -> anyhow::Result<Probe> {
        let args = &self.args;
        let (text, label) = (args.text_column.as_deref(), args.label_column.as_deref());
        let probe = Probe::read(path, text, label, &task.labels, args.probe_size)?;
        probe.notes.iter().for_each(|note| self.note(note.clone()));
        Ok(probe)
    }

    /// A probe that the LLM labels, as far as the budget reaches.
    async fn labelled_probe(&mut self, llm: Option<&mut Llm>, task: &Task) -> anyhow::Result<Probe> {
        let args = &self.args;
        let (path, llm) = args.texts.as_ref().zip(llm).context("a probe needs --texts and an LLM, or --probe")?;
        let (_, mut rows, _) = probe::draw(path, args.text_column.as_deref(), args.probe_size)?;
        let mut spec = Spec::plain(task.clone(), Vec::new());
        spec.review.to = ReviewTo::Llm;
        let redactor = spec.review.redactor();
        let mut texts: Vec<String> =
            rows.iter().map(|row| redactor.redact(&row.sample.text).text().to_owned()).collect();
        if let Some(usd) = llm.cost_of_labels(&spec, &texts).usd {
            let left = (args.budget_usd.unwrap_or(BUDGET) - llm.spent().cost_usd).max(0.0);
            let reach = if usd > left { (left / usd * texts.len() as f64) as usize } else { texts.len() };
            if reach < texts.len() {
                self.say(format!("the budget reaches {reach} of {} texts", texts.len()));
                texts.truncate(reach);
                rows.truncate(reach);
            }
        }
        let bar = ProgressBar::new(texts.len() as u64);
        let said = llm.label(spec, &texts, |done| bar.set_position(done as u64)).await?;
        bar.finish_and_clear();
        let label = |label: Option<String>| label.and_then(|label| task.labels.index(&label));
        let labelled = rows.into_iter().zip(said).map(|(row, said)| (row.sample.text, label(said))).collect();
        let probe = Probe::of(labelled, &task.labels);
        probe.write(&self.args.out.join("probe.csv"), &task.labels)?;
        let probe = probe.checked(&task.labels)?;
        self.note(format!(
            "the probe's labels are {}'s: what is measured is how far models agree with it (they are in probe.csv; correct them and give them as --probe)",
            llm.models()
        ));
        probe.notes.iter().for_each(|note| self.note(note.clone()));
        Ok(probe)
    }

    /// Every candidate that loads, and every other model with its reason.
    async fn catalogue(&mut self, labels: &Labels) -> anyhow::Result<(Vec<Candidate>, Vec<Refused>)> {
        let args = &self.args;
        let wants = Wants { licences: args.licence.clone(), languages: args.language.clone(), max_mb: args.max_mb };
        let mut candidates = match &self.models {
            Some(models) => catalogue::own(models, &self.home)?,
            None => Vec::new(),
        };
        let mut refused = Vec::new();
        let mut add = |judged: Result<Candidate, Refused>| match judged {
            Ok(candidate) => candidates.push(candidate),
            Err(why) => refused.push(why),
        };
        args.folder.iter().for_each(|path| add(catalogue::folder(path, &wants)));
        let words = if args.search.is_empty() { labels.words() } else { args.search.clone() };
        let tags = match &args.licence[..] {
            [one] => vec![format!("license:{one}")],
            _ => Vec::new(),
        };
        let query = Query { words, tags, limit: args.limit };
        let snapshot = match &args.catalogue {
            Some(path) => Some(Snapshot::read(path)?),
            None if args.no_hub => None,
            None => match Snapshot::of_hub(&self.remote, &query, &self.home).await {
                Ok((snapshot, stale)) => {
                    snapshot.write(&args.out.join("catalogue.json"))?;
                    if stale {
                        self.note("the hub does not answer; its catalogue is what it was the last time".to_owned());
                    }
                    Some(snapshot)
                }
                Err(error) if candidates.is_empty() => return Err(error.into()),
                Err(error) => {
                    self.note(format!("{error}; only what is at hand is looked at"));
                    None
                }
            },
        };
        let entries = snapshot.iter().flat_map(|snapshot| &snapshot.models);
        for judged in entries.map(|entry| catalogue::judge(entry, &wants)) {
            match judged {
                Ok(candidate) => candidates.push(candidate),
                Err(why) => refused.push(why),
            }
        }
        Ok((candidates, refused))
    }

    /// Those whose labels are the task's, with the map of them.
    fn mapped(&self, task: &Task, candidates: Vec<Candidate>, refused: &mut Vec<Refused>) -> Vec<Mapped> {
        let mut mapped = Vec::new();
        for candidate in candidates {
            let labels = (candidate.labels.as_slice(), candidate.scoring);
            match mapping::propose(&candidate.id, labels, &task.labels, &self.args.map) {
                Ok(map) => mapped.push((candidate, map)),
                Err(why) => refused.push(Refused { id: candidate.id, why: plain(&why, 400) }),
            }
        }
        mapped
    }

    fn refusals(&self, refused: &[Refused]) {
        for Refused { id, why } in refused {
            self.say(format!("refused: {id}: {why}"));
        }
    }

    /// The order in which candidates are measured.
    async fn ranked(&mut self, llm: Option<&mut Llm>, task: &Task, mapped: &[Mapped]) -> anyhow::Result<Vec<Ranked>> {
        let candidates: Vec<Candidate> = mapped.iter().map(|(candidate, _)| candidate.clone()).collect();
        if !self.args.candidate.is_empty() {
            let place = |id: &String| -> anyhow::Result<Ranked> {
                let index = candidates.iter().position(|candidate| candidate.id == *id);
                let index = index.with_context(|| {
                    let known = candidates.iter().map(|candidate| candidate.id.as_str()).collect::<Vec<_>>().join(", ");
                    format!("--candidate names '{id}', which is not among the candidates: {known}")
                })?;
                Ok(Ranked { index, reason: "named by --candidate".to_owned() })
            };
            return self.args.candidate.iter().map(place).collect();
        }
        match llm {
            // There is nothing to rank where all are measured.
            Some(llm) if candidates.len() > self.args.shortlist => {
                let (ranked, notes) = rank::by_llm(llm, task, &candidates).await?;
                notes.into_iter().for_each(|note| self.note(note));
                Ok(ranked)
            }
            _ => Ok(rank::by_downloads(&candidates)),
        }
    }

    /// Brings and measures candidates in their order, until the shortlist is full. Those that fail are refused, and the next
    /// one takes the place.
    async fn measured(
        &self,
        task: &Task,
        probe: &Probe,
        mapped: &[Mapped],
        ranked: Vec<Ranked>,
    ) -> anyhow::Result<(Vec<(Measured, String)>, Vec<Refused>)> {
        let place = Place { home: &self.home, models: self.models.as_deref() };
        let (mut measured, mut refused): (Vec<(Measured, String)>, Vec<Refused>) = (Vec::new(), Vec::new());
        let bar = ProgressBar::new_spinner();
        for Ranked { index, reason } in ranked {
            if measured.len() >= self.args.shortlist {
                break;
            }
            let Some((candidate, map)) = mapped.get(index) else { continue };
            let mut refuse = |why: String| refused.push(Refused { id: candidate.id.clone(), why: plain(&why, 400) });
            match measure::bring(candidate, task, &self.remote, &place, &bar).await {
                Err(why) => refuse(why),
                Ok(manifest) => {
                    bar.set_message(format!("{}: measuring", candidate.id));
                    match measure::measure(&candidate.id, &manifest, map.as_ref(), task, probe, &self.home).await {
                        Ok(found) => measured.push((found, reason)),
                        Err(error) => refuse(error.to_string()),
                    }
                }
            }
        }
        bar.finish_and_clear();
        if measured.is_empty() {
            self.refusals(&refused);
            return Err(
                PlanError::Candidates("no candidate could be measured; look at the reasons above".to_owned()).into()
            );
        }
        Ok((measured, refused))
    }

    fn chosen(
        &mut self,
        task: &Task,
        probe: &Probe,
        measured: Vec<(Measured, String)>,
        candidates: usize,
        refused: Vec<Refused>,
    ) -> anyhow::Result<Found> {
        let max_bytes = self.max_bytes();
        let all = measured.iter().map(|(one, _)| (one.probabilities.clone(), one.bytes)).collect();
        let field = Field::new(all, probe.gold.clone(), task.labels.len(), self.args.rule);
        let wanted = self.args.k.min(measured.len());
        if wanted < self.args.k {
            self.note(format!("only {wanted} candidates could be measured, {} were wanted", self.args.k));
        }
        let choice = (1..=wanted).rev().find_map(|k| field.search(k, max_bytes)).ok_or_else(|| {
            let smallest = measured.iter().map(|(one, _)| one.bytes).min().unwrap_or_default();
            let smallest = smallest as f64 / 1e6;
            PlanError::Size(format!(
                "not even the smallest candidate ({smallest:.1} MB) is within --max-mb; give more, or other candidates"
            ))
        })?;
        if choice.members.len() < wanted {
            self.note(format!("--max-mb leaves room for {} SLMs, {wanted} were wanted", choice.members.len()));
        }
        if !choice.exact {
            self.note(
                "too many ensembles to look at each: the choice grew candidate by candidate and was improved by swaps"
                    .to_owned(),
            );
        }
        let outcome = field.outcome(&choice, max_bytes);
        Ok(Found { candidates, refused, measured, field, choice, outcome })
    }

    fn max_bytes(&self) -> Option<u64> {
        self.args.max_mb.map(|megabytes| (megabytes.max(0.0) * 1e6) as u64)
    }

    /// Why a measured candidate was chosen or not.
    fn why(&self, found: &Found, index: usize) -> String {
        let k = found.choice.members.len();
        let chosen = found.choice.members.contains(&index);
        match (chosen, found.field.best(index, !chosen, k, self.max_bytes())) {
            (true, Some(without)) => format!("chosen; without it the best {k} have {:.1} %", 100.0 * without),
            (true, None) => "chosen".to_owned(),
            (false, Some(with)) => format!("the best {k} with it have {:.1} %", 100.0 * with),
            (false, None) if found.choice.exact => "does not fit --max-mb beside others".to_owned(),
            (false, None) => "not chosen by the search".to_owned(),
        }
    }

    fn write(&self, task: &Task, probe: &Probe, found: &Found) -> anyhow::Result<PathBuf> {
        let mut remarks = vec![
            format!("Written by `autoannotator plan` {}.", env!("CARGO_PKG_VERSION")),
            format!("On {} labelled texts: {}", probe.texts.len(), summary(found)),
        ];
        // Cheapest first, as a spec lists them.
        let mut members = found.choice.members.clone();
        members.sort_by_key(|member| found.measured[*member].0.bytes);
        for member in &members {
            let (one, _) = &found.measured[*member];
            remarks.push(format!(
                "{} ({}): {:.1} % alone; {}",
                one.slm,
                one.version,
                100.0 * one.accuracy,
                self.why(found, *member)
            ));
        }
        let slm = |member: &usize| (found.measured[*member].0.slm.clone(), found.measured[*member].0.label_map.clone());
        let slms = members.iter().map(slm).collect();
        let path = self.args.out.join("annotator.toml");
        write::write(&path, &write::text(task, slms, self.args.rule, &remarks)?, self.args.force)?;
        Ok(path)
    }

    fn report(
        &self,
        task: &Task,
        probe: &Probe,
        found: &Found,
        llm: Option<&Llm>,
        spec: Option<&Path>,
    ) -> anyhow::Result<()> {
        self.table(found);
        self.say(format!("together on {} texts: {}", probe.texts.len(), summary(found)));
        self.say(format!(
            "on texts it has not seen, by resamples of the probe: {:.1} % (the best single one: {:.1} %); {:.0} % of them chose the same",
            100.0 * found.outcome.unseen,
            100.0 * found.outcome.unseen_single,
            100.0 * found.outcome.again
        ));
        if let Some(llm) = llm {
            let spent = llm.spent();
            let tokens = spent.prompt_tokens + spent.completion_tokens;
            self.say(format!("the LLM took {tokens} tokens, ${:.4}", spent.cost_usd));
        }
        if let Some(path) = spec {
            self.say(format!("written: {}", path.display()));
            self.say(format!("next: autoannotator annotate FILE --spec {} --out labelled.csv", path.display()));
        }
        if self.args.json {
            println!("{}", self.json(task, probe, found, llm, spec));
        }
        Ok(())
    }

    fn table(&self, found: &Found) {
        let line = |cells: [&str; 7]| {
            let [id, accuracy, interval, calibration, speed, size, why] = cells;
            self.say(format!("{id:<44}{accuracy:>9}{interval:>14}{calibration:>8}{speed:>10}{size:>8}  {why}"));
        };
        line(["candidate", "accuracy", "95 %", "ECE", "texts/s", "MB", ""]);
        for (index, (one, reason)) in found.measured.iter().enumerate() {
            let [from, to] = one.interval.map(|share| 100.0 * share);
            line([
                &plain(&one.id, 42),
                &format!("{:.1} %", 100.0 * one.accuracy),
                &format!("{from:.1} to {to:.1}"),
                &format!("{:.3}", one.calibration_error),
                &format!("{:.0}", one.texts_per_second),
                &format!("{:.1}", one.bytes as f64 / 1e6),
                &format!("{} (ranked: {})", self.why(found, index), plain(reason, 60)),
            ]);
        }
        let members = &found.choice.members;
        for (at, a) in members.iter().enumerate() {
            for b in members.iter().skip(at + 1) {
                let (one, other) = (&found.measured[*a].0.slm, &found.measured[*b].0.slm);
                self.say(format!(
                    "errors of {one} and {other}: correlation {:.2}",
                    found.field.error_correlation(*a, *b)
                ));
            }
        }
    }

    fn json(&self, task: &Task, probe: &Probe, found: &Found, llm: Option<&Llm>, spec: Option<&Path>) -> Value {
        let measured = found.measured.iter().enumerate().map(|(index, (one, reason))| {
            let correlation: serde_json::Map<String, Value> = (0..found.measured.len())
                .filter(|other| *other != index)
                .map(|other| (found.measured[other].0.id.clone(), found.field.error_correlation(index, other).into()))
                .collect();
            json!({
                "id": one.id, "slm": one.slm, "version": one.version, "accuracy": one.accuracy, "interval": one.interval,
                "calibration_error": one.calibration_error, "texts_per_second": one.texts_per_second, "bytes": one.bytes,
                "truncated": one.truncated, "error_correlation": correlation, "ranked": reason,
                "chosen": found.choice.members.contains(&index), "why": self.why(found, index),
            })
        });
        let best = best_single(found);
        json!({
            "task": task.name, "labels": task.labels.names(), "probe_texts": probe.texts.len(),
            "commonest_label": probe.commonest(), "candidates": found.candidates, "refused": found.refused,
            "measured": measured.collect::<Vec<_>>(),
            "chosen": found.choice.members.iter().map(|member| found.measured[*member].0.slm.as_str()).collect::<Vec<_>>(),
            "exact": found.choice.exact, "ensemble_probe_accuracy": found.outcome.accuracy, "interval": found.outcome.interval,
            "hard": found.outcome.hard, "accepted_accuracy": found.outcome.accepted_accuracy,
            "unseen_accuracy": found.outcome.unseen, "same_choice": found.outcome.again,
            "best_single": best.id, "best_single_probe_accuracy": best.accuracy, "unseen_single_accuracy": found.outcome.unseen_single,
            "spent": llm.map(Llm::spent), "notes": self.notes, "spec": spec,
        })
    }
}

/// The measured candidate of the best accuracy, the first of equals.
fn best_single(found: &Found) -> &Measured {
    let mut best = &found.measured[0].0;
    for (one, _) in &found.measured {
        if one.accuracy > best.accuracy {
            best = one;
        }
    }
    best
}

fn summary(found: &Found) -> String {
    let Outcome { accuracy, interval: [from, to], hard, accepted_accuracy, .. } = &found.outcome;
    let best = best_single(found);
    format!(
        "{:.1} % right (95 % interval {:.1} to {:.1} %) over all texts; {:.1} % are hard and would be reviewed, of the others {:.1} % are right; the best single one, {}, has {:.1} %",
        100.0 * accuracy,
        100.0 * from,
        100.0 * to,
        100.0 * hard,
        100.0 * accepted_accuracy,
        best.slm,
        100.0 * best.accuracy
    )
}

async fn propose(llm: &mut Llm, sentence: &str, texts: &[String]) -> Result<Labels, PlanError> {
    let prompt = (labels::SYSTEM, labels::data(&plain(sentence, 1000), texts), labels::schema());
    llm.ask("labels for the task", prompt, labels::REPLY_TOKENS, Labels::from_reply).await
}

/// A question to the person at the terminal; none where there is none.
fn ask(question: &str) -> anyhow::Result<Option<bool>> {
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")))
}

/// Tells what a step costs, and asks unless it was agreed to.
fn consent(yes: bool, model: String, budget: f64, priced: bool) -> Consent {
    Box::new(move |what: &str, cost: &Cost| {
        let usd = match cost.usd {
            Some(usd) => format!("about ${usd:.4} of a budget of ${budget:.2}"),
            None => "at prices that are not known (give --usd-per-million)".to_owned(),
        };
        let calls = if cost.calls == 1 { "a call".to_owned() } else { format!("{} calls", cost.calls) };
        let line = format!("{what}: {calls} to {model}, about {:.0} tokens, {usd}", cost.tokens);
        eprintln!("{line}");
        if priced && cost.usd.is_some_and(|usd| usd > budget) {
            return Err(PlanError::Consent(format!("{line}: more than the budget")));
        }
        match yes || ask("Let it be spent?").unwrap_or(None).unwrap_or(false) {
            true => Ok(()),
            false => Err(PlanError::Consent(line)),
        }
    })
}
