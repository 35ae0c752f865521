//! What a command fails with, and the one line in which it says so.

use std::error::Error;
use std::io;

use arrow::error::ArrowError;
use arrow_flight::error::FlightError;
use thiserror::Error;
use tonic::{Code, Status};

use crate::config::ConfigError;

/// Why a command did not do what it was asked for.
#[derive(Debug, Error)]
pub(super) enum CliError {
    /// The arguments make no sense together, or for this environment.
    #[error("{0}")]
    Usage(String),
    /// The reader of our output has gone. Not a failure.
    #[error("the output was closed")]
    OutputClosed,
    /// The user stopped the command.
    #[error("interrupted")]
    Interrupted,
    /// The user stopped watching a job.
    #[error("stopped watching; the job {id} goes on")]
    StoppedWatching { id: String },
    /// The connection was lost while a job was watched, and did not come back.
    #[error("the job {id} cannot be watched any more, after {tries} attempts to reach the server again")]
    WatchLost {
        id: String,
        tries: u32,
        #[source]
        source: Box<CliError>,
    },
    /// A job that was waited for ended otherwise than it should.
    #[error("the job {id} ended {state}{}", reason_text(.reason.as_deref()))]
    JobEnded {
        id: String,
        state: &'static str,
        reason: Option<String>,
    },
    /// A job or a pin that there is not; the server says so itself.
    #[error("{}", status_text(.0))]
    NotThere(Box<Status>),
    /// What a command is to read cannot be read.
    #[error("cannot read {what}")]
    Input {
        what: String,
        #[source]
        source: io::Error,
    },
    /// No connection to the server.
    #[error("cannot reach {uri}")]
    Connect {
        uri: String,
        #[source]
        source: tonic::transport::Error,
    },
    /// The connection broke, or the server ended it.
    #[error("lost the connection to {uri}: {reason}")]
    Lost { uri: String, reason: String },
    /// The server refused or failed.
    #[error("{}", status_text(.0))]
    Server(Box<Status>),
    /// What the server sent cannot be understood.
    #[error("the server's answer to {what} is not understood")]
    Answer {
        what: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The output cannot be written.
    #[error("cannot write {target}")]
    Output {
        target: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// A mount did not pass all checks.
    #[error("{path}: the mount did not pass all checks")]
    CheckFailed { path: String },
    /// Settings that are wrong, wherever they were written.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A server could not be started, or stopped by itself.
    #[error("{}", in_one_line(.0.chain()))]
    Serve(anyhow::Error),
}

impl CliError {
    /// Prints the error, if it is one, and gives the exit code.
    pub(super) fn report(&self) -> u8 {
        if matches!(self, Self::OutputClosed) {
            return 0;
        }
        eprintln!("jetbridge: {}", self.line());
        if matches!(self, Self::Usage(_) | Self::Config(_)) {
            2
        } else {
            1
        }
    }

    /// The error, its causes and what to do, in one line.
    fn line(&self) -> String {
        let this: &dyn Error = self;
        let mut text = in_one_line(std::iter::successors(Some(this), |error| (**error).source()));
        if let Some(advice) = self.advice() {
            text = format!("{text}; {advice}");
        }
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn advice(&self) -> Option<&'static str> {
        match self {
            Self::StoppedWatching { .. } => {
                Some("`jetbridge jobs watch` takes it up again, and `jetbridge jobs cancel` ends the job")
            }
            Self::WatchLost { .. } => {
                Some("the job does not need this command; `jetbridge jobs watch` takes it up again")
            }
            Self::JobEnded { .. } => Some("`jetbridge jobs show` tells all of it"),
            Self::Lost { .. } => Some("see whether the server still runs, and try again"),
            Self::Connect { .. } => {
                Some("start a server with `jetbridge serve`, or name one with --uri or JETBRIDGE_URI")
            }
            Self::Server(status) => match status.code() {
                Code::NotFound => Some("`jetbridge ls` shows what there is"),
                Code::Unavailable => Some("try again"),
                Code::Unimplemented => Some("the server may be older than this command"),
                _ => None,
            },
            _ => None,
        }
    }

    /// What a call to the server at `uri` ended with.
    pub(super) fn call(uri: &str, error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) if status.source().is_some() => {
                // A status with a cause was made on this side, from the transport's error.
                let causes = std::iter::successors(status.source(), |cause| (**cause).source());
                Self::Lost {
                    uri: uri.to_owned(),
                    reason: in_one_line(causes),
                }
            }
            FlightError::Tonic(status) => Self::Server(status),
            other => Self::Answer {
                what: "the call".to_owned(),
                source: other.into(),
            },
        }
    }

