//! From text to a checked SQL tree: bounds, names and what may be called, each complaint with its line and column.
//!
//! Names are settled here and not later, because only the tree knows where each name stands in the text. A name that
//! resolves is rewritten in quotes, so that the planner takes it as it is.
//!
//! The tree's depth is bounded by the number of tokens, before there is a tree: operators chain without nesting
//! brackets, and dropping a chain of tens of thousands recurses as deep.

use std::ops::ControlFlow;

use arrow::datatypes::{DataType, Schema};
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr as SqlExpr, ExprWithAlias, Function, Ident, ObjectNamePart, Spanned, Visit, Visitor,
    visit_expressions, visit_expressions_mut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};

use super::{FilterError, MAX_FILTER_BYTES, nearest, session};

/// Most words and signs in a filter; literals and the commas between them are free, so that IN takes long lists.
/// A chain of AND nests half as deep as it has terms, at about 1 KiB of stack a level.
const MAX_FILTER_TERMS: usize = 2048;
/// Deepest nesting of brackets and prefix operators.
const MAX_FILTER_NESTING: usize = 64;
/// Most operators and calls within one another, AND and OR aside. Planning takes time with the square of it.
const MAX_FILTER_DEPTH: usize = 256;

/// Parses and checks one boolean expression; its names are those of `schema`.
pub(super) fn parse(sql: &str, schema: &Schema) -> Result<ExprWithAlias, FilterError> {
    check_size(sql)?;
    let mut tree = parse_text(sql).map_err(|error| error.at(Some(end_of(sql))))?;
    if let Some(alias) = &tree.alias {
        return Err(
            FilterError::new(format!("a filter has no name: leave out AS {alias}")).at(position(alias.span.start))
        );
    }
    check_depth(&tree.expr)?;
    check_calls(&tree.expr)?;
    resolve_names(&mut tree.expr, schema)?;
    Ok(tree)
}

/// What sqlparser says, with the position taken out of its words.
pub(super) fn parse_error(text: &str) -> FilterError {
    let text = text.strip_prefix("sql parser error: ").unwrap_or(text);
    let Some((message, place)) = text.rsplit_once(" at Line: ") else {
        return FilterError::new(text);
    };
    let position = place.split_once(", Column: ").and_then(|(line, column)| {
        let column: String = column.chars().take_while(char::is_ascii_digit).collect();
        Some((line.trim().parse().ok()?, column.parse().ok()?))
    });
    FilterError {
        message: message.to_owned(),
        position,
    }
}

