//! `autoannotator train`.

use crate::hub::{self, Home};
use crate::slm::adapter::Method;
use crate::slm::burn::Backend;
use crate::task::Task;
use crate::tune::dataset::{Columns, DataFile};
use crate::tune::teacher::Teacher;
use crate::tune::train::{BaseModel, Choice, Options, Places, Running, train};
use indicatif::ProgressBar;
use std::path::PathBuf;
use std::time::Duration;

/// Trains a head and an adapter on labelled CSV files, and writes an SLM's folder.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator train --task sentiment --base all-MiniLM-L6-v2 --id my-sentiment \\
      --data train.csv --validation val.csv --out models/my-sentiment
  autoannotator train --task toxicity --base all-mpnet-base-v2 --id my-toxicity --layers 4 \\
      --data tweets.csv --data comments.csv=0.5 --validation val.csv --out models/my-toxicity
  autoannotator train ... --teacher sentiment-mpnet --unlabelled more-texts.csv   learn from a larger SLM as well
  autoannotator train --method full --epochs 3 ...   all parameters, with the paper's settings

A training that was stopped goes on from its last checkpoint by the same command.")]
pub(super) struct Args {
    /// The task, which gives the labels: sentiment or toxicity
    #[arg(long)]
    task: String,
    /// The base model's id (see `autoannotator doctor`)
    #[arg(long)]
    base: String,
    /// The new SLM's id
    #[arg(long)]
    id: String,
    /// A labelled CSV file, or FILE=FRACTION for a part of its rows; may be given more than once
    #[arg(long, required = true, value_name = "FILE[=FRACTION]")]
    data: Vec<DataFile>,
    /// A labelled CSV file to stop, choose and calibrate by; never trained on
    #[arg(long)]
    validation: PathBuf,
    /// A labelled CSV file of another kind of text: the state with the best mean macro-F1 of both files is kept
    #[arg(long)]
    transfer: Option<PathBuf>,
    /// The SLM's folder to write
    #[arg(long)]
    out: PathBuf,
    /// The column of the text
    #[arg(long, default_value = "text")]
    text_column: String,
    /// The column of the label
    #[arg(long, default_value = "label")]
    label_column: String,
    /// lora: low-rank updates (small adapter, fast); full: all parameters
    #[arg(long, default_value = "lora", value_parser = parse_method)]
    method: Method,
    /// Rank of the low-rank updates
    #[arg(long, default_value_t = 16)]
    rank: usize,
    /// Numerator of their scale; twice the rank where it is not given
    #[arg(long)]
    alpha: Option<f32>,
    /// Rank of the low-rank update of the word embeddings, with all layers only; 0 for none
    #[arg(long, default_value_t = 0)]
    embedding_rank: usize,
    /// How many of the upper layers to train; the others are frozen and run once [default: all]
    #[arg(long)]
    layers: Option<usize>,
    /// Peak learning rate [default: 5e-4 for lora, 2e-5 for full]
    #[arg(long)]
    lr: Option<f64>,
    /// Passes over the data [default: 1 for lora, 3 for full]
    #[arg(long)]
    epochs: Option<usize>,
    /// Texts a step [default: 32 for lora, 16 for full]
    #[arg(long)]
    batch: Option<usize>,
    /// Decoupled weight decay
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f32,
    /// Share of the steps in which the learning rate rises
    #[arg(long, default_value_t = 0.06)]
    warmup: f64,
    /// Tokens of a text in training; a longer one is cut
    #[arg(long, default_value_t = 64)]
    train_length: usize,
    /// Tokens of a text when the SLM is served
    #[arg(long, default_value_t = 128)]
    max_length: usize,
    /// Weigh each label by the inverse of its share of the texts
    #[arg(long)]
    class_weights: bool,
    /// Share of values dropped in the trained layers
    #[arg(long, default_value_t = 0.1)]
    dropout: f64,
    /// A packed SLM of the same task to learn from besides the labels (see `autoannotator pack`)
    #[arg(long, value_name = "ID")]
    teacher: Option<String>,
    /// A CSV file of whose texts the teacher gives the labels, or FILE=FRACTION; may be given more than once
    #[arg(long, value_name = "FILE[=FRACTION]", requires = "teacher")]
    unlabelled: Vec<DataFile>,
    /// Share of the target that the teacher makes up
    #[arg(long, default_value_t = 0.5, requires = "teacher")]
    teacher_weight: f32,
    /// Share of the way from the base to what was trained; less than 1 keeps more of the base for texts of another kind
    #[arg(long, default_value_t = 1.0)]
    interpolation: f32,
    /// Evaluations an epoch
    #[arg(long, default_value_t = 4)]
    evaluations: usize,
    /// Stop after so many evaluations without a better one
    #[arg(long, default_value_t = 4)]
    patience: usize,
    /// Seed of every choice by chance
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What trains: cpu; or wgpu (the adapter that wgpu prefers), wgpu:N (a discrete GPU by its number) in a build with gpu-burn
    #[arg(long, default_value = "cpu")]
    device: Backend,
    /// The data home [default: $AUTOANNOTATOR_HOME, or the platform's cache folder]
    #[arg(long)]
    home: Option<PathBuf>,
    /// Start anew even if there is a checkpoint
    #[arg(long)]
    fresh: bool,
}

