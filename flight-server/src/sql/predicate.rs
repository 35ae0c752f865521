//! Which rows of a batch pass, and which row groups need no look at all.
//!
//! A predicate has a part that is the same for the whole query, and one that changes while it runs: the keys that the other
//! side of a join has, the least value that a top-k query still wants. The second is only ever a help, whoever made it
//! looks at each row again. So it is not looked at as long as it lets nearly everything through, until it changes.
//!
//! Of the first, comparisons of numbers with a literal are looked at before the rest, each over all rows of the batch. Why not
//! as DataFusion evaluates AND: where few rows pass the left side, it copies those of all columns, looks at the right side
//! of the copies, and puts the answers back in their places, which for one comparison of numbers takes longer than to
//! make it for all rows.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{and, filter_record_batch, prep_null_mask_filter};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, DynamicFilterTracking, Literal};
use datafusion::physical_expr::{PhysicalExpr, conjunction_opt, split_conjunction};

/// Rows after which it is judged whether the changing part is worth its look.
const JUDGED_ROWS: usize = 64 << 10;
/// It is not, if it lets through more than this many of 16 rows.
const USELESS_OF_16: usize = 14;
/// Where the fixed part leaves less than one row in this many, the rest is looked at alone.
const FEW: usize = 2;

/// A predicate over batches of one schema.
#[derive(Debug)]
pub(super) struct Passing {
    /// Of the fixed part what is quickly said, and never fails.
    quick: Vec<Arc<dyn PhysicalExpr>>,
    fixed: Option<Arc<dyn PhysicalExpr>>,
    changing: Option<Changing>,
}

/// The part that changes, and how much good it did lately.
#[derive(Debug)]
struct Changing {
    expr: Arc<dyn PhysicalExpr>,
    tracking: DynamicFilterTracking,
    seen: usize,
    passed: usize,
}

impl Passing {
    /// The predicate, cut in its two parts.
    pub(super) fn new(predicate: &Arc<dyn PhysicalExpr>) -> Self {
        let (changing, fixed): (Vec<_>, Vec<_>) = split_conjunction(predicate).into_iter().cloned().partition(changes);
        let (quick, fixed): (Vec<_>, Vec<_>) = fixed.into_iter().partition(is_quick);
        Self {
            quick,
            fixed: conjunction_opt(fixed),
            changing: conjunction_opt(changing).map(|expr| Changing {
                tracking: DynamicFilterTracking::classify(&expr),
                expr,
                seen: 0,
                passed: 0,
            }),
        }
    }

    /// The rows of a batch that may pass: all of them by reference, none, or some, as the batch and a mask over it.
    ///
    /// # Errors
    /// What an expression makes of the values.
    pub(super) fn of(&mut self, batch: RecordBatch) -> Result<Rows> {
        let rows = self.quickly(batch)?;
        let rows = match &self.fixed {
            Some(fixed) => Looked::at(rows, fixed)?.rows,
            None => rows,
        };
        match &mut self.changing {
            Some(changing) => changing.sift(rows),
            None => Ok(rows),
        }
    }

    /// The rows that pass what is quickly said.
    fn quickly(&self, batch: RecordBatch) -> Result<Rows> {
        let mut passing: Option<BooleanArray> = None;
        for part in &self.quick {
            let also = mask(part, &batch)?;
            let both = match &passing {
                Some(before) => and(before, &also)?,
                None => also,
            };
            if both.true_count() == 0 {
                return Ok(Rows::None);
            }
            passing = Some(both);
        }
        Ok(match passing {
            Some(passing) => Rows::of(batch, passing),
            None => Rows::All(batch),
        })
    }
}

/// Whether an expression compares a column of numbers with a literal: a few instructions for each row, which cannot fail.
fn is_quick(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let Some(comparison) = expr.downcast_ref::<BinaryExpr>() else {
        return false;
    };
    let is_column = |side: &Arc<dyn PhysicalExpr>| side.is::<Column>();
    let is_number = |side: &Arc<dyn PhysicalExpr>| {
        let literal = side.downcast_ref::<Literal>();
        literal.is_some_and(|literal| literal.value().data_type().is_primitive())
    };
    let (left, right) = (comparison.left(), comparison.right());
    let compares = matches!(
        comparison.op(),
        Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    );
    compares && (is_column(left) && is_number(right) || is_number(left) && is_column(right))
}

/// What passed.
#[derive(Debug)]
pub(super) enum Rows {
    None,
    All(RecordBatch),
    Some(RecordBatch, BooleanArray),
}

impl Rows {
    fn of(batch: RecordBatch, mask: BooleanArray) -> Self {
        match mask.true_count() {
            0 => Self::None,
            all if all == batch.num_rows() => Self::All(batch),
            _ => Self::Some(batch, mask),
        }
    }
}

impl Changing {
    fn is_useful(&mut self) -> bool {
        if self.tracking.watcher().is_some_and(|watcher| watcher.changed()) {
            (self.seen, self.passed) = (0, 0);
        }
        self.seen < JUDGED_ROWS || self.passed <= self.seen / 16 * USELESS_OF_16
    }

    fn sift(&mut self, rows: Rows) -> Result<Rows> {
        if !self.is_useful() {
            return Ok(rows);
        }
        let looked = Looked::at(rows, &self.expr)?;
        self.seen += looked.seen;
        self.passed += looked.passed;
        Ok(looked.rows)
    }
}

/// Rows that were looked at.
struct Looked {
    /// Those that pass what they had to pass before, too.
    rows: Rows,
    /// How many were looked at, and how many of these passed.
    seen: usize,
    passed: usize,
}

