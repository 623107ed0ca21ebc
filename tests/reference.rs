//! Encoder and tokenizer against PyTorch `transformers`, and files that lie. `tests/reference/make.py` wrote the values.

use autoannotator::slm::config::{EncoderConfig, relative_position_bucket};
use autoannotator::slm::cpu::{CpuEncoder, CpuEngine, Isa};
use autoannotator::slm::model::{Slm, States};
use autoannotator::slm::pack::{self, FORMAT, PackedMeta, PackedWeights, Precision, Unpacker};
use autoannotator::slm::tokenize::Tokenizer;
use autoannotator::slm::weights::{EncoderWeights, Head, Linear, Pooling, SafetensorsSource};
use autoannotator::slm::{Batch, Engine, Scoring, SlmError};
use pollster::block_on;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The most that logits and hidden states may be off; the reference was computed in f64.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Cases {
    labels: Vec<String>,
    max_length: usize,
    cases: Vec<Case>,
    buckets: Buckets,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    texts: Vec<Vec<u32>>,
    logits: Vec<Vec<f64>>,
    hidden: Vec<Hidden>,
    head: HeadValues,
    #[serde(default)]
    votes: Vec<ExpectedVote>,
}

#[derive(Deserialize)]
struct Hidden {
    text: usize,
    states: Vec<f64>,
}

#[derive(Deserialize)]
struct HeadValues {
    weight: Vec<f32>,
    bias: Vec<f32>,
    temperature: f32,
}

#[derive(Deserialize)]
struct ExpectedVote {
    text: String,
    truncated: bool,
    logits: Vec<f64>,
    probabilities: Vec<f64>,
}

#[derive(Deserialize)]
struct Buckets {
    first: i64,
    table: HashMap<usize, Vec<usize>>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("reference")
}

fn bytes(path: &str) -> Vec<u8> {
    std::fs::read(folder().join(path)).expect(path)
}

fn cases() -> Cases {
    serde_json::from_slice(&bytes("cases.json")).expect("cases.json")
}

fn config(model: &str) -> EncoderConfig {
    EncoderConfig::from_json(&bytes(&format!("{model}/config.json")), "config.json").expect(model)
}

fn read(model: &str, file: &[u8]) -> Result<EncoderWeights, SlmError> {
    EncoderWeights::read(&config(model), &SafetensorsSource::new(file, "model.safetensors")?)
}

impl Case {
    fn weights(&self) -> EncoderWeights {
        read(&self.model, &bytes(&format!("{}/model.safetensors", self.model))).expect("weights")
    }

    fn head(&self) -> Head {
        let HeadValues { weight, bias, temperature } = &self.head;
        let (outputs, inputs) = (bias.len(), weight.len() / bias.len());
        let linear = Linear { weight: weight.clone(), bias: bias.clone(), outputs, inputs };
        Head { pooling: Pooling::Mean, dense: None, linear, temperature: *temperature }
    }

    fn batch(&self) -> Batch {
        Batch::new(self.texts.iter().map(Vec::as_slice))
    }

    fn check_logits(&self, engine: &mut dyn Engine, what: &str) {
        let found = engine.logits(&self.batch()).expect("logits");
        close(&found, &self.logits.concat(), &format!("{} {what}", self.model));
    }
}

fn close(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(*found) - expected).abs() < TOLERANCE, "{what} at {index}: {found}, expected {expected}");
    }
}

#[test]
fn the_cases_can_fail() {
    let Cases { cases, max_length, .. } = cases();
    assert_eq!(
        cases.iter().map(|case| &case.model[..]).collect::<Vec<_>>(),
        ["bert", "bert-f16", "bert-bf16", "mpnet"]
    );
    for case in &cases {
        assert_eq!(config(&case.model).max_length(), max_length);
        let lengths: Vec<usize> = case.texts.iter().map(Vec::len).collect();
        assert!(lengths.contains(&1) && lengths.contains(&max_length), "{lengths:?}");
        let all = case.logits.concat();
        assert!(all.iter().copied().fold(f64::MIN, f64::max) - all.iter().copied().fold(f64::MAX, f64::min) > 1.0);
    }
    // What f16 and bf16 round away shows, so that reading one as the other would too.
    let far = |a: &Case, b: &Case| a.logits.concat().iter().zip(b.logits.concat()).any(|(a, b)| (a - b).abs() > 5e-4);
    assert!(far(&cases[0], &cases[1]) && far(&cases[0], &cases[2]) && far(&cases[1], &cases[2]));
}

