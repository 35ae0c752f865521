//! `peer.pages`, `peer.footers`, `peer.held_footers`, `peer.known`, `peer.holds`, `peer.residency`, `peer.clock`: what nodes of a
//! cluster ask each other.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryFutureExt};
use jetbridge_cache::ReadError;
use jetbridge_cache::key::{FileId, FileKey, Generation};
use jetbridge_cache::page::{OpenFile, Peers};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

use super::Nothing;
use crate::cluster::clock::ClockAnswer;
use crate::cluster::footers::{
    FILES_PER_CALL, FOOTER_TIMEOUT, FOOTERS_ACTION, FooterOf, FooterPart, FootersRequest, Found, HELD_FOOTERS_ACTION,
    KnownAnswer, KnownRequest, MAX_KNOWN_FILES, MOST_FOOTER_BYTES,
};
use crate::cluster::peers::{PagesHead, PagesRequest, PeerReads, Reach, ResidencyAnswer, ResidencyRequest};
use crate::error::ServiceError;
use crate::jobs::holders::{self, HoldsAnswer, HoldsRequest};
use crate::node::Node;
use crate::redeem;

/// The most that one call gives; no request to storage is for more by default.
const MAX_BYTES: u64 = 64 << 20;
/// What one message of the answer carries.
const PIECE_BYTES: usize = 1 << 20;
/// How long a call waits for its share of the memory; whoever asked does better to look elsewhere then.
const ROOM_TIMEOUT: Duration = Duration::from_millis(200);
/// Most tickets in one call.
const MAX_TICKETS: usize = 10_000;
/// Footers that are read at once for one call; the mount's own limit on requests holds besides.
const FOOTERS_AT_ONCE: usize = 32;

/// Parts of an answer.
pub(super) type Parts = BoxStream<'static, Result<arrow_flight::Result, Status>>;

/// Gives the bytes of a file version that are held here, or reads them through.
pub(super) async fn pages(node: &Arc<Node>, request: PagesRequest) -> Result<Parts, ServiceError> {
    let key = FileKey {
        uri: request.uri.as_str().into(),
        generation: Generation::parse(&request.generation)
            .map_err(|error| ServiceError::invalid(format!("peer.pages: {error}")))?,
        size: request.size,
    };
    let range = request.start..request.end;
    if range.is_empty() || range.end > key.size || range.end - range.start > MAX_BYTES {
        return Err(ServiceError::invalid(format!(
            "peer.pages: bytes {range:?} cannot be had"
        )));
    }
    let room = room(node, range.end - range.start).await?;
    if let Some(held) = node.cache.pages().read_held(&key, range.clone()).await {
        return Ok(given(async move { Ok(held) }, room));
    }
    let shown = || {
        let peers = PeerReads::among(&node.cluster.peers, request.holders.as_slice().into(), Reach::Held);
        open(node, key.clone(), peers)
    };
    let file = request.read_through.then(shown).flatten();
    match file {
        Some(file) => {
            let node = Arc::clone(node);
            Ok(given(async move { read_through(&node, &file, range).await }, room))
        }
        None if node.cache.pages().held_bytes(key.id()) == 0 => Ok(head_alone(PagesHead::NothingOfFile)),
        None => Ok(head_alone(PagesHead::Missing)),
    }
}

/// Gives the footers of files, each as soon as it is read, and keeps what was read for it. What was begun for one that takes
/// too long goes on, and is kept.
///
/// While footers are read, what comes for them is among the loads in flight, whose room is bounded. They take their share of
/// the memory that peers may have once they are there: as much as they are, and not for as long as storage takes.
pub(super) fn footers(node: &Arc<Node>, request: &FootersRequest) -> Result<Parts, ServiceError> {
    let files = asked_files(FOOTERS_ACTION, request)?;
    let peers = node.cluster.footers.of(files.clone(), Reach::Held);
    let node = Arc::clone(node);
    let parts = stream::iter((0u32..).zip(files)).map(move |(file, key)| {
        let (node, peers) = (Arc::clone(&node), Arc::clone(&peers));
        async move {
            let found = timeout(FOOTER_TIMEOUT, footer(&node, key, peers)).await;
            let found = found.unwrap_or(Found::Late);
            encoded(&node, FooterPart { file, found }).await
        }
    });
    Ok(as_found(parts.buffer_unordered(FOOTERS_AT_ONCE)))
}

