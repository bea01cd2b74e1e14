//! A row on its way, the same whichever database it was read from.

use super::table::Table;

/// What stands in a column. Values of one column compare as both databases order them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum Value {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
    Texts(Vec<String>),
}

impl Value {
    fn weight(&self) -> usize {
        match self {
            Self::Null | Self::Int(_) => 8,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Texts(texts) => texts.iter().map(String::len).sum(),
        }
    }
}

/// Values in the order of the table's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Row(pub(in crate::store) Vec<Value>);

impl Row {
    /// What of it is the key.
    pub(in crate::store) fn key(&self, table: &Table) -> &[Value] {
        self.0.get(..table.key).unwrap_or(&self.0)
    }

    /// About how many bytes it takes on its way.
    pub(in crate::store) fn weight(&self) -> usize {
        self.0.iter().map(Value::weight).sum()
    }
}

/// How much is read, and written in one transaction.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Most {
    pub(in crate::store) rows: u32,
    pub(in crate::store) bytes: usize,
}

impl Most {
    /// Large enough that the round trips do not count, and small enough that it is done within a second on a slow disk.
    pub(in crate::store) const USUAL: Self = Self { rows: 5_000, bytes: 4 << 20 };
}
