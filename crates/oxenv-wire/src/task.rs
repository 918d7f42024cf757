//! Bodies of OpenEnv 0.10's Task API.
//!
//! Invariant: as strict about types and unknown keys as the reference.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::issue::ValidationIssue;
use crate::json::{Json, Object};
use crate::shape::Shape;

/// A named part of an environment's tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Its name.
    pub name: String,
    /// `train`, `validation` or `test`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// `POST /{env}/tasks` and `/num_tasks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitRequest<'a> {
    /// Which split.
    pub split: Cow<'a, str>,
}

impl<'a> SplitRequest<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// Every issue found.
    pub fn parse(value: impl Into<Json<'a>>, loc: &[&str]) -> Result<Self, Vec<ValidationIssue>> {
        let object = object(value.into(), loc)?;
        let mut shape = Shape::new(&object, loc);
        let split = shape.string("split");
        shape.only(&["split"]);
        shape.finish(SplitRequest { split })
    }
}

/// `POST /{env}/task`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRequest<'a> {
    /// Which split.
    pub split: Cow<'a, str>,
    /// Which task of it; a negative index counts from the end, as in Python.
    pub index: i64,
}

impl<'a> TaskRequest<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// Every issue found.
    pub fn parse(value: impl Into<Json<'a>>, loc: &[&str]) -> Result<Self, Vec<ValidationIssue>> {
        let object = object(value.into(), loc)?;
        let mut shape = Shape::new(&object, loc);
        let split = shape.string("split");
        let index = shape.i64("index");
        shape.only(&["split", "index"]);
        shape.finish(TaskRequest { split, index })
    }
}

/// `POST /{env}/task_range`; absent ends are the split's, as in a Python slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRequest<'a> {
    /// Which split.
    pub split: Cow<'a, str>,
    /// The first index.
    pub start: Option<i64>,
    /// The index after the last.
    pub stop: Option<i64>,
}

impl<'a> RangeRequest<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// Every issue found.
    pub fn parse(value: impl Into<Json<'a>>, loc: &[&str]) -> Result<Self, Vec<ValidationIssue>> {
        let object = object(value.into(), loc)?;
        let mut shape = Shape::new(&object, loc);
        let split = shape.string("split");
        let start = shape.optional_i64("start");
        let stop = shape.optional_i64("stop");
        shape.only(&["split", "start", "stop"]);
        shape.finish(RangeRequest { split, start, stop })
    }
}

/// The reply of `/{env}/tasks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnvironmentTasks {
    /// The tasks, each an object that a reset takes as arguments.
    pub tasks: Vec<Value>,
    /// The environment's name.
    pub env_name: String,
}

/// The reply of `/{env}/task_range`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tasks {
    /// The tasks.
    pub tasks: Vec<Value>,
}

/// The reply of `/{env}/task`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OneTask {
    /// The task.
    pub task: Value,
}

/// The reply of `/{env}/num_tasks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumTasks {
    /// How many.
    pub num_tasks: usize,
}

fn object<'a>(value: Json<'a>, loc: &[&str]) -> Result<Object<'a>, Vec<ValidationIssue>> {
    Object::from_raw(value).map_err(|fault| vec![ValidationIssue::from_parse(loc, &fault, value)])
}
