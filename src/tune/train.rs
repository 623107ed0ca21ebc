//! Training of one SLM: a head and an adapter, from labelled files, by burn's autodiff.
//!
//! The layers below the trained ones are frozen; their output is computed once, by the CPU engine, and kept on disk.
//! Batches hold texts of similar length. The best state on the validation file is kept, calibrated there, and its
//! figures are those of the merged model on the CPU engine: what will be served.

use super::activations::{Activations, Frozen};
use super::dataset::{Columns, DataFile, DataRecord, Dataset};
use super::metrics::{calibrate, metrics};
use super::teacher::Teacher;
use super::{TuneError, io};
use crate::slm::adapter::{AdapterFile, Method, Metrics, SlmFolder, sha256_hex};
use crate::slm::burn::{Backend, Classifier, Padded, Trained, Training, device, values};
use crate::slm::cpu::backward::{Step, Trainee};
use crate::slm::cpu::{CpuEncoder, CpuEngine};
use crate::slm::tokenize::Tokenizer;
use crate::slm::weights::{EncoderWeights, Head, Linear, Pooling};
use crate::slm::{Batch, Engine, plan_batches};
use crate::task::Task;
use burn::grad_clipping::GradientClippingConfig;
use burn::module::{Initializer, Module};
use burn::nn::LinearConfig;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Tensor, TensorData};
use indicatif::ProgressBar;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Batches of a window that is sorted by length before it is cut: wide enough for little padding, narrow enough for chance.
const WINDOW: usize = 50;

/// What makes one state of a training better than another, on the validation file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// A larger macro-F1.
    MacroF1,
    /// A smaller negative log likelihood after calibration, which says more where texts are few.
    Likelihood,
}

impl Choice {
    fn score(self, metrics: &Metrics) -> f64 {
        match self {
            Self::MacroF1 => metrics.macro_f1,
            Self::Likelihood => -metrics.nll,
        }
    }
}

/// How to train.
#[derive(Debug, Clone, Serialize)]
pub struct Options {
    /// The SLM's id.
    pub id: String,
    /// LoRA or all parameters.
    pub method: Method,
    /// Rank of a LoRA pair.
    pub rank: usize,
    /// Numerator of the LoRA scale.
    pub alpha: f32,
    /// Rank of the pair on the word embeddings; 0 leaves them as they are.
    pub embedding_rank: usize,
    /// How many of the upper layers are trained.
    pub layers: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Passes over the data.
    pub epochs: usize,
    /// Texts a step.
    pub batch: usize,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Share of the steps in which the learning rate rises; it falls to zero in the rest.
    pub warmup: f64,
    /// Tokens of a text in training; a longer one is cut.
    pub train_length: usize,
    /// Tokens of a text when it is served.
    pub max_length: usize,
    /// Weigh each label by the inverse of its share.
    pub class_weights: bool,
    /// Share of values that are dropped in the trained layers, in 0..1.
    pub dropout: f64,
    /// Share of the target that the teacher's probabilities make up, in 0..=1; 0 without a teacher.
    pub teacher_weight: f32,
    /// The result's share of the way from the base (0) to what was trained (1); the head is taken as trained.
    pub interpolation: f32,
    /// What the state is chosen by.
    pub choice: Choice,
    /// Evaluations an epoch.
    pub evaluations: usize,
    /// Stop after so many evaluations without a better one.
    pub patience: usize,
    /// Seed of every choice by chance.
    pub seed: u64,
}

/// The base model to start from.
pub struct BaseModel {
    /// Its id in `bases.toml`.
    pub id: String,
    /// Hash over its canonical tensors.
    pub sha256: String,
    /// Its tokenizer's file.
    pub tokenizer_json: Vec<u8>,
    /// Its weights.
    pub weights: EncoderWeights,
}

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// Labelled files to train on.
    pub data: Vec<DataFile>,
    /// Files whose texts alone are used, with a teacher's labels.
    pub unlabelled: Vec<DataFile>,
    /// The labelled file to choose, stop and calibrate by.
    pub validation: PathBuf,
    /// A labelled file of another kind of text, to choose by as well.
    pub transfer: Option<PathBuf>,
    /// Columns of all files.
    pub columns: Columns,
    /// The SLM's folder to write.
    pub out: PathBuf,
    /// How the training runs.
    pub running: Running,
}

/// How a training runs, which changes nothing of its result.
#[derive(Debug, Clone)]
pub struct Running {
    /// What it runs on.
    pub backend: Backend,
    /// Where activations and checkpoints go.
    pub scratch: PathBuf,
    /// Ignore a checkpoint that is there.
    pub fresh: bool,
    /// The time between two checkpoints.
    pub checkpoint_every: Duration,
    /// Stop at this step with a checkpoint, as an interruption would.
    pub stop_after: Option<usize>,
}

