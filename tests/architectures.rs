//! Classifiers of the hub with their own heads, of every architecture that is served, against `transformers` on every
//! engine: `tests/reference/architectures.py` wrote models and values. And what is refused.

use autoannotator::slm::config::EncoderConfig;
use autoannotator::slm::cpu::{CpuEncoder, CpuEngine, Isa};
use autoannotator::slm::hub::{self, HubClassifier};
use autoannotator::slm::model::Slm;
use autoannotator::slm::pack::{self, PackedSlm, PackedWeights, Precision};
use autoannotator::slm::{Batch, Engine, Scoring};
use pollster::block_on;
use serde::Deserialize;
use std::path::Path;

/// The most that logits may be off; the reference was computed in f64.
const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
struct Cases {
    labels: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    longest: usize,
    sigmoid: bool,
    texts: Vec<Vec<u32>>,
    logits: Vec<Vec<f64>>,
}

fn bytes(path: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("reference");
    std::fs::read(folder.join(path)).expect(path)
}

fn cases() -> Cases {
    serde_json::from_slice(&bytes("architectures.json")).expect("architectures.json")
}

fn file(model: &str, name: &str) -> Vec<u8> {
    bytes(&format!("architectures/{model}/{name}"))
}

impl Case {
    fn read(&self) -> PackedSlm {
        let (config, weights) = (file(&self.model, "config.json"), file(&self.model, "model.safetensors"));
        hub::read(&config, &weights, (&self.model, "sentiment"), 512).expect(&self.model)
    }

    fn weights(&self) -> (autoannotator::slm::weights::EncoderWeights, autoannotator::slm::weights::Head) {
        let PackedSlm { weights: PackedWeights::F32(weights), head, .. } = self.read() else { panic!("f32") };
        (weights, head)
    }

    fn batch(&self) -> Batch {
        Batch::new(self.texts.iter().map(Vec::as_slice))
    }

    fn check(&self, found: &[f32], what: &str) {
        let expected = self.logits.concat();
        assert_eq!(found.len(), expected.len(), "{} {what}", self.model);
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let off = (f64::from(*found) - expected).abs();
            assert!(off < TOLERANCE, "{} {what} at {index}: {found}, expected {expected}", self.model);
        }
    }

    /// Each text alone gives the same bits as in the batch.
    fn check_alone(&self, engine: &mut dyn Engine, together: &[f32], what: &str) {
        let alone: Vec<f32> =
            self.texts.iter().flat_map(|ids| engine.logits(&Batch::new([&ids[..]])).expect("alone")).collect();
        let same = alone.iter().zip(together).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same && alone.len() == together.len(), "{} {what}: a text depends on its batch", self.model);
    }
}

#[test]
fn the_cases_cover_every_architecture_and_can_fail() {
    let Cases { cases, labels } = cases();
    let mut missing: Vec<&str> = autoannotator::slm::config::Architecture::ALL.map(|(name, _)| name).to_vec();
    for case in &cases {
        let PackedSlm { meta, .. } = case.read();
        missing.retain(|name| *name != meta.config.architecture.name());
        assert_eq!(meta.labels, labels);
        assert_eq!(meta.scoring, if case.sigmoid { Scoring::Sigmoid } else { Scoring::Softmax });
        assert_eq!(meta.config.max_length(), case.longest, "{}", case.model);
        assert_eq!(case.texts.iter().map(Vec::len).max(), Some(case.longest));
        let all = case.logits.concat();
        let spread = |f: fn(f64, f64) -> f64, from| all.iter().copied().fold(from, f);
        assert!(spread(f64::max, f64::MIN) - spread(f64::min, f64::MAX) > 0.5, "{}", case.model);
    }
    assert_eq!(missing, Vec::<&str>::new());
    assert!(cases.iter().any(|case| case.sigmoid));
}

#[test]
fn logits_of_the_cpu_engine() {
    for case in cases().cases {
        let (weights, head) = case.weights();
        for isa in Isa::available() {
            let encoder = CpuEncoder::with_isa(&weights, Some(isa)).threads(2);
            let mut engine = CpuEngine::from_encoder(encoder, head.clone());
            let found = engine.logits(&case.batch()).expect("logits");
            case.check(&found, &format!("{isa:?}"));
            case.check_alone(&mut engine, &found, &format!("{isa:?}"));
        }
    }
}

