//! `SELECT *` of one table, planned without naming its columns.
//!
//! ```text
//! SELECT * FROM t WHERE .. ORDER BY .. --mark--> SELECT 'marker' FROM t .. --planned--> .. --strip--> the rows of t as they are
//! ```
//! The planner writes a star out as one expression for each column. It, and after it each rule of the optimizer, looks each
//! of them up in a schema by going through its fields from the first one on: with ten thousand columns that is fifty million
//! comparisons for each look, and minutes for a plan. All of that ends in a plan without the projection, since it changes
//! nothing. So a statement that asks for all columns of one table is planned with a marker in place of the star, and the
//! projection of the marker is taken away: what is left is what the optimizer would have come to, of the same schema.
//!
//! Why not for wide tables alone: then hardly any query, and hardly any test, would go this way.

use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, Limit, LogicalPlan, Projection, Sort};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, GroupByExpr, Ident, OrderBy, OrderByKind, Query, Select, SelectFlavor, SelectItem, SetExpr,
    Statement as SqlStatement, TableFactor, TableWithJoins, Value, WildcardAdditionalOptions,
};

/// The name of the marker, and its value: nothing that a statement says by chance.
const MARKER: &str = "jetbridge: all columns, which are not named";

/// The logical plan of a statement whose tables the session has.
///
/// # Errors
/// Those of [`SessionState::statement_to_plan`].
pub(super) async fn plan(state: &SessionState, statement: Statement) -> Result<LogicalPlan> {
    if let Some(marked) = marked(&statement)
        && let Ok(plan) = state.statement_to_plan(marked).await
        && let Some(plan) = stripped(&plan)
    {
        return Ok(plan);
    }
    // What is wrong is told of the statement as it was written.
    state.statement_to_plan(statement).await
}

/// The statement with the marker for its star; none where it is more than all columns of one table: what it asks for
/// besides is a condition, an order that does not count columns, and a limit.
fn marked(statement: &Statement) -> Option<Statement> {
    let Statement::Statement(statement) = statement else {
        return None;
    };
    let SqlStatement::Query(query) = statement.as_ref() else {
        return None;
    };
    let Query {
        with: None,
        body,
        order_by,
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators,
        ..
    } = query.as_ref()
    else {
        return None;
    };
    let SetExpr::Select(select) = body.as_ref() else {
        return None;
    };
    let fits = is_plain(select) && order_by.as_ref().is_none_or(names_its_columns) && pipe_operators.is_empty();
    if !fits {
        return None;
    }
    let marker = Value::SingleQuotedString(MARKER.to_owned()).with_empty_span();
    let select = Select {
        projection: vec![SelectItem::ExprWithAlias {
            expr: SqlExpr::Value(marker),
            alias: Ident::with_quote('"', MARKER),
        }],
        ..select.as_ref().clone()
    };
    let query = Query {
        body: Box::new(SetExpr::Select(Box::new(select))),
        ..query.as_ref().clone()
    };
    Some(Statement::Statement(Box::new(SqlStatement::Query(Box::new(query)))))
}

/// Whether a SELECT gives the columns of one table as they are.
fn is_plain(select: &Select) -> bool {
    let is_star = match select.projection.as_slice() {
        [SelectItem::Wildcard(options)] => *options == WildcardAdditionalOptions::default(),
        _ => false,
    };
    let is_ungrouped = match &select.group_by {
        GroupByExpr::Expressions(by, modifiers) => by.is_empty() && modifiers.is_empty(),
        GroupByExpr::All(_) => false,
    };
    let is_one_table = match select.from.as_slice() {
        [TableWithJoins { relation, joins }] => joins.is_empty() && is_table(relation),
        _ => false,
    };
    is_star
        && is_ungrouped
        && is_one_table
        && select.flavor == SelectFlavor::Standard
        && select.distinct.is_none()
        && select.select_modifiers.is_none()
        && select.top.is_none()
        && select.exclude.is_none()
        && select.into.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.connect_by.is_empty()
        && select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.having.is_none()
        && select.named_window.is_empty()
        && select.qualify.is_none()
        && select.value_table_mode.is_none()
}

/// Whether this is a table by its name, perhaps under another, its columns under their own.
fn is_table(relation: &TableFactor) -> bool {
    match relation {
        TableFactor::Table {
            alias,
            args: None,
            version: None,
            with_ordinality: false,
            json_path: None,
            sample: None,
            ..
        } => alias
            .as_ref()
            .is_none_or(|alias| alias.columns.is_empty() && alias.at.is_none()),
        _ => false,
    }
}

/// Whether an order says by what, and not by the how many-th column.
fn names_its_columns(order: &OrderBy) -> bool {
    let is_number = |expr: &SqlExpr| matches!(expr, SqlExpr::Value(value) if matches!(value.value, Value::Number(..)));
    match &order.kind {
        OrderByKind::Expressions(by) => !by.iter().any(|by| is_number(&by.expr)),
        OrderByKind::All(_) => false,
    }
}

