//! Places that fail, before and during a stream.

use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use futures::StreamExt;
use jetbridge_client::{Client, ClientOptions, ErrorKind, ReadOptions};
use proptest::prelude::*;
use tonic::Status;

use super::support::raw::reading;
use super::support::server::{Script, Server, Step};
use super::support::wire::Wire;
use super::support::{all, begun, client, drained, expected, in_order, numbers, options};

const ENDPOINTS: [i64; 4] = [50, 200, 3, 120];
const NOBODY: &str = "grpc://127.0.0.1:1";
const REUSE: &str = "arrow-flight-reuse-connection://?";

/// A server whose plans name these locations.
async fn planning(locations: &[&str], streams: HashMap<usize, Vec<Vec<Step>>>) -> Server {
    Server::start(Script {
        endpoints: ENDPOINTS.to_vec(),
        locations: locations.iter().map(|location| (*location).to_owned()).collect(),
        streams,
        ..Script::default()
    })
    .await
}

fn each(steps: &[Step]) -> HashMap<usize, Vec<Vec<Step>>> {
    (0..ENDPOINTS.len())
        .map(|endpoint| (endpoint, vec![steps.to_vec()]))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_the_next_place_is_asked_and_the_dead_one_remembered() {
    let other = planning(&[], HashMap::new()).await;
    let server = planning(&[NOBODY, &other.uri(), REUSE], HashMap::new()).await;
    let client = client(&server.uri());
    let mut reader = begun(&client, in_order()).await;
    let (pieces, error) = drained(&mut reader).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(
        pieces
            .iter()
            .flat_map(|piece| numbers(&piece.batch))
            .collect::<Vec<_>>(),
        expected(&ENDPOINTS)
    );
    assert!(reader.stats().failovers >= 1);
    assert_eq!((other.gets().len(), server.gets().len()), (ENDPOINTS.len(), 0));
    let mut again = begun(&client, in_order()).await;
    drained(&mut again).await;
    assert_eq!(again.stats().failovers, 0, "it is not tried first again so soon");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_that_planned_is_the_last_resort() {
    let server = planning(&[NOBODY, REUSE], HashMap::new()).await;
    assert_eq!(all(&client(&server.uri()), in_order()).await, expected(&ENDPOINTS));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_gone_on_with_elsewhere() {
    let busy = Step::Fail(Status::unavailable("drains"));
    // The first place gives some rows of each and ends, and the other cuts its batches otherwise.
    let first = planning(&[], each(&[Step::Rows(2), Step::Rows(31), busy])).await;
    let second = planning(&[&first.uri(), REUSE], each(&[Step::Rest(13)])).await;
    for options in [in_order(), ReadOptions::default()] {
        let mut rows = all(&client(&second.uri()), options).await;
        rows.sort_unstable();
        assert_eq!(rows, expected(&ENDPOINTS));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_given_up() {
    let silent = planning(&[], each(&[Step::Rows(10), Step::Hang])).await;
    let server = planning(&[&silent.uri(), REUSE], HashMap::new()).await;
    let options = ClientOptions {
        timeout: Some(Duration::from_secs(2)),
        ..options()
    };
    let client = Client::new(&server.uri(), options).unwrap();
    assert_eq!(all(&client, in_order()).await, expected(&ENDPOINTS));
}

/// A server with as many connections as it takes leaves further ones in the kernel's queue, where they are made, and nothing that is
/// said on them is answered.
#[tokio::test(flavor = "multi_thread")]
async fn shared_memory_that_nobody_answers_at_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("memory.sock");
    let _queue = UnixListener::bind(&socket).unwrap();
    let server = planning(&[], HashMap::new()).await;
    server.tell(|script| script.memory = Some(socket));
    let options = ClientOptions {
        connect_timeout: Duration::from_secs(2),
        timeout: None,
        ..options()
    };
    let client = Client::new(&server.uri(), options).unwrap();
    let mut reader = begun(&client, in_order()).await;
    let (pieces, error) = drained(&mut reader).await;
    assert!(error.is_none(), "{error:?}");
    let rows: Vec<i64> = pieces.iter().flat_map(|piece| numbers(&piece.batch)).collect();
    assert_eq!(rows, expected(&ENDPOINTS));
    assert!(reader.stats().failovers >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_is_waited_for() {
    let busy = vec![Step::Fail(Status::unavailable("starts"))];
    let streams = HashMap::from([(1, vec![busy.clone(), busy])]);
    let server = planning(&[], streams).await;
    assert_eq!(all(&client(&server.uri()), in_order()).await, expected(&ENDPOINTS));
    assert_eq!(server.gets().iter().filter(|ticket| *ticket == "1").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_place_gives_is_an_error_after_some_rounds() {
    let began = Instant::now();
    let server = planning(&[NOBODY], HashMap::new()).await;
    let mut reader = begun(&client(&server.uri()), ReadOptions::default()).await;
    let (pieces, error) = drained(&mut reader).await;
    let error = error.unwrap();
    assert_eq!((pieces.len(), error.kind()), (0, ErrorKind::Connect));
    assert_eq!(error.location(), Some(NOBODY));
    // Two rounds are waited for: 0.25 s and 0.5 s, a quarter less or more.
    assert!(
        (0.5..20.0).contains(&began.elapsed().as_secs_f64()),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_the_same_everywhere_is_not_tried_again() {
    for (status, kind) in [
        (Status::aborted("STALE: /t has changed"), ErrorKind::Stale),
        (Status::data_loss("a damaged page"), ErrorKind::DataLoss),
        (Status::resource_exhausted("too large"), ErrorKind::ResourceExhausted),
    ] {
        let other = planning(&[], HashMap::new()).await;
        let streams = HashMap::from([(1, vec![vec![Step::Rows(10), Step::Fail(status)]])]);
        let server = planning(&[REUSE, &other.uri()], streams).await;
        let mut reader = begun(&client(&server.uri()), in_order()).await;
        let (pieces, error) = drained(&mut reader).await;
        assert_eq!(error.unwrap().kind(), kind);
        let rows: Vec<i64> = pieces.iter().flat_map(|piece| numbers(&piece.batch)).collect();
        assert_eq!(
            rows,
            expected(&ENDPOINTS)[..60],
            "what came before the error is handed out"
        );
        assert_eq!(other.gets().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_tickets_are_planned_anew_where_nothing_was_handed_out() {
    let server = planning(&[], HashMap::new()).await;
    let client = client(&server.uri());
    let mut reader = begun(&client, in_order()).await;
    server.tell(|script| script.expired = 100);
    let (pieces, error) = drained(&mut reader).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(
        pieces
            .iter()
            .flat_map(|piece| numbers(&piece.batch))
            .collect::<Vec<_>>(),
        expected(&ENDPOINTS)
    );
    assert_eq!(server.state.plans.load(std::sync::atomic::Ordering::SeqCst), 2);
    server.tell(|script| script.expired = usize::MAX);
    let (_, error) = drained(&mut begun(&client, in_order()).await).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Unauthenticated, "once is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_expire_after_the_first_row_are_an_error() {
    let server = planning(&[], HashMap::new()).await;
    let options = ClientOptions {
        budget_bytes: 1,
        streams_per_worker: 1,
        ..options()
    };
    let client = Client::new(&server.uri(), options).unwrap();
    let mut reader = begun(&client, in_order()).await;
    reader.next().await.unwrap().unwrap();
    server.tell(|script| script.expired = usize::MAX);
    let (_, error) = drained(&mut reader).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Unauthenticated);
    assert_eq!(server.state.plans.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_sends_nonsense_is_an_error_and_no_panic() {
    let server = planning(&[], HashMap::new()).await;
    // It serves, but is asked for what the plan did not say.
    server.tell(|script| script.endpoints = vec![10]);
    let client = client(&server.uri());
    let mut plan = client.plan(&jetbridge_client::Scan::of("/t")).await.unwrap();
    let other = arrow::datatypes::Schema::new(vec![plan.schema.field(1).clone(), plan.schema.field(0).clone()]);
    plan.schema = std::sync::Arc::new(other);
    let (_, error) = drained(&mut client.read(&plan, ReadOptions::default())).await;
    let error = error.unwrap();
    assert_eq!(error.kind(), ErrorKind::Internal);
    assert!(error.message().contains("was planned"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 8, ..ProptestConfig::default() })]

    /// "rows come once and none is lost, whichever worker dies, before or during a stream": the wire to the first place is cut
    /// after any number of bytes, again and again; the other place cuts its batches otherwise. Either may send row groups.
    #[test]
    fn wires_may_break_anywhere(
        cuts in prop::collection::vec(0_u64..40_000, 1..5),
        sizes in prop::collection::vec(1_i64..90, 1..6),
        rows in prop::collection::vec(0_i64..900, 1..6),
        for_good in any::<bool>(),
        ordered in any::<bool>(),
        is_raw in any::<(bool, bool)>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let streams = |size: i64| (0..rows.len()).map(|endpoint| (endpoint, vec![vec![Step::Rest(size)]; 9])).collect();
            let script = |size, is_raw, locations| Script {
                endpoints: rows.clone(), streams: streams(size), locations, is_raw, ..Script::default()
            };
            let first = Server::start(script(sizes[0], is_raw.0, Vec::new())).await;
            let wire = Wire::to(&first.authority).await;
            let last = *sizes.last().unwrap();
            let home = Server::start(script(last, is_raw.1, vec![wire.uri.clone(), REUSE.to_owned()])).await;
            let client = Client::new(&home.uri(), reading()).unwrap();
            let read = ReadOptions { ordered, ..ReadOptions::default() };
            let mut reader = begun(&client, read).await;
            let mut cuts = cuts.iter();
            wire.cut_after(*cuts.next().unwrap());
            let mut numbered = Vec::new();
            while let Some(piece) = reader.next().await {
                numbered.extend(numbers(&piece.unwrap().batch));
                match cuts.next() {
                    Some(cut) => wire.cut_after(*cut),
                    None if for_good => wire.cut(),
                    None => {}
                }
            }
            if !ordered {
                numbered.sort_unstable();
            }
            assert_eq!(numbered, expected(&rows));
        });
    }
}