#[test]
fn logits_of_the_cpu_engine_in_int8() {
    let (mut squares, mut count, mut agree, mut texts) = (0.0, 0.0, 0, 0);
    for case in cases().cases {
        let (weights, head) = case.weights();
        let int8 = int8(&weights, &case.texts);
        let mut engine = CpuEngine::from_encoder(CpuEncoder::from_int8(int8, None).threads(2), head);
        let found = engine.logits(&case.batch()).expect("logits");
        case.check_alone(&mut engine, &found, "int8");
        let best = |row: &[f64]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        for (found, expected) in found.chunks_exact(3).zip(&case.logits) {
            let found: Vec<f64> = found.iter().copied().map(f64::from).collect();
            squares += found.iter().zip(expected).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            count += 3.0;
            agree += usize::from(best(&found) == best(expected));
            texts += 1;
        }
    }
    let rms = (squares / count).sqrt();
    println!("int8: logits off by {rms:.4} (rms), {agree} of {texts} labels agree");
    // Layers of 32 and weights by chance are rounded worse than any model that was trained; a mistake would be off by ones.
    assert!(rms < 0.15, "{rms}");
    assert!(agree * 100 >= texts * 93, "{agree} of {texts}");
}

/// Int8 weights by what the texts put into the maps; by rounding alone where that is not built.
fn int8(
    weights: &autoannotator::slm::weights::EncoderWeights,
    texts: &[Vec<u32>],
) -> autoannotator::slm::weights::EncoderWeights<autoannotator::slm::quant::Int8Matrix> {
    #[cfg(feature = "native")]
    return weights.quantize_for(texts, |_| ()).expect("calibrated");
    #[cfg(not(feature = "native"))]
    {
        let _ = texts;
        weights.quantize()
    }
}

#[cfg(feature = "burn")]
#[test]
fn logits_of_the_burn_module() {
    use autoannotator::slm::burn::{Backend, BurnEngine, device};
    let device = block_on(device(Backend::Cpu)).expect("the CPU");
    for case in cases().cases {
        let (weights, head) = case.weights();
        let mut engine = BurnEngine::new(&weights, &head, &device);
        let found = engine.logits(&case.batch()).expect("logits");
        case.check(&found, "burn");
        case.check_alone(&mut engine, &found, "burn");
    }
}

/// Where there is no adapter this says so and passes, unless `AUTOANNOTATOR_GPU=required`.
#[cfg(feature = "gpu")]
#[test]
fn logits_of_the_gpu_engine() {
    use autoannotator::slm::SlmError;
    use autoannotator::slm::gpu::{Gpu, GpuEngine, GpuOptions, Shape};
    let gpu = match block_on(Gpu::request(GpuOptions { software: true })) {
        Ok(gpu) => gpu,
        Err(error) if std::env::var("AUTOANNOTATOR_GPU").is_ok_and(|value| value == "required") => panic!("{error}"),
        Err(error) => return eprintln!("skipped: {error}"),
    };
    for case in cases().cases {
        let (weights, head) = case.weights();
        let is_taken = weights.config.is_bert_like();
        let loaded = block_on(GpuEngine::new(&gpu, PackedWeights::F32(weights.clone()), &head));
        if !is_taken {
            let error = loaded.err().expect("no kernels");
            assert!(matches!(error, SlmError::NoGpu(_)) && error.to_string().contains("no kernels"), "{error}");
            continue;
        }
        let mut engine = loaded.expect("loaded");
        for shape in Shape::ALL {
            engine.set_shape(shape);
            let found = block_on(engine.logits(&case.batch())).expect("logits");
            case.check(&found, &format!("{shape:?}"));
            for (ids, row) in case.texts.iter().zip(found.chunks_exact(3)) {
                let alone = block_on(engine.logits(&Batch::new([&ids[..]]))).expect("logits");
                assert!(alone.iter().zip(row).all(|(a, b)| (a - b).abs() < 1e-5), "{} {shape:?}", case.model);
            }
        }
        let int8 = int8(&weights, &case.texts);
        let cpu =
            CpuEngine::from_encoder(CpuEncoder::from_int8(int8.clone(), None), head.clone()).logits(&case.batch());
        let mut engine = block_on(GpuEngine::new(&gpu, PackedWeights::Int8(int8), &head)).expect("loaded");
        let found = block_on(engine.logits(&case.batch())).expect("logits");
        for (found, expected) in found.iter().zip(cpu.expect("cpu")) {
            assert!((found - expected).abs() < 0.6, "{} int8: {found}, expected {expected}", case.model);
        }
    }
}