/// Gives those footers whose pages are held here; of all others it says that they are missing.
pub(super) fn held_footers(node: &Arc<Node>, request: &FootersRequest) -> Result<Parts, ServiceError> {
    let files = asked_files(HELD_FOOTERS_ACTION, request)?;
    let node = Arc::clone(node);
    let parts = stream::iter((0u32..).zip(files)).map(move |(file, key)| {
        let node = Arc::clone(&node);
        async move {
            let found = held_footer(&node, key).await;
            encoded(&node, FooterPart { file, found }).await
        }
    });
    Ok(as_found(parts.buffer_unordered(FOOTERS_AT_ONCE)))
}

fn asked_files(action: &str, request: &FootersRequest) -> Result<Vec<FileKey>, ServiceError> {
    if request.files.len() > FILES_PER_CALL {
        return Err(ServiceError::invalid(format!(
            "{action}: at most {FILES_PER_CALL} files"
        )));
    }
    let files: Result<Vec<FileKey>, _> = request.files.iter().map(FooterOf::key).collect();
    files.map_err(|error| ServiceError::invalid(format!("{action}: {error}")))
}

/// Footers in the order in which they are found.
fn as_found(parts: impl futures::Stream<Item = (Bytes, Option<OwnedSemaphorePermit>)> + Send + 'static) -> Parts {
    let bodies = parts.map(|(body, room)| {
        // Its share is given back now that it is taken.
        drop(room);
        Ok::<_, Status>(arrow_flight::Result { body })
    });
    bodies.boxed()
}

/// Of which file versions anything is held here. An id that is none counts as not held.
pub(super) fn known(node: &Node, request: &KnownRequest) -> Result<KnownAnswer, ServiceError> {
    if request.files.len() > MAX_KNOWN_FILES {
        return Err(ServiceError::invalid(format!(
            "peer.known: at most {MAX_KNOWN_FILES} files"
        )));
    }
    let pages = node.cache.pages();
    let is_known = |id: &String| FileId::parse(id).is_some_and(|id| pages.held_bytes(id) > 0);
    Ok(KnownAnswer {
        known: request.files.iter().map(is_known).collect(),
    })
}

/// Where something is held here of the files whose URIs begin with what is asked about.
pub(super) async fn holds(node: &Node, request: HoldsRequest) -> Result<HoldsAnswer, ServiceError> {
    let files = holders::own(node, request.prefix).await?;
    Ok(HoldsAnswer { files })
}

/// Where the rows of tickets are now. A ticket that does not open here counts as not held.
pub(super) async fn residency(node: &Arc<Node>, request: ResidencyRequest) -> Result<ResidencyAnswer, ServiceError> {
    if request.tickets.len() > MAX_TICKETS {
        return Err(ServiceError::invalid(format!(
            "peer.residency: at most {MAX_TICKETS} tickets"
        )));
    }
    let mut cached = Vec::with_capacity(request.tickets.len());
    for ticket in &request.tickets {
        let redeemed = BASE64
            .decode(ticket)
            .ok()
            .and_then(|ticket| redeem::redeem(node, &ticket).ok());
        let residency = match redeemed {
            Some(redeemed) => redeemed.residency().await.as_str(),
            None => "none",
        };
        cached.push(residency.to_owned());
    }
    Ok(ResidencyAnswer { cached })
}

/// The cluster's time, as this node has it.
pub(super) fn clock(node: &Node, _: &Nothing) -> ClockAnswer {
    node.cluster.told_time()
}

async fn footer(node: &Node, key: FileKey, peers: Arc<dyn Peers>) -> Found {
    // Two answers of a file of a weak generation may be of two versions.
    if !key.generation.is_strong() {
        return Found::Missing;
    }
    let id = key.id();
    let Some(file) = open(node, key, Some(peers)) else {
        // No mount shows it here now; what is held of it is given all the same.
        return match node.cache.pages().held_bytes(id) {
            0 => Found::Missing,
            _ => Found::AsPages,
        };
    };
    match node.cache.stored_footer(&file, MOST_FOOTER_BYTES).await {
        Ok(footer) => Found::Given(footer),
        // Whoever asked finds out for itself what is wrong with it.
        Err(ReadError::Corrupt { .. } | ReadError::LimitExceeded { .. }) => Found::AsPages,
        Err(_) => Found::Missing,
    }
}

