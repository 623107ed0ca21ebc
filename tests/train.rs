//! Training end to end on a tiny random base: it learns, a stopped run goes on to the same result, bad options are told.

use autoannotator::Task;
use autoannotator::slm::adapter::{Method, SlmFolder};
use autoannotator::slm::burn::Backend;
use autoannotator::slm::config::EncoderConfig;
use autoannotator::slm::hub::HubClassifier;
use autoannotator::slm::model::Slm;
use autoannotator::slm::pack::{FORMAT, PackedMeta, PackedWeights, Precision, write};
use autoannotator::slm::tokenize::Tokenizer;
use autoannotator::slm::weights::{EncoderWeights, TensorSource};
use autoannotator::slm::{Scoring, SlmError};
use autoannotator::tune::TuneError;
use autoannotator::tune::dataset::Columns;
use autoannotator::tune::evaluate::{Reviewer, Sets, Settings, evaluate};
use autoannotator::tune::gate::{Decision, MOST_LOST, Paired};
use autoannotator::tune::round::{Anchor, Labelled, Lesson, Material, Member, Report, RoundOptions, round, split};
use autoannotator::tune::teacher::Teacher;
use autoannotator::tune::train::{BaseModel, Choice, Options, Places, Running, train};
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

const WORDS: [&str; 12] = ["good", "great", "bad", "awful", "the", "film", "train", "was", "is", "a", "very", "ok"];

/// Small values by a hash of the tensor's name and index: random enough, the same everywhere.
struct RandomSource;

impl TensorSource for RandomSource {
    fn file(&self) -> &str {
        "random"
    }

    fn tensor(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f32>)>, SlmError> {
        if name.starts_with("bert.") || name.starts_with("mpnet.") {
            return Ok(None);
        }
        let shape = match name {
            "embeddings.word_embeddings.weight" => vec![20, 16],
            "embeddings.position_embeddings.weight" => vec![32, 16],
            "embeddings.token_type_embeddings.weight" => vec![2, 16],
            _ if name.ends_with("intermediate.dense.weight") => vec![24, 16],
            _ if name.ends_with("intermediate.dense.bias") => vec![24],
            _ if name.contains("attention") && name.ends_with("dense.weight") => vec![16, 16],
            _ if name.ends_with("output.dense.weight") => vec![16, 24],
            _ if name.contains("LayerNorm") || name.ends_with("bias") => vec![16],
            _ => vec![16, 16],
        };
        let seed = name.bytes().fold(17u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut state = seed | 1;
        let values = (0..shape.iter().product::<usize>()).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let unit = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            if name.ends_with("LayerNorm.weight") { 1.0 + 0.1 * unit } else { 0.6 * unit }
        });
        Ok(Some((shape, values.collect())))
    }
}

fn base() -> BaseModel {
    let config =
        br#"{"model_type":"bert","vocab_size":20,"hidden_size":16,"num_hidden_layers":3,"num_attention_heads":2,
        "intermediate_size":24,"max_position_embeddings":32,"type_vocab_size":2,"layer_norm_eps":1e-12}"#;
    let config = EncoderConfig::from_json(config, "config.json").expect("a config");
    let mut vocabulary = vec!["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    vocabulary.extend(WORDS);
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        vocabulary.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "decoder": null,
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    let weights = EncoderWeights::read(&config, &RandomSource).expect("weights");
    BaseModel { id: "tiny".into(), sha256: "00".into(), tokenizer_json: tokenizer.to_string().into_bytes(), weights }
}

/// Texts whose one telling word decides the label, in every second row preceded by fillers.
fn write_data(path: &Path, rows: usize) {
    let mut text = String::from("text,label\n");
    for i in 0..rows {
        let (word, label) = [
            ("good", "positive"),
            ("bad", "negative"),
            ("ok", "neutral"),
            ("great", "positive"),
            ("awful", "negative"),
        ][i % 5];
        let filler = ["the film was", "a very", "is the train"][i % 3];
        let line =
            if i % 2 == 0 { format!("{filler} {word}") } else { format!("{word} {filler} {}", WORDS[4 + i % 6]) };
        text.push_str(&format!("{line},{label}\n"));
    }
    text.push_str("no label here,\n");
    std::fs::write(path, text).expect("writes");
}