/// What a training starts from.
pub(super) struct Start<'a> {
    /// Names the weights: whatever is kept of them on disk is found again by it.
    pub key: &'a str,
    /// The encoder.
    pub weights: &'a EncoderWeights,
    /// The head; without one a logistic regression on the mean-pooled output.
    pub head: Option<&'a Head>,
    /// The layers that are not trained, where their output is kept in memory.
    pub frozen: Option<&'a Mutex<Frozen>>,
}

/// Trains from `start` on `data`, whose `targets` are `[texts x labels]`, and returns what the best state on
/// `stopping` has changed; see [`train`].
pub(super) fn fine_tune(
    start: &Start<'_>,
    options: &Options,
    running: &Running,
    (data, stopping): (&Dataset, &Dataset),
    targets: Vec<f32>,
    progress: &ProgressBar,
) -> Result<Vec<Trained>, TuneError> {
    check(options, start.weights)?;
    if start.head.is_some_and(|head| head.dense.is_some()) {
        let problem = "a head of more than one map is served, not trained; train a new head on its encoder";
        return Err(TuneError::Options(problem.to_owned()));
    }
    let none = Dataset::default();
    let mut run = Run::new(start, options, running, (data, stopping, &none), targets, progress)?;
    run.all_epochs()?;
    std::fs::remove_dir_all(running.scratch.join("checkpoint")).ok();
    run.state.best.map(|best| best.parts).ok_or_else(|| TuneError::Options("there was nothing to train on".to_owned()))
}

/// What was done, written beside the result as `train.json`.
#[derive(Debug, Serialize)]
struct RunRecord<'a> {
    autoannotator: &'static str,
    burn: &'static str,
    task: &'a str,
    base: &'a str,
    base_sha256: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    teacher: Option<String>,
    options: &'a Options,
    data: &'a [DataRecord],
    #[serde(skip_serializing_if = "<[DataRecord]>::is_empty")]
    unlabelled: &'a [DataRecord],
    validation: &'a [DataRecord],
    transfer: &'a [DataRecord],
    evaluations: &'a [Evaluation],
    best_step: usize,
    result: &'a Metrics,
    seconds: u64,
}

/// Figures on the validation file, and on the one of another kind, in the course of training.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Evaluation {
    step: usize,
    metrics: Metrics,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transfer: Option<Metrics>,
}

/// Trains an SLM and writes its folder: `slm.toml`, `adapter.safetensors`, `train.json`. Returns its figures on the
/// validation file. A training that was stopped goes on from its last checkpoint.
pub fn train(
    task: &Task,
    base: BaseModel,
    teacher: Option<Teacher>,
    options: &Options,
    places: &Places,
    progress: &ProgressBar,
) -> Result<Metrics, TuneError> {
    let started = Instant::now();
    check(options, &base.weights)?;
    let tokenizer = Tokenizer::from_json(&base.tokenizer_json, options.train_length)?;
    let mut data = Dataset::read(&places.data, &places.columns, &task.labels, &tokenizer)?;
    let whole = |path: &PathBuf| {
        let file = DataFile { path: path.clone(), fraction: 1.0 };
        Dataset::read(&[file], &places.columns, &task.labels, &tokenizer)
    };
    let validation = whole(&places.validation)?;
    let transfer = places.transfer.as_ref().map(whole).transpose()?.unwrap_or_default();
    let mut targets = hard_targets(options, &data.labels, task.labels.len());
    let unlabelled = Dataset::read_texts(&places.unlabelled, &places.columns.text, &tokenizer)?;
    let (data_files, unlabelled_files) = (data.files.clone(), unlabelled.files.clone());
    data.append(unlabelled);
    targets.resize(data.len() * task.labels.len(), 0.0);
    let teacher_name = teacher.as_ref().map(|teacher| teacher.name.clone());
    match teacher {
        Some(teacher) => soften(&mut targets, teacher, task, &data, options.teacher_weight, progress)?,
        None if places.unlabelled.is_empty() => {}
        None => return Err(TuneError::Options("--unlabelled needs --teacher".to_owned())),
    }
    let start = Start { key: &base.sha256, weights: &base.weights, head: None, frozen: None };
    let mut run = Run::new(&start, options, &places.running, (&data, &validation, &transfer), targets, progress)?;
    run.all_epochs()?;
    let Run { state, .. } = run;
    let best = state.best.ok_or_else(|| TuneError::Options("there was nothing to train on".to_owned()))?;
    let folder = finish(task, base.weights.clone(), &base, options, places, best.parts, &validation)?;
    let record = RunRecord {
        autoannotator: env!("CARGO_PKG_VERSION"),
        burn: "0.22.1",
        task: &task.name,
        base: &base.id,
        base_sha256: &base.sha256,
        teacher: teacher_name,
        options,
        data: &data_files,
        unlabelled: &unlabelled_files,
        validation: &validation.files,
        transfer: &transfer.files,
        evaluations: &state.evaluations,
        best_step: best.step,
        result: &folder.validation,
        seconds: started.elapsed().as_secs(),
    };
    write_json(&places.out.join("train.json"), &record)?;
    std::fs::remove_dir_all(places.running.scratch.join("checkpoint")).ok();
    Ok(folder.validation)
}

