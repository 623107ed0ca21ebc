//! `autoannotator store`.

use crate::hub::Home;
use crate::serve::store::Store;
use anyhow::ensure;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Looks into what the server keeps: money, answers and the audit log.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  autoannotator store show                 what was spent, task by task
  autoannotator store verify               whether the audit log holds together; keep the hash it prints elsewhere
  autoannotator store audit                the audit log, one JSON object a line; it holds no text
  autoannotator store backup copy.db       also while a server runs

To restore: stop the server, delete pool.db-wal and pool.db-shm, and put the copy in pool.db's place.

The file is pool.db in the data home; the pool of reviewed samples stands in it too.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    /// The data home [default: $AUTOANNOTATOR_HOME, or the platform's cache folder]
    #[arg(long, global = true)]
    home: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Says what was spent
    Show,
    /// Checks the audit log
    Verify,
    /// Writes the audit log to standard output
    Audit,
    /// Copies the file
    Backup {
        /// A file that is not there yet
        to: PathBuf,
    },
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let path = Home::find(args.home.as_deref())?.store();
    ensure!(path.exists(), "{} is not there: no server with an LLM has run in this home", path.display());
    let store = Store::read_only(&path)?;
    match args.command {
        Command::Show => {
            let mut tasks: BTreeMap<String, (usize, i64)> = BTreeMap::new();
            for call in store.calls()? {
                let (calls, spent) = tasks.entry(call.task).or_default();
                *calls += 1;
                *spent += call.spent;
            }
            println!("{:<24}{:>9}{:>14}", "task", "calls", "US dollars");
            for (task, (calls, spent)) in &tasks {
                println!("{task:<24}{calls:>9}{:>14.6}", *spent as f64 / 1e9);
            }
        }
        Command::Verify => {
            let (entries, head) = store.audited()?;
            println!("the audit log holds together: {} entries, the last one's hash is {head}", entries.len());
        }
        Command::Audit => {
            for (at, entry) in store.audit()? {
                println!("{{\"at\":{at},\"entry\":{entry}}}");
            }
        }
        Command::Backup { to } => {
            store.backup(&to)?;
            println!("written to {}", to.display());
        }
    }
    Ok(())
}
