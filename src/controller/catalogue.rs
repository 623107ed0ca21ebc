//! The catalogue: the models that may label a task, and why the others are out of the question.
//!
//! A model is judged by what the hub lists of it and by its `config.json`, so nothing is downloaded that cannot be loaded.
//! Nothing is ever unpickled, and no code of a repository is run.

use super::PlanError;
use super::remote::{Query, Remote};
use crate::hub::packing::{self, Folder};
use crate::hub::{Home, write_atomically};
use crate::slm::Scoring;
use crate::slm::adapter::{hex, sha256_of};
use crate::slm::hub::HubClassifier;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Bytes of a `config.json` at most.
pub(super) const MAX_CONFIG: u64 = 1 << 20;
/// Bytes of weights at most.
const MAX_WEIGHTS: u64 = 4 << 30;
/// How long what the hub listed is good for.
const FRESH: Duration = Duration::from_secs(24 * 3600);

/// A model as the hub lists it, in the names of its API (`GET /api/models`). What it leaves out is at its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listing {
    /// `owner/name`.
    pub id: String,
    /// The commit that is its newest.
    #[serde(deserialize_with = "or_default")]
    pub sha: String,
    /// Downloads of the last month.
    #[serde(deserialize_with = "or_default")]
    pub downloads: u64,
    /// `false`, or how access is granted.
    pub gated: Value,
    /// Whether only its owner sees it.
    #[serde(deserialize_with = "or_default")]
    pub private: bool,
    /// Whether the hub has switched it off.
    #[serde(deserialize_with = "or_default")]
    pub disabled: bool,
    /// What it is for.
    #[serde(deserialize_with = "or_default")]
    pub pipeline_tag: String,
    /// Among others `license:...` and languages.
    #[serde(deserialize_with = "or_default")]
    pub tags: Vec<String>,
    /// A part of its config.json.
    pub config: Value,
    /// Its files.
    #[serde(deserialize_with = "or_default")]
    pub siblings: Vec<Sibling>,
    /// What its safetensors files hold.
    pub safetensors: Value,
}

/// A file of a repository.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sibling {
    /// Its path in the repository.
    #[serde(rename = "rfilename")]
    pub name: String,
    /// Its bytes, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Of a large file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lfs: Option<Lfs>,
}

/// What git keeps of a large file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lfs {
    /// Its SHA-256, hexadecimal.
    #[serde(alias = "oid")]
    pub sha256: String,
    /// Its bytes.
    pub size: u64,
}

/// The hub says null where it has nothing to say.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A listing with the model's whole config.json.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What the hub lists.
    pub listing: Listing,
    /// Its config.json; none where it was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
    /// Why it was not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What the hub listed, as it is kept and given by `--catalogue`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The hub's address.
    pub endpoint: String,
    /// The models.
    pub models: Vec<Entry>,
}

impl Snapshot {
    /// Reads a snapshot file.
    pub fn read(path: &Path) -> Result<Self, PlanError> {
        let json = std::fs::read(path).map_err(|e| PlanError::file(path, e))?;
        serde_json::from_slice(&json).map_err(|e| PlanError::file(path, format!("not a catalogue snapshot: {e}")))
    }