/// The plan without the marker: the rows of its table in their place. None of a plan of another form.
fn stripped(plan: &LogicalPlan) -> Option<LogicalPlan> {
    match plan {
        LogicalPlan::Limit(limit) => Some(LogicalPlan::Limit(Limit {
            input: stripped(&limit.input)?.into(),
            ..limit.clone()
        })),
        LogicalPlan::Sort(sort) => sorted(sort),
        LogicalPlan::Projection(projection) => match projection.input.as_ref() {
            // The columns of the order were added below it, and are taken away here.
            LogicalPlan::Sort(sort) if gives_marker(projection) => sorted(sort),
            _ => rows(projection),
        },
        _ => None,
    }
}

fn sorted(sort: &Sort) -> Option<LogicalPlan> {
    let LogicalPlan::Projection(projection) = sort.input.as_ref() else {
        return None;
    };
    let is_by_marker = |expr: &Expr| expr.column_refs().iter().any(|column| column.name == MARKER);
    if sort.expr.iter().any(|by| is_by_marker(&by.expr)) {
        return None;
    }
    Some(LogicalPlan::Sort(Sort {
        input: rows(projection)?.into(),
        ..sort.clone()
    }))
}

/// Whether the marker, made below, is all that a projection gives.
fn gives_marker(projection: &Projection) -> bool {
    matches!(projection.expr.as_slice(), [Expr::Column(column)] if column.name == MARKER)
}

/// What is below the projection that makes the marker, with columns of the table at most beside it: a table, and conditions
/// on its rows.
fn rows(projection: &Projection) -> Option<LogicalPlan> {
    let (marker, others) = projection.expr.split_first()?;
    let is_marker = matches!(marker, Expr::Alias(alias) if alias.name == MARKER);
    let are_columns = others.iter().all(|expr| matches!(expr, Expr::Column(_)));
    let mut below = projection.input.as_ref();
    while let LogicalPlan::Filter(filter) = below {
        below = filter.input.as_ref();
    }
    if let LogicalPlan::SubqueryAlias(alias) = below {
        below = alias.input.as_ref();
    }
    let is_table = matches!(below, LogicalPlan::TableScan(_));
    (is_marker && are_columns && is_table).then(|| projection.input.as_ref().clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;
    use crate::sql::text;

    fn session() -> SessionContext {
        let config = SessionConfig::new().set_bool("datafusion.sql_parser.collect_spans", true);
        let context = SessionContext::new_with_config(config);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![3, 1, 2]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("c"), None, Some("b")]));
        let rows = RecordBatch::try_from_iter_with_nullable([("n", numbers, false), ("Text", texts, true)]);
        context.register_batch("t", rows.unwrap()).unwrap();
        context
    }

    /// What the optimizer makes of a plan, in words; in a session of its own, since the names that it makes up are numbered.
    fn optimized(plan: &LogicalPlan) -> String {
        let optimized = session().state().optimize(plan);
        optimized.unwrap().display_indent_schema().to_string()
    }

    #[tokio::test]
    async fn a_star_without_names_is_the_star() {
        let state = session().state();
        for sql in [
            "select * from t",
            "select * from t as x",
            "select * from t limit 2",
            "select * from t limit 2 offset 1",
            "select * from t where n > 1",
            "select * from t x where x.n > 1 and \"Text\" is not null",
            "select * from t where n in (select max(n) from t)",
            "select * from t order by n",
            "select * from t order by \"Text\" desc nulls first, n + 1 limit 2",
            "select * from t where n < 3 order by abs(n), \"Text\"",
            "select * from t order by 'x'",
            "select * from t where n = $1",
        ] {
            let statement = text::statement(sql).unwrap();
            let marked = state.statement_to_plan(marked(&statement).expect(sql)).await.unwrap();
            let short = stripped(&marked).expect(sql);
            let long = state.statement_to_plan(statement).await.unwrap();
            assert_eq!(short.schema(), long.schema(), "{sql}");
            assert_eq!(optimized(&short), optimized(&long), "{sql}");
        }
    }

    #[tokio::test]
    async fn what_is_more_than_a_star_is_planned_as_it_stands() {
        let state = session().state();
        for sql in [
            "select *, n from t",
            "select distinct * from t",
            "select * exclude (n) from t",
            "select t.* from t",
            "select * from t, t u",
            "select * from t join t u on t.n = u.n",
            "select * from (select n from t)",
            "select * from t as x(a, b)",
            "with t as (select 1 as n) select * from t",
            "select * from t order by 1",
            "select * from t group by all",
            "select * from t union all select * from t",
            "explain select * from t",
            "select n from t",
        ] {
            let statement = text::statement(sql).unwrap();
            assert!(marked(&statement).is_none(), "{sql}");
        }
        // These look like a star at first.
        for sql in [
            "select * from t order by count(*)",
            "select * from t order by row_number() over ()",
        ] {
            let statement = text::statement(sql).unwrap();
            let planned = state.statement_to_plan(marked(&statement).expect(sql)).await;
            assert!(planned.ok().and_then(|plan| stripped(&plan)).is_none(), "{sql}");
        }
    }

    #[tokio::test]
    async fn errors_are_those_of_the_statement_as_it_was_written() {
        let state = session().state();
        for sql in ["select * from t where nn = 1", "select * from t order by nn"] {
            let statement = text::statement(sql).unwrap();
            let long = state.statement_to_plan(statement.clone()).await.unwrap_err();
            let short = plan(&state, statement).await.unwrap_err();
            assert_eq!(short.to_string(), long.to_string(), "{sql}");
        }
    }
}
