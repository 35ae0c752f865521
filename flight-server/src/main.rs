//! The `jetbridge` binary.

use std::process::ExitCode;

/// Decoded batches are megabytes that live for milliseconds. glibc's allocator gives such buffers back to the kernel and
/// faults them in again, page by page; this one keeps them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long freed memory is kept before the kernel gets it back. With the allocator's own 1 s, a scan faulted in again
/// what the scan before it had freed: 0.1 to 0.4 s of CPU on a read of 1.3 GB.
const PURGE_DELAY_MS: std::ffi::c_long = 10_000;
/// `mi_option_purge_delay` of mimalloc.h, for which the binding has no name.
const PURGE_DELAY_OPTION: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    keep_freed_memory();
    jetbridge_flight_server::run_cli(std::env::args_os()).into()
}

#[expect(
    unsafe_code,
    reason = "the allocator's options can only be set through its C interface"
)]
fn keep_freed_memory() {
    // SAFETY: it takes two numbers and stores one; an option that does not exist is ignored. The environment's
    // MIMALLOC_PURGE_DELAY, which an operator may have set, is left as it is.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY_OPTION, PURGE_DELAY_MS) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The option's number is right: before it is set, it has the default that mimalloc documents for it.
    #[test]
    #[expect(
        unsafe_code,
        reason = "the allocator's options can only be read through its C interface"
    )]
    fn the_option_is_the_purge_delay() {
        // SAFETY: it takes a number and gives one.
        let value = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY_OPTION) };
        assert_eq!(value(), 1_000);
        keep_freed_memory();
        assert_eq!(value(), PURGE_DELAY_MS);
    }
}