    /// Writes it.
    pub fn write(&self, path: &Path) -> Result<(), PlanError> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| PlanError::file(path, e))?;
        Ok(write_atomically(path, &json)?)
    }

    /// What the hub lists for a query, or listed less than a day ago; whatever it listed last where it cannot be reached.
    /// The flag says that it is that.
    pub async fn of_hub(remote: &Remote, query: &Query, home: &Home) -> Result<(Self, bool), PlanError> {
        let name = hex(&sha256_of([remote.endpoint(), query.key().as_str()]));
        let path = home.path().join("catalogue").join(format!("{name}.json"));
        let age = || SystemTime::now().duration_since(std::fs::metadata(&path).ok()?.modified().ok()?).ok();
        if age().is_some_and(|age| age < FRESH)
            && let Ok(known) = Self::read(&path)
        {
            return Ok((known, false));
        }
        match Self::fetched(remote, query).await {
            Ok(fresh) => {
                fresh.write(&path)?;
                Ok((fresh, false))
            }
            Err(error) => match Self::read(&path) {
                Ok(known) => Ok((known, true)),
                Err(_) => Err(error),
            },
        }
    }

    async fn fetched(remote: &Remote, query: &Query) -> Result<Self, PlanError> {
        let mut models = Vec::new();
        for value in remote.search(query).await? {
            let id = value.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
            let entry = match serde_json::from_value::<Listing>(value) {
                Ok(listing) => Self::with_config(remote, listing).await,
                Err(e) => Entry {
                    listing: Listing { id, ..Listing::default() },
                    config: None,
                    problem: Some(format!("the hub's listing of it cannot be read: {e}")),
                },
            };
            models.push(entry);
        }
        Ok(Self { endpoint: remote.endpoint().to_owned(), models })
    }

    /// The config.json is only asked for where the listing leaves a chance.
    async fn with_config(remote: &Remote, listing: Listing) -> Entry {
        if listed(&listing).is_err() {
            return Entry { listing, ..Entry::default() };
        }
        let read = remote.small(&listing.id, revision(&listing), "config.json", MAX_CONFIG).await;
        let parsed = read.and_then(|json| serde_json::from_slice(&json).map_err(|e| format!("not valid JSON: {e}")));
        match parsed {
            Ok(config) => Entry { listing, config: Some(config), problem: None },
            Err(problem) => Entry { listing, config: None, problem: Some(format!("config.json: {problem}")) },
        }
    }
}

/// Where a candidate comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// A repository of the hub, at a commit.
    Hub {
        /// `owner/name`.
        repo: String,
        /// The commit.
        revision: String,
    },
    /// A folder in the hub's layout.
    Folder(PathBuf),
    /// An SLM of `models/`.
    Own(Box<Folder>),
}

/// A model that may be measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// What it is called: `owner/name`, the folder's name, or the SLM's id.
    pub id: String,
    /// Where it comes from.
    pub origin: Origin,
    /// Its own labels, in the order of its head's rows.
    pub labels: Vec<String>,
    /// How its logits become probabilities.
    pub scoring: Scoring,
    /// Its `model_type`.
    pub architecture: String,
    /// Its files that have to be brought, the weights first; none for an SLM of `models/`.
    pub files: Vec<String>,
    /// Its parameters, where the hub tells.
    pub parameters: Option<u64>,
    /// Downloads of the last month.
    pub downloads: u64,
    /// Its licence.
    pub licence: Option<String>,
    /// Its languages.
    pub languages: Vec<String>,
}

/// A model that is not looked at, and why: a stable code, a colon and the particulars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The model.
    pub id: String,
    /// Why.
    pub why: String,
}

/// What is asked of models besides that they load.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wants {
    /// Licences; none for any.
    pub licences: Vec<String>,
    /// Languages; none for any. A model that names none is taken.
    pub languages: Vec<String>,
    /// Megabytes of the packed model at most.
    pub max_mb: Option<f64>,
}

/// The commit of a listing.
fn revision(listing: &Listing) -> &str {
    if listing.sha.is_empty() { "main" } else { &listing.sha }
}

/// Whether an id and a commit may become part of an address and of a path.
fn is_safe(id: &str, revision: &str) -> bool {
    let part = |text: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        (1..=96).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(allowed)
    };
    let mut parts = id.split('/');
    let two = parts.next().is_some_and(part) && parts.next().is_none_or(part) && parts.next().is_none();
    two && !id.contains("--") && !id.contains("..") && part(revision)
}

/// What the listing alone says against a model.
fn listed(listing: &Listing) -> Result<(), String> {
    if !is_safe(&listing.id, revision(listing)) {
        return Err("catalogue-id: its name or commit is not one that the hub gives".to_owned());
    }
    if listing.private || listing.disabled {
        return Err("catalogue-access: it is private or switched off".to_owned());
    }
    if !matches!(&listing.gated, Value::Null | Value::Bool(false)) {
        return Err("catalogue-gated: its owner grants access one by one; ask there and give a folder with its files by --folder".to_owned());
    }
    if listing.config.get("auto_map").is_some() || listing.tags.iter().any(|tag| tag == "custom_code") {
        return Err("catalogue-custom-code: it wants code of its repository to be run, which is never done".to_owned());
    }
    if !listing.pipeline_tag.is_empty() && listing.pipeline_tag != "text-classification" {
        return Err(format!("catalogue-kind: it is for {}, not for text-classification", listing.pipeline_tag));
    }
    files(&names(listing)).map(|_| ())
}

