//! Reads whose rows come as they are stored.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::thread;

use jetbridge_client::{Client, ClientOptions, ErrorKind, ReadOptions, Source, Wire as Form};
use tonic::Status;

use super::support::raw::reading;
use super::support::server::{Script, Server, Step};
use super::support::{all, begun, drained, expected, in_order, numbers, options, until};

const ENDPOINTS: [i64; 5] = [20, 0, 1000, 1, 333];
const REUSE: &str = "arrow-flight-reuse-connection://?";

/// A server that sends row groups, or batches; in parts of so many rows, but for the first streams of each endpoint.
async fn serving(is_raw: bool, size: i64, first: &[Step], locations: &[&str]) -> Server {
    let streams = |_| [vec![first.to_vec()], vec![vec![Step::Rest(size)]; 9]].concat();
    Server::start(Script {
        endpoints: ENDPOINTS.to_vec(),
        streams: (0..ENDPOINTS.len())
            .map(|endpoint| (endpoint, streams(endpoint)))
            .collect(),
        locations: locations.iter().map(|location| (*location).to_owned()).collect(),
        is_ours: true,
        is_raw,
        ..Script::default()
    })
    .await
}

fn client(server: &Server, options: ClientOptions) -> Client {
    Client::new(&server.uri(), options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn row_groups_give_the_rows_whatever_there_is_room_for() {
    let server = serving(true, 50, &[Step::Rest(7)], &[]).await;
    for budget_bytes in [256 << 20, 100_000, 1] {
        let client = client(
            &server,
            ClientOptions {
                budget_bytes,
                ..reading()
            },
        );
        assert_eq!(all(&client, in_order()).await, expected(&ENDPOINTS));
        let mut reader = begun(&client, ReadOptions::default()).await;
        let (pieces, error) = drained(&mut reader).await;
        assert!(error.is_none(), "{error:?}");
        assert!(pieces.iter().all(|piece| piece.source == Source::Disk));
        let mut rows: Vec<i64> = pieces.iter().flat_map(|piece| numbers(&piece.batch)).collect();
        rows.sort_unstable();
        assert_eq!(rows, expected(&ENDPOINTS));
        let stats = reader.stats();
        assert!(stats.received_bytes > 0 && stats.failovers == 0, "{stats:?}");
    }
}

#[tokio::test]
async fn one_thread_is_enough() {
    let server = serving(true, 50, &[Step::Rest(50)], &[]).await;
    assert_eq!(all(&client(&server, reading()), in_order()).await, expected(&ENDPOINTS));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_is_what_this_client_can_read() {
    let server = serving(false, 50, &[Step::Rest(50)], &[]).await;
    let has_cores = thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    let by_itself = if has_cores { "auto" } else { "arrow" };
    for (form, asked) in [(Form::Auto, by_itself), (Form::Raw, "raw"), (Form::Lz4, "lz4")] {
        let options = ClientOptions {
            wire: form,
            budget_bytes: 64 << 20,
            ..reading()
        };
        // The server sends batches all the same, as where row groups cannot say the answer.
        assert_eq!(all(&client(&server, options), in_order()).await, expected(&ENDPOINTS));
        let forms = std::mem::take(&mut *server.state.forms.lock());
        assert_eq!(forms, vec![asked; ENDPOINTS.len()]);
        let most_bytes = (32_u64 << 20).to_string();
        assert_eq!(*server.state.most_file_bytes.lock(), Some(most_bytes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_read_row_groups_is_told_at_once() {
    let server = serving(true, 50, &[Step::Rest(50)], &[]).await;
    let raw = ClientOptions {
        wire: Form::Raw,
        ..options()
    };
    let error = Client::new(&server.uri(), raw).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("raw"), "{error}");
    // A server that sends them to whoever did not ask.
    let (_, error) = drained(&mut begun(&client(&server, options()), in_order()).await).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Internal);
}

/// "no row twice, none lost", from one form to the other in the midst of a stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_gone_on_with_in_another_form() {
    let busy = || Step::Fail(Status::unavailable("drains"));
    for is_raw in [true, false] {
        let breaks = [Step::Rows(2), Step::Rows(31), busy()];
        let first = serving(is_raw, 17, &breaks, &[]).await;
        let second = serving(!is_raw, 13, &[Step::Rest(13)], &[&first.uri(), REUSE]).await;
        for read in [in_order(), ReadOptions::default()] {
            let mut reader = begun(&client(&second, reading()), read).await;
            let (pieces, error) = drained(&mut reader).await;
            assert!(error.is_none(), "{error:?}");
            let mut rows: Vec<i64> = pieces.iter().flat_map(|piece| numbers(&piece.batch)).collect();
            rows.sort_unstable();
            assert_eq!(rows, expected(&ENDPOINTS));
        }
        assert!(!second.gets().is_empty(), "it was gone on with elsewhere");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_an_error_is_handed_out() {
    let damaged = Step::Fail(Status::data_loss("a damaged page"));
    let first = [Step::Rows(30), Step::Rows(30), damaged];
    let streams = HashMap::from([(0, vec![first.to_vec()])]);
    let server = Server::start(Script {
        endpoints: vec![100],
        streams,
        is_raw: true,
        ..Script::default()
    })
    .await;
    let (pieces, error) = drained(&mut begun(&client(&server, reading()), in_order()).await).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::DataLoss);
    let rows: Vec<i64> = pieces.iter().flat_map(|piece| numbers(&piece.batch)).collect();
    assert_eq!(rows, expected(&[60]));
}

/// "nothing outlives its client and readers"
#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_reader_ends_its_streams() {
    let server = serving(true, 50, &[Step::Rows(1), Step::Hang], &[]).await;
    let mut reader = begun(&client(&server, reading()), in_order()).await;
    let first = futures::StreamExt::next(&mut reader).await.unwrap().unwrap();
    assert_eq!(first.batch.num_rows(), 1);
    until("streams are open", || server.state.open.load(Ordering::SeqCst) >= 1).await;
    drop(reader);
    until("no stream is open", || server.state.open.load(Ordering::SeqCst) == 0).await;
}