pub(super) fn parse_method(text: &str) -> Result<Method, String> {
    match text {
        "lora" => Ok(Method::Lora),
        "full" => Ok(Method::Full),
        _ => Err("expected lora or full".to_owned()),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let task = Task::built_in(&args.task)?;
    let progress = super::bar()?;
    let home = Home::find(args.home.as_deref())?;
    let base = load_base(&args.base, &home, &progress)?;
    let full = args.method == Method::Full;
    let options = Options {
        id: args.id,
        method: args.method,
        rank: args.rank,
        alpha: args.alpha.unwrap_or(2.0 * args.rank as f32),
        embedding_rank: args.embedding_rank,
        layers: args.layers.unwrap_or(base.weights.config.num_hidden_layers),
        lr: args.lr.unwrap_or(if full { 2e-5 } else { 5e-4 }),
        epochs: args.epochs.unwrap_or(if full { 3 } else { 1 }),
        batch: args.batch.unwrap_or(if full { 16 } else { 32 }),
        weight_decay: args.weight_decay,
        warmup: args.warmup,
        train_length: args.train_length,
        max_length: args.max_length,
        class_weights: args.class_weights,
        dropout: args.dropout,
        teacher_weight: if args.teacher.is_some() { args.teacher_weight } else { 0.0 },
        interpolation: args.interpolation,
        choice: Choice::MacroF1,
        evaluations: args.evaluations,
        patience: args.patience,
        seed: args.seed,
    };
    let places = Places {
        data: args.data,
        unlabelled: args.unlabelled,
        validation: args.validation,
        transfer: args.transfer,
        columns: Columns { text: args.text_column, label: args.label_column },
        out: args.out,
        running: Running {
            backend: args.device,
            scratch: home.path().join("train").join(&options.id),
            fresh: args.fresh,
            checkpoint_every: Duration::from_secs(300),
            stop_after: None,
        },
    };
    let teacher = args.teacher.map(|id| load_teacher(&id, &home)).transpose()?;
    let figures = train(&task, base, teacher, &options, &places, &progress)?;
    progress.finish_and_clear();
    println!(
        "{}: accuracy {:.2}, macro-F1 {:.2} on {}; written to {}",
        options.id,
        figures.accuracy * 100.0,
        figures.macro_f1 * 100.0,
        places.validation.display(),
        places.out.display()
    );
    Ok(())
}

pub(super) fn load_teacher(id: &str, home: &Home) -> anyhow::Result<Teacher> {
    let slm = hub::packing::load(home, id, "int8", rayon::current_num_threads())?;
    Ok(Teacher { name: format!("{id} {}", slm.version()), slm, folder: home.path().join("train").join("teacher") })
}

fn load_base(id: &str, home: &Home, progress: &ProgressBar) -> anyhow::Result<BaseModel> {
    let base = hub::base(id, home, progress)?;
    let weights = base.weights()?;
    Ok(BaseModel { id: base.id, sha256: base.tensors_sha256, tokenizer_json: base.tokenizer_json, weights })
}
