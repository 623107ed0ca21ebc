//! `autoannotator pull`.

/// Brings base weights into the cache.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
