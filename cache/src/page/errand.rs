//! Loads that nobody waits for: how fast they may ask storage, when they stop, and what they brought.
//!
//! An errand is what reads of one purpose have in common, a preload's for one. A file that is opened for an errand is read
//! as any other, through the same tiers and with the same loads in flight, but: storage is asked at the errand's pace; once
//! it is stopped no request begins and those under way are dropped; and what it brings is kept because it was asked to be,
//! and not by merit. A reader whose load waits for an errand's pace makes it urgent, so that readers wait for no pace. What an
//! errand looks at to know what to bring is asked for at its pace too, and kept as a reader's.
//!
//! # The pace
//! Virtual scheduling (ITU-T I.371): each request is charged for its bytes, and the next may begin once all charges before
//! it are paid off at the rate. What was not used is not saved up, but for [`CREDIT`], which makes up for timers that ring
//! late.
//!
//! Why not a limiter of a library: those that there are fix the rate when they are made, and a job's share of its bandwidth
//! changes as workers come and go; here what is owed is taken over into the new rate.
//!
//! Lock order: `turn`, then `pace`, which is held for arithmetic alone.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// So much of the time that was not used may be made up for.
const CREDIT: Duration = Duration::from_millis(50);
/// A request of an errand with a rate is for what it may fetch in one part in this many of a second, so that a low rate is
/// even.
const REQUESTS_PER_SECOND: u64 = 4;
/// However low the rate, a request may be for so many bytes.
const LEAST_REQUEST_BYTES: u64 = 64 << 10;

/// The next errand's number.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What reads for one purpose have in common. What one errand demanded to be kept is not dropped for the sake of what it
/// demands later, so a job has one errand and not one for each of its parts.
pub struct Errand {
    id: u64,
    fate: Fate,
    stop: CancellationToken,
    pace: Mutex<Pace>,
    /// Whoever has it is the next to be let through.
    turn: tokio::sync::Mutex<()>,
    /// The pace has changed.
    changed: Notify,
    fetched_bytes: AtomicU64,
    peer_bytes: AtomicU64,
    store_requests: AtomicU64,
}

/// What becomes of raw pages that an errand brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// They are kept because they were asked to be.
    Demanded,
    /// They are kept where they are worth it, as a reader's are.
    ByMerit,
    Dropped,
}

impl Errand {
    /// An errand without a limit on its rate. Raw pages that it brings are kept, demanded, where `keep_raw` says so, and not
    /// kept otherwise.
    #[must_use]
    pub fn new(keep_raw: bool) -> Arc<Self> {
        Self::of_fate(if keep_raw { Fate::Demanded } else { Fate::Dropped })
    }

    /// The same for one that looks at files and demands nothing: its raw pages are kept as if a reader had brought them.
    #[must_use]
    pub fn looking() -> Arc<Self> {
        Self::of_fate(Fate::ByMerit)
    }

