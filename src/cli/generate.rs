//! `autoannotator generate`.

use crate::controller::generate::{self, Models, Package, Project, SpecFile, State};
use crate::hub::{Home, models_dir, packing};
use crate::slm::pack::Precision;
use crate::spec::Spec;
use anyhow::Context;
use indicatif::{HumanBytes, ProgressBar};
use std::path::{Path, PathBuf};

/// Writes a ready project for a spec: a labelling page, an edge worker, or a batch job.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator generate page --spec annotator.toml --out labelling
  autoannotator generate worker --spec annotator.toml --out edge --models https://models.example/packed/
  autoannotator generate cli --spec annotator.toml --out batch
  autoannotator generate page --spec annotator.toml --out labelling --dry-run

What is in DIR already and differs is not overwritten without --force. Nothing of a spec becomes code: its values are data.")]
pub(super) struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(clap::Subcommand)]
enum Kind {
    /// A labelling page (Vite, TypeScript) with the npm package: texts in, votes and hard samples, review by keyboard, export
    Page(Web),
    /// A Cloudflare worker that answers POST /annotate, with the models as static assets
    Worker(Web),
    /// A script that labels the files of a folder, with a systemd timer
    Cli(Batch),
}

#[derive(clap::Args)]
struct Common {
    /// The spec, in TOML or JSON.
    #[arg(long)]
    spec: PathBuf,
    /// The folder of the project.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Overwrite files of DIR that differ.
    #[arg(long)]
    force: bool,
    /// Say what would be written, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(clap::Args)]
struct Web {
    #[command(flatten)]
    common: Common,
    /// The packed models: a folder that `autoannotator pack` wrote, from which those of the spec are copied, or the address of
    /// one [default: they are packed, and copied].
    #[arg(long, value_name = "DIR|URL")]
    models: Option<String>,
    /// The npm package: a tarball that `npm pack` wrote, or a version [default: this program's].
    #[arg(long, value_name = "FILE|VERSION")]
    package: Option<String>,
    /// The folder for what is packed [default: $AUTOANNOTATOR_HOME or the platform's cache folder].
    #[arg(long)]
    home: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Batch {
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    match args.kind {
        Kind::Page(web) => {
            let (spec, models, package) = web.read()?;
            web.common.finish(&generate::page(&spec, &models, &package)?, "npm install && npm run dev")
        }
        Kind::Worker(web) => {
            let (spec, models, package) = web.read()?;
            web.common.finish(&generate::worker(&spec, &models, &package)?, "npm install && npx wrangler dev")
        }
        Kind::Cli(Batch { common }) => {
            let spec = super::read_spec(&common.spec)?;
            let bytes =
                std::fs::read(&common.spec).with_context(|| format!("cannot read {}", common.spec.display()))?;
            let json = common.spec.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
            let program = std::env::current_exe().context("this program does not know where it is")?;
            let folder = std::path::absolute(&common.out).context("the working folder is gone")?;
            let project = generate::cli(&spec, &SpecFile { bytes, json }, &program, &folder)?;
            common.finish(&project, "./annotate.sh")
        }
    }
}

impl Web {
    fn read(&self) -> anyhow::Result<(Spec, Models, Package)> {
        let spec = super::read_spec(&self.common.spec)?;
        let package = self.package.as_deref().map_or(Ok(Package::default()), Package::find)?;
        let models = match self.models.as_deref() {
            Some(url) if url.contains("://") => Models::Address(url.to_owned()),
            Some(folder) => Models::folder(Path::new(folder))?,
            None => self.packed(&spec)?,
        };
        Ok((spec, models, package))
    }

    /// The cache, after those of the spec's SLMs were packed into it that have a folder in `models/`.
    fn packed(&self, spec: &Spec) -> anyhow::Result<Models> {
        let home = Home::find(self.home.as_deref())?;
        if let Ok(models) = models_dir(None) {
            let known = packing::folders(&models)?;
            let ids: Vec<String> =
                spec.slms.iter().filter(|id| known.iter().any(|folder| folder.slm.id == **id)).cloned().collect();
            if !ids.is_empty() {
                let bar = ProgressBar::new_spinner();
                packing::pack(&models, &ids, &[Precision::Int8], &home, &bar)?;
                bar.finish_and_clear();
            }
        }
        Ok(Models::Folder { index: packing::index(&home)?, path: home.packed() })
    }
}

impl Common {
    fn finish(&self, project: &Project, next: &str) -> anyhow::Result<()> {
        let states = match self.dry_run {
            true => project.states(&self.out)?,
            false => project.write(&self.out, self.force)?,
        };
        for (file, state) in project.files.iter().zip(states) {
            let state = match (state, self.dry_run) {
                (State::New, _) => "new",
                (State::Same, _) => "unchanged",
                (State::Differs, true) => "differs",
                (State::Differs, false) => "replaced",
            };
            println!("{state:<10} {} ({})", file.path, HumanBytes(file.bytes()));
        }
        for slm in &project.left_out {
            println!(
                "left out: {} ({}); a worker has 128 MB of memory. Where the others disagree, the reviewer decides",
                slm.id,
                HumanBytes(slm.bytes)
            );
        }
        if !self.dry_run {
            println!("{} is in {}; next, there: {next}", project.name, self.out.display());
        }
        Ok(())
    }
}
