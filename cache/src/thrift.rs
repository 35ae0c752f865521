//! A look at Thrift compact bytes before a parser is trusted with them.
//!
//! The Parquet crate reserves memory by the counts that a footer declares and recurses by the depth of its schema.
//! [`check_footer`] walks the same bytes first, holding nothing but counters, and refuses what is over the limits; the
//! walk also finds most damage. It reads three things by name (the schema's elements, their children, the row groups)
//! and skips the rest by its type.
//!
//! Why a walker of our own: the crate's reader is private, and its checks cover lists against the remaining input only
//! in part (a list of a million empty row groups is 1 MiB of input and hundreds of MiB of memory).

use crate::limits::ReadLimits;

/// Why a footer was refused before it was parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The bytes are not a Thrift structure.
    Malformed(&'static str),
    /// A count or a depth goes over its limit.
    Over { what: &'static str, value: u64, limit: u64 },
}

/// Walks a footer's Thrift bytes and refuses those that go over `limits`. Gives the part of them that is the schema; none where
/// there is not exactly one.
pub(crate) fn check_footer<'a>(bytes: &'a [u8], limits: &ReadLimits) -> Result<Option<&'a [u8]>, Refused> {
    let mut input = Compact {
        bytes,
        at: 0,
        list_limit: limits.footer_list_items,
    };
    let mut schemas = Vec::new();
    let mut field = 0;
    while let Some((id, kind)) = input.field(&mut field)? {
        match (id, kind) {
            (FILE_SCHEMA, Kind::LIST) => {
                let from = input.position();
                check_schema(&mut input, limits)?;
                schemas.push(&bytes[from..input.position()]);
            }
            (FILE_ROW_GROUPS, Kind::LIST) => {
                let (element, count) = input.list()?;
                over("number of row groups", count, limits.row_groups)?;
                input.skip_elements(element, count, 1)?;
            }
            _ => input.skip(kind, 0)?,
        }
    }
    Ok(match schemas[..] {
        [schema] => Some(schema),
        _ => None,
    })
}

/// FileMetaData.schema
const FILE_SCHEMA: i16 = 2;
/// FileMetaData.row_groups
const FILE_ROW_GROUPS: i16 = 4;
/// SchemaElement.num_children
const SCHEMA_NUM_CHILDREN: i16 = 5;
/// Deepest nesting of Thrift structures themselves; the format uses fewer than ten.
const STRUCT_DEPTH: u32 = 32;

