//! `annotator.toml`: the declarative pipeline, validated.
//!
//! TOML and JSON become one tree of nodes that know their lines; one validator reads it. So every error, in either
//! format, names the line that is wrong.

use crate::review::redact::Redactor;
use crate::task::{Label, LabelSet, Task, TaskError};
use crate::vote::{LabelMap, Rule};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use thiserror::Error;

/// What can be wrong with a spec. Lines count from 1.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// Not TOML or not JSON.
    #[error("spec-syntax: line {line}: {problem}")]
    Syntax {
        /// The line.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// A key that no spec has.
    #[error("spec-key: line {line}: unknown key '{key}'; expected one of: {expected}")]
    UnknownKey {
        /// The line.
        line: usize,
        /// The key, with the table it stands in.
        key: String,
        /// The keys that are known there.
        expected: String,
    },
    /// A value that is missing, of the wrong type, or does not fit the others.
    #[error("spec-value: line {line}: '{key}' {problem}")]
    Value {
        /// The line.
        line: usize,
        /// The key, with the table it stands in.
        key: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// Labels that make no task.
    #[error("spec-labels: line {line}: {error}")]
    Labels {
        /// The line.
        line: usize,
        /// What is wrong with them.
        error: TaskError,
    },
    /// No built-in spec has this name.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Who reviews hard samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReviewTo {
    /// Nobody: hard samples stay open.
    #[default]
    None,
    /// A person, in the page.
    Person,
    /// An LLM behind the review endpoint.
    Llm,
}

/// What an LLM's tokens cost, in US dollars a million.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Prices {
    /// Of the prompt.
    pub prompt: f64,
    /// Of the completion.
    pub completion: f64,
}

impl Prices {
    /// US dollars for so many tokens.
    pub fn usd(&self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        (prompt_tokens as f64 * self.prompt + completion_tokens as f64 * self.completion) / 1e6
    }
}

/// How an LLM is asked for a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptStyle {
    /// By the labels and their definitions alone.
    #[default]
    ZeroShot,
    /// With the spec's examples as earlier turns of the conversation.
    FewShot,
    /// With a short reasoning before the label.
    ChainOfThought,
}

/// A text and the label it should be given, shown to an LLM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// The text.
    pub text: String,
    /// The label's canonical name.
    pub label: String,
}

/// Texts of one call to an LLM at most.
pub const MAX_BATCH: usize = 32;

/// What happens to hard samples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReviewSpec {
    /// Who reviews them.
    pub to: ReviewTo,
    /// The server whose `/v1/review` is asked; none means the one that serves the page. Only with `to = "llm"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Whether personal data is replaced by placeholders before a text leaves; always true with `to = "llm"`.
    pub redact: bool,
    /// Names that are replaced too: whole words, in any case.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Whether reviewed texts may be kept, and natively some that the SLMs surely agree on, for rounds.
    pub keep_text: bool,
    /// The LLM's prices, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usd_per_million: Option<Prices>,
    /// How the LLM is asked.
    #[serde(skip_serializing_if = "is_default")]
    pub style: PromptStyle,
    /// Texts of one call to the LLM, 1 to [`MAX_BATCH`].
    #[serde(skip_serializing_if = "is_one")]
    pub batch: usize,
    /// Whether texts that speak to the reviewer are kept from an LLM.
    #[serde(skip_serializing_if = "is_true")]
    pub screen: bool,
    /// What the style few-shot shows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
}

impl Default for ReviewSpec {
    fn default() -> Self {
        Self {
            to: ReviewTo::None,
            url: None,
            redact: true,
            names: Vec::new(),
            keep_text: false,
            usd_per_million: None,
            style: PromptStyle::ZeroShot,
            batch: 1,
            screen: true,
            examples: Vec::new(),
        }
    }
}

impl ReviewSpec {
    /// What redacts texts before they leave.
    pub fn redactor(&self) -> Redactor {
        Redactor::new(&self.names)
    }
}

fn is_true(flag: &bool) -> bool {
    *flag
}

fn is_one(batch: &usize) -> bool {
    *batch == 1
}

fn is_default(style: &PromptStyle) -> bool {
    *style == PromptStyle::default()
}

/// When rounds are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TuneSpec {
    /// Unused reviewed samples in the pool at which a server holds a round of its own accord; 0 for never. The paper's
    /// beta (arXiv 2506.16393) by default.
    pub pool: usize,
}

impl Default for TuneSpec {
    fn default() -> Self {
        Self { pool: 2000 }
    }
}

/// The format of a labelled file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportFormat {
    /// Comma-separated values.
    Csv,
    /// One JSON object a line.
    #[default]
    Jsonl,
}

/// How results are written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ExportSpec {
    /// The format where the name of the output does not say it.
    pub format: ExportFormat,
}

/// The pipeline of one task.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// What is labelled.
    pub task: Task,
    /// The ids of the SLMs that vote, cheapest first; at least one, no two the same.
    pub slms: Vec<String>,
    /// What the labels of an SLM are in the task, by its id; without an entry they have the same names or aliases.
    pub label_maps: BTreeMap<String, LabelMap>,
    /// When their votes make a label.
    pub rule: Rule,
    /// What happens to the others.
    pub review: ReviewSpec,
    /// When rounds are held.
    pub tune: TuneSpec,
    /// How results are written.
    pub export: ExportSpec,
}

