//! Tickets: round trips, every way to alter one, keys and their text.

use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;

use super::*;

const NOW_MS: u64 = 1_700_000_000_000;
const CLUSTER: &str = "test-cluster";

fn keys() -> TicketKeys {
    TicketKeys::new(KeyRing::random().unwrap())
}

fn schema() -> Schema {
    let metadata = [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into();
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new(
            "at",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        ),
        Field::new("tags", DataType::new_list(DataType::Utf8View, true), true),
        Field::new(
            "kind",
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            true,
        ),
    ];
    Schema::new_with_metadata(fields, metadata)
}

fn ticket() -> Ticket {
    Ticket {
        expires_unix_ms: NOW_MS + 600_000,
        audience: CLUSTER.to_owned(),
        dataset: "/lake/trips".to_owned(),
        uri: "s3://bucket/trips".to_owned(),
        columns: Some(vec!["id".to_owned(), "a.b".to_owned()]),
        filter: Some("id > 5 AND name = 'it''s'".to_owned()),
        limit: Some(0),
        ordered: true,
        schema_fingerprint: schema_fingerprint(&schema()),
        schema_ipc: schema_to_ipc(&schema()),
        output: vec!["id".to_owned()],
        partitions: vec![
            TicketPartition {
                name: "year".to_owned(),
                kind: TicketPartitionKind::Int,
            },
            TicketPartition {
                name: "city".to_owned(),
                kind: TicketPartitionKind::Text,
            },
        ],
        files: vec![
            TicketFile {
                path: "year=2024/part 1%2F+ü.parquet".to_owned(),
                size: u64::MAX,
                generation: "e:\"abc\"".to_owned(),
                row_groups: vec![0, 1, u32::MAX],
                values: vec![TicketValue::Int(i64::MIN), TicketValue::Text(String::new())],
            },
            TicketFile {
                values: vec![TicketValue::Null, TicketValue::Null],
                ..TicketFile::default()
            },
        ],
        epoch: 7,
        holders: vec!["a".to_owned(), "b".to_owned()],
        splits: vec![0, u64::MAX],
        reread: true,
    }
}

fn open(keys: &TicketKeys, bytes: &[u8]) -> Result<Ticket, TicketError> {
    keys.open_ticket(bytes, CLUSTER, NOW_MS)
}

#[test]
fn what_is_sealed_opens_to_the_same() {
    let keys = keys();
    for ticket in [
        ticket(),
        Ticket {
            audience: CLUSTER.to_owned(),
            expires_unix_ms: NOW_MS + 1,
            ..Ticket::default()
        },
    ] {
        let bytes = keys.seal(&ticket).unwrap();
        assert_eq!(open(&keys, &bytes), Ok(ticket));
    }
}

#[test]
fn no_columns_is_not_all_columns() {
    let keys = keys();
    for columns in [None, Some(Vec::new()), Some(vec!["id".to_owned()])] {
        let bytes = keys
            .seal(&Ticket {
                columns: columns.clone(),
                ..ticket()
            })
            .unwrap();
        assert_eq!(open(&keys, &bytes).unwrap().columns, columns);
    }
}

#[test]
fn a_ticket_altered_at_any_byte_does_not_open() {
    let keys = keys();
    let bytes = keys.seal(&ticket()).unwrap();
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut forged = bytes.to_vec();
            forged[index] ^= 1 << bit;
            let expected = if index < 4 {
                TicketError::NotOurs
            } else {
                TicketError::Forged
            };
            assert_eq!(open(&keys, &forged), Err(expected), "byte {index} bit {bit}");
        }
    }
}

#[test]
fn a_ticket_cut_or_lengthened_anywhere_does_not_open() {
    let keys = keys();
    let bytes = keys.seal(&ticket()).unwrap();
    for length in 0..bytes.len() {
        let error = open(&keys, &bytes[..length]).unwrap_err();
        assert!(
            matches!(error, TicketError::NotOurs | TicketError::Forged),
            "{length}: {error:?}"
        );
        assert!(open(&keys, &bytes[bytes.len() - length..]).is_err());
    }
    for extra in [&b"\0"[..], b"JBT1", &bytes] {
        assert_eq!(open(&keys, &[&bytes[..], extra].concat()), Err(TicketError::Forged));
    }
}