    /// The same, where the call was about no path of the namespace: what is not found is a job or a pin then.
    pub(super) fn of_no_path(self) -> Self {
        match self {
            Self::Server(status) if status.code() == Code::NotFound => Self::NotThere(status),
            other => other,
        }
    }

    /// An output error, unless the reader has merely gone.
    pub(super) fn output(target: &str, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Output {
                target: target.to_owned(),
                source: error.into(),
            },
        }
    }

    /// Whether another location may do better: the server could not be reached or is not taking work.
    pub(super) fn is_unavailable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Lost { .. } => true,
            Self::Server(status) => matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown),
            _ => false,
        }
    }
}

impl From<ArrowError> for CliError {
    fn from(error: ArrowError) -> Self {
        Self::Answer {
            what: "GetFlightInfo".to_owned(),
            source: error.into(),
        }
    }
}

/// An error and its causes. Libraries often repeat a cause in their own message; it is told once.
fn in_one_line<'a>(chain: impl Iterator<Item = &'a (dyn Error + 'static)>) -> String {
    chain
        .map(ToString::to_string)
        .fold(String::new(), |text, message| match text.as_str() {
            "" => message,
            told if told.contains(&message) => text,
            told => format!("{told}: {message}"),
        })
}

/// A reason, where there is one.
fn reason_text(reason: Option<&str>) -> String {
    reason.map(|reason| format!(": {reason}")).unwrap_or_default()
}

/// The server's own words; the code's, where there are none.
fn status_text(status: &Status) -> String {
    if status.message().is_empty() {
        status.code().to_string()
    } else {
        status.message().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(status: Status) -> CliError {
        CliError::call("grpc://h:1", status.into())
    }

    #[test]
    fn a_broken_connection_names_the_server() {
        let status = Status::from_error(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)));
        let error = server(status);
        assert!(
            error.line().starts_with("lost the connection to grpc://h:1: "),
            "{}",
            error.line()
        );
        assert!(error.is_unavailable());
    }

    #[test]
    fn a_cause_that_its_error_repeats_is_told_once() {
        let inner = anyhow::anyhow!("no such file");
        let error = CliError::Serve(inner.context("reading x: no such file").context("cannot start"));
        assert_eq!(error.line(), "cannot start: reading x: no such file");
    }

    #[test]
    fn a_status_is_told_in_the_servers_words_with_advice() {
        let error = server(Status::not_found("no dataset at /lake/trps"));
        assert_eq!(
            error.line(),
            "no dataset at /lake/trps; `jetbridge ls` shows what there is"
        );
        assert_eq!(error.report(), 1);
    }

    #[test]
    fn a_job_that_is_not_there_is_no_path_that_is_not_there() {
        let error = server(Status::not_found("there is no job x")).of_no_path();
        assert_eq!(error.line(), "there is no job x");
        assert!(matches!(
            server(Status::unavailable("busy")).of_no_path(),
            CliError::Server(_)
        ));
    }

    #[test]
    fn a_watch_that_ended_says_that_the_job_goes_on() {
        let lost = CliError::Lost {
            uri: "grpc://h:1".to_owned(),
            reason: "closed".to_owned(),
        };
        let error = CliError::WatchLost {
            id: "j".to_owned(),
            tries: 3,
            source: Box::new(lost),
        };
        assert!(
            error.line().contains("grpc://h:1: closed; the job does not need"),
            "{}",
            error.line()
        );
        let stopped = CliError::StoppedWatching { id: "j".to_owned() };
        assert!(
            stopped.line().starts_with("stopped watching; the job j goes on; "),
            "{}",
            stopped.line()
        );
        assert_eq!(stopped.report(), 1);
    }

    #[test]
    fn every_error_is_one_line() {
        let error = server(Status::invalid_argument("bad filter:\n  a >\n    ^"));
        assert_eq!(error.line(), "bad filter: a > ^");
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_usage_is_two() {
        assert_eq!(CliError::output("x", io::ErrorKind::BrokenPipe.into()).report(), 0);
        assert_eq!(CliError::Usage("no".to_owned()).report(), 2);
    }
}