fn names(listing: &Listing) -> Vec<&str> {
    listing.siblings.iter().map(|file| file.name.as_str()).collect()
}

/// Each of these sets of files makes a tokenizer; the first that is there whole is taken.
const TOKENIZERS: [&[&str]; 7] = [
    &["tokenizer.json"],
    &["vocab.json", "merges.txt"],
    &["vocab.txt", "bpe.codes"],
    &["vocab.txt"],
    &["sentencepiece.bpe.model"],
    &["spiece.model"],
    &["spm.model"],
];
/// Files that say how a tokenizer is used; taken where they are there.
const TOKENIZER_SETTINGS: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];

/// The weights that are read.
const WEIGHTS: &str = "model.safetensors";

/// The files to bring, the weights first.
fn files(names: &[&str]) -> Result<Vec<String>, String> {
    let has = |name: &str| names.contains(&name);
    if !has(WEIGHTS) {
        let ends = |ends: &[&str]| names.iter().any(|name| ends.iter().any(|end| name.ends_with(end)));
        return Err(if has("model.safetensors.index.json") {
            "catalogue-sharded: its weights are cut into several files; models of that size do not vote here".to_owned()
        } else if ends(&[".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"]) {
            "catalogue-pickle: its weights are a pickle, which can run code and is never opened; ask its owner for safetensors"
                .to_owned()
        } else if ends(&[".onnx"]) {
            "catalogue-onnx: it has ONNX weights alone, out of which no head is read; ask its owner for safetensors"
                .to_owned()
        } else {
            format!("catalogue-weights: it has no {WEIGHTS}")
        });
    }
    if !has("config.json") {
        return Err("catalogue-config: it has no config.json".to_owned());
    }
    let Some(tokenizer) = TOKENIZERS.into_iter().find(|all| all.iter().all(|name| has(name))) else {
        return Err("catalogue-tokenizer: it has no tokenizer file that is known".to_owned());
    };
    let settings = TOKENIZER_SETTINGS.into_iter().filter(|name| has(name));
    let all = [WEIGHTS, "config.json"].into_iter().chain(tokenizer.iter().copied()).chain(settings);
    Ok(all.map(str::to_owned).collect())
}

/// A candidate, or why a model is none.
pub fn judge(entry: &Entry, wants: &Wants) -> Result<Candidate, Refused> {
    let listing = &entry.listing;
    let refused = |why: String| Refused { id: super::plain(&listing.id, 120), why: super::plain(&why, 600) };
    let tag = |prefix: &str| listing.tags.iter().find_map(|tag| tag.strip_prefix(prefix)).map(str::to_owned);
    listed(listing).map_err(refused)?;
    let licence = tag("license:");
    if !wants.licences.is_empty() && !licence.as_ref().is_some_and(|own| wants.licences.contains(own)) {
        let own = licence.as_deref().unwrap_or("not told");
        return Err(refused(format!("catalogue-licence: its licence is {own}, wanted: {}", wants.licences.join(", "))));
    }
    let languages: Vec<String> = listing.tags.iter().filter(|tag| is_language(tag)).cloned().collect();
    let speaks = |wanted: &String| languages.iter().any(|own| own == wanted || own == "multilingual");
    if !wants.languages.is_empty() && !languages.is_empty() && !wants.languages.iter().any(speaks) {
        return Err(refused(format!("catalogue-language: it is for {}", languages.join(", "))));
    }
    let parameters = listing.safetensors.get("total").and_then(Value::as_u64);
    too_large(parameters, wants).map_err(refused)?;
    if let Some(problem) = &entry.problem {
        return Err(refused(format!("catalogue-config: {problem}")));
    }
    let config = entry.config.as_ref().unwrap_or(&Value::Null);
    let HubClassifier { labels, scoring, .. } = head(config).map_err(refused)?;
    Ok(Candidate {
        id: listing.id.clone(),
        origin: Origin::Hub { repo: listing.id.clone(), revision: revision(listing).to_owned() },
        labels,
        scoring,
        architecture: config.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned(),
        files: files(&names(listing)).map_err(refused)?,
        parameters,
        downloads: listing.downloads,
        licence,
        languages,
    })
}