#[test]
fn hidden_states_and_logits_of_the_cpu_engine() {
    for case in cases().cases {
        let weights = case.weights();
        for isa in Isa::available() {
            for hidden in &case.hidden {
                let batch = Batch::new([&case.texts[hidden.text][..]]);
                let mut encoder = CpuEncoder::with_isa(&weights, Some(isa));
                let found = encoder.hidden(&batch, weights.layers.len()).expect("hidden");
                close(&found, &hidden.states, &format!("{} {isa:?} hidden", case.model));
            }
            let mut engine = CpuEngine::from_encoder(CpuEncoder::with_isa(&weights, Some(isa)), case.head());
            case.check_logits(&mut engine, &format!("{isa:?}"));
        }
    }
}

/// Where burn-wgpu has no adapter its test says so and passes, unless `AUTOANNOTATOR_GPU=required`.
#[cfg(feature = "gpu-burn")]
#[test]
fn logits_of_the_burn_module_on_wgpu() {
    use autoannotator::slm::burn::{Backend, BurnEngine, device};
    let device = match block_on(device(Backend::Wgpu(None))) {
        Ok(device) => device,
        Err(error) if std::env::var("AUTOANNOTATOR_GPU").is_ok_and(|value| value == "required") => panic!("{error}"),
        Err(error) => return eprintln!("skipped: {error}"),
    };
    for case in cases().cases {
        let mut engine = BurnEngine::new(&case.weights(), &case.head(), &device);
        case.check_logits(&mut engine, "burn on wgpu");
    }
}

#[cfg(feature = "burn")]
#[test]
fn logits_of_the_burn_module() {
    use autoannotator::slm::burn::{Backend, BurnEngine, device};
    let device = block_on(device(Backend::Cpu)).expect("the CPU");
    for case in cases().cases {
        let mut engine = BurnEngine::new(&case.weights(), &case.head(), &device);
        case.check_logits(&mut engine, "burn");
    }
}

#[test]
fn relative_positions_fall_into_the_originals_buckets() {
    let Buckets { first, table } = cases().buckets;
    assert_eq!(table.len(), 3);
    for (buckets, expected) in table {
        for (relative, expected) in (first..).zip(expected) {
            assert_eq!(relative_position_bucket(relative, buckets), expected, "{relative} of {buckets}");
        }
    }
}

fn meta(case: &Case, cases: &Cases, precision: Precision) -> PackedMeta {
    PackedMeta {
        format: FORMAT,
        id: format!("tiny-{}", case.model),
        task: "sentiment".into(),
        labels: cases.labels.clone(),
        base: case.model.clone(),
        config: config(&case.model),
        pooling: Pooling::Mean,
        dense: None,
        scoring: Scoring::Softmax,
        temperature: case.head.temperature,
        max_length: cases.max_length,
        precision,
    }
}

#[test]
fn a_packed_slm_votes_as_the_reference_does() {
    let all = cases();
    for case in all.cases.iter().filter(|case| !case.votes.is_empty()) {
        let packed = pack::write(&meta(case, &all, Precision::F32), &PackedWeights::F32(case.weights()), &case.head())
            .expect("packed");
        let mut slm = Slm::load(&packed, &bytes(&format!("{}/tokenizer.json", case.model)), 1).expect("loaded");
        let texts: Vec<&str> = case.votes.iter().map(|vote| vote.text.as_str()).collect();
        let logits: Vec<f64> = case.votes.iter().flat_map(|vote| vote.logits.clone()).collect();
        close(&block_on(slm.logits(&texts)).expect("logits"), &logits, &case.model);
        for (vote, expected) in block_on(slm.vote(&texts)).expect("votes").iter().zip(&case.votes) {
            close(&vote.probabilities, &expected.probabilities, &expected.text);
            let best = (0..all.labels.len())
                .max_by(|a, b| expected.probabilities[*a].total_cmp(&expected.probabilities[*b]))
                .expect("labels");
            assert_eq!((&vote.label, vote.truncated), (&all.labels[best], expected.truncated), "{}", expected.text);
            assert_eq!(vote.version, pack::version(&packed));
        }
    }
}

/// The part of an SLM that has these layers.
fn part(packed: &[u8], tokenizer: &[u8], layers: std::ops::Range<usize>) -> Result<Slm, SlmError> {
    let mut unpacker = Unpacker::new("the part");
    unpacker.layers(layers);
    packed.chunks(999).try_for_each(|bytes| unpacker.push(bytes))?;
    Slm::from_packed(unpacker.finish()?, pack::version(packed), tokenizer, 1)
}

/// On its way the states are bytes, as between two workers.
fn handed_over(states: &States) -> States {
    States::from_bytes(&states.to_bytes()).expect("states")
}