fn check_size(sql: &str) -> Result<(), FilterError> {
    if sql.len() > MAX_FILTER_BYTES {
        return Err(FilterError::new(format!(
            "{} bytes are more than the {MAX_FILTER_BYTES} that a filter may have",
            sql.len()
        )));
    }
    if sql.trim().is_empty() {
        return Err(FilterError::new(
            "there is no text; leave the filter out to get every row",
        ));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize()
        .map_err(|e| parse_error(&e.to_string()))?;
    let terms = tokens.iter().filter(|token| makes_a_node(token)).count();
    if terms > MAX_FILTER_TERMS {
        return Err(FilterError::new(format!(
            "{terms} words and signs are more than the {MAX_FILTER_TERMS} that a filter may have; IN (...) takes a list of values in one"
        )));
    }
    Ok(())
}

fn makes_a_node(token: &Token) -> bool {
    !matches!(
        token,
        Token::Whitespace(_) | Token::Comma | Token::Number(..) | Token::SingleQuotedString(_) | Token::EOF
    )
}

fn parse_text(sql: &str) -> Result<ExprWithAlias, FilterError> {
    DFParserBuilder::new(sql)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(MAX_FILTER_NESTING)
        .build()
        .and_then(|mut parser| parser.parse_into_expr())
        .map_err(|e| FilterError::from_datafusion(&e))
        .map_err(nesting_in_words)
}

fn nesting_in_words(error: FilterError) -> FilterError {
    if error.message.contains("recursion limit") {
        return too_deep(MAX_FILTER_NESTING);
    }
    error
}

/// Bounds what the parser's own limit does not see: operators that it reads in a loop.
fn check_depth(tree: &SqlExpr) -> Result<(), FilterError> {
    match tree.visit(&mut Depth(0)) {
        ControlFlow::Break(()) => Err(too_deep(MAX_FILTER_DEPTH)),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// Levels above the node that is visited. AND and OR do not count: chains of them are long and planned in a loop.
struct Depth(usize);

impl Visitor for Depth {
    type Break = ();

    fn pre_visit_expr(&mut self, node: &SqlExpr) -> ControlFlow<()> {
        self.0 += usize::from(!is_and_or(node));
        if self.0 > MAX_FILTER_DEPTH {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn post_visit_expr(&mut self, node: &SqlExpr) -> ControlFlow<()> {
        self.0 -= usize::from(!is_and_or(node));
        ControlFlow::Continue(())
    }
}

fn is_and_or(node: &SqlExpr) -> bool {
    matches!(
        node,
        SqlExpr::BinaryOp {
            op: BinaryOperator::And | BinaryOperator::Or,
            ..
        }
    )
}

fn too_deep(levels: usize) -> FilterError {
    FilterError::new(format!("it nests deeper than {levels} levels"))
}

/// Where the text ends: the place of whatever is missing there.
fn end_of(sql: &str) -> (u64, u64) {
    let last = sql.rsplit('\n').next().unwrap_or_default();
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    (count(sql.matches('\n').count()) + 1, count(last.chars().count()) + 1)
}

fn position(place: Location) -> Option<(u64, u64)> {
    (place.line > 0).then_some((place.line, place.column))
}

/// Refuses queries inside the filter, and calls of anything but a known scalar function.
fn check_calls(tree: &SqlExpr) -> Result<(), FilterError> {
    let found = visit_expressions(tree, |node| match check_call(node) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error.at(position(node.span().start))),
    });
    match found {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn check_call(node: &SqlExpr) -> Result<(), FilterError> {
    match node {
        SqlExpr::Subquery(_) | SqlExpr::InSubquery { .. } | SqlExpr::Exists { .. } => Err(FilterError::new(
            "a filter sees one row at a time and can hold no query of its own",
        )),
        SqlExpr::Lambda(_) => Err(FilterError::new("a filter takes no functions as arguments")),
        SqlExpr::Function(function) => check_function(function),
        _ => Ok(()),
    }
}

fn check_function(function: &Function) -> Result<(), FilterError> {
    let name = match function.name.0.as_slice() {
        [ObjectNamePart::Identifier(ident)] => ident.value.to_lowercase(),
        _ => function.name.to_string(),
    };
    if function.over.is_some() || function.filter.is_some() || !function.within_group.is_empty() {
        return Err(FilterError::new(format!(
            "{name}: a filter sees one row at a time, so OVER, FILTER and WITHIN GROUP have no place in it"
        )));
    }
    if session().scalar_functions().contains_key(&name) {
        return Ok(());
    }
    let known = nearest(&name, session().scalar_functions().keys().map(String::as_str));
    let hint = known
        .map(|other| format!("; did you mean {other}()?"))
        .unwrap_or_default();
    Err(FilterError::new(format!(
        "there is no scalar function {name}(); aggregates, windows and tables have no place in a filter{hint}"
    )))
}

/// Replaces each name by the column that it stands for, in quotes.
fn resolve_names(tree: &mut SqlExpr, schema: &Schema) -> Result<(), FilterError> {
    let found = visit_expressions_mut(tree, |node| match resolve_name(node, schema) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match found {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

fn resolve_name(node: &mut SqlExpr, schema: &Schema) -> Result<(), FilterError> {
    match node {
        SqlExpr::Identifier(ident) => {
            if schema.field_with_name(&ident.value).is_err() {
                return Err(unknown_column(std::slice::from_ref(ident), schema));
            }
            ident.quote_style = Some('"');
        }
        SqlExpr::CompoundIdentifier(idents) => {
            let dotted = dotted(idents);
            let unquoted = idents.iter().all(|ident| ident.quote_style.is_none());
            match idents.first() {
                Some(first) if unquoted && schema.field_with_name(&dotted).is_ok() => {
                    *node = SqlExpr::Identifier(Ident {
                        value: dotted,
                        quote_style: Some('"'),
                        span: first.span,
                    });
                }
                _ => resolve_path(idents, schema)?,
            }
        }
        _ => {}
    }
    Ok(())
}

fn resolve_path(idents: &mut [Ident], schema: &Schema) -> Result<(), FilterError> {
    let mut fields = schema.fields();
    let last = idents.len().saturating_sub(1);
    for (depth, ident) in idents.iter().enumerate() {
        let field = fields.iter().find(|field| *field.name() == ident.value);
        match field.map(|field| field.data_type()) {
            Some(_) if depth == last => break,
            Some(DataType::Struct(children)) => fields = children,
            _ => return Err(unknown_column(idents, schema)),
        }
    }
    idents.iter_mut().for_each(|ident| ident.quote_style = Some('"'));
    Ok(())
}

fn unknown_column(idents: &[Ident], schema: &Schema) -> FilterError {
    let name = dotted(idents);
    let known = column_names(schema);
    let place = idents.first().and_then(|first| position(first.span.start));
    let quoted = matches!(idents, [only] if only.quote_style == Some('"'));
    let hint = match nearest(&name, known.iter().map(String::as_str)) {
        Some(other) => format!("; did you mean {}?", in_quotes_if_needed(other)),
        None if quoted => "; text is written in single quotes".to_owned(),
        None => String::new(),
    };
    FilterError::new(format!("there is no column {}{hint}", in_quotes_if_needed(&name))).at(place)
}

fn dotted(idents: &[Ident]) -> String {
    idents
        .iter()
        .map(|ident| ident.value.as_str())
        .collect::<Vec<_>>()
        .join(".")
}

/// Every column, and one level of struct fields as `root.field`: what a mistyped name may have meant.
fn column_names(schema: &Schema) -> Vec<String> {
    let mut names = Vec::new();
    for field in schema.fields() {
        names.push(field.name().clone());
        if let DataType::Struct(children) = field.data_type() {
            names.extend(
                children
                    .iter()
                    .map(|child| format!("{}.{}", field.name(), child.name())),
            );
        }
    }
    names
}

fn in_quotes_if_needed(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    if plain { name.to_owned() } else { format!("{name:?}") }
}
