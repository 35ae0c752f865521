//! Which conditions a server evaluates as DataFusion would, and how they are said to it.
//!
//! | condition | over columns of | what passes there |
//! |---|---|---|
//! | `=` `<>` `<` `<=` `>` `>=`, with a literal or a column of the same type | plain types | the same |
//! | `BETWEEN`, `IN` with literals | plain types | the same |
//! | `LIKE`, `ILIKE` without an escape | text | the same |
//! | the column itself, `IS TRUE` and its kin | `BOOLEAN` | the same |
//! | `IS NULL`, `IS NOT NULL` | plain types, floats | the same |
//! | `=` `<>` `<` `<=` `>` `>=` `BETWEEN` `IN`, with literals | floats, not in a struct | more rows |
//!
//! Plain types are whole numbers, text, dictionaries of text, `BOOLEAN`, `DATE` of 32 bits, `TIMESTAMP`, and `DECIMAL` of 128.
//! A column may be a field of a struct (`s['x']`). Conditions are joined by `AND`, `OR` and `NOT`. "The same" is true, false and
//! null for the same rows. "More rows" is true for all rows for which the condition is, and perhaps for others, so that DataFusion
//! looks again; of a conjunction, parts that cannot be said are left out in the same way. Nothing of the sort may stand under `NOT`.
//!
//! Why floats are another matter: a server's filter takes every NaN for one value above all numbers and both zeros for one;
//! DataFusion orders floats by their bits, with the NaNs of either sign at either end. So comparisons with a zero are widened to
//! take both, and what is below a number takes every NaN.
//!
//! Why not everything: what a filter compares (text with a number is refused), casts and calls differ from one version to the
//! next. Why not DataFusion's unparser: it says whatever it is given, types that a filter reads otherwise included.
//!
//! A filter has bounds at the server, 64 KiB of text among them. Conditions that go beyond [`MAX_FILTER_BYTES`],
//! [`MAX_FILTER_TERMS`] and [`MAX_FILTER_LEVELS`] together are left to DataFusion, the last ones first.

mod literal;
mod place;

use arrow::datatypes::Schema;
use datafusion::logical_expr::expr::{Between, InList, Like};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown};

use self::literal::{Literal, literal};
use self::place::{Kind, Place};

/// Longest text of a filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 48 << 10;
/// Most words and signs of a filter; literals are free.
pub const MAX_FILTER_TERMS: usize = 1536;
/// Deepest nesting of `AND`, `OR`, `NOT` and `IS TRUE` in one another.
pub const MAX_FILTER_LEVELS: usize = 12;

/// A condition in a server's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The predicate.
    pub sql: String,
    /// Whether it is the same as the condition; else it is true for more rows.
    pub is_exact: bool,
}

/// Conditions of one scan that must all be true.
#[derive(Debug)]
pub struct Filter<'a> {
    /// Those that the server is told, as one predicate, if there are any.
    pub sql: Option<String>,
    /// Those that it is not told.
    pub left: Vec<&'a Expr>,
    /// Whether the server's rows are those that pass all of them.
    pub is_exact: bool,
}

impl Pushed {
    /// The condition over columns of `schema`; none where it cannot be said, or is too long to be.
    #[must_use]
    pub fn of(condition: &Expr, schema: &Schema) -> Option<Self> {
        let pushed = Saying { schema }.condition(condition, 0)?;
        let mut room = Room::default();
        room.takes(&pushed.sql).then_some(pushed)
    }

    fn exact(sql: String) -> Self {
        Self { sql, is_exact: true }
    }

    fn wider(sql: String) -> Self {
        Self { sql, is_exact: false }
    }
}

/// What becomes of conditions that are offered together.
pub(super) fn support(conditions: &[&Expr], schema: &Schema) -> Vec<TableProviderFilterPushDown> {
    let mut room = Room::default();
    let answer = |condition: &&Expr| match Pushed::of(condition, schema) {
        Some(pushed) if room.takes(&pushed.sql) => match pushed.is_exact {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Inexact,
        },
        _ => TableProviderFilterPushDown::Unsupported,
    };
    conditions.iter().map(answer).collect()
}

impl<'a> Filter<'a> {
    /// As much of the conditions over columns of `schema` as can be said together: they may be more than were offered at a
    /// time.
    #[must_use]
    pub fn of(conditions: &'a [Expr], schema: &Schema) -> Self {
        let (mut room, mut told, mut left, mut is_exact) = (Room::default(), Vec::new(), Vec::new(), true);
        for condition in conditions {
            match Pushed::of(condition, schema) {
                Some(pushed) if room.takes(&pushed.sql) => {
                    is_exact &= pushed.is_exact;
                    told.push(pushed.sql);
                }
                _ => left.push(condition),
            }
        }
        Self {
            sql: (!told.is_empty()).then(|| told.join(" AND ")),
            is_exact: is_exact && left.is_empty(),
            left,
        }
    }
}

