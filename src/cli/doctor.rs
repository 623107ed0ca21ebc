//! `autoannotator doctor`.

use crate::hub::{Catalogue, Home, HubSettings, models_dir, packing};
use indicatif::HumanBytes;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Says what is there, what is missing and how to get it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  autoannotator doctor
  autoannotator doctor --home /data/autoannotator

Ends with 0 where `annotate` can run (some SLM is packed), else with 1.")]
pub(super) struct Args {
    /// The folder with one folder an SLM [default: $AUTOANNOTATOR_MODELS, or models/ here or above].
    #[arg(long)]
    models: Option<PathBuf>,
    /// The folder with what was downloaded and packed [default: $AUTOANNOTATOR_HOME or the platform's cache folder].
    #[arg(long)]
    home: Option<PathBuf>,
}

/// One line of the table.
struct Line {
    what: String,
    state: &'static str,
    detail: String,
}

fn line(what: impl Into<String>, there: bool, detail: impl Into<String>) -> Line {
    Line { what: what.into(), state: if there { "ok" } else { "missing" }, detail: detail.into() }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let home = Home::find(args.home.as_deref())?;
    let mut lines = vec![line("autoannotator", true, env!("CARGO_PKG_VERSION"))];
    lines.push(line("home", true, home.path().display().to_string()));
    bases(&home, &mut lines)?;
    let ready = slms(&args, &home, &mut lines)?;
    tools(&mut lines);
    let width = lines.iter().map(|line| line.what.chars().count()).max().unwrap_or(0);
    for Line { what, state, detail } in lines {
        println!("{what:width$}  {state:7}  {detail}");
    }
    if !ready {
        anyhow::bail!("`annotate` cannot run yet: no SLM is packed; run `autoannotator pack`");
    }
    Ok(())
}

fn bases(home: &Home, lines: &mut Vec<Line>) -> anyhow::Result<()> {
    for entry in Catalogue::find()?.bases {
        let base = entry.cached(home)?;
        let detail = match &base {
            Some(base) => format!("from {}", base.source),
            None => format!("get it: autoannotator pull {}", entry.id),
        };
        lines.push(line(format!("base {}", entry.id), base.is_some(), detail));
    }
    Ok(())
}

/// The SLMs, packed or not; true where one is packed.
fn slms(args: &Args, home: &Home, lines: &mut Vec<Line>) -> anyhow::Result<bool> {
    let index = match packing::index(home) {
        Ok(index) => index,
        Err(error) => {
            lines.push(line("packed SLMs", false, format!("{error}; write it again: autoannotator pack")));
            return Ok(false);
        }
    };
    match models_dir(args.models.as_deref()) {
        Ok(models) => {
            lines.push(line("models", true, models.display().to_string()));
            for folder in packing::folders(&models)? {
                if index.get(&folder.slm.id, "int8").is_none() {
                    let detail = format!("get it: autoannotator pack {}", folder.slm.id);
                    lines.push(line(format!("SLM {}", folder.slm.id), false, detail));
                }
            }
        }
        Err(error) => lines.push(line("models", false, error.to_string())),
    }
    for slm in &index.slms {
        let detail = format!("version {}, {}, {}", slm.version, slm.precision.name(), HumanBytes(slm.bytes));
        lines.push(line(format!("SLM {}", slm.id), true, detail));
    }
    Ok(!index.slms.is_empty())
}

fn tools(lines: &mut Vec<Line>) {
    for (what, program, arguments, why) in [
        (
            "python3 with pip",
            "python3",
            &["-m", "pip", "--version"][..],
            "only to pull bases where the hub is not reachable",
        ),
        ("node", "node", &["--version"][..], "only to build the page: https://nodejs.org"),
    ] {
        let said = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
        let version = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        lines.push(match version {
            Some(version) => line(what, true, version.split(" from ").next().unwrap_or_default()),
            None => line(what, false, why),
        });
    }
    let hub = HubSettings::from_env();
    lines.push(match (hub.offline, reachable(&hub.endpoint)) {
        (true, _) => line("hub", false, "HF_HUB_OFFLINE is set"),
        (_, true) => line("hub", true, hub.endpoint),
        (_, false) => line("hub", false, format!("{} cannot be reached; bases come from pip packages", hub.endpoint)),
    });
    let page = crate::hub::models_dir(None).ok().and_then(|models| Some(models.parent()?.join("www/dist/index.html")));
    let built = page.is_some_and(|page| page.is_file());
    lines.push(line("page", built, if built { "built" } else { "build it: make run" }));
    let upstream = std::env::var("AUTOANNOTATOR_LLM_URL").ok().filter(|url| !url.is_empty());
    lines.push(match upstream {
        Some(url) => line("LLM", true, url.split('@').next_back().unwrap_or_default()),
        None => {
            line("LLM", false, "hard samples go to a person; set AUTOANNOTATOR_LLM_URL, _KEY and _MODEL for `serve`")
        }
    });
}

/// True where something listens at the address (a proxy of the environment is not asked), within three seconds.
fn reachable(endpoint: &str) -> bool {
    let secure = endpoint.starts_with("https://");
    let host = endpoint.split("://").nth(1).unwrap_or(endpoint).split('/').next().unwrap_or_default().to_owned();
    let address = if host.contains(':') { host } else { format!("{host}:{}", if secure { 443 } else { 80 }) };
    let (send, receive) = channel();
    // A thread of its own: looking a name up has no timeout.
    std::thread::spawn(move || {
        let mut addresses = address.to_socket_addrs().into_iter().flatten();
        let found = addresses.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok());
        let _ = send.send(found);
    });
    receive.recv_timeout(Duration::from_secs(3)).unwrap_or(false)
}
