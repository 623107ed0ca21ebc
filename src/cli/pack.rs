//! `autoannotator pack`.

use crate::hub::packing::{self, HubFolder};
use crate::hub::{Home, models_dir};
use crate::slm::pack::Precision;
use indicatif::{HumanBytes, ProgressBar};
use std::path::PathBuf;

/// Packs SLMs into what `annotate` loads and a browser downloads.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  autoannotator pack                             every SLM in models/ (bases are pulled where they are missing)
  autoannotator pack sentiment-minilm-l3         one SLM
  autoannotator pack --precision f32             without rounding, at twice the size of f16
  autoannotator pack --hub-folder ./my-roberta --task sentiment --precision int8
                                                 a classifier of the Hugging Face hub with its own head: a folder with
                                                 config.json, model.safetensors and tokenizer.json

An SLM whose files have not changed is left as it is. Earlier versions are kept: a server may be serving them.")]
pub(super) struct Args {
    /// Ids of SLMs; none means all in models/.
    slms: Vec<String>,
    /// A classifier of the hub, as a folder in the hub's layout, instead of the SLMs in models/.
    #[arg(long, conflicts_with_all = ["slms", "models"], requires = "task")]
    hub_folder: Option<PathBuf>,
    /// The task of that classifier.
    #[arg(long, requires = "hub_folder")]
    task: Option<String>,
    /// The id of that classifier [default: the folder's name].
    #[arg(long, requires = "hub_folder")]
    id: Option<String>,
    /// The longest text of that classifier in tokens, cut to what it takes.
    #[arg(long, default_value_t = 512)]
    max_length: usize,
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
    let bar = ProgressBar::new_spinner();
    let packed = match hub_folder(&args)? {
        Some(folder) => packing::pack_hub_folder(&folder, &args.precision, &home, &bar)?,
        None => {
            let models = models_dir(args.models.as_deref())?;
            let packed = packing::pack(&models, &args.slms, &args.precision, &home, &bar)?;
            if packed.is_empty() {
                let place = models.display();
                anyhow::bail!("{place} holds no SLM (a folder with slm.toml); train one with `autoannotator train`");
            }
            packed
        }
    };
    bar.finish_and_clear();
    for slm in packed {
        let state = if slm.written { "packed" } else { "unchanged" };
        let slm = slm.manifest;
        let (size, precision) = (HumanBytes(slm.bytes), slm.precision.name());
        println!("{} {precision} {}: {state}, {size} in {} shards", slm.id, slm.version, slm.shards.len());
    }
    println!("in {}", home.packed().display());
    Ok(())
}

fn hub_folder(args: &Args) -> anyhow::Result<Option<HubFolder>> {
    let Some(path) = args.hub_folder.clone() else { return Ok(None) };
    let name = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let Some(id) = args.id.clone().or(name) else {
        anyhow::bail!("{} is not a folder whose name can be an id; give --id", path.display());
    };
    let task = args.task.clone().unwrap_or_default();
    Ok(Some(HubFolder { path, id, task, max_length: args.max_length }))
}
