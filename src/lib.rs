//! autoannotator: an ensemble of small language models labels text where the text is.
//!
//! A text flows one way, with one record type an arrow:
//! [`Sample`] -> [`Vote`] x k -> [`Verdict`] -> [`Review`] -> [`Annotation`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`task`] | tasks and their labels |
//! | [`sample`] | the records that flow |
//! | [`spec`] | `annotator.toml`, the declarative pipeline |
//! | [`data`] | readers and writers of labelled files, streaming |
//! | [`slm`] | one small language model: config, tokenizer, weights, engines |
//! | [`vote`] | consensus rules |
//! | [`review`] | prompt, reply parsing, redaction, the review protocol and its client |
//! | [`annotate`](mod@annotate) | the run: batches, progress, journal and resume, report |
//! | `hub`, `tune`, `controller`, `serve`, `cli` | native only: base weights and packing, training, projects from a spec, the server, the command line |
//! | `web` | wasm only: the wasm-bindgen surface |
//!
//! The core does no I/O: bytes, clocks and HTTP come in through arguments or small traits.

pub mod annotate;
pub mod data;
pub mod review;
pub mod sample;
pub mod slm;
pub mod spec;
pub mod task;
pub mod vote;

#[cfg(feature = "native")]
pub mod cli;
#[cfg(feature = "native")]
pub mod controller;
#[cfg(feature = "native")]
pub mod hub;
#[cfg(feature = "native")]
pub mod serve;
#[cfg(feature = "native")]
pub mod tune;

#[cfg(target_arch = "wasm32")]
pub mod web;

pub use sample::{Annotation, Review, ReviewedBy, Sample, Source, Verdict, Vote};
pub use spec::Spec;
pub use task::{Label, LabelSet, Task};