fn options() -> Options {
    Options {
        id: "tiny-sentiment".into(),
        method: Method::Lora,
        rank: 4,
        alpha: 8.0,
        embedding_rank: 0,
        layers: 2,
        lr: 2e-2,
        epochs: 6,
        batch: 16,
        weight_decay: 0.01,
        warmup: 0.1,
        train_length: 16,
        max_length: 24,
        class_weights: true,
        dropout: 0.1,
        teacher_weight: 0.0,
        interpolation: 1.0,
        choice: Choice::MacroF1,
        evaluations: 2,
        patience: 100,
        seed: 3,
    }
}

fn places(folder: &Path) -> Places {
    write_data(&folder.join("train.csv"), 320);
    write_data(&folder.join("val.csv"), 60);
    Places {
        data: vec![format!("{}=0.75", folder.join("train.csv").display()).parse().expect("a data file")],
        unlabelled: Vec::new(),
        validation: folder.join("val.csv"),
        transfer: None,
        columns: Columns { text: "text".into(), label: "label".into() },
        out: folder.join("out"),
        running: Running {
            backend: Backend::Cpu,
            scratch: folder.join("scratch"),
            fresh: false,
            checkpoint_every: std::time::Duration::from_secs(3600),
            stop_after: None,
        },
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// burn's chance is one for the whole process: trainings that drop values must not run at the same time to be repeatable.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn task() -> Task {
    Task::built_in("sentiment").expect("built in")
}

fn read(path: PathBuf) -> Vec<u8> {
    std::fs::read(path).expect("a file")
}

#[test]
fn it_learns_and_writes_a_folder_that_merges() {
    let _alone = alone();
    let place = folder();
    for (method, lr, layers, embedding_rank) in
        [(Method::Lora, 2e-2, 2, 0), (Method::Lora, 2e-2, 3, 4), (Method::Full, 5e-3, 3, 0)]
    {
        let options = Options { method, lr, layers, embedding_rank, ..options() };
        let figures =
            train(&task(), base(), None, &options, &places(place.path()), &ProgressBar::hidden()).expect("trains");
        assert!(figures.accuracy > 0.9, "{method:?}: {figures:?}");
        let out = place.path().join("out");
        let text = String::from_utf8(read(out.join("slm.toml"))).expect("text");
        let slm = SlmFolder::from_toml(&text, "slm.toml").expect("reads");
        let mut weights = base().weights;
        slm.merge(&[read(out.join("adapter.safetensors"))], &mut weights).expect("merges");
        assert_ne!(weights, base().weights);
        let record: serde_json::Value = serde_json::from_slice(&read(out.join("train.json"))).expect("a record");
        assert_eq!(record["data"][0]["rows"], 240);
        assert_eq!(record["validation"][0]["left_out"], 1);
    }
}

/// The merged tensors of what was trained, by name, and the head's weight.
fn merged(place: &Path, base: &BaseModel) -> (Vec<(String, Vec<f32>)>, Vec<f32>) {
    let text = String::from_utf8(read(place.join("out/slm.toml"))).expect("text");
    let slm = SlmFolder::from_toml(&text, "slm.toml").expect("reads");
    let mut weights = base.weights.clone();
    let head = slm.merge(&[read(place.join("out/adapter.safetensors"))], &mut weights).expect("merges");
    let tensors = weights.tensors_mut().into_iter().map(|(name, _, values)| (name, values.to_vec())).collect();
    (tensors, head.linear.weight)
}

#[test]
fn interpolation_goes_back_towards_the_base() {
    let _alone = alone();
    let mut own = base();
    let start: Vec<Vec<f32>> = own.weights.tensors_mut().into_iter().map(|(_, _, values)| values.to_vec()).collect();
    for (method, lr) in [(Method::Lora, 2e-2), (Method::Full, 5e-3)] {
        let results = [1.0, 0.25].map(|interpolation| {
            let place = folder();
            let options = Options { method, lr, layers: 3, embedding_rank: 4, epochs: 1, interpolation, ..options() };
            train(&task(), base(), None, &options, &places(place.path()), &ProgressBar::hidden()).expect("trains");
            merged(place.path(), &own)
        });
        let [(whole, head), (part, same_head)] = results;
        assert_eq!(head, same_head);
        let mut moved = 0.0f32;
        for ((start, (name, whole)), (_, part)) in start.iter().zip(&whole).zip(&part) {
            for ((start, whole), part) in start.iter().zip(whole).zip(part) {
                assert!((part - (start + 0.25 * (whole - start))).abs() < 2e-3, "{method:?} {name}");
                moved = moved.max((whole - start).abs());
            }
        }
        assert!(moved > 0.02, "{method:?}: {moved}");
    }
}

#[test]
fn a_file_of_another_kind_has_its_say_in_the_choice() {
    let _alone = alone();
    let place = folder();
    let mut places = places(place.path());
    let other = "text,label\ngreat film is bad,negative\nbad film is great,positive\nok train,neutral\n\
        awful,negative\nok very a,neutral\ngood bad,positive\na train,neutral\n";
    std::fs::write(place.path().join("other.csv"), other).expect("writes");
    let options = Options { lr: 4e-3, epochs: 4, dropout: 0.3, seed: 7, ..options() };
    let best = |places: &Places| {
        train(&task(), base(), None, &options, places, &ProgressBar::hidden()).expect("trains");
        let record: serde_json::Value =
            serde_json::from_slice(&read(place.path().join("out/train.json"))).expect("json");
        let score = |evaluation: &serde_json::Value| {
            let f1 = |part: &str| evaluation[part]["macro_f1"].as_f64();
            let own = f1("metrics").expect("a figure");
            (own + f1("transfer").unwrap_or(own)) / 2.0
        };
        let all = record["evaluations"].as_array().expect("a list").clone();
        let first_best = all.iter().fold(&all[0], |best, one| if score(one) > score(best) { one } else { best });
        assert_eq!(record["best_step"], first_best["step"]);
        record["best_step"].as_u64().expect("a step")
    };
    let alone = best(&places);
    places.transfer = Some(place.path().join("other.csv"));
    assert_ne!(best(&places), alone, "the file must make a difference here for this to be a test");
}

/// Where burn-wgpu has no adapter this says so and passes, unless `AUTOANNOTATOR_GPU=required`.
#[cfg(feature = "gpu-burn")]
#[test]
fn a_gpu_trains_too() {
    let _alone = alone();
    let place = folder();
    let mut places = places(place.path());
    places.running.backend = Backend::Wgpu(None);
    match train(&task(), base(), None, &options(), &places, &ProgressBar::hidden()) {
        Ok(figures) => assert!(figures.accuracy > 0.8, "{figures:?}"),
        Err(error) if std::env::var("AUTOANNOTATOR_GPU").is_ok_and(|value| value == "required") => panic!("{error}"),
        Err(error) => eprintln!("skipped: {error}"),
    }
}

#[test]
fn a_stopped_training_goes_on_to_the_same_result() {
    let _alone = alone();
    let (whole, parts) = (folder(), folder());
    train(&task(), base(), None, &options(), &places(whole.path()), &ProgressBar::hidden()).expect("trains");
    let mut stopped = places(parts.path());
    stopped.running.checkpoint_every = std::time::Duration::ZERO;
    stopped.running.stop_after = Some(23);
    let outcome = train(&task(), base(), None, &options(), &stopped, &ProgressBar::hidden());
    assert!(matches!(outcome, Err(TuneError::Stopped { step: 23 })));
    train(&task(), base(), None, &options(), &places(parts.path()), &ProgressBar::hidden()).expect("goes on");
    let adapter = |folder: &Path| read(folder.join("out/adapter.safetensors"));
    assert!(adapter(whole.path()) == adapter(parts.path()), "the adapters differ");
}

#[test]
fn a_checkpoint_of_another_training_and_bad_options_are_told() {
    let _alone = alone();
    let place = folder();
    let mut stopped = places(place.path());
    stopped.running.checkpoint_every = std::time::Duration::ZERO;
    stopped.running.stop_after = Some(3);
    let told = |options: &Options, places: &Places| {
        train(&task(), base(), None, options, places, &ProgressBar::hidden()).expect_err("fails").to_string()
    };
    told(&options(), &stopped);
    let other = Options { seed: 4, ..options() };
    assert!(told(&other, &places(place.path())).contains("--fresh"));
    assert!(told(&Options { layers: 9, ..options() }, &stopped).contains("--layers"));
    assert!(told(&Options { rank: 0, ..options() }, &stopped).contains("--rank"));
    assert!(told(&Options { embedding_rank: 4, ..options() }, &stopped).contains("--embedding-rank"));
    assert!(told(&Options { dropout: 1.0, ..options() }, &stopped).contains("--dropout"));
    assert!(told(&Options { teacher_weight: 1.5, ..options() }, &stopped).contains("--teacher-weight"));
    assert!(told(&Options { interpolation: -0.5, ..options() }, &stopped).contains("--interpolation"));
    assert!(told(&Options { max_length: 999, ..options() }, &stopped).contains("tokens"));
    let mut missing = places(place.path());
    missing.columns.label = "gold".into();
    assert!(told(&options(), &missing).contains("no column 'gold'; there are: text, label"));
}

/// An SLM that was trained on the tiny base, as a teacher.
fn teacher(place: &Path) -> Teacher {
    train(&task(), base(), None, &options(), &places(place), &ProgressBar::hidden()).expect("trains");
    let BaseModel { id, mut weights, tokenizer_json, .. } = base();
    let text = String::from_utf8(read(place.join("out/slm.toml"))).expect("text");
    let slm = SlmFolder::from_toml(&text, "slm.toml").expect("reads");
    let head = slm.merge(&[read(place.join("out/adapter.safetensors"))], &mut weights).expect("merges");
    let meta = PackedMeta {
        format: FORMAT,
        id: slm.id,
        task: slm.task,
        labels: slm.labels,
        base: id,
        config: weights.config.clone(),
        pooling: slm.pooling,
        dense: None,
        scoring: Scoring::Softmax,
        temperature: slm.temperature,
        max_length: slm.max_length,
        precision: Precision::F32,
    };
    let packed = write(&meta, &PackedWeights::F32(weights), &head).expect("packs");
    let slm = Slm::load(&packed, &tokenizer_json, 1).expect("loads");
    Teacher { name: "tiny".into(), slm, folder: place.join("teacher") }
}

#[test]
fn a_teacher_votes_once_and_goes_on_where_it_was_stopped() {
    let _alone = alone();
    let place = folder();
    let mut teacher = teacher(place.path());
    let texts: Vec<String> = (0..600).map(|i| format!("{} {}", WORDS[i % 12], WORDS[i / 12 % 12])).collect();
    let all = teacher.probabilities(&texts, &ProgressBar::hidden()).expect("votes");
    let of = |text: &str| {
        let at = texts.iter().position(|have| have == text).expect("is there");
        all[3 * at..][..3].to_vec()
    };
    assert!(of("awful was")[0] > 0.5 && of("great was")[2] > 0.5, "{:?} {:?}", of("awful was"), of("great was"));
    let path = std::fs::read_dir(&teacher.folder).expect("a folder").next().expect("a file").expect("a file").path();
    // A file cut in the middle of a row is what a crash leaves; a value that was changed must come back.
    let mut bytes = read(path.clone());
    bytes[..4].copy_from_slice(&0.25f32.to_le_bytes());
    std::fs::write(&path, &bytes[..4 * 3 * 300 + 5]).expect("writes");
    let again = teacher.probabilities(&texts, &ProgressBar::hidden()).expect("goes on");
    assert_eq!(again[0], 0.25, "what was there is not computed again");
    assert_eq!(again[1..], all[1..]);
    assert_eq!(read(path).len(), 4 * 3 * 600);
}

#[test]
fn texts_without_labels_are_learnt_from_a_teacher_alone() {
    let _alone = alone();
    let place = folder();
    let teacher = teacher(place.path());
    let mut places = places(place.path());
    std::fs::write(place.path().join("few.csv"), "text,label\ntrain,neutral\n").expect("writes");
    let texts: String = (0..240).map(|i| format!("{} {}\n", WORDS[i % 12], WORDS[i / 12 % 12])).collect();
    std::fs::write(place.path().join("texts.csv"), format!("text\n{texts}")).expect("writes");
    let file = |name: &str| place.path().join(name).display().to_string().parse().expect("a data file");
    places.data = vec![file("few.csv")];
    places.unlabelled = vec![file("texts.csv")];
    let told = train(&task(), base(), None, &options(), &places, &ProgressBar::hidden()).expect_err("no teacher");
    assert!(told.to_string().contains("--teacher"));
    let figures = train(&task(), base(), Some(teacher), &options(), &places, &ProgressBar::hidden()).expect("trains");
    // 0.4 by chance.
    assert!(figures.accuracy > 0.7, "{figures:?}");
    let record: serde_json::Value = serde_json::from_slice(&read(place.path().join("out/train.json"))).expect("json");
    assert_eq!(record["unlabelled"][0]["rows"], 240);
    assert_eq!(record["data"][0]["rows"], 1);
}

/// An SLM that knows `good`, `bad` and `ok`, but neither `great` nor `awful`.
fn member(place: &Path) -> Member {
    let places = places(place);
    for (file, rows) in [("train.csv", 320), ("val.csv", 60)] {
        let rows = samples(&OLD, rows).into_iter();
        let rows = rows.map(|row| format!("{},{}", row.text, task().labels.name(row.label).expect("a label")));
        let lines: Vec<String> = std::iter::once("text,label".to_owned()).chain(rows).collect();
        std::fs::write(place.join(file), lines.join("\n")).expect("writes");
    }
    let options = Options { method: Method::Full, lr: 5e-3, layers: 3, ..options() };
    train(&task(), base(), None, &options, &places, &ProgressBar::hidden()).expect("trains");
    let text = String::from_utf8(read(place.join("out/slm.toml"))).expect("text");
    let slm = SlmFolder::from_toml(&text, "slm.toml").expect("reads");
    let mut weights = base().weights;
    let head = slm.merge(&[read(place.join("out/adapter.safetensors"))], &mut weights).expect("merges");
    let tokenizer = Tokenizer::from_json(&base().tokenizer_json, slm.max_length).expect("a tokenizer");
    Member::new(slm, "tiny".into(), tokenizer.into(), weights, head, 3)
}

/// Texts with these words, each with its label.
fn samples(words: &[(&str, &str)], rows: usize) -> Vec<Labelled> {
    let fillers = ["the film was", "a very", "is the train", "the", "was a"];
    let of = |i: usize| {
        let (word, label) = words[i % words.len()];
        let text = format!("{} {word} {}", fillers[i / words.len() % 5], WORDS[4 + i % 7]);
        Labelled { text, label: task().labels.index(label).expect("a label") }
    };
    (0..rows).map(of).collect()
}

const OLD: [(&str, &str); 3] = [("good", "positive"), ("bad", "negative"), ("ok", "neutral")];
const NEW: [(&str, &str); 2] = [("great", "positive"), ("awful", "negative")];

fn one_round(
    member: &mut Member,
    pool: &[Labelled],
    replay: &[Labelled],
    running: &Running,
) -> Result<Report, TuneError> {
    let options = RoundOptions { lr: 1e-2, epochs: 8, batch: 16, ..RoundOptions::new(Method::Lora) };
    let parts = split(pool, 3, 0)?;
    let anchor = [Anchor::file("old.csv".as_ref(), samples(&OLD, 90))];
    let material = Material { split: &parts, old: &[replay.to_vec()], earlier: &[], anchor: &anchor, lesson: None };
    Ok(round(member, &material, &options, running, &ProgressBar::hidden())?.0)
}

fn votes(member: &mut Member, rows: &[Labelled]) -> Vec<f32> {
    let set = member.encode(rows).expect("encodes");
    member.probabilities(&set).expect("votes")
}

#[test]
fn a_round_promotes_what_is_better_and_nothing_else() {
    let _alone = alone();
    let place = folder();
    let mut member = member(place.path());
    let running = places(place.path()).running;
    let replay = samples(&OLD, 200);
    let old = votes(&mut member, &replay);
    // Labels of a reviewer who takes good for bad: better on the gate part, which is as wrong, but not on the anchor set.
    let swapped = samples(&[("good", "negative"), ("bad", "positive"), ("ok", "neutral")], 200);
    let report = one_round(&mut member, &swapped, &[], &running).expect("a round");
    assert!(matches!(&report.decision, Decision::Kept(why) if why.contains("anchor")), "{report:?}");
    // Labels without sense: not better on the gate part.
    let senseless: Vec<Labelled> =
        samples(&OLD, 200).into_iter().enumerate().map(|(i, row)| Labelled { label: i * 7 / 3 % 3, ..row }).collect();
    let report = one_round(&mut member, &senseless, &replay, &running).expect("a round");
    assert!(matches!(&report.decision, Decision::Kept(why) if why.contains("not surely better")), "{report:?}");
    assert!(report.anchor.is_none(), "no need to ask: {report:?}");
    assert_eq!(votes(&mut member, &replay), old, "what was not promoted left no trace");
    let report = one_round(&mut member, &samples(&NEW, 200), &replay, &running).expect("a round");
    assert_eq!(report.decision, Decision::Promoted, "{report:?}");
    assert!(report.gate.after > 0.9 && report.gate.before < 0.8, "{report:?}");
    assert_eq!(member.folder.rounds.len(), 1);
    // A second round goes on from there.
    let next = one_round(&mut member, &samples(&NEW, 200), &replay, &running).expect("a round");
    assert_eq!(next.gate.before, report.gate.after, "{next:?}");
    assert!(one_round(&mut member, &[], &replay, &running).is_err_and(|error| error.to_string().contains("empty")));
}

/// The whole way to what was trained takes the few texts with `ok` along; a part of it does not.
#[test]
fn a_candidate_that_loses_old_texts_goes_a_part_of_the_way() {
    let _alone = alone();
    let place = folder();
    let (mut member, running) = (member(place.path()), places(place.path()).running);
    let torn = [("ok", "negative"), ("ok", "neutral"), ("ok", "negative")];
    let pool = [samples(&NEW, 160), samples(&torn, 30)].concat();
    let held = [samples(&OLD[..2], 100), samples(&OLD[2..], 2)].concat();
    let anchor = [Anchor::file("old.csv".as_ref(), held.clone())];
    let options = RoundOptions { lr: 1e-2, epochs: 8, batch: 16, ..RoundOptions::new(Method::Lora) };
    let parts = split(&pool, 3, 0).expect("splits");
    let old = [samples(&OLD[..2], 200)];
    let material = Material { split: &parts, old: &old, earlier: &[], anchor: &anchor, lesson: None };
    let (report, bytes) = round(&mut member, &material, &options, &running, &ProgressBar::hidden()).expect("a round");
    assert!(report.decision == Decision::Promoted && report.share < 1.0, "{report:?}");
    let Paired { before, after, .. } = report.anchor.expect("an anchor set");
    assert!(before - after <= MOST_LOST, "{report:?}");
    // Its adapter is of that part of the way, too.
    let mut weights = base().weights;
    let adapters = [read(place.path().join("out/adapter.safetensors")), bytes.expect("an adapter")];
    let head = member.folder.merge(&adapters, &mut weights).expect("merges");
    let (slm, tokenizer) = (member.folder.clone(), member.tokenizer.clone());
    let mut again = Member::new(slm, "tiny".into(), tokenizer, weights, head, 3);
    assert_eq!(votes(&mut again, &held), votes(&mut member, &held));
}

/// Two of the same, which learn beside each other, learn the same, and so they do the next time.
#[test]
fn slms_that_learn_at_once_do_not_disturb_each_other() {
    let _alone = alone();
    let place = folder();
    let (first, running) = (member(place.path()), places(place.path()).running);
    let sets = Sets {
        stream: [samples(&NEW, 300), samples(&OLD, 100)].concat(),
        test: samples(&NEW, 60),
        old_test: samples(&OLD, 30),
        replay: vec![samples(&OLD, 200)],
        anchor: vec![Anchor::file("old.csv".as_ref(), samples(&OLD, 90))],
    };
    let round = RoundOptions { lr: 1e-2, epochs: 8, batch: 16, ..RoundOptions::new(Method::Lora) };
    let settings = Settings {
        pool: 100,
        first_pool: 100,
        noise: 0.0,
        look_again: false,
        audit: 0.0,
        // All agree, so that it is the audit that has texts reviewed.
        first_audit: 1.0,
        round,
        seed: 1,
    };
    let rounds = || {
        let mut members = ["one", "two", "three"].map(|id| {
            let mut member = first.twin();
            member.folder.id = id.to_owned();
            member
        });
        let bar = ProgressBar::hidden();
        evaluate(&mut members, &sets, &settings, &Reviewer::Gold, &running, &bar).expect("evaluates").rounds
    };
    let reports = rounds();
    let [largest, two, three] = &reports[0][..] else { panic!("{reports:?}") };
    assert_eq!(largest.decision, Decision::Promoted, "{reports:?}");
    assert_eq!(format!("{two:?}"), format!("{three:?}").replace("three", "two"));
    assert_eq!(format!("{reports:?}"), format!("{:?}", rounds()));
}

/// The pool says what `great` is, only the teacher knows `awful`, and nobody reviewed the texts with it.
#[test]
fn a_lesson_teaches_what_the_pool_does_not_show() {
    let _alone = alone();
    let place = folder();
    let (mut teacher, running) = (member(place.path()), places(place.path()).running);
    let mut untaught = teacher.twin();
    let mut taught = teacher.twin();
    let replay = samples(&OLD, 200);
    let report = one_round(&mut teacher, &samples(&NEW, 200), &replay, &running).expect("a round");
    assert_eq!(report.decision, Decision::Promoted, "{report:?}");
    let parts = split(&samples(&[("great", "positive"), ("ok", "neutral")], 200), 3, 0).expect("splits");
    let awful = samples(&[("awful", "negative")], 100);
    // The labels of what was not reviewed are not looked at.
    let more = awful.iter().map(|row| Labelled { label: 0, ..row.clone() }).collect();
    let lesson = Lesson::new(&mut teacher, &parts, more).expect("a lesson");
    let options = RoundOptions { lr: 1e-2, epochs: 8, batch: 16, ..RoundOptions::new(Method::Lora) };
    let right_after = |member: &mut Member, lesson| {
        let old = std::slice::from_ref(&replay);
        let material = Material { split: &parts, old, earlier: &[], anchor: &[], lesson };
        let (report, _) = round(member, &material, &options, &running, &ProgressBar::hidden()).expect("a round");
        assert_eq!(report.decision, Decision::Promoted, "{report:?}");
        let said = votes(member, &awful);
        said.chunks(3).zip(&awful).filter(|(row, text)| row[text.label] > 0.5).count()
    };
    assert!(right_after(&mut taught, Some(&lesson)) > 90);
    assert!(right_after(&mut untaught, None) < 50);
    // Who is as good as the teacher already learns nothing from it: the round is the one without a lesson.
    let mut again = teacher.twin();
    let material = |lesson| Material { split: &parts, old: &[], earlier: &[], anchor: &[], lesson };
    let hold =
        |member: &mut Member, lesson| round(member, &material(lesson), &options, &running, &ProgressBar::hidden());
    let (with, _) = hold(&mut teacher, Some(&lesson)).expect("a round");
    let (without, _) = hold(&mut again, None).expect("a round");
    assert_eq!(format!("{with:?}"), format!("{without:?}"));
}

/// With all layers trained in full the embeddings change too: the version in memory must be the one that its adapter gives.
#[test]
fn a_promoted_version_is_what_its_adapters_give() {
    let _alone = alone();
    let place = folder();
    let mut member = member(place.path());
    let options = RoundOptions { lr: 5e-3, epochs: 8, batch: 16, ..RoundOptions::new(Method::Full) };
    let parts = split(&samples(&NEW, 200), 3, 0).expect("splits");
    let (replay, running) = (samples(&OLD, 200), places(place.path()).running);
    let old = std::slice::from_ref(&replay);
    let material = Material { split: &parts, old, earlier: &[], anchor: &[], lesson: None };
    let (report, bytes) = round(&mut member, &material, &options, &running, &ProgressBar::hidden()).expect("a round");
    let bytes = bytes.unwrap_or_else(|| panic!("{report:?}"));
    let mut weights = base().weights;
    let before = weights.words.clone();
    let head = member.folder.merge(&[read(place.path().join("out/adapter.safetensors")), bytes], &mut weights);
    assert_ne!(weights.words, before);
    let (slm, tokenizer) = (member.folder.clone(), member.tokenizer.clone());
    let mut again = Member::new(slm, "tiny".into(), tokenizer, weights, head.expect("merges"), 3);
    assert_eq!(votes(&mut again, &replay), votes(&mut member, &replay));
}

#[test]
fn a_round_that_was_stopped_goes_on_to_the_same_result() {
    let _alone = alone();
    let place = folder();
    let replay = samples(&OLD, 100);
    let (mut whole, running) = (member(place.path()), places(place.path()).running);
    let expected = one_round(&mut whole, &samples(&NEW, 200), &replay, &running).expect("a round");
    let mut parts = member(place.path());
    let stopped = Running { checkpoint_every: std::time::Duration::ZERO, stop_after: Some(30), ..running.clone() };
    let outcome = one_round(&mut parts, &samples(&NEW, 200), &replay, &stopped);
    assert!(matches!(outcome, Err(TuneError::Stopped { step: 30 })));
    let found = one_round(&mut parts, &samples(&NEW, 200), &replay, &running).expect("a round");
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    assert_eq!(votes(&mut parts, &replay), votes(&mut whole, &replay));
}

/// The encoder of a classifier that `tests/reference/architectures.py` wrote, with the tokenizer of [`base`].
fn hub_base(name: &str) -> BaseModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/architectures").join(name);
    let classifier = HubClassifier::from_json(&read(folder.join("config.json")), name).expect("a config");
    let (weights, _) = classifier.read(&read(folder.join("model.safetensors")), name).expect("weights");
    BaseModel { weights, id: name.into(), sha256: name.into(), ..base() }
}

