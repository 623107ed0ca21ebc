//! From the crate to `pkg/wasm/<variant>/autoannotator{.js,.d.ts,.factory.js,.factory.d.ts,_bg.wasm}`.

use crate::factory;
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One way of building the wasm module.
pub struct Variant {
    /// Its name, and that of its folder.
    pub name: &'static str,
    /// Whether it is built where no variant is named.
    pub usual: bool,
    /// What the code may use beside the target's own features.
    target_features: &'static [&'static str],
    /// The crate's cargo features.
    features: &'static [&'static str],
    /// What `wasm-opt` has to know of.
    opt_features: &'static [&'static str],
    /// What it is optimised for.
    goal: Goal,
}

#[derive(Clone, Copy)]
enum Goal {
    Speed,
    Size,
}

const PLAIN: Variant = Variant {
    name: "plain",
    usual: true,
    target_features: &["+simd128"],
    features: &[],
    opt_features: &["--enable-simd"],
    goal: Goal::Speed,
};

const RELAXED: Variant = Variant {
    name: "relaxed",
    target_features: &["+simd128", "+relaxed-simd"],
    opt_features: &["--enable-simd", "--enable-relaxed-simd"],
    ..PLAIN
};

/// The variants, by name.
pub const VARIANTS: [Variant; 4] = [
    // The page reads and writes its files with this one.
    Variant { features: &["files"], ..PLAIN },
    RELAXED,
    // Browsers with WebGPU may lack relaxed SIMD, and what is left for the CPU to do is little.
    Variant { name: "gpu", features: &["gpu"], ..PLAIN },
    // Its time goes into kernels that burn makes at run time.
    Variant { name: "burn", usual: false, features: &["gpu-burn"], goal: Goal::Size, ..PLAIN },
];

/// On by default in rustc's wasm32-unknown-unknown.
const DEFAULT_OPT_FEATURES: [&str; 6] = [
    "--enable-bulk-memory",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
];

const TARGET: &str = "wasm32-unknown-unknown";
const NAME: &str = "autoannotator";
const MODULE: &str = "autoannotator_bg.wasm";

impl Goal {
    /// What of the profile differs.
    fn profile(self) -> Option<(&'static str, &'static str)> {
        matches!(self, Self::Size).then_some(("CARGO_PROFILE_WASM_OPT_LEVEL", "z"))
    }

    fn wasm_opt(self) -> &'static str {
        match self {
            Self::Speed => "-O3",
            Self::Size => "-Oz",
        }
    }

    /// What a module may weigh with brotli, in bytes.
    fn max_brotli(self) -> u64 {
        match self {
            Self::Speed => 614_400,
            Self::Size => 2_500_000,
        }
    }
}

/// Those that are built where none is named.
pub fn usual() -> impl Iterator<Item = &'static Variant> {
    VARIANTS.iter().filter(|variant| variant.usual)
}

/// The variant called `name`.
pub fn variant(name: &str) -> Result<&'static Variant> {
    VARIANTS.iter().find(|variant| variant.name == name).with_context(|| format!("there is no wasm variant '{name}'"))
}

impl Variant {
    /// A cargo command for this variant: its flags, features, profile and target folder. RUSTFLAGS of the environment
    /// would replace these, so they are not let in.
    pub fn cargo(&self, subcommand: &str) -> Result<Command> {
        // Loop strength reduction makes pointers of sums that may wrap, of which engines cannot make address offsets.
        // Fewer copies of what kernels do not have inlined: a module is about a tenth smaller so, and no slower.
        // The memory comes from outside, so that who starts an instance says how large it may grow.
        let flags = [
            &format!("-Ctarget-feature={}", self.target_features.join(",")),
            "--cfg",
            "getrandom_backend=\"wasm_js\"",
            "-Cllvm-args=-disable-lsr",
            "-Cllvm-args=-inline-threshold=20",
            "-Clink-arg=--import-memory",
            "-Clink-arg=--export-memory",
        ]
        .join("\x1f");
        let mut command = crate::cargo();
        command
            .args([subcommand, "--locked", "--lib", "--package", NAME, "--no-default-features"])
            .args(["--profile", "wasm", "--target", TARGET])
            .args(["--features", &self.features.join(",")])
            .arg("--target-dir")
            .arg(self.target_dir()?)
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", flags)
            .envs(self.goal.profile())
            .current_dir(crate::root()?);
        Ok(command)
    }

    fn target_dir(&self) -> Result<PathBuf> {
        let metadata = crate::metadata(&["--no-deps"])?;
        let target = metadata["target_directory"].as_str().context("cargo metadata: no target folder")?;
        Ok(Path::new(target).join(format!("wasm-{}", self.name)))
    }