impl Spec {
    /// The spec of a built-in task: its three SLMs, the unanimous rule, no review.
    pub fn built_in(task: &str) -> Result<Self, SpecError> {
        let task = Task::built_in(task)?;
        let slms = default_slms(&task.name);
        Ok(Self::plain(task, slms))
    }

    /// A task and its SLMs, everything else as it is where nothing is said.
    pub fn plain(task: Task, slms: Vec<String>) -> Self {
        let (review, tune, export) = Default::default();
        Self { task, slms, label_maps: BTreeMap::new(), rule: Rule::default(), review, tune, export }
    }

    /// Reads a spec in TOML.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        validate(toml_root(text)?)
    }

    /// Reads a spec in JSON, with the keys of the TOML form.
    pub fn from_json(text: &str) -> Result<Self, SpecError> {
        validate(json_root(text)?)
    }

    /// The spec in JSON, as [`Spec::from_json`] reads it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The lines of a spec's keys, for what is found out about it after it was read.
pub struct Lines(Node);

impl Lines {
    /// Of a spec in TOML.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        Ok(Self(toml_root(text)?))
    }

    /// Of a spec in JSON.
    pub fn from_json(text: &str) -> Result<Self, SpecError> {
        Ok(Self(json_root(text)?))
    }

    /// The line of the value at a path of keys; of the nearest above it where there is none. In a list, a text is a key.
    pub fn of(&self, path: &[&str]) -> usize {
        let mut node = &self.0;
        for key in path {
            let inner = match &node.value {
                Value::Table(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
                Value::List(items) => {
                    items.iter().find(|item| matches!(&item.value, Value::Text(text) if text.trim() == *key))
                }
                _ => None,
            };
            match inner {
                Some(inner) => node = inner,
                None => break,
            }
        }
        node.line
    }
}

/// In the form that [`Spec::from_json`] reads: a built-in task without its labels.
impl Serialize for Spec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct File<'a> {
            task: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            labels: Option<&'a LabelSet>,
            slms: &'a [String],
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            label_map: &'a BTreeMap<String, LabelMap>,
            rule: Rule,
            review: &'a ReviewSpec,
            #[serde(skip_serializing_if = "Option::is_none")]
            tune: Option<&'a TuneSpec>,
            export: &'a ExportSpec,
        }
        let labels = (!Task::BUILT_IN.contains(&self.task.name.as_str())).then_some(&self.task.labels);
        let Self { task, slms, label_maps, rule, review, tune, export } = self;
        let tune = (*tune != TuneSpec::default()).then_some(tune);
        let label_map = label_maps;
        File { task: &task.name, labels, slms, label_map, rule: *rule, review, tune, export }.serialize(serializer)
    }
}

fn default_slms(task: &str) -> Vec<String> {
    ["minilm-l3", "minilm-l6", "mpnet"].map(|base| format!("{task}-{base}")).into()
}

/// A text of the spec and its line.
type Located = (String, usize);

/// A value of a spec file and the line it stands on.
struct Node {
    line: usize,
    value: Value,
}

enum Value {
    Table(Vec<(String, Node)>),
    List(Vec<Node>),
    Text(String),
    Bool(bool),
    Whole(i64),
    Number(f64),
    /// Something that no key of a spec takes.
    Other(&'static str),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Table(_) => "a table",
            Self::List(_) => "a list",
            Self::Text(_) => "text",
            Self::Bool(_) => "true or false",
            Self::Whole(_) | Self::Number(_) => "a number",
            Self::Other(kind) => kind,
        }
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

fn toml_root(text: &str) -> Result<Node, SpecError> {
    let table = toml::de::DeTable::parse(text).map_err(|error| SpecError::Syntax {
        line: error.span().map_or(1, |span| line_at(text, span.start)),
        problem: error.message().to_owned(),
    })?;
    Ok(Node { line: 1, value: toml_table(text, table.into_inner()) })
}

fn json_root(text: &str) -> Result<Node, SpecError> {
    let raw: &RawValue = serde_json::from_str(text)
        .map_err(|error| SpecError::Syntax { line: error.line().max(1), problem: error.to_string() })?;
    json_node(text, raw, 0)
}

fn toml_table(text: &str, table: toml::de::DeTable<'_>) -> Value {
    Value::Table(
        table.into_iter().map(|(key, value)| (key.into_inner().into_owned(), toml_node(text, value))).collect(),
    )
}

fn toml_node(text: &str, node: toml::Spanned<toml::de::DeValue<'_>>) -> Node {
    use toml::de::DeValue;
    let line = line_at(text, node.span().start);
    let value = match node.into_inner() {
        DeValue::Table(table) => toml_table(text, table),
        DeValue::Array(list) => Value::List(list.into_iter().map(|item| toml_node(text, item)).collect()),
        DeValue::String(value) => Value::Text(value.into_owned()),
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Integer(value) => {
            i64::from_str_radix(value.as_str(), value.radix()).map_or(Value::Other("a number"), Value::Whole)
        }
        DeValue::Float(value) => value.as_str().parse().map_or(Value::Other("a number"), Value::Number),
        DeValue::Datetime(_) => Value::Other("a date"),
    };
    Node { line, value }
}

/// Deeper than any spec; keeps a hostile file from exhausting the stack.
const MAX_DEPTH: usize = 16;

/// A raw value borrows from the whole text, so its place in it gives the line.
fn json_node(text: &str, raw: &RawValue, depth: usize) -> Result<Node, SpecError> {
    let json = raw.get();
    let line = line_at(text, (json.as_ptr() as usize).saturating_sub(text.as_ptr() as usize));
    let syntax = |problem: String| SpecError::Syntax { line, problem };
    if depth > MAX_DEPTH {
        return Err(syntax(format!("more than {MAX_DEPTH} levels of nesting")));
    }
    let fail = |error: serde_json::Error| syntax(error.to_string());
    let value = match json.as_bytes().first() {
        Some(b'{') => {
            let Pairs(pairs) = serde_json::from_str(json).map_err(fail)?;
            let mut table: Vec<(String, Node)> = Vec::with_capacity(pairs.len());
            for (key, value) in pairs {
                let node = json_node(text, value, depth + 1)?;
                if table.iter().any(|(other, _)| *other == key) {
                    return Err(SpecError::Syntax { line: node.line, problem: format!("key '{key}' stands twice") });
                }
                table.push((key, node));
            }
            Value::Table(table)
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json).map_err(fail)?;
            Value::List(items.into_iter().map(|item| json_node(text, item, depth + 1)).collect::<Result<_, _>>()?)
        }
        Some(b'"') => Value::Text(serde_json::from_str(json).map_err(fail)?),
        Some(b't' | b'f') => Value::Bool(json == "true"),
        Some(b'n') => Value::Other("null"),
        _ => match json.parse() {
            Ok(whole) => Value::Whole(whole),
            Err(_) => json.parse().map_or(Value::Other("a number"), Value::Number),
        },
    };
    Ok(Node { line, value })
}

