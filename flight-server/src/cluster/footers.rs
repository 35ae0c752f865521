//! Footers from the node that will read the file, before storage is asked.
//!
//! Whoever plans a dataset needs the footers of all its files, and so does each worker of its own: asked of the owner,
//! storage gives each once, however many nodes plan, and of a small file the owner has the whole then.
//!
//! ```text
//! FooterPeers ── Batches ──peer.footers: many files──> the owner ── reads through what it does not hold, and keeps it
//!                                                          └──peer.known: the same files──> others that may hold them
//! ```
//! A call is about many files, and is answered file by file, as they are read. What comes is a footer's own bytes, not the
//! pages that it lies in: a planner has no use for these. An owner that has to read asks first, once for the whole call, who
//! of the others holds anything; of files that nobody has read yet nobody is asked one by one.
//!
//! A plan that may ask storage for so much a second alone (a job's with a bandwidth) asks for what owners hold first, which costs
//! nothing (`peer.held_footers`), and for each of the others when its turn has come: what the owner reads for it is charged to
//! the plan. The owner knows nothing of that, so a footer that users want too is read for them at once.
//!
//! What an owner does not give is asked for as pages, of the others and of storage: an owner that failed is not asked for
//! the same file again at once. One that says that a footer is too long to be given so is asked for its pages.
//!
//! An owner says of a footer that takes it too long that it is late ([`FOOTER_TIMEOUT`]), so one that reads at all is never
//! silent for longer. One that is, or that is late with one footer after the other, is left alone by plans for a while
//! (`pace`). All that it was asked for by then is without an answer at once, what is queued for it too: the rest of a plan goes
//! on without it, whatever holds it up.
//!
//! Why no time for a question as a whole: most of it would be spent in the queue, which says more of the plan than of the owner.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future;
use jetbridge_cache::first_footer_bytes;
use jetbridge_cache::key::{FileId, FileKey, Generation, GenerationError};
use jetbridge_cache::page::{Errand, Pass, Peers};
use jetbridge_catalog::membership::View;
use jetbridge_catalog::placement::{FileKey as PlacedFile, SplitLoad};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_64;

use super::batches::{Answers, Ask, Batches};
use super::peers::{
    MAX_BODY_BYTES, PLAN_TIMEOUT, PagesRequest, Patience, PeerPool, PieceError, Reach, count_read, is_sound, next_piece,
};
use super::{STAND_INS, Sight};

/// Name of the action that gives footers.
pub const FOOTERS_ACTION: &str = "peer.footers";
/// Name of the action that gives those footers that are held, and reads none.
pub const HELD_FOOTERS_ACTION: &str = "peer.held_footers";
/// Name of the action that tells of which file versions a node holds anything.
pub const KNOWN_ACTION: &str = "peer.known";

/// Most files that one call of `peer.footers` is about.
pub const FILES_PER_CALL: usize = 128;
/// Calls to one owner that are under way at once: one that waits for a slow file does not hold up all others.
const CALLS_AT_ONCE: usize = 3;
/// Longest footer that is given alone, in bytes; of a longer one the pages are worth a call of their own.
pub const MOST_FOOTER_BYTES: u64 = 256 << 10;
/// The most that is given of a file: such a footer with its length and the magic.
const MOST_GIVEN_BYTES: usize = (256 << 10) + 8;
/// How long an owner may take for one footer before it says that it is late.
pub const FOOTER_TIMEOUT: Duration = Duration::from_secs(4);
/// A footer that its owner did not hold so long ago may be held by now.
const HELD_LATELY: Duration = Duration::from_secs(1);
/// Files that a plan opens together: those of them that it reads itself cost one question to each other holder.
pub const FILES_TOGETHER: usize = 1024;
/// Most files that one call of `peer.known` is about.
pub const MAX_KNOWN_FILES: usize = 8 * FILES_TOGETHER;

/// Longest URI and generation together that are asked for with others, in bytes.
const MOST_NAME_BYTES: usize = 4 << 10;
/// What else is written of a file, about.
const FIELDS_BYTES: usize = 128;

const _: () = assert!(MOST_GIVEN_BYTES as u64 == MOST_FOOTER_BYTES + 8);
const _: () = assert!(FOOTER_TIMEOUT.as_millis() < PLAN_TIMEOUT.as_millis());
const _: () = assert!(FILES_PER_CALL * (MOST_NAME_BYTES + FIELDS_BYTES) < MAX_BODY_BYTES);