#[test]
fn every_field_is_under_the_seal() {
    let keys = keys();
    let genuine = ticket();
    let body_of = |bytes: &[u8]| bytes[12..bytes.len() - 32].to_vec();
    let sealed = keys.seal(&genuine).unwrap();
    let changes: [fn(&mut Ticket); 15] = [
        |t| t.expires_unix_ms += 1,
        |t| t.audience.push('x'),
        |t| t.dataset.push('x'),
        |t| t.uri.push('x'),
        |t| t.columns = None,
        |t| t.filter = None,
        |t| t.limit = None,
        |t| t.ordered = false,
        |t| t.schema_fingerprint ^= 1,
        |t| t.schema_ipc = Bytes::new(),
        |t| t.output.clear(),
        |t| t.partitions[0].kind = TicketPartitionKind::Text,
        |t| t.files[0].generation.push('x'),
        |t| t.files[0].row_groups.clear(),
        |t| t.files[0].values[1] = TicketValue::Null,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut other = genuine.clone();
        change(&mut other);
        assert_ne!(other, genuine, "change {index} changes nothing");
        // The content of another ticket under this one's key id and seal.
        let forged = [
            &sealed[..12],
            &body_of(&keys.seal(&other).unwrap()),
            &sealed[sealed.len() - 32..],
        ]
        .concat();
        assert_eq!(open(&keys, &forged), Err(TicketError::Forged), "change {index}");
    }
}

#[test]
fn a_ticket_expires_at_its_millisecond() {
    let keys = keys();
    let bytes = keys
        .seal(&Ticket {
            expires_unix_ms: NOW_MS,
            ..ticket()
        })
        .unwrap();
    assert!(keys.open_ticket(&bytes, CLUSTER, NOW_MS - 1).is_ok());
    assert_eq!(
        keys.open_ticket(&bytes, CLUSTER, NOW_MS),
        Err(TicketError::Expired { seconds_ago: 0 })
    );
    assert_eq!(
        keys.open_ticket(&bytes, CLUSTER, NOW_MS + 5_500),
        Err(TicketError::Expired { seconds_ago: 5 })
    );
    assert!(keys.open_ticket(&bytes, CLUSTER, u64::MAX).is_err());
}

#[test]
fn a_ticket_of_another_cluster_or_key_does_not_open() {
    let keys = keys();
    let bytes = keys.seal(&ticket()).unwrap();
    assert_eq!(
        keys.open_ticket(&bytes, "other", NOW_MS),
        Err(TicketError::OtherAudience)
    );
    assert_eq!(open(&self::keys(), &bytes), Err(TicketError::Forged));
}

#[test]
fn a_sealed_content_of_a_later_version_is_unreadable_and_not_forged() {
    let keys = keys();
    let mut wrong = ticket();
    wrong.files[0].values.pop();
    assert!(matches!(keys.seal(&wrong), Err(TicketError::Unreadable { .. })));
}

#[test]
fn a_rotated_key_opens_its_tickets_once_more() {
    let ring = KeyRing::random().unwrap();
    let keys = TicketKeys::new(ring.clone());
    let first = keys.seal(&ticket()).unwrap();
    let ring = ring.rotated().unwrap();
    keys.set(ring.clone());
    let second = TicketKeys::new(ring.clone()).seal(&ticket()).unwrap();
    assert_ne!(first[4..12], second[4..12]);
    let read_back = |ring: &KeyRing| TicketKeys::new(KeyRing::parse(ring.to_text().as_bytes()).unwrap());
    for keys in [&keys, &read_back(&ring)] {
        assert!(open(keys, &first).is_ok());
        assert!(open(keys, &second).is_ok());
    }
    let ring = ring.rotated().unwrap();
    keys.set(ring.clone());
    for keys in [&keys, &read_back(&ring)] {
        assert_eq!(open(keys, &first), Err(TicketError::Forged));
        assert!(open(keys, &second).is_ok());
    }
}

