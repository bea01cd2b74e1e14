//! Which migrations a database still needs, and whether this version can work with it at all. Pure: each store runs them itself.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::StoreError;

/// One numbered step of the schema. A released one never changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Migration {
    /// 1 for the first, one more for each.
    pub(crate) version: u32,
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
}

impl Migration {
    /// SHA-256 of its text, in hex.
    pub(crate) fn checksum(&self) -> String {
        Sha256::digest(self.sql.as_bytes()).iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing into a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// A migration that a database has had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) version: u32,
    pub(crate) checksum: String,
}

/// The next migration that a database needs; `None` if it is up to date. `applied` is ordered by version.
pub(crate) fn next<'a>(known: &'a [Migration], applied: &[Applied]) -> Result<Option<&'a Migration>, StoreError> {
    const WHAT: &str = "open the database";
    for (at, had) in applied.iter().enumerate() {
        let Some(ours) = known.get(at) else {
            return Err(StoreError::unusable(
                WHAT,
                format!(
                    "its schema is version {}, newer than {} of this program: use a newer program, or restore an older backup",
                    applied.last().map_or(0, |last| last.version),
                    known.last().map_or(0, |last| last.version)
                ),
            ));
        };
        if ours.version != had.version || ours.checksum() != had.checksum {
            return Err(StoreError::unusable(
                WHAT,
                format!(
                    "its migration {} is not the one of this program: the schema was changed by hand or by a fork",
                    had.version
                ),
            ));
        }
    }
    Ok(known.get(applied.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreErrorKind;

    const KNOWN: [Migration; 2] = [
        Migration { version: 1, name: "first", sql: "CREATE TABLE a (b)" },
        Migration { version: 2, name: "second", sql: "CREATE TABLE c (d)" },
    ];

    fn applied(count: usize) -> Vec<Applied> {
        KNOWN.iter().take(count).map(|known| Applied { version: known.version, checksum: known.checksum() }).collect()
    }

    #[test]
    fn migrations_are_due_in_order() {
        assert_eq!(next(&KNOWN, &[]).unwrap().unwrap().version, 1);
        assert_eq!(next(&KNOWN, &applied(1)).unwrap().unwrap().version, 2);
        assert!(next(&KNOWN, &applied(2)).unwrap().is_none());
    }

    #[test]
    fn a_newer_or_another_schema_is_refused() {
        let newer = next(&KNOWN[..1], &applied(2)).unwrap_err();
        assert_eq!(newer.kind(), StoreErrorKind::Unusable);
        let mut other = applied(1);
        other[0].checksum = "0".into();
        assert_eq!(next(&KNOWN, &other).unwrap_err().kind(), StoreErrorKind::Unusable);
    }
}
