//! One schema out of many files, and part of a schema out of all of it.
//!
//! [`merge`] makes the schema of a dataset from the schemas of its files: the union of their columns by name, in the
//! order in which they are first seen, each as the narrowest type that holds every file's values. [`project`] picks
//! columns, and parts of nested columns, by name.
//!
//! Why widen and not refuse: writers drift (an `int32` becomes an `int64`, a column is added), and the reader that is
//! refused cannot mend the files. Why no wider than this: text never becomes a number, a time never changes its unit
//! or zone, a decimal never its scale, because then equal values would stop being equal.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;

/// Two files of one dataset whose columns cannot be one table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: column {column:?}: {reason}")]
pub struct MergeError {
    /// The file that does not fit those before it.
    pub file: String,
    /// The column in question, with dots into nested fields; empty where no column is shared at all.
    pub column: String,
    /// Why it does not fit.
    pub reason: String,
}

/// A column that was asked for and does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no column {name:?}{}", .nearest.as_ref().map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
pub struct UnknownColumn {
    /// The name as it was asked for.
    pub name: String,
    /// The name that is most like it, where one is.
    pub nearest: Option<String>,
}

/// Merges the schemas of a dataset's files, given with the names that errors shall use.
///
/// A column that some file lacks becomes nullable. Metadata is kept where all files agree on it. No file at all gives
/// the empty schema.
///
/// # Errors
/// Where two files have a column in types that do not widen to a common one, where one file has a column twice, and
/// where a file shares no column with those before it.
pub fn merge<'a>(files: impl Iterator<Item = (&'a str, &'a Schema)>) -> Result<SchemaRef, MergeError> {
    let mut merged = Merger::default();
    for (file, schema) in files {
        merged.add(file, schema)?;
    }
    Ok(Arc::new(Schema::new_with_metadata(merged.fields, merged.metadata)))
}

/// Gives `array` as the type of `field`: by reference where it has that type, rebuilt around the same buffers where only names
/// or metadata of nested fields differ.
///
/// # Errors
/// A value that does not fit the type.
pub fn fit(array: &ArrayRef, field: &Field) -> Result<ArrayRef, ArrowError> {
    crate::adapt::adapt(array, field)
}

/// Picks columns by name, in the order asked for.
///
/// A name is first looked up as it stands, for names may contain dots; else as a path into structs, through lists and
/// the values of maps. Two paths into one column give it once, with both parts; a column named twice is given once.
///
/// # Errors
/// The first name that is not found.
pub fn project(schema: &Schema, columns: &[String]) -> Result<SchemaRef, UnknownColumn> {
    let mut order: Vec<usize> = Vec::new();
    let mut picks: HashMap<usize, Pick> = HashMap::new();
    let mut positions = Positions::of(schema);
    for name in columns {
        let whole = positions.find(name).map(|root| (root, Pick::All));
        let found = whole.or_else(|| find(schema.fields(), name));
        let (root, pick) = found.ok_or_else(|| unknown(schema, name))?;
        match picks.get_mut(&root) {
            Some(before) => before.add(pick),
            None => {
                order.push(root);
                picks.insert(root, pick);
            }
        }
    }
    let fields: Vec<FieldRef> = order
        .iter()
        .filter_map(|root| Some(prune(schema.fields().get(*root)?, picks.get(root)?)))
        .collect();
    Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
}

/// Finds columns of a schema by name, one after another. It looks first behind the one that it found last, so that whoever asks
/// for columns in the schema's order waits for one look each, and not for all fields before them.
#[derive(Debug)]
pub struct Positions<'a> {
    fields: &'a Fields,
    next: usize,
}

impl<'a> Positions<'a> {
    /// Finds columns of `schema`, whose names are all different.
    #[must_use]
    pub fn of(schema: &'a Schema) -> Self {
        Self {
            fields: schema.fields(),
            next: 0,
        }
    }

