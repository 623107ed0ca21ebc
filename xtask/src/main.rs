//! The builds that cargo alone cannot do: `cargo xtask wasm`, `cargo xtask builds`, `cargo xtask licences`, `cargo xtask
//! evaluate`, `cargo xtask demo-controller`, `cargo xtask fuzz`.

mod builds;
mod demo;
mod evaluate;
mod factory;
mod fuzz;
mod licences;
mod wasm;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::Command;

/// Builds and checks of the autoannotator workspace.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds the wasm modules and their JavaScript into `pkg/wasm/<variant>`.
    Wasm {
        /// The variant to build; the usual ones where none is named.
        #[arg(long, value_parser = wasm::VARIANTS.map(|variant| variant.name))]
        variant: Option<String>,
    },
    /// Compiles every named build of the crate.
    Builds,
    /// Checks that every dependency's licence is an allowed one.
    Licences,
    /// Runs the paper's protocol on public sets and prints what it came to.
    Evaluate(evaluate::Args),
    /// Runs the meta-controller's whole way with a stub LLM and a local hub.
    DemoController(demo::Args),
    /// Runs the fuzz targets.
    Fuzz(fuzz::Args),
    /// Runs clippy over the wasm library, warnings denied.
    ClippyWasm,
}

fn main() -> Result<()> {
    match Args::parse().task {
        Task::Wasm { variant: Some(variant) } => wasm::build(wasm::variant(&variant)?),
        Task::Wasm { variant: None } => wasm::usual().try_for_each(wasm::build),
        Task::Builds => builds::all(),
        Task::Licences => licences::check(),
        Task::Evaluate(args) => evaluate::all(&args),
        Task::DemoController(args) => demo::run(&args),
        Task::Fuzz(args) => fuzz::all(&args),
        Task::ClippyWasm => builds::clippy_wasm(),
    }
}

/// The workspace's root folder.
fn root() -> Result<PathBuf> {
    // Asked at run time: a binary in a shared target folder may have been built from another clone.
    Ok(PathBuf::from(metadata(&["--no-deps"])?["workspace_root"].as_str().context("cargo metadata: no root")?))
}

/// `cargo metadata` with `args`.
fn metadata(args: &[&str]) -> Result<serde_json::Value> {
    let output = cargo()
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(args)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo metadata does not start")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end; its failure is an error that names it.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{:?} does not start", command.get_program()))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
