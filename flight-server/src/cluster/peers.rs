//! Bytes from other nodes before they are asked of storage.
//!
//! ```text
//! page tier --PeerReads::fetch--> PeerPool --DoAction peer.pages--> the other node's page tier
//! ```
//! A ticket names who may hold what it reads: the owner, the replicas, the owners under earlier epochs. Whoever serves the
//! ticket asks them in this order for what it does not hold itself. The owner, if that is another node, is asked to *read
//! through*: it fetches from storage what it does not hold either, once for all who ask, and keeps it. All others are asked
//! only for what they hold. So a worker that joined fills itself from those who had its share before, and a worker that was
//! lost sends nobody to storage for what the others have.
//!
//! Why nobody goes in circles: an owner that reads through for a peer asks others only for what they hold.
//!
//! Footers, of which a plan needs very many, are asked for by themselves, many in one call ([`super::footers`]).
//!
//! What is asked of a peer never fails a read and never holds one up for long: a node that does not say at once what it has
//! is left alone for a while ([`SHUN`]), and storage is asked. Plans wait longer, and who keeps them waiting is left alone by
//! plans only (`pace`). Bytes are checked by their sum, as those from a disk are.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use jetbridge_cache::key::{FileId, FileKey};
use jetbridge_cache::page::Peers;
use moka::sync::Cache as Moka;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use xxhash_rust::xxh3::xxh3_64;

use super::clock::{CLOCK_ACTION, ClockAnswer};
use super::pace::Paces;
use super::pass::Pass;

/// Name of the action that gives pages.
pub const PAGES_ACTION: &str = "peer.pages";
/// Name of the action that tells where the rows of tickets are.
pub const RESIDENCY_ACTION: &str = "peer.residency";

/// How long connecting may take: peers are near.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// How long a peer may take to say whether it has what is asked for.
const HEAD_TIMEOUT: Duration = Duration::from_millis(500);
/// The same where a plan asks for the footers of many files at once, which is much to do for a node.
pub(super) const PLAN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a node may take for an action that its users wait for.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer that said yes may send nothing; one that reads through waits for storage meanwhile.
const PIECE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a peer that failed is not asked again.
const SHUN: Duration = Duration::from_secs(2);
/// How long a peer that held nothing of a file, or did not give its footer, is not asked for that file.
const KNOWS_NOTHING: Duration = Duration::from_secs(2);
/// Most pairs of peer and file that are remembered for that.
const KNOWS_NOTHING_ENTRIES: u64 = 100_000;
/// Most connections that are kept.
const MAX_CHANNELS: usize = 4096;
/// Longest message of an answer: nodes trust each other with more than the 4 MiB that a client takes by default.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Largest JSON body of an action, in bytes; a node refuses what is longer.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// Most tickets that a node is asked about in one call.
const RESIDENCY_TICKETS: usize = 256;
/// The same in bytes of base64, for tickets of many files. One that is longer has a call of its own.
const RESIDENCY_BYTES: usize = MAX_BODY_BYTES / 2;

/// What `peer.pages` is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PagesRequest {
    /// The file's canonical storage URI.
    pub uri: String,
    /// Its generation, in the cache's text form.
    pub generation: String,
    /// Its length in bytes.
    pub size: u64,
    /// The first byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
    /// Whether what is not held is to be read from storage, and kept.
    pub read_through: bool,
    /// Ids of nodes that may hold it, for one that reads through.
    pub holders: Vec<String>,
}

impl PagesRequest {
    /// Asks for bytes of a file where they are held.
    pub(super) fn of(file: &FileKey, bytes: &Range<u64>) -> Self {
        Self {
            uri: file.uri.to_string(),
            generation: file.generation.to_string(),
            size: file.size,
            start: bytes.start,
            end: bytes.end,
            read_through: false,
            holders: Vec::new(),
        }
    }
}

/// What the first part of the answer of `peer.pages` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PagesHead {
    /// All bytes follow, in pieces, then 8 bytes: their xxh3-64, little endian.
    Given,
    /// Not all of them are held.
    Missing,
    /// Nothing of this file version is held.
    NothingOfFile,
}