fn check(options: &Options, weights: &EncoderWeights) -> Result<(), TuneError> {
    let fail = |problem: String| Err(TuneError::Options(problem));
    if let Some(problem) = weights.config.untrainable() {
        return fail(problem);
    }
    let (layers, longest) = (weights.config.num_hidden_layers, weights.config.max_length());
    if options.layers == 0 || options.layers > layers {
        return fail(format!("--layers is {}, the base has {layers}", options.layers));
    }
    if options.method == Method::Lora && options.rank == 0 {
        return fail("--rank is 0, expected at least 1".to_owned());
    }
    if options.embedding_rank > 0 && options.layers < layers {
        return fail(format!("--embedding-rank needs all {layers} layers, --layers is {}", options.layers));
    }
    if options.batch == 0 || options.epochs == 0 || options.evaluations == 0 {
        return fail("--batch, --epochs and --evaluations must be at least 1".to_owned());
    }
    if options.max_length > longest || options.train_length > longest {
        return fail(format!("the base takes at most {longest} tokens"));
    }
    if !(0.0..1.0).contains(&options.dropout) {
        return fail(format!("--dropout is {}, expected at least 0 and below 1", options.dropout));
    }
    if !(0.0..=1.0).contains(&options.teacher_weight) {
        return fail(format!("--teacher-weight is {}, expected 0 to 1", options.teacher_weight));
    }
    if !(0.0..=1.0).contains(&options.interpolation) {
        return fail(format!("--interpolation is {}, expected 0 to 1", options.interpolation));
    }
    if !(options.lr > 0.0 && options.lr < 1.0) {
        return fail(format!("--lr is {}, expected above 0 and below 1", options.lr));
    }
    Ok(())
}

/// The hidden states that go into the trained layers, or the ids where even the embeddings are trained.
enum Input {
    Hidden(Activations),
    Ids,
}

struct Best {
    step: usize,
    score: f64,
    parts: Vec<Trained>,
}

struct State {
    step: usize,
    best: Option<Best>,
    evaluations: Vec<Evaluation>,
    worse: usize,
}

