//! Training, of heads and adapters on labelled files, and rounds: the pool of reviewed hard samples, what is trained on it,
//! the gate, and the evaluation that says what it is worth. Native only.

pub mod activations;
pub mod agreement;
pub mod charts;
pub mod dataset;
pub mod evaluate;
pub mod event;
pub mod gate;
pub mod metrics;
pub mod pool;
pub mod round;
pub mod teacher;
pub mod train;

use std::path::PathBuf;
use thiserror::Error;

/// What can go wrong in training.
#[derive(Debug, Error)]
pub enum TuneError {
    /// A file cannot be read or written.
    #[error("tune-io: {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A labelled file cannot be used.
    #[error("tune-data: {path}: {problem}")]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The options do not fit each other or the model.
    #[error("tune-options: {0}")]
    Options(String),
    /// A checkpoint does not belong to this training, or cannot be read.
    #[error("tune-checkpoint: {path}: {problem}; give --fresh to start anew")]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The pool's file.
    #[error(transparent)]
    PoolFile(#[from] pool::PoolError),
    /// A pool that no round can be held on.
    #[error("tune-pool: {0}")]
    Pool(String),
    /// The loss is no longer a number.
    #[error("tune-diverged: the loss became {loss} at step {step}; lower --lr")]
    Diverged {
        /// The loss.
        loss: f32,
        /// The step.
        step: usize,
    },
    /// Training was told to stop; a checkpoint is there.
    #[error("tune-stopped: stopped at step {step}; the same command goes on from there")]
    Stopped {
        /// The step.
        step: usize,
    },
    /// The model or its input.
    #[error(transparent)]
    Slm(#[from] crate::slm::SlmError),
}

/// Names the file in an I/O error.
fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> TuneError {
    let path = path.into();
    move |source| TuneError::Io { path, source }
}
