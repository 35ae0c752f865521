//! What is one schema of many files, what is not, and what columns are found by.

use super::*;
use DataType::{Binary, Date32, Decimal128, Float32, Float64, Int16, Int32, Int64, UInt32, UInt64, Utf8, Utf8View};

fn schema(fields: &[(&str, DataType)]) -> Schema {
    Schema::new(
        fields
            .iter()
            .map(|(name, kind)| Field::new(*name, kind.clone(), false))
            .collect::<Vec<_>>(),
    )
}

fn merge_two(a: &Schema, b: &Schema) -> Result<SchemaRef, MergeError> {
    merge([("/a", a), ("/b", b)].into_iter())
}

fn merged_type(a: DataType, b: DataType) -> Option<DataType> {
    let merged = merge_two(&schema(&[("x", a)]), &schema(&[("x", b)])).ok()?;
    Some(merged.field(0).data_type().clone())
}

#[test]
fn columns_are_found_in_any_order() {
    let schema = schema(&[("a", Int16), ("b", Int16), ("c", Int16)]);
    let mut positions = Positions::of(&schema);
    let found = ["a", "b", "b", "none", "c", "a", "c"].map(|name| positions.find(name));
    let expected = [Some(0), Some(1), Some(1), None, Some(2), Some(0), Some(2)];
    assert_eq!(found, expected);
}

#[test]
fn numbers_widen_and_others_do_not() {
    assert_eq!(merged_type(Int16, Int64), Some(Int64));
    assert_eq!(merged_type(UInt32, Int32), Some(Int64));
    assert_eq!(merged_type(UInt32, Int64), Some(Int64));
    assert_eq!(merged_type(UInt64, Int64), None);
    assert_eq!(merged_type(Int32, Float32), Some(Float64));
    assert_eq!(merged_type(Float32, Float64), Some(Float64));
    assert_eq!(
        merged_type(Decimal128(10, 2), Decimal128(12, 2)),
        Some(Decimal128(12, 2))
    );
    assert_eq!(merged_type(Decimal128(10, 2), Decimal128(12, 3)), None);
    assert_eq!(merged_type(Utf8, Int32), None);
    assert_eq!(merged_type(Date32, Int32), None);
    assert_eq!(merged_type(Utf8View, Utf8View), Some(Utf8View));
    assert_eq!(merged_type(Utf8View, Utf8), Some(Utf8));
    assert_eq!(merged_type(Utf8, Binary), None);
    assert_eq!(merged_type(DataType::Null, Int32), Some(Int32));
}

#[test]
fn missing_columns_become_nullable_and_keep_first_seen_order() {
    let merged = merge_two(
        &schema(&[("a", Int32), ("b", Utf8)]),
        &schema(&[("c", Int32), ("a", Int64)]),
    )
    .unwrap();
    let seen: Vec<_> = merged
        .fields()
        .iter()
        .map(|f| (f.name().as_str(), f.is_nullable()))
        .collect();
    assert_eq!(seen, [("a", false), ("b", true), ("c", true)]);
    assert_eq!(merged.field(0).data_type(), &Int64);
}

#[test]
fn errors_name_file_and_column() {
    let error = merge_two(&schema(&[("a", Int32)]), &schema(&[("a", Utf8)])).unwrap_err();
    assert_eq!((error.file.as_str(), error.column.as_str()), ("/b", "a"));
    let error = merge_two(&schema(&[("a", Int32)]), &schema(&[("z", Utf8)])).unwrap_err();
    assert!(error.to_string().contains("not one table"), "{error}");
    let twice = schema(&[("a", Int32), ("a", Int32)]);
    assert!(
        merge([("/t", &twice)].into_iter())
            .unwrap_err()
            .reason
            .contains("two columns")
    );
}

#[test]
fn structs_and_lists_merge_inside() {
    let point = |fields: &[(&str, DataType)]| DataType::Struct(schema(fields).fields().clone());
    let list = |inner: DataType| DataType::List(Arc::new(Field::new("element", inner, true)));
    let merged =
        merged_type(list(point(&[("x", Int32)])), list(point(&[("x", Int64), ("y", Int32)]))).expect("they merge");
    let DataType::List(item) = merged else {
        panic!("a list stays a list")
    };
    let DataType::Struct(fields) = item.data_type() else {
        panic!("of structs")
    };
    assert_eq!((fields[0].data_type(), fields[0].is_nullable()), (&Int64, false));
    assert_eq!((fields[1].name().as_str(), fields[1].is_nullable()), ("y", true));
    let error = merge_two(
        &schema(&[("p", point(&[("x", Int32)]))]),
        &schema(&[("p", point(&[("x", Utf8)]))]),
    );
    assert_eq!(error.unwrap_err().column, "p.x");
}

#[test]
fn metadata_is_kept_where_files_agree() {
    let with = |pairs: &[(&str, &str)]| {
        let metadata = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect::<HashMap<_, _>>();
        Schema::new_with_metadata(
            vec![Field::new("a", Int32, true).with_metadata(metadata.clone())],
            metadata,
        )
    };
    let merged = merge_two(&with(&[("k", "1"), ("x", "1")]), &with(&[("k", "1"), ("x", "2")])).unwrap();
    assert_eq!(merged.metadata().keys().collect::<Vec<_>>(), ["k"]);
    assert_eq!(merged.field(0).metadata().keys().collect::<Vec<_>>(), ["k"]);
}

fn nested() -> Schema {
    let leaf = |name: &str| Field::new(name, Int32, true);
    let xy = DataType::Struct(vec![leaf("x"), leaf("y")].into());
    let entries = Field::new(
        "entries",
        DataType::Struct(vec![leaf("key"), Field::new("value", xy.clone(), true)].into()),
        false,
    );
    Schema::new(vec![
        leaf("a.b"),
        Field::new("s", xy.clone(), true),
        Field::new("l", DataType::List(Arc::new(Field::new("element", xy, true))), true),
        Field::new("m", DataType::Map(Arc::new(entries), false), true),
        leaf("plain"),
    ])
}

fn names(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|c| (*c).to_owned()).collect()
}

#[test]
fn projection_prunes_nested_fields() {
    let projected = project(
        &nested(),
        &names(&["plain", "s.y", "a.b", "l.x", "m.y", "s.x", "plain"]),
    )
    .unwrap();
    let order: Vec<_> = projected.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(order, ["plain", "s", "a.b", "l", "m"]);
    let DataType::Struct(both) = projected.field(1).data_type() else {
        panic!()
    };
    assert_eq!(both.len(), 2);
    let DataType::List(item) = projected.field(3).data_type() else {
        panic!()
    };
    let DataType::Struct(one) = item.data_type() else {
        panic!()
    };
    assert_eq!(one.len(), 1);
    assert!(projected.field(4).data_type().to_string().contains("key"));
    assert!(!projected.field(4).data_type().to_string().contains("\"x\""));
}

#[test]
fn unknown_columns_name_the_nearest() {
    let error = project(&nested(), &names(&["plian"])).unwrap_err();
    assert_eq!(error.nearest.as_deref(), Some("plain"));
    assert_eq!(error.to_string(), "no column \"plian\"; did you mean \"plain\"?");
    assert_eq!(project(&nested(), &names(&["s.zzz"])).unwrap_err().nearest, None);
    assert_eq!(
        project(&nested(), &names(&["Plain"])).unwrap_err().nearest.as_deref(),
        Some("plain")
    );
}