/// What `peer.residency` is asked: tickets, in base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResidencyRequest {
    /// The tickets.
    pub tickets: Vec<String>,
}

/// What `peer.residency` answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct ResidencyAnswer {
    /// `decoded`, `raw` or `none`, one a ticket.
    pub cached: Vec<String>,
}

/// Deals out what a node is to be asked about to calls of [`PeerPool::residency`], in its order.
pub fn residency_calls<T>(asked: Vec<T>, ticket_bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut calls: Vec<Vec<T>> = Vec::new();
    let mut room_bytes = 0;
    for one in asked {
        let bytes = ticket_bytes(&one).div_ceil(3) * 4;
        match calls.last_mut() {
            Some(call) if call.len() < RESIDENCY_TICKETS && bytes <= room_bytes => {
                room_bytes -= bytes;
                call.push(one);
            }
            _ => {
                room_bytes = RESIDENCY_BYTES.saturating_sub(bytes);
                calls.push(vec![one]);
            }
        }
    }
    calls
}

/// Where nodes are reached.
pub trait Directory: fmt::Debug + Send + Sync {
    /// The Flight address of a node, `grpc://host:port`; none of one that does not serve now.
    fn address_of(&self, id: &str) -> Option<String>;

    /// Hears that a node did not answer.
    fn is_unreachable(&self, id: &str);
}

/// Connections to the other nodes.
pub struct PeerPool {
    own_id: String,
    pass: Pass,
    directory: Arc<dyn Directory>,
    channels: Mutex<HashMap<String, FlightServiceClient<Channel>>>,
    shunned: Mutex<HashMap<String, Instant>>,
    paces: Paces,
    knows_nothing: Moka<(String, FileId), ()>,
}

impl PeerPool {
    /// Connections of the node `own_id` to those that `directory` knows.
    #[must_use]
    pub fn new(own_id: String, pass: Pass, directory: Arc<dyn Directory>) -> Self {
        Self {
            own_id,
            pass,
            directory,
            channels: Mutex::default(),
            shunned: Mutex::default(),
            paces: Paces::default(),
            knows_nothing: Moka::builder()
                .max_capacity(KNOWS_NOTHING_ENTRIES)
                .time_to_live(KNOWS_NOTHING)
                .build(),
        }
    }

