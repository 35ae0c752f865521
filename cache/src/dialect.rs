//! Which Arrow type a Parquet column is given as: the one that pyarrow would read it as.
//!
//! Parquet says less than Arrow: it has no large strings, no durations, no zones. Writers therefore put their Arrow
//! schema beside the data (`ARROW:schema`), and readers differ in how far they believe it. Our users compare what we
//! send with `pyarrow.parquet.read_table`, so [`Dialect`] follows the rules of Arrow C++: infer from the Parquet type,
//! then restore from the embedded schema what the C++ reader restores, and no more.
//!
//! ```text
//!   Parquet schema --inferred--> Arrow type --restored by ARROW:schema--> Dialect::schema   what users see
//!                                                                          |
//!   Parquet schema, patched -----------------------------------------------+--> Dialect::levels   what is decoded
//! ```
//!
//! Where the two differ (a `decimal256` that fits 128 bits) the reader casts. The patch takes annotations away that the
//! decoder would act upon wrongly: it drops the months of an `INTERVAL`, and does not check that `JSON` is UTF-8.
//!
//! Why not the crate's own mapping: it believes the embedded schema where C++ does not (binary as string, int64 as
//! timestamp) and differs in intervals and in the zones of coerced units.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use base64::Engine;
use parking_lot::Mutex;
use parquet::arrow::{
    ARROW_SCHEMA_META_KEY, FieldLevels, ProjectionMask, parquet_to_arrow_field_levels, parquet_to_arrow_schema,
};
use parquet::basic::{ConvertedType, LogicalType};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{FileMetaData, KeyValue};
use parquet::schema::types::{SchemaDescPtr, SchemaDescriptor, Type, TypePtr};

/// How one file's columns are decoded and shown.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// The schema that users see.
    pub(crate) schema: SchemaRef,
    /// The Parquet schema as the decoder shall understand it.
    parquet: Arc<SchemaDescriptor>,
    roots: Roots,
}

/// Finds top-level columns. A file may have ten thousand, all of which are asked for one by one.
#[derive(Debug)]
struct Roots {
    /// Their positions, by name.
    by_name: Vec<usize>,
    /// How many leaf columns those before each have.
    first_leaves: Vec<usize>,
}

impl Roots {
    fn of(schema: &Schema) -> Self {
        let mut by_name: Vec<usize> = (0..schema.fields().len()).collect();
        // Of two columns of one name the first stays the first.
        by_name.sort_by_key(|&root| schema.field(root).name());
        let mut leaves = 0;
        let first_leaves = schema.fields().iter().map(|field| {
            let first = leaves;
            leaves += leaves_of(field.data_type());
            first
        });
        Self {
            first_leaves: first_leaves.collect(),
            by_name,
        }
    }
}

/// The dialects that were asked for lately. The files of a dataset mostly have one schema, and to parse it and to work its
/// dialect out takes longer than all the rest of a small footer, and more memory.
#[derive(Debug, Default)]
pub(crate) struct Dialects(Mutex<VecDeque<Known>>);

/// A dialect, and what it was worked out from.
#[derive(Debug)]
struct Known {
    /// The schema as a footer has it.
    stored: Box<[u8]>,
    parquet: SchemaDescPtr,
    pairs: Option<Vec<KeyValue>>,
    dialect: Arc<Dialect>,
}

/// Dialects that are remembered. Each is compared with, the latest first.
const KNOWN_DIALECTS: usize = 4;
/// The longest schema that is remembered, with what its writer says beside it, in bytes: some ten thousand columns.
const MOST_SCHEMA_BYTES: usize = 1 << 20;

impl Dialects {
    /// The schema that was parsed from the same bytes.
    pub(crate) fn schema(&self, stored: &[u8]) -> Option<SchemaDescPtr> {
        let latest = self.0.lock();
        let known = latest.iter().find(|known| *known.stored == *stored);
        known.map(|known| Arc::clone(&known.parquet))
    }

