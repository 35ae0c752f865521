//! The `jetbridge` command.
//!
//! | file | commands |
//! |---|---|
//! | `serve.rs`, `children.rs` | `serve`, `coordinator`, `worker` |
//! | `config.rs` | `config show` |
//! | `mount.rs` | `mount add`, `ls`, `rm`, `check` |
//! | `browse.rs` | `ls`, `stat`, `status` |
//! | `cluster.rs` | `workers`, `locate` |
//! | `get/` | `get` |
//! | `sql/` | `sql` |
//! | `preload.rs` | `preload`, `verify` |
//! | `jobs/` | `jobs ls`, `show`, `watch`, `cancel` |
//! | `pin.rs` | `pin`, `unpin` |
//!
//! All but the first two lines are Flight clients: whatever they do, any Flight client can do, with the same calls.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. Answers go to stdout, everything else to stderr; an error is one line
//! that begins with `jetbridge:` and says what to do. A reader that closes the pipe has what it wanted: that is no error.

mod browse;
mod cache;
mod children;
mod client;
mod cluster;
mod config;
mod error;
mod get;
mod jobs;
mod mount;
mod output;
mod pin;
mod preload;
mod serve;
mod sql;

use std::ffi::OsString;

use clap::{Parser, Subcommand};

use self::error::CliError;

const EXAMPLES: &str = "\
Examples:
  jetbridge serve --mount /lake=s3://bucket/prefix     serve a bucket
  jetbridge ls /lake                                   look around
  jetbridge get /lake/trips --where 'fare > 50' --limit 10
  jetbridge get /lake/trips --out trips.parquet        read a whole dataset into a file
  jetbridge sql 'select city, avg(fare) from lake.trips group by city'
  jetbridge preload /lake/trips --wait                 load it before it is read

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
    /// Run a server: all roles in one process, or a cluster of processes to try out
    Serve(Box<serve::ServeArgs>),
    /// Run a coordinator: namespace and metadata of a cluster
    Coordinator(Box<serve::NodeArgs>),
    /// Run a worker: caches its share of the data, and serves it
    Worker(Box<serve::WorkerArgs>),
    /// Add, list, remove or check mounts
    #[command(subcommand)]
    Mount(mount::MountCommand),
    /// List what lies under a path
    Ls(browse::LsArgs),
    /// Show what a path is, the dataset at it, and what is cached of it
    Stat(browse::StatArgs),
    /// List the workers of the cluster
    Workers(cluster::WorkersArgs),
    /// Show which workers own a dataset, split by split
    Locate(cluster::LocateArgs),
    /// Read a dataset
    Get(Box<get::GetArgs>),
    /// Ask in SQL; without a query, at a prompt
    Sql(Box<sql::SqlArgs>),
    /// Load data into the workers' caches before it is read
    Preload(Box<preload::PreloadArgs>),
    /// Compare what is cached with the storage
    Verify(Box<preload::VerifyArgs>),
    /// List, show, watch or cancel jobs
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Keep in the cache what is held of a path
    Pin(pin::PinArgs),
    /// Let a pinned path be evicted again
    Unpin(pin::UnpinArgs),
    /// Let go of what is cached of a path
    Free(cache::FreeArgs),
    /// Show how the server is doing
    Status(browse::StatusArgs),
    /// Show the settings of a server
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Parses, runs, reports. `program` starts this program again; none where it is the process's executable.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>, program: Option<Vec<OsString>>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help that cannot be printed (a closed pipe) changes nothing about the outcome.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    match execute(cli.command, program) {
        Ok(()) => 0,
        Err(error) => error.report(),
    }
}

fn execute(command: Command, program: Option<Vec<OsString>>) -> Result<(), CliError> {
    match command {
        Command::Serve(arguments) => serve::serve(&arguments, program),
        Command::Coordinator(arguments) => serve::coordinator(&arguments),
        Command::Worker(arguments) => serve::worker(&arguments),
        Command::Workers(arguments) => client::block_on(cluster::workers(arguments)),
        Command::Locate(arguments) => client::block_on(cluster::locate(arguments)),
        Command::Config(command) => config::run(command),
        Command::Mount(command) => client::block_on(mount::run(command)),
        Command::Ls(arguments) => client::block_on(browse::ls(arguments)),
        Command::Stat(arguments) => client::block_on(browse::stat(arguments)),
        Command::Preload(arguments) => client::run(preload::preload(*arguments)),
        Command::Verify(arguments) => client::run(preload::verify(*arguments)),
        Command::Jobs(command) => client::run(jobs::run(command)),
        Command::Pin(arguments) => client::block_on(pin::pin(arguments)),
        Command::Unpin(arguments) => client::block_on(pin::unpin(arguments)),
        Command::Free(arguments) => client::block_on(cache::free(arguments)),
        Command::Status(arguments) => client::block_on(browse::status(arguments)),
        Command::Get(arguments) => client::block_on(get::run(*arguments)),
        Command::Sql(arguments) => client::run(sql::run(*arguments)),
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
        assert!(seen >= 27, "only {seen} commands were looked at");
    }

    #[test]
    fn usual_lines_parse() {
        for line in [
            "jetbridge coordinator --meta etcd://h:2379/blue --cluster-key env:KEY",
            "jetbridge worker --coordinator grpc://h:1 --weight 1TiB --member-grace 10m",
            "jetbridge serve --workers 3",
            "jetbridge workers --all -o json",
            "jetbridge locate /a",
            "jetbridge serve --mount /a=s3://b --mount /c=/data --memory 1GiB --flight 127.0.0.1:0 --insecure",
            "jetbridge mount add /a s3://b --option region=x --option endpoint=http://h:1/?a=b --read-only",
            "jetbridge mount ls -o json",
            "jetbridge mount rm /a",
            "jetbridge mount check /a --uri grpc://h:1",
            "jetbridge ls",
            "jetbridge ls /a -o json --limit 10000",
            "jetbridge stat /a",
            "jetbridge get /a --columns a,b --columns c --where a>1 --limit 0 -o parquet --out x",
            "jetbridge sql select -o csv --out x --schema lake.sub --timeout 90s --timing",
            "jetbridge sql -",
            "jetbridge sql",
            "jetbridge status -o json",
            "jetbridge preload /a /b --columns x --where n>1 --tier raw --bandwidth 1GB/s --wait -o json",
            "jetbridge preload --paths-from - --dry-run",
            "jetbridge verify / --priority low",
            "jetbridge jobs ls --state running",
            "jetbridge jobs show x -o json",
            "jetbridge jobs watch x",
            "jetbridge jobs cancel x y",
            "jetbridge pin /a --tier raw",
            "jetbridge pin --list",
            "jetbridge unpin /a",
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
            "jetbridge ls /a --limit 10001",
            "jetbridge get /a --limit -1",
            "jetbridge get /a -o xlsx",
            "jetbridge sql a b",
            "jetbridge sql a --timeout soon",
            "jetbridge serve --memory lots",
            "jetbridge serve --mount lake",
            "jetbridge mount add /a",
            "jetbridge mount add /a s3://b --option region",
            "jetbridge jobs",
            "jetbridge pin",
            "jetbridge pin /a --list",
            "jetbridge unpin",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
        for line in ["ls /a --limit -1", "get /a --limit -1", "preload /a --max-failures -1"] {
            let said = parse(&format!("jetbridge {line}")).unwrap_err().to_string();
            assert!(said.contains("invalid value '-1' for '--"), "{line}: {said}");
        }
        for line in ["jetbridge --help", "jetbridge --version", "jetbridge get --help"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
    }
}
