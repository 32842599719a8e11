//! Readings on their way to the writer: many at a time, in one piece of memory.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};

/// A time as the sender wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stamp<T> {
    /// A whole number.
    Int(i64),
    /// A number with a fraction or an exponent.
    Real(f64),
    /// A date-time.
    Text(T),
}

/// The sender's own id of a reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadingId<T> {
    /// A whole number.
    Int(i64),
    /// A text.
    Text(T),
}

/// One reading, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading<'a> {
    /// Which sensor.
    pub sensor_name: Cow<'a, str>,
    /// When, by the sender's clock.
    pub timestamp: Stamp<Cow<'a, str>>,
    /// What it measured.
    pub value: f64,
    /// In which unit.
    pub unit: Option<Cow<'a, str>>,
    /// A JSON object.
    pub metadata: Option<Cow<'a, str>>,
    /// Makes a repeat harmless.
    pub id: Option<ReadingId<Cow<'a, str>>>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    at: u32,
    len: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Row {
    /// The connection's line number.
    pub(super) line: u64,
    /// Refused by the table; never tried again.
    pub(super) refused: bool,
    pub(super) value: f64,
    name: Span,
    timestamp: Stamp<Span>,
    unit: Option<Span>,
    metadata: Option<Span>,
    id: Option<ReadingId<Span>>,
}

/// Readings of one connection, in its order.
#[derive(Debug, Default)]
pub struct Rows {
    text: String,
    pub(super) rows: Vec<Row>,
}

impl Rows {
    /// How many.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes of memory that they take.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.rows.len() * size_of::<Row>()
    }

    /// Adds the reading of line `line`.
    pub fn push(&mut self, line: u64, reading: &Reading<'_>) {
        let row = Row {
            line,
            refused: false,
            value: reading.value,
            name: self.keep(&reading.sensor_name),
            timestamp: match &reading.timestamp {
                Stamp::Int(n) => Stamp::Int(*n),
                Stamp::Real(n) => Stamp::Real(*n),
                Stamp::Text(s) => Stamp::Text(self.keep(s)),
            },
            unit: reading.unit.as_deref().map(|s| self.keep(s)),
            metadata: reading.metadata.as_deref().map(|s| self.keep(s)),
            id: reading.id.as_ref().map(|id| match id {
                ReadingId::Int(n) => ReadingId::Int(*n),
                ReadingId::Text(s) => ReadingId::Text(self.keep(s)),
            }),
        };
        self.rows.push(row);
    }

    fn keep(&mut self, s: &str) -> Span {
        let at = self.text.len();
        self.text.push_str(s);
        // A chunk is bounded by the connection's buffer, far under 4 GiB.
        Span {
            at: u32::try_from(at).unwrap_or(u32::MAX),
            len: u32::try_from(s.len()).unwrap_or(0),
        }
    }

    fn text(&self, span: Span) -> ValueRef<'_> {
        let at = span.at as usize;
        ValueRef::Text(
            self.text
                .as_bytes()
                .get(at..at + span.len as usize)
                .unwrap_or_default(),
        )
    }

    pub(super) fn name(&self, row: &Row) -> Bound<'_> {
        Bound(self.text(row.name))
    }

    pub(super) fn timestamp(&self, row: &Row) -> Bound<'_> {
        Bound(match row.timestamp {
            Stamp::Int(n) => ValueRef::Integer(n),
            Stamp::Real(n) => ValueRef::Real(n),
            Stamp::Text(s) => self.text(s),
        })
    }

    pub(super) fn unit(&self, row: &Row) -> Bound<'_> {
        Bound(row.unit.map_or(ValueRef::Null, |s| self.text(s)))
    }

    pub(super) fn metadata(&self, row: &Row) -> Bound<'_> {
        Bound(row.metadata.map_or(ValueRef::Null, |s| self.text(s)))
    }

    pub(super) fn id(&self, row: &Row) -> Option<Bound<'_>> {
        Some(Bound(match row.id.as_ref()? {
            ReadingId::Int(n) => ValueRef::Integer(*n),
            ReadingId::Text(s) => self.text(*s),
        }))
    }
}

/// A value on its way into a statement, not copied before SQLite does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound<'a>(ValueRef<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.0))
    }
}

/// Who is told what became of a chunk. Called on the writer's thread: must not block.
pub trait Acks: Send + Sync {
    /// Line `line` will never be stored, and why. Comes before `committed` of its chunk.
    fn refused(&self, line: u64, why: String);
    /// All submitted lines up to `upto` are durable, or were refused.
    fn committed(&self, upto: u64);
    /// Lines that were not yet called committed will not be: the store has stopped.
    fn stopped(&self, why: &str);
}

/// What a connection hands over at once.
pub struct Chunk {
    /// The readings.
    pub rows: Rows,
    /// Whose ids they carry.
    pub client: Option<Arc<str>>,
    /// The last line that this chunk covers.
    pub upto: u64,
    /// Who is told.
    pub acks: Arc<dyn Acks>,
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("rows", &self.rows.len())
            .field("client", &self.client)
            .field("upto", &self.upto)
            .finish_non_exhaustive()
    }
}
