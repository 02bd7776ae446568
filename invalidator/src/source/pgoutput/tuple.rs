//! Column values of a row: validated once when the message is parsed, then walked without checks that can fail.

use std::fmt;

use super::ParseError;
use super::reader::Reader;

/// One column of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// A TOASTed value that the UPDATE left alone: it is not in the WAL.
    Unchanged,
    /// PostgreSQL's text output under the session's settings.
    Text(&'a [u8]),
    /// The type's binary output; only when the stream was asked for it.
    Binary(&'a [u8]),
}

/// A row's columns, a slice of the message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    body: &'a [u8],
}

impl<'a> Tuple<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Tuple<'a>, ParseError> {
        let columns = reader.count("column count")?;
        let start = reader.at();
        for _ in 0..columns {
            match reader.u8("column kind")? {
                b'n' | b'u' => {}
                b't' | b'b' => {
                    let length = reader.length("column length")?;
                    reader.take(length, "column value")?;
                }
                kind => return Err(reader.unexpected("column kind", kind)),
            }
        }
        Ok(Tuple { columns, body: reader.since(start) })
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// A row of no columns.
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The columns in order.
    pub fn iter(&self) -> Columns<'a> {
        Columns { body: self.body, at: 0, left: self.columns }
    }

    /// Column `index`, counted from 0; walks over those before it. For several columns of a wide row, see [`Offsets`].
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        self.iter().nth(index)
    }
}

impl<'a> IntoIterator for Tuple<'a> {
    type Item = Value<'a>;
    type IntoIter = Columns<'a>;

    fn into_iter(self) -> Columns<'a> {
        self.iter()
    }
}

impl fmt::Debug for Tuple<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Iterator over the columns of a [`Tuple`].
#[derive(Debug, Clone)]
pub struct Columns<'a> {
    body: &'a [u8],
    at: usize,
    left: u16,
}

impl<'a> Iterator for Columns<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let (value, size) = value_at(self.body, self.at)?;
        self.at += size;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Columns<'_> {}

/// Where each column of a row begins: random access for rows of which several columns matter. Keep one and fill it for each row; it
/// allocates only when a row is wider than any before.
///
/// ```
/// use cachetag_invalidator::source::pgoutput::{self, Message, Offsets, Value};
///
/// let bytes = b"I\0\0\0\x07N\0\x02t\0\0\0\x0242n";
/// let Message::Insert(insert) = pgoutput::parse(bytes, false)? else { unreachable!() };
/// let mut offsets = Offsets::default();
/// let row = offsets.index(insert.new);
/// assert_eq!(row.get(1), Some(Value::Null));
/// assert_eq!(row.get(0), Some(Value::Text(b"42")));
/// # Ok::<(), pgoutput::ParseError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Offsets(Vec<u32>);

impl Offsets {
    /// Looks at every column of `tuple` once and forgets the row before.
    pub fn index<'o, 'a>(&'o mut self, tuple: Tuple<'a>) -> Row<'o, 'a> {
        self.0.clear();
        let mut columns = tuple.iter();
        for _ in 0..tuple.len() {
            // A frame is below 1 GiB, so an offset always fits.
            self.0.push(u32::try_from(columns.at).unwrap_or(u32::MAX));
            columns.next();
        }
        Row { offsets: &self.0, body: tuple.body }
    }
}

/// A [`Tuple`] with its [`Offsets`].
#[derive(Debug, Clone, Copy)]
pub struct Row<'o, 'a> {
    offsets: &'o [u32],
    body: &'a [u8],
}

impl<'a> Row<'_, 'a> {
    /// Column `index`, counted from 0, at the cost of one slice access.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        value_at(self.body, *self.offsets.get(index)? as usize).map(|(value, _)| value)
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// A row of no columns.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }
}

/// The value at byte `at` of a validated body and how many bytes it takes; `None` only where `Tuple::read` would have refused.
#[inline]
fn value_at(body: &[u8], at: usize) -> Option<(Value<'_>, usize)> {
    let (&kind, rest) = body.get(at..)?.split_first()?;
    match kind {
        b'n' => Some((Value::Null, 1)),
        b'u' => Some((Value::Unchanged, 1)),
        _ => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let bytes = rest.get(..u32::from_be_bytes(*length) as usize)?;
            let value = if kind == b't' { Value::Text(bytes) } else { Value::Binary(bytes) };
            Some((value, 5 + bytes.len()))
        }
    }
}
