//! `autoannotator token`.

use crate::serve::access::Scope;
use crate::slm::adapter::{hex, sha256_hex};
use anyhow::{Context, ensure};

/// Makes a token for a client of the server: shows it once, and the lines for the config file, which hold its hash.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator token annotators             may have texts reviewed and hand reviewed ones in
  autoannotator token ops --scope admin      may also start and stop rounds and read the metrics

A server on another address than a loopback one does not start without tokens.")]
pub(super) struct Args {
    /// The client's name, which budgets and the audit log go by
    name: String,
    /// What it may do: review or admin
    #[arg(long, default_value = "review", value_parser = scope)]
    scope: Scope,
}

fn scope(name: &str) -> Result<Scope, String> {
    match name {
        "review" => Ok(Scope::Review),
        "admin" => Ok(Scope::Admin),
        other => Err(format!("'{other}' is no scope; expected review or admin")),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    ensure!(
        !args.name.is_empty() && args.name.bytes().all(plain),
        "a name is made of letters, digits, '-', '_' and '.'"
    );
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .context("this machine gives no randomness")?;
    let token = format!("aa-{}", hex(&bytes));
    let scope = match args.scope {
        Scope::Review => "review",
        Scope::Admin => "admin",
    };
    println!("{token}");
    eprintln!("\nIt is not shown again. For the config file of `autoannotator serve --config`:\n");
    eprintln!(
        "[[tokens]]\nname = \"{}\"\nsha256 = \"{}\"\nscopes = [\"{scope}\"]",
        args.name,
        sha256_hex(token.as_bytes())
    );
    Ok(())
}
