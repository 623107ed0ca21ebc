//! `autoannotator versions`.

use crate::hub::packing::{folders, pack};
use crate::hub::{Home, models_dir, versions};
use crate::slm::pack::Precision;
use anyhow::Context;
use indicatif::ProgressBar;
use std::path::PathBuf;

/// Lists the versions that rounds brought the SLMs to, or goes back to an earlier one.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator versions                                     all SLMs, what each round found, and which version is served
  autoannotator versions --roll-back sentiment-minilm-l3     the version before the current one
  autoannotator versions --roll-back sentiment-minilm-l3 --to 0     as it was before all rounds

Version 0 is the SLM in models/. No version is ever removed.")]
pub(super) struct Args {
    /// Make an earlier version of this SLM the current one, and pack it
    #[arg(long, value_name = "SLM")]
    roll_back: Option<String>,
    /// The version to go back to [default: the one that the current one came from]
    #[arg(long, requires = "roll_back")]
    to: Option<usize>,
    /// The folder with one folder an SLM [default: $AUTOANNOTATOR_MODELS, or models/ here or above]
    #[arg(long)]
    models: Option<PathBuf>,
    /// The data home [default: $AUTOANNOTATOR_HOME, or the platform's cache folder]
    #[arg(long)]
    home: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (home, models) = (Home::find(args.home.as_deref())?, models_dir(args.models.as_deref())?);
    let all = folders(&models)?;
    if let Some(id) = args.roll_back {
        let known = || all.iter().map(|folder| folder.slm.id.as_str()).collect::<Vec<_>>().join(", ");
        let folder = all.iter().find(|folder| folder.slm.id == id);
        let folder = folder.with_context(|| format!("there is no SLM '{id}'; there are: {}", known()))?;
        let number = versions::roll_back(&home, &folder.slm, args.to)?;
        let bar = ProgressBar::new_spinner();
        pack(&models, std::slice::from_ref(&id), &[Precision::Int8, Precision::F16], &home, &bar)?;
        bar.finish_and_clear();
        println!("{id} is at version {number}, and packed");
        return Ok(());
    }
    for folder in &all {
        let found = versions::read(&home, &folder.slm)?;
        let mark = |number| if number == found.current { "*" } else { " " };
        println!("{}\n  {} 0  from models/", folder.slm.id, mark(0));
        for version in &found.all {
            let figure = |part: &str, when: &str| version.report[part][when].as_f64().map(|share| 100.0 * share);
            let pair = |part| figure(part, "before").zip(figure(part, "after"));
            let told = |name: &str, pair: Option<(f64, f64)>| {
                pair.map(|(before, after)| format!("; {name} {before:.1} to {after:.1} %")).unwrap_or_default()
            };
            println!(
                "  {} {}  from {}{}{}",
                mark(version.number),
                version.number,
                version.parent,
                told("gate", pair("gate")),
                told("anchor", pair("anchor"))
            );
        }
    }
    Ok(())
}