/// What a filter has room for yet.
struct Room {
    bytes: usize,
    terms: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            bytes: MAX_FILTER_BYTES,
            terms: MAX_FILTER_TERMS,
        }
    }
}

impl Room {
    /// Takes a text and the AND before it, if there is room.
    fn takes(&mut self, sql: &str) -> bool {
        let rest = (
            self.bytes.checked_sub(sql.len() + 5),
            self.terms.checked_sub(terms(sql) + 1),
        );
        let (Some(bytes), Some(terms)) = rest else { return false };
        *self = Self { bytes, terms };
        true
    }
}

/// Words and signs of a predicate, as a server counts them or a few more: literals and commas are free.
fn terms(sql: &str) -> usize {
    let (mut terms, mut rest) = (0, sql.chars().peekable());
    while let Some(first) = rest.next() {
        match first {
            '\'' => while rest.next().is_some_and(|next| next != '\'') {},
            '"' => {
                terms += 1;
                while rest.next().is_some_and(|next| next != '"') {}
            }
            ',' => {}
            space if space.is_whitespace() => {}
            word if word.is_alphanumeric() => {
                terms += usize::from(!word.is_numeric());
                while rest.next_if(|next| next.is_alphanumeric() || *next == '.').is_some() {}
            }
            _ => terms += 1,
        }
    }
    terms
}

/// Says conditions over the columns of a schema.
#[derive(Clone, Copy)]
struct Saying<'a> {
    schema: &'a Schema,
}

impl<'a> Saying<'a> {
    /// A condition at so many levels within others.
    fn condition(self, condition: &Expr, level: usize) -> Option<Pushed> {
        if level > MAX_FILTER_LEVELS {
            return None;
        }
        let inner = |condition: &Expr| self.condition(condition, level + 1).filter(|inner| inner.is_exact);
        let is = |condition: &Expr, what: &str| Some(Pushed::exact(format!("({}) IS {what}", inner(condition)?.sql)));
        match condition {
            Expr::BinaryExpr(BinaryExpr { op, .. }) if *op == Operator::And => self.all(condition, level),
            Expr::BinaryExpr(BinaryExpr { op, .. }) if *op == Operator::Or => self.any(condition, level),
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => self.comparison(left, *op, right),
            Expr::Not(inverted) => Some(Pushed::exact(format!("NOT ({})", inner(inverted)?.sql))),
            Expr::IsTrue(tested) => is(tested, "TRUE"),
            Expr::IsFalse(tested) => is(tested, "FALSE"),
            Expr::IsUnknown(tested) => is(tested, "UNKNOWN"),
            Expr::IsNotTrue(tested) => is(tested, "NOT TRUE"),
            Expr::IsNotFalse(tested) => is(tested, "NOT FALSE"),
            Expr::IsNotUnknown(tested) => is(tested, "NOT UNKNOWN"),
            Expr::IsNull(tested) => Some(Pushed::exact(format!("{} IS NULL", self.place(tested)?.sql))),
            Expr::IsNotNull(tested) => Some(Pushed::exact(format!("{} IS NOT NULL", self.place(tested)?.sql))),
            Expr::Between(between) => self.between(between),
            Expr::InList(list) => self.list(list),
            Expr::Like(like) => self.like(like),
            other => {
                let place = self.place(other)?;
                (place.kind == Kind::Boolean).then(|| Pushed::exact(place.sql))
            }
        }
    }

    /// A conjunction, as much of it as can be said.
    fn all(self, condition: &Expr, level: usize) -> Option<Pushed> {
        let operands = operands(condition, Operator::And);
        let said = operands.iter().filter_map(|operand| self.condition(operand, level + 1));
        let said: Vec<Pushed> = said.collect();
        let is_whole = said.len() == operands.len();
        let joined = joined(said, " AND ")?;
        Some(Pushed {
            is_exact: joined.is_exact && is_whole,
            ..joined
        })
    }

    fn any(self, condition: &Expr, level: usize) -> Option<Pushed> {
        let operands = operands(condition, Operator::Or);
        let said = operands.iter().map(|operand| self.condition(operand, level + 1));
        joined(said.collect::<Option<_>>()?, " OR ")
    }