    /// The dialect of a file, whose schema is `stored` so: that of an earlier one where their schemas, and what their writers say
    /// of them, are equal.
    pub(crate) fn of(&self, file: &FileMetaData, stored: Option<&[u8]>) -> Result<Arc<Dialect>> {
        let pairs = file.key_value_metadata();
        let said = pairs.into_iter().flatten();
        let said_bytes: usize = said
            .map(|pair| pair.key.len() + pair.value.as_ref().map_or(0, String::len))
            .sum();
        let fits = |stored: &&[u8]| stored.len().saturating_add(said_bytes) <= MOST_SCHEMA_BYTES;
        let Some(stored) = stored.filter(fits) else {
            return Dialect::new(file).map(Arc::new);
        };
        let is_of = |known: &&Known| known.pairs.as_ref() == pairs && *known.stored == *stored;
        if let Some(known) = self.0.lock().iter().find(is_of) {
            return Ok(Arc::clone(&known.dialect));
        }
        // Others may be working out the same: one is as good as the other.
        let dialect = Arc::new(Dialect::new(file)?);
        let known = Known {
            stored: stored.into(),
            parquet: file.schema_descr_ptr(),
            pairs: pairs.cloned(),
            dialect: Arc::clone(&dialect),
        };
        let mut latest = self.0.lock();
        latest.push_front(known);
        latest.truncate(KNOWN_DIALECTS);
        Ok(dialect)
    }
}

impl Dialect {
    /// Works out the types of a file's columns.
    fn new(file: &FileMetaData) -> Result<Self> {
        let inferred = parquet_to_arrow_schema(file.schema_descr(), None)?;
        let pairs = file.key_value_metadata();
        let original = pairs.and_then(|pairs| original_schema(pairs));
        let fields = inferred.fields().iter().enumerate().map(|(at, field)| {
            let field = Arc::new(as_cpp_infers(field));
            // The embedded schema speaks about columns by position; one that was edited since no longer fits.
            match original.as_ref().and_then(|schema| schema.fields().get(at)) {
                Some(origin) if origin.name() == field.name() => restore(origin, &field),
                _ => field,
            }
        });
        let schema = Schema::new_with_metadata(fields.collect::<Fields>(), schema_metadata(pairs));
        let dialect = Self {
            roots: Roots::of(&schema),
            schema: Arc::new(schema),
            parquet: patched(file)?,
        };
        dialect.check()?;
        Ok(dialect)
    }

    /// The position of a top-level column in the schema.
    pub(crate) fn position(&self, column: &str) -> Option<usize> {
        let name = |root: usize| self.schema.field(root).name().as_str();
        let by_name = &self.roots.by_name;
        let at = by_name.partition_point(|&root| name(root) < column);
        by_name.get(at).copied().filter(|&root| name(root) == column)
    }

    /// The position of the first leaf column of the top-level column at `root`.
    pub(crate) fn first_leaf(&self, root: usize) -> usize {
        self.roots.first_leaves.get(root).copied().unwrap_or_default()
    }

    /// What the decoder needs to read the leaves of `mask`.
    pub(crate) fn levels(&self, leaves: &[usize]) -> Result<FieldLevels> {
        let mask = || ProjectionMask::leaves(&self.parquet, leaves.iter().copied());
        // A hint that the decoder cannot follow is an error to it; then the column is decoded plainly and cast.
        parquet_to_arrow_field_levels(&self.parquet, mask(), Some(self.schema.fields()))
            .or_else(|_| parquet_to_arrow_field_levels(&self.parquet, mask(), None))
    }

    /// Projections count leaves by the Arrow type, so both schemas must have the same ones.
    fn check(&self) -> Result<()> {
        let counted: usize = self
            .schema
            .fields()
            .iter()
            .map(|field| leaves_of(field.data_type()))
            .sum();
        let leaves = self.parquet.num_columns();
        if counted != leaves || self.schema.fields().len() != self.parquet.root_schema().get_fields().len() {
            let message = format!("the schema has groups without columns ({leaves} leaf columns, {counted} readable)");
            return Err(ParquetError::General(message));
        }
        Ok(())
    }
}

/// How many Parquet leaf columns hold a value of this type.
pub(crate) fn leaves_of(data_type: &DataType) -> usize {
    match data_type {
        DataType::Struct(fields) => fields.iter().map(|field| leaves_of(field.data_type())).sum(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => leaves_of(item.data_type()),
        _ => 1,
    }
}

/// The schema that the writer embedded; none where there is none or it cannot be read, as then the Parquet types stand.
pub(crate) fn original_schema(pairs: &[KeyValue]) -> Option<Schema> {
    let encoded = pairs
        .iter()
        .find(|pair| pair.key == ARROW_SCHEMA_META_KEY)?
        .value
        .as_ref()?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).ok()?;
    let message = if bytes.starts_with(&[0xff; 4]) {
        bytes.get(8..)?
    } else {
        &bytes
    };
    let message = arrow::ipc::root_as_message(message).ok()?;
    message.header_as_schema().map(arrow::ipc::convert::fb_to_schema)
}