#[test]
fn a_new_key_opens_at_once_and_seals_when_others_know_it_too() {
    let ring = KeyRing::random().unwrap();
    let late = TicketKeys::new(ring.clone());
    let early = TicketKeys::new(ring.clone());
    let rotated = ring.rotated().unwrap();
    early.set(rotated.clone());
    // A watch that begins anew tells the same ring again.
    early.set(rotated.clone());
    let told = TicketKeys::aged(rotated.clone(), Duration::ZERO);
    for sealed in [&early, &told].map(|keys| keys.seal(&ticket()).unwrap()) {
        assert!(
            open(&late, &sealed).is_ok(),
            "a node that has not heard of the key refuses it"
        );
    }
    let settled = TicketKeys::aged(rotated, SETTLING).seal(&ticket()).unwrap();
    assert_eq!(open(&late, &settled), Err(TicketError::Forged));
    assert!(open(&early, &settled).is_ok());
}

#[test]
fn damaged_keys_are_refused() {
    let good = KeyRing::random().unwrap().to_text();
    let digit = good.len() - 2;
    let flipped = format!(
        "{}{}\n",
        &good[..digit],
        if good.as_bytes()[digit] == b'0' { '1' } else { '0' }
    );
    let extra = format!(
        "{good}{}{}",
        good.lines().nth(1).unwrap().replace("current", "previous"),
        "\nmore"
    );
    for bad in [
        "",
        "\n",
        "jetbridge ticket keys 2\n",
        &good[..good.len() / 2],
        &flipped,
        &extra,
        &good.replace("current", "previous"),
    ] {
        let error = KeyRing::parse(bad.as_bytes()).unwrap_err();
        assert!(matches!(error, KeyError::Damaged { .. }), "{bad:?}: {error}");
    }
    assert!(KeyRing::parse(b"\xff\xfe").is_err());
    assert!(KeyRing::parse(good.as_bytes()).is_ok());
}

#[test]
fn secrets_are_not_printed() {
    let ring = KeyRing::random().unwrap();
    let secret = ring
        .to_text()
        .lines()
        .nth(1)
        .unwrap()
        .split(' ')
        .nth(2)
        .unwrap()
        .to_owned();
    assert_eq!(secret.len(), 64);
    assert!(!format!("{ring:?} {:?}", TicketKeys::new(ring.clone())).contains(&secret));
}

#[test]
fn what_would_not_open_is_not_sealed() {
    let keys = keys();
    let file = |path: String, groups: u32| TicketFile {
        path,
        row_groups: (0..groups).collect(),
        ..TicketFile::default()
    };
    let bare = Ticket {
        audience: CLUSTER.to_owned(),
        expires_unix_ms: u64::MAX,
        ..Ticket::default()
    };
    let too_many = Ticket {
        files: vec![TicketFile::default(); MAX_TICKET_FILES + 1],
        ..bare.clone()
    };
    let limit = MAX_TICKET_FILES;
    assert_eq!(
        keys.seal(&too_many),
        Err(TicketError::TooLarge {
            what: "files",
            found: limit + 1,
            limit
        })
    );
    let groups = Ticket {
        files: vec![file(String::new(), 300_000)],
        ..bare.clone()
    };
    assert!(matches!(
        keys.seal(&groups),
        Err(TicketError::TooLarge { what: "row groups", .. })
    ));
    let long = Ticket {
        files: vec![file("x".repeat(MAX_TICKET_BYTES), 1)],
        ..bare.clone()
    };
    assert!(matches!(
        keys.seal(&long),
        Err(TicketError::TooLarge { what: "bytes", .. })
    ));
    let partition = TicketPartition {
        name: String::new(),
        kind: TicketPartitionKind::Int,
    };
    let partitions = Ticket {
        partitions: vec![partition; MAX_TICKET_PARTITIONS + 1],
        ..bare.clone()
    };
    assert!(matches!(
        keys.seal(&partitions),
        Err(TicketError::TooLarge {
            what: "partition columns",
            ..
        })
    ));
    let holders = Ticket {
        holders: vec![String::new(); MAX_TICKET_HOLDERS + 1],
        ..bare.clone()
    };
    assert!(matches!(
        keys.seal(&holders),
        Err(TicketError::TooLarge { what: "holders", .. })
    ));
    assert_eq!(
        open(&keys, &vec![b'J'; MAX_TICKET_BYTES + 1]),
        Err(TicketError::NotOurs)
    );
}