async fn held_footer(node: &Node, key: FileKey) -> Found {
    let Some(file) = open(node, key, None) else {
        return Found::Missing;
    };
    match node.cache.held_footer(&file, MOST_FOOTER_BYTES).await {
        Ok(Some(footer)) => Found::Given(footer),
        Ok(None) | Err(_) => Found::Missing,
    }
}

/// A part as it is sent; of a footer with its share of the memory that peers may have of this node. Where that cannot be had
/// soon, it is late.
async fn encoded(node: &Node, mut part: FooterPart) -> (Bytes, Option<OwnedSemaphorePermit>) {
    let Found::Given(footer) = &part.found else {
        return (part.encode(), None);
    };
    let room = room(node, u64::try_from(footer.len()).unwrap_or(u64::MAX)).await.ok();
    if room.is_none() {
        part.found = Found::Late;
    }
    (part.encode(), room)
}

/// A share of the memory that peers may have of this node.
async fn room(node: &Node, bytes: u64) -> Result<OwnedSemaphorePermit, ServiceError> {
    let kib = u32::try_from(bytes.div_ceil(1024))
        .unwrap_or(u32::MAX)
        .min(node.peer_room_kib);
    let room = Arc::clone(&node.peer_room).acquire_many_owned(kib);
    match timeout(ROOM_TIMEOUT, room).await {
        Ok(Ok(room)) => Ok(room),
        _ => Err(ServiceError::Busy {
            what: "other nodes read from this one as much as they may".to_owned(),
        }),
    }
}

/// The file, where the namespace of this node shows it.
fn open(node: &Node, key: FileKey, peers: Option<Arc<dyn Peers>>) -> Option<OpenFile> {
    let path = node.locate(&key.uri).ok()?;
    let (ufs, relative) = node.resolve(&path).ok()?;
    let is_same = ufs.uri_of(&relative) == *key.uri;
    is_same.then(|| OpenFile {
        ufs,
        path: relative,
        key,
        peers,
        errand: None,
    })
}

async fn read_through(node: &Node, file: &OpenFile, range: Range<u64>) -> Result<Bytes, Status> {
    let (mut read, _source) = node
        .cache
        .pages()
        .read(file, std::slice::from_ref(&range))
        .map_err(|error| Status::from(ServiceError::from(error)))
        .await?;
    read.pop().ok_or_else(|| Status::internal("a read gave nothing"))
}

/// The head at once, then the bytes when they are there, in pieces, then their sum.
fn given(bytes: impl Future<Output = Result<Bytes, Status>> + Send + 'static, room: OwnedSemaphorePermit) -> Parts {
    let pieces = bytes.map(move |bytes| match bytes {
        Ok(bytes) => {
            let sum = Bytes::copy_from_slice(&xxh3_64(&bytes).to_le_bytes());
            let pieces: Vec<_> = (0..bytes.len())
                .step_by(PIECE_BYTES)
                .map(|start| bytes.slice(start..bytes.len().min(start + PIECE_BYTES)))
                .chain([sum])
                .map(|body| Ok(arrow_flight::Result { body }))
                .collect();
            // The share is given back when the last piece was taken, or when nobody wants it any more.
            stream::iter(pieces).chain(released(room)).left_stream()
        }
        Err(status) => stream::iter([Err(status)]).right_stream(),
    });
    head_alone(PagesHead::Given).chain(pieces.flatten_stream()).boxed()
}

/// Nothing, and something that is kept until then.
fn released<T>(kept: impl Send + 'static) -> impl futures::Stream<Item = T> {
    stream::once(async move { drop(kept) }).filter_map(|()| async { None })
}

fn head_alone(head: PagesHead) -> Parts {
    let body = serde_json::to_vec(&head).map_err(|error| Status::internal(error.to_string()));
    stream::iter([body.map(|body| arrow_flight::Result { body: body.into() })]).boxed()
}
