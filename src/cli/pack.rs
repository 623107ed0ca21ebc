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
  autoannotator pack --precision f32             without rounding, at twice the size

An SLM whose files have not changed is left as it is. Earlier versions are kept: a server may be serving them.")]
pub(super) struct Args {
    /// Ids of SLMs; none means all in models/.
    slms: Vec<String>,
    /// How the numbers are stored: f16 or f32.
    #[arg(long, default_value = "f16", value_parser = precision)]
    precision: Precision,
    /// The folder with one folder an SLM [default: $AUTOANNOTATOR_MODELS, or models/ here or above].
    #[arg(long)]
    models: Option<PathBuf>,
    /// The folder for what is written [default: $AUTOANNOTATOR_HOME or the platform's cache folder].
    #[arg(long)]
    home: Option<PathBuf>,
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "f16" => Ok(Precision::F16),
        "f32" => Ok(Precision::F32),
        _ => Err("expected f16 or f32".to_owned()),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let home = Home::find(args.home.as_deref())?;
    let models = models_dir(args.models.as_deref())?;
    let bar = ProgressBar::new_spinner();
    let packed = packing::pack(&models, &args.slms, args.precision, &home, &bar)?;
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
        println!("{} {}: {state}, {} in {} shards", slm.id, slm.version, HumanBytes(slm.bytes), slm.shards.len());
    }
    println!("in {}", home.packed().display());
    Ok(())
}