struct Run<'a> {
    options: &'a Options,
    labels: usize,
    /// `[texts x labels]`; a row sums to the text's weight.
    targets: Vec<f32>,
    data: (&'a Dataset, Input),
    validation: (&'a Dataset, Input),
    /// Empty where none was given.
    transfer: (&'a Dataset, Input),
    width: usize,
    /// Without a gradient tape.
    plain: Device,
    device: Device,
    model: Classifier,
    /// Makes the gradients on the CPU, where the embeddings do not train; burn's autodiff makes them otherwise.
    trainee: Option<Trainee>,
    optimizer: ModuleOptimizer,
    state: State,
    checkpoint: PathBuf,
    checkpoint_every: Duration,
    stop_after: Option<usize>,
    fingerprint: String,
    progress: &'a ProgressBar,
}

impl<'a> Run<'a> {
    fn new(
        start: &Start<'_>,
        options: &'a Options,
        running: &Running,
        (data, validation, transfer): (&'a Dataset, &'a Dataset, &'a Dataset),
        targets: Vec<f32>,
        progress: &'a ProgressBar,
    ) -> Result<Self, TuneError> {
        let Start { key, weights, head, frozen } = start;
        let (labels, plain) = (targets.len() / data.len().max(1), pollster::block_on(device(running.backend))?);
        let device = plain.clone().autodiff();
        let width = weights.config.hidden_size;
        let first = weights.config.num_hidden_layers - options.layers;
        let training = match options.method {
            Method::Lora => {
                let Options { rank, alpha, embedding_rank, seed, .. } = *options;
                Training::Lora { rank, alpha, embedding_rank, seed }
            }
            Method::Full => Training::Full,
        };
        let input = |set: &Dataset| -> Result<Input, TuneError> {
            if first == 0 && training.reaches_embeddings() {
                return Ok(Input::Ids);
            }
            if let Some(frozen) = frozen {
                let mut frozen = frozen.lock().unwrap_or_else(PoisonError::into_inner);
                return Ok(Input::Hidden(frozen.activations(&set.ids, progress)?));
            }
            let folder = running.scratch.join("activations");
            Ok(Input::Hidden(Activations::new(&folder, key, weights, first, &set.ids, progress)?))
        };
        let (data_input, validation_input, transfer_input) = (input(data)?, input(validation)?, input(transfer)?);
        let checkpoint = running.scratch.join("checkpoint");
        let goes_on = !running.fresh && checkpoint.join("state.json").exists();
        let head = match head {
            Some(head) => (*head).clone(),
            None => {
                // A checkpoint brings its own head; the first one is dear.
                let linear = if goes_on {
                    let (weight, bias) = (vec![0.0; labels * width], vec![0.0; labels]);
                    Linear { weight, bias, outputs: labels, inputs: width }
                } else {
                    probe(weights, data, &targets, labels, progress)?
                };
                Head { pooling: Pooling::Mean, dense: None, linear, temperature: 1.0 }
            }
        };
        let model = Classifier::new(weights, &head, first, training, options.dropout, &device);
        let own = running.backend == Backend::Cpu && matches!(data_input, Input::Hidden(_));
        let trainee = own.then(|| Trainee::new(weights, first, head.pooling));
        let optimizer = AdamWConfig::new()
            .with_epsilon(1e-8)
            .with_weight_decay(options.weight_decay)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
            .init();
        let fingerprint = sha256_hex(
            serde_json::to_string(&(options, key, &data.files, &validation.files, &transfer.files, &targets))
                .unwrap_or_default()
                .as_bytes(),
        );
        let mut run = Self {
            options,
            labels,
            targets,
            data: (data, data_input),
            validation: (validation, validation_input),
            transfer: (transfer, transfer_input),
            width,
            plain,
            device,
            model,
            trainee,
            optimizer,
            state: State { step: 0, best: None, evaluations: Vec::new(), worse: 0 },
            checkpoint,
            checkpoint_every: running.checkpoint_every,
            stop_after: running.stop_after,
            fingerprint,
            progress,
        };
        if goes_on {
            run = run.resume()?;
        }
        Ok(run)
    }

    fn steps_an_epoch(&self) -> usize {
        self.data.0.len().div_ceil(self.options.batch)
    }

    /// Rises to the peak in the warm-up, then falls in a straight line to zero.
    fn learning_rate(&self, step: usize) -> f64 {
        let all = (self.steps_an_epoch() * self.options.epochs) as f64;
        let warm = (all * self.options.warmup).max(1.0);
        let at = step as f64 + 1.0;
        self.options.lr * (at / warm).min((all - at + 1.0) / (all - warm + 1.0)).clamp(0.0, 1.0)
    }

    fn all_epochs(&mut self) -> Result<(), TuneError> {
        let an_epoch = self.steps_an_epoch();
        let every = an_epoch.div_ceil(self.options.evaluations);
        let all = an_epoch * self.options.epochs;
        self.progress.set_length(all as u64);
        self.progress.set_position(self.state.step as u64);
        let mut saved = Instant::now();
        let mut loss_mean = f32::NAN;
        while self.state.step < all && self.state.worse < self.options.patience {
            let epoch = self.state.step / an_epoch;
            let batches = self.batches(epoch);
            for texts in batches.iter().skip(self.state.step % an_epoch) {
                let loss = self.step(texts)?;
                loss_mean = if loss_mean.is_nan() { loss } else { 0.98 * loss_mean + 0.02 * loss };
                self.state.step += 1;
                self.progress.set_position(self.state.step as u64);
                self.progress.set_message(format!("loss {loss_mean:.4}{}", self.best_so_far()));
                if self.state.step.is_multiple_of(every) || self.state.step == all {
                    self.evaluate()?;
                    if self.state.worse >= self.options.patience {
                        break;
                    }
                }
                if saved.elapsed() >= self.checkpoint_every {
                    self.save()?;
                    saved = Instant::now();
                }
                if self.stop_after == Some(self.state.step) {
                    return Err(TuneError::Stopped { step: self.state.step });
                }
            }
        }
        Ok(())
    }

    fn best_so_far(&self) -> String {
        self.state.best.as_ref().map(|best| format!(", best at step {}", best.step)).unwrap_or_default()
    }

    /// The batches of an epoch: by chance, but of similar length. The same for the same seed and epoch.
    fn batches(&self, epoch: usize) -> Vec<Vec<usize>> {
        let mut chance = StdRng::seed_from_u64(self.options.seed.wrapping_add(epoch as u64));
        let ids = &self.data.0.ids;
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.shuffle(&mut chance);
        let mut batches = Vec::new();
        for window in order.chunks_mut(WINDOW * self.options.batch) {
            window.sort_by_key(|text| ids[*text].len());
            batches.extend(window.chunks(self.options.batch).map(<[usize]>::to_vec));
        }
        batches.shuffle(&mut chance);
        batches
    }

    fn step(&mut self, texts: &[usize]) -> Result<f32, TuneError> {
        let (loss, gradients) = match (&mut self.trainee, &self.data.1) {
            (Some(trainee), Input::Hidden(activations)) => {
                let targets = targets_of(&self.targets, self.labels, texts);
                let seed = self.options.seed.wrapping_add(self.state.step as u64).wrapping_mul(0x2545_f491_4f6c_dd1d);
                let step = Step {
                    hidden: &activations.gather(texts),
                    lengths: &lengths(self.data.0, texts),
                    total: targets.iter().sum(),
                    targets: &targets,
                    seeds: &texts.iter().map(|text| seed ^ *text as u64).collect::<Vec<_>>(),
                    dropout: self.options.dropout as f32,
                };
                let (loss, gradient) = trainee.gradient(&self.model.parameters(), &step);
                (loss, self.model.gradients(gradient))
            }
            _ => {
                // For each step anew, so that a training that was stopped drops what it would have dropped.
                self.device.seed(self.options.seed.wrapping_add(self.state.step as u64));
                let logits = self.logits(&self.model, &self.data, texts, &self.device)?;
                let loss = self.loss(logits, texts);
                let value = values(loss.clone()).first().copied().unwrap_or(f32::NAN);
                (value, GradientsParams::from_grads(loss.backward(), &self.model))
            }
        };
        if !loss.is_finite() {
            return Err(TuneError::Diverged { loss, step: self.state.step });
        }
        let rate = self.learning_rate(self.state.step);
        self.model = self.optimizer.step(rate, self.model.clone(), gradients);
        Ok(loss)
    }

    fn logits(
        &self,
        model: &Classifier,
        (set, input): &(&Dataset, Input),
        texts: &[usize],
        device: &Device,
    ) -> Result<Tensor<2>, TuneError> {
        let lengths = lengths(set, texts);
        let padded = Padded::new(&lengths);
        Ok(match input {
            Input::Hidden(activations) => {
                let hidden = padded.spread(&lengths, &activations.gather(texts), self.width);
                let shape = [padded.texts, padded.length, self.width];
                model.forward(Tensor::from_data(TensorData::new(hidden, shape), device), &padded)
            }
            Input::Ids => {
                let ids: Vec<u32> = texts.iter().flat_map(|text| set.ids[*text].iter().copied()).collect();
                model.forward_ids(&padded.spread(&lengths, &ids, 1), &padded)?
            }
        })
    }

    /// Cross entropy with the texts' targets.
    fn loss(&self, logits: Tensor<2>, texts: &[usize]) -> Tensor<1> {
        let target = targets_of(&self.targets, self.labels, texts);
        let total: f32 = target.iter().sum();
        let target = TensorData::new(target, [texts.len(), self.labels]);
        let target = Tensor::<2>::from_data(target, &logits.device());
        (log_softmax(logits, 1) * target).sum() * (-1.0 / total)
    }

    /// Logits of a set without a gradient tape, `[texts x labels]`.
    fn all_logits(&mut self, which: fn(&Self) -> &(&'a Dataset, Input)) -> Result<Vec<f32>, TuneError> {
        let model = self.model.valid();
        let parameters = self.trainee.is_some().then(|| self.model.parameters());
        let mut trainee = self.trainee.take();
        let part = which(self);
        let logits = by_batches(part.0, self.labels, (2048, self.options.batch), |group| {
            Ok(match (&mut trainee, &parameters, &part.1) {
                (Some(trainee), Some(parameters), Input::Hidden(activations)) => {
                    trainee.logits(parameters, &activations.gather(group), &lengths(part.0, group))
                }
                _ => values(self.logits(&model, part, group, &self.plain)?),
            })
        })?;
        self.trainee = trainee;
        Ok(logits)
    }

    /// The better state has the better score on the validation file, or the better mean with the file of another kind;
    /// the calibration is the validation file's for both.
    fn evaluate(&mut self) -> Result<(), TuneError> {
        let logits = self.all_logits(|run| &run.validation)?;
        let transfer_logits = self.all_logits(|run| &run.transfer)?;
        let fit = calibrate(&logits, &self.validation.0.labels, self.labels);
        let figures =
            |logits: &[f32], set: &Dataset| metrics(&fit.shifted(logits), &set.labels, self.labels, fit.temperature);
        let transfer = (!self.transfer.0.is_empty()).then(|| figures(&transfer_logits, self.transfer.0));
        let figures = figures(&logits, self.validation.0);
        let scored = |metrics| self.options.choice.score(metrics);
        let other = transfer.as_ref().map_or(scored(&figures), scored);
        let (step, score) = (self.state.step, (scored(&figures) + other) / 2.0);
        let line = format!(
            "step {step}: accuracy {:.2}, macro-F1 {:.2}, nll {:.4}",
            figures.accuracy * 100.0,
            figures.macro_f1 * 100.0,
            figures.nll
        );
        self.progress.suspend(|| tracing::info!("{}: {line}", self.options.id));
        self.state.evaluations.push(Evaluation { step, metrics: figures, transfer });
        if self.state.best.as_ref().is_none_or(|best| score > best.score) {
            self.state.best = Some(Best { step, score, parts: self.model.trained() });
            self.state.worse = 0;
        } else {
            self.state.worse += 1;
        }
        Ok(())
    }

    /// Writes a checkpoint into a folder of its own and puts it in the old one's place.
    fn save(&self) -> Result<(), TuneError> {
        let folder = self.checkpoint.with_extension("new");
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).map_err(io(&folder))?;
        let fail = |problem: String| TuneError::Checkpoint { path: folder.clone(), problem };
        self.model.clone().save_file(folder.join("model")).map_err(|e| fail(e.to_string()))?;
        self.optimizer.save(folder.join("optimizer")).map_err(|e| fail(e.to_string()))?;
        let state = SavedState {
            fingerprint: self.fingerprint.clone(),
            step: self.state.step,
            worse: self.state.worse,
            best: self.state.best.as_ref().map(|best| (best.step, best.score)),
            evaluations: self.state.evaluations.clone(),
        };
        if let Some(best) = &self.state.best {
            let path = folder.join("best.safetensors");
            std::fs::write(&path, serialize(&best.parts, Dtype::F32)?).map_err(io(&path))?;
        }
        write_json(&folder.join("state.json"), &state)?;
        std::fs::remove_dir_all(&self.checkpoint).ok();
        std::fs::rename(&folder, &self.checkpoint).map_err(io(&self.checkpoint))
    }

    /// Goes on from a checkpoint of the same training.
    fn resume(mut self) -> Result<Self, TuneError> {
        let folder = self.checkpoint.clone();
        let fail = |problem: String| TuneError::Checkpoint { path: folder.clone(), problem };
        let path = folder.join("state.json");
        let state = std::fs::read(&path).map_err(io(&path))?;
        let state: SavedState = serde_json::from_slice(&state).map_err(|e| fail(e.to_string()))?;
        if state.fingerprint != self.fingerprint {
            return Err(fail("it was made with other options or data".to_owned()));
        }
        self.model = self.model.try_load_file(folder.join("model")).map_err(|e| fail(e.to_string()))?;
        self.optimizer = self.optimizer.load(folder.join("optimizer")).map_err(|e| fail(e.to_string()))?;
        self.state = State { step: state.step, best: None, evaluations: state.evaluations, worse: state.worse };
        if let Some((step, score)) = state.best {
            let path = folder.join("best.safetensors");
            let parts = deserialize(&std::fs::read(&path).map_err(io(&path))?).map_err(|e| fail(e.to_string()))?;
            self.state.best = Some(Best { step, score, parts });
        }
        tracing::info!("{}: going on from step {}", self.options.id, self.state.step);
        Ok(self)
    }
}

#[derive(Serialize, Deserialize)]
struct SavedState {
    fingerprint: String,
    step: usize,
    worse: usize,
    best: Option<(usize, f64)>,
    evaluations: Vec<Evaluation>,
}

/// Tokens of each of some texts.
pub(super) fn lengths(set: &Dataset, texts: &[usize]) -> Vec<usize> {
    texts.iter().map(|text| set.ids[*text].len()).collect()
}

fn targets_of(targets: &[f32], labels: usize, texts: &[usize]) -> Vec<f32> {
    texts.iter().flat_map(|text| &targets[text * labels..][..labels]).copied().collect()
}

/// One row a text: its label's weight (1, or the inverse of the label's share) at its label.
fn hard_targets(options: &Options, gold: &[usize], labels: usize) -> Vec<f32> {
    let count = |label: usize| gold.iter().filter(|gold| **gold == label).count().max(1);
    let weight = |label| if options.class_weights { gold.len() as f32 / (labels * count(label)) as f32 } else { 1.0 };
    let weights: Vec<f32> = (0..labels).map(weight).collect();
    let mut targets = vec![0.0; gold.len() * labels];
    for (row, gold) in targets.chunks_exact_mut(labels).zip(gold) {
        row[*gold] = weights[*gold];
    }
    targets
}

/// Mixes the teacher's calibrated probabilities into the targets; a row keeps its sum. Texts without a label take the
/// teacher's alone.
fn soften(
    targets: &mut [f32],
    mut teacher: Teacher,
    task: &Task,
    data: &Dataset,
    share: f32,
    progress: &ProgressBar,
) -> Result<(), TuneError> {
    let labels = task.labels.len();
    if teacher.slm.meta().labels != task.labels.names() {
        let (name, theirs) = (&teacher.name, teacher.slm.meta().labels.join(", "));
        return Err(TuneError::Options(format!("the teacher {name} has the labels {theirs}, the task others")));
    }
    let soft = teacher.probabilities(&data.texts, progress)?;
    for (row, soft) in targets.chunks_exact_mut(labels).zip(soft.chunks_exact(labels)) {
        let weight: f32 = row.iter().sum();
        let (share, weight) = if weight > 0.0 { (share, weight) } else { (1.0, 1.0) };
        row.iter_mut().zip(soft).for_each(|(target, soft)| *target += share * (weight * soft - *target));
    }
    Ok(())
}

/// The head to start from: a logistic regression on the base's mean-pooled output. Fine-tuning from a head that already
/// fits distorts the base's features less, which keeps more of them for texts of another kind (arXiv 2202.10054).
fn probe(
    weights: &EncoderWeights,
    data: &Dataset,
    targets: &[f32],
    labels: usize,
    progress: &ProgressBar,
) -> Result<Linear, TuneError> {
    progress.set_message("first head");
    let features = mean_pooled(weights, &data.ids, progress)?;
    Ok(logistic_regression(&features, targets, weights.config.hidden_size, labels))
}

/// The mean over each text's tokens of a base's last hidden states, `[texts x hidden]`.
pub fn mean_pooled(
    weights: &EncoderWeights,
    texts: &[Vec<u32>],
    progress: &ProgressBar,
) -> Result<Vec<f32>, TuneError> {
    let (layers, width) = (weights.config.num_hidden_layers, weights.config.hidden_size);
    let mut encoder = CpuEncoder::new(weights);
    let mut features = vec![0.0; texts.len() * width];
    let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    progress.set_length(texts.len() as u64);
    progress.set_position(0);
    for group in plan_batches(&lengths, 4096, usize::MAX) {
        let hidden = encoder.hidden(&Batch::new(group.iter().map(|text| texts[*text].as_slice())), layers)?;
        let mut tokens = hidden.chunks_exact(width);
        for text in &group {
            let mean = &mut features[text * width..][..width];
            for token in tokens.by_ref().take(lengths[*text]) {
                mean.iter_mut().zip(token).for_each(|(mean, value)| *mean += value / lengths[*text] as f32);
            }
        }
        progress.inc(group.len() as u64);
    }
    Ok(features)
}

/// By full-batch AdamW with a rate that falls to zero.
fn logistic_regression(features: &[f32], targets: &[f32], width: usize, labels: usize) -> Linear {
    const STEPS: usize = 200;
    let device = Device::flex().autodiff();
    let rows = targets.len() / labels;
    let features = Tensor::<2>::from_data(TensorData::new(features.to_vec(), [rows, width]), &device);
    let target = Tensor::<2>::from_data(TensorData::new(targets.to_vec(), [rows, labels]), &device);
    let total: f32 = targets.iter().sum();
    let mut model = LinearConfig::new(width, labels).with_initializer(Initializer::Zeros).init(&device);
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.01).init();
    for step in 0..STEPS {
        let loss = (log_softmax(model.forward(features.clone()), 1) * target.clone()).sum() * (-1.0 / total);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(0.05 * (1.0 - step as f64 / STEPS as f64), model, gradients);
    }
    let bias = model.bias.map(|bias| values(bias.val())).unwrap_or_default();
    Linear { weight: values(model.weight.val().transpose()), bias, outputs: labels, inputs: width }
}

/// Goes back towards the base by [`Options::interpolation`], merges the adapter into the base as it will be served,
/// calibrates it on the validation file (the bias becomes part of the head's) and writes adapter and `slm.toml`.
fn finish(
    task: &Task,
    mut weights: EncoderWeights,
    base: &BaseModel,
    options: &Options,
    places: &Places,
    mut parts: Vec<Trained>,
    validation: &Dataset,
) -> Result<SlmFolder, TuneError> {
    std::fs::create_dir_all(&places.out).map_err(io(&places.out))?;
    interpolate(&mut parts, &mut weights, options.interpolation, None);
    let bytes = serialize(&parts, Dtype::F16)?;
    let lora = options.method == Method::Lora;
    let mut folder = SlmFolder {
        id: options.id.clone(),
        task: task.name.clone(),
        labels: task.labels.names(),
        base: base.id.clone(),
        base_sha256: base.sha256.clone(),
        max_length: options.max_length,
        pooling: Pooling::Mean,
        temperature: 1.0,
        adapter: AdapterFile {
            file: "adapter.safetensors".to_owned(),
            sha256: sha256_hex(&bytes),
            method: options.method,
            rank: if lora { options.rank } else { 0 },
            alpha: if lora { options.alpha } else { 0.0 },
        },
        validation: Metrics { accuracy: 0.0, macro_f1: 0.0, nll: 0.0 },
        rounds: Vec::new(),
    };
    let labels = task.labels.len();
    let head = folder.merge(&[&bytes], &mut weights)?;
    let logits = served_logits(&mut CpuEngine::new(&weights, head), validation, labels)?;
    let fit = calibrate(&logits, &validation.labels, labels);
    if let Some(bias) = parts.iter_mut().find(|part| part.name == "head.bias") {
        bias.values.iter_mut().zip(fit.shift()).for_each(|(bias, shift)| *bias += shift);
    }
    folder.temperature = fit.temperature;
    folder.validation = metrics(&fit.shifted(&logits), &validation.labels, labels, fit.temperature);
    let bytes = serialize(&parts, Dtype::F16)?;
    folder.adapter.sha256 = sha256_hex(&bytes);
    let text = toml::to_string(&folder).map_err(|e| TuneError::Options(e.to_string()))?;
    let write = |name: &str, bytes: &[u8]| {
        let path = places.out.join(name);
        std::fs::write(&path, bytes).map_err(io(&path))
    };
    write(&folder.adapter.file, &bytes)?;
    write("slm.toml", text.as_bytes())?;
    Ok(folder)
}

/// Moves what was trained to a share of its way from `base`, and the head from `head` where one is given. Keeping part of
/// the base loses little on texts like the training data and gains on others (WiSE-FT, arXiv 2109.01903).
pub(super) fn interpolate(parts: &mut [Trained], base: &mut EncoderWeights, share: f32, head: Option<&Head>) {
    let mut base: HashMap<String, &[f32]> =
        base.tensors_mut().into_iter().map(|(name, _, values)| (name, &*values)).collect();
    if let Some(Head { linear, .. }) = head {
        base.insert("head.weight".to_owned(), &linear.weight);
        base.insert("head.bias".to_owned(), &linear.bias);
    }
    for part in parts {
        if part.name.ends_with(".lora_B.weight") {
            part.values.iter_mut().for_each(|value| *value *= share);
        } else if let Some(base) = base.get(&part.name) {
            part.values.iter_mut().zip(base.iter()).for_each(|(value, base)| *value = base + share * (*value - base));
        }
    }
}

/// Raw logits `[texts x labels]`, in the order of the set.
fn served_logits(engine: &mut CpuEngine, set: &Dataset, labels: usize) -> Result<Vec<f32>, TuneError> {
    by_batches(set, labels, (4096, usize::MAX), |group| {
        Ok(engine.logits(&Batch::new(group.iter().map(|text| set.ids[*text].as_slice())))?)
    })
}

/// Rows of `labels` values in the order of the set, from those of batches of texts of similar length, of at most so many
/// tokens and texts.
pub(super) fn by_batches(
    set: &Dataset,
    labels: usize,
    (tokens, texts): (usize, usize),
    mut rows_of: impl FnMut(&[usize]) -> Result<Vec<f32>, TuneError>,
) -> Result<Vec<f32>, TuneError> {
    let all: Vec<usize> = set.ids.iter().map(Vec::len).collect();
    let mut values = vec![0.0; set.len() * labels];
    for group in plan_batches(&all, tokens, texts) {
        for (text, row) in group.iter().zip(rows_of(&group)?.chunks_exact(labels)) {
            values[text * labels..][..labels].copy_from_slice(row);
        }
    }
    Ok(values)
}

pub(super) fn serialize(parts: &[Trained], dtype: Dtype) -> Result<Vec<u8>, TuneError> {
    let bytes: Vec<Vec<u8>> = parts
        .iter()
        .map(|part| match dtype {
            Dtype::F16 => part.values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            _ => part.values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        })
        .collect();
    let fail = |e: safetensors::SafeTensorError| TuneError::Options(format!("the adapter cannot be written: {e}"));
    let views = parts
        .iter()
        .zip(&bytes)
        .map(|(part, bytes)| Ok((part.name.clone(), TensorView::new(dtype, part.shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    safetensors::serialize(views, None).map_err(fail)
}

fn deserialize(bytes: &[u8]) -> Result<Vec<Trained>, crate::slm::SlmError> {
    use crate::slm::weights::{SafetensorsSource, TensorSource};
    let source = SafetensorsSource::new(bytes, "best.safetensors")?;
    let mut parts = Vec::new();
    for name in source.names() {
        if let Some((shape, values)) = source.tensor(&name)? {
            parts.push(Trained { name, shape, values });
        }
    }
    Ok(parts)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TuneError> {
    let text = serde_json::to_string_pretty(value).map_err(|e| TuneError::Options(e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(io(path))
}
