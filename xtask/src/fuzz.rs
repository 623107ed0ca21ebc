//! Runs the fuzz targets of `fuzz/` on the stable compiler: libFuzzer with coverage, without a sanitizer.

use crate::{cargo, root, run};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// How to fuzz.
#[derive(clap::Args)]
pub struct Args {
    /// One target; all where none is named
    #[arg(long)]
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Where what was found interesting is kept, a folder a target
    #[arg(long)]
    corpus: PathBuf,
    /// Where it is built
    #[arg(long)]
    build: PathBuf,
    /// A file that crashed a target, to run again
    #[arg(long, requires = "target")]
    again: Option<PathBuf>,
}

/// A target, the most bytes of its inputs, and the folders of this repository whose files it starts from.
const TARGETS: [(&str, u32, &[&str]); 6] = [
    ("packed", 1 << 16, &[]),
    ("redaction", 1 << 11, &["tests/redaction", "tests/injection"]),
    ("reply", 1 << 12, &["../shared/llm/replies"]),
    ("rows", 1 << 13, &["www/public", "tests/redaction"]),
    ("spec", 1 << 13, &["examples"]),
    ("tokenizer", 1 << 15, &["tests/reference"]),
];

/// What cargo-fuzz has the compiler do, without what is for the nightly one.
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// Builds the targets and runs each for its time. The first that crashes is an error that says how to run it again.
pub fn all(args: &Args) -> Result<()> {
    let root = root()?;
    let known = TARGETS.map(|(name, ..)| name);
    if let Some(name) = args.target.as_deref().filter(|name| !known.contains(name)) {
        bail!("there is no fuzz target {name}, but {}", known.join(", "));
    }
    let triple = host()?;
    run(cargo()
        .args(["build", "--release", "--locked", "--bins", "--target", &triple, "--manifest-path"])
        .arg(root.join("fuzz/Cargo.toml"))
        .arg("--target-dir")
        .arg(&args.build)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}")))?;
    for target in TARGETS.iter().filter(|(name, ..)| args.target.as_deref().is_none_or(|only| only == *name)) {
        let binary = args.build.join(&triple).join("release").join(target.0);
        match &args.again {
            Some(file) => run(Command::new(binary).arg(file))?,
            None => one(args, &root, &binary, target)?,
        }
    }
    Ok(())
}

fn one(args: &Args, root: &Path, binary: &Path, (name, longest, seeds): &(&str, u32, &[&str])) -> Result<()> {
    let corpus = args.corpus.join(name);
    let crashes = args.build.join("crashes").join(name);
    for folder in [&corpus, &crashes] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    if *name == "packed" {
        pack_tiny(root, &corpus)?;
    }
    println!("== {name}, {} s", args.seconds);
    run(Command::new(binary)
        .arg(&corpus)
        .args(seeds.iter().map(|seed| root.join(seed)).filter(|seed| seed.exists()))
        .args([format!("-max_total_time={}", args.seconds), format!("-max_len={longest}")])
        .args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"])
        .arg(format!("-artifact_prefix={}/", crashes.display())))
    .with_context(|| format!("{name} crashed; cargo xtask fuzz --target {name} --again FILE runs it again"))
}

/// The tiny models of tests/reference as packed SLMs, to start from.
fn pack_tiny(root: &Path, corpus: &Path) -> Result<()> {
    let script = "const [folder, module] = process.argv.slice(1); const { cases, pack } = await import(module); \
                  const { writeFileSync } = await import('node:fs'); \
                  for (const one of cases.filter(({ head }) => head)) writeFileSync(`${folder}/${one.model}`, pack(one));";
    let module = root.join("wasm-tests/reference.mjs");
    run(Command::new("node").args(["--input-type=module", "--eval", script]).arg(corpus).arg(module))
}

/// The triple of this machine, as rustc names it.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("rustc does not start")?;
    let said = String::from_utf8(output.stdout)?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}
