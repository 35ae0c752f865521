//! Chunks in shared memory, one sealed [`Segment`] each.
//!
//! A chunk is admitted on its second touch: a table that is scanned once leaves nothing behind, and the scan does not
//! pay for keeping it, unless a rule says so or its reader will come again. What is admitted, and what goes for it, the
//! [policy](crate::policy) decides before anything is decoded: a [`Place`] holds the room until the chunk is filled in, or gives
//! it back when it is dropped. What an errand demands, and what is pinned, needs no second touch.
//!
//! States of a key: unknown, touched, placed, held.
//!
//! Lock order: the one lock here is never held while the budget is asked, since the budget asks back; and what is evicted
//! is dropped after it is released.

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arrow::array::ArrayRef;
use arrow::buffer::Buffer;
use parking_lot::Mutex;

use super::live::LiveSegments;
use super::runs::{Runs, renumbered};
use super::segment::{Layout, Segment};
use super::{Chunk, ChunkKey, Place, Sought};
use crate::budget::{Budget, Purpose, Reservation, Yielding};
use crate::counters::{self, Tier};
use crate::key::{FileId, FileKey, sum_of};
use crate::policy::{Offer, ScopedPolicy};
use crate::retention::{Keep, Reread, Retentions, Terms};
use crate::unkept::Unkept;

/// A chunk may take this part of the whole tier at most, so that one column does not drive out all others.
const LARGEST_SHARE: u64 = 4;
/// Keys whose touch is remembered, in each of two sets; as hashes they take 16 MiB.
const TOUCHED_KEYS: usize = 1 << 19;

/// Chunks in shared memory, up to a number of bytes and within a budget. Cheap to clone; clones are one tier.
#[derive(Clone)]
pub struct ChunkTier(Arc<Inner>);

struct Inner {
    budget: Budget,
    retentions: Retentions,
    live: LiveSegments,
    state: Mutex<State>,
}

struct State {
    policy: ScopedPolicy<ChunkKey>,
    touched: Touched,
    held: HashMap<ChunkKey, Chunk>,
    by_file: HashMap<FileId, OfFile>,
}

/// The chunks of one file version.
struct OfFile {
    file: FileKey,
    since: SystemTime,
    keys: HashSet<ChunkKey>,
}

impl fmt::Debug for ChunkTier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkTier")
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

impl ChunkTier {
    /// An empty tier that holds up to `capacity_bytes` of `budget`; 0 holds nothing.
    #[must_use]
    pub(crate) fn new(capacity_bytes: u64, budget: Budget, retentions: Retentions) -> Self {
        Self(Arc::new(Inner {
            budget,
            retentions,
            live: LiveSegments::default(),
            state: Mutex::new(State {
                policy: ScopedPolicy::new(capacity_bytes),
                touched: Touched::default(),
                held: HashMap::new(),
                by_file: HashMap::new(),
            }),
        }))
    }

    /// The chunk, where it is held.
    #[must_use]
    pub fn get(&self, key: &ChunkKey) -> Option<Chunk> {
        let mut state = self.0.state.lock();
        let chunk = state.held.get(key).cloned()?;
        state.policy.touch(*key);
        Some(chunk)
    }

    /// The segment that all bytes of a buffer are in, and where in it they begin; also of chunks that were evicted since.
    #[must_use]
    pub fn segment_of(&self, buffer: &Buffer) -> Option<(Arc<Segment>, u64)> {
        self.0.live.of(buffer)
    }

    /// Whether the chunk is held, without touching it.
    #[must_use]
    pub fn contains(&self, key: &ChunkKey) -> bool {
        self.0.state.lock().held.contains_key(key)
    }

    /// Whether any chunk of a file version is held.
    #[must_use]
    pub(crate) fn holds_any(&self, file: FileId) -> bool {
        self.0.state.lock().by_file.contains_key(&file)
    }