    fn of_fate(fate: Fate) -> Arc<Self> {
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            fate,
            stop: CancellationToken::new(),
            pace: Mutex::new(Pace::new(Instant::now())),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            fetched_bytes: AtomicU64::new(0),
            peer_bytes: AtomicU64::new(0),
            store_requests: AtomicU64::new(0),
        })
    }

    /// Sets how many bytes a second storage may be asked for from now on; no limit where none. What peers give is not
    /// limited. 0 is taken for 1.
    pub fn set_rate(&self, bytes_per_s: Option<u64>) {
        let rate = bytes_per_s.map(|rate| NonZeroU64::new(rate).unwrap_or(NonZeroU64::MIN));
        self.pace.lock().set_rate(rate, Instant::now());
        self.changed.notify_one();
    }

    /// Ends it: no request to storage or peers begins after this, and those under way are dropped within milliseconds. Reads
    /// for it fail with [`UfsErrorKind::Stopped`](crate::ufs::UfsErrorKind::Stopped).
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether it was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Bytes that storage gave for it so far.
    #[must_use]
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that peers gave for it so far.
    #[must_use]
    pub fn peer_bytes(&self) -> u64 {
        self.peer_bytes.load(Ordering::Relaxed)
    }

    /// How many ranged reads it asked of storage so far; one that a broken connection made two counts once.
    #[must_use]
    pub fn store_requests(&self) -> u64 {
        self.store_requests.load(Ordering::Relaxed)
    }

    /// Whether raw pages that it brings are kept, as a demand.
    #[must_use]
    pub fn keeps_raw(&self) -> bool {
        self.fate == Fate::Demanded
    }

    /// Whether they are kept as a reader's are.
    pub(super) fn keeps_by_merit(&self) -> bool {
        self.fate == Fate::ByMerit
    }

    /// Its number, which no other errand of this process has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Whether it has a rate.
    pub(crate) fn is_paced(&self) -> bool {
        self.pace.lock().rate.is_some()
    }

    /// Bytes that one request may be for, of at most so many.
    pub(super) fn request_bytes(&self, most: u64) -> u64 {
        let rate = self.pace.lock().rate;
        rate.map_or(most, |rate| {
            (rate.get() / REQUESTS_PER_SECOND).max(LEAST_REQUEST_BYTES).min(most)
        })
    }

    /// Waits for the turn of a request of so many bytes that another node makes of storage for it, and charges for it. None
    /// once it is stopped.
    pub async fn turn(&self, bytes: u64) -> Option<Pass<'_>> {
        self.unless_stopped(self.pass(bytes)).await
    }

    /// Charges for what another node asked of storage for it beyond that. It is paid off before the next turn.
    pub fn charge(&self, bytes: u64) {
        self.pace.lock().charge(bytes, Instant::now());
    }

    /// Waits for the turn of a request of so many bytes, and charges for it.
    pub(super) async fn pass(&self, bytes: u64) -> Pass<'_> {
        let _turn = self.turn.lock().await;
        loop {
            let wait = {
                let (mut pace, now) = (self.pace.lock(), Instant::now());
                let wait = pace.wait(now);
                if wait.is_zero() {
                    return Pass::new(self, pace.charge(bytes, now));
                }
                wait
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Charges for a request of so many bytes that waits for nothing.
    pub(super) fn pass_now(&self, bytes: u64) -> Pass<'_> {
        let charged_bytes = self.pace.lock().charge(bytes, Instant::now());
        Pass::new(self, charged_bytes)
    }

    /// Ends work when the errand is stopped: none then.
    pub(crate) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            done = work => Some(done),
        }
    }

    /// Counts what storage gave.
    pub(super) fn count_fetched(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts what a peer gave.
    pub(super) fn count_from_peer(&self, bytes: u64) {
        self.peer_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errand")
            .field("id", &self.id)
            .field("fate", &self.fate)
            .field("stopped", &self.is_stopped())
            .field("fetched_bytes", &self.fetched_bytes())
            .finish_non_exhaustive()
    }
}

/// Leave to ask storage. What was charged is given back when it is dropped unused.
#[derive(Debug)]
#[must_use]
pub struct Pass<'a> {
    errand: &'a Errand,
    charged_bytes: u64,
}

impl<'a> Pass<'a> {
    fn new(errand: &'a Errand, charged_bytes: u64) -> Self {
        Self { errand, charged_bytes }
    }

    /// The request begins.
    pub fn spend(mut self) {
        self.charged_bytes = 0;
        self.errand.store_requests.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.charged_bytes > 0 {
            self.errand.pace.lock().refund(self.charged_bytes, Instant::now());
            self.errand.changed.notify_one();
        }
    }
}

/// When the next request may begin.
#[derive(Debug)]
struct Pace {
    rate: Option<NonZeroU64>,
    /// When all that was charged is paid off.
    free_at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            rate: None,
            free_at: now,
        }
    }

    /// How long the next request has to wait.
    fn wait(&self, now: Instant) -> Duration {
        match self.rate {
            Some(_) => self.free_at.saturating_duration_since(now),
            None => Duration::ZERO,
        }
    }

    /// Charges for a request, and says how many bytes: none without a rate, of which nothing can be given back later.
    fn charge(&mut self, bytes: u64, now: Instant) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let from = now
            .checked_sub(CREDIT)
            .map_or(now, |earliest| self.free_at.max(earliest));
        self.free_at = later(from, time_of(bytes, rate));
        bytes
    }

    fn refund(&mut self, bytes: u64, now: Instant) {
        if let Some(rate) = self.rate {
            self.free_at = self.free_at.checked_sub(time_of(bytes, rate)).unwrap_or(now);
        }
    }

    /// What is owed is paid off at the new rate.
    fn set_rate(&mut self, rate: Option<NonZeroU64>, now: Instant) {
        let owed_bytes = self.rate.map_or(0, |old| bytes_in(self.wait(now), old));
        if rate != self.rate {
            self.free_at = later(now, rate.map_or(Duration::ZERO, |new| time_of(owed_bytes, new)));
            self.rate = rate;
        }
    }
}

