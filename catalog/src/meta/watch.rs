//! Watching keys: what is told, and the loop that tells it.
//!
//! A watch begins with all that there is, and goes on with each change. Where the chain of changes breaks, it begins
//! anew; so whoever watches keeps what the events say and never needs to know what it missed.
//!
//! States of a watch, each entered with its event: in step (`Reset`, then `Put` and `Delete`), away (`Away`),
//! foreign (`Foreign`). From the last two it comes back with `Reset` alone.
//!
//! Why the events go through a queue of a few and wait there: a consumer that is slow must cost no memory. What it
//! has not taken yet stays in the store's history, and where that is shorter than what it missed it gets a `Reset`.

use std::future::pending;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Entry, MetaError};

/// How many events wait for the consumer of a watch, beside the one that is under way.
const QUEUE_EVENTS: usize = 16;

/// How long a watch waits before it asks a store again that was away.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// What a watch tells.
#[derive(Debug)]
pub enum WatchEvent {
    /// All keys with the prefix, in byte order, as they are at one moment. Forget what was known before. The changes
    /// that follow are those after `revision`.
    Reset {
        /// The keys with their entries.
        entries: Vec<(String, Entry)>,
        /// The revision of the last change, of whichever key, at that moment.
        revision: u64,
    },
    /// A key was put.
    Put {
        /// The key.
        key: String,
        /// Its value, and the revision of this put.
        entry: Entry,
    },
    /// A key was removed, by somebody or because its lease ended.
    Delete {
        /// The key.
        key: String,
        /// The revision of this removal. What ends with one lease may share one.
        revision: u64,
    },
    /// The store cannot be reached. What is known stays the best there is; a `Reset` follows when it is back.
    Away(MetaError),
    /// The store does not hold the cluster that the watch is bound to ([`MetaError::Foreign`]). What is known stays
    /// the best there is; a `Reset` follows if it holds that cluster again.
    Foreign(MetaError),
}

/// The changes of all keys with a prefix, each once and in the order of their revisions. Never ends by itself;
/// dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<WatchEvent>,
    ended: bool,
}

impl Watch {
    /// A watch, and what feeds it. For implementations of [`MetaStore`](super::MetaStore).
    #[must_use]
    pub fn new() -> (WatchFeed, Self) {
        let (sender, events) = mpsc::channel(QUEUE_EVENTS);
        (WatchFeed { events: sender }, Self { events, ended: false })
    }

    /// The next event. A future that is dropped loses none.
    pub async fn next(&mut self) -> WatchEvent {
        match self.events.recv().await {
            Some(event) => event,
            None if self.ended => pending().await,
            None => {
                self.ended = true;
                WatchEvent::Away(MetaError::Store {
                    operation: "watch",
                    source: "what feeds the watch has ended".into(),
                })
            }
        }
    }
}

/// The side of a [`Watch`] that tells.
#[derive(Debug)]
pub struct WatchFeed {
    events: mpsc::Sender<WatchEvent>,
}

impl WatchFeed {
    /// Tells an event; waits until there is room for it.
    ///
    /// # Errors
    /// [`WatchDropped`] when nobody watches any more.
    pub async fn send(&self, event: WatchEvent) -> Result<(), WatchDropped> {
        self.events.send(event).await.map_err(|_| WatchDropped)
    }

    /// Ends when nobody watches any more.
    pub async fn dropped(&self) {
        self.events.closed().await;
    }
}

/// Nobody watches any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody watches any more")]
pub struct WatchDropped;

/// Where a watch's events come from.
#[async_trait]
pub(super) trait Source: Send {
    /// All there is, as a `Reset`. [`Self::changes`] goes on from that moment.
    async fn reset(&mut self) -> Result<WatchEvent, MetaError>;

    /// The next changes; waits until there are some. `None` when they are forgotten already.
    async fn changes(&mut self) -> Result<Option<Vec<WatchEvent>>, MetaError>;
}

/// Feeds a watch from a source, in a task that ends when the watch is dropped.
pub(super) fn spawn(mut source: impl Source + 'static) -> Watch {
    let (feed, watch) = Watch::new();
    tokio::spawn(async move {
        tokio::select! {
            () = feed.dropped() => {}
            _ = tell(&feed, &mut source) => {}
        }
    });
    watch
}

async fn tell(feed: &WatchFeed, source: &mut impl Source) -> Result<(), WatchDropped> {
    // The same news is told once, however often the store is asked in vain.
    let mut told: Option<bool> = None;
    loop {
        let Err(error) = tell_in_step(feed, source, &mut told).await? else {
            continue;
        };
        let foreign = matches!(error, MetaError::Foreign { .. });
        if told != Some(foreign) {
            told = Some(foreign);
            tracing::warn!(error = %super::super::error::Sentence::of(&error), "the watch of the metadata store is interrupted");
            let event = if foreign { WatchEvent::Foreign } else { WatchEvent::Away };
            feed.send(event(error)).await?;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// A reset and what follows it, until the changes are forgotten or the store fails.
async fn tell_in_step(
    feed: &WatchFeed,
    source: &mut impl Source,
    told: &mut Option<bool>,
) -> Result<Result<(), MetaError>, WatchDropped> {
    let reset = match source.reset().await {
        Ok(reset) => reset,
        Err(error) => return Ok(Err(error)),
    };
    *told = None;
    feed.send(reset).await?;
    loop {
        match source.changes().await {
            Ok(Some(events)) => {
                for event in events {
                    feed.send(event).await?;
                }
            }
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        }
    }
}