/// The members of a JSON object in order, values unparsed.
pub(crate) struct Pairs<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Pairs<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A table while its keys are taken out one by one.
struct Table {
    /// Where it stands: empty at the top, else the table's name and a dot.
    place: &'static str,
    line: usize,
    entries: Vec<(String, Node)>,
    known: Vec<&'static str>,
}

impl Table {
    fn new(node: Node, place: &'static str) -> Result<Self, SpecError> {
        let line = node.line;
        match node.value {
            Value::Table(entries) => Ok(Self { place, line, entries, known: Vec::new() }),
            other => Err(SpecError::Value {
                line,
                key: if place.is_empty() { "the spec".into() } else { place.trim_end_matches('.').into() },
                problem: format!("is {}; expected a table", other.kind()),
            }),
        }
    }

    fn error(&self, line: usize, key: &str, problem: impl Into<String>) -> SpecError {
        SpecError::Value { line, key: format!("{}{key}", self.place), problem: problem.into() }
    }

    fn wrong(&self, key: &str, node: &Node, expected: &str) -> SpecError {
        self.error(node.line, key, format!("is {}; expected {expected}", node.value.kind()))
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        let index = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(index).1)
    }

    fn text(&mut self, key: &'static str) -> Result<Option<(String, usize)>, SpecError> {
        let Some(node) = self.take(key) else { return Ok(None) };
        match node {
            Node { line, value: Value::Text(text) } if text.trim().is_empty() => {
                Err(self.error(line, key, "is empty; give it a value or leave the key out"))
            }
            Node { line, value: Value::Text(text) } => Ok(Some((text.trim().to_owned(), line))),
            node => Err(self.wrong(key, &node, "text in quotes")),
        }
    }

    fn flag(&mut self, key: &'static str, default: bool) -> Result<(bool, usize), SpecError> {
        match self.take(key) {
            None => Ok((default, self.line)),
            Some(Node { line, value: Value::Bool(flag) }) => Ok((flag, line)),
            Some(node) => Err(self.wrong(key, &node, "true or false")),
        }
    }

    /// A number that counts something.
    fn count(&mut self, key: &'static str, default: usize) -> Result<(usize, usize), SpecError> {
        let expected = "a whole number, 0 or more";
        match self.take(key) {
            None => Ok((default, self.line)),
            Some(Node { line, value: Value::Whole(value) }) => match usize::try_from(value) {
                Ok(count) => Ok((count, line)),
                Err(_) => Err(self.error(line, key, format!("is {value}; expected {expected}"))),
            },
            Some(node) => Err(self.wrong(key, &node, expected)),
        }
    }

    /// A sum of money.
    fn usd(&mut self, key: &'static str) -> Result<Option<(f64, usize)>, SpecError> {
        let Some(node) = self.take(key) else { return Ok(None) };
        let (value, line) = match node {
            Node { line, value: Value::Whole(value) } => (value as f64, line),
            Node { line, value: Value::Number(value) } => (value, line),
            node => return Err(self.wrong(key, &node, "a number of US dollars")),
        };
        if !(value.is_finite() && value >= 0.0) {
            return Err(self.error(line, key, format!("is {value}; expected a number of US dollars, 0 or more")));
        }
        Ok(Some((value, line)))
    }

    /// The entries of a table inside; none where it is not there.
    fn entries_of(&mut self, key: &'static str) -> Result<Vec<(String, Node)>, SpecError> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Node { value: Value::Table(entries), .. }) => Ok(entries),
            Some(node) => Err(self.wrong(key, &node, "a table")),
        }
    }

    fn list(&mut self, key: &'static str) -> Result<Option<(Vec<Node>, usize)>, SpecError> {
        match self.take(key) {
            None => Ok(None),
            Some(Node { line, value: Value::List(items) }) => Ok(Some((items, line))),
            Some(node) => Err(self.wrong(key, &node, "a list")),
        }
    }

    fn texts(&mut self, key: &'static str) -> Result<Option<(Vec<Located>, usize)>, SpecError> {
        let Some((items, line)) = self.list(key)? else { return Ok(None) };
        let text = |node: Node| match node {
            Node { line, value: Value::Text(text) } => Ok((text.trim().to_owned(), line)),
            node => Err(self.wrong(key, &node, "a list of texts in quotes")),
        };
        Ok(Some((items.into_iter().map(text).collect::<Result<_, _>>()?, line)))
    }

    /// One of a few words; the first is the default.
    fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)], default: T) -> Result<T, SpecError> {
        let Some((word, line)) = self.text(key)? else { return Ok(default) };
        choices.iter().find(|(name, _)| *name == word).map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.error(line, key, format!("is '{word}'; expected one of: {}", names.join(", ")))
        })
    }

    /// Everything known was taken: what is left is unknown.
    fn finish(self) -> Result<(), SpecError> {
        match self.entries.into_iter().min_by_key(|(_, node)| node.line) {
            None => Ok(()),
            Some((key, node)) => Err(SpecError::UnknownKey {
                line: node.line,
                key: format!("{}{key}", self.place),
                expected: self.known.join(", "),
            }),
        }
    }
}