fn later(from: Instant, by: Duration) -> Instant {
    from.checked_add(by).unwrap_or(from)
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

fn time_of(bytes: u64, rate: NonZeroU64) -> Duration {
    let nanos = u128::from(bytes) * NANOS_PER_SECOND / u128::from(rate.get());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn bytes_in(time: Duration, rate: NonZeroU64) -> u64 {
    let bytes = time.as_nanos().saturating_mul(u128::from(rate.get())) / NANOS_PER_SECOND;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn paced(rate: u64, now: Instant) -> Pace {
        let mut pace = Pace::new(now);
        pace.set_rate(NonZeroU64::new(rate), now);
        pace
    }

    /// Requests of a clock of its own: when each of them begins, in milliseconds.
    fn begun(pace: &mut Pace, start: Instant, requests: &[u64]) -> Vec<u128> {
        let mut now = start;
        let begin = requests.iter().map(|bytes| {
            now += pace.wait(now);
            pace.charge(*bytes, now);
            (now - start).as_millis()
        });
        begin.collect()
    }

    #[test]
    fn requests_begin_at_the_rate() {
        let start = Instant::now() + Duration::from_secs(1);
        let mut pace = paced(MIB, start);
        let quarters = [MIB / 4; 9];
        let at = begun(&mut pace, start, &quarters);
        assert_eq!(at, [0, 250, 500, 750, 1_000, 1_250, 1_500, 1_750, 2_000]);
        // What was not used for an hour is not saved up, but for the credit.
        let later = start + Duration::from_secs(3_600);
        assert_eq!(begun(&mut pace, later, &[MIB, MIB, MIB])[1..], [950, 1_950]);
    }

    #[test]
    fn what_is_owed_is_paid_off_at_the_new_rate() {
        let start = Instant::now();
        let mut pace = paced(MIB, start);
        pace.charge(10 * MIB, start);
        let second = start + Duration::from_secs(1);
        pace.set_rate(NonZeroU64::new(3 * MIB), second);
        assert_eq!(pace.wait(second).as_millis(), 3_000);
        pace.set_rate(None, second);
        assert_eq!(pace.wait(second), Duration::ZERO);
        pace.charge(100 * MIB, second);
        pace.set_rate(NonZeroU64::new(1), second);
        assert_eq!(pace.wait(second), Duration::ZERO, "what no rate was for is not owed");
    }

    #[test]
    fn what_never_began_is_not_owed() {
        let errand = Errand::new(true);
        errand.set_rate(Some(1));
        drop(errand.pass_now(1_000));
        assert_eq!(errand.pace.lock().wait(Instant::now()), Duration::ZERO);
        errand.pass_now(1_000).spend();
        assert!(errand.pace.lock().wait(Instant::now()) > Duration::from_secs(900));
        assert_eq!(errand.store_requests(), 1);
    }

    /// It would pay off what others owe.
    #[test]
    fn what_no_rate_was_for_is_not_given_back() {
        let errand = Errand::new(true);
        let free = errand.pass_now(1_000);
        errand.set_rate(Some(1));
        errand.pass_now(1_000).spend();
        drop(free);
        assert!(errand.pace.lock().wait(Instant::now()) > Duration::from_secs(900));
    }

    #[test]
    fn low_rates_make_small_requests() {
        let errand = Errand::new(true);
        assert_eq!(errand.request_bytes(16 * MIB), 16 * MIB);
        for (rate, expected) in [(MIB, MIB / 4), (1, LEAST_REQUEST_BYTES), (1 << 40, 16 * MIB)] {
            errand.set_rate(Some(rate));
            assert_eq!(errand.request_bytes(16 * MIB), expected);
        }
        assert_eq!(errand.request_bytes(1_000), 1_000);
    }

    #[tokio::test]
    async fn whoever_waits_goes_on_when_the_rate_rises() {
        let errand = Errand::new(true);
        errand.set_rate(Some(1));
        errand.pass(1 << 30).await.spend();
        let mut waiting = Box::pin(errand.pass(1));
        assert!(futures::poll!(&mut waiting).is_pending());
        errand.set_rate(None);
        waiting.await.spend();
    }
}
