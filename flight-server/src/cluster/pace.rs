//! How other nodes keep up with plans, and which of them plans leave alone.
//!
//! A plan asks for so much at once that a long wait for one answer says little of a node: the question may stand behind
//! thousands of others. Two things do say something. Whoever shows one of them is left alone by plans for a while
//! ([`ALONE`]), which go on with the other holders and with storage at once:
//!
//! * Silence: a question of a plan has waited for its time, and no other was answered in that time either. Each answer ends
//!   the silence, so a queue, however long, is none as long as it moves.
//! * Lateness: a node says itself that a footer takes it too long, as one does whose storage hangs. Each footer that it is
//!   late with counts for one, each that it is not takes one away, and [`MOST_LATE`] are too many.
//!
//! Why apart from the pool's own shun: who cannot read now what plans ask for may be as good as ever for what it holds.
//! Readers go on asking it for pages, and nobody suspects that it is lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How long plans leave a node alone.
const ALONE: Duration = Duration::from_secs(10);
/// So many more footers that a node is late with than others are too many: those that a plan asks for first, each by a call
/// of its own, are enough to learn it from.
const MOST_LATE: u32 = 3;
/// Most nodes that are remembered.
const MOST_NODES: usize = 4096;

/// The nodes that plans have asked.
#[derive(Debug, Default)]
pub(super) struct Paces {
    nodes: Mutex<HashMap<String, Pace>>,
    /// Told when a node is left alone.
    news: Notify,
}

/// How a node keeps up.
#[derive(Debug, Default)]
struct Pace {
    /// When it last answered a plan.
    answered: Option<Instant>,
    /// Footers that it was late with, less those that it was not.
    late: u32,
    alone_until: Option<Instant>,
}

impl Paces {
    /// A node answered a plan.
    pub(super) fn answered(&self, id: &str, now: Instant) {
        self.note(id, now, |pace| {
            pace.answered = Some(now);
            false
        });
    }

    /// A node answered a plan that asked for a footer, if only that it is late with it.
    pub(super) fn answered_footer(&self, id: &str, is_late: bool, now: Instant) {
        self.note(id, now, |pace| {
            pace.answered = Some(now);
            pace.late = match is_late {
                true => pace.late + 1,
                false => pace.late.saturating_sub(1),
            };
            pace.late >= MOST_LATE
        });
    }

    /// A plan waited for so long for an answer that did not come.
    pub(super) fn waited(&self, id: &str, time: Duration, now: Instant) {
        self.note(id, now, |pace| {
            let silence = pace.answered.map(|answered| now.saturating_duration_since(answered));
            silence.is_none_or(|silence| silence >= time)
        });
    }

    /// Whether plans leave a node alone.
    pub(super) fn is_left_alone(&self, id: &str, now: Instant) -> bool {
        let nodes = self.nodes.lock();
        let alone_until = nodes.get(id).and_then(|pace| pace.alone_until);
        alone_until.is_some_and(|until| now < until)
    }

    /// Completes once plans leave a node alone.
    pub(super) async fn left_alone(&self, id: &str) {
        loop {
            // Whatever is told from here on is heard, also before it is waited for.
            let news = self.news.notified();
            if self.is_left_alone(id, Instant::now()) {
                return;
            }
            news.await;
        }
    }

    /// Notes something of a node, which is left alone from now on where that was too much.
    fn note(&self, id: &str, now: Instant, is_too_much: impl FnOnce(&mut Pace) -> bool) {
        let mut nodes = self.nodes.lock();
        if nodes.len() >= MOST_NODES && !nodes.contains_key(id) {
            nodes.clear();
        }
        let pace = nodes.entry(id.to_owned()).or_default();
        if !is_too_much(pace) {
            return;
        }
        *pace = Pace {
            alone_until: Some(now + ALONE),
            ..Pace::default()
        };
        drop(nodes);
        metrics::counter!("jetbridge_peer_failures_total").increment(1);
        tracing::debug!(peer = id, "a peer keeps plans waiting; they leave it alone for a while");
        self.news.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const WAIT: Duration = Duration::from_secs(5);
    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn who_answers_nothing_is_left_alone_for_a_while() {
        let (paces, start) = (Paces::default(), Instant::now());
        assert!(!paces.is_left_alone("a", start));
        paces.waited("a", WAIT, start);
        assert!(paces.is_left_alone("a", start + ALONE - MOMENT));
        assert!(!paces.is_left_alone("a", start + ALONE));
        assert!(!paces.is_left_alone("b", start));
    }

    #[test]
    fn a_queue_that_moves_is_no_silence() {
        let (paces, start) = (Paces::default(), Instant::now());
        paces.answered("a", start);
        let later = start + WAIT - MOMENT;
        paces.waited("a", WAIT, later);
        assert!(!paces.is_left_alone("a", later));
        paces.answered_footer("a", true, later);
        paces.waited("a", WAIT, start + WAIT);
        assert!(!paces.is_left_alone("a", start + WAIT));
        paces.waited("a", WAIT, later + WAIT);
        assert!(paces.is_left_alone("a", later + WAIT));
    }

    #[test]
    fn who_is_late_more_often_than_not_is_left_alone() {
        let (paces, now) = (Paces::default(), Instant::now());
        let say = |said: &[bool]| {
            said.iter()
                .for_each(|&is_late| paces.answered_footer("a", is_late, now))
        };
        say(&[false, false, true, true, false, true, false, true]);
        assert!(!paces.is_left_alone("a", now));
        say(&[true]);
        assert!(paces.is_left_alone("a", now));
        // What it was late with before that does not count afterwards.
        say(&[true, true]);
        assert!(!paces.is_left_alone("a", now + ALONE));
    }

    #[tokio::test]
    async fn whoever_waits_hears_that_a_node_is_left_alone() {
        let (paces, now) = (Paces::default(), Instant::now());
        let mut left_alone = std::pin::pin!(paces.left_alone("a"));
        assert!(left_alone.as_mut().now_or_never().is_none());
        paces.waited("b", WAIT, now);
        assert!(left_alone.as_mut().now_or_never().is_none());
        paces.waited("a", WAIT, now);
        left_alone.await;
        paces.left_alone("a").await;
    }
}