    fn comparison(self, left: &Expr, op: Operator, right: &Expr) -> Option<Pushed> {
        match (left, right) {
            (_, Expr::Literal(..)) => self.against(&self.place(left)?, op, right),
            (Expr::Literal(..), _) => self.against(&self.place(right)?, op.swap()?, left),
            _ => {
                let (left, right) = (self.place(left)?, self.place(right)?);
                let sign = sign(op)?;
                left.compares_with(&right)
                    .then(|| Pushed::exact(format!("{} {sign} {}", left.sql, right.sql)))
            }
        }
    }

    /// A column compared with a literal.
    fn against(self, place: &Place<'_>, op: Operator, value: &Expr) -> Option<Pushed> {
        let value = literal(value, place)?;
        if place.kind == Kind::Float {
            return of_float(&place.sql, op, &value);
        }
        Some(Pushed::exact(format!("{} {} {}", place.sql, sign(op)?, value.sql)))
    }

    fn between(self, between: &Between) -> Option<Pushed> {
        let place = self.place(&between.expr)?;
        let low = self.against(&place, Operator::GtEq, &between.low)?;
        let high = self.against(&place, Operator::LtEq, &between.high)?;
        let within = joined(vec![low, high], " AND ")?;
        match between.negated {
            false => Some(within),
            true => within.is_exact.then(|| Pushed::exact(format!("NOT {}", within.sql))),
        }
    }

    fn list(self, list: &InList) -> Option<Pushed> {
        let place = self.place(&list.expr)?;
        let values = list.list.iter().map(|value| literal(value, &place));
        let values: Vec<Literal> = values.collect::<Option<_>>()?;
        let (is_float, has_zero) = (place.kind == Kind::Float, values.iter().any(|value| value.is_zero));
        // Not among them is one of the zeros for DataFusion, and none for the server.
        if values.is_empty() || (is_float && list.negated && has_zero) {
            return None;
        }
        let values: Vec<String> = values.into_iter().map(|value| value.sql).collect();
        let not = if list.negated { "NOT " } else { "" };
        Some(Pushed {
            sql: format!("{} {not}IN ({})", place.sql, values.join(", ")),
            is_exact: !is_float,
        })
    }

    fn like(self, like: &Like) -> Option<Pushed> {
        let place = self.place(&like.expr)?;
        if place.kind != Kind::Text || like.escape_char.is_some() {
            return None;
        }
        let not = if like.negated { "NOT " } else { "" };
        let word = if like.case_insensitive { "ILIKE" } else { "LIKE" };
        let pattern = literal(&like.pattern, &place)?;
        Some(Pushed::exact(format!("{} {not}{word} {}", place.sql, pattern.sql)))
    }

    fn place(self, expr: &Expr) -> Option<Place<'a>> {
        Place::of(expr, self.schema)
    }
}

/// The operands of a chain of one operator, from left to right.
fn operands(condition: &Expr, operator: Operator) -> Vec<&Expr> {
    let (mut open, mut found) = (vec![condition], Vec::new());
    while let Some(next) = open.pop() {
        match next {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if *op == operator => {
                open.push(right);
                open.push(left);
            }
            operand => found.push(operand),
        }
    }
    found
}

/// Conditions joined, in brackets where there are several; none of none.
fn joined(said: Vec<Pushed>, by: &str) -> Option<Pushed> {
    let is_exact = said.iter().all(|said| said.is_exact);
    let sql: Vec<String> = said.into_iter().map(|said| said.sql).collect();
    let sql = match sql.as_slice() {
        [] => return None,
        [one] => one.clone(),
        several => format!("({})", several.join(by)),
    };
    Some(Pushed { sql, is_exact })
}

fn sign(op: Operator) -> Option<&'static str> {
    Some(match op {
        Operator::Eq => "=",
        Operator::NotEq => "<>",
        Operator::Lt => "<",
        Operator::LtEq => "<=",
        Operator::Gt => ">",
        Operator::GtEq => ">=",
        _ => return None,
    })
}

/// A float compared with a number, widened to what DataFusion may pass.
fn of_float(place: &str, op: Operator, value: &Literal) -> Option<Pushed> {
    let (sql, is_zero) = (&value.sql, value.is_zero);
    Some(Pushed::wider(match op {
        Operator::Eq => format!("{place} = {sql}"),
        Operator::NotEq if !is_zero => format!("{place} <> {sql}"),
        Operator::Lt if !is_zero => format!("({place} < {sql} OR isnan({place}))"),
        Operator::Lt | Operator::LtEq => format!("({place} <= {sql} OR isnan({place}))"),
        Operator::Gt if !is_zero => format!("{place} > {sql}"),
        Operator::Gt | Operator::GtEq => format!("{place} >= {sql}"),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests;