fn validate(root: Node) -> Result<Spec, SpecError> {
    let mut top = Table::new(root, "")?;
    let name = top.text("task")?;
    let labels = top.list("labels")?;
    let slms = top.texts("slms")?;
    let label_maps = top.take("label_map");
    let rule = top.choice("rule", &[("unanimous", Rule::Unanimous), ("majority", Rule::Majority)], Rule::default())?;
    let (mut review, examples) = top.take("review").map_or(Ok(Default::default()), review)?;
    let tune = top.take("tune").map_or(Ok(TuneSpec::default()), tune)?;
    let export = top.take("export").map_or(Ok(ExportSpec::default()), export)?;
    let Some((name, line)) = name else {
        let expected = format!("is missing; name a built-in task ({}) or one of your own", Task::BUILT_IN.join(", "));
        return Err(top.error(1, "task", expected));
    };
    let task = task(&top, name, line, labels)?;
    review.examples = examples.into_iter().map(|example| self::example(example, &task)).collect::<Result<_, _>>()?;
    let slms = self::slms(&top, &task, slms)?;
    let label_maps = label_maps.map_or(Ok(BTreeMap::new()), |node| self::label_maps(node, &top, &task, &slms))?;
    top.finish()?;
    Ok(Spec { task, slms, label_maps, rule, review, tune, export })
}

fn task(top: &Table, name: String, line: usize, labels: Option<(Vec<Node>, usize)>) -> Result<Task, SpecError> {
    let built_in = Task::BUILT_IN.contains(&name.as_str());
    match labels {
        None if built_in => Ok(Task::built_in(&name)?),
        None => {
            Err(top.error(line, "task", format!("is '{name}', which is not built in; give its labels in [[labels]]")))
        }
        Some((_, line)) if built_in => Err(top.error(
            line,
            "labels",
            format!("are given, but '{name}' is built in and has its own; leave them out or name the task otherwise"),
        )),
        Some((nodes, line)) => {
            let labels: Vec<(Label, usize)> = nodes.into_iter().map(label).collect::<Result<_, _>>()?;
            let lines: Vec<(String, usize)> = labels
                .iter()
                .flat_map(|(label, line)| {
                    std::iter::once(&label.name).chain(&label.aliases).map(|n| (n.clone(), *line))
                })
                .collect();
            let labels = LabelSet::new(labels.into_iter().map(|(label, _)| label).collect()).map_err(|error| {
                let named = |(name, line): &(String, usize)| match &error {
                    TaskError::Label { name: wrong, .. } if wrong == name => Some(*line),
                    _ => None,
                };
                SpecError::Labels { line: lines.iter().rev().find_map(named).unwrap_or(line), error }
            })?;
            Ok(Task { name, labels })
        }
    }
}

fn label(node: Node) -> Result<(Label, usize), SpecError> {
    let mut table = Table::new(node, "labels.")?;
    let name = table.text("name")?;
    let aliases = table.texts("aliases")?.map_or_else(Vec::new, |(aliases, _)| aliases);
    let definition = table.text("definition")?.map(|(text, _)| text);
    let Some((name, line)) = name else {
        return Err(table.error(table.line, "name", "is missing; every label has one"));
    };
    table.finish()?;
    Ok((Label { name, aliases: aliases.into_iter().map(|(alias, _)| alias).collect(), definition }, line))
}

fn slms(top: &Table, task: &Task, given: Option<(Vec<(String, usize)>, usize)>) -> Result<Vec<String>, SpecError> {
    let built_in = Task::BUILT_IN.contains(&task.name.as_str());
    let (given, line) = match given {
        None if built_in => return Ok(default_slms(&task.name)),
        None => return Err(top.error(1, "slms", "is missing; list the ids of the SLMs that vote, cheapest first")),
        Some(given) => given,
    };
    if given.is_empty() {
        return Err(top.error(line, "slms", "is empty; at least one SLM must vote"));
    }
    let mut ids: Vec<String> = Vec::with_capacity(given.len());
    for (id, line) in given {
        // Ids become file names and paths of addresses.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if id.is_empty() || id.starts_with('.') || !id.bytes().all(plain) {
            return Err(top.error(
                line,
                "slms",
                format!("holds '{id}'; an id is made of letters, digits, '-', '_' and '.'"),
            ));
        }
        if ids.contains(&id) {
            return Err(top.error(line, "slms", format!("holds '{id}' twice; an SLM votes once")));
        }
        ids.push(id);
    }
    Ok(ids)
}

