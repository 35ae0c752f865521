//! How an error says that a worker was lost.
//!
//! An error of a task comes to the coordinator through any number of workers, each of which turns it into text. So a
//! loss is written as a sentence with a fixed beginning, and found again by it. Whoever makes a query fail with such a
//! sentence makes that query begin anew, no more.

use std::fmt::Display;

use tonic::Status;

/// What such a sentence begins with; the id of the worker follows, then a colon.
const BEGINNING: &str = "lost the worker ";
/// What datafusion-distributed says of a task whose plan never came: who was to send it is gone, or who was to have it
/// began anew.
const NO_PLAN: &str = "timed-out while waiting for the plan to be set";

/// A worker that a query cannot go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The node of this id.
    Of(String),
    /// One of them; the error does not say which.
    Somebody,
}

/// The status of a call to a worker that was lost.
pub fn status(id: &str, why: &dyn Display) -> Status {
    Status::unavailable(format!("{BEGINNING}{id}: {why}"))
}

/// The loss that an error tells of, if it does.
pub fn told_by(error: &dyn Display) -> Option<Loss> {
    let text = error.to_string();
    if let Some((_, rest)) = text.split_once(BEGINNING) {
        let id: String = rest
            .chars()
            .take_while(|&c| c.is_ascii_alphanumeric() || c == '-')
            .collect();
        let is_named = !id.is_empty() && rest[id.len()..].starts_with(':');
        return Some(if is_named { Loss::Of(id) } else { Loss::Somebody });
    }
    text.contains(NO_PLAN).then_some(Loss::Somebody)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::error::DataFusionError;

    use super::*;

    #[test]
    fn a_loss_is_found_again_however_often_it_was_passed_on() {
        let first = DataFusionError::External(Box::new(status("3f-a0", &"connection reset")));
        assert_eq!(told_by(&first), Some(Loss::Of("3f-a0".to_owned())));
        // As a second worker passes it on: as text, within other errors.
        let passed = DataFusionError::External(first.to_string().into());
        let shared = DataFusionError::Shared(Arc::new(passed.context("stage 2")));
        assert_eq!(told_by(&shared), Some(Loss::Of("3f-a0".to_owned())));
    }

    #[test]
    fn other_errors_tell_of_no_loss() {
        for error in ["Divide by zero error", "worker is busy", ""] {
            assert_eq!(told_by(&error), None, "{error}");
        }
        assert_eq!(told_by(&format!("{BEGINNING}nobody")), Some(Loss::Somebody));
        assert_eq!(
            told_by(&format!("Worker::execute_task {NO_PLAN}")),
            Some(Loss::Somebody)
        );
    }
}