/// An int8 model takes about a byte a parameter, so that it can be known before the download.
fn too_large(parameters: Option<u64>, wants: &Wants) -> Result<(), String> {
    let Some(count) = parameters else { return Ok(()) };
    let megabytes = count as f64 / 1e6;
    match wants.max_mb {
        Some(max) if megabytes > max => {
            Err(format!("catalogue-size: about {megabytes:.0} MB packed, more than --max-mb {max}"))
        }
        _ if count > MAX_WEIGHTS => Err(format!("catalogue-size: {count} parameters")),
        _ => Ok(()),
    }
}

fn is_language(tag: &str) -> bool {
    tag == "multilingual" || ((2..=3).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_lowercase()))
}

/// What a config.json says, if the model can be loaded and votes.
fn head(config: &Value) -> Result<HubClassifier, String> {
    if config.get("auto_map").is_some() || config.get("custom_pipelines").is_some() {
        return Err(
            "catalogue-custom-code: its config.json wants code of its repository to be run, which is never done"
                .to_owned(),
        );
    }
    let is_score = config.get("id2label").and_then(Value::as_object).is_some_and(|labels| labels.len() < 2);
    if is_score || config.get("problem_type").and_then(Value::as_str) == Some("regression") {
        return Err("catalogue-regression: it gives a number, not one of several labels".to_owned());
    }
    let json = serde_json::to_vec(config).unwrap_or_default();
    HubClassifier::from_json(&json, "config.json").map_err(|e| e.to_string())
}

/// The SLMs of `models/`, as candidates.
pub fn own(models: &Path, home: &Home) -> Result<Vec<Candidate>, PlanError> {
    let candidate = |folder: Folder| Candidate {
        id: folder.slm.id.clone(),
        labels: folder.slm.labels.clone(),
        scoring: Scoring::Softmax,
        architecture: folder.slm.base.clone(),
        origin: Origin::Own(Box::new(folder)),
        files: Vec::new(),
        parameters: None,
        downloads: 0,
        licence: None,
        languages: Vec::new(),
    };
    Ok(packing::current(models, home)?.into_iter().map(candidate).collect())
}

