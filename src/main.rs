//! The companion: `autoannotator`.

fn main() -> std::process::ExitCode {
    autoannotator::cli::main()
}
