//! A teacher: an SLM whose probabilities others learn from. Its pass over the texts is kept on disk.

use super::{TuneError, io};
use crate::slm::adapter::sha256_hex;
use crate::slm::model::Slm;
use indicatif::ProgressBar;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

/// Texts that are voted on, and written, together.
const CHUNK: usize = 256;

/// An SLM to learn from.
pub struct Teacher {
    /// Its name and version, for the run record.
    pub name: String,
    /// The SLM, of the task's labels.
    pub slm: Slm,
    /// Where its passes are kept, for all that learn from it.
    pub folder: PathBuf,
}

impl Teacher {
    /// Its calibrated probabilities, `[texts x labels]`. They are read from its folder where an earlier pass over the same
    /// texts left them; a pass that was stopped goes on behind its last 256 texts.
    pub fn probabilities(&mut self, texts: &[String], progress: &ProgressBar) -> Result<Vec<f32>, TuneError> {
        let folder = &self.folder;
        let labels = self.slm.meta().labels.len();
        let path = folder.join(format!("{}.f32", self.key(texts)));
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        let bytes = if path.exists() { std::fs::read(&path).map_err(io(&path))? } else { Vec::new() };
        let mut all: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let done = (all.len() / labels).min(texts.len());
        let done = if done < texts.len() { done / CHUNK * CHUNK } else { done };
        all.truncate(done * labels);
        progress.set_length(texts.len() as u64);
        progress.set_position(done as u64);
        progress.set_message("teacher");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(io(&path))?;
        file.set_len(4 * all.len() as u64).map_err(io(&path))?;
        for chunk in texts[done..].chunks(CHUNK) {
            let rows = self.vote(chunk)?;
            write(&mut file, &rows).map_err(io(&path))?;
            all.extend(rows);
            progress.inc(chunk.len() as u64);
        }
        Ok(all)
    }

    fn vote(&mut self, texts: &[String]) -> Result<Vec<f32>, TuneError> {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Ok(pollster::block_on(self.slm.vote(&texts))?.into_iter().flat_map(|vote| vote.probabilities).collect())
    }

    fn key(&self, texts: &[String]) -> String {
        let mut bytes = format!("{} {} ", self.slm.version(), self.slm.precision()).into_bytes();
        for text in texts {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        sha256_hex(&bytes)
    }
}

fn write(file: &mut File, values: &[f32]) -> std::io::Result<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    file.write_all(&bytes)
}
