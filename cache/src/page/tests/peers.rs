//! Reads of files that bring peers along.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Fixture, in_memory};
use crate::key::{FileKey, Generation, Source, to_usize};
use crate::page::Peers;

/// Gives what it was told to, and notes what it was asked for.
pub(super) struct Peer {
    gives: fn(&[u8], Range<u64>) -> Option<Bytes>,
    content: Vec<u8>,
    asked: Mutex<Vec<Range<u64>>>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peer")
    }
}

#[async_trait::async_trait]
impl Peers for Peer {
    async fn fetch(&self, _file: &FileKey, bytes: Range<u64>) -> Option<Bytes> {
        self.asked.lock().push(bytes.clone());
        (self.gives)(&self.content, bytes)
    }
}

pub(super) async fn with_peer(gives: fn(&[u8], Range<u64>) -> Option<Bytes>) -> (Fixture, Arc<Peer>) {
    let mut f = in_memory(2_550).await;
    let peer = Arc::new(Peer {
        gives,
        content: f.content.clone(),
        asked: Mutex::default(),
    });
    let dynamic: Arc<dyn Peers> = peer.clone();
    f.file.peers = Some(dynamic);
    (f, peer)
}

fn slice(content: &[u8], range: Range<u64>) -> Bytes {
    Bytes::copy_from_slice(&content[to_usize(range.start)..to_usize(range.end)])
}

#[tokio::test]
async fn peers_are_asked_before_storage_and_what_they_give_is_kept() {
    let (f, peer) = with_peer(|content, range| Some(slice(content, range))).await;
    assert_eq!(f.read(&[150..450]).await, Source::Peer);
    assert_eq!(peer.asked.lock().as_slice(), &[100..500]);
    assert_eq!(f.read(&[150..450]).await, Source::Memory);
    assert_eq!(f.fetched(), []);
    assert_eq!(f.tier.fetched_bytes(), 0);
}

#[tokio::test]
async fn storage_is_asked_where_peers_give_nothing_or_not_all() {
    for gives in [
        (|_, _| None) as fn(&[u8], Range<u64>) -> Option<Bytes>,
        |content, range| Some(slice(content, range.start..range.end - 1)),
        |content, range| Some(slice(content, range.start.saturating_sub(1)..range.end)),
    ] {
        let (f, peer) = with_peer(gives).await;
        assert_eq!(f.read(&[150..450]).await, Source::Store);
        assert_eq!((peer.asked.lock().len(), f.fetched()), (1, vec![100..500]));
    }
}

#[tokio::test]
async fn a_weak_generation_is_never_asked_of_peers() {
    let (mut f, peer) = with_peer(|content, range| Some(slice(content, range))).await;
    f.file.key.generation = Generation::from_parts(None, None, 1, 2_550);
    // Whether storage still has that version is not the question here.
    let _ = f.tier.read(&f.file, std::slice::from_ref(&(0..10))).await;
    assert_eq!((peer.asked.lock().len(), f.store.reads().len()), (0, 1));
}

#[tokio::test]
async fn only_what_is_wholly_held_is_given_to_peers() {
    let f = in_memory(2_550).await;
    f.read(&[150..450]).await;
    let held = |range: Range<u64>| f.tier.read_held(&f.file.key, range);
    assert_eq!(held(100..500).await.unwrap(), f.expected(&(100..500)));
    assert_eq!(held(199..201).await.unwrap(), f.expected(&(199..201)));
    for range in [99..200, 400..501, 2_500..2_560, 200..200] {
        assert_eq!(held(range).await, None);
    }
    assert_eq!(f.fetched(), [100..500]);
}