fn schema_metadata(pairs: Option<&Vec<KeyValue>>) -> HashMap<String, String> {
    let kept = pairs
        .into_iter()
        .flatten()
        .filter(|pair| pair.key != ARROW_SCHEMA_META_KEY);
    kept.map(|pair| (pair.key.clone(), pair.value.clone().unwrap_or_default()))
        .collect()
}

/// What C++ infers from the Parquet type alone, where that is not what the crate infers.
fn as_cpp_infers(field: &Field) -> Field {
    let data_type = match field.data_type() {
        DataType::Interval(_) => DataType::FixedSizeBinary(INTERVAL_BYTES),
        DataType::Decimal256(precision, scale) if *precision <= DECIMAL128_DIGITS => {
            DataType::Decimal128(*precision, *scale)
        }
        nested => map_children(nested, &mut |_, child| Arc::new(as_cpp_infers(child))),
    };
    field.clone().with_data_type(data_type)
}

/// Bytes of Parquet's INTERVAL: months, days, milliseconds.
const INTERVAL_BYTES: i32 = 12;
/// Digits that a 128-bit decimal holds.
const DECIMAL128_DIGITS: u8 = 38;

/// Applies to an inferred field what the writer's field says beyond it (Arrow C++ `ApplyOriginalMetadata`).
fn restore(origin: &Field, inferred: &FieldRef) -> FieldRef {
    let data_type = restore_scalar(
        origin.data_type(),
        restore_nested(origin.data_type(), inferred.data_type()),
    );
    let mut metadata = origin.metadata().clone();
    metadata.extend(inferred.metadata().clone());
    Arc::new(Field::new(inferred.name(), data_type, inferred.is_nullable()).with_metadata(metadata))
}

fn restore_nested(origin: &DataType, inferred: &DataType) -> DataType {
    let origins = children(origin);
    let same_shape = matches!(
        (origin, inferred),
        (DataType::Struct(_), DataType::Struct(_)) | (DataType::Map(_, _), DataType::Map(_, _))
    ) || (is_list(origin) && matches!(inferred, DataType::List(_)));
    if !same_shape || origins.len() != children(inferred).len() {
        return inferred.clone();
    }
    let restored = map_children(inferred, &mut |at, child| match origins.get(at) {
        Some(origin) => restore(origin, child),
        None => Arc::clone(child),
    });
    match (origin, restored) {
        (DataType::LargeList(_), DataType::List(item)) => DataType::LargeList(item),
        (DataType::FixedSizeList(_, size), DataType::List(item)) => DataType::FixedSizeList(item, *size),
        (DataType::ListView(_), DataType::List(item)) => DataType::ListView(item),
        (DataType::LargeListView(_), DataType::List(item)) => DataType::LargeListView(item),
        (DataType::Map(_, sorted), DataType::Map(entries, _)) => DataType::Map(entries, *sorted),
        (_, restored) => restored,
    }
}

fn restore_scalar(origin: &DataType, inferred: DataType) -> DataType {
    use DataType::{
        Binary, BinaryView, Decimal32, Decimal64, Decimal128, Decimal256, Dictionary, Duration, Int64, LargeBinary,
        LargeUtf8, Timestamp, Utf8, Utf8View,
    };
    match (origin, &inferred) {
        // Parquet knows only whether a time is in UTC; the zone comes from the writer, the unit from the file.
        (Timestamp(_, Some(zone)), Timestamp(unit, Some(utc))) if utc.as_ref() == "UTC" => {
            Timestamp(*unit, Some(Arc::clone(zone)))
        }
        (Duration(_), Int64)
        | (LargeUtf8 | Utf8View, Utf8)
        | (LargeBinary | BinaryView, Binary)
        | (Decimal32(_, _) | Decimal64(_, _) | Decimal256(_, _), Decimal128(_, _)) => origin.clone(),
        (Dictionary(keys, _), Utf8 | Binary) => Dictionary(keys.clone(), Box::new(inferred)),
        _ => inferred,
    }
}

