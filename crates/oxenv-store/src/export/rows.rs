//! Steps as rows of a Parquet file.
//!
//! Invariant: the columns are those of `docs/records.md`; columns are only ever added. JSON stands in
//! its columns as text.

use std::io::{self, Write};
use std::sync::Arc;

use oxenv_wire::Reward;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde::Serialize;

use super::reply::{call, exported_reply};
use super::{ExportError, each_entry};
use crate::index::{SessionSummary, Trajectories};
use crate::stored::{StoredEntry, StoredEvent};

/// The columns, in the order in which `Rows::flush` writes them.
const COLUMNS: &str = "
message steps {
    REQUIRED BINARY session_id (UTF8);
    REQUIRED BINARY environment (UTF8);
    REQUIRED BINARY version (UTF8);
    REQUIRED INT64 session_seed (INTEGER(64, false));
    REQUIRED INT64 epoch (INTEGER(64, false));
    OPTIONAL BINARY episode_id (UTF8);
    OPTIONAL INT64 episode_seed (INTEGER(64, false));
    REQUIRED INT64 seq (INTEGER(64, false));
    REQUIRED INT64 step (INTEGER(64, false));
    REQUIRED INT64 time (TIMESTAMP(MICROS, true));
    REQUIRED INT64 duration_us (INTEGER(64, false));
    REQUIRED BINARY principal (UTF8);
    REQUIRED BINARY action (JSON);
    REQUIRED BINARY calls (JSON);
    OPTIONAL BINARY observation (JSON);
    OPTIONAL DOUBLE reward;
    OPTIONAL BOOLEAN done;
    OPTIONAL BINARY metadata (JSON);
    OPTIONAL BINARY error (JSON);
}";
/// A group of rows is written when it has this many rows, or this many bytes.
const MAX_GROUP_ROWS: usize = 10_000;
const MAX_GROUP_BYTES: usize = 64 * 1024 * 1024;

/// Writes rows.
pub(super) struct Rows<W: Write + Send> {
    file: SerializedFileWriter<W>,
    group: Group,
}

/// The columns of rows still to be written. Absent values are null.
#[derive(Default)]
struct Group {
    rows: usize,
    bytes: usize,
    texts: [Vec<Option<ByteArray>>; 10],
    numbers: [Vec<Option<i64>>; 7],
    rewards: Vec<Option<f64>>,
    dones: Vec<Option<bool>>,
}

/// The episode that steps belong to.
type EpisodeKey = Option<(String, u64)>;

impl<W: Write + Send> Rows<W> {
    pub(super) fn begin(out: W) -> Result<Self, ExportError> {
        let columns = Arc::new(parse_message_type(COLUMNS).map_err(output)?);
        let properties = Arc::new(WriterProperties::builder().build());
        let file = SerializedFileWriter::new(out, columns, properties).map_err(output)?;
        Ok(Rows { file, group: Group::default() })
    }

    pub(super) fn write(
        &mut self,
        trajectories: &Trajectories,
        session: &SessionSummary,
    ) -> Result<(), ExportError> {
        let mut episode = None;
        each_entry(trajectories, session, |entry| {
            match &entry.event {
                StoredEvent::Reset { episode_id, seed, .. } => episode = Some((episode_id.clone(), *seed)),
                StoredEvent::Step { .. } => self.group.step(session, &episode, entry)?,
                StoredEvent::Opened { .. } | StoredEvent::Closed { .. } => {}
            }
            if self.group.rows >= MAX_GROUP_ROWS || self.group.bytes >= MAX_GROUP_BYTES {
                self.flush()
            } else {
                Ok(())
            }
        })
    }

    pub(super) fn end(mut self) -> Result<(), ExportError> {
        self.flush()?;
        self.file.close().map(drop).map_err(output)
    }

    fn flush(&mut self) -> Result<(), ExportError> {
        let group = std::mem::take(&mut self.group);
        if group.rows == 0 {
            return Ok(());
        }
        self.put(&group).map_err(output)
    }

