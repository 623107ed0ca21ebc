//! `autoannotator doctor`.

/// Says what is there, what is missing and how to get it.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