fn is_list(data_type: &DataType) -> bool {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView};
    matches!(
        data_type,
        List(_) | LargeList(_) | FixedSizeList(_, _) | ListView(_) | LargeListView(_)
    )
}

fn children(data_type: &DataType) -> Vec<&FieldRef> {
    match data_type {
        DataType::Struct(fields) => fields.iter().collect(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => vec![item],
        // C++ sees a map's entries as its one child, whose struct is gone into in turn.
        DataType::Map(entries, _) => vec![entries],
        _ => Vec::new(),
    }
}

/// The same type with its child fields replaced.
fn map_children(data_type: &DataType, change: &mut dyn FnMut(usize, &FieldRef) -> FieldRef) -> DataType {
    match data_type {
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().enumerate().map(|(at, field)| change(at, field)).collect())
        }
        DataType::List(item) => DataType::List(change(0, item)),
        DataType::LargeList(item) => DataType::LargeList(change(0, item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(change(0, item), *size),
        DataType::ListView(item) => DataType::ListView(change(0, item)),
        DataType::LargeListView(item) => DataType::LargeListView(change(0, item)),
        DataType::Map(entries, sorted) => DataType::Map(change(0, entries), *sorted),
        other => other.clone(),
    }
}

/// The file's Parquet schema without the annotations that the decoder would act upon wrongly.
fn patched(file: &FileMetaData) -> Result<Arc<SchemaDescriptor>> {
    let root = file.schema_descr().root_schema_ptr();
    let needs_patch = file
        .schema_descr()
        .columns()
        .iter()
        .any(|column| misread(column.self_type()));
    if needs_patch {
        Ok(Arc::new(SchemaDescriptor::new(patch(&root)?)))
    } else {
        Ok(file.schema_descr_ptr())
    }
}

/// The same group with other fields.
pub(crate) fn regrouped(group: &TypePtr, fields: Vec<TypePtr>) -> Result<TypePtr> {
    let info = group.get_basic_info();
    let builder = Type::group_type_builder(group.name())
        .with_converted_type(info.converted_type())
        .with_logical_type(info.logical_type_ref().cloned())
        .with_id(info.has_id().then(|| info.id()))
        .with_fields(fields);
    let builder = if info.has_repetition() {
        builder.with_repetition(info.repetition())
    } else {
        builder
    };
    builder.build().map(Arc::new)
}

fn misread(leaf: &Type) -> bool {
    let info = leaf.get_basic_info();
    matches!(info.converted_type(), ConvertedType::INTERVAL | ConvertedType::JSON)
        || matches!(info.logical_type_ref(), Some(LogicalType::Json))
}

fn patch(node: &TypePtr) -> Result<TypePtr> {
    if !node.is_primitive() {
        let fields = node.get_fields().iter().map(patch).collect::<Result<Vec<_>>>()?;
        return regrouped(node, fields);
    }
    if !misread(node) {
        return Ok(Arc::clone(node));
    }
    let info = node.get_basic_info();
    let length = match node.as_ref() {
        Type::PrimitiveType { type_length, .. } => *type_length,
        Type::GroupType { .. } => -1,
    };
    let text = info.converted_type() != ConvertedType::INTERVAL;
    Type::primitive_type_builder(node.name(), node.get_physical_type())
        .with_repetition(info.repetition())
        .with_length(length)
        .with_id(info.has_id().then(|| info.id()))
        .with_logical_type(text.then_some(LogicalType::String))
        .build()
        .map(Arc::new)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;
    use parquet::basic::Type as PhysicalType;

    use super::*;

    fn restored(origin: DataType, inferred: DataType) -> DataType {
        let inferred = Arc::new(Field::new("c", inferred, true));
        restore(&Field::new("c", origin, true), &inferred).data_type().clone()
    }

    #[test]
    fn the_embedded_schema_is_believed_as_far_as_cpp_believes_it() {
        use DataType::{Binary, Date32, Date64, Int64, LargeUtf8, Utf8, Utf8View};
        let time = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Into::into));
        let dictionary = |keys, values| DataType::Dictionary(Box::new(keys), Box::new(values));
        assert_eq!(restored(Utf8View, Utf8), Utf8View);
        assert_eq!(restored(LargeUtf8, Binary), Binary);
        assert_eq!(restored(Date64, Date32), Date32);
        assert_eq!(restored(time(TimeUnit::Second, None), Int64), Int64);
        assert_eq!(
            restored(
                time(TimeUnit::Second, Some("Europe/Paris")),
                time(TimeUnit::Millisecond, Some("UTC"))
            ),
            time(TimeUnit::Millisecond, Some("Europe/Paris"))
        );
        assert_eq!(
            restored(dictionary(DataType::Int8, LargeUtf8), Utf8),
            dictionary(DataType::Int8, Utf8)
        );
        assert_eq!(restored(dictionary(DataType::Int8, Int64), Int64), Int64);
    }

    #[test]
    fn nested_types_are_restored_inside() {
        let list = |item: DataType| DataType::List(Arc::new(Field::new("element", item, true)));
        let origin = DataType::LargeList(Arc::new(Field::new("item", DataType::LargeUtf8, true)));
        let expected = DataType::LargeList(Arc::new(Field::new("element", DataType::LargeUtf8, true)));
        assert_eq!(restored(origin, list(DataType::Utf8)), expected);
    }
    #[test]
    fn columns_are_found_by_name_with_their_leaves() {
        let leaf = |name: &str| Field::new(name, DataType::Int32, true);
        let pair = DataType::Struct(Fields::from(vec![leaf("x"), leaf("y")]));
        let schema = Schema::new(vec![leaf("z"), Field::new("a", pair, true), leaf("m"), leaf("a")]);
        let roots = Roots::of(&schema);
        assert_eq!(roots.by_name, [1, 3, 2, 0]);
        assert_eq!(roots.first_leaves, [0, 1, 3, 4]);
    }

    /// What a file of these columns of 32-bit numbers says of itself.
    fn about(columns: &[&str], pairs: Option<Vec<KeyValue>>) -> FileMetaData {
        let columns = columns.iter().map(|name| {
            let column = Type::primitive_type_builder(name, PhysicalType::INT32);
            Arc::new(column.build().unwrap())
        });
        let root = Type::group_type_builder("schema").with_fields(columns.collect());
        let schema = SchemaDescriptor::new(Arc::new(root.build().unwrap()));
        FileMetaData::new(1, 0, None, pairs, Arc::new(schema), None)
    }

    #[test]
    fn files_that_say_the_same_of_themselves_share_a_dialect() {
        let dialects = Dialects::default();
        let said = |value: &str| Some(vec![KeyValue::new("by".to_owned(), value.to_owned())]);
        let of = |columns: &[&str], pairs| {
            let stored = columns.join(" ");
            dialects.of(&about(columns, pairs), Some(stored.as_bytes())).unwrap()
        };
        let first = of(&["a", "b"], said("x"));
        assert!(Arc::ptr_eq(&first, &of(&["a", "b"], said("x"))));
        assert!(dialects.schema(b"a b").is_some() && dialects.schema(b"a").is_none());
        for (columns, pairs) in [(["a", "c"], said("x")), (["a", "b"], said("y")), (["a", "b"], None)] {
            let other = of(&columns, pairs.clone());
            assert!(!Arc::ptr_eq(&first, &other), "{columns:?} {pairs:?}");
            assert_eq!(other.schema.field(1).name(), columns[1]);
        }
        for round in 0..2 * KNOWN_DIALECTS {
            of(&["a"], said(&round.to_string()));
        }
        assert_eq!(dialects.0.lock().len(), KNOWN_DIALECTS);
        assert!(!Arc::ptr_eq(&first, &of(&["a", "b"], said("x"))));
    }

    #[test]
    fn what_is_too_long_to_be_remembered_or_not_to_be_told_apart_is_worked_out_each_time() {
        let dialects = Dialects::default();
        let long = "a".repeat(MOST_SCHEMA_BYTES);
        let said = || Some(vec![KeyValue::new("by".to_owned(), long.clone())]);
        let cases = [
            (None, None),
            (Some([long.as_bytes(), b"a"].concat()), None),
            (Some(b"a".to_vec()), said()),
        ];
        for (stored, pairs) in cases {
            dialects.of(&about(&["a"], pairs), stored.as_deref()).unwrap();
            assert!(dialects.0.lock().is_empty());
        }
    }
}
