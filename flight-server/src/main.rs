//! The `jetbridge` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    jetbridge_flight_server::run_cli(std::env::args_os()).into()
}
