//! Which columns, and which parts of nested ones, it takes to compute some expressions.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};

/// The function that takes a field out of a struct.
const GET_FIELD: &str = "get_field";

/// What is needed of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Need {
    Whole,
    Parts(BTreeMap<String, Need>),
}

/// What is needed of a table, by the position of its columns.
#[derive(Debug, Default)]
pub(super) struct Needs(BTreeMap<usize, Need>);

impl Needs {
    /// Adds what it takes to compute `expr` over the table.
    pub(super) fn add(&mut self, expr: &Arc<dyn PhysicalExpr>) {
        if let Some((column, path)) = field_path(expr) {
            let need = self.0.entry(column).or_insert_with(|| Need::Parts(BTreeMap::new()));
            need.add(&path);
            return;
        }
        expr.children().into_iter().for_each(|child| self.add(child));
    }

    /// The columns of the table, in its order, each with no more than what is needed.
    pub(super) fn read(&self, table: &Schema) -> SchemaRef {
        let fields = self.0.iter().filter_map(|(&at, need)| {
            let field = table.fields().get(at)?;
            Some(pruned(field, need))
        });
        Arc::new(Schema::new_with_metadata(
            fields.collect::<Vec<_>>(),
            table.metadata().clone(),
        ))
    }
}

impl Need {
    fn add(&mut self, path: &[String]) {
        let Self::Parts(parts) = self else { return };
        match path {
            [] => *self = Self::Whole,
            [first, rest @ ..] => {
                let part = parts
                    .entry(first.clone())
                    .or_insert_with(|| Self::Parts(BTreeMap::new()));
                part.add(rest);
            }
        }
    }
}

/// Whether computing `expr` costs next to nothing: a column, or a field of one.
pub(super) fn is_free(expr: &Arc<dyn PhysicalExpr>) -> bool {
    field_path(expr).is_some()
}

/// The position of a column, and the names of fields within fields that an expression takes of it.
fn field_path(expr: &Arc<dyn PhysicalExpr>) -> Option<(usize, Vec<String>)> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        return Some((column.index(), Vec::new()));
    }
    let call = expr.downcast_ref::<ScalarFunctionExpr>()?;
    if call.fun().name() != GET_FIELD {
        return None;
    }
    let (base, names) = call.args().split_first()?;
    let (column, mut path) = field_path(base)?;
    for name in names {
        path.push(text_of(name)?);
    }
    Some((column, path))
}

fn text_of(expr: &Arc<dyn PhysicalExpr>) -> Option<String> {
    match expr.downcast_ref::<Literal>()?.value() {
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => {
            Some(text.clone())
        }
        _ => None,
    }
}

fn pruned(field: &FieldRef, need: &Need) -> FieldRef {
    let (DataType::Struct(fields), Need::Parts(parts)) = (field.data_type(), need) else {
        return Arc::clone(field);
    };
    let kept = fields
        .iter()
        .filter_map(|child| Some(pruned(child, parts.get(child.name())?)));
    let kept: Fields = kept.collect();
    // A field that is not there is the business of whoever computes it.
    if kept.is_empty() || kept.len() < parts.len() {
        return Arc::clone(field);
    }
    Arc::new(Field::clone(field).with_data_type(DataType::Struct(kept)))
}

#[cfg(test)]
mod tests {
    use datafusion::config::ConfigOptions;
    use datafusion::functions::core::get_field;

    use super::*;

    fn table() -> Schema {
        let inner = Fields::from(vec![
            Field::new("x", DataType::Int64, true),
            Field::new("y", DataType::Utf8, true),
        ]);
        let outer = Fields::from(vec![
            Field::new("p", DataType::Struct(inner), true),
            Field::new("q", DataType::Int32, true),
        ]);
        Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("s", DataType::Struct(outer), true),
        ])
    }

    fn column(name: &str, at: usize) -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(name, at))
    }

    fn field(of: Arc<dyn PhysicalExpr>, name: &str) -> Arc<dyn PhysicalExpr> {
        let name: Arc<dyn PhysicalExpr> = Arc::new(Literal::new(ScalarValue::from(name)));
        let options = Arc::new(ConfigOptions::new());
        Arc::new(ScalarFunctionExpr::try_new(get_field(), vec![of, name], &table(), options).unwrap())
    }

    fn read(exprs: &[Arc<dyn PhysicalExpr>]) -> SchemaRef {
        let mut needs = Needs::default();
        exprs.iter().for_each(|expr| needs.add(expr));
        needs.read(&table())
    }

    #[test]
    fn only_the_fields_that_are_used_are_read() {
        let deep = field(field(column("s", 1), "p"), "x");
        let schema = read(&[deep]);
        assert_eq!(schema.fields().len(), 1);
        let DataType::Struct(outer) = schema.field(0).data_type() else {
            panic!("{schema}")
        };
        assert_eq!(outer.len(), 1);
        let DataType::Struct(inner) = outer[0].data_type() else {
            panic!("{schema}")
        };
        assert_eq!((inner.len(), inner[0].name().as_str()), (1, "x"));
    }

    #[test]
    fn a_column_that_is_used_whole_is_read_whole() {
        let schema = read(&[column("a", 0), field(column("s", 1), "q"), column("s", 1)]);
        assert_eq!(*schema, table());
    }
}
