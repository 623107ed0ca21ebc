//! The companion: `autoannotator`.

/// A server's memory must not grow with the requests that it has had, and much is allocated on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    autoannotator::cli::main()
}
