//! Measures Squadron from outside, as its users meet it: real processes, real sockets, a Flight SQL client.

use std::process::ExitCode;

/// The allocator of the product, also for the reference that runs inside this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    squadron_bench::main()
}
