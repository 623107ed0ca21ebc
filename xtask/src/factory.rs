//! wasm-bindgen's JavaScript holds one instance for ever, in the module's own variables: a trap would spoil it for the
//! whole process. The factory is the same JavaScript inside a function, so that each call has an instance of its own.

use anyhow::{Result, bail, ensure};

/// The bare way in which wasm-bindgen resumes an async function. A trap in there reaches nobody who waits for it.
const RESUME: &str = "            queueMicrotask(arg0);\n";
const GUARDED_RESUME: &str =
    "            queueMicrotask(() => { try { arg0(); } catch (error) { onTrap(error); } });\n";
const OWN_ADDRESS: &str = "        module_or_path = new URL('autoannotator_bg.wasm', import.meta.url);\n";
const NO_ADDRESS: &str =
    "        throw new TypeError('init needs { module_or_path }: a WebAssembly.Module or its bytes');\n";
/// Where the memory is made that nobody gave, up to its least number of pages.
const MEMORY: &str = "new WebAssembly.Memory({initial:";
const TYPES_OF_MODULE: &str = "/* @ts-self-types=\"./autoannotator.d.ts\" */\n";
const EXPORTS: &str = "export { initSync, __wbg_init as default };\n";

/// The types of the factory, beside those of the JavaScript it is made of.
pub const TYPES: &str = "import type * as glue from './autoannotator.js';

/** What a started instance shows of itself. */
export interface Started { readonly memory: WebAssembly.Memory }

/** What an instance offers: what the module of one instance exports. */
export type Glue = Omit<typeof glue, 'default' | 'initSync'> & {
  init(options: { module_or_path: WebAssembly.Module | BufferSource }): Promise<Started>;
  initSync(options: { module: WebAssembly.Module | BufferSource }): Started;
};

/** A new instance, to be started with `init` or `initSync`. `onTrap` is told of a trap inside an async call, whose promise never settles.
 * Its memory grows to `maxPages` of 64 KiB at most. */
export function create(onTrap: (error: unknown) => void, maxPages?: number): Glue;
";

/// The factory made of wasm-bindgen's JavaScript. Output of another shape than the one known here is an error.
pub fn factory(glue: &str) -> Result<String> {
    let mut body = glue.to_owned();
    for (from, to) in [(TYPES_OF_MODULE, ""), (RESUME, GUARDED_RESUME), (OWN_ADDRESS, NO_ADDRESS), (EXPORTS, "")] {
        let found = body.matches(from).count();
        ensure!(found == 1, "wasm-bindgen's output has another shape: {from:?} stands there {found} times, not once");
        body = body.replace(from, to);
    }
    body = limited(&body)?;
    let mut names = Vec::new();
    let mut lines = String::new();
    for line in body.lines() {
        let line = match line.strip_prefix("export ") {
            Some(rest) => {
                names.push(exported(rest)?);
                rest
            }
            None => line,
        };
        lines.push_str(line);
        lines.push('\n');
    }
    ensure!(names.len() > 5, "wasm-bindgen's output has another shape: it exports only {names:?}");
    ensure!(
        !lines.contains("import.meta") && !lines.lines().any(|line| line.starts_with("import ")),
        "wasm-bindgen's output imports something, which a factory cannot"
    );
    Ok(format!(
        "/* @ts-self-types=\"./autoannotator.factory.d.ts\" */\nexport function create(onTrap, maxPages) {{\n{lines}return {{ initSync, init: __wbg_init, {} }};\n}}\n",
        names.join(", ")
    ))
}

/// With the most pages of the memory, which the caller gives.
fn limited(body: &str) -> Result<String> {
    let parts = body.split_once(MEMORY).filter(|(_, rest)| !rest.contains(MEMORY));
    let Some((before, after)) = parts.and_then(|(before, rest)| Some((before, rest.split_once("})")?))) else {
        bail!("wasm-bindgen's output has another shape: it does not make its memory once");
    };
    let (least, after) = after;
    ensure!(least.parse::<u32>().is_ok(), "wasm-bindgen's output has another shape: a memory of {least:?}");
    Ok(format!("{before}{MEMORY}{least},maximum:maxPages}}){after}"))
}

/// The name that an exported declaration gives.
fn exported(declaration: &str) -> Result<&str> {
    let name = ["class ", "function ", "async function "]
        .iter()
        .find_map(|kind| declaration.strip_prefix(kind))
        .and_then(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '$').next())
        .filter(|name| !name.is_empty());
    ensure!(name.is_some(), "wasm-bindgen's output has another shape: it exports '{declaration}'");
    Ok(name.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY_OF_18: &str = "memory: memory || new WebAssembly.Memory({initial:18}),\n";

    fn glue() -> String {
        let classes = ["A", "B", "C", "D"].map(|name| format!("export class {name} {{\n}}\n")).concat();
        format!(
            "{TYPES_OF_MODULE}{classes}export function start() {{\n}}\nexport function version() {{\n}}\n{RESUME}{MEMORY_OF_18}{OWN_ADDRESS}\n{EXPORTS}"
        )
    }

    #[test]
    fn everything_exported_is_returned() {
        let made = factory(&glue()).unwrap();
        assert!(made.ends_with("return { initSync, init: __wbg_init, A, B, C, D, start, version };\n}\n"), "{made}");
        assert!(made.contains("onTrap(error)") && made.contains("{initial:18,maximum:maxPages}"));
        assert_eq!(made.matches("export ").count(), 1);
    }

    #[test]
    fn another_shape_is_refused() {
        let good = glue();
        for bad in [
            good.replace(RESUME, ""),
            good.replace(MEMORY_OF_18, ""),
            good.replace("initial:18", "initial:18,maximum:20"),
            good.clone() + MEMORY_OF_18,
            good.replace(EXPORTS, ""),
            good.clone() + "export const x = 1;\n",
            good.clone() + "import { y } from './snippet.js';\n",
            good.clone() + RESUME,
        ] {
            assert!(factory(&bad).is_err(), "{bad}");
        }
    }
}
