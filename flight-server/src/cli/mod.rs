//! The `jetbridge` command.
//!
//! | file | commands |
//! |---|---|
//! | `serve.rs` | `serve` |
//! | `config.rs` | `config show` |
//! | `mount.rs` | `mount add`, `ls`, `rm`, `check` |
//! | `browse.rs` | `ls`, `stat`, `status` |
//! | `get/` | `get` |
//!
//! All but the first two are Flight clients: whatever they do, any Flight client can do, with the same calls.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. Answers go to stdout, everything else to stderr; an error is one line
//! that begins with `jetbridge:` and says what to do. A reader that closes the pipe has what it wanted: that is no error.

mod browse;
mod cache;
mod client;
mod config;
mod error;
mod get;
mod mount;
mod output;
mod serve;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use self::error::CliError;

const EXAMPLES: &str = "\
Examples:
  jetbridge serve --mount /lake=s3://bucket/prefix     serve a bucket
  jetbridge ls /lake                                   look around
  jetbridge get /lake/trips --where 'fare > 50' --limit 10
  jetbridge get /lake/trips --out trips.parquet        read a whole dataset into a file

`jetbridge COMMAND --help` explains each command, with an example.";

/// Serve datasets from mounted storage as Arrow, and read them
#[derive(Debug, Parser)]
#[command(name = "jetbridge", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server: all roles in one process
    Serve(Box<serve::ServeArgs>),
    /// Add, list, remove or check mounts
    #[command(subcommand)]
    Mount(mount::MountCommand),
    /// List what lies under a path
    Ls(browse::LsArgs),
    /// Show what a path is, the dataset at it, and what is cached of it
    Stat(browse::StatArgs),
    /// Read a dataset
    Get(Box<get::GetArgs>),
    /// Let go of what is cached of a path
    Free(cache::FreeArgs),
    /// Show how the server is doing
    Status(browse::StatusArgs),
    /// Show the settings of a server
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Parses, runs, reports.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help that cannot be printed (a closed pipe) changes nothing about the outcome.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    match execute(cli.command) {
        Ok(()) => 0,
        Err(error) => error.report(),
    }
}

fn execute(command: Command) -> Result<(), CliError> {
    match command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Config(command) => config::run(command),
        Command::Mount(command) => client::block_on(mount::run(command)),
        Command::Ls(arguments) => client::block_on(browse::ls(arguments)),
        Command::Stat(arguments) => client::block_on(browse::stat(arguments)),
        Command::Free(arguments) => client::block_on(cache::free(arguments)),
        Command::Status(arguments) => client::block_on(browse::status(arguments)),
        Command::Get(arguments) => client::block_on(get::run(*arguments)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_with_an_example() {
        fn check(command: &clap::Command, seen: &mut usize) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("jetbridge "), "{} has no example", command.get_name());
            *seen += 1;
            command
                .get_subcommands()
                .filter(|child| child.get_name() != "help")
                .for_each(|child| check(child, seen));
        }
        let mut seen = 0;
        check(&Cli::command(), &mut seen);
        assert!(seen >= 13, "only {seen} commands were looked at");
    }

    #[test]
    fn usual_lines_parse() {
        for line in [
            "jetbridge serve --mount /a=s3://b --mount /c=/data --memory 1GiB --flight 127.0.0.1:0 --insecure",
            "jetbridge mount add /a s3://b --option region=x --option endpoint=http://h:1/?a=b --read-only",
            "jetbridge mount ls -o json",
            "jetbridge mount rm /a",
            "jetbridge mount check /a --uri grpc://h:1",
            "jetbridge ls",
            "jetbridge ls /a -o json --limit 5",
            "jetbridge stat /a",
            "jetbridge get /a --columns a,b --columns c --where a>1 --limit 0 -o parquet --out x",
            "jetbridge status -o json",
            "jetbridge config show --memory 1GiB -o json",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn wrong_usage_has_exit_code_two() {
        for line in [
            "jetbridge",
            "jetbridge nonsense",
            "jetbridge get",
            "jetbridge get /a --limit -1",
            "jetbridge get /a -o xlsx",
            "jetbridge serve --memory lots",
            "jetbridge serve --mount lake",
            "jetbridge mount add /a",
            "jetbridge mount add /a s3://b --option region",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in ["jetbridge --help", "jetbridge --version", "jetbridge get --help"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }
}
