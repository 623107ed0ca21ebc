//! `autoannotator pack`.

use crate::hub::{Home, models_dir, packing};
use crate::slm::pack::Precision;
use indicatif::{HumanBytes, ProgressBar};
use std::path::PathBuf;

/// Packs SLMs into what `annotate` loads and a browser downloads.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  autoannotator pack                             every SLM in models/ (bases are pulled where they are missing)
  autoannotator pack sentiment-minilm-l3         one SLM
  autoannotator pack --precision f32             without rounding, at twice the size of f16

An SLM whose files have not changed is left as it is. Earlier versions are kept: a server may be serving them.")]
pub(super) struct Args {
    /// Ids of SLMs; none means all in models/.
    slms: Vec<String>,
    /// How the numbers are stored: int8 (which computes in int8), f16 or f32 (which compute in f32); several by commas.
    #[arg(long, default_value = "int8,f16", value_delimiter = ',')]
    precision: Vec<Precision>,
    /// The folder with one folder an SLM [default: $AUTOANNOTATOR_MODELS, or models/ here or above].
    #[arg(long)]
    models: Option<PathBuf>,
    /// The folder for what is written [default: $AUTOANNOTATOR_HOME or the platform's cache folder].
    #[arg(long)]
    home: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let home = Home::find(args.home.as_deref())?;
    let models = models_dir(args.models.as_deref())?;
    let bar = ProgressBar::new_spinner();
    let packed = packing::pack(&models, &args.slms, &args.precision, &home, &bar)?;
    bar.finish_and_clear();
    if packed.is_empty() {
        anyhow::bail!(
            "{} holds no SLM (a folder with slm.toml); train one with `autoannotator train`",
            models.display()
        );
    }
    for slm in packed {
        let state = if slm.written { "packed" } else { "unchanged" };
        let slm = slm.manifest;
        let (size, precision) = (HumanBytes(slm.bytes), slm.precision.name());
        println!("{} {precision} {}: {state}, {size} in {} shards", slm.id, slm.version, slm.shards.len());
    }
    println!("in {}", home.packed().display());
    Ok(())
}