fn label_maps(node: Node, top: &Table, task: &Task, slms: &[String]) -> Result<BTreeMap<String, LabelMap>, SpecError> {
    let line = node.line;
    let Value::Table(entries) = node.value else {
        return Err(top.error(line, "label_map", format!("is {}; expected a table for each SLM", node.value.kind())));
    };
    let mut maps = BTreeMap::new();
    for (id, node) in entries {
        if !slms.contains(&id) {
            let problem = format!("is for an SLM that does not vote; slms are: {}", slms.join(", "));
            return Err(top.error(node.line, &format!("label_map.{id}"), problem));
        }
        maps.insert(id, label_map(node, task)?);
    }
    Ok(maps)
}

fn label_map(node: Node, task: &Task) -> Result<LabelMap, SpecError> {
    let mut table = Table::new(node, "label_map.")?;
    let mut map = LabelMap::default();
    let of_task = |table: &Table, key: &str, label: &str, line: usize| {
        let index = task.labels.index(label);
        index.and_then(|index| task.labels.name(index)).map(str::to_owned).ok_or_else(|| {
            let names = task.labels.names().join(", ");
            table.error(line, key, format!("names the label '{label}'; the task has: {names}"))
        })
    };
    for (label, node) in table.entries_of("labels")? {
        let Value::Text(named) = &node.value else {
            return Err(table.wrong("labels", &node, "a label of the task in quotes"));
        };
        map.labels.insert(label, of_task(&table, "labels", named, node.line)?);
    }
    map.threshold = table.take("threshold").map(|node| threshold(&table, "threshold", &node)).transpose()?;
    for (label, node) in table.entries_of("thresholds")? {
        map.thresholds.insert(label, threshold(&table, "thresholds", &node)?);
    }
    map.none = table.text("none")?.map(|(label, line)| of_task(&table, "none", &label, line)).transpose()?;
    table.finish()?;
    Ok(map)
}

/// A probability that is neither 0 nor 1.
fn threshold(table: &Table, key: &str, node: &Node) -> Result<f32, SpecError> {
    match node.value {
        Value::Number(value) if value > 0.0 && value < 1.0 => Ok(value as f32),
        Value::Number(_) | Value::Whole(_) => {
            Err(table.error(node.line, key, "is not a probability above 0 and below 1"))
        }
        _ => Err(table.wrong(key, node, "a number above 0 and below 1")),
    }
}

/// The review, and its examples, whose labels are not checked yet.
fn review(node: Node) -> Result<(ReviewSpec, Vec<Table>), SpecError> {
    let mut table = Table::new(node, "review.")?;
    let choices = [("none", ReviewTo::None), ("person", ReviewTo::Person), ("llm", ReviewTo::Llm)];
    let to = table.choice("to", &choices, ReviewTo::None)?;
    let url = table.text("url")?;
    let (redact, redact_line) = table.flag("redact", true)?;
    let names = names(&mut table)?;
    let (keep_text, keep_line) = table.flag("keep_text", false)?;
    let usd_per_million = table.take("usd_per_million").map(prices).transpose()?;
    let styles = [
        ("zero-shot", PromptStyle::ZeroShot),
        ("few-shot", PromptStyle::FewShot),
        ("chain-of-thought", PromptStyle::ChainOfThought),
    ];
    let style = table.choice("style", &styles, PromptStyle::default())?;
    let (screen, _) = table.flag("screen", true)?;
    let (batch, batch_line) = table.count("batch", 1)?;
    if !(1..=MAX_BATCH).contains(&batch) {
        return Err(table.error(batch_line, "batch", format!("is {batch}; expected 1 to {MAX_BATCH} texts a call")));
    }
    let (examples, examples_line) = table.list("examples")?.unwrap_or_default();
    if (style == PromptStyle::FewShot) == examples.is_empty() {
        let problem = "are what style = \"few-shot\" shows: give both or neither, at best one or two for each label";
        return Err(table.error(examples_line.max(table.line), "examples", problem));
    }
    let examples =
        examples.into_iter().map(|node| Table::new(node, "review.examples.")).collect::<Result<_, SpecError>>()?;
    if let Some((url, line)) = &url {
        if to != ReviewTo::Llm {
            return Err(table.error(
                *line,
                "url",
                "is given, but only an LLM has one; add to = \"llm\" or leave it out",
            ));
        }
        if !(url.starts_with("http://") || url.starts_with("https://")) {
            return Err(table.error(*line, "url", format!("is '{url}'; expected an address with http:// or https://")));
        }
    }
    if to == ReviewTo::Llm && !redact {
        return Err(table.error(
            redact_line,
            "redact",
            "is false, but nothing leaves the device unredacted; leave it out",
        ));
    }
    if to == ReviewTo::None && keep_text {
        return Err(table.error(
            keep_line,
            "keep_text",
            "is true, but nobody reviews; it needs to = \"llm\" or \"person\"",
        ));
    }
    table.finish()?;
    let url = url.map(|(url, _)| url);
    Ok((
        ReviewSpec { to, url, redact, names, keep_text, usd_per_million, style, batch, screen, examples: Vec::new() },
        examples,
    ))
}