    /// Room for a chunk of `file` of about so many bytes, where it is worth keeping: whether it fits, and was asked for
    /// before or will be again.
    ///
    /// Each call counts as a touch of the key. None also while another has a place for the key.
    #[must_use]
    pub fn place(&self, key: &ChunkKey, file: &FileKey, bytes: u64, reread: Reread) -> Option<Place> {
        let terms = self.0.retentions.of(&file.uri).expecting(reread);
        if terms.keep == Keep::Never {
            return None;
        }
        if !self.0.state.lock().is_wanted(key, &terms) {
            return None;
        }
        // From here on, dropping the place takes the key out of the policy again.
        let mut place = self.settle(key, file, bytes, terms.offer(None)).ok()?;
        place.reservation = Some(self.0.budget.take(bytes, Purpose::Chunks)?);
        Some(place)
    }

    /// Room for a chunk of `file` of about so many bytes, whether it was asked for before or not, where nothing else has to go
    /// for it. No touch of the key.
    pub(crate) fn place_in_free_room(&self, key: &ChunkKey, file: &FileKey, bytes: u64) -> Option<Place> {
        let terms = self.0.retentions.of(&file.uri);
        if terms.keep == Keep::Never || bytes > self.0.state.lock().free_bytes() {
            return None;
        }
        let reservation = self.0.budget.take_free(bytes, Purpose::Chunks)?;
        let mut place = self.settle(key, file, bytes, terms.offer(None)).ok()?;
        place.reservation = Some(reservation);
        Some(place)
    }

