//! The `jetbridge` binary.

use std::process::ExitCode;

/// Decoded batches are megabytes that live for milliseconds. glibc's allocator gives such buffers back to the kernel and
/// faults them in again, page by page; this one keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    jetbridge_flight_server::run_cli(std::env::args_os()).into()
}