    /// The position of a column; none where it is not there.
    pub fn find(&mut self, name: &str) -> Option<usize> {
        let is_next = self.fields.get(self.next).is_some_and(|field| field.name() == name);
        let at = if is_next {
            self.next
        } else {
            self.fields.iter().position(|field| field.name() == name)?
        };
        self.next = at + 1;
        Some(at)
    }
}

#[derive(Default)]
struct Merger {
    fields: Vec<Field>,
    metadata: HashMap<String, String>,
    by_name: HashMap<String, usize>,
    files: usize,
    /// The schema of the file before, for datasets whose files are all alike.
    previous: Option<Schema>,
}

impl Merger {
    fn add(&mut self, file: &str, schema: &Schema) -> Result<(), MergeError> {
        if self.previous.as_ref() == Some(schema) {
            return Ok(());
        }
        check_unique(file, schema)?;
        if self.files == 0 {
            self.metadata.clone_from(schema.metadata());
        } else {
            self.metadata
                .retain(|key, value| schema.metadata().get(key) == Some(value));
        }
        self.merge_fields(file, schema)?;
        self.files += 1;
        self.previous = Some(schema.clone());
        Ok(())
    }

    fn merge_fields(&mut self, file: &str, schema: &Schema) -> Result<(), MergeError> {
        let shared = schema
            .fields()
            .iter()
            .any(|field| self.by_name.contains_key(field.name()));
        if !shared && !self.fields.is_empty() && !schema.fields().is_empty() {
            let reason = "the file shares no column with those before it: this is not one table".to_owned();
            return Err(MergeError {
                file: file.to_owned(),
                column: String::new(),
                reason,
            });
        }
        for field in schema.fields() {
            match self.by_name.get(field.name()) {
                Some(at) => {
                    let before = &mut self.fields[*at];
                    *before = merge_field(before, field).map_err(|fault| fault.in_file(file))?;
                }
                None => {
                    let missing_before = self.files > 0;
                    self.by_name.insert(field.name().clone(), self.fields.len());
                    self.fields.push(
                        field
                            .as_ref()
                            .clone()
                            .with_nullable(field.is_nullable() || missing_before),
                    );
                }
            }
        }
        for field in self.fields.iter_mut().filter(|field| !field.is_nullable()) {
            if schema.column_with_name(field.name()).is_none() {
                field.set_nullable(true);
            }
        }
        Ok(())
    }
}

fn check_unique(file: &str, schema: &Schema) -> Result<(), MergeError> {
    let mut seen = std::collections::HashSet::with_capacity(schema.fields().len());
    match schema.fields().iter().find(|field| !seen.insert(field.name())) {
        Some(twice) => Err(MergeError {
            file: file.to_owned(),
            column: twice.name().clone(),
            reason: "the file has two columns of this name".to_owned(),
        }),
        None => Ok(()),
    }
}

/// A column, or a field inside one, that does not merge.
struct Fault {
    column: String,
    reason: String,
}

impl Fault {
    fn below(self, parent: &str) -> Self {
        Self {
            column: format!("{parent}.{}", self.column),
            reason: self.reason,
        }
    }

    fn in_file(self, file: &str) -> MergeError {
        MergeError {
            file: file.to_owned(),
            column: self.column,
            reason: self.reason,
        }
    }
}

fn merge_field(first: &Field, other: &Field) -> Result<Field, Fault> {
    if first == other {
        return Ok(first.clone());
    }
    let data_type = merge_type(first, other)?;
    let mut metadata = first.metadata().clone();
    metadata.retain(|key, value| other.metadata().get(key) == Some(value));
    let nullable = first.is_nullable() || other.is_nullable() || data_type == DataType::Null;
    Ok(Field::new(first.name(), data_type, nullable).with_metadata(metadata))
}