#[test]
fn an_slm_in_parts_votes_as_the_whole_does() {
    let all = cases();
    for case in all.cases.iter().filter(|case| !case.votes.is_empty()) {
        let weights = case.weights();
        let tokenizer = bytes(&format!("{}/tokenizer.json", case.model));
        let texts: Vec<&str> = case.votes.iter().map(|vote| vote.text.as_str()).collect();
        let texts = [&texts[..], &texts[..2], &[""]].concat();
        let last = weights.layers.len();
        let int8 = PackedWeights::Int8(weights.quantize());
        for (precision, weights) in [(Precision::F32, PackedWeights::F32(weights)), (Precision::Int8, int8)] {
            let packed = pack::write(&meta(case, &all, precision), &weights, &case.head()).expect("packed");
            let whole = block_on(Slm::load(&packed, &tokenizer, 1).expect("whole").vote(&texts)).expect("votes");
            for cut in 1..last {
                let mut lower = part(&packed, &tokenizer, 0..cut).expect("lower");
                let mut upper = part(&packed, &tokenizer, cut..last).expect("upper");
                let states = handed_over(&lower.begin(&texts).expect("begun"));
                assert_eq!(upper.vote_from(&states).expect("votes"), whole, "{} cut at {cut}", case.model);
                let mut middle = part(&packed, &tokenizer, cut..cut + 1).expect("middle");
                let states = handed_over(&middle.go_on(states).expect("gone on"));
                if cut + 1 < last {
                    let mut rest = part(&packed, &tokenizer, cut + 1..last).expect("rest");
                    assert_eq!(rest.vote_from(&states).expect("votes"), whole);
                }
                assert_eq!(upper.vote_from(&lower.begin(&[]).expect("none")).expect("none"), []);
                assert!(upper.begin(&texts).is_err(), "it has no embeddings");
                assert!(block_on(lower.vote(&texts)).is_err(), "it has no last layer");
            }
            for layers in [0..last + 1, 1..1, last..last + 1] {
                assert!(part(&packed, &tokenizer, layers.clone()).is_err(), "{layers:?}");
            }
        }
    }
}

#[test]
fn bytes_that_are_no_states_are_refused() {
    let all = cases();
    let case = all.cases.iter().find(|case| !case.votes.is_empty()).expect("votes");
    let packed = pack::write(&meta(case, &all, Precision::F32), &PackedWeights::F32(case.weights()), &case.head())
        .expect("packed");
    let tokenizer = bytes(&format!("{}/tokenizer.json", case.model));
    let last = case.weights().layers.len();
    let mut slm = part(&packed, &tokenizer, 0..last).expect("whole");
    let good = slm.begin(&["one", "two", "one"]).expect("begun").to_bytes();
    for cut in 0..good.len() {
        let read = States::from_bytes(&good[..cut]);
        assert!(read.is_err() || read.is_ok_and(|states| slm.vote_from(&states).is_err()), "cut at {cut}");
    }
    for at in 0..good.len() / 4 {
        let mut bad = good.clone();
        bad[4 * at..][..4].fill(0xff);
        // Damaged numbers are an error; a damaged state is not a number.
        let read = States::from_bytes(&bad).and_then(|states| slm.vote_from(&states));
        assert!(read.is_err() || (3..8).contains(&at), "at {at}: {read:?}");
    }
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let all = cases();
    let case = &all.cases[0];
    let packed = pack::write(&meta(case, &all, Precision::F16), &PackedWeights::F32(case.weights()), &case.head())
        .expect("packed");
    let mut json: serde_json::Value = serde_json::from_slice(&bytes("bert/tokenizer.json")).expect("JSON");
    for id in 200..400 {
        json["model"]["vocab"][format!("more{id}")] = id.into();
    }
    let error = Slm::load(&packed, json.to_string().as_bytes(), 1).err().expect("too many tokens").to_string();
    assert!(error.starts_with("slm-tokenizer") && error.contains("do not belong together"), "{error}");
    assert!(Slm::load(&packed, b"{}", 1).is_err());
    assert!(Slm::load(&packed, b"\xff", 1).is_err());
}

// --- tokenizers ---

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Repeated { repeat: String, times: usize },
}

impl Text {
    fn text(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Repeated { repeat, times } => repeat.repeat(*times),
        }
    }
}

#[derive(Deserialize)]
struct Tokens {
    corpus: Vec<Text>,
    max_length: usize,
    bert: Vec<ExpectedTokens>,
    mpnet: Vec<ExpectedTokens>,
}

#[derive(Deserialize)]
struct ExpectedTokens {
    ids: Vec<u32>,
    truncated: bool,
}

