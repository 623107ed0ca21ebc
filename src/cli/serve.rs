//! `autoannotator serve`.

use crate::hub::{Home, packing};
use crate::serve::examples::Examples;
use crate::serve::near::{Embed, Near};
use crate::serve::panel::Job;
use crate::serve::{Options, bind, config::Config, rounds, serve};
use crate::spec::Spec;
use crate::task::Task;
use crate::tune::pool::Pool;
use anyhow::Context;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

const EXAMPLES: &str = "Examples:
  autoannotator serve
  AUTOANNOTATOR_LLM_URL=https://api.openai.com AUTOANNOTATOR_LLM_KEY=... AUTOANNOTATOR_LLM_MODEL=gpt-4o-mini autoannotator serve --open
  autoannotator serve --config server.toml --spec tickets.toml --port 9000

The config file has a table [llm]: url, key, model, timeout_seconds, total_seconds, concurrency, queue, prompt_usd_per_million,
completion_usd_per_million, budget_usd (in all), task_budget_usd, client_budget_usd, and for several LLMs use (fallback, cascade,
majority), confidence, samples and [[llm.more]]; near finds texts that are nearly the same. examples/server.toml explains each.
AUTOANNOTATOR_LLM_URL, _KEY, _MODEL and AUTOANNOTATOR_BUDGET_USD win over it. How the LLM is asked (style, batch, examples) stands in
a task's spec, in [review].
What was spent is kept in pool.db in the data home, so a budget holds over restarts and
crashes; `autoannotator store` shows it, checks the audit log and makes backups.
Without an LLM the page's hard samples go to the person.

