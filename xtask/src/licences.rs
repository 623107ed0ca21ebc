//! Every dependency's licence against the list in `deny.toml`.

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// Checks the licence expressions of all packages that any build of the workspace uses: every feature, every target,
/// tests and build scripts too. A package passes if its expression holds with the allowed licences alone.
///
/// The list is `cargo tree`'s: `cargo metadata` and `Cargo.lock` also name what no feature ever switches on.
pub fn check() -> Result<()> {
    let allowed = allowed()?;
    let packages = packages()?;
    let wrong: BTreeMap<_, _> = packages
        .iter()
        .filter_map(|(name, licence)| judge(licence, &allowed).err().map(|problem| (name, problem)))
        .collect();
    for (package, problem) in &wrong {
        eprintln!("{package}: {problem}");
    }
    ensure!(
        wrong.is_empty(),
        "{} of {} packages have a licence that deny.toml does not allow",
        wrong.len(),
        packages.len()
    );
    println!("licences: {} packages, all allowed", packages.len());
    Ok(())
}

/// Name and version of every package with its licence expression, empty where it names none.
fn packages() -> Result<BTreeSet<(String, String)>> {
    let output = crate::cargo()
        .args(["tree", "--locked", "--workspace", "--all-features", "--target", "all", "--edges", "normal,build,dev"])
        .args(["--prefix", "none", "--format", "{p}\t{l}"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cargo tree does not start")?;
    ensure!(output.status.success(), "cargo tree failed: {}", output.status);
    let packages: BTreeSet<_> = String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .map(|(package, licence)| (first(package), first(licence)))
        .collect();
    ensure!(packages.len() > 100, "cargo tree names only {} packages", packages.len());
    Ok(packages)
}

/// Without what `cargo tree` adds: the path of a package of the workspace, `(*)` where it was named before.
fn first(text: &str) -> String {
    text.trim_end_matches(" (*)").split(" (/").next().unwrap_or(text).to_owned()
}

/// The list `allow = [...]` of the `[licenses]` table in `deny.toml`, shared with cargo-deny.
fn allowed() -> Result<Vec<String>> {
    let path = crate::root()?.join("deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let deny: toml::Table = text.parse().with_context(|| format!("{} is no TOML", path.display()))?;
    let list = deny.get("licenses").and_then(|table| table.get("allow")).and_then(|list| list.as_array());
    let list = list.with_context(|| format!("{} has no licenses.allow", path.display()))?;
    Ok(list.iter().filter_map(|name| name.as_str()).map(str::to_owned).collect())
}

fn judge(licence: &str, allowed: &[String]) -> Result<(), String> {
    if licence.is_empty() {
        return Err("names no licence".to_owned());
    }
    let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX)
        .map_err(|error| format!("'{licence}' is no SPDX expression: {}", error.reason))?;
    let holds = expression.evaluate(|requirement| allowed.contains(&requirement.to_string()));
    if holds { Ok(()) } else { Err(format!("'{licence}' is not allowed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged() {
        let allowed = ["MIT".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
        for good in ["MIT", "MIT OR GPL-3.0", "MIT/Apache-2.0", "Apache-2.0 WITH LLVM-exception"] {
            assert_eq!(judge(good, &allowed), Ok(()), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "no such thing"] {
            assert!(judge(bad, &allowed).is_err(), "{bad}");
        }
    }
}