    fn put(&mut self, group: &Group) -> Result<(), ParquetError> {
        let [id, environment, version, episode, principal, action, calls, observation, metadata, error] =
            &group.texts;
        let [seed, epoch, episode_seed, seq, step, time, duration] = &group.numbers;
        let mut out = self.file.next_row_group()?;
        for text in [id, environment, version] {
            column::<ByteArrayType, _>(&mut out, text, true)?;
        }
        column::<Int64Type, _>(&mut out, seed, true)?;
        column::<Int64Type, _>(&mut out, epoch, true)?;
        column::<ByteArrayType, _>(&mut out, episode, false)?;
        column::<Int64Type, _>(&mut out, episode_seed, false)?;
        for number in [seq, step, time, duration] {
            column::<Int64Type, _>(&mut out, number, true)?;
        }
        for text in [principal, action, calls] {
            column::<ByteArrayType, _>(&mut out, text, true)?;
        }
        column::<ByteArrayType, _>(&mut out, observation, false)?;
        column::<DoubleType, _>(&mut out, &group.rewards, false)?;
        column::<BoolType, _>(&mut out, &group.dones, false)?;
        column::<ByteArrayType, _>(&mut out, metadata, false)?;
        column::<ByteArrayType, _>(&mut out, error, false)?;
        out.close().map(drop)
    }
}

impl Group {
    fn step(
        &mut self,
        session: &SessionSummary,
        episode: &EpisodeKey,
        entry: &StoredEntry,
    ) -> Result<(), ExportError> {
        let StoredEvent::Step { step, principal, action, calls, outcome, duration_us } = &entry.event else {
            return Ok(());
        };
        let shown = exported_reply(outcome)?;
        let calls: Vec<_> = calls.iter().map(call).collect::<Result<_, _>>()?;
        let texts = [
            Some(session.id.clone()),
            Some(session.environment.clone()),
            Some(session.version.clone()),
            episode.as_ref().map(|(id, _)| id.clone()),
            Some(principal.clone()),
            Some(action.text()?.into_owned()),
            Some(json(&calls)?),
            shown.observation.map(|json| json.get().to_owned()),
            shown.metadata.map(|json| json.get().to_owned()),
            shown.error.as_ref().map(json).transpose()?,
        ];
        let numbers = [
            Some(session.seed),
            Some(entry.epoch),
            episode.as_ref().map(|(_, seed)| *seed),
            Some(entry.seq),
            Some(*step),
            Some(entry.time_us),
            Some(*duration_us),
        ];
        for (column, text) in self.texts.iter_mut().zip(texts) {
            self.bytes += text.as_ref().map_or(0, String::len);
            column.push(text.map(|text| ByteArray::from(text.into_bytes())));
        }
        for (column, number) in self.numbers.iter_mut().zip(numbers) {
            // Numbers without a sign are stored as the same bits.
            column.push(number.map(u64::cast_signed));
        }
        self.rewards.push(shown.reward.map(Reward::as_f64));
        self.dones.push(shown.done);
        self.rows += 1;
        Ok(())
    }
}

fn column<D: DataType<T = T>, T: Clone>(
    out: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    column: &[Option<T>],
    required: bool,
) -> Result<(), ParquetError> {
    let Some(mut writer) = out.next_column()? else {
        return Err(ParquetError::General("there are more columns than were declared".to_owned()));
    };
    let values: Vec<T> = column.iter().flatten().cloned().collect();
    let levels: Vec<i16> = column.iter().map(|value| i16::from(value.is_some())).collect();
    writer.typed::<D>().write_batch(&values, (!required).then_some(&levels), None)?;
    writer.close()
}

fn json(value: &impl Serialize) -> Result<String, ExportError> {
    serde_json::to_string(value).map_err(|error| ExportError::Output(error.into()))
}

fn output(error: ParquetError) -> ExportError {
    ExportError::Output(io::Error::other(error))
}