#[test]
fn encoders_of_the_same_layers_train_and_others_are_refused() {
    let _alone = alone();
    for (name, method, layers, lr) in
        [("roberta", Method::Lora, 1, 2e-2), ("distilbert", Method::Lora, 2, 2e-2), ("electra", Method::Full, 2, 5e-3)]
    {
        let place = folder();
        let options = Options { method, layers, lr, ..options() };
        let figures = train(&task(), hub_base(name), None, &options, &places(place.path()), &ProgressBar::hidden());
        let figures = figures.expect(name);
        assert!(figures.accuracy > 0.9, "{name}: {figures:?}");
        let text = String::from_utf8(read(place.path().join("out/slm.toml"))).expect("text");
        let slm = SlmFolder::from_toml(&text, "slm.toml").expect("reads");
        let (mut weights, before) = (hub_base(name).weights, hub_base(name).weights);
        slm.merge(&[read(place.path().join("out/adapter.safetensors"))], &mut weights).expect("merges");
        assert_ne!(weights.layers[1], before.layers[1]);
        // All parameters are those of what brings ELECTRA's embeddings to its layers, too.
        assert_eq!(weights.extras != before.extras, name == "electra");
    }
    for (name, word) in [("deberta-v3", "deberta-v2"), ("modernbert", "modernbert"), ("albert", "shared layers")] {
        let place = folder();
        let error = train(&task(), hub_base(name), None, &options(), &places(place.path()), &ProgressBar::hidden());
        let error = error.expect_err("refused").to_string();
        assert!(error.contains(word) && error.contains("served, not trained"), "{error}");
    }
}