#[test]
fn ten_thousand_small_files_fit_one_ticket() {
    let file = |index: u32| TicketFile {
        path: format!("year=2024/part-{index:05}.parquet"),
        size: 12_345,
        generation: format!("e:{index:032x}"),
        row_groups: vec![0],
        values: Vec::new(),
    };
    let ticket = Ticket {
        files: (0..10_000).map(file).collect(),
        partitions: Vec::new(),
        ..ticket()
    };
    let bytes = keys().seal(&ticket).unwrap();
    assert!(bytes.len() < 90 * 10_000, "{} bytes", bytes.len());
}

/// `TICKET.md`: the fixed parts of the envelope.
#[test]
fn the_envelope_is_as_documented() {
    let keys = keys();
    let bytes = keys
        .seal(&Ticket {
            expires_unix_ms: 300,
            audience: "c".to_owned(),
            ..Ticket::default()
        })
        .unwrap();
    assert_eq!(&bytes[..4], b"JBT1");
    assert_eq!(bytes[12..bytes.len() - 32], [0x08, 0xac, 0x02, 0x12, 0x01, b'c']);
    assert_eq!(bytes.len(), 4 + 8 + 6 + 32);
}

/// `TICKET.md`: a field of a later version is skipped.
#[test]
fn an_unknown_field_is_skipped() {
    let mut body = wire::encode(&ticket());
    body.extend([0xfa, 0x01, 0x01, 0x00]);
    assert_eq!(wire::decode(&body), Ok(ticket()));
    assert!(matches!(
        wire::decode(b"\xff\xff\xff"),
        Err(TicketError::Unreadable { .. })
    ));
}

#[test]
fn schemas_keep_their_metadata_and_equal_ones_have_one_fingerprint() {
    let schema = schema();
    assert_eq!(schema_from_ipc(&schema_to_ipc(&schema)).unwrap().as_ref(), &schema);
    assert_eq!(schema_fingerprint(&schema), schema_fingerprint(&self::schema()));
    let nullable = Schema::new(vec![Field::new("id", DataType::Int64, true)]);
    let required = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
    assert_ne!(schema_fingerprint(&nullable), schema_fingerprint(&required));
    assert!(schema_from_ipc(b"nothing").is_err());
    assert!(schema_from_ipc(&[]).is_err());
}

proptest! {
    #[test]
    fn random_bytes_do_not_open(bytes: Vec<u8>, ours: bool) {
        let keys = keys();
        let bytes = if ours { [b"JBT1".as_slice(), &bytes].concat() } else { bytes };
        prop_assert!(open(&keys, &bytes).is_err());
    }

    #[test]
    fn random_content_decodes_or_is_unreadable(bytes: Vec<u8>) {
        let _ = wire::decode(&bytes);
    }

    #[test]
    fn any_file_comes_back(path: String, size: u64, generation: String, row_groups: Vec<u32>, number: i64, text: String) {
        let keys = keys();
        let file = TicketFile {
            path, size, generation, row_groups,
            values: vec![TicketValue::Int(number), TicketValue::Text(text)],
        };
        let ticket = Ticket { files: vec![file], ..ticket() };
        prop_assert_eq!(open(&keys, &keys.seal(&ticket).unwrap()), Ok(ticket));
    }
}