#[test]
fn token_ids_are_those_of_the_python_tokenizer() {
    let tokens: Tokens = serde_json::from_slice(&bytes("tokens.json")).expect("tokens.json");
    assert!(tokens.corpus.len() >= 40);
    for (model, expected) in [("bert", tokens.bert), ("mpnet", tokens.mpnet)] {
        let json = bytes(&format!("{model}/tokenizer.json"));
        let tokenizer = Tokenizer::from_json(&json, tokens.max_length).expect(model);
        assert_eq!(expected.len(), tokens.corpus.len());
        let mut wrong = Vec::new();
        for (text, expected) in tokens.corpus.iter().zip(expected) {
            let found = tokenizer.encode(&text.text()).expect("encoded");
            if (&found.ids, found.truncated) != (&expected.ids, expected.truncated) {
                let start: String = text.text().chars().take(60).collect();
                wrong.push(format!("{start:?}: {:?}, expected {:?}", found.ids, expected.ids));
            }
        }
        assert!(wrong.is_empty(), "{model}:\n{}", wrong.join("\n"));
    }
}

// --- files that lie ---

/// A safetensors file of this header and data.
fn file(header: &serde_json::Value, data: &[u8]) -> Vec<u8> {
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
}

/// The small BERT's file with its header changed.
fn with_header(change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) -> Vec<u8> {
    let good = bytes("bert/model.safetensors");
    let length = u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&good[8..8 + length]).expect("header");
    change(header.as_object_mut().expect("an object"));
    file(&header, &good[8 + length..])
}

const UP: &str = "encoder.layer.1.intermediate.dense.weight";

fn refusal(file: &[u8]) -> String {
    read("bert", file).expect_err("must be refused").to_string()
}

#[test]
fn a_value_that_is_not_finite_is_refused_by_name() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut start = 0;
        let mut bad = with_header(|header| start = header[UP]["data_offsets"][0].as_u64().expect("offset") as usize);
        let data = 8 + u64::from_le_bytes(bad[..8].try_into().expect("eight bytes")) as usize;
        bad[data + start + 28..][..4].copy_from_slice(&value.to_le_bytes());
        let error = refusal(&bad);
        assert!(error.starts_with("slm-tensor-value: model.safetensors:"), "{error}");
        assert!(error.contains(UP) && error.contains("index 7"), "{error}");
    }
}

#[test]
fn a_missing_or_misshapen_tensor_is_refused_by_name() {
    let missing = refusal(&with_header(|header| {
        let tensor = header.remove(UP).expect("present");
        header.insert("other".into(), tensor);
    }));
    assert!(missing.starts_with("slm-tensor-missing: model.safetensors:"), "{missing}");
    assert!(missing.contains(UP) && missing.contains("[40, 24]"), "{missing}");

    let turned = refusal(&with_header(|header| header[UP]["shape"] = serde_json::json!([24, 40])));
    assert!(turned.starts_with("slm-tensor-shape: model.safetensors:"), "{turned}");
    assert!(turned.contains(UP) && turned.contains("[24, 40], expected [40, 24]"), "{turned}");

    let integers = refusal(&with_header(|header| header[UP]["dtype"] = "I32".into()));
    assert!(integers.contains("model.safetensors") && integers.contains(UP) && integers.contains("F32"), "{integers}");
}

#[test]
fn a_damaged_or_hostile_file_is_refused_before_memory_is_asked_for() {
    let good = bytes("bert/model.safetensors");
    let length = u64::from_le_bytes(good[..8].try_into().expect("eight bytes")) as usize;
    let mut bad: Vec<Vec<u8>> = [0, 1, 7, 8, 9, 8 + length / 2, 8 + length, good.len() / 2, good.len() - 1]
        .into_iter()
        .map(|cut| good[..cut].to_vec())
        .collect();
    for header in [u64::MAX, u64::MAX - 7, 1 << 62, 1 << 40, 99_999_999, good.len() as u64, 0, 1] {
        bad.push([&header.to_le_bytes()[..], &good[8..]].concat());
    }
    bad.push([&good[..], b"more"].concat());
    for shape in
        [serde_json::json!([1u64 << 40, 1u64 << 40]), serde_json::json!([u64::MAX, 2]), serde_json::json!([1 << 30])]
    {
        bad.push(with_header(|header| header[UP]["shape"] = shape));
    }
    for offsets in [[0u64, u64::MAX], [u64::MAX - 3, u64::MAX], [8, 0], [1 << 50, (1 << 50) + 3840]] {
        bad.push(with_header(|header| header[UP]["data_offsets"] = serde_json::json!(offsets)));
    }
    bad.push(with_header(|header| header[UP] = serde_json::json!({})));
    bad.push(with_header(|header| header[UP]["shape"] = serde_json::json!([-1])));
    for (index, bad) in bad.iter().enumerate() {
        let error = refusal(bad);
        assert!(error.starts_with("slm-file: model.safetensors:"), "{index}: {error}");
    }
    assert!(read("bert", &with_header(|_| ())).is_ok(), "the header that was only written again");
}
