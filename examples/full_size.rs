//! What the six models of the paper take at full size: time to load, memory, milliseconds a text, and how far the logits
//! are from the original implementation's. Their weights are random, their shapes those that the hub publishes:
//! `python tests/reference/architectures.py --full FOLDER` writes them.
//!
//!     cargo run --release --example full_size -- FOLDER

use autoannotator::slm::cpu::{CpuEncoder, CpuEngine};
use autoannotator::slm::hub;
use autoannotator::slm::pack::{self, PackedSlm, PackedWeights, Precision, Unpacker};
use autoannotator::slm::{Batch, Engine};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Texts that are timed, and their length in tokens: a short message.
const TEXTS: usize = 64;
const TOKENS: usize = 32;

#[derive(Deserialize)]
struct Expected {
    texts: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
}

/// What one model in one precision took.
#[derive(Serialize, Deserialize)]
struct Taken {
    file_mb: f64,
    load_s: f64,
    resident_mb: f64,
    peak_mb: f64,
    ms_one_thread: f64,
    ms_all_threads: f64,
    farthest: f32,
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--pack", folder] => pack_int8(Path::new(folder)),
        ["--one", folder, precision] => {
            println!("{}", serde_json::to_string(&measure(Path::new(folder), precision.parse()?)?)?);
            Ok(())
        }
        [folder] => table(Path::new(folder)),
        _ => Err("expected the folder that architectures.py --full wrote".into()),
    }
}

/// Each model in a process of its own, so that its memory can be told.
fn table(folder: &Path) -> Outcome<()> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Outcome<_>>()?;
    folders.sort();
    println!(
        "| model | precision | file | load | resident | peak | ms a text, 1 thread | all threads | logits off by |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for folder in folders.iter().filter(|folder| folder.join("config.json").exists()) {
        own(&["--pack", &folder.display().to_string()])?;
        for precision in ["f32", "int8"] {
            let output = own(&["--one", &folder.display().to_string(), precision])?;
            let Taken { file_mb, load_s, resident_mb, peak_mb, ms_one_thread, ms_all_threads, farthest } =
                serde_json::from_slice(&output)?;
            let name = folder.file_name().unwrap_or_default().to_string_lossy().replace("--", "/");
            println!(
                "| {name} | {precision} | {file_mb:.0} MB | {load_s:.2} s | {resident_mb:.0} MB | {peak_mb:.0} MB | {ms_one_thread:.1} | {ms_all_threads:.1} | {farthest:.1e} |"
            );
        }
    }
    Ok(())
}

fn own(arguments: &[&str]) -> Outcome<Vec<u8>> {
    let output = Command::new(std::env::current_exe()?).args(arguments).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(output.stdout)
}

fn from_hub(folder: &Path) -> Outcome<PackedSlm> {
    let config = std::fs::read(folder.join("config.json"))?;
    let weights = std::fs::read(folder.join("model.safetensors"))?;
    Ok(hub::read(&config, &weights, ("full-size", "sentiment"), 512)?)
}

/// Packs a model in int8 as a browser downloads it, beside its weights.
fn pack_int8(folder: &Path) -> Outcome<()> {
    let PackedSlm { mut meta, weights, head } = from_hub(folder)?;
    let PackedWeights::F32(weights) = weights else { return Err("the hub's weights are in f32".into()) };
    meta.precision = Precision::Int8;
    let packed = pack::write(&meta, &PackedWeights::Int8(weights.quantize()), &head)?;
    Ok(std::fs::write(folder.join("packed.safetensors"), packed)?)
}

fn measure(folder: &Path, precision: Precision) -> Outcome<Taken> {
    let start = Instant::now();
    let (packed, file) = match precision {
        Precision::Int8 => {
            let file = folder.join("packed.safetensors");
            let mut unpacker = Unpacker::new("packed.safetensors");
            let mut reader = std::io::BufReader::with_capacity(1 << 20, std::fs::File::open(&file)?);
            loop {
                let bytes = std::io::BufRead::fill_buf(&mut reader)?;
                if bytes.is_empty() {
                    break;
                }
                let read = bytes.len();
                unpacker.push(bytes)?;
                std::io::BufRead::consume(&mut reader, read);
            }
            (unpacker.finish()?, file)
        }
        _ => (from_hub(folder)?, folder.join("model.safetensors")),
    };
    let PackedSlm { weights, head, .. } = packed;
    let encoder = match weights {
        PackedWeights::F32(weights) => CpuEncoder::from_weights(weights),
        PackedWeights::Int8(weights) => CpuEncoder::from_int8(weights, None),
    };
    let vocabulary = encoder.config().vocab_size as u32;
    let mut engine = CpuEngine::from_encoder(encoder.threads(1), head);
    let load_s = start.elapsed().as_secs_f64();
    let resident_mb = memory("VmRSS")?;
    let expected: Expected = serde_json::from_slice(&std::fs::read(folder.join("logits.json"))?)?;
    let found = engine.logits(&Batch::new(expected.texts.iter().map(Vec::as_slice)))?;
    let off = found.iter().zip(expected.logits.concat()).map(|(a, b)| (a - b).abs());
    let farthest = off.fold(0.0, f32::max);
    let ids: Vec<Vec<u32>> = (0..TEXTS as u32)
        .map(|text| (0..TOKENS as u32).map(|token| (text * 7919 + token * 104_729) % vocabulary).collect())
        .collect();
    let batch = Batch::new(ids.iter().map(Vec::as_slice));
    let ms_one_thread = milliseconds(&mut engine, &batch)?;
    let mut engine = engine.threads(std::thread::available_parallelism()?.get());
    let ms_all_threads = milliseconds(&mut engine, &batch)?;
    let file_mb = std::fs::metadata(&file)?.len() as f64 / 1e6;
    Ok(Taken { file_mb, load_s, resident_mb, peak_mb: memory("VmHWM")?, ms_one_thread, ms_all_threads, farthest })
}

/// Of the best of three runs, a text.
fn milliseconds(engine: &mut CpuEngine, batch: &Batch) -> Outcome<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        engine.logits(batch)?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3 / TEXTS as f64);
    }
    Ok(best)
}

/// A line of Linux's account of this process, in megabytes.
fn memory(line: &str) -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')?.split_whitespace().next());
    Ok(found.ok_or("this system does not tell its memory")?.parse::<f64>()? * 1024.0 / 1e6)
}