/// A file version of which the footer is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FooterOf {
    /// The file's canonical storage URI.
    pub uri: String,
    /// Its generation, in the cache's text form.
    pub generation: String,
    /// Its length in bytes.
    pub size: u64,
}

impl FooterOf {
    fn of(file: &FileKey) -> Self {
        Self {
            uri: file.uri.to_string(),
            generation: file.generation.to_string(),
            size: file.size,
        }
    }

    /// Whether its name is too long to be asked for with others.
    fn is_long(&self) -> bool {
        self.uri.len() + self.generation.len() > MOST_NAME_BYTES
    }

    /// The file, as the cache names it.
    ///
    /// # Errors
    /// A generation that is none.
    pub fn key(&self) -> Result<FileKey, GenerationError> {
        Ok(FileKey {
            uri: self.uri.as_str().into(),
            generation: Generation::parse(&self.generation)?,
            size: self.size,
        })
    }
}

/// What `peer.footers` and `peer.held_footers` are asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FootersRequest {
    /// The files.
    pub files: Vec<FooterOf>,
}

/// What they answer of one file; each has one such part, in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FooterPart {
    /// The file's place in the request.
    pub file: u32,
    /// What was found.
    pub found: Found,
}

/// What a node finds of a footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Its bytes, from its first to the end of the file.
    Given(Bytes),
    /// It is longer than [`MOST_FOOTER_BYTES`], or none: the bytes are to be asked for as any others.
    AsPages,
    /// The file cannot be read there now.
    Missing,
    /// It cannot be had there soon: reading it takes too long, or too much is asked for at once.
    Late,
}

const GIVEN: u8 = 0;
const AS_PAGES: u8 = 1;
const MISSING: u8 = 2;
const LATE: u8 = 3;
/// A part's file and kind.
const PART_HEAD_BYTES: usize = 5;
/// The sum before a footer.
const SUM_BYTES: usize = 8;

impl FooterPart {
    /// As it is sent: the file (u32) and the kind of what was found (u8); of a footer then its xxh3-64 and its bytes. Numbers
    /// are little endian.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut part = BytesMut::with_capacity(PART_HEAD_BYTES);
        part.put_u32_le(self.file);
        match &self.found {
            Found::Given(footer) => {
                part.reserve(1 + SUM_BYTES + footer.len());
                part.put_u8(GIVEN);
                part.put_u64_le(xxh3_64(footer));
                part.put_slice(footer);
            }
            Found::AsPages => part.put_u8(AS_PAGES),
            Found::Missing => part.put_u8(MISSING),
            Found::Late => part.put_u8(LATE),
        }
        part.freeze()
    }

    fn decode(mut part: Bytes) -> Result<Self, PieceError> {
        if part.len() < PART_HEAD_BYTES {
            return Err(PieceError::NoAnswer);
        }
        let (file, kind) = (part.get_u32_le(), part.get_u8());
        let found = match kind {
            GIVEN if (SUM_BYTES..=SUM_BYTES + MOST_GIVEN_BYTES).contains(&part.len()) => {
                let sum = part.get_u64_le().to_le_bytes();
                match is_sound(&part, sum) {
                    true => Found::Given(part),
                    false => return Err(PieceError::Damaged),
                }
            }
            AS_PAGES => Found::AsPages,
            MISSING => Found::Missing,
            LATE => Found::Late,
            _ => return Err(PieceError::NoAnswer),
        };
        Ok(Self { file, found })
    }
}

/// What `peer.known` is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownRequest {
    /// Ids of file versions, in the cache's text form.
    pub files: Vec<String>,
}

/// What `peer.known` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct KnownAnswer {
    /// Whether anything is held, one a file.
    pub known: Vec<bool>,
}

/// Calls of `peer.footers`.
pub(super) struct FooterCalls(pub(super) Arc<PeerPool>);

/// Calls of `peer.held_footers`.
pub(super) struct HeldFooterCalls(pub(super) Arc<PeerPool>);

#[async_trait]
impl Ask for FooterCalls {
    type Question = FooterOf;
    type Answer = Found;
    const CALLS: usize = CALLS_AT_ONCE;
    const QUESTIONS: usize = FILES_PER_CALL;

    async fn ask(&self, id: &str, files: Vec<FooterOf>, answers: Answers<Found>) {
        call((self.0.as_ref(), id), FOOTERS_ACTION, files, answers).await;
    }
}

