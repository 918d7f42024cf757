//! The tasks of an environment, as OpenEnv's Task API asks for them.
//!
//! Entry points: [`TaskList`] for tasks that are known by their index, [`TaskSource`] for all others.

use oxenv_wire::Split;
use serde_json::Value;

use crate::failure::Failure;
use crate::work::Work;

/// Why a task cannot be given.
#[derive(Debug, Clone)]
pub enum TaskError {
    /// No split has that name.
    UnknownSplit,
    /// The split has no task at that index.
    OutOfRange,
    /// The environment does not have that question's answer.
    Unsupported,
    /// The environment failed.
    Failed(Failure),
}

/// Named tasks, each an object that a reset takes as arguments.
///
/// Indices are Python's: negative ones count from the end. Dropping the work of a question cancels it.
pub trait TaskSource: Send + Sync {
    /// The splits.
    fn splits(&self) -> Work<'_, Result<Vec<Split>, TaskError>>;

    /// How many tasks a split has.
    fn count<'a>(&'a self, split: &'a str) -> Work<'a, Result<usize, TaskError>>;

    /// All tasks of a split; of a very large one it may be a preview.
    fn all<'a>(&'a self, split: &'a str) -> Work<'a, Result<Vec<Value>, TaskError>>;

    /// One task of a split.
    fn task<'a>(&'a self, split: &'a str, index: i64) -> Work<'a, Result<Value, TaskError>>;

    /// The tasks of a slice; absent bounds are those of the split.
    fn range<'a>(
        &'a self,
        split: &'a str,
        start: Option<i64>,
        stop: Option<i64>,
    ) -> Work<'a, Result<Vec<Value>, TaskError>>;
}

/// Tasks that are known by their index, at once.
pub trait TaskList: Send + Sync {
    /// The splits.
    fn splits(&self) -> Vec<Split>;

    /// How many tasks a split has.
    ///
    /// # Errors
    /// [`TaskError::UnknownSplit`].
    fn count(&self, split: &str) -> Result<usize, TaskError>;

    /// One task of a split.
    ///
    /// # Errors
    /// [`TaskError::UnknownSplit`], [`TaskError::OutOfRange`].
    fn task(&self, split: &str, index: usize) -> Result<Value, TaskError>;
}

impl<T: TaskList> TaskSource for T {
    fn splits(&self) -> Work<'_, Result<Vec<Split>, TaskError>> {
        Work::done(Ok(TaskList::splits(self)))
    }

    fn count<'a>(&'a self, split: &'a str) -> Work<'a, Result<usize, TaskError>> {
        Work::done(TaskList::count(self, split))
    }

    fn all<'a>(&'a self, split: &'a str) -> Work<'a, Result<Vec<Value>, TaskError>> {
        TaskSource::range(self, split, None, None)
    }

    fn task<'a>(&'a self, split: &'a str, index: i64) -> Work<'a, Result<Value, TaskError>> {
        let task = TaskList::count(self, split).and_then(|count| {
            let index = usize::try_from(from_end(index, count)).map_err(|_| TaskError::OutOfRange)?;
            TaskList::task(self, split, index)
        });
        Work::done(task)
    }

    fn range<'a>(
        &'a self,
        split: &'a str,
        start: Option<i64>,
        stop: Option<i64>,
    ) -> Work<'a, Result<Vec<Value>, TaskError>> {
        let tasks = TaskList::count(self, split).and_then(|count| {
            let bound =
                |index: i64| usize::try_from(from_end(index, count).max(0)).map_or(count, |at| at.min(count));
            let indices = start.map_or(0, bound)..stop.map_or(count, bound);
            indices.map(|index| TaskList::task(self, split, index)).collect()
        });
        Work::done(tasks)
    }
}

/// A Python index: negative ones count from the end.
fn from_end(index: i64, count: usize) -> i64 {
    if index < 0 { index.saturating_add(i64::try_from(count).unwrap_or(i64::MAX)) } else { index }
}