    /// Room for a chunk of `file` of about as many bytes as were reserved, which the errand of number `by` demands: whether
    /// it was asked for before or not, and others go for it.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn place_demanded(
        &self,
        key: &ChunkKey,
        file: &FileKey,
        reservation: Reservation,
        by: u64,
    ) -> Result<Place, Unkept> {
        let offer = self.0.retentions.of(&file.uri).offer(Some(by));
        let mut place = self.settle(key, file, reservation.bytes(), offer)?;
        place.reservation = Some(reservation);
        Ok(place)
    }

    /// Stored bytes of those chunks that are held, are on their way, or would be kept if they were read now. No touch of any.
    pub(crate) fn warm_bytes(&self, sought: &[Sought]) -> u64 {
        let all_bytes = sum_of(sought.iter().map(|sought| &sought.decoded_bytes));
        let state = self.0.state.lock();
        let (mut room, mut taken_bytes) = (None, 0_u64);
        let warm = sought.iter().filter(|sought| {
            // A key that the policy knows without a chunk is on its way.
            if state.policy.contains(&sought.key) {
                return true;
            }
            if sought.comes_later || !state.would_keep(sought) {
                return false;
            }
            // What is pinned does not compete.
            if sought.terms.pinned_decoded {
                return true;
            }
            // The chunks of one answer were mostly read together, so what there is for one there is for all of them.
            let find = || state.policy.room_for(&sought.key, all_bytes, sought.terms.quota);
            let with_it = taken_bytes.saturating_add(sought.decoded_bytes);
            let fits = with_it <= *room.get_or_insert_with(find);
            if fits {
                taken_bytes = with_it;
            }
            fits
        });
        sum_of(warm.map(|sought| &sought.stored_bytes))
    }

    /// Counts a read of chunks by a reader that decodes for itself: of each that is neither held nor on its way it is the touch
    /// that a read here is, so that the next one finds it wanted.
    pub(crate) fn pass(&self, sought: &[Sought]) {
        let mut state = self.0.state.lock();
        for Sought {
            key,
            terms,
            decoded_bytes,
            ..
        } in sought
        {
            let is_passed = terms.keep != Keep::Never && !state.policy.contains(key);
            if is_passed && state.is_wanted(key, terms) && *decoded_bytes <= state.largest_bytes() {
                state.policy.pass(*key, *decoded_bytes, terms.quota);
            }
        }
    }

    /// Whether a chunk of a file may be kept at all, by the rules and by what it is expected to take.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn allows(&self, file: &FileKey, bytes: u64) -> Result<(), Unkept> {
        let terms = self.0.retentions.of(&file.uri);
        let largest_bytes = self.largest_bytes();
        match terms.quota {
            _ if terms.keep == Keep::Never => Err(Unkept::Rule),
            _ if bytes > largest_bytes => Err(Unkept::TooLarge { bytes, largest_bytes }),
            Some(quota) if bytes > quota.bytes => Err(Unkept::Quota {
                quota_bytes: quota.bytes,
            }),
            _ => Ok(()),
        }
    }

    /// A place without a reservation, as the policy decides.
    fn settle(&self, key: &ChunkKey, file: &FileKey, bytes: u64, offer: Offer) -> Result<Place, Unkept> {
        let (refused, evicted) = self.0.state.lock().admit(*key, bytes, offer);
        drop(evicted);
        match refused {
            Some(refused) => Err(refused),
            None => Ok(Place {
                key: *key,
                file: file.clone(),
                offer,
                bytes,
                reservation: None,
                store: Some(self.clone()),
            }),
        }
    }

    /// The chunk, where it is held, without touching it.
    #[must_use]
    pub(crate) fn peek(&self, key: &ChunkKey) -> Option<Chunk> {
        self.0.state.lock().held.get(key).cloned()
    }

    /// Protects a chunk, where it is held, as if the errand of number `by` demanded it now; whether it is.
    pub(crate) fn protect(&self, key: &ChunkKey, by: u64) -> bool {
        let mut state = self.0.state.lock();
        let is_held = state.held.contains_key(key);
        if is_held {
            state.policy.protect(*key, Some(by));
        }
        is_held
    }

    /// Drops a chunk.
    pub(crate) fn remove(&self, key: &ChunkKey) {
        let removed = {
            let mut state = self.0.state.lock();
            match state.held.contains_key(key) {
                true => {
                    state.policy.remove(key);
                    state.take_out(vec![*key])
                }
                false => Vec::new(),
            }
        };
        counters::evictions(Tier::Chunk, "removed", removed.len());
    }

    /// Says anew which chunks are pinned, and evicts what pins alone held beyond the capacity or a quota.
    pub(crate) fn set_pins(&self) {
        let evicted = {
            let mut state = self.0.state.lock();
            let State { policy, by_file, .. } = &mut *state;
            // What is on its way has no file here yet; it is pinned as it came.
            let is_pinned = |key: &ChunkKey| {
                let uri = &by_file.get(&key.file)?.file.uri;
                Some(self.0.retentions.of(uri).pinned_decoded)
            };
            let keys = policy.set_pins(is_pinned);
            state.take_out(keys)
        };
        counters::evictions(Tier::Chunk, "unpinned", evicted.len());
    }

    /// Bytes of chunks that are pinned.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.0.state.lock().policy.pinned_bytes()
    }

    /// Bytes of chunks that there is room for.
    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.0.state.lock().policy.capacity_bytes()
    }

    /// Bytes of the largest chunk that is kept.
    pub(crate) fn largest_bytes(&self) -> u64 {
        self.0.state.lock().largest_bytes()
    }

    /// Drops what is held of this file, and says how many bytes that was.
    pub fn remove_file(&self, file: FileId) -> u64 {
        let removed = self.0.state.lock().remove_file(file);
        counters::evictions(Tier::Chunk, "removed", removed.len());
        removed.iter().map(|chunk| chunk.bytes).sum()
    }

    /// The file versions that anything is held of, besides these.
    #[must_use]
    pub fn files(&self, besides: &HashSet<FileId>) -> Vec<FileKey> {
        let state = self.0.state.lock();
        let others = state.by_file.iter().filter(|(file, _)| !besides.contains(*file));
        others.map(|(_, of)| of.file.clone()).collect()
    }

    /// When the first chunk came that is held of a file version.
    #[must_use]
    pub fn held_since(&self, file: FileId) -> Option<SystemTime> {
        self.0.state.lock().by_file.get(&file).map(|of| of.since)
    }

    /// Drops what is beyond quotas that were set anew.
    pub(crate) fn rescope(&self) {
        let evicted = {
            let mut state = self.0.state.lock();
            let State { policy, by_file, .. } = &mut *state;
            // What is on its way has no file here yet; it comes under its quota when it has come.
            let uri_of = |key: &ChunkKey| Some(&by_file.get(&key.file)?.file.uri);
            let keys = policy.set_quotas(|key| self.0.retentions.of(uri_of(key)?).quota);
            state.take_out(keys)
        };
        counters::evictions(Tier::Chunk, "quota", evicted.len());
    }

    /// What is held of a file version, with its bytes.
    #[must_use]
    pub fn held(&self, file: FileId) -> Vec<(ChunkKey, u64)> {
        let state = self.0.state.lock();
        let keys = state.by_file.get(&file).into_iter().flat_map(|of| &of.keys);
        keys.filter_map(|key| Some((*key, state.held.get(key)?.bytes)))
            .collect()
    }

    /// Bytes held now, those included that readers still use though they were evicted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.budget.used_bytes(Purpose::Chunks)
    }
}

