//! The command line: parsing and calls, nothing else. One file a command.

mod annotate;
mod check;
mod cold_start;
mod device;
mod doctor;
mod estimate;
mod evaluate;
mod generate;
mod pack;
mod plan;
mod pool;
mod pull;
mod redteam;
mod reviewer;
mod serve;
mod store;
mod token;
mod train;
mod tune;
mod versions;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::process::ExitCode;

/// Labels text with an ensemble of small language models; only hard samples go to a reviewer.
#[derive(Parser)]
#[command(name = "autoannotator", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant, reason = "parsed once")]
enum Command {
    Pull(pull::Args),
    Pack(pack::Args),
    Train(train::Args),
    ColdStart(cold_start::Args),
    Estimate(estimate::Args),
    Plan(plan::Args),
    Annotate(annotate::Args),
    Check(check::Args),
    Pool(pool::Args),
    Tune(tune::Args),
    Versions(versions::Args),
    Evaluate(evaluate::Args),
    Generate(generate::Args),
    Serve(serve::Args),
    Store(store::Args),
    Token(token::Args),
    Redteam(redteam::Args),
    Reviewer(reviewer::Args),
    Doctor(doctor::Args),
}

/// Parses the command line, runs the command and reports an error the way a person can act on it.
pub fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn,autoannotator=info".into()),
        )
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    let command = Cli::parse().command;
    if !matches!(command, Command::Serve(_)) {
        end_with_the_reader();
    }
    let outcome = match command {
        Command::Pull(args) => pull::run(args),
        Command::Pack(args) => pack::run(args),
        Command::Train(args) => train::run(args),
        Command::ColdStart(args) => cold_start::run(args),
        Command::Estimate(args) => estimate::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Annotate(args) => annotate::run(args),
        Command::Check(args) => check::run(args),
        Command::Pool(args) => pool::run(args),
        Command::Tune(args) => tune::run(args),
        Command::Versions(args) => versions::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Store(args) => store::run(args),
        Command::Token(args) => token::run(args),
        Command::Redteam(args) => redteam::run(args),
        Command::Reviewer(args) => reviewer::run(args),
        Command::Doctor(args) => doctor::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever reads the output may stop, as `head` does. Then the program ends quietly, as others do; a server goes on.
fn end_with_the_reader() {
    #[cfg(unix)]
    // SAFETY: no handler of this process is replaced, and no other thread runs yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// The bar of a training: where it is, and what it says of itself.
fn bar() -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} (eta {eta}) {prefix}{msg}")?;
    Ok(ProgressBar::new(0).with_style(style))
}

/// Whether the person at the terminal agrees; without one, nobody does.
fn agreed(question: &str) -> anyhow::Result<bool> {
    use std::io::{IsTerminal, Write};
    if !std::io::stdin().is_terminal() {
        anyhow::bail!("{question} Nobody is here to answer; give --yes");
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// The task of this name, or of a spec in TOML or JSON.
fn task_of(name: Option<&str>, spec: Option<&std::path::Path>) -> anyhow::Result<crate::task::Task> {
    let Some(path) = spec else { return Ok(crate::task::Task::built_in(name.unwrap_or_default())?) };
    Ok(read_spec(path)?.task)
}

/// A spec in TOML or JSON.
fn read_spec(path: &std::path::Path) -> anyhow::Result<crate::spec::Spec> {
    use anyhow::Context;
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let spec = if json { crate::spec::Spec::from_json(&text) } else { crate::spec::Spec::from_toml(&text) };
    spec.with_context(|| path.display().to_string())
}
