//! Measures Squadron as its users meet it: real processes, real sockets, a Flight SQL client.

use std::process::ExitCode;

/// The allocator of the product, so that the reference inside this process uses the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    squadron_bench::main()
}
