//! Every type, as pyarrow reads it. What can be written from here is; a tool writes what we read of any folder as Arrow
//! files, for comparing with pyarrow by hand.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, FixedSizeListArray, Int32Builder, Int64Array,
    IntervalYearMonthArray, ListArray, MapBuilder, MapFieldNames, NullArray, StringArray, StringBuilder, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use arrow::ipc::writer::StreamWriter;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;

use super::{cache, collect, mount, open, read_all, request, split, write};

/// `JETBRIDGE_DUMP_FROM` and `JETBRIDGE_DUMP_TO` are folders: each Parquet file of the one becomes an Arrow file in the
/// other, or a text with the error.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a tool; needs JETBRIDGE_DUMP_FROM and JETBRIDGE_DUMP_TO"]
async fn dump_a_folder_as_arrow_files() {
    let folder = |name: &str| std::env::var(name).ok().map(PathBuf::from);
    let (Some(from), Some(to)) = (folder("JETBRIDGE_DUMP_FROM"), folder("JETBRIDGE_DUMP_TO")) else {
        println!("skipped: the folders are not set");
        return;
    };
    let (ufs, cache) = (mount(&from), cache());
    for entry in std::fs::read_dir(&from).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let file = open(&ufs, &name).await;
        let read = async {
            let footer = cache.footer(&file).await?;
            let batches = collect(&cache, request(vec![split(&file, &footer)], &footer.schema)).await?;
            Ok::<_, crate::ReadError>((footer, batches))
        };
        match read.await {
            Ok((footer, batches)) => {
                let out = File::create(to.join(format!("{name}.arrow"))).unwrap();
                let options = arrow::ipc::writer::IpcWriteOptions::default()
                    .with_dictionary_handling(arrow::ipc::writer::DictionaryHandling::Resend);
                let mut writer = StreamWriter::try_new_with_options(out, &footer.schema, options).unwrap();
                for given in batches {
                    if let Err(error) = writer.write(&given.batch) {
                        std::fs::write(to.join(format!("{name}.err")), format!("ipc: {error}")).unwrap();
                    }
                }
                writer.finish().unwrap();
            }
            Err(error) => std::fs::write(to.join(format!("{name}.err")), error.to_string()).unwrap(),
        }
    }
}

fn written(array: ArrayRef) -> (tempfile::TempDir, ArrayRef) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("a.parquet"), &[("c", Arc::clone(&array))], 40);
    (folder, array)
}

async fn read_back(folder: &Path) -> Result<ArrayRef, crate::ReadError> {
    let ufs = mount(folder);
    let file = open(&ufs, "a.parquet").await;
    Ok(Arc::clone(read_all(&cache(), &file).await?.column(0)))
}

/// What is written in a type that Parquet and the embedded schema can say comes back in it.
#[tokio::test(flavor = "multi_thread")]
async fn types_come_back_as_they_were_written() {
    for array in all_types() {
        let (folder, array) = written(array);
        let read = read_back(folder.path()).await.unwrap();
        assert_eq!(read.data_type(), array.data_type());
        assert_eq!(read.as_ref(), array.as_ref());
        read.to_data().validate_full().unwrap();
    }
}

/// What pyarrow does not restore from the embedded schema comes as the Parquet type.
#[tokio::test(flavor = "multi_thread")]
async fn types_that_pyarrow_does_not_restore_come_as_parquet_has_them() {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..100).map(|i| (i % 7 > 0).then_some(i * 1000))));
    let cases = [
        (DataType::Timestamp(TimeUnit::Second, None), DataType::Int64),
        (
            DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Int64)),
            DataType::Int64,
        ),
        (
            DataType::Time64(TimeUnit::Nanosecond),
            DataType::Time64(TimeUnit::Nanosecond),
        ),
    ];
    for (written_as, read_as) in cases {
        let (folder, array) = written(cast(&cast(&numbers, &DataType::Int64).unwrap(), &written_as).unwrap());
        let read = read_back(folder.path()).await.unwrap();
        assert_eq!(read.data_type(), &read_as, "{written_as}");
        assert_eq!(
            cast(&read, &DataType::Int64).unwrap().as_ref(),
            cast(&array, &DataType::Int64).unwrap().as_ref()
        );
    }
}

