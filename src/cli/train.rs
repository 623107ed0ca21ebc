//! `autoannotator train`.

/// Trains a head and an adapter on a labelled file.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