impl Looked {
    /// Looks at rows: at those alone that passed before, where they are few.
    fn at(rows: Rows, expr: &Arc<dyn PhysicalExpr>) -> Result<Self> {
        let (batch, before) = match rows {
            Rows::None => {
                return Ok(Self {
                    rows: Rows::None,
                    seen: 0,
                    passed: 0,
                });
            }
            Rows::All(batch) => (batch, None),
            Rows::Some(batch, mask) if mask.true_count() < batch.num_rows() / FEW => {
                (filter_record_batch(&batch, &mask)?, None)
            }
            Rows::Some(batch, mask) => (batch, Some(mask)),
        };
        let passing = mask(expr, &batch)?;
        let (seen, passed) = (batch.num_rows(), passing.true_count());
        let rows = match before {
            Some(before) => Rows::of(batch, and(&before, &passing)?),
            None => Rows::of(batch, passing),
        };
        Ok(Self { rows, seen, passed })
    }
}

/// Whether an expression changes while the query runs.
pub(super) fn changes(expr: &Arc<dyn PhysicalExpr>) -> bool {
    DynamicFilterTracking::classify(expr).contains_dynamic_filter()
}

/// One value a row, true for those that pass; never null.
pub(super) fn mask(predicate: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<BooleanArray> {
    let values = predicate.evaluate(batch)?.into_array(batch.num_rows())?;
    match values.as_boolean_opt() {
        Some(mask) if mask.null_count() > 0 => Ok(prep_null_mask_filter(mask)),
        Some(mask) => Ok(mask.clone()),
        None => exec_err!("a predicate gave {} in place of true or false", values.data_type()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::physical_expr::expressions::{DynamicFilterPhysicalExpr, lit};

    use super::*;

    fn less_than(bound: i64) -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(Arc::new(Column::new("a", 0)), Operator::Lt, lit(bound)))
    }

    fn batch(values: Vec<i64>) -> RecordBatch {
        RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap()
    }

    fn passed(rows: Rows) -> Vec<i64> {
        let batch = match rows {
            Rows::None => return Vec::new(),
            Rows::All(batch) => batch,
            Rows::Some(batch, mask) => filter_record_batch(&batch, &mask).unwrap(),
        };
        let values: &Int64Array = batch.column(0).as_primitive();
        values.values().to_vec()
    }

    #[test]
    fn both_parts_are_looked_at_and_the_second_as_it_is_now() {
        let moving = Arc::new(DynamicFilterPhysicalExpr::new(
            vec![Arc::new(Column::new("a", 0))],
            lit(true),
        ));
        let changing: Arc<dyn PhysicalExpr> = Arc::<DynamicFilterPhysicalExpr>::clone(&moving);
        let mut passing = Passing::new(&datafusion::physical_expr::conjunction([less_than(8), changing]));
        let values = || batch((0..10).collect());
        assert_eq!(passed(passing.of(values()).unwrap()), (0..8).collect::<Vec<_>>());
        moving.update(less_than(3)).unwrap();
        assert_eq!(passed(passing.of(values()).unwrap()), [0, 1, 2]);
        moving.update(less_than(-1)).unwrap();
        assert!(matches!(passing.of(values()).unwrap(), Rows::None));
    }

    #[test]
    fn what_lets_everything_through_is_left_alone_until_it_changes() {
        let moving = Arc::new(DynamicFilterPhysicalExpr::new(
            vec![Arc::new(Column::new("a", 0))],
            less_than(1 << 40),
        ));
        let changing: Arc<dyn PhysicalExpr> = Arc::<DynamicFilterPhysicalExpr>::clone(&moving);
        let mut passing = Passing::new(&changing);
        let rows = i64::try_from(JUDGED_ROWS).unwrap();
        passing.of(batch((0..rows).collect())).unwrap();
        assert!(!passing.changing.as_mut().unwrap().is_useful());
        moving.update(less_than(5)).unwrap();
        assert_eq!(passed(passing.of(batch(vec![1, 7, 3])).unwrap()), [1, 3]);
    }

    #[test]
    fn comparisons_of_numbers_come_first_and_the_rest_sees_what_they_leave_where_that_is_little() {
        let binary = |left: Arc<dyn PhysicalExpr>, op, right| -> Arc<dyn PhysicalExpr> {
            Arc::new(BinaryExpr::new(left, op, right))
        };
        let column = || -> Arc<dyn PhysicalExpr> { Arc::new(Column::new("a", 0)) };
        // Fails where it is asked of nought.
        let divides = binary(
            binary(lit(12_i64), Operator::Modulo, column()),
            Operator::Eq,
            lit(0_i64),
        );
        let at_least = binary(lit(4_i64), Operator::LtEq, column());
        let predicate = datafusion::physical_expr::conjunction([divides, at_least, less_than(8)]);
        let mut passing = Passing::new(&predicate);
        assert_eq!((passing.quick.len(), passing.fixed.is_some()), (2, true));
        assert_eq!(passed(passing.of(batch((0..10).collect())).unwrap()), [4, 6]);
        assert!(matches!(passing.of(batch(vec![0, 1, 2])).unwrap(), Rows::None));
        assert!(passing.of(batch(vec![0, 4, 5, 6])).is_err());
        assert!(Passing::new(&less_than(3)).fixed.is_none());
    }

    #[test]
    fn null_is_no_pass() {
        let values: Int64Array = [Some(1), None, Some(9)].into_iter().collect();
        let batch = RecordBatch::try_from_iter([("a", Arc::new(values) as _)]).unwrap();
        assert_eq!(passed(Passing::new(&less_than(5)).of(batch).unwrap()), [1]);
    }
}