fn example(mut table: Table, task: &Task) -> Result<Example, SpecError> {
    let (text, label) = (table.text("text")?, table.text("label")?);
    let (Some((text, _)), Some((label, line))) = (text, label) else {
        return Err(table.error(table.line, "text", "and label are both needed"));
    };
    let Some(name) = task.labels.index(&label).and_then(|index| task.labels.name(index)) else {
        let names = task.labels.names().join(", ");
        return Err(table.error(line, "label", format!("is '{label}'; expected one of: {names}")));
    };
    table.finish()?;
    Ok(Example { text, label: name.to_owned() })
}

/// Names of one list at most.
const MOST_NAMES: usize = 10_000;
/// Words of one name at most.
const MOST_WORDS: usize = 4;

fn names(table: &mut Table) -> Result<Vec<String>, SpecError> {
    let Some((names, line)) = table.texts("names")? else { return Ok(Vec::new()) };
    if names.len() > MOST_NAMES {
        let problem = format!("holds {} names; at most {MOST_NAMES} are looked for", names.len());
        return Err(table.error(line, "names", problem));
    }
    for (name, line) in &names {
        // A single letter would take every such word out of the texts; in Chinese it is a name.
        let letters = name.chars().filter(|c| c.is_alphanumeric()).map(char::len_utf8).sum::<usize>();
        if letters < 2 || name.split_whitespace().count() > MOST_WORDS {
            let problem = format!("holds '{name}'; a name has two letters or more, and at most {MOST_WORDS} words");
            return Err(table.error(*line, "names", problem));
        }
    }
    Ok(names.into_iter().map(|(name, _)| name).collect())
}

fn prices(node: Node) -> Result<Prices, SpecError> {
    let mut table = Table::new(node, "review.usd_per_million.")?;
    let [prompt, completion] = ["prompt", "completion"].map(|key| table.usd(key));
    let prices = prompt?.zip(completion?).map(|((prompt, _), (completion, _))| Prices { prompt, completion });
    let line = table.line;
    let missing = table.error(line, "prompt", "and completion are both needed: US dollars for a million tokens");
    table.finish()?;
    prices.ok_or(missing)
}

/// The fewest samples that a round can be held on; the rounds themselves are native, a spec is read everywhere.
const FEWEST_POOLED: usize = 100;

fn tune(node: Node) -> Result<TuneSpec, SpecError> {
    let mut table = Table::new(node, "tune.")?;
    let (pool, line) = table.count("pool", TuneSpec::default().pool)?;
    if (1..FEWEST_POOLED).contains(&pool) {
        let problem = format!("is {pool}; a round needs at least {FEWEST_POOLED} samples, and 0 means none");
        return Err(table.error(line, "pool", problem));
    }
    table.finish()?;
    Ok(TuneSpec { pool })
}

