//! `jetbridge config show`: what a server started like this would use, and why.

use clap::{Args, Subcommand};

use super::error::CliError;
use super::output::{Columns, Form, OutputArgs, print, print_json};
use crate::config::{self, ConfigFlags, Machine, Row};

const EXAMPLES: &str = "\
Examples:
  jetbridge config show
  jetbridge config show --config /etc/jetbridge.toml --memory 4GiB -o json";

/// Commands about settings.
#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum ConfigCommand {
    /// Show every setting, its value and where it comes from
    ///
    /// Takes the flags of `jetbridge serve` and reads the same file and variables, but starts nothing.
    Show(Box<ShowArgs>),
}

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    config: ConfigFlags,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs a command about settings.
pub(super) fn run(command: ConfigCommand) -> Result<(), CliError> {
    let ConfigCommand::Show(arguments) = command;
    let loaded = config::load(&arguments.config, std::env::vars_os(), &Machine::probe());
    let rows = loaded?.rows();
    match arguments.output.form {
        Form::Json => print_json(&rows),
        Form::Table => print(&table(&rows)),
    }
}

fn table(rows: &[Row]) -> String {
    let mut columns = Columns::new(&["KEY", "VALUE", "SOURCE"], &[]);
    for row in rows {
        let value = if row.value.is_empty() { "-" } else { &row.value };
        columns.row(&[&row.key, value, &row.source]);
    }
    columns.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_value_keeps_its_column() {
        let row = |key: &str, value: &str| Row {
            key: key.to_owned(),
            value: value.to_owned(),
            source: "default".to_owned(),
        };
        let text = table(&[row("memory", "4GiB"), row("advertise", "")]);
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines,
            [
                ["KEY", "VALUE", "SOURCE"],
                ["memory", "4GiB", "default"],
                ["advertise", "-", "default"]
            ]
        );
    }
}