impl Yielding for ChunkTier {
    /// A chunk that a reader or a client still holds frees nothing when it is dropped, so this goes on until the bytes are
    /// free, or nothing is left to drop.
    fn give_way(&self, bytes: u64) {
        let mut short = bytes;
        while short > 0 {
            let before = self.bytes();
            let (keys, evicted) = {
                let mut state = self.0.state.lock();
                let keys = state.policy.evict(short);
                (keys.len(), state.take_out(keys))
            };
            counters::evictions(Tier::Chunk, "budget", evicted.len());
            drop(evicted);
            if keys == 0 {
                break;
            }
            short = short.saturating_sub(before.saturating_sub(self.bytes()));
        }
    }
}

impl ChunkTier {
    /// Moves a column's arrays to their place. Where they cannot be kept after all, the chunk is given as it is.
    pub(super) fn fill(&self, mut place: Place, arrays: Vec<ArrayRef>) -> Chunk {
        let arrays = renumbered(arrays);
        let layout = Layout::new(&arrays);
        let bytes = layout.bytes();
        let Some(reservation) = self.resized(place.reservation.take(), bytes) else {
            return Chunk::new(arrays, bytes);
        };
        let (strides, runs) = match Segment::store(&layout, reservation, &self.0.live) {
            Ok(stored) => stored,
            Err(error) => {
                metrics::counter!("jetbridge_cache_segment_failures_total").increment(1);
                tracing::warn!(%error, "a decoded chunk was not kept: no shared memory for it");
                return Chunk::new(arrays, bytes);
            }
        };
        let chunk = Chunk {
            runs: runs.map(|wholes| Arc::new(Runs::new(wholes, self.0.budget.clone(), self.0.live.clone()))),
            ..Chunk::new(strides, bytes)
        };
        let evicted = self.0.state.lock().put(&place, chunk.clone());
        place.store = None;
        drop(evicted);
        chunk
    }

    /// A reservation of at least `bytes`: the one at hand, or a larger one in its place.
    fn resized(&self, reservation: Option<Reservation>, bytes: u64) -> Option<Reservation> {
        match reservation {
            Some(enough) if enough.bytes() >= bytes => Some(enough),
            short => {
                drop(short);
                self.0.budget.take(bytes, Purpose::Chunks)
            }
        }
    }

    /// Forgets a place that was not filled.
    pub(super) fn vacate(&self, key: &ChunkKey) {
        let mut state = self.0.state.lock();
        if !state.held.contains_key(key) {
            state.policy.remove(key);
        }
    }
}

impl State {
    /// Whether a key is worth a place: once it was touched before, by a rule, or as it is pinned. Each call is a touch.
    fn is_wanted(&mut self, key: &ChunkKey, terms: &Terms) -> bool {
        self.touched.touch(key) || terms.is_kept_at_once()
    }

    /// Whether a chunk that is neither held nor on its way would get a place now, where there is room. No touch.
    fn would_keep(&self, sought: &Sought) -> bool {
        let Sought {
            key,
            terms,
            decoded_bytes,
            ..
        } = sought;
        let is_wanted = terms.is_kept_at_once() || self.touched.has(key.hash());
        terms.keep != Keep::Never && is_wanted && *decoded_bytes <= self.largest_bytes()
    }