/// Counts leaves and depth of the flattened schema tree without recursing into it.
fn check_schema(input: &mut Compact<'_>, limits: &ReadLimits) -> Result<(), Refused> {
    let (element, count) = input.list()?;
    if element != Kind::STRUCT {
        return Err(Refused::Malformed("the schema is not a list of elements"));
    }
    // Children still to come of each open group, outermost first: its length is the depth.
    let mut open: Vec<u64> = Vec::new();
    let (mut leaves, mut promised) = (0, 0u64);
    for _ in 0..count {
        let children = schema_element_children(input)?;
        // Each element but the root is a child of one group. The parser makes room for as many as a group says.
        promised = promised.saturating_add(children);
        if promised >= count.max(1) {
            return Err(Refused::Malformed(
                "its groups have more children than there are elements",
            ));
        }
        if children == 0 {
            leaves += 1;
            over("number of leaf columns", leaves, limits.leaf_columns)?;
        }
        if let Some(parent) = open.last_mut() {
            *parent = parent.saturating_sub(1);
        }
        if children > 0 {
            open.push(children);
            over(
                "depth of the schema",
                u64::try_from(open.len()).unwrap_or(u64::MAX),
                limits.schema_depth + 1,
            )?;
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Ok(())
}

fn schema_element_children(input: &mut Compact<'_>) -> Result<u64, Refused> {
    let mut children = 0;
    let mut field = 0;
    while let Some((id, kind)) = input.field(&mut field)? {
        match (id, kind) {
            (SCHEMA_NUM_CHILDREN, Kind::I32) => {
                children = u64::try_from(input.zigzag()?)
                    .map_err(|_| Refused::Malformed("a schema element has a negative number of children"))?;
            }
            _ => input.skip(kind, 1)?,
        }
    }
    Ok(children)
}

fn over(what: &'static str, value: u64, limit: u64) -> Result<(), Refused> {
    if value > limit {
        Err(Refused::Over { what, value, limit })
    } else {
        Ok(())
    }
}

/// Type tags of the compact protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(u8);

impl Kind {
    pub(crate) const TRUE: Self = Self(1);
    pub(crate) const FALSE: Self = Self(2);
    pub(crate) const BYTE: Self = Self(3);
    pub(crate) const I16: Self = Self(4);
    pub(crate) const I32: Self = Self(5);
    pub(crate) const I64: Self = Self(6);
    pub(crate) const DOUBLE: Self = Self(7);
    pub(crate) const BINARY: Self = Self(8);
    pub(crate) const LIST: Self = Self(9);
    pub(crate) const SET: Self = Self(10);
    pub(crate) const MAP: Self = Self(11);
    pub(crate) const STRUCT: Self = Self(12);
}

/// A cursor over compact-protocol bytes.
pub(crate) struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
    list_limit: u64,
}

impl<'a> Compact<'a> {
    /// A cursor at the start of `bytes`; lists longer than `list_limit` are refused.
    pub(crate) fn new(bytes: &'a [u8], list_limit: u64) -> Self {
        Self {
            bytes,
            at: 0,
            list_limit,
        }
    }

    /// How many bytes were read so far.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    fn byte(&mut self) -> Result<u8, Refused> {
        let byte = *self
            .bytes
            .get(self.at)
            .ok_or(Refused::Malformed("the metadata ends early"))?;
        self.at += 1;
        Ok(byte)
    }

    fn advance(&mut self, count: u64) -> Result<(), Refused> {
        let left = self.bytes.len() - self.at;
        let count = usize::try_from(count).ok().filter(|count| *count <= left);
        self.at += count.ok_or(Refused::Malformed("the metadata ends early"))?;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Refused> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Refused::Malformed("a number in the metadata does not end"))
    }

    /// A signed number.
    pub(crate) fn zigzag(&mut self) -> Result<i64, Refused> {
        let raw = self.varint()?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// The next field of a structure; none at its end. `last` is the id before it, and is moved on.
    pub(crate) fn field(&mut self, last: &mut i16) -> Result<Option<(i16, Kind)>, Refused> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        let delta = i16::from(head >> 4);
        *last = if delta == 0 {
            i16::try_from(self.zigzag()?).map_err(|_| Refused::Malformed("a field id is out of range"))?
        } else {
            last.checked_add(delta)
                .ok_or(Refused::Malformed("a field id is out of range"))?
        };
        Ok(Some((*last, Kind(head & 0x0f))))
    }

    /// The head of a list: what its elements are, and how many.
    pub(crate) fn list(&mut self) -> Result<(Kind, u64), Refused> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        over("length of a list in the footer", count, self.list_limit)?;
        Ok((Kind(head & 0x0f), count))
    }

    /// Bytes of a length that stands before them.
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Refused> {
        let length = self.varint()?;
        let from = self.at;
        self.advance(length)?;
        Ok(&self.bytes[from..self.at])
    }

    /// A boolean inside a list.
    pub(crate) fn flag(&mut self) -> Result<bool, Refused> {
        Ok(Kind(self.byte()?) == Kind::TRUE)
    }

    /// Passes over one value of this type.
    pub(crate) fn skip(&mut self, kind: Kind, depth: u32) -> Result<(), Refused> {
        if depth > STRUCT_DEPTH {
            return Err(Refused::Malformed("the metadata is nested too deeply"));
        }
        match kind {
            Kind::TRUE | Kind::FALSE => Ok(()),
            Kind::BYTE => self.advance(1),
            Kind::I16 | Kind::I32 | Kind::I64 => self.varint().map(|_| ()),
            Kind::DOUBLE => self.advance(8),
            Kind::BINARY => {
                let length = self.varint()?;
                self.advance(length)
            }
            Kind::LIST | Kind::SET => {
                let (element, count) = self.list()?;
                self.skip_elements(element, count, depth + 1)
            }
            Kind::MAP => self.skip_map(depth),
            Kind::STRUCT => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(Refused::Malformed("the metadata has a field of unknown type")),
        }
    }

    fn skip_elements(&mut self, element: Kind, count: u64, depth: u32) -> Result<(), Refused> {
        for _ in 0..count {
            self.skip_element(element, depth)?;
        }
        Ok(())
    }

    fn skip_map(&mut self, depth: u32) -> Result<(), Refused> {
        let count = self.varint()?;
        over("length of a map in the footer", count, self.list_limit)?;
        if count == 0 {
            return Ok(());
        }
        let kinds = self.byte()?;
        for _ in 0..count {
            self.skip_element(Kind(kinds >> 4), depth + 1)?;
            self.skip_element(Kind(kinds & 0x0f), depth + 1)?;
        }
        Ok(())
    }

    /// Inside a collection a boolean takes a byte; as a field it is in the tag.
    fn skip_element(&mut self, kind: Kind, depth: u32) -> Result<(), Refused> {
        match kind {
            Kind::TRUE | Kind::FALSE => self.advance(1),
            other => self.skip(other, depth),
        }
    }
}
