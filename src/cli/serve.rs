//! `autoannotator serve`.

/// Serves the page, the packed SLMs and the review proxy.
#[derive(clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
