//! The named builds: each compiles, whatever the others do.

use crate::wasm::VARIANTS;
use anyhow::Result;

/// Compiles every named build.
pub fn all() -> Result<()> {
    println!("build: native");
    crate::run(crate::cargo().args(["build", "--locked", "--release"]).current_dir(crate::root()?))?;
    println!("build: native with burn-wgpu");
    crate::run(
        crate::cargo().args(["check", "--locked", "--release", "--features", "gpu-burn"]).current_dir(crate::root()?),
    )?;
    for variant in &VARIANTS {
        println!("build: wasm core ({})", variant.name);
        variant.compile()?;
    }
    Ok(())
}

/// Clippy over the wasm library of every variant; the lints of the manifest deny.
pub fn clippy_wasm() -> Result<()> {
    VARIANTS.iter().try_for_each(|variant| crate::run(variant.cargo("clippy")?.args(["--", "-D", "warnings"])))
}
