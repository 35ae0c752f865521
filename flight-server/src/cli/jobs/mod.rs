//! `jetbridge jobs`: what jobs there are, how far they are, and ending them.
//!
//! | file | what is in it |
//! |---|---|
//! | `jobs/watch.rs` | following a job to its end, over lost connections |
//! | `jobs/progress.rs` | how far a job is: as lines, and as bars on a terminal |
//! | `jobs/text.rs` | a job in words: one line, or all of it |

mod progress;
#[cfg(test)]
mod samples;
mod text;
mod watch;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::{Client, ClientArgs, interruptible, parsed};
use super::error::CliError;
use super::output::{Columns, Form, OutputArgs, print, print_json};
use crate::jobs::record::Job;

pub(super) use self::watch::{Show, wait};

#[derive(Debug, Subcommand)]
#[command(
    after_help = "Examples:\n  jetbridge jobs ls --state running\n  jetbridge jobs watch 01981f00-51a0-7d60-b0a5-5d4ae02d9fb1"
)]
pub(super) enum JobsCommand {
    /// List jobs, the latest first; those that are over for as long as the server's job_history says
    #[command(after_help = "Examples:\n  jetbridge jobs ls\n  jetbridge jobs ls --state running -o json")]
    Ls(LsArgs),
    /// Show all of one job: options, figures, workers, failures
    #[command(after_help = "Example:\n  jetbridge jobs show 01981f00-51a0-7d60-b0a5-5d4ae02d9fb1")]
    Show(OneArgs),
    /// Show how far a job is until it is over; the exit code is 1 unless it ends SUCCEEDED
    #[command(after_help = "\
Examples:
  jetbridge jobs watch 01981f00-51a0-7d60-b0a5-5d4ae02d9fb1
  jetbridge jobs watch 01981f00-51a0-7d60-b0a5-5d4ae02d9fb1 -o json

On a terminal it draws bars; elsewhere it prints a line each time that the state changes, and at most one a second in between. \
With -o json it prints one job object a line, as they come. Ctrl-C ends the watching, not the job. \
If the connection is lost, it is tried again for about twenty seconds.")]
    Watch(OneArgs),
    /// End jobs; what they have loaded stays
    #[command(after_help = "Example:\n  jetbridge jobs cancel 01981f00-51a0-7d60-b0a5-5d4ae02d9fb1")]
    Cancel(CancelArgs),
}

#[derive(Args, Debug)]
pub(super) struct LsArgs {
    /// Only jobs in this state [default: all]
    #[arg(long, value_name = "STATE", ignore_case = true)]
    state: Option<StateArg>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
pub(super) struct OneArgs {
    /// The job, as `jetbridge preload` and `jobs ls` name it
    id: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Args, Debug)]
pub(super) struct CancelArgs {
    /// The jobs, as `jetbridge preload` and `jobs ls` name them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum StateArg {
    /// It waits for its turn, or for its next run
    Pending,
    /// It is being done
    Running,
    /// All that was asked for is held
    Succeeded,
    /// It is over, and something failed
    Partial,
    /// It is over, and nothing could be done, or too much failed
    Failed,
    /// It was ended by request
    Cancelled,
}

/// Runs a command about jobs.
pub(super) async fn run(command: JobsCommand) -> Result<(), CliError> {
    match command {
        JobsCommand::Ls(arguments) => interruptible(ls(arguments)).await,
        JobsCommand::Show(arguments) => interruptible(show(arguments)).await,
        JobsCommand::Cancel(arguments) => interruptible(cancel(arguments)).await,
        JobsCommand::Watch(arguments) => {
            let show = match arguments.output.form {
                Form::Json => Show::Each,
                Form::Table => Show::Progress,
            };
            wait(&arguments.client, arguments.id, show).await
        }
    }
}

/// Answer of `preload.list`.
#[derive(Debug, Deserialize)]
struct Listed {
    jobs: Vec<Job>,
}

async fn ls(arguments: LsArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&arguments.client).await?;
    let body = match arguments.state {
        Some(state) => json!({ "state": state }),
        None => json!({}),
    };
    let answer = client.action("preload.list", &body).await?;
    match arguments.output.form {
        Form::Json => print_json(&answer["jobs"]),
        Form::Table => {
            let listed: Listed = parsed("preload.list", &answer)?;
            print(&text::list(&listed.jobs))
        }
    }
}

async fn show(arguments: OneArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&arguments.client).await?;
    let answer = client.action("preload.get", &json!({ "id": arguments.id })).await;
    let answer = answer.map_err(CliError::of_no_path)?;
    match arguments.output.form {
        Form::Json => print_json(&answer),
        Form::Table => print(&text::whole(&parsed("preload.get", &answer)?, &answer["options"])),
    }
}

/// Ends all that it can, and fails with the first that it could not.
async fn cancel(arguments: CancelArgs) -> Result<(), CliError> {
    let mut client = Client::connect(&arguments.client).await?;
    let mut answers: Vec<Value> = Vec::new();
    let mut failed = None;
    for id in &arguments.ids {
        match client.action("preload.cancel", &json!({ "id": id })).await {
            Ok(answer) => answers.push(answer),
            Err(error) => failed = failed.or(Some(error.of_no_path())),
        }
    }
    match arguments.output.form {
        // Of one job that there is not, the error says all.
        _ if answers.is_empty() => {}
        Form::Json => print_json(&answers)?,
        Form::Table => {
            let jobs: Result<Vec<Job>, _> = answers.iter().map(|answer| parsed("preload.cancel", answer)).collect();
            print(&cancelled_table(&jobs?))?;
        }
    }
    failed.map_or(Ok(()), Err)
}

fn cancelled_table(jobs: &[Job]) -> String {
    let mut columns = Columns::new(&["ID", "WAS"], &[]);
    jobs.iter().for_each(|job| columns.row(&[&job.id, job.state.as_str()]));
    columns.text()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: JobsCommand,
    }

    #[test]
    fn states_are_written_in_any_case_and_sent_as_the_server_has_them() {
        for text in ["running", "RUNNING"] {
            let line = Line::try_parse_from(["jobs", "ls", "--state", text]).unwrap();
            let JobsCommand::Ls(arguments) = line.command else {
                panic!("not a list")
            };
            assert_eq!(json!({ "state": arguments.state }), json!({ "state": "RUNNING" }));
        }
        assert!(Line::try_parse_from(["jobs", "ls", "--state", "done"]).is_err());
        assert!(Line::try_parse_from(["jobs", "cancel"]).is_err());
    }

    #[test]
    fn what_is_cancelled_is_listed_with_the_state_it_had() {
        let jobs = [samples::job("RUNNING"), samples::job("SUCCEEDED")];
        let text = cancelled_table(&jobs);
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.lines().nth(2).unwrap().ends_with("SUCCEEDED"), "{text}");
    }
}