/// A folder in the hub's layout as a candidate.
pub fn folder(path: &Path, wants: &Wants) -> Result<Candidate, Refused> {
    let id = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let refused = |why: String| Refused { id: path.display().to_string(), why };
    if !is_safe(&id, "main") {
        return Err(refused(
            "catalogue-id: its name must be letters, digits, '-', '_' and '.', and no '--'".to_owned(),
        ));
    }
    let entries = std::fs::read_dir(path).map_err(|e| refused(format!("catalogue-folder: {e}")))?;
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let siblings = names.into_iter().map(|name| Sibling { name, ..Sibling::default() }).collect();
    let listing = Listing { id, siblings, ..Listing::default() };
    let config =
        std::fs::read(path.join("config.json")).map_err(|e| refused(format!("catalogue-config: config.json: {e}")))?;
    let config = serde_json::from_slice(&config).map_err(|e| refused(format!("catalogue-config: config.json: {e}")))?;
    let candidate = judge(&Entry { listing, config: Some(config), problem: None }, wants);
    candidate.map(|candidate| Candidate { origin: Origin::Folder(path.to_owned()), ..candidate })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        json!({
            "listing": {
                "id": "some/model", "sha": "0123abcd", "downloads": 7, "gated": false, "private": false,
                "pipeline_tag": "text-classification", "tags": ["license:mit", "en", "bert"],
                "config": { "model_type": "bert" },
                "siblings": [{ "rfilename": "config.json" }, { "rfilename": "model.safetensors" },
                             { "rfilename": "tokenizer.json" }, { "rfilename": "pytorch_model.bin" }],
                "safetensors": { "total": 22_000_000 },
            },
            "config": {
                "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 9, "hidden_size": 8,
                "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16,
                "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
                "id2label": { "1": "POSITIVE", "0": "NEGATIVE" },
            },
        })
    }

    fn judged(entry: &Value, wants: &Wants) -> Result<Candidate, Refused> {
        judge(&serde_json::from_value(entry.clone()).expect("an entry"), wants)
    }

    #[test]
    fn a_model_that_loads_is_a_candidate() {
        let candidate = judged(&good(), &Wants::default()).expect("a candidate");
        assert_eq!(candidate.labels, ["NEGATIVE", "POSITIVE"]);
        assert_eq!(candidate.files, ["model.safetensors", "config.json", "tokenizer.json"]);
        assert_eq!((candidate.licence.as_deref(), candidate.languages), (Some("mit"), vec!["en".to_owned()]));
        assert_eq!(candidate.origin, Origin::Hub { repo: "some/model".into(), revision: "0123abcd".into() });
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let change = |pointer: &str, value: Value| {
            let mut entry = good();
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
            entry.pointer_mut(parent).and_then(Value::as_object_mut).expect("a table").insert(key.into(), value);
            entry
        };
        let files = |names: &[&str]| names.iter().map(|name| json!({ "rfilename": name })).collect::<Vec<_>>();
        for (pointer, value, code) in [
            ("/listing/id", json!("../../etc"), "catalogue-id"),
            ("/listing/id", json!("a/b/c"), "catalogue-id"),
            ("/listing/sha", json!("../up"), "catalogue-id"),
            ("/listing/gated", json!("manual"), "catalogue-gated"),
            ("/listing/private", json!(true), "catalogue-access"),
            ("/listing/tags", json!(["custom_code"]), "catalogue-custom-code"),
            ("/listing/config", json!({ "auto_map": { "AutoModel": "m.M" } }), "catalogue-custom-code"),
            ("/listing/pipeline_tag", json!("text-generation"), "catalogue-kind"),
            (
                "/listing/siblings",
                json!(files(&["config.json", "tokenizer.json", "pytorch_model.bin"])),
                "catalogue-pickle",
            ),
            ("/listing/siblings", json!(files(&["config.json", "tokenizer.json"])), "catalogue-weights"),
            ("/listing/siblings", json!(files(&["model.safetensors.index.json", "config.json"])), "catalogue-sharded"),
            ("/listing/siblings", json!(files(&["model.safetensors", "tokenizer.json"])), "catalogue-config"),
            ("/listing/siblings", json!(files(&["model.safetensors", "config.json"])), "catalogue-tokenizer"),
            ("/problem", json!("config.json: status 404"), "catalogue-config"),
            ("/config/auto_map", json!({}), "catalogue-custom-code"),
            ("/config/model_type", json!("gpt2"), "slm-architecture"),
            ("/config/architectures", json!(["BertForTokenClassification"]), "slm-file"),
            ("/config/id2label", json!({ "0": "score" }), "catalogue-regression"),
            ("/config/problem_type", json!("regression"), "catalogue-regression"),
            ("/config/problem_type", json!("ranking"), "slm-file"),
            ("/config/id2label", json!({ "0": "a", "2": "b" }), "slm-file"),
            ("/config/id2label", json!({ "0": "a", "x": "b" }), "slm-file"),
        ] {
            let refused = judged(&change(pointer, value.clone()), &Wants::default()).expect_err(code);
            assert!(refused.why.starts_with(code), "{pointer} {value}: {}", refused.why);
        }
        let wants = |licence: &str, language: &str, max_mb| Wants {
            licences: vec![licence.into()],
            languages: vec![language.into()],
            max_mb,
        };
        for (wants, code) in [
            (wants("apache-2.0", "en", None), "catalogue-licence"),
            (wants("mit", "de", None), "catalogue-language"),
            (wants("mit", "en", Some(10.0)), "catalogue-size"),
        ] {
            assert!(judged(&good(), &wants).expect_err(code).why.starts_with(code), "{code}");
        }
        assert!(judged(&good(), &wants("mit", "en", Some(30.0))).is_ok());
    }

    #[test]
    fn the_hubs_nulls_are_defaults() {
        let listing: Listing = serde_json::from_value(
            json!({ "id": "a", "sha": null, "tags": null, "siblings": null, "downloads": null }),
        )
        .expect("a listing");
        assert_eq!(listing, Listing { id: "a".into(), ..Listing::default() });
    }
}