#[async_trait]
impl Ask for HeldFooterCalls {
    type Question = FooterOf;
    type Answer = Found;
    const CALLS: usize = CALLS_AT_ONCE;
    const QUESTIONS: usize = FILES_PER_CALL;

    async fn ask(&self, id: &str, files: Vec<FooterOf>, answers: Answers<Found>) {
        call((self.0.as_ref(), id), HELD_FOOTERS_ACTION, files, answers).await;
    }
}

/// Calls a node for footers, until plans leave it alone.
async fn call((pool, id): (&PeerPool, &str), action: &str, files: Vec<FooterOf>, answers: Answers<Found>) {
    tokio::select! {
        () = take_in((pool, id), action, files, answers) => {}
        () = pool.paces().left_alone(id) => {}
    }
}

async fn take_in((pool, id): (&PeerPool, &str), action: &str, files: Vec<FooterOf>, mut answers: Answers<Found>) {
    let (patience, request) = (Patience::Plan, FootersRequest { files });
    let Some(mut parts) = pool.ask(id, action, &request, patience).await else {
        return;
    };
    for _ in &request.files {
        let part = match timeout(patience.timeout(), next_piece(&mut parts)).await {
            Ok(part) => part.and_then(FooterPart::decode),
            Err(elapsed) => return pool.is_late(id, &elapsed, patience),
        };
        let answered = part.and_then(|part| {
            let (file, is_late) = (
                usize::try_from(part.file).unwrap_or(usize::MAX),
                part.found == Found::Late,
            );
            let is_asked = answers.give(file, part.found);
            is_asked.then_some(is_late).ok_or(PieceError::NoAnswer)
        });
        match answered {
            Ok(is_late) if action == FOOTERS_ACTION => pool.paces().answered_footer(id, is_late, Instant::now()),
            // Who tells what it holds reads nothing: that says nothing of how soon it reads.
            Ok(_) => pool.paces().answered(id, Instant::now()),
            Err(error) => return pool.broke_off(id, &error),
        }
    }
}

/// Whom a node asks for footers.
pub struct FooterHolders {
    pool: Arc<PeerPool>,
    sight: Arc<Sight>,
    footers: Arc<Batches<FooterCalls>>,
    held: Arc<Batches<HeldFooterCalls>>,
}