fn merge_type(first: &Field, other: &Field) -> Result<DataType, Fault> {
    use DataType::{FixedSizeList, LargeList, List, Map, Struct};
    match (first.data_type(), other.data_type()) {
        (a, b) if a == b => Ok(a.clone()),
        (DataType::Null, known) | (known, DataType::Null) => Ok(known.clone()),
        (Struct(a), Struct(b)) => merge_structs(a, b)
            .map(Struct)
            .map_err(|fault| fault.below(first.name())),
        (List(a), List(b)) => Ok(List(merge_child(first, a, b)?)),
        (LargeList(a), LargeList(b)) => Ok(LargeList(merge_child(first, a, b)?)),
        (FixedSizeList(a, n), FixedSizeList(b, m)) if n == m => Ok(FixedSizeList(merge_child(first, a, b)?, *n)),
        (Map(a, sorted), Map(b, sorted_too)) => Ok(Map(merge_child(first, a, b)?, *sorted && *sorted_too)),
        (List(a) | LargeList(a) | FixedSizeList(a, _), List(b) | LargeList(b) | FixedSizeList(b, _)) => {
            Ok(List(merge_child(first, a, b)?))
        }
        (a, b) => widen(a, b).ok_or_else(|| Fault {
            column: first.name().clone(),
            reason: format!("{b} here, but {a} in the files before; these do not widen to one type"),
        }),
    }
}

/// Merges the item of a list or the entries of a map; the names of those follow the writer's taste, so the first stays.
fn merge_child(parent: &Field, first: &FieldRef, other: &FieldRef) -> Result<FieldRef, Fault> {
    let merged = merge_field(first, &other.as_ref().clone().with_name(first.name()));
    merged.map(Arc::new).map_err(|fault| fault.below(parent.name()))
}

fn merge_structs(first: &Fields, other: &Fields) -> Result<Fields, Fault> {
    let mut merged: Vec<FieldRef> = Vec::with_capacity(first.len());
    for field in first {
        let next = match other.find(field.name()) {
            Some((_, matching)) => merge_field(field, matching)?,
            None => field.as_ref().clone().with_nullable(true),
        };
        merged.push(Arc::new(next));
    }
    let added = other.iter().filter(|field| first.find(field.name()).is_none());
    merged.extend(added.map(|field| Arc::new(field.as_ref().clone().with_nullable(true))));
    Ok(merged.into())
}

/// The narrowest type that holds the values of both, of the few pairs that keep equal values equal.
fn widen(a: &DataType, b: &DataType) -> Option<DataType> {
    if a.is_integer() && b.is_integer() {
        return widen_integers(a, b);
    }
    if is_number(a) && is_number(b) {
        return Some(widen_floats(a, b));
    }
    if is_text(a) && is_text(b) {
        return Some(DataType::Utf8);
    }
    if is_binary(a) && is_binary(b) {
        return Some(DataType::Binary);
    }
    widen_decimals(a, b)
}

fn widen_integers(a: &DataType, b: &DataType) -> Option<DataType> {
    let (width_a, width_b) = (a.primitive_width()?, b.primitive_width()?);
    if a.is_signed_integer() == b.is_signed_integer() {
        return Some(if width_a >= width_b { a.clone() } else { b.clone() });
    }
    let (signed, unsigned) = if a.is_signed_integer() {
        (width_a, width_b)
    } else {
        (width_b, width_a)
    };
    match signed.max(unsigned * 2) {
        2 => Some(DataType::Int16),
        4 => Some(DataType::Int32),
        8 => Some(DataType::Int64),
        _ => None,
    }
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_floating()
}

fn widen_floats(a: &DataType, b: &DataType) -> DataType {
    match (a, b) {
        (DataType::Float16, DataType::Float32) | (DataType::Float32, DataType::Float16) => DataType::Float32,
        _ => DataType::Float64,
    }
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn is_binary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Dictionary(_, values) => is_binary(values),
        _ => false,
    }
}