    /// The module as rustc leaves it.
    pub fn compile(&self) -> Result<PathBuf> {
        crate::run(self.cargo("rustc")?.args(["--crate-type", "cdylib"]))?;
        Ok(self.target_dir()?.join(TARGET).join("wasm").join(format!("{NAME}.wasm")))
    }

    fn opt_flags(&self) -> Vec<&'static str> {
        let mut flags = vec![self.goal.wasm_opt(), "--strip-debug", "--strip-producers", "--zero-filled-memory"];
        flags.extend(DEFAULT_OPT_FEATURES);
        flags.extend(self.opt_features);
        flags
    }
}

/// Builds `variant` into `pkg/wasm/<name>` and prints what it weighs; too much is an error. Binding and optimising are skipped where the same
/// module has been through them before.
pub fn build(variant: &Variant) -> Result<()> {
    let root = crate::root()?;
    let wasm_opt = wasm_opt(&root)?;
    let raw = variant.compile()?;
    let key = key(&raw, &wasm_opt, variant)?;
    let cache = variant.target_dir()?.join("packed");
    let done = cache.join(&key);
    if !done.is_dir() {
        let _ = fs::remove_dir_all(&cache);
        let partial = cache.join("partial");
        bind(&raw, &partial)?;
        optimise(&wasm_opt, &partial.join(MODULE), variant)?;
        fs::write(partial.join(".brotli"), brotli_size(&partial.join(MODULE))?)?;
        fs::rename(&partial, &done)?;
    }
    let out = root.join("pkg").join("wasm").join(variant.name);
    publish(&done, &out, &key)?;
    let bytes = fs::metadata(out.join(MODULE))?.len();
    let brotli: u64 = fs::read_to_string(done.join(".brotli"))?.trim().parse()?;
    println!(
        "{}: {bytes} bytes, {brotli} with brotli",
        Path::new("pkg/wasm").join(variant.name).join(MODULE).display()
    );
    let most = variant.goal.max_brotli();
    ensure!(brotli <= most, "the module '{}' may weigh {most} bytes with brotli", variant.name);
    Ok(())
}

fn wasm_opt(root: &Path) -> Result<PathBuf> {
    let path = root.join("xtask/node_modules/binaryen/bin/wasm-opt");
    ensure!(path.is_file(), "wasm-opt is missing: run `npm ci --prefix xtask` (or `make deps`), which brings it");
    Ok(path)
}

/// A hash of everything that decides the output: the module, the tools' versions and the flags.
fn key(raw: &Path, wasm_opt: &Path, variant: &Variant) -> Result<String> {
    let package = wasm_opt.with_file_name("../package.json");
    let mut hash = Sha256::new();
    hash.update(fs::read(raw).with_context(|| format!("{} was not built", raw.display()))?);
    hash.update(fs::read(&package).with_context(|| format!("{} cannot be read", package.display()))?);
    hash.update(include_str!("../Cargo.toml"));
    hash.update(include_str!("factory.rs"));
    hash.update(variant.opt_flags().join(" "));
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

fn bind(raw: &Path, out: &Path) -> Result<()> {
    wasm_bindgen_cli_support::Bindgen::new()
        .input_path(raw)
        .web(true)?
        .typescript(true)
        .omit_default_module_path(false)
        .generate(out)
        .context("wasm-bindgen failed")?;
    let glue = fs::read_to_string(out.join(format!("{NAME}.js")))?;
    fs::write(out.join(format!("{NAME}.factory.js")), factory::factory(&glue)?)?;
    fs::write(out.join(format!("{NAME}.factory.d.ts")), factory::TYPES)?;
    Ok(())
}

fn optimise(wasm_opt: &Path, module: &Path, variant: &Variant) -> Result<()> {
    let small = module.with_extension("opt");
    let mut command = Command::new("node");
    command.arg(wasm_opt).arg(module).arg("-o").arg(&small).args(variant.opt_flags());
    crate::run(&mut command)?;
    fs::rename(small, module)?;
    Ok(())
}

fn brotli_size(module: &Path) -> Result<String> {
    let script = "console.log(require('zlib').brotliCompressSync(require('fs').readFileSync(process.argv[1])).length)";
    let output = Command::new("node").args(["-e", script]).arg(module).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "node cannot compress {}", module.display());
    Ok(String::from_utf8(output.stdout)?)
}

/// Copies what was made to where the page and the package look for it; does nothing where it lies there already, so that
/// make sees no change.
fn publish(done: &Path, out: &Path, key: &str) -> Result<()> {
    let stamp = out.join(".stamp");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == key) && out.join(MODULE).is_file() {
        return Ok(());
    }
    let _ = fs::remove_dir_all(out);
    fs::create_dir_all(out)?;
    for entry in fs::read_dir(done)? {
        let entry = entry?;
        if entry.file_name() != ".brotli" {
            fs::copy(entry.path(), out.join(entry.file_name()))?;
        }
    }
    fs::write(stamp, key)?;
    Ok(())
}