/// As it travels: packed, read back and served with a tokenizer, in each precision that it can be packed in.
#[test]
fn packed_classifiers_give_the_same_logits_and_probabilities() {
    for case in cases().cases {
        let PackedSlm { mut meta, weights, head } = case.read();
        for precision in [Precision::F32, Precision::F16] {
            meta.precision = precision;
            let packed = pack::write(&meta, &weights, &head).expect("packed");
            assert_eq!(PackedSlm::read(&packed, "x").expect("read").meta, meta);
            let mut slm = Slm::load(&packed, &bytes("bert/tokenizer.json"), 1).expect("loaded");
            // What is stored in half precision is what the file of the hub holds: only what was computed from it is rounded.
            let found = block_on(slm.logits_of_tokens(&case.batch())).expect("logits");
            if precision == Precision::F32 || meta.config.disentangled.is_none() {
                case.check(&found, precision.name());
            }
            let texts = ["The cat sat on the mat.", "I like it!"];
            let logits = block_on(slm.logits(&texts)).expect("logits");
            let votes = block_on(slm.vote(&texts)).expect("votes");
            for (vote, logits) in votes.iter().zip(logits.chunks_exact(3)) {
                // A vote's probabilities sum to one, also those of labels that do not exclude each other.
                let score = |logit: &f32| if case.sigmoid { 1.0 / (1.0 + (-logit).exp()) } else { logit.exp() };
                let sum: f32 = logits.iter().map(score).sum();
                for (found, logit) in vote.probabilities.iter().zip(logits) {
                    let expected = score(logit) / sum;
                    assert!((found - expected).abs() < 1e-5, "{}: {found}, expected {expected}", case.model);
                }
            }
        }
        meta.precision = Precision::Int8;
        let PackedWeights::F32(weights) = &weights else { panic!("f32") };
        let int8 = weights.quantize();
        let packed = pack::write(&meta, &PackedWeights::Int8(int8.clone()), &head).expect("packed");
        let read = PackedSlm::read(&packed, "x").expect("read");
        assert_eq!((read.weights, read.head), (PackedWeights::Int8(int8), head));
    }
}

// --- what is refused ---

fn refused(model: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut config: serde_json::Value = serde_json::from_slice(&file(model, "config.json")).expect("JSON");
    change(&mut config);
    let read = HubClassifier::from_json(config.to_string().as_bytes(), "config.json");
    read.expect_err("must be refused").to_string()
}

#[test]
fn configs_that_cannot_be_served_say_why() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(&str, Change, &str); 17] = [
        ("bert", |c| c["model_type"] = "gpt2".into(), "supported: bert, roberta"),
        ("bert", |c| c["model_type"] = "deberta".into(), "'deberta' is not supported"),
        ("bert", |c| c["auto_map"] = serde_json::json!({"AutoModel": "own--own.Own"}), "never run"),
        ("bert", |c| c["problem_type"] = "regression".into(), "score"),
        ("bert", |c| c["problem_type"] = "else".into(), "problem_type is 'else'"),
        ("bert", |c| c["id2label"] = serde_json::json!({"0": "LABEL_0"}), "score"),
        ("bert", |c| c["id2label"] = serde_json::json!({"0": "a", "3": "b"}), "id2label"),
        ("bert", |c| c["architectures"] = serde_json::json!(["BertForMaskedLM"]), "ForSequenceClassification"),
        ("bert", |c| c["hidden_act"] = "silu".into(), "silu"),
        ("bert", |c| c["position_embedding_type"] = "relative_key".into(), "relative_key"),
        ("bert", |c| c["quantization_config"] = serde_json::json!({"bits": 4}), "quantised"),
        ("distilbert", |c| c["dim"] = serde_json::Value::Null, "no 'dim'"),
        ("albert", |c| c["inner_group_num"] = 2.into(), "inner_group_num"),
        ("deberta-v3", |c| c["relative_attention"] = false.into(), "relative_attention"),
        ("deberta-v3", |c| c["pos_att_type"] = "p2p".into(), "p2p"),
        ("deberta-v2", |c| c["conv_kernel_size"] = 4.into(), "conv_kernel_size"),
        ("modernbert", |c| c["rope_scaling"] = serde_json::json!({"rope_type": "yarn"}), "rope_scaling"),
    ];
    for (model, change, word) in cases {
        let error = refused(model, change);
        assert!(error.contains(word) && error.contains("config.json"), "{model}: {error}");
    }
}