    /// Where the rows of some tickets are on a node; none where it does not answer soon, and for more than one call takes
    /// ([`residency_calls`]).
    pub async fn residency(&self, id: &str, tickets: &[Bytes]) -> Option<Vec<String>> {
        let request = ResidencyRequest {
            tickets: tickets.iter().map(|ticket| BASE64.encode(ticket)).collect(),
        };
        let body = serde_json::to_vec(&request).ok()?;
        if self.is_shunned(id) || body.len() > MAX_BODY_BYTES {
            return None;
        }
        let mut client = self.client(&self.directory.address_of(id)?)?;
        let asked = self.request(RESIDENCY_ACTION, body);
        let answer = async { client.do_action(asked).await?.into_inner().message().await };
        // This is advice: who is slow to give it is not suspected of anything, who refuses the connection is.
        let answer = match timeout(HEAD_TIMEOUT, answer).await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(status)) => {
                self.refused(id, &status);
                return None;
            }
            Err(_elapsed) => return None,
        };
        let told: ResidencyAnswer = serde_json::from_slice(&answer.body).ok()?;
        (told.cached.len() == tickets.len()).then_some(told.cached)
    }

    /// Calls an action of a node for its JSON answer.
    ///
    /// # Errors
    /// In words, what went wrong with which node.
    pub async fn call(&self, id: &str, action: &str, body: &serde_json::Value) -> Result<serde_json::Value, String> {
        let failed = |what: &dyn fmt::Display| format!("the node {id} did not answer: {what}");
        let address = self
            .directory
            .address_of(id)
            .ok_or_else(|| failed(&"it has no address"))?;
        let mut client = self.client(&address).ok_or_else(|| failed(&"its address is none"))?;
        let request = self.request(action, body.to_string());
        let answer = async { client.do_action(request).await?.into_inner().message().await };
        let answer = timeout(CALL_TIMEOUT, answer)
            .await
            .map_err(|elapsed| failed(&elapsed))?;
        let answer = answer.map_err(|status| failed(&status.message()))?.unwrap_or_default();
        serde_json::from_slice(&answer.body).map_err(|error| failed(&error))
    }

    /// The cluster's time as a node has it, in milliseconds since 1970 UTC; none where it does not answer soon, or has none yet.
    pub async fn clock(&self, id: &str) -> Option<i64> {
        let patience = Patience::Reader;
        let mut answer = self.ask(id, CLOCK_ACTION, &serde_json::json!({}), patience).await?;
        let told: ClockAnswer = self.first(id, &mut answer, patience).await?;
        told.unix_ms
    }

    /// Pages of a node's tier.
    pub(super) async fn pages(
        &self,
        id: &str,
        file: FileId,
        request: &PagesRequest,
        patience: Patience,
    ) -> Option<Bytes> {
        if !request.read_through && self.has_nothing(id, file) {
            return None;
        }
        let mut answer = self.ask(id, PAGES_ACTION, request, patience).await?;
        match self.first(id, &mut answer, patience).await? {
            PagesHead::Given => {}
            PagesHead::Missing => return None,
            PagesHead::NothingOfFile => {
                self.note_nothing(id, file);
                return None;
            }
        }
        let bytes = request.end - request.start;
        match read_pieces(&mut answer, usize::try_from(bytes).ok()?).await {
            Ok(given) => {
                count_read(bytes);
                Some(given)
            }
            Err(error) => {
                self.broke_off(id, &error);
                None
            }
        }
    }

    /// The id of this node, which is never asked.
    pub(super) fn own_id(&self) -> &str {
        &self.own_id
    }

    /// How others keep up with this node's plans.
    pub(super) fn paces(&self) -> &Paces {
        &self.paces
    }

    /// Whether a node had nothing of a file just now, or did not give its footer.
    pub(super) fn has_nothing(&self, id: &str, file: FileId) -> bool {
        self.knows_nothing.contains_key(&(id.to_owned(), file))
    }

    /// Remembers that for a while.
    pub(super) fn note_nothing(&self, id: &str, file: FileId) {
        self.knows_nothing.insert((id.to_owned(), file), ());
    }

    fn request(&self, action: &str, body: impl Into<Bytes>) -> Request<Action> {
        metrics::counter!("jetbridge_peer_calls_total", "action" => action.to_owned()).increment(1);
        let mut request = Request::new(Action::new(action, body));
        self.pass.show(request.metadata_mut());
        request
    }

    /// Calls an action of a node; none where it cannot be reached now.
    pub(super) async fn ask(
        &self,
        id: &str,
        action: &str,
        body: &impl Serialize,
        patience: Patience,
    ) -> Option<Streaming<arrow_flight::Result>> {
        let is_left_alone = match patience {
            Patience::Plan => self.paces.is_left_alone(id, Instant::now()),
            Patience::Reader | Patience::Advice => false,
        };
        if id == self.own_id || is_left_alone || self.is_shunned(id) {
            return None;
        }
        let mut client = self.client(&self.directory.address_of(id)?)?;
        let request = self.request(action, serde_json::to_vec(body).ok()?);
        match timeout(patience.timeout(), client.do_action(request)).await {
            Ok(Ok(answer)) => Some(answer.into_inner()),
            Ok(Err(status)) => {
                self.refused(id, &status);
                None
            }
            Err(elapsed) => {
                self.is_late(id, &elapsed, patience);
                None
            }
        }
    }

    /// The first part of an answer, as JSON.
    pub(super) async fn first<T: DeserializeOwned>(
        &self,
        id: &str,
        answer: &mut Streaming<arrow_flight::Result>,
        patience: Patience,
    ) -> Option<T> {
        match timeout(patience.timeout(), answer.message()).await {
            Ok(Ok(Some(first))) => {
                if matches!(patience, Patience::Plan) {
                    self.paces.answered(id, Instant::now());
                }
                serde_json::from_slice(&first.body).ok()
            }
            Ok(Ok(None)) => None,
            Ok(Err(status)) => {
                self.refused(id, &status);
                None
            }
            Err(elapsed) => {
                self.is_late(id, &elapsed, patience);
                None
            }
        }
    }

    fn client(&self, uri: &str) -> Option<FlightServiceClient<Channel>> {
        let mut channels = self.channels.lock();
        if let Some(client) = channels.get(uri) {
            return Some(client.clone());
        }
        if channels.len() >= MAX_CHANNELS {
            channels.clear();
        }
        let authority = uri.strip_prefix("grpc://")?;
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).ok()?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let client = FlightServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_ANSWER_BYTES);
        channels.insert(uri.to_owned(), client.clone());
        Some(client)
    }

    fn is_shunned(&self, id: &str) -> bool {
        let mut shunned = self.shunned.lock();
        match shunned.get(id) {
            Some(until) if Instant::now() < *until => true,
            Some(_) => {
                shunned.remove(id);
                false
            }
            None => false,
        }
    }

    /// A call ended with a status. One that the node itself gave is no sign that it cannot be reached: it has enough to do, and
    /// is left alone, unless it is of a version that does not know what it was asked. One that the connection gave has that for
    /// its source.
    fn refused(&self, id: &str, status: &Status) {
        match std::error::Error::source(status) {
            Some(_) => self.shun(id, status),
            None if status.code() == Code::Unimplemented => {}
            None => self.leave_alone(id, status),
        }
    }

    /// A node did not answer in time.
    pub(super) fn is_late(&self, id: &str, elapsed: &Elapsed, patience: Patience) {
        match patience {
            Patience::Reader => self.shun(id, elapsed),
            Patience::Plan => self.paces.waited(id, patience.timeout(), Instant::now()),
            Patience::Advice => {}
        }
    }

    /// An answer that had begun did not come to its end.
    pub(super) fn broke_off(&self, id: &str, error: &PieceError) {
        match error {
            // It has what it says, and storage failed it: the reader finds that out for itself.
            PieceError::Status(status) if status.code() != Code::Unavailable => {}
            error => self.shun(id, error),
        }
    }

    fn shun(&self, id: &str, error: &dyn fmt::Display) {
        self.directory.is_unreachable(id);
        self.leave_alone(id, error);
    }

    fn leave_alone(&self, id: &str, error: &dyn fmt::Display) {
        metrics::counter!("jetbridge_peer_failures_total").increment(1);
        tracing::debug!(peer = id, %error, "a peer did not answer; it is left alone for a while");
        self.shunned.lock().insert(id.to_owned(), Instant::now() + SHUN);
    }
}