On another address than a loopback one it asks for tokens: `autoannotator token NAME` makes one and the config file's lines
for it ([[tokens]]); requests_per_minute (6000) holds for each, requests_per_minute_per_address (12000) and
unknown_tokens_per_minute (30) for each address. Behind a proxy with TLS on the same machine, list the proxy's name in hosts;
X-Forwarded-For is then believed. Pages of other sites may use /v1/* where origins lists them. /healthz, /readyz and /metrics
are for who runs it; GET /v1/openapi.json describes the API.

Where a spec has keep_text = true in [review], POST /v1/pool takes reviewed hard samples of its task into pool.db in the data
home. When that holds `pool` of the spec's [tune] (2000) unused samples, a round is held beside the serving, and pages take
the new versions over. A table [rounds.TASK] of the config file gives its files: replay, anchor (lists), layers, method, lr,
epochs. GET /v1/rounds and /v1/rounds/events tell how it goes; POST and DELETE /v1/rounds/TASK start and stop it.";

/// Serves the page, the packed SLMs and the review proxy.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// The port; the next free one if it is taken.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The folder of the built page.
    #[arg(long, default_value = "www/dist")]
    page: PathBuf,
    /// The data home, with the packed SLMs in `packed`; $AUTOANNOTATOR_HOME or the platform's cache folder by default.
    #[arg(long)]
    home: Option<PathBuf>,
    /// The folder with one folder an SLM, for rounds; $AUTOANNOTATOR_MODELS, or models/ here or above by default.
    #[arg(long)]
    models: Option<PathBuf>,
    /// A TOML file that configures the LLM and the rounds.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The spec of a further task; may be given more than once.
    #[arg(long)]
    spec: Vec<PathBuf>,
    /// Open the page in the browser.
    #[arg(long)]
    open: bool,
}

/// What a peak of requests took goes back to the system at once, not in part and at some time: mimalloc keeps it for 10 ms, and
/// then until somebody allocates again. Forwarding is no slower by it; inference, which needs its buffers again, would be.
fn free_at_once() {
    /// `mi_option_purge_delay` of mimalloc 3, in milliseconds; the crate names but a few options.
    const PURGE_DELAY: std::ffi::c_int = 15;
    // SAFETY: it may be called from one thread at a time, and there is one.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    free_at_once();
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()));
    let file = args.config.as_ref().map(read).transpose()?.unwrap_or_default();
    let config = Config::read(&file, |name| std::env::var(name).ok())?;
    let specs = args.spec.iter().map(|path| super::read_spec(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let home = Home::find(args.home.as_deref())?;
    std::fs::create_dir_all(home.path()).with_context(|| format!("cannot make {}", home.path().display()))?;
    let mut arguments = vec!["--home".into(), home.path().into()];
    if let Some(models) = args.models {
        arguments.extend(["--models".into(), models.into()]);
    }
    let mut llm = config.llm;
    if let Some((similarity, llm)) = llm.as_mut().and_then(|llm| Some((llm.similarity?, llm))) {
        llm.near = near(&home, &specs, similarity)?;
    }
    if let Some(llm) = &mut llm {
        llm.examples = examples(&home, &specs)?;
    }
    let rounds = rounds::Options {
        program: std::env::current_exe()?,
        arguments,
        specs: home.path().to_owned(),
        files: config.rounds,
    };
    let options = Options {
        page: args.page,
        packed: home.packed(),
        specs,
        llm,
        pool: home.store(),
        rounds: Some(rounds),
        tokens: config.tokens,
        limits: config.limits,
        hosts: config.hosts,
        origins: config.origins,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let listener = bind(args.host, args.port).await?;
        let url = format!("http://{}/", listener.local_addr()?);
        println!("{url}");
        if args.open {
            open(&url);
        }
        serve(listener, options).await
    });
    // Its last tasks hold the store, whose lock goes after them.
    drop(runtime);
    served.map(drop)
}

/// The first SLM of each task, which says what texts are nearly the same.
fn near(home: &Home, specs: &[Spec], similarity: f64) -> anyhow::Result<Near> {
    let built_in = Task::BUILT_IN.iter().map(|name| Spec::built_in(name)).collect::<Result<Vec<_>, _>>()?;
    let mut embedders = BTreeMap::new();
    for spec in built_in.iter().chain(specs) {
        let Some(id) = spec.slms.first() else { continue };
        let slm = packing::load(home, id, "int8", 1).with_context(|| format!("near in [llm] needs the SLM {id}"))?;
        embedders.insert(spec.task.name.clone(), Box::new(slm) as Box<dyn Embed>);
    }
    Ok(Near::new(embedders, similarity))
}

/// What the pool holds of each task whose LLM is shown reviewed samples.
fn examples(home: &Home, specs: &[Spec]) -> anyhow::Result<Examples> {
    let shown: Vec<&Spec> = specs.iter().filter(|spec| spec.review.similar > 0).collect();
    if shown.is_empty() {
        return Ok(Examples::default());
    }
    let embedder = |spec: &&Spec| -> anyhow::Result<(String, Box<dyn Embed>, usize)> {
        let id = spec.slms.first().context("similar in [review] needs an SLM")?;
        let slm = packing::load(home, id, "int8", 1).with_context(|| format!("similar needs the SLM {id}"))?;
        Ok((spec.task.name.clone(), Box::new(slm), spec.review.similar))
    };
    let examples = Examples::new(shown.iter().map(embedder).collect::<anyhow::Result<Vec<_>>>()?);
    let pool = Pool::open(&home.store())?;
    for spec in shown {
        let job = Job::from(Arc::new(spec.clone()));
        let samples = pool.all(&spec.task.name)?;
        examples.add(&spec.task.name, samples.iter().filter_map(|sample| job.example(&sample.text, &sample.label)));
    }
    Ok(examples)
}

fn open(url: &str) {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if cfg!(windows) {
        "explorer"
    } else {
        "xdg-open"
    };
    if let Err(error) = std::process::Command::new(program).arg(url).stdin(std::process::Stdio::null()).spawn() {
        tracing::warn!("{program} cannot be started ({error}); open {url} yourself");
    }
}