#[test]
fn a_file_that_does_not_fit_its_config_is_refused_by_the_tensors_name() {
    let read = |model: &str, change: fn(&mut serde_json::Value)| {
        let mut config: serde_json::Value = serde_json::from_slice(&file(model, "config.json")).expect("JSON");
        change(&mut config);
        let weights = file(model, "model.safetensors");
        hub::read(config.to_string().as_bytes(), &weights, (model, "sentiment"), 512).expect_err("refused").to_string()
    };
    type Change = fn(&mut serde_json::Value);
    let cases: [(&str, Change, &str); 8] = [
        ("bert", |c| c["vocab_size"] = 121.into(), "bert.embeddings.word_embeddings.weight"),
        ("roberta", |c| c["intermediate_size"] = 53.into(), "roberta.encoder.layer.0.intermediate.dense.weight"),
        ("roberta", |c| c["id2label"] = serde_json::json!({"0": "a", "1": "b"}), "classifier.out_proj.weight"),
        ("distilbert", |c| c["n_layers"] = 3.into(), "distilbert.transformer.layer.2.attention.q_lin.weight"),
        ("albert", |c| c["num_hidden_groups"] = 2.into(), "albert.encoder.albert_layer_groups.1.albert_layers.0"),
        ("deberta-v3", |c| c["share_att_key"] = false.into(), "attention.self.pos_key_proj.weight"),
        ("modernbert", |c| c["intermediate_size"] = 50.into(), "model.layers.0.mlp.Wi.weight"),
        ("electra", |c| c["embedding_size"] = 24.into(), "electra.embeddings.word_embeddings.weight"),
    ];
    for (model, change, word) in cases {
        let error = read(model, change);
        assert!(error.contains(word) && error.contains(&format!("{model}/model.safetensors")), "{model}: {error}");
    }
    // The encoder alone has no head.
    let (config, weights) = (file("mpnet", "config.json"), file("mpnet", "model.safetensors"));
    let headless =
        renamed(&weights, |name| if name.starts_with("classifier") { format!("x{name}") } else { name.into() });
    let error = hub::read(&config, &headless, ("mpnet", "sentiment"), 512).expect_err("no head").to_string();
    assert!(error.starts_with("slm-tensor-missing") && error.contains("classifier.dense.weight"), "{error}");
}

/// A safetensors file with its tensors renamed.
fn renamed(bytes: &[u8], name: impl Fn(&str) -> String) -> Vec<u8> {
    let file = safetensors::SafeTensors::deserialize(bytes).expect("safetensors");
    safetensors::serialize(file.iter().map(|(old, view)| (name(old), view)), None).expect("written")
}

#[test]
fn older_names_of_layer_norms_and_files_without_a_prefix_are_read() {
    let config = file("bert", "config.json");
    let weights = file("bert", "model.safetensors");
    let read = |weights: &[u8]| hub::read(&config, weights, ("bert", "sentiment"), 512).expect("read");
    let older = renamed(&weights, |name| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    });
    assert_eq!(read(&weights), read(&older));
    let plain = renamed(&weights, |name| name.strip_prefix("bert.").unwrap_or(name).to_owned());
    assert_eq!(read(&weights), read(&plain));
}

#[test]
fn the_encoders_config_refuses_what_no_engine_takes() {
    for case in cases().cases {
        let config = EncoderConfig::from_json(&file(&case.model, "config.json"), "config.json").expect("read");
        let again: EncoderConfig = serde_json::from_str(&serde_json::to_string(&config).expect("JSON")).expect("read");
        assert_eq!(config, again);
    }
}

/// A folder in the hub's layout, with the weights under this name.
#[cfg(feature = "native")]
fn hub_folder(model: &str, weights: &str) -> (tempfile::TempDir, autoannotator::hub::packing::HubFolder) {
    let place = tempfile::tempdir().expect("a folder");
    let path = place.path().join(model);
    std::fs::create_dir(&path).expect("a folder");
    std::fs::write(path.join("config.json"), file(model, "config.json")).expect("written");
    std::fs::write(path.join(weights), file(model, "model.safetensors")).expect("written");
    std::fs::write(path.join("tokenizer.json"), bytes("bert/tokenizer.json")).expect("written");
    let folder = autoannotator::hub::packing::HubFolder {
        path,
        id: format!("hub-{model}"),
        task: "sentiment".into(),
        max_length: 24,
    };
    (place, folder)
}