impl fmt::Debug for FooterHolders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FooterHolders")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl FooterHolders {
    pub(super) fn new(pool: &Arc<PeerPool>, sight: &Arc<Sight>) -> Self {
        Self {
            pool: Arc::clone(pool),
            sight: Arc::clone(sight),
            footers: Batches::new(FooterCalls(Arc::clone(pool))),
            held: Batches::new(HeldFooterCalls(Arc::clone(pool))),
        }
    }

    /// Those that may hold the footers of these files, or, where none are given, of any file.
    pub fn of(self: &Arc<Self>, files: Vec<FileKey>, reach: Reach) -> Arc<dyn Peers> {
        self.peers(files, reach, None)
    }

    /// The same for a plan that asks storage at a pace; what owners ask of it for the plan is charged to that.
    pub fn at_pace(self: &Arc<Self>, files: Vec<FileKey>, pace: &Arc<Errand>) -> Arc<dyn Peers> {
        self.peers(files, Reach::Owner, Some(Arc::clone(pace)))
    }

    fn peers(self: &Arc<Self>, files: Vec<FileKey>, reach: Reach, pace: Option<Arc<Errand>>) -> Arc<dyn Peers> {
        Arc::new(FooterPeers {
            holders: Arc::clone(self),
            reach,
            pace,
            files,
            known: OnceCell::new(),
        })
    }

    /// Whether any other node owns files.
    pub fn are_there(&self) -> bool {
        let view = self.sight.view.read();
        let mut seats = view.placement.seats().taken();
        seats.any(|(_, seat)| seat.id.as_str() != self.pool.own_id())
    }

    /// What the owner gives of a footer. What was charged for that is given back where it does not answer: it is this node then
    /// that reads, and pays.
    async fn footer(&self, owner: &str, file: &FileKey, pass: Option<Pass<'_>>) -> Option<Bytes> {
        let asked = FooterOf::of(file);
        if asked.is_long() {
            return None;
        }
        let found = self.footers.ask(owner, asked).await;
        if let (Some(_), Some(pass)) = (&found, pass) {
            pass.spend();
        }
        match found {
            Some(Found::Given(footer)) => {
                count_read(u64::try_from(footer.len()).unwrap_or(u64::MAX));
                Some(footer)
            }
            Some(Found::AsPages) => None,
            Some(Found::Missing | Found::Late) | None => {
                self.pool.note_nothing(owner, file.id());
                None
            }
        }
    }

    /// What the owner gives of a footer that it holds.
    async fn held_footer(&self, owner: &str, file: &FileKey) -> Option<Bytes> {
        let asked = FooterOf::of(file);
        if asked.is_long() {
            return None;
        }
        let Found::Given(footer) = self.held.ask(owner, asked).await? else {
            return None;
        };
        count_read(u64::try_from(footer.len()).unwrap_or(u64::MAX));
        Some(footer)
    }

    /// What the owner gives of a footer, which it reads when the turn of that has come.
    async fn footer_at_pace(&self, owner: &str, file: &FileKey, pace: &Errand) -> Option<Bytes> {
        let asked = Instant::now();
        if let Some(held) = self.held_footer(owner, file).await {
            return Some(held);
        }
        let first_bytes = first_footer_bytes(file.size);
        let pass = pace.turn(first_bytes).await?;
        // Others may have had it read while this waited. What was charged is given back then.
        if asked.elapsed() >= HELD_LATELY
            && let Some(held) = self.held_footer(owner, file).await
        {
            return Some(held);
        }
        let given = self.footer(owner, file, Some(pass)).await?;
        // A long one took a second read.
        let all_bytes = u64::try_from(given.len()).unwrap_or(u64::MAX);
        pace.charge(all_bytes.saturating_sub(first_bytes));
        Some(given)
    }

    /// Of which of these files a node holds anything; of none where it does not say soon. This is advice.
    async fn known(&self, id: &str, files: &[FileId]) -> HashSet<FileId> {
        let request = KnownRequest {
            files: files.iter().map(FileId::to_string).collect(),
        };
        let patience = Patience::Advice;
        let Some(mut answer) = self.pool.ask(id, KNOWN_ACTION, &request, patience).await else {
            return HashSet::new();
        };
        let told: Option<KnownAnswer> = self.pool.first(id, &mut answer, patience).await;
        let known = told.map(|told| told.known).unwrap_or_default();
        let known = files.iter().zip(known).filter(|(_, is_known)| *is_known);
        known.map(|(file, _)| *file).collect()
    }
}

/// Whom to ask for files that are opened together.
struct FooterPeers {
    holders: Arc<FooterHolders>,
    /// Whether owners are asked to read through, for a plan, or this node reads through itself.
    reach: Reach,
    /// What owners' requests to storage are charged to, where the plan has a bound on them.
    pace: Option<Arc<Errand>>,
    files: Vec<FileKey>,
    /// Of those of them that this node has to find itself: who said to hold anything.
    known: OnceCell<HashMap<FileId, Vec<String>>>,
}

impl fmt::Debug for FooterPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FooterPeers")
            .field("reach", &self.reach)
            .finish_non_exhaustive()
    }
}

impl FooterPeers {
    /// The owner of a file, where that is to read through and is another, and the others that may hold it.
    fn whom(&self, file: &FileKey) -> (Option<String>, Vec<String>) {
        let own_id = self.holders.pool.own_id();
        let mut others = holders(&self.holders.sight.view.read(), &file.uri);
        let is_asked = self.reach == Reach::Owner && others.first().is_some_and(|owner| owner != own_id);
        let owner = is_asked.then(|| others.remove(0));
        others.retain(|id| id != own_id);
        (owner, others)
    }

    /// Asks each node once, about all of the files.
    async fn ask_who_knows(&self) -> HashMap<FileId, Vec<String>> {
        let mut holders: HashMap<FileId, Vec<String>> = HashMap::new();
        let mut asked: BTreeMap<String, Vec<FileId>> = BTreeMap::new();
        for file in &self.files {
            let (owner, others) = self.whom(file);
            if owner.is_none() {
                let id = file.id();
                for other in &others {
                    asked.entry(other.clone()).or_default().push(id);
                }
                holders.insert(id, others);
            }
        }
        let calls = asked.into_iter().map(|(other, files)| async move {
            let known = self.holders.known(&other, &files).await;
            (other, known)
        });
        let known: HashMap<String, HashSet<FileId>> = future::join_all(calls).await.into_iter().collect();
        for (id, others) in &mut holders {
            others.retain(|other| known.get(other).is_some_and(|files| files.contains(id)));
        }
        holders
    }