impl fmt::Debug for PeerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerPool")
            .field("own_id", &self.own_id)
            .finish_non_exhaustive()
    }
}

/// How far a node goes for others' sake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The owner, if it is another, is asked to read through.
    Owner,
    /// Everybody is asked only for what they hold.
    Held,
}

/// How long is waited for a peer to say whether it has what is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// As long as a reader may be held up; who is late is left alone.
    Reader,
    /// As long as a plan may be; who keeps plans waiting is left alone by them.
    Plan,
    /// No longer than a reader, for what can be done without: who is slow to give advice is not suspected of anything.
    Advice,
}

impl Patience {
    pub(super) fn timeout(self) -> Duration {
        match self {
            Self::Reader | Self::Advice => HEAD_TIMEOUT,
            Self::Plan => PLAN_TIMEOUT,
        }
    }
}

/// The peers of one split.
#[derive(Debug)]
pub struct PeerReads {
    pool: Arc<PeerPool>,
    /// Ids, the likeliest holder first.
    holders: Arc<[String]>,
    reach: Reach,
}

impl PeerReads {
    /// The peers among `holders`; none where there is nobody to ask.
    #[must_use]
    pub fn among(pool: &Arc<PeerPool>, holders: Arc<[String]>, reach: Reach) -> Option<Arc<dyn Peers>> {
        let is_alone = holders.iter().all(|id| *id == pool.own_id);
        let reads = || Self {
            pool: Arc::clone(pool),
            holders,
            reach,
        };
        (!is_alone).then(|| Arc::new(reads()) as Arc<dyn Peers>)
    }
}

