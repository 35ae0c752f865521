//! Files that are not what they claim: each is an error that names the file, never a panic, a hang or a flood.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Decimal128Array, DictionaryArray, Float64Array, Int32Array, ListArray,
    StringArray, StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Field, Int32Type, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter, RowGroupMetaData};
use parquet::file::properties::{WriterProperties, WriterVersion};

use super::{cache, mount, open, read_all, write};
use crate::{Cache, CacheConfig, ReadError, ReadLimits};

async fn read(folder: &Path, name: &str) -> Result<RecordBatch, ReadError> {
    let ufs = mount(folder);
    let file = open(&ufs, name).await;
    tokio::time::timeout(Duration::from_secs(60), read_all(&cache(), &file))
        .await
        .expect("reading must end")
}

async fn error_of(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.parquet"), bytes).unwrap();
    let error = read(folder.path(), "bad.parquet")
        .await
        .expect_err("this file cannot be read");
    assert!(
        matches!(error, ReadError::Corrupt { .. } | ReadError::LimitExceeded { .. }),
        "{error:?}"
    );
    assert!(error.to_string().starts_with("/t/bad.parquet"), "{error}");
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_not_parquet_say_so() {
    assert!(error_of(b"").await.contains("not a Parquet file: it has 0 bytes"));
    assert!(error_of(b"PAR1").await.contains("not a Parquet file"));
    let png = [b"\x89PNG\r\n\x1a\n".as_slice(), &[7; 5000]].concat();
    assert!(error_of(&png).await.contains("does not end in PAR1"));
    assert!(
        error_of(b"PAR1\x00\x00\x00\x00\xff\xff\xff\xffPAR1")
            .await
            .contains("more than the file has")
    );
    assert!(
        error_of(b"PAR1\x00\x00\x00\x00\xff\x00\x00\x00PAR1")
            .await
            .contains("more than the file has")
    );
    assert!(
        error_of(b"PAR1\x00\x00\x00\x00\x01\x00\x00\x00PARE")
            .await
            .contains("encrypted")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_anywhere_is_an_error() {
    let whole = sample(Compression::SNAPPY, WriterVersion::PARQUET_1_0);
    for cut in [whole.len() / 2, whole.len() - 1, whole.len() - 9, 100] {
        error_of(&whole[..cut]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_does_not_harm_its_siblings() {
    let folder = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Int32Array::from_iter_values(0..1000));
    write(&folder.path().join("good.parquet"), &[("n", Arc::clone(&numbers))], 100);
    let mut bytes = std::fs::read(folder.path().join("good.parquet")).unwrap();
    bytes[4..40].fill(0xff);
    std::fs::write(folder.path().join("bad.parquet"), bytes).unwrap();
    let ufs = mount(folder.path());
    let cache = cache();
    let (good, bad) = (open(&ufs, "good.parquet").await, open(&ufs, "bad.parquet").await);
    let error = read_all(&cache, &bad).await.unwrap_err();
    assert!(
        error.to_string().starts_with("/t/bad.parquet, row group 0: "),
        "{error}"
    );
    assert_eq!(
        read_all(&cache, &good).await.unwrap().column(0).as_ref(),
        numbers.as_ref()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_too_deep_or_too_wide_are_refused_before_they_are_parsed() {
    let deep: Vec<u32> = std::iter::repeat_n(1, 10_000).chain([0]).collect();
    assert!(error_of(&file_with_schema(&deep)).await.contains("depth of the schema"));
    let wide: Vec<u32> = std::iter::once(100_001)
        .chain(std::iter::repeat_n(0, 100_001))
        .collect();
    assert!(
        error_of(&file_with_schema(&wide))
            .await
            .contains("number of leaf columns")
    );
    // A group of a thousand million children, for whom the parser would make room at once.
    assert!(
        error_of(&file_with_schema(&[1 << 30, 0]))
            .await
            .contains("more children than there are elements")
    );
    // A list of two thousand million elements, of which none is there.
    let huge = [&[0x15, 2, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07][..], &[0]].concat();
    assert!(error_of(&file_with_footer(&huge)).await.contains("length of a list"));
}

#[tokio::test(flavor = "multi_thread")]
async fn footers_over_the_limit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("a.parquet"),
        sample(Compression::SNAPPY, WriterVersion::PARQUET_1_0),
    )
    .unwrap();
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let limits = ReadLimits {
        footer_bytes: 100,
        ..ReadLimits::default()
    };
    let cache = Cache::open(CacheConfig {
        limits,
        ..CacheConfig::default()
    })
    .unwrap();
    let error = cache.footer(&file).await.unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::LimitExceeded {
                limit: 100,
                row_group: None,
                ..
            }
        ),
        "{error}"
    );
}

/// Memory is taken by what the footer says; pages of a few bytes can have any number of values.
#[tokio::test(flavor = "multi_thread")]
async fn more_values_than_the_footer_says_are_refused_and_fewer_than_rows_are_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let lists = (0..10).map(|_| Some(vec![Some(7); 1_000]));
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
    let path = folder.path().join("a.parquet");
    write(&path, &[("list", lists)], 10);
    let forged = with_values(&std::fs::read(&path).unwrap(), 9_999);
    assert!(error_of(&forged).await.contains("more values than the footer says"));

    let numbers: ArrayRef = Arc::new(Float64Array::from_iter_values((0..1_000).map(f64::from)));
    write(&path, &[("n", numbers)], 1_000);
    std::fs::write(&path, with_values(&std::fs::read(&path).unwrap(), 0)).unwrap();
    let footer = cache()
        .footer(&open(&mount(folder.path()), "a.parquet").await)
        .await
        .unwrap();
    assert_eq!(footer.row_groups[0].decoded_bytes, [8_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_over_the_limit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text: ArrayRef = Arc::new(StringArray::from_iter_values(
        (0..1000).map(|i| format!("{i}{}", "x".repeat(200))),
    ));
    write(&folder.path().join("a.parquet"), &[("s", text)], 1000);
    let ufs = mount(folder.path());
    let file = open(&ufs, "a.parquet").await;
    let limits = ReadLimits {
        page_bytes: 10_000,
        ..ReadLimits::default()
    };
    let cache = Cache::open(CacheConfig {
        limits,
        ..CacheConfig::default()
    })
    .unwrap();
    let error = read_all(&cache, &file).await.unwrap_err();
    assert!(
        matches!(
            error,
            ReadError::LimitExceeded {
                limit: 10_000,
                row_group: Some(0),
                ..
            }
        ),
        "{error}"
    );
}

/// Flips bytes of good files at random: whatever comes out, it ends, and what is given as read is valid Arrow.
#[tokio::test(flavor = "multi_thread")]
async fn flipped_bytes_never_break_more_than_their_read() {
    let cases = std::env::var("JETBRIDGE_FUZZ_CASES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(150_u64);
    let first = std::env::var("JETBRIDGE_FUZZ_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_u64);
    let samples = [
        sample(Compression::UNCOMPRESSED, WriterVersion::PARQUET_1_0),
        sample(Compression::UNCOMPRESSED, WriterVersion::PARQUET_2_0),
        sample(Compression::SNAPPY, WriterVersion::PARQUET_2_0),
        sample(Compression::ZSTD(Default::default()), WriterVersion::PARQUET_1_0),
        sample(Compression::GZIP(Default::default()), WriterVersion::PARQUET_1_0),
        sample(Compression::LZ4_RAW, WriterVersion::PARQUET_2_0),
    ];
    let folder = tempfile::tempdir().unwrap();
    let (mut read_whole, mut refused) = (0, 0);
    for seed in first..first + cases {
        let mut random = Random(seed);
        let mut bytes = samples[random.below(samples.len())].clone();
        mutate(&mut bytes, &mut random);
        std::fs::write(folder.path().join("f.parquet"), &bytes).unwrap();
        match read(folder.path(), "f.parquet").await {
            Ok(batch) => {
                read_whole += 1;
                for column in batch.columns() {
                    column
                        .to_data()
                        .validate_full()
                        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                }
            }
            Err(ReadError::Internal { reason }) => panic!("seed {seed}: {reason}"),
            Err(_) => refused += 1,
        }
    }
    println!("seeds {first}..{}: {read_whole} read, {refused} refused", first + cases);
    assert!(refused > 0);
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let length = bytes.len();
    match random.below(8) {
        0 => bytes.truncate(random.below(length)),
        1 => {
            // The footer's own bytes, which are few among the data's.
            let footer = length.saturating_sub(random.below(2500) + 9);
            bytes[footer] = random.byte();
        }
        2 => {
            let (from, to) = (random.below(length), random.below(length));
            let piece = bytes[from..(from + 16).min(length)].to_vec();
            let to = to.min(length - piece.len());
            bytes[to..to + piece.len()].copy_from_slice(&piece);
        }
        flips => {
            for _ in 0..flips * 2 {
                let at = random.below(length);
                bytes[at] ^= 1 << random.below(8);
            }
        }
    }
}

/// SplitMix64: a test's chance must come again by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// A small file of many types, with nulls, two row groups and pages of few rows.
fn sample(compression: Compression, version: WriterVersion) -> Vec<u8> {
    let rows = 200_usize;
    let every = |n: usize| move |i: usize| !i.is_multiple_of(n);
    let number = |i: usize| i32::try_from(i).unwrap();
    let text = |i: usize| format!("text {} {}", i % 17, "é".repeat(i % 20));
    let texts: Vec<Option<String>> = (0..rows).map(|i| every(7)(i).then(|| text(i))).collect();
    let dictionary: DictionaryArray<Int32Type> = texts.iter().map(|text| text.as_deref()).collect();
    let lists = (0..rows).map(|i| every(9)(i).then(|| (0..i % 4).map(|n| every(3)(n).then(|| number(n)))));
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "int",
            Arc::new(
                (0..rows)
                    .map(|i| every(5)(i).then(|| number(i)))
                    .collect::<Int32Array>(),
            ),
        ),
        (
            "float",
            Arc::new(Float64Array::from_iter_values((0..rows).map(|i| f64::from(number(i))))),
        ),
        (
            "bool",
            Arc::new((0..rows).map(|i| Some(every(2)(i))).collect::<BooleanArray>()),
        ),
        ("text", Arc::new(StringArray::from(texts.clone()))),
        (
            "view",
            Arc::new(StringViewArray::from_iter(texts.iter().map(|text| text.as_deref()))),
        ),
        ("binary", Arc::new(BinaryArray::from_iter_values((0..rows).map(text)))),
        ("dictionary", Arc::new(dictionary)),
        (
            "decimal",
            Arc::new(Decimal128Array::from_iter_values(
                (0..rows).map(|i| i128::from(number(i))),
            )),
        ),
        (
            "time",
            Arc::new(TimestampMicrosecondArray::from_iter_values(
                (0..rows).map(|i| i64::from(number(i))),
            )),
        ),
        (
            "list",
            Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
        ),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_writer_version(version)
        .set_max_row_group_row_count(Some(120))
        .set_data_page_row_count_limit(50)
        .set_write_batch_size(10)
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn file_with_footer(footer: &[u8]) -> Vec<u8> {
    let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
    [b"PAR1", footer, &length, b"PAR1"].concat()
}

/// The same file with a footer that says that each column chunk has so many values.
fn with_values(file: &[u8], values: i64) -> Vec<u8> {
    let file = Bytes::copy_from_slice(file);
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
    let forge = |group: &RowGroupMetaData| {
        let columns = group.columns().iter().map(|column| {
            let builder = column.clone().into_builder().set_num_values(values);
            builder.build().unwrap()
        });
        let builder = group.clone().into_builder().set_column_metadata(columns.collect());
        builder.build().unwrap()
    };
    let groups = metadata.row_groups().iter().map(forge).collect();
    let metadata = metadata.into_builder().set_row_groups(groups).build();
    let length = u32::from_le_bytes(file[file.len() - 8..file.len() - 4].try_into().unwrap());
    let mut forged = file[..file.len() - 8 - usize::try_from(length).unwrap()].to_vec();
    ParquetMetaDataWriter::new(&mut forged, &metadata).finish().unwrap();
    forged
}

/// A footer whose schema has elements with these numbers of children.
fn file_with_schema(children: &[u32]) -> Vec<u8> {
    let mut footer = vec![0x15, 2, 0x19, 0xfc];
    varint(&mut footer, u32::try_from(children.len()).unwrap());
    for count in children {
        if *count == 0 {
            footer.extend([0x15, 2, 0x25, 0, 0x18, 1, b'c', 0]);
        } else {
            footer.extend([0x35, 0, 0x18, 1, b'g', 0x15]);
            varint(&mut footer, count * 2);
            footer.push(0);
        }
    }
    footer.extend([0x16, 0, 0x19, 0x0c, 0]);
    file_with_footer(&footer)
}

fn varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}
