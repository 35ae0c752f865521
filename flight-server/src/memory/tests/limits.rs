//! What streams may take: places, and time.

use super::*;

/// A client that does not read is cut, and holds nothing then.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut() {
    let served = served_with(&[rows(7, 400_000)], 4_000_000, streams(64, Duration::from_secs(2))).await;
    let ticket = served.warmed().await;
    let mut stream = UnixStream::connect(&served.socket).unwrap();
    // The numbers go by segment; the texts are over the limit, and fill the socket.
    say(&mut stream, &get(&ticket));
    eventually("a lease", || served.door.leased_bytes() > 0).await;
    eventually("the end of the lease", || served.door.leased_bytes() == 0).await;
    let heard = block_in_place(|| hear_stream(&mut stream));
    assert!(!heard.last().unwrap().starts_with(r#"{"end""#));
}

/// A client that takes nothing for a while, and not for too long, gets every row once: its scan was paused, and went on.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_back_gets_every_row() {
    let served = served_with(&[rows(7, 400_000)], 0, streams(64, Duration::from_secs(8))).await;
    let ticket = served.ticket().await;
    let mut client = served.client();
    let batches = block_in_place(|| {
        let mut stream = client.get(&ticket).unwrap();
        let first = stream.next().unwrap().unwrap();
        // Longer than half of the stall timeout, after which the scan is paused.
        std::thread::sleep(Duration::from_secs(5));
        let rest = stream.map(Result::unwrap);
        std::iter::once(first).chain(rest).collect::<Vec<_>>()
    });
    assert_eq!(joined(&batches), rows(7, 400_000));
}

/// The streams of all doors have so many places together. Who finds none is told to try again, and the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_are_refused_and_may_be_tried_again() {
    let streams = streams(1, PATIENCE);
    let served = served_with(&[rows(7, 400_000)], 0, streams.clone()).await;
    let ticket = served.ticket().await;
    let mut first = UnixStream::connect(&served.socket).unwrap();
    say(&mut first, &get(&ticket));
    let begun = block_in_place(|| hear(&mut first)).unwrap();
    assert!(begun.starts_with(r#"{"schema""#), "{begun}");
    let mut client = served.client();
    let refused = read(&mut client, &ticket).unwrap_err();
    assert!(matches!(refused, ClientError::Refused { code: 14, .. }), "{refused}");
    assert!(refused.to_string().contains("max_streams"), "{refused}");
    assert!(streams.enter().is_err(), "the one place is every door's");
    drop(first);
    eventually("a free place", || streams.enter().is_ok()).await;
    let answer = read(&mut client, &ticket).unwrap();
    assert_eq!(joined(&answer.batches), rows(7, 400_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_kept_columns_are_as_long_as_the_client_likes() {
    let written = rows(0, 600_000);
    let served = served(std::slice::from_ref(&written)).await;
    let ticket = served.warmed().await;
    let mut client = served.client();
    let long = read(&mut client, &ticket).unwrap();
    client.limit_batches(Some(1));
    let short = read(&mut client, &ticket).unwrap();
    assert_eq!(
        (long.inline_bytes, short.inline_bytes),
        (0, 0),
        "no value is copied for that"
    );
    assert!(
        long.batches.len() * 2 <= short.batches.len(),
        "{} batches, and {} short ones",
        long.batches.len(),
        short.batches.len()
    );
    assert_eq!(joined(&long.batches), written);
    assert_eq!(joined(&short.batches), written);
}
