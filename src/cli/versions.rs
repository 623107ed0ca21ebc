//! `autoannotator versions`.

use super::tune::line;
use crate::hub::packing::{Folder, folders, pack};
use crate::hub::{Home, models_dir, versions};
use crate::slm::pack::Precision;
use crate::tune::pool::{Pool, Round};
use anyhow::Context;
use indicatif::ProgressBar;
use std::path::{Path, PathBuf};

/// Lists the versions that rounds brought the SLMs to, and the rounds, or goes back to an earlier version.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator versions                                     all SLMs with their versions, and all rounds
  autoannotator versions --roll-back sentiment-minilm-l3     the version before the current one
  autoannotator versions --roll-back sentiment-minilm-l3 --to 0     as it was before all rounds

Of each SLM its versions are listed, with what the gate found, and a star at the one that is served. Below them stands
every round that was held to its end: its number and day, its samples, the reviews that it left out since all SLMs
contradict them or another review overrules them, and of each SLM whether it was promoted, or why not.

Version 0 is the SLM in models/. No version is ever removed. One that was made while somebody went back to another is
listed, but not served; --roll-back with --to takes it.")]
pub(super) struct Args {
    /// Make an earlier version of this SLM the current one, and pack it
    #[arg(long, value_name = "SLM")]
    roll_back: Option<String>,
    /// The version to go back to [default: the one that the current one came from]
    #[arg(long, requires = "roll_back")]
    to: Option<usize>,
    /// The pool's file, which the rounds were held on [default: pool.db in the data home]
    #[arg(long)]
    pool: Option<PathBuf>,
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
        list(folder, &home)?;
    }
    rounds(args.pool.as_deref(), &home)?.iter().for_each(tell);
    Ok(())
}

/// An SLM's versions.
fn list(folder: &Folder, home: &Home) -> anyhow::Result<()> {
    let found = versions::read(home, &folder.slm)?;
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
    Ok(())
}

/// All rounds that the pool knows of.
fn rounds(pool: Option<&Path>, home: &Home) -> anyhow::Result<Vec<Round>> {
    let path = pool.map_or_else(|| home.store(), Path::to_owned);
    // To open it would make it.
    if path.exists() { Ok(Pool::open(&path)?.rounds()?) } else { Ok(Vec::new()) }
}

fn tell(round: &Round) {
    let draw = round.draw.map(|draw| format!(": {draw}")).unwrap_or_default();
    println!("round {} of {}, {}{draw}", round.number, round.task, round.date);
    round.reports.iter().for_each(|report| println!("  {}", line(report)));
}