    fn patience(&self) -> Patience {
        match self.reach {
            Reach::Owner => Patience::Plan,
            Reach::Held => Patience::Reader,
        }
    }
}

#[async_trait]
impl Peers for FooterPeers {
    async fn fetch(&self, file: &FileKey, bytes: Range<u64>) -> Option<Bytes> {
        let (pool, id, patience) = (&self.holders.pool, file.id(), self.patience());
        let (owner, mut others) = self.whom(file);
        let mut request = PagesRequest::of(file, &bytes);
        if let Some(owner) = owner {
            if !pool.has_nothing(&owner, id) {
                if let Some(pace) = &self.pace {
                    let held = pool.pages(&owner, id, &request, patience).await;
                    if held.is_some() {
                        return held;
                    }
                    // It is paid off before the next turn, and not waited for: readers may wait for these bytes.
                    pace.charge(bytes.end - bytes.start);
                }
                request.read_through = true;
                request.holders.clone_from(&others);
                let given = pool.pages(&owner, id, &request, patience).await;
                if given.is_some() {
                    return given;
                }
                request.read_through = false;
            }
        } else if !others.is_empty()
            && let Some(known) = self.known.get_or_init(|| self.ask_who_knows()).await.get(&id)
        {
            others.clone_from(known);
        }
        for other in &others {
            let given = pool.pages(other, id, &request, patience).await;
            if given.is_some() {
                return given;
            }
        }
        None
    }

    async fn footer(&self, file: &FileKey) -> Option<Bytes> {
        let (owner, _) = self.whom(file);
        match &self.pace {
            Some(pace) => self.holders.footer_at_pace(&owner?, file, pace).await,
            None => self.holders.footer(&owner?, file, None).await,
        }
    }
}

/// The owner of a file's first split, those that stand in for it, and who owned it before.
fn holders(view: &View, uri: &str) -> Vec<String> {
    let first = SplitLoad {
        file: PlacedFile::of_text(uri),
        index: 0,
        bytes: 1,
    };
    let mut holders: Vec<String> = Vec::new();
    let placements = std::iter::once((&view.placement, STAND_INS)).chain(view.earlier.iter().map(|before| (before, 1)));
    for (placement, copies) in placements {
        let assigned = placement.assign(&[first], copies);
        for seat in assigned.owners(0).iter().filter_map(|slot| placement.seat(*slot)) {
            let id = seat.id.as_str();
            if !holders.iter().any(|known| known == id) {
                holders.push(id.to_owned());
            }
        }
    }
    holders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_footer_reads_back() {
        let footer = Bytes::from_static(b"thrift\x06\0\0\0PAR1");
        for found in [
            Found::Given(footer),
            Found::Given(Bytes::new()),
            Found::AsPages,
            Found::Missing,
            Found::Late,
        ] {
            let part = FooterPart { file: 70_000, found };
            assert_eq!(FooterPart::decode(part.encode()).unwrap(), part);
        }
    }

    #[test]
    fn what_is_none_is_not_taken() {
        let footer = Bytes::from_static(b"thrift");
        let part = FooterPart {
            file: 1,
            found: Found::Given(footer),
        };
        let sent = part.encode();
        for length in 0..sent.len() {
            assert!(FooterPart::decode(sent.slice(..length)).is_err(), "{length}");
        }
        for at in PART_HEAD_BYTES..sent.len() {
            let mut spoilt = sent.to_vec();
            spoilt[at] ^= 1;
            let spoilt = FooterPart::decode(spoilt.into());
            assert!(matches!(spoilt, Err(PieceError::Damaged)), "{at}");
        }
        let unknown = FooterPart::decode(Bytes::from_static(&[0, 0, 0, 0, 9]));
        assert!(matches!(unknown, Err(PieceError::NoAnswer)));
    }

    #[test]
    fn a_footer_that_is_longer_than_any_that_is_given_is_not_taken() {
        for (length, is_taken) in [(MOST_GIVEN_BYTES, true), (MOST_GIVEN_BYTES + 1, false)] {
            let found = Found::Given(vec![0_u8; length].into());
            let part = FooterPart { file: 0, found };
            assert_eq!(FooterPart::decode(part.encode()).is_ok(), is_taken, "{length}");
        }
    }
}