    /// Bytes of the largest chunk that is kept.
    fn largest_bytes(&self) -> u64 {
        self.policy.capacity_bytes() / LARGEST_SHARE
    }

    /// Bytes for which nothing has to go.
    fn free_bytes(&self) -> u64 {
        self.policy.capacity_bytes().saturating_sub(self.policy.bytes())
    }

    /// Why a key is not admitted, where it is not; and what goes for it.
    fn admit(&mut self, key: ChunkKey, bytes: u64, offer: Offer) -> (Option<Unkept>, Vec<Chunk>) {
        let largest_bytes = self.largest_bytes();
        if bytes > largest_bytes {
            return (Some(Unkept::TooLarge { bytes, largest_bytes }), Vec::new());
        }
        // A key that the policy knows without a chunk is on its way already.
        if self.policy.contains(&key) {
            return (Some(Unkept::Memory), Vec::new());
        }
        let decision = self.policy.offer(key, bytes, offer);
        (decision.refused, self.evict(decision.evicted))
    }

    /// Holds a chunk in its place, and gives what goes for it.
    fn put(&mut self, place: &Place, chunk: Chunk) -> Vec<Chunk> {
        let key = place.key;
        // It may have been evicted while it was on its way; and placed anew since, and filled by another, whose chunk stays.
        if !self.policy.contains(&key) || self.held.contains_key(&key) {
            return Vec::new();
        }
        let grown_bytes = chunk.bytes.saturating_sub(self.policy.bytes_of(&key));
        let mut evicted = Vec::new();
        if grown_bytes > 0 {
            let decision = self.policy.offer(key, grown_bytes, place.offer);
            let admitted = decision.admitted();
            evicted = self.evict(decision.evicted);
            if !admitted {
                self.policy.remove(&key);
                return evicted;
            }
        }
        self.held.insert(key, chunk);
        let of_file = self.by_file.entry(key.file).or_insert_with(|| OfFile {
            file: place.file.clone(),
            since: SystemTime::now(),
            keys: HashSet::new(),
        });
        of_file.keys.insert(key);
        evicted
    }

    fn evict(&mut self, keys: Vec<ChunkKey>) -> Vec<Chunk> {
        counters::evictions(Tier::Chunk, "capacity", keys.len());
        self.take_out(keys)
    }

    /// The chunks of keys that the policy has dropped.
    fn take_out(&mut self, keys: Vec<ChunkKey>) -> Vec<Chunk> {
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            taken.extend(self.held.remove(&key));
            if let Some(of_file) = self.by_file.get_mut(&key.file) {
                of_file.keys.remove(&key);
                if of_file.keys.is_empty() {
                    self.by_file.remove(&key.file);
                }
            }
        }
        taken
    }

    fn remove_file(&mut self, file: FileId) -> Vec<Chunk> {
        let of_file = self.by_file.get(&file);
        let keys: Vec<_> = of_file.into_iter().flat_map(|of| &of.keys).copied().collect();
        for key in &keys {
            self.policy.remove(key);
        }
        self.take_out(keys)
    }
}

/// Keys that were asked for, as hashes, in two sets of which the older goes when the younger is full. A clash of hashes
/// admits a chunk one touch early.
#[derive(Default)]
struct Touched {
    younger: HashSet<u64>,
    older: HashSet<u64>,
}

impl Touched {
    /// Whether the key was touched before.
    fn touch(&mut self, key: &ChunkKey) -> bool {
        let hash = key.hash();
        let seen = self.has(hash);
        if self.younger.insert(hash) && self.younger.len() >= TOUCHED_KEYS {
            self.older = std::mem::take(&mut self.younger);
        }
        seen
    }

    /// Whether the key of this hash was touched.
    fn has(&self, hash: u64) -> bool {
        self.younger.contains(&hash) || self.older.contains(&hash)
    }
}
