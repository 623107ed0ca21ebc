//! The output of the frozen layers, computed once and kept in f16: on disk for a training, in memory for rounds.

use super::{TuneError, io};
use crate::slm::adapter::sha256_hex;
use crate::slm::cpu::CpuEncoder;
use crate::slm::weights::EncoderWeights;
use crate::slm::{Batch, plan_batches};
use half::f16;
use half::slice::HalfFloatSliceExt;
use indicatif::ProgressBar;
use memmap2::Mmap;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Tokens a batch of the frozen layers.
const TOKENS: usize = 4096;

/// Hidden states of texts after the frozen layers, `[tokens x hidden]` a text.
pub enum Activations {
    /// Mapped from a file; with the first value of each text, and the end.
    File(Mmap, Vec<usize>),
    /// In memory.
    Memory(Vec<Arc<[f16]>>),
}

/// The lower layers of an SLM, which no round trains and all its versions share, and their output of each text met so far.
pub struct Frozen {
    encoder: CpuEncoder,
    layers: usize,
    states: HashMap<Vec<u32>, Arc<[f16]>>,
}

impl Frozen {
    /// The first `layers` layers.
    pub fn new(weights: &EncoderWeights, layers: usize) -> Self {
        Self { encoder: CpuEncoder::lower(weights, layers), layers, states: HashMap::new() }
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Their output of texts, computed where it is not yet known.
    pub fn activations(&mut self, texts: &[Vec<u32>], progress: &ProgressBar) -> Result<Activations, TuneError> {
        let mut new: Vec<&Vec<u32>> = texts.iter().filter(|ids| !self.states.contains_key(*ids)).collect();
        new.sort_unstable();
        new.dedup();
        let lengths: Vec<usize> = new.iter().map(|ids| ids.len()).collect();
        let told = self.layers > 0 && new.len() > 1000;
        if told {
            progress.set_length(new.len() as u64);
            progress.set_position(0);
            progress.set_message("frozen layers");
        }
        for group in plan_batches(&lengths, TOKENS, usize::MAX) {
            let batch = Batch::new(group.iter().map(|text| new[*text].as_slice()));
            let mut hidden = &self.encoder.hidden(&batch, self.layers)?[..];
            let width = hidden.len() / batch.ids.len();
            for text in &group {
                let (own, others) = hidden.split_at(lengths[*text] * width);
                let mut values = vec![f16::ZERO; own.len()];
                values.convert_from_f32_slice(own);
                self.states.insert(new[*text].clone(), values.into());
                hidden = others;
            }
            if told {
                progress.inc(group.len() as u64);
            }
        }
        Ok(Activations::Memory(texts.iter().filter_map(|ids| self.states.get(ids).cloned()).collect()))
    }
}

impl Activations {
    /// Computes them, or finds them in `folder` under a hash of the base, the depth and the token ids.
    pub fn new(
        folder: &Path,
        base_sha256: &str,
        weights: &EncoderWeights,
        frozen_layers: usize,
        texts: &[Vec<u32>],
        progress: &ProgressBar,
    ) -> Result<Self, TuneError> {
        let width = weights.config.hidden_size;
        let path = folder.join(format!("{}.f16", key(base_sha256, frozen_layers, texts)));
        let mut starts = vec![0];
        for ids in texts {
            starts.push(starts[starts.len() - 1] + ids.len() * width);
        }
        let size = starts[starts.len() - 1] * size_of::<f16>();
        if std::fs::metadata(&path).map(|meta| meta.len()).ok() != Some(size as u64) {
            std::fs::create_dir_all(folder).map_err(io(folder))?;
            compute(&path, weights, frozen_layers, texts, &starts, progress)?;
        }
        let file = File::open(&path).map_err(io(&path))?;
        // SAFETY: the file is named by its content's key, written once and renamed into place; nothing changes it after.
        let map = unsafe { Mmap::map(&file) }.map_err(io(&path))?;
        Ok(Self::File(map, starts))
    }

    /// The hidden states of some texts, end to end, as f32.
    pub fn gather(&self, texts: &[usize]) -> Vec<f32> {
        let mut all = Vec::new();
        for text in texts {
            match self {
                Self::File(map, starts) => {
                    let bytes = &map[starts[*text] * 2..starts[text + 1] * 2];
                    all.extend(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()));
                }
                Self::Memory(states) => {
                    let from = all.len();
                    all.resize(from + states[*text].len(), 0.0);
                    states[*text].convert_to_f32_slice(&mut all[from..]);
                }
            }
        }
        all
    }
}

fn key(base_sha256: &str, frozen_layers: usize, texts: &[Vec<u32>]) -> String {
    let mut bytes = format!("{base_sha256} {frozen_layers} ").into_bytes();
    for ids in texts {
        bytes.extend((ids.len() as u32).to_le_bytes());
        bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    }
    sha256_hex(&bytes)
}

/// Texts run in order of length and are written in theirs; the file appears under its name only when it is whole.
fn compute(
    path: &PathBuf,
    weights: &EncoderWeights,
    frozen_layers: usize,
    texts: &[Vec<u32>],
    starts: &[usize],
    progress: &ProgressBar,
) -> Result<(), TuneError> {
    let mut encoder = CpuEncoder::new(weights);
    let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
    let mut values = vec![f16::ZERO; starts[starts.len() - 1]];
    progress.set_length(texts.len() as u64);
    progress.set_message("frozen layers");
    for group in plan_batches(&lengths, TOKENS, usize::MAX) {
        let hidden = encoder.hidden(&Batch::new(group.iter().map(|text| texts[*text].as_slice())), frozen_layers)?;
        let mut from = 0;
        for text in &group {
            let target = &mut values[starts[*text]..starts[text + 1]];
            target.convert_from_f32_slice(&hidden[from..from + target.len()]);
            from += target.len();
        }
        progress.inc(group.len() as u64);
    }
    let partial = path.with_extension("partial");
    let mut file = BufWriter::new(File::create(&partial).map_err(io(&partial))?);
    for value in values {
        file.write_all(&value.to_le_bytes()).map_err(io(&partial))?;
    }
    file.into_inner().map_err(|e| e.into_error()).and_then(|file| file.sync_all()).map_err(io(&partial))?;
    std::fs::rename(&partial, path).map_err(io(path))
}