fn export(node: Node) -> Result<ExportSpec, SpecError> {
    let mut table = Table::new(node, "export.")?;
    let choices = [("csv", ExportFormat::Csv), ("jsonl", ExportFormat::Jsonl)];
    let format = table.choice("format", &choices, ExportFormat::default())?;
    table.finish()?;
    Ok(ExportSpec { format })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKETS: &str = include_str!("../examples/tickets.toml");

    /// The error's message and line, in TOML.
    fn error(toml: &str) -> String {
        Spec::from_toml(toml).expect_err(toml).to_string()
    }

    #[track_caller]
    fn fails(toml: &str, line: usize, part: &str) {
        let message = error(toml);
        assert!(message.contains(&format!(": line {line}: ")), "{message}");
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn the_ways_to_ask_an_llm_are_read_and_written() {
        let toml = "task = \"sentiment\"\n[review]\nto = \"llm\"\nstyle = \"few-shot\"\nbatch = 8\nscreen = false\n\
                    [[review.examples]]\ntext = \"oh no\"\nlabel = \"NEG\"\n";
        let spec = Spec::from_toml(toml).expect("a spec");
        let (review, example) = (&spec.review, Example { text: "oh no".into(), label: "negative".into() });
        assert_eq!((review.style, review.batch, review.screen), (PromptStyle::FewShot, 8, false));
        assert_eq!(review.examples, [example]);
        assert_eq!(Spec::from_json(&spec.to_json()).expect("the same"), spec);
        let plain = Spec::built_in("sentiment").expect("built in").to_json();
        assert!(!plain.contains("batch") && !plain.contains("style") && !plain.contains("screen"), "{plain}");
        fails(&toml.replace("= 8", "= 33"), 5, "1 to 32");
        fails(&toml.replace("NEG", "sad"), 9, "negative, neutral, positive");
        fails(&toml.replace("few-shot", "zero-shot"), 7, "few-shot");
        fails("task = \"sentiment\"\n[review]\nstyle = \"few-shot\"\n", 2, "examples");
        fails(&toml.replace("text = \"oh no\"\n", ""), 7, "both needed");
    }

    #[test]
    fn a_built_in_task_needs_only_its_name() {
        let spec = Spec::from_toml("task = \"sentiment\"\n").expect("spec");
        assert_eq!(spec, Spec::built_in("sentiment").expect("built in"));
        assert_eq!(spec.slms, ["sentiment-minilm-l3", "sentiment-minilm-l6", "sentiment-mpnet"]);
        assert_eq!(spec.rule, Rule::Unanimous);
        assert!(spec.review.redact && !spec.review.keep_text);
        assert!(matches!(Spec::built_in("poetry"), Err(SpecError::Task(_))));
    }

    #[test]
    fn prices_and_the_pool_are_numbers() {
        let of = |more: &str| Spec::from_toml(&format!("task = \"sentiment\"\n{more}"));
        let spec =
            of("[review]\nusd_per_million = { prompt = 0.15, completion = 1 }\n[tune]\npool = 500\n").expect("a spec");
        let prices = spec.review.usd_per_million.expect("prices");
        assert_eq!((prices.usd(1_000_000, 2_000_000), spec.tune.pool), (2.15, 500));
        assert_eq!(Spec::from_json(&spec.to_json()).expect("JSON"), spec);
        let error = |more: &str| of(more).expect_err(more).to_string();
        assert!(error("[tune]\npool = 20\n").contains("at least 100"));
        assert!(error("[tune]\npool = -1\n").contains("0 or more"));
        assert!(error("[tune]\npool = 0.5\n").contains("line 3"));
        assert!(error("[review]\nusd_per_million = { prompt = -1, completion = 1 }\n").contains("0 or more"));
        assert!(error("[review]\nusd_per_million = { prompt = 1 }\n").contains("both"));
    }

    #[test]
    fn names_are_short_and_whole() {
        let of = |names: &str| Spec::from_toml(&format!("task = \"sentiment\"\n[review]\nnames = {names}\n"));
        let spec = of("[\"Ann Lee\", \"李雷\"]").expect("a spec");
        assert_eq!(spec.review.names, ["Ann Lee", "李雷"]);
        assert_eq!(Spec::from_json(&spec.to_json()).expect("JSON"), spec);
        assert_eq!(spec.review.redactor().redact("hi ann lee").text(), "hi [NAME]");
        assert!(!Spec::built_in("sentiment").expect("built in").to_json().contains("names"));
        fails("task = \"sentiment\"\n[review]\nnames = \"Ann\"\n", 3, "expected a list");
        fails("task = \"sentiment\"\n[review]\nnames = [\n\"Ann\",\n5]\n", 5, "texts in quotes");
        fails("task = \"sentiment\"\n[review]\nnames = [\n\"A\"]\n", 4, "two letters");
        fails("task = \"sentiment\"\n[review]\nnames = [\"a b c d e\"]\n", 3, "at most 4 words");
        fails("task = \"sentiment\"\n[review]\nname = [\"Ann\"]\n", 3, "names");
        let json = "{\n \"task\": \"sentiment\",\n \"review\": {\n \"names\": [\"\"]}}";
        assert!(Spec::from_json(json).expect_err(json).to_string().contains(": line 4: "));
        let many = format!("[{}]", "\"Ann\", ".repeat(10_001));
        assert!(of(&many).expect_err("too many").to_string().contains("at most 10000"));
    }

    #[test]
    fn label_maps_are_read_and_written() {
        let toml = "task = \"sentiment\"\nslms = [\"stars\", \"go.emotions\"]\n[label_map.stars]\n\
                    labels = { \"1 star\" = \"NEG\", \"5 stars\" = \"positive\" }\n[label_map.\"go.emotions\"]\nthreshold = 0.25\n\
                    none = \"neutral\"\n[label_map.\"go.emotions\".labels]\njoy = \"positive\"\n[label_map.\"go.emotions\".thresholds]\njoy = 0.5\n";
        let spec = Spec::from_toml(toml).expect("a spec");
        let stars = &spec.label_maps["stars"];
        assert_eq!(stars.labels["1 star"], "negative");
        assert_eq!((stars.threshold, stars.none.as_deref()), (None, None));
        let emotions = &spec.label_maps["go.emotions"];
        assert_eq!((emotions.threshold, emotions.thresholds["joy"]), (Some(0.25), 0.5));
        assert_eq!(Spec::from_json(&spec.to_json()).expect("JSON"), spec);
        assert!(!Spec::built_in("sentiment").expect("built in").to_json().contains("label_map"));
        let lines = Lines::from_toml(toml).expect("lines");
        assert_eq!(lines.of(&["label_map", "go.emotions", "labels", "joy"]), 9);
        assert_eq!(lines.of(&["label_map", "stars", "labels", "2 stars"]), 4);
        assert_eq!((lines.of(&["slms", "go.emotions"]), lines.of(&["rule"])), (2, 1));
        fails(
            &toml.replace("\"NEG\"", "\"bad\""),
            4,
            "names the label 'bad'; the task has: negative, neutral, positive",
        );
        fails(&toml.replace("joy = \"positive\"", "joy = 1"), 9, "a label of the task");
        fails(&toml.replace("0.25", "1"), 6, "'label_map.threshold' is not a probability");
        fails(&toml.replace("0.5", "1.5"), 11, "'label_map.thresholds' is not a probability");
        fails(&toml.replace("none = \"neutral\"", "none = \"joy\""), 7, "'label_map.none' names the label 'joy'");
        fails(&toml.replace("none =", "other ="), 7, "unknown key 'label_map.other'");
        fails(&toml.replace("label_map.stars", "label_map.star"), 3, "slms are: stars, go.emotions");
        fails("task = \"sentiment\"\nlabel_map = 1\n", 2, "a table for each SLM");
        fails("task = \"sentiment\"\n[label_map]\nsentiment-mpnet = 1\n", 3, "expected a table");
    }

    #[test]
    fn the_examples_are_read_in_full() {
        let spec = Spec::from_toml(TICKETS).expect("spec");
        assert_eq!(spec.task.labels.names(), ["bug", "question", "request"]);
        assert_eq!(spec.task.labels.index("Defect"), Some(0));
        assert_eq!(spec.rule, Rule::Majority);
        assert_eq!(spec.review.to, ReviewTo::Llm);
        assert_eq!(spec.review.url.as_deref(), Some("http://127.0.0.1:8080"));
        assert_eq!(spec.export.format, ExportFormat::Csv);
        assert!(Spec::from_toml(include_str!("../examples/sentiment.toml")).is_ok());
        let mapped = Spec::from_toml(include_str!("../examples/label-map.toml")).expect("spec");
        assert_eq!(mapped.label_maps["emotions"].none.as_deref(), Some("neutral"));
    }

    #[test]
    fn json_is_the_same_spec() {
        let spec = Spec::from_toml(TICKETS).expect("spec");
        assert_eq!(Spec::from_json(&spec.to_json()).expect("own JSON"), spec);
        let built_in = Spec::built_in("toxicity").expect("built in");
        assert_eq!(Spec::from_json(&built_in.to_json()).expect("own JSON"), built_in);
    }

    #[test]
    fn json_errors_name_the_line() {
        for (json, line, part) in [
            ("{\n \"task\": \"sentiment\",\n \"rulle\": \"x\"}", 3, "unknown key 'rulle'"),
            ("{\n \"task\": \"sentiment\",\n \"slms\": [\"a\",\n\"a\"]}", 4, "twice"),
            ("{\n \"task\": 5}", 2, "expected text"),
            ("{\n \"task\": \"a\",\n\"task\": \"b\"}", 3, "stands twice"),
            ("{\n \"task\" \"a\"}", 2, "expected"),
            ("[]", 1, "expected a table"),
        ] {
            let message = Spec::from_json(json).expect_err(json).to_string();
            assert!(message.contains(&format!(": line {line}: ")) && message.contains(part), "{json}: {message}");
        }
        let deep = format!("{{\"task\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
        assert!(Spec::from_json(&deep).is_err());
    }

    #[test]
    fn unknown_keys_are_errors() {
        fails("task = \"sentiment\"\nrul = \"majority\"\n", 2, "unknown key 'rul'");
        fails("task = \"sentiment\"\n[review]\nto = \"llm\"\nuri = \"http://x\"\n", 4, "'review.uri'");
        fails("task = \"sentiment\"\n\n[export]\nkind = \"csv\"\n", 4, "'export.kind'");
        fails("task = \"t\"\nslms = [\"a\"]\n[[labels]]\nname = \"a\"\nalias = [\"b\"]\n", 5, "'labels.alias'");
    }

    #[test]
    fn inconsistent_values_are_errors() {
        fails("rule = \"majority\"\n", 1, "'task' is missing");
        fails("task = \"poetry\"\n", 1, "not built in");
        fails("task = \"sentiment\"\n[[labels]]\nname = \"a\"\n", 2, "built in and has its own");
        fails("task = \"sentiment\"\nslms = []\n", 2, "at least one");
        fails("task = \"sentiment\"\nslms = [\n\"a\",\n\"b\",\n\"a\"]\n", 5, "'a' twice");
        fails("task = \"sentiment\"\nslms = [\"../a\"]\n", 2, "an id is made of");
        fails("task = \"sentiment\"\nrule = \"most\"\n", 2, "unanimous, majority");
        fails("task = \"sentiment\"\nrule = 3\n", 2, "expected text");
        fails("task = \"sentiment\"\nslms = \"a\"\n", 2, "expected a list");
        fails("task = \"\"\n", 1, "is empty");
        fails("task = \"sentiment\"\n[review]\nurl = \"http://x\"\n", 3, "only an LLM");
        fails("task = \"sentiment\"\n[review]\nto = \"llm\"\nurl = \"ftp://x\"\n", 4, "http://");
        fails("task = \"sentiment\"\n[review]\nto = \"llm\"\nredact = false\n", 4, "unredacted");
        fails("task = \"sentiment\"\n[review]\nkeep_text = true\n", 3, "needs to");
        fails("task = \"sentiment\"\n[review]\nredact = \"yes\"\n", 3, "true or false");
        fails("task = \"sentiment\"\nreview = 1\n", 2, "expected a table");
    }

    #[test]
    fn labels_that_make_no_task_are_errors() {
        let with = |labels: &str| format!("task = \"t\"\nslms = [\"a\"]\n{labels}");
        fails(&with("[[labels]]\nname = \"a\"\n"), 3, "at least two");
        fails(&with("[[labels]]\nname = \"a\"\n[[labels]]\nname = \"A\"\n"), 6, "two labels");
        fails(&with("[[labels]]\nname = \"a\"\n[[labels]]\nname = \"b\"\naliases = [\"a\"]\n"), 6, "two labels");
        fails(&with("[[labels]]\nname = \"a\"\n[[labels]]\naliases = [\"b\"]\n"), 5, "is missing");
        fails("task = \"t\"\n[[labels]]\nname = \"a\"\n[[labels]]\nname = \"b\"\n", 1, "'slms' is missing");
    }

    #[test]
    fn syntax_errors_name_the_line() {
        fails("task = \"sentiment\"\nrule = \n", 2, "spec-syntax");
        fails("task = \"sentiment\"\ntask = \"toxicity\"\n", 2, "spec-syntax");
    }
}
