//! What the operator configures: a TOML file, and the environment over it.

use super::access::Scope;
use super::examples::Examples;
use super::near::Near;
use crate::spec::Prices;
use anyhow::{Context, bail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// The LLMs that review, and what may be spent on them.
#[derive(Clone)]
pub struct Llm {
    /// The LLMs, the one that is asked first first; at least one.
    pub upstreams: Vec<Upstream>,
    /// Which of them decide.
    pub policy: Policy,
    /// Seconds for a text, over all attempts and LLMs.
    pub total_seconds: f64,
    /// What may be spent.
    pub caps: Caps,
    /// The cosine at which a text is given the label of one that is nearly the same; none for never.
    pub similarity: Option<f64>,
    /// The labelled texts by which that is known; who reads the configuration has the SLMs for it.
    pub near: Near,
    /// The reviewed samples that the LLMs are shown.
    pub examples: Examples,
}

/// One upstream LLM.
#[derive(Clone)]
pub struct Upstream {
    /// The full address of its `/v1/chat/completions`.
    pub endpoint: reqwest::Url,
    /// Its key; never shown.
    pub key: Option<String>,
    /// The model to ask.
    pub model: String,
    /// Seconds for one attempt.
    pub timeout_seconds: f64,
    /// Calls at once.
    pub concurrency: usize,
    /// What its tokens cost.
    pub prices: Prices,
    /// Calls that wait for their turn at most.
    pub queue: usize,
}

/// Which of several LLMs decide.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Policy {
    /// The first; the next where it fails.
    Fallback,
    /// The first that is sure, else the last: the cheapest stands first (FrugalGPT, arXiv 2305.05176).
    Cascade {
        /// What counts as sure: a probability.
        confidence: f64,
        /// Samples whose agreement is the confidence of an LLM that gives no log-probabilities (self-consistency, arXiv
        /// 2203.11171).
        samples: u32,
    },
    /// More than half of all, which are all asked.
    Majority,
}

/// US dollars that may be spent, ever; none for no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caps {
    /// In all.
    pub all: Option<f64>,
    /// On one task.
    pub task: Option<f64>,
    /// By one client.
    pub client: Option<f64>,
}

/// The files of a task's rounds, and how its SLMs are trained.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundFiles {
    /// Labelled CSV files of the SLMs' old training data, of which a part is replayed.
    #[serde(default)]
    pub replay: Vec<PathBuf>,
    /// Labelled CSV files on which no SLM may become worse.
    #[serde(default)]
    pub anchor: Vec<PathBuf>,
    /// The most layers that are trained, from the top.
    pub layers: Option<usize>,
    /// `lora` or `full`.
    pub method: Option<String>,
    /// Peak learning rate.
    pub lr: Option<f64>,
    /// Passes over the data.
    pub epochs: Option<usize>,
}

impl RoundFiles {
    /// What they are to `autoannotator tune`.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut all: Vec<OsString> = Vec::new();
        let mut add = |option: &str, value: OsString| all.extend([option.into(), value]);
        self.replay.iter().for_each(|path| add("--replay", path.into()));
        self.anchor.iter().for_each(|path| add("--anchor", path.into()));
        self.layers.iter().for_each(|layers| add("--layers", layers.to_string().into()));
        self.method.iter().for_each(|method| add("--method", method.into()));
        self.lr.iter().for_each(|lr| add("--lr", lr.to_string().into()));
        self.epochs.iter().for_each(|epochs| add("--epochs", epochs.to_string().into()));
        all
    }
}

/// A client that may use the server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The client's name.
    pub name: String,
    /// The token's SHA-256, hexadecimal.
    pub sha256: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// Everything that is configured.
pub struct Config {
    /// The LLM, if there is one.
    pub llm: Option<Llm>,
    /// What tasks' rounds are held with.
    pub rounds: BTreeMap<String, RoundFiles>,
    /// Who may use the server; with none everybody who reaches it.
    pub tokens: Vec<Token>,
    /// How often it may be asked.
    pub limits: Limits,
    /// Names of a proxy before it.
    pub hosts: Vec<String>,
    /// Origins whose pages may use the API.
    pub origins: Vec<String>,
}

/// What may be asked in a minute.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests of a client.
    pub client: NonZeroU32,
    /// Requests from an address, whoever asks.
    pub address: NonZeroU32,
    /// Unknown tokens from an address.
    pub unknown_tokens: NonZeroU32,
}