#[cfg(feature = "native")]
#[test]
fn a_folder_of_the_hub_is_packed_once_and_votes() {
    use autoannotator::hub::Home;
    use autoannotator::hub::packing::{index, load, pack_hub_folder};
    let bar = indicatif::ProgressBar::hidden();
    for (model, precisions) in [
        ("bertweet", &[Precision::Int8, Precision::F16][..]),
        ("albert-groups", &[Precision::Int8, Precision::F16]),
        ("deberta-v3", &[Precision::Int8, Precision::F16]),
    ] {
        let (place, folder) = hub_folder(model, "model.safetensors");
        let home = Home::find(Some(&place.path().join("home"))).expect("a home");
        let packed = pack_hub_folder(&folder, precisions, &home, &bar).expect("packed");
        assert!(packed.iter().all(|slm| slm.written) && packed.len() == precisions.len());
        let again = pack_hub_folder(&folder, precisions, &home, &bar).expect("packed");
        assert!(again.iter().all(|slm| !slm.written));
        assert_eq!(index(&home).expect("an index").slms.len(), precisions.len());
        let mut rows = Vec::new();
        for precision in precisions {
            let mut slm = load(&home, &folder.id, precision.computes_in(), 1).expect("loads");
            let vote = block_on(slm.vote(&["the cat sat on the mat"])).expect("votes").remove(0);
            assert_eq!((vote.engine.as_str(), vote.precision.as_str()), ("cpu", precision.computes_in()));
            rows.push(vote.probabilities);
        }
        for (a, b) in rows[0].iter().zip(rows.last().expect("a row")) {
            assert!((a - b).abs() < 0.1, "{model}: {rows:?}");
        }
    }
}

#[cfg(feature = "native")]
#[test]
fn a_folder_without_a_tokenizer_json_votes_by_its_vocabulary() {
    use autoannotator::hub::Home;
    use autoannotator::hub::packing::{load, pack_hub_folder};
    let bar = indicatif::ProgressBar::hidden();
    let (place, folder) = hub_folder("bert", "model.safetensors");
    let home = Home::find(Some(&place.path().join("home"))).expect("a home");
    let vote = || {
        pack_hub_folder(&folder, &[Precision::F32], &home, &bar).expect("packed");
        let mut slm = load(&home, &folder.id, "f32", 1).expect("loads");
        block_on(slm.vote(&["the cat sat on the mat"])).expect("votes").remove(0).probabilities
    };
    let by_json = vote();
    let path = folder.path.join("tokenizer.json");
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    let mut words: Vec<(u64, &String)> = json["model"]["vocab"]
        .as_object()
        .expect("a vocabulary")
        .iter()
        .map(|(word, id)| (id.as_u64().expect("an id"), word))
        .collect();
    words.sort();
    let lines: String = words.iter().map(|(_, word)| format!("{word}\n")).collect();
    std::fs::remove_file(&path).expect("removed");
    let error =
        pack_hub_folder(&folder, &[Precision::F32], &home, &bar).expect_err("nothing to build from").to_string();
    assert!(error.contains("vocab.txt"), "{error}");
    std::fs::write(folder.path.join("vocab.txt"), lines).expect("written");
    assert_eq!(vote(), by_json);
}

#[cfg(feature = "native")]
#[test]
fn a_folder_that_cannot_be_packed_says_why() {
    use autoannotator::hub::Home;
    use autoannotator::hub::packing::{index, pack_hub_folder};
    let bar = indicatif::ProgressBar::hidden();
    let refused = |weights: &str| {
        let (place, folder) = hub_folder("bert", weights);
        let home = Home::find(Some(&place.path().join("home"))).expect("a home");
        let error = pack_hub_folder(&folder, &[Precision::F16], &home, &bar).expect_err("refused").to_string();
        assert!(index(&home).expect("an index").slms.is_empty());
        error
    };
    let pickle = refused("pytorch_model.bin");
    assert!(pickle.contains("pytorch_model.bin is never read") && pickle.contains("safetensors"), "{pickle}");
    assert!(refused("other").contains("there is no model.safetensors"));
    assert!(refused("model.safetensors.index.json").contains("several files"));
}
