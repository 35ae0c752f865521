//! Following a job to its end, over lost connections.
//!
//! Why a lost connection is tried again: the server that was asked may be restarting, and the job goes on meanwhile. Why not
//! for ever: whoever waits wants to hear that nobody answers.

use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use super::progress::Progress;
use super::text;
use crate::cli::client::{Client, ClientArgs, interruptible, parsed};
use crate::cli::error::CliError;
use crate::cli::output::print;
use crate::jobs::record::{Job, State};

const ACTION: &str = "preload.watch";
/// How often a lost connection is tried again before the command fails.
const RECONNECTS: u32 = 7;
/// How long it waits before the first of these, doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest that it waits.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Failures that are listed when a job is over; `jobs show` has more.
const SHOWN_FAILURES: usize = 10;

/// What is shown of a job while it is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Show {
    /// How far it is, for people.
    Progress,
    /// Each object as it comes, one a line.
    Each,
    /// The last object, in one line.
    End,
}

/// Shows a job until it is over. Fails unless it ends SUCCEEDED.
pub(in crate::cli) async fn wait(arguments: &ClientArgs, id: String, show: Show) -> Result<(), CliError> {
    let mut out = Out::new(show);
    let watched = interruptible(follow(arguments, &id, &mut out)).await;
    let job = watched.map_err(|error| match error {
        CliError::Interrupted => CliError::StoppedWatching { id: id.clone() },
        other => other.of_no_path(),
    })?;
    if show == Show::Progress
        && let Some(failures) = text::failures(&job, SHOWN_FAILURES)
    {
        print(&failures)?;
    }
    match job.state {
        State::Succeeded => Ok(()),
        state => Err(CliError::JobEnded {
            id,
            state: state.as_str(),
            reason: job.error,
        }),
    }
}

/// Where a watched job is shown.
#[derive(Debug)]
enum Out {
    Progress(Progress),
    Each,
    End,
}

impl Out {
    fn new(show: Show) -> Self {
        match show {
            Show::Progress => Self::Progress(Progress::new()),
            Show::Each => Self::Each,
            Show::End => Self::End,
        }
    }

    fn show(&mut self, object: &Value, job: &Job) -> Result<(), CliError> {
        match self {
            Self::Progress(progress) => progress.show(job),
            Self::Each => print(&object.to_string()),
            Self::End if job.state.is_final() => print(&object.to_string()),
            Self::End => Ok(()),
        }
    }

    fn note(&self, words: &str) {
        match self {
            Self::Progress(progress) => progress.note(words),
            Self::Each | Self::End => eprintln!("{words}"),
        }
    }
}

/// Follows a job to its end. A server that cannot be reached from the beginning is an error at once.
async fn follow(arguments: &ClientArgs, id: &str, out: &mut Out) -> Result<Job, CliError> {
    let mut client = Some(Client::connect(arguments).await?);
    let mut tries = 0;
    loop {
        let mut seen = 0;
        let lost = match attempt(arguments, client.take(), id, |object, job| {
            seen += 1;
            out.show(object, job)
        })
        .await
        {
            Ok(job) => return Ok(job),
            Err(error) if error.is_unavailable() => error,
            Err(error) => return Err(error),
        };
        // The first object of a stream is the job as it is, which even a server that cannot go on has.
        if seen > 1 {
            tries = 0;
        }
        if tries == RECONNECTS {
            return Err(CliError::WatchLost {
                id: id.to_owned(),
                tries,
                source: Box::new(lost),
            });
        }
        if tries == 0 {
            out.note(&format!("jetbridge: {lost}; trying again"));
        }
        tokio::time::sleep(pause(tries)).await;
        tries += 1;
    }
}

fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << tries.min(16)).min(LONGEST_PAUSE)
}

/// Watches until the job is over, or the connection is lost.
async fn attempt(
    arguments: &ClientArgs,
    client: Option<Client>,
    id: &str,
    mut show: impl FnMut(&Value, &Job) -> Result<(), CliError>,
) -> Result<Job, CliError> {
    let mut client = match client {
        Some(client) => client,
        None => Client::connect(arguments).await?,
    };
    let mut objects = client.action_stream(ACTION, &json!({ "id": id })).await?;
    while let Some(object) = objects.next().await {
        let object = object?;
        let job: Job = parsed(ACTION, &object)?;
        show(&object, &job)?;
        if job.state.is_final() {
            return Ok(job);
        }
    }
    Err(CliError::Lost {
        uri: client.uri().to_owned(),
        reason: "the server ended the stream before the job was over".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_of_the_server_is_waited_for_and_not_for_ever() {
        let pauses: Vec<_> = (0..RECONNECTS).map(pause).collect();
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert!(pauses.is_sorted() && pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        let all: Duration = pauses.iter().sum();
        assert!(
            (Duration::from_secs(15)..Duration::from_secs(60)).contains(&all),
            "{all:?}"
        );
    }
}