impl Default for Limits {
    fn default() -> Self {
        let limit = |count: u32| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        Self { client: limit(6000), address: limit(12_000), unknown_tokens: limit(30) }
    }
}

impl Config {
    /// Reads the text of a config file (may be empty) and the environment, which wins.
    pub fn read(file: &str, env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        // A parser's message quotes the line it stumbles over, which may be the key's.
        let file: File = toml::from_str(file).map_err(|error: toml::de::Error| {
            let line =
                error.span().map_or(1, |span| file.get(..span.start).map_or(1, |head| head.matches('\n').count() + 1));
            anyhow::anyhow!(
                "serve-config: line {line}: {}; there are requests_per_minute, requests_per_minute_per_address, unknown_tokens_per_minute, hosts, origins, [[tokens]], with name, sha256, scopes, and the tables [llm], with url, key, model, timeout_seconds, \
                 concurrency, queue, prompt_usd_per_million, completion_usd_per_million, total_seconds, budget_usd, task_budget_usd, \
                 client_budget_usd, use, confidence, samples, near, [[llm.more]], further LLMs with the keys up to the prices and key_env, and \
                 [rounds.TASK], with replay, anchor, layers, method, lr, epochs",
                error.message()
            )
        })?;
        for token in &file.tokens {
            let hash = token.sha256.len() == 64 && token.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !hash || token.name.is_empty() || token.scopes.is_empty() {
                bail!(
                    "serve-config: the token '{}' needs a name, a SHA-256 and scopes; `autoannotator token NAME` makes both",
                    token.name
                );
            }
        }
        if let Some(wrong) = file.origins.iter().find(|origin| !is_origin(origin)) {
            bail!(
                "serve-config: '{wrong}' in origins is no origin; write it as a browser does, such as https://labels.example.com: without a path, a default port or a wildcard"
            );
        }
        let default = Limits::default();
        Ok(Self {
            llm: Llm::from_table(file.llm, env)?,
            rounds: file.rounds,
            tokens: file.tokens,
            hosts: file.hosts,
            origins: file.origins,
            limits: Limits {
                client: file.requests_per_minute.unwrap_or(default.client),
                address: file.requests_per_minute_per_address.unwrap_or(default.address),
                unknown_tokens: file.unknown_tokens_per_minute.unwrap_or(default.unknown_tokens),
            },
        })
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    llm: Table,
    #[serde(default)]
    rounds: BTreeMap<String, RoundFiles>,
    #[serde(default)]
    tokens: Vec<Token>,
    requests_per_minute: Option<NonZeroU32>,
    requests_per_minute_per_address: Option<NonZeroU32>,
    unknown_tokens_per_minute: Option<NonZeroU32>,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    origins: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Table {
    url: Option<String>,
    key: Option<String>,
    model: Option<String>,
    timeout_seconds: Option<f64>,
    total_seconds: Option<f64>,
    concurrency: Option<usize>,
    prompt_usd_per_million: Option<f64>,
    completion_usd_per_million: Option<f64>,
    budget_usd: Option<f64>,
    task_budget_usd: Option<f64>,
    client_budget_usd: Option<f64>,
    queue: Option<usize>,
    #[serde(rename = "use", default)]
    policy: Use,
    confidence: Option<f64>,
    samples: Option<u32>,
    near: Option<f64>,
    #[serde(default)]
    more: Vec<More>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Use {
    #[default]
    Fallback,
    Cascade,
    Majority,
}

/// A further LLM.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct More {
    url: String,
    model: String,
    key: Option<String>,
    /// The environment variable that holds its key.
    key_env: Option<String>,
    timeout_seconds: Option<f64>,
    concurrency: Option<usize>,
    queue: Option<usize>,
    prompt_usd_per_million: Option<f64>,
    completion_usd_per_million: Option<f64>,
}

impl Llm {
    /// The table and the environment, which wins. None without an address.
    fn from_table(table: Table, env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Self>> {
        let env = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let Some(url) = env("AUTOANNOTATOR_LLM_URL").or(table.url) else {
            if !table.more.is_empty() {
                bail!("serve-config: [[llm.more]] adds to the LLM of [llm], which has no url; give it one");
            }
            return Ok(None);
        };
        let Some(model) = env("AUTOANNOTATOR_LLM_MODEL").or(table.model) else {
            bail!("serve-config: AUTOANNOTATOR_LLM_URL is set, AUTOANNOTATOR_LLM_MODEL is not; name the model")
        };
        let budget =
            match env("AUTOANNOTATOR_BUDGET_USD") {
                Some(text) => Some(text.trim().parse().ok().with_context(|| {
                    format!("serve-config: AUTOANNOTATOR_BUDGET_USD is '{text}'; expected a number")
                })?),
                None => table.budget_usd,
            };
        let cap = |name: &str, value: Option<f64>| value.map(|value| not_negative(name, value)).transpose();
        let caps = Caps {
            all: cap("the budget", budget)?,
            task: cap("task_budget_usd", table.task_budget_usd)?,
            client: cap("client_budget_usd", table.client_budget_usd)?,
        };
        let policy = match table.policy {
            Use::Fallback => Policy::Fallback,
            Use::Majority => Policy::Majority,
            Use::Cascade => {
                let (confidence, samples) = (table.confidence.unwrap_or(0.9), table.samples.unwrap_or(5));
                if !(0.0..=1.0).contains(&confidence) || !(2..=20).contains(&samples) {
                    bail!("serve-config: confidence must be 0 to 1 and samples 2 to 20");
                }
                Policy::Cascade { confidence, samples }
            }
        };
        let more = table.more.len();
        if (policy == Policy::Majority && more < 2) || (matches!(policy, Policy::Cascade { .. }) && more < 1) {
            bail!(
                "serve-config: use = \"cascade\" needs at least one and \"majority\" at least two further LLMs in [[llm.more]]"
            );
        }
        if policy == Policy::Majority && more % 2 == 1 {
            bail!("serve-config: use = \"majority\" needs an odd number of LLMs; an even one has ties");
        }
        let first = More {
            url,
            model,
            key: env("AUTOANNOTATOR_LLM_KEY").or(table.key),
            key_env: None,
            timeout_seconds: table.timeout_seconds,
            concurrency: table.concurrency,
            queue: table.queue,
            prompt_usd_per_million: table.prompt_usd_per_million,
            completion_usd_per_million: table.completion_usd_per_million,
        };
        let all: Vec<More> = std::iter::once(first).chain(table.more).collect();
        let capped = caps.all.or(caps.task).or(caps.client).is_some();
        let priced = |one: &More| one.prompt_usd_per_million.is_some() && one.completion_usd_per_million.is_some();
        if let (true, Some(one)) = (capped, all.iter().find(|one| !priced(one))) {
            bail!(
                "serve-config: a budget needs prices; set prompt_usd_per_million and completion_usd_per_million of {}, to 0 where it costs nothing",
                one.model
            );
        }
        if policy == Policy::Fallback && (table.confidence.is_some() || table.samples.is_some()) {
            bail!("serve-config: confidence and samples belong to use = \"cascade\"; add that or leave them out");
        }
        let upstreams: Vec<Upstream> =
            all.into_iter().map(|more| Upstream::from_table(more, env)).collect::<anyhow::Result<_>>()?;
        let total_seconds = table.total_seconds.unwrap_or(300.0);
        if !(0.05..=3600.0).contains(&total_seconds) {
            bail!("serve-config: total_seconds must be 0.05 to 3600");
        }
        let names: BTreeSet<_> = upstreams.iter().map(|one| (one.endpoint.as_str(), one.model.as_str())).collect();
        if names.len() < upstreams.len() {
            bail!("serve-config: an LLM is listed twice; each of [[llm.more]] must be another");
        }
        if capped && upstreams.iter().all(|upstream| upstream.prices.usd(1_000_000, 1_000_000) == 0.0) {
            bail!(
                "serve-config: a budget without prices can never be used up; set prompt_usd_per_million and completion_usd_per_million in [llm]"
            );
        }
        let similarity = table.near;
        if similarity.is_some_and(|similarity| !(0.5..=1.0).contains(&similarity)) {
            bail!(
                "serve-config: near is the cosine at which two texts are taken for the same; expected 0.5 to 1, best 0.95 or more"
            );
        }
        Ok(Some(Self {
            upstreams,
            policy,
            total_seconds,
            caps,
            similarity,
            near: Near::default(),
            examples: Examples::default(),
        }))
    }
}

fn not_negative(name: &str, value: f64) -> anyhow::Result<f64> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(value),
        false => bail!("serve-config: {name} is {value}; expected 0 or more"),
    }
}

impl Upstream {
    fn from_table(table: More, env: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let key = match &table.key_env {
            Some(name) => Some(env(name).with_context(|| {
                format!(
                    "serve-config: key_env names {name}, which is not in the environment; set it to the key of {}",
                    table.model
                )
            })?),
            None => table.key,
        };
        let key = key.map(|key| key.trim().to_owned());
        if key.as_deref().is_some_and(|key| key.is_empty() || key.bytes().any(|byte| !byte.is_ascii_graphic())) {
            bail!(
                "serve-config: the key of {} is empty, or holds spaces or control characters; give the bare key",
                table.model
            );
        }
        let upstream = Self {
            endpoint: endpoint(&table.url)?,
            key,
            model: table.model,
            timeout_seconds: table.timeout_seconds.unwrap_or(60.0),
            concurrency: table.concurrency.unwrap_or(8),
            prices: Prices {
                prompt: not_negative("prompt_usd_per_million", table.prompt_usd_per_million.unwrap_or(0.0))?,
                completion: not_negative(
                    "completion_usd_per_million",
                    table.completion_usd_per_million.unwrap_or(0.0),
                )?,
            },
            queue: table.queue.unwrap_or(1000),
        };
        if !(0.05..=3600.0).contains(&upstream.timeout_seconds)
            || !(1..=4096).contains(&upstream.concurrency)
            || upstream.queue == 0
        {
            bail!("serve-config: timeout_seconds must be 0.05 to 3600, concurrency 1 to 4096, and queue 1 or more");
        }
        Ok(upstream)
    }
}

/// Whether it is an origin as a browser sends it.
fn is_origin(text: &str) -> bool {
    let url = reqwest::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    // To a parser a host may have stars.
    !text.contains('*') && url.is_some_and(|url| url.origin().ascii_serialization() == text)
}

/// `http://host`, `http://host/v1` and the full address all mean the same.
fn endpoint(url: &str) -> anyhow::Result<reqwest::Url> {
    let base = url.trim().trim_end_matches('/');
    let full = if base.ends_with("/chat/completions") {
        base.to_owned()
    } else if base.ends_with("/v1") {
        format!("{base}/chat/completions")
    } else {
        format!("{base}/v1/chat/completions")
    };
    let parsed = reqwest::Url::parse(&full).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    match parsed {
        Some(url) if url.username().is_empty() && url.password().is_none() => Ok(url),
        Some(_) => {
            bail!("serve-config: AUTOANNOTATOR_LLM_URL holds credentials; give the key in AUTOANNOTATOR_LLM_KEY")
        }
        None => bail!("serve-config: AUTOANNOTATOR_LLM_URL is not an address that begins with http:// or https://"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_over_the_file() {
        let file = "[llm]\nurl = \"http://a\"\nmodel = \"m\"\nprompt_usd_per_million = 2.0\n";
        let none = |_: &str| None;
        let llm = Config::read(file, none).expect("read").llm.expect("an LLM");
        assert_eq!(llm.upstreams[0].endpoint.as_str(), "http://a/v1/chat/completions");
        assert_eq!(llm.upstreams[0].prices.usd(1_000_000, 5), 2.0);
        let env = |name: &str| (name == "AUTOANNOTATOR_LLM_URL").then(|| "https://b/v1/".to_owned());
        let llm = Config::read(file, env).expect("read").llm.expect("an LLM");
        assert_eq!(llm.upstreams[0].endpoint.as_str(), "https://b/v1/chat/completions");
        assert!(Config::read("", none).expect("read").llm.is_none());
    }

    #[test]
    fn the_example_is_read_and_so_is_what_it_shows() {
        let example = include_str!("../../examples/server.toml");
        let plain = Config::read(example, |_| None).expect("read");
        assert!(plain.llm.is_none() && plain.tokens.is_empty() && plain.rounds.is_empty());
        // With the comments taken from what is commented out, and a hash in its place.
        let is_setting = |line: &str| line.contains(" = ") || line.starts_with('[');
        let shown: Vec<String> = example
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|setting| is_setting(setting)).unwrap_or(line))
            .filter(|line| !line.starts_with("# ") && !line.contains("The file of"))
            .map(|line| line.replace("sha256 = \"...\"", &format!("sha256 = \"{}\"", "0".repeat(64))))
            .collect();
        let key = |name: &str| (name == "BIG_LLM_KEY").then(|| "k".to_owned());
        let shown = Config::read(&shown.join("\n"), key).expect("read");
        let llm = shown.llm.expect("an LLM");
        assert_eq!((llm.caps.all, llm.caps.client, llm.upstreams[0].queue), (Some(20.0), Some(5.0), 1000));
        assert_eq!(llm.policy, Policy::Cascade { confidence: 0.9, samples: 5 });
        assert_eq!((llm.upstreams.len(), llm.upstreams[1].key.as_deref()), (2, Some("k")));
        assert_eq!((shown.tokens.len(), shown.rounds["sentiment"].layers), (1, Some(6)));
        assert_eq!(format!("{:?}", shown.limits), format!("{:?}", plain.limits));
        assert_eq!(shown.origins, ["https://labels.example.com"]);
    }

    #[test]
    fn origins_are_exact() {
        let read = |origin: &str| Config::read(&format!("origins = [\"{origin}\"]"), |_| None).map(|read| read.origins);
        for right in ["https://labels.example.com", "http://localhost:5173", "https://labels.example.com:8443"] {
            assert_eq!(read(right).expect(right), [right]);
        }
        for wrong in
            ["*", "null", "https://*", "labels.example.com", "https://a.example/", "https://a.example:443", "file:///a"]
        {
            let problem = read(wrong).err().map(|error| error.to_string()).expect(wrong);
            assert!(problem.starts_with("serve-config: ") && problem.contains("origins"), "{problem}");
        }
    }

    #[test]
    fn rounds_have_a_table_a_task() {
        let file = "[rounds.sentiment]\nreplay = [\"a.csv\", \"b.csv\"]\nlayers = 2\n";
        let config = Config::read(file, |_| None).expect("read");
        assert_eq!(config.rounds["sentiment"].arguments(), ["--replay", "a.csv", "--replay", "b.csv", "--layers", "2"]);
        let wrong = Config::read("[rounds.sentiment]\nreplays = []\n", |_| None).err().map(|error| error.to_string());
        assert!(wrong.is_some_and(|wrong| wrong.contains("line 2")));
    }

    #[test]
    fn mistakes_are_named_and_keys_are_not() {
        let none = |_: &str| None;
        let error = |file: &str| Config::read(file, none).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(error("[llm]\nurl = \"ftp://a\"\nmodel = \"m\"").contains("http://"));
        assert!(error("[llm]\nurl = \"http://a\"").contains("_MODEL"));
        assert!(error("[llm]\nurl = \"http://a\"\nmodel = \"m\"\nbudget_usd = 1.0").contains("prices"));
        let wrong = error("[llm]\nkey = \"s3cret\" x\n");
        assert!(wrong.contains("line 2") && !wrong.contains("s3cret"), "{wrong}");
        assert!(error("[llm]\nurll = \"http://a\"").contains("line 2"));
        let llm = "[llm]\nurl = \"http://a\"\nmodel = \"m\"\n";
        let more = "[[llm.more]]\nurl = \"http://b\"\nmodel = \"n\"\n";
        assert!(error(&format!("{llm}use = \"cascade\"\n")).contains("[[llm.more]]"));
        assert!(error(&format!("{llm}use = \"majority\"\n{more}")).contains("at least two"));
        assert!(error(&format!("{llm}use = \"majority\"\n{more}{more}{more}")).contains("odd"));
        assert!(error(&format!("{llm}{more}key_env = \"NOT_THERE\"\n")).contains("NOT_THERE"));
        assert!(error(more).contains("no url"));
        let prices = "prompt_usd_per_million = 1\ncompletion_usd_per_million = 1\nbudget_usd = 1\n";
        assert!(error(&format!("{llm}{prices}{more}")).contains("prices"), "also of the others");
        assert!(error(&format!("{llm}[[llm.more]]\nurl = \"http://a\"\nmodel = \"m\"\n")).contains("twice"));
        assert!(error(&format!("{llm}samples = 3\n")).contains("cascade"));
        assert!(error(&format!("{llm}queue = 0\n")).contains("queue"));
        let wrong = error(&format!("{llm}key = \"s3cret\\nx\"\n"));
        assert!(wrong.contains("bare key") && !wrong.contains("s3cret"), "{wrong}");
        assert!(error(&format!("{llm}total_seconds = 0\n")).contains("total_seconds"));
    }
}
