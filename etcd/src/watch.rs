//! A stream of the changes of all keys with a prefix.
//!
//! Why no queue: what is not read yet waits in HTTP/2's window and then in etcd, which reads its history again
//! for a watcher that is slow, and says so when that history is gone.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::connection::{Connection, stream};
use crate::messages::{Event, WatchCreateRequest, WatchRequest, WatchResponse};
use crate::{EtcdError, KeyValue, range_end};

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was put.
    Put(KeyValue),
    /// It was removed, at the revision that stands there.
    Delete(KeyValue),
}

/// The changes, in the order of their revisions, each once. Ends when it is dropped.
#[derive(Debug)]
pub struct Changes {
    connection: Connection,
    turn: usize,
    answers: Streaming<WatchResponse>,
    /// etcd ends the stream when it hears that no more requests come.
    _requests: mpsc::Sender<WatchRequest>,
}

impl Changes {
    pub(crate) async fn open(connection: &Connection, prefix: &[u8], from_revision: i64) -> Result<Self, EtcdError> {
        let create = WatchCreateRequest {
            key: prefix.to_vec(),
            range_end: range_end(prefix),
            start_revision: from_revision,
            // Without this, what was changed at once comes in one message of any size.
            fragment: true,
        };
        let request = WatchRequest { create: Some(create) };
        let (requests, answers, first) = connection
            .attempt(|grpc, headers| {
                let request = request.clone();
                async move {
                    let (requests, messages) = mpsc::channel(1);
                    let _ = requests.try_send(request);
                    let messages = ReceiverStream::new(messages);
                    let mut answers: Streaming<WatchResponse> =
                        stream(grpc, headers, "/etcdserverpb.Watch/Watch", messages).await?;
                    let first = answers.message().await?.ok_or_else(ended)?;
                    Ok((requests, answers, first))
                }
            })
            .await?;
        let turn = connection.current_turn();
        if first.created && !first.canceled {
            return Ok(Self {
                connection: connection.clone(),
                turn,
                answers,
                _requests: requests,
            });
        }
        Err(cancellation(first))
    }

    /// The next changes. A future that is dropped loses none.
    ///
    /// # Errors
    /// [`EtcdError::Compacted`] when its history was forgotten before it was read; [`EtcdError::Unreachable`] when the
    /// connection breaks; [`EtcdError::Refused`]. It is of no more use then.
    pub async fn next(&mut self) -> Result<Vec<Change>, EtcdError> {
        let answer = self.answers.message().await.and_then(|answer| answer.ok_or_else(ended));
        let answer = answer.map_err(|status| self.connection.stream_failure(self.turn, &status))?;
        if answer.canceled {
            return Err(cancellation(answer));
        }
        Ok(answer.events.into_iter().filter_map(change).collect())
    }
}

fn ended() -> Status {
    Status::unavailable("the stream ended")
}

fn cancellation(answer: WatchResponse) -> EtcdError {
    if answer.compact_revision > 0 {
        return EtcdError::Compacted {
            first: answer.compact_revision,
        };
    }
    EtcdError::Refused {
        reason: answer.cancel_reason,
    }
}

fn change(event: Event) -> Option<Change> {
    let kv = KeyValue::from(event.kv?);
    Some(if event.kind == 1 {
        Change::Delete(kv)
    } else {
        Change::Put(kv)
    })
}
