//! Measures Squadron as its users meet it: real processes, real sockets, a Flight SQL client.

use std::process::ExitCode;

/// The allocator of the product, so that the reference inside this process uses the same one.
#[cfg(not(target_env = "msvc"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    squadron_bench::main()
}