/// The months of an interval are part of its twelve bytes.
#[tokio::test(flavor = "multi_thread")]
async fn intervals_come_as_their_bytes() {
    let (folder, _) = written(Arc::new(IntervalYearMonthArray::from(vec![Some(14), None])));
    let read = read_back(folder.path()).await.unwrap();
    assert_eq!(read.data_type(), &DataType::FixedSizeBinary(12));
    assert_eq!(
        read.as_fixed_size_binary().value(0),
        [14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert!(read.is_null(1));
}

/// Text must be UTF-8 whatever says that it is text.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_text_are_an_error_where_text_is_promised() {
    for logical in ["STRING", "JSON", "UTF8"] {
        let folder = tempfile::tempdir().unwrap();
        let schema = format!("message schema {{ required binary c ({logical}); }}");
        let schema = Arc::new(parquet::schema::parser::parse_message_type(&schema).unwrap());
        let out = File::create(folder.path().join("a.parquet")).unwrap();
        let mut writer = SerializedFileWriter::new(out, schema, Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let bytes = [b"fine".to_vec(), vec![0xff, 0xfe, 0xfd]].map(ByteArray::from);
        column.typed::<ByteArrayType>().write_batch(&bytes, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let error = read_back(folder.path()).await.unwrap_err();
        assert!(error.to_string().to_lowercase().contains("utf"), "{logical}: {error}");
    }
}

pub(crate) fn all_types() -> Vec<ArrayRef> {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..100).map(|i| (i % 7 > 0).then_some(i))));
    let texts = (0..100).map(|i| (i % 5 > 0).then(|| format!("text {i} {}", "é".repeat(i % 30))));
    let texts: ArrayRef = Arc::new(StringArray::from_iter(texts));
    let of = |array: &ArrayRef, to: DataType| cast(array, &to).unwrap();
    let zone = |zone: &str| Some(Arc::from(zone));
    let dictionary = |keys| DataType::Dictionary(Box::new(keys), Box::new(DataType::Utf8));
    let mut arrays: Vec<ArrayRef> = [
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
        DataType::Float16,
        DataType::Float32,
        DataType::Float64,
        DataType::Boolean,
        DataType::Decimal128(20, 3),
        DataType::Decimal256(60, 3),
        DataType::Decimal32(9, 2),
        DataType::Decimal64(15, 2),
        DataType::Timestamp(TimeUnit::Millisecond, None),
        DataType::Timestamp(TimeUnit::Microsecond, zone("UTC")),
        DataType::Timestamp(TimeUnit::Nanosecond, zone("Europe/Paris")),
        DataType::Duration(TimeUnit::Second),
        DataType::Time64(TimeUnit::Microsecond),
    ]
    .into_iter()
    .map(|to| of(&numbers, to))
    .collect();
    arrays.push(of(&of(&numbers, DataType::Int32), DataType::Date32));
    arrays.push(of(
        &of(&numbers, DataType::Int32),
        DataType::Time32(TimeUnit::Millisecond),
    ));
    let text_types = [
        DataType::LargeUtf8,
        DataType::Utf8View,
        DataType::Binary,
        DataType::LargeBinary,
        DataType::BinaryView,
        dictionary(DataType::Int8),
        dictionary(DataType::Int32),
    ];
    arrays.extend(text_types.into_iter().map(|to| of(&texts, to)));
    let fixed = (0..100).map(|i: u8| (!i.is_multiple_of(3)).then_some([i; 5]));
    arrays.push(Arc::new(
        FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed, 5).unwrap(),
    ));
    arrays.extend(nested(&numbers, &texts));
    arrays.extend([Arc::clone(&numbers), texts, Arc::new(NullArray::new(100)) as ArrayRef]);
    arrays
}

/// A struct with text, a list of those, a list of lists of lists, a map of structs; each with nulls at every level.
fn nested(numbers: &ArrayRef, texts: &ArrayRef) -> Vec<ArrayRef> {
    let fields = Fields::from(vec![
        Field::new("n", numbers.data_type().clone(), true),
        Field::new("t", texts.data_type().clone(), true),
    ]);
    let nulls = Some(NullBuffer::from_iter((0..100).map(|i| i % 11 > 0)));
    let columns = vec![Arc::clone(numbers), Arc::clone(texts)];
    let structs: ArrayRef = Arc::new(StructArray::new(fields, columns, nulls));
    let list = |values: &ArrayRef| -> ArrayRef {
        let lengths = (0..values.len() / 2).map(|i| if i % 4 == 0 { 0 } else { 2 });
        let nulls = NullBuffer::from_iter((0..values.len() / 2).map(|i| i % 8 > 0));
        let item = Arc::new(Field::new("element", values.data_type().clone(), true));
        let used = (0..values.len() / 2).filter(|i| i % 4 > 0).count() * 2;
        let offsets = OffsetBuffer::from_lengths(lengths);
        Arc::new(ListArray::new(item, offsets, values.slice(0, used), Some(nulls)))
    };
    let mut map = MapBuilder::new(Some(map_names()), StringBuilder::new(), Int32Builder::new());
    for row in 0..100 {
        for entry in 0..row % 4 {
            map.keys().append_value(format!("key {entry}"));
            map.values().append_option((entry % 2 > 0).then_some(row));
        }
        map.append(row % 9 > 0 || row % 4 > 0).unwrap();
    }
    let fixed = FixedSizeListArray::new(
        Arc::new(Field::new("element", numbers.data_type().clone(), true)),
        2,
        Arc::clone(numbers),
        None,
    );
    vec![
        list(&structs),
        list(&list(&list(numbers))),
        structs,
        Arc::new(map.finish()),
        Arc::new(fixed),
    ]
}

fn map_names() -> MapFieldNames {
    MapFieldNames {
        entry: "key_value".to_owned(),
        key: "key".to_owned(),
        value: "value".to_owned(),
    }
}