#[async_trait]
impl Peers for PeerReads {
    async fn fetch(&self, file: &FileKey, bytes: Range<u64>) -> Option<Bytes> {
        let is_owner = self.holders.first() == Some(&self.pool.own_id);
        let mut request = PagesRequest {
            read_through: self.reach != Reach::Held && !is_owner,
            holders: self.holders.to_vec(),
            ..PagesRequest::of(file, &bytes)
        };
        let id = file.id();
        for holder in self.holders.iter() {
            let given = self.pool.pages(holder, id, &request, Patience::Reader).await;
            if given.is_some() {
                return given;
            }
            // Only the first of them is its owner.
            request.read_through = false;
        }
        None
    }
}

/// Counts what a peer gave.
pub(super) fn count_read(bytes: u64) {
    metrics::counter!("jetbridge_peer_read_bytes_total").increment(bytes);
}

/// Whether bytes are those that a peer sent, by their sum.
pub(super) fn is_sound(bytes: &[u8], sum: [u8; 8]) -> bool {
    let is_sound = sum == xxh3_64(bytes).to_le_bytes();
    if !is_sound {
        metrics::counter!("jetbridge_peer_checksum_failures_total").increment(1);
    }
    is_sound
}

/// Why pieces did not come to the whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum PieceError {
    #[error("it sent nothing for {} s", PIECE_TIMEOUT.as_secs())]
    Silent,
    #[error("{0}")]
    Status(Status),
    #[error("it sent another number of bytes than it was asked for")]
    Length,
    #[error("what it sent was damaged on the way")]
    Damaged,
    #[error("it sent what is no answer to what it was asked")]
    NoAnswer,
}

async fn read_pieces(answer: &mut Streaming<arrow_flight::Result>, length: usize) -> Result<Bytes, PieceError> {
    let mut whole = BytesMut::with_capacity(length);
    while whole.len() < length {
        whole.extend_from_slice(&next_piece(answer).await?);
    }
    if whole.len() != length {
        return Err(PieceError::Length);
    }
    let sum = next_piece(answer).await?;
    match <[u8; 8]>::try_from(&sum[..]) {
        Ok(sum) if is_sound(&whole, sum) => Ok(whole.freeze()),
        Ok(_) => Err(PieceError::Damaged),
        Err(_) => Err(PieceError::Length),
    }
}

/// The next part of an answer.
pub(super) async fn next_piece(answer: &mut Streaming<arrow_flight::Result>) -> Result<Bytes, PieceError> {
    match timeout(PIECE_TIMEOUT, answer.message()).await {
        Ok(Ok(Some(piece))) if !piece.body.is_empty() => Ok(piece.body),
        Ok(Ok(_)) => Err(PieceError::Length),
        Ok(Err(status)) => Err(PieceError::Status(status)),
        Err(_elapsed) => Err(PieceError::Silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dealt(tickets: &[usize]) -> Vec<Vec<usize>> {
        residency_calls(tickets.to_vec(), |bytes| *bytes)
    }

    #[test]
    fn tickets_are_dealt_out_by_number_and_by_bytes() {
        assert!(dealt(&[]).is_empty());
        assert_eq!(dealt(&[1, 2, 3]), [vec![1, 2, 3]]);
        let many: Vec<usize> = dealt(&[300; 600]).iter().map(Vec::len).collect();
        assert_eq!(many, [256, 256, 88]);
        let large = 200 << 10;
        assert_eq!(dealt(&[large; 3]), [vec![large], vec![large], vec![large]]);
        let half = RESIDENCY_BYTES / 4 * 3 / 2;
        assert_eq!(dealt(&[half, half, 3, half]), [vec![half, half], vec![3, half]]);
        let longest = MAX_BODY_BYTES;
        assert_eq!(dealt(&[1, longest, 1]), [vec![1], vec![longest], vec![1]]);
    }
}
