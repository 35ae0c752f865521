//! What a read gives, and what it takes.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use jetbridge_client::{Client, ClientOptions, ErrorKind, ReadOptions, Source, Wire as Form};

use super::support::server::{Script, Server, Step};
use super::support::wire::Wire;
use super::support::{all, begun, client, drained, expected, in_order, numbers, options, until};

const ENDPOINTS: [i64; 7] = [20, 0, 100, 1, 33, 64, 7];

async fn served() -> Server {
    Server::start(Script {
        endpoints: ENDPOINTS.to_vec(),
        ..Script::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_comes_once_in_order_or_as_it_comes() {
    let server = served().await;
    let client = client(&server.uri());
    assert_eq!(all(&client, in_order()).await, expected(&ENDPOINTS));
    let mut rows = all(&client, ReadOptions::default()).await;
    rows.sort_unstable();
    assert_eq!(rows, expected(&ENDPOINTS));
}

#[tokio::test]
async fn one_thread_is_enough() {
    let server = served().await;
    assert_eq!(all(&client(&server.uri()), in_order()).await, expected(&ENDPOINTS));
}

#[test]
fn a_client_goes_on_in_another_runtime() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (serving, first) = (runtime(), runtime());
    let server = serving.block_on(served());
    let client = client(&server.uri());
    assert_eq!(first.block_on(all(&client, in_order())), expected(&ENDPOINTS));
    drop(first);
    assert_eq!(runtime().block_on(all(&client, in_order())), expected(&ENDPOINTS));
}

#[tokio::test(flavor = "multi_thread")]
async fn pieces_are_numbered_and_say_their_source() {
    let server = served().await;
    let mut reader = begun(&client(&server.uri()), ReadOptions::default()).await;
    let (pieces, _) = drained(&mut reader).await;
    let mut next = HashMap::new();
    for piece in &pieces {
        let next: &mut u64 = next.entry(piece.endpoint).or_default();
        assert_eq!(piece.batch_index, *next);
        *next += 1;
        assert_eq!(piece.source, Source::Store, "a server that says nothing");
    }
    let stats = reader.stats();
    assert_eq!((stats.rows, stats.endpoints_done, stats.failovers), (225, 7, 0));
    assert_eq!(stats.served_by.keys().collect::<Vec<_>>(), [&server.uri()]);
    assert!(stats.bytes > 0 && stats.received_bytes > stats.bytes / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_and_rows_are_left_out_as_told() {
    let server = served().await;
    let options = ReadOptions {
        ordered: true,
        endpoints: Some(vec![5, 0, 1]),
        skip_rows: HashMap::from([(5, 60), (0, 20)]),
        ..ReadOptions::default()
    };
    let all_rows = expected(&ENDPOINTS);
    let rows = all(&client(&server.uri()), options).await;
    assert_eq!(
        rows,
        all_rows
            .iter()
            .copied()
            .filter(|row| (5_000_060..5_000_064).contains(row))
            .collect::<Vec<_>>()
    );
    let beyond = ReadOptions {
        endpoints: Some(vec![7]),
        ..ReadOptions::default()
    };
    let (_, error) = drained(&mut begun(&client(&server.uri()), beyond).await).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::InvalidArgument);
}

/// "what is received and not taken is bounded in bytes, in order or not"
#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_received_than_the_budget_allows() {
    const BUDGET: u64 = 1 << 20;
    let batches = Script {
        endpoints: vec![200_000; 6],
        streams: (0..6)
            .map(|endpoint| (endpoint, vec![vec![Step::Rest(5000)]; 3]))
            .collect(),
        ..Script::default()
    };
    let server = Server::start(batches).await;
    // The client's bounds, or a read's own.
    for (ordered, is_own) in [(true, false), (false, false), (false, true)] {
        let options = ClientOptions {
            budget_bytes: if is_own { BUDGET << 20 } else { BUDGET },
            streams_per_worker: if is_own { 1 } else { 6 },
            ..options()
        };
        let client = Client::new(&server.uri(), options).unwrap();
        let read = ReadOptions {
            ordered,
            budget_bytes: is_own.then_some(BUDGET),
            streams_per_worker: is_own.then_some(6),
            ..ReadOptions::default()
        };
        let mut reader = begun(&client, read).await;
        let mut rows = Vec::new();
        while let Some(piece) = reader.next().await {
            rows.extend(numbers(&piece.unwrap().batch));
            if rows.len() % 100_000 == 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let stats = reader.stats();
            // A frame of each stream is looked at before its bodies are waited for.
            let ahead = stats.received_bytes.saturating_sub(stats.bytes);
            assert!(ahead < BUDGET + 6 * (1 << 20) + stats.bytes / 10, "{stats:?}");
        }
        rows.sort_unstable();
        assert_eq!(rows, expected(&[200_000; 6]));
    }
}

/// "nothing outlives its client and readers"
#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_reader_ends_its_streams_and_dropping_the_client_its_connections() {
    let hanging = (0..7)
        .map(|endpoint| (endpoint, vec![vec![Step::Rows(1), Step::Hang]]))
        .collect();
    let server = served().await;
    server.tell(|script| script.streams = hanging);
    let wire = Wire::to(&server.authority).await;
    let client = client(&wire.uri);
    let mut reader = begun(&client, ReadOptions::default()).await;
    reader.next().await.unwrap().unwrap();
    until("streams are open", || server.state.open.load(Ordering::SeqCst) >= 2).await;
    drop(reader);
    until("no stream is open", || server.state.open.load(Ordering::SeqCst) == 0).await;
    server.tell(|script| script.streams.clear());
    for _ in 0..10 {
        all(&client, ReadOptions::default()).await;
    }
    assert!(wire.open() <= 3, "{} connections", wire.open());
    drop(client);
    until("no connection is open", || wire.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_asked_for_as_told_and_plainly_on_this_host() {
    let server = served().await;
    for (form, asked) in [(Form::Auto, "arrow"), (Form::Lz4, "lz4"), (Form::Zstd, "zstd")] {
        let client = Client::new(
            &server.uri(),
            ClientOptions {
                wire: form,
                ..options()
            },
        )
        .unwrap();
        all(&client, ReadOptions::default()).await;
        let forms = std::mem::take(&mut *server.state.forms.lock());
        assert_eq!(forms, vec![asked; ENDPOINTS.len()]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_renewed_while_a_read_goes_on() {
    let server = expiring().await;
    let options = ClientOptions {
        // One batch at a time.
        budget_bytes: 1,
        streams_per_worker: 1,
        ..options()
    };
    let client = Client::new(&server.uri(), options).unwrap();
    let mut reader = begun(&client, in_order()).await;
    let mut rows = numbers(&reader.next().await.unwrap().unwrap().batch);
    until("tickets are renewed", || {
        server.state.renewals.load(Ordering::SeqCst) >= 8
    })
    .await;
    let (pieces, error) = drained(&mut reader).await;
    assert!(error.is_none(), "{error:?}");
    rows.extend(pieces.iter().flat_map(|piece| numbers(&piece.batch)));
    assert_eq!(rows, expected(&[10; 8]));
    assert!(server.gets().last().unwrap().ends_with('+'), "{:?}", server.gets());
}

/// A server whose tickets are good for two seconds.
async fn expiring() -> Server {
    Server::start(Script {
        endpoints: vec![10; 8],
        tickets_live: Some(Duration::from_secs(2)),
        ..Script::default()
    })
    .await
}

/// "no rows are asked for"
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_held_keeps_its_tickets_and_asks_for_nothing() {
    let server = expiring().await;
    let mut reader = begun(&client(&server.uri()), in_order()).await;
    reader.hold().unwrap();
    until("all tickets are renewed", || {
        server.state.renewals.load(Ordering::SeqCst) > 8
    })
    .await;
    assert!(server.gets().is_empty(), "{:?}", server.gets());
    let (pieces, error) = drained(&mut reader).await;
    assert!(error.is_none(), "{error:?}");
    let rows: Vec<i64> = pieces.iter().flat_map(|piece| numbers(&piece.batch)).collect();
    assert_eq!(rows, expected(&[10; 8]));
    assert!(
        server.gets().iter().all(|ticket| ticket.ends_with('+')),
        "{:?}",
        server.gets()
    );
}