fn widen_decimals(a: &DataType, b: &DataType) -> Option<DataType> {
    let (precision_a, scale_a, wide_a) = decimal(a)?;
    let (precision_b, scale_b, wide_b) = decimal(b)?;
    let precision = precision_a.max(precision_b);
    match (scale_a == scale_b, wide_a || wide_b) {
        (false, _) => None,
        (true, true) => Some(DataType::Decimal256(precision, scale_a)),
        (true, false) => Some(DataType::Decimal128(precision, scale_a)),
    }
}

fn decimal(data_type: &DataType) -> Option<(u8, i8, bool)> {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale) => Some((*precision, *scale, false)),
        DataType::Decimal256(precision, scale) => Some((*precision, *scale, true)),
        _ => None,
    }
}

/// What of a field is asked for.
enum Pick {
    All,
    /// Of a struct (or the struct inside lists and map values), these fields by position.
    Parts(BTreeMap<usize, Pick>),
}

impl Pick {
    fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::Parts(mine), Self::Parts(theirs)) => {
                for (at, pick) in theirs {
                    match mine.get_mut(&at) {
                        Some(before) => before.add(pick),
                        None => {
                            mine.insert(at, pick);
                        }
                    }
                }
            }
        }
    }
}

fn find(fields: &Fields, name: &str) -> Option<(usize, Pick)> {
    if let Some((at, _)) = fields.find(name) {
        return Some((at, Pick::All));
    }
    fields.iter().enumerate().find_map(|(at, field)| {
        let rest = name.strip_prefix(field.name().as_str())?.strip_prefix('.')?;
        let (child, pick) = find(struct_below(field.data_type())?, rest)?;
        Some((at, Pick::Parts(BTreeMap::from([(child, pick)]))))
    })
}

/// The fields that a dotted path reaches into: a struct's own, or those of the struct that a list or a map holds.
fn struct_below(data_type: &DataType) -> Option<&Fields> {
    match data_type {
        DataType::Struct(fields) => Some(fields),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            struct_below(item.data_type())
        }
        DataType::Map(entries, _) => map_value(entries).and_then(|value| struct_below(value.data_type())),
        _ => None,
    }
}

fn map_value(entries: &Field) -> Option<&FieldRef> {
    match entries.data_type() {
        DataType::Struct(fields) => fields.get(1),
        _ => None,
    }
}

fn prune(field: &FieldRef, pick: &Pick) -> FieldRef {
    let Pick::Parts(parts) = pick else {
        return Arc::clone(field);
    };
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(
            parts
                .iter()
                .filter_map(|(at, pick)| Some(prune(fields.get(*at)?, pick)))
                .collect(),
        ),
        DataType::List(item) => DataType::List(prune(item, pick)),
        DataType::LargeList(item) => DataType::LargeList(prune(item, pick)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(prune(item, pick), *size),
        DataType::Map(entries, sorted) => DataType::Map(prune_entries(entries, pick), *sorted),
        other => other.clone(),
    };
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

fn prune_entries(entries: &FieldRef, pick: &Pick) -> FieldRef {
    match entries.data_type() {
        DataType::Struct(fields) => {
            let kept = fields.iter().enumerate().map(|(at, field)| match at {
                0 => Arc::clone(field),
                _ => prune(field, pick),
            });
            Arc::new(
                entries
                    .as_ref()
                    .clone()
                    .with_data_type(DataType::Struct(kept.collect())),
            )
        }
        _ => Arc::clone(entries),
    }
}

fn unknown(schema: &Schema, name: &str) -> UnknownColumn {
    /// A name this many edits away is more likely another name than a slip.
    const MOST_EDITS: usize = 3;
    let wanted = name.to_lowercase();
    let nearest = schema
        .fields()
        .iter()
        .map(|field| (edits(&wanted, &field.name().to_lowercase()), field.name()))
        .filter(|(distance, _)| *distance <= MOST_EDITS.min(name.chars().count().div_ceil(2)))
        .min();
    UnknownColumn {
        name: name.to_owned(),
        nearest: nearest.map(|(_, field)| field.clone()),
    }
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
