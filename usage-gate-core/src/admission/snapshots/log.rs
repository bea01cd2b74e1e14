//! What has changed since the callers were written, and when the feed was last heard of: a line each, with a sum of its own.
//!
//! A line is written by one call. One that is damaged, or cut off, spoils the log and with it the callers: behind it there may have been a revocation.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::str::FromStr;

use super::file::{create_private, damaged};
use super::{Heard, KnownCallers};
use crate::model::{KeyId, TenantId, Timestamp};
use crate::store::{Changed, FeedPosition};

const NAME: &str = "callers.changes";
const UNFINISHED: &str = "callers.changes.new";
/// With the version of the format.
const MAGIC: &str = "usage-gate changes 1\n";
/// Longer than any log is let to grow.
const MOST_BYTES: u64 = 64 << 20;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// A change, by number.
    Changed(u64, Changed),
    /// How far the feed was followed when so many changes were applied.
    Heard(u64, Heard),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(number, Changed::Key(key)) => write!(f, "changed {number} {key}"),
            Self::Changed(number, Changed::Tenant(tenant)) => write!(f, "changed {number} {tenant}"),
            Self::Changed(number, Changed::All) => write!(f, "changed {number} all"),
            Self::Heard(number, Heard { position, at, nodes }) => {
                write!(f, "heard {number} {} {} {nodes}", position.0, at.as_micros())
            }
        }
    }
}

impl FromStr for Line {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let senseless = || damaged("a line of the log of changes makes no sense");
        let words: Vec<&str> = text.split(' ').collect();
        let line = match words[..] {
            ["changed", number, what] => {
                let key = what.parse::<KeyId>().ok().map(Changed::Key);
                let changed = key.or_else(|| what.parse::<TenantId>().ok().map(Changed::Tenant));
                let changed = changed.or_else(|| (what == "all").then_some(Changed::All));
                number.parse().ok().zip(changed).map(|(number, changed)| Self::Changed(number, changed))
            }
            ["heard", number, position, at, nodes] => (|| {
                let at = Timestamp::from_micros(at.parse().ok()?);
                let position = FeedPosition(position.parse().ok()?);
                Some(Self::Heard(number.parse().ok()?, Heard { position, at, nodes: nodes.parse().ok()? }))
            })(),
            _ => None,
        };
        line.ok_or_else(senseless)
    }
}

/// The log that is being written.
#[derive(Debug)]
pub(super) struct ChangeLog {
    file: File,
    length: u64,
}

impl ChangeLog {
    /// An empty one in place of what is there.
    pub(super) fn begin(folder: &Path) -> io::Result<Self> {
        let unfinished = folder.join(UNFINISHED);
        let mut file = create_private(&unfinished)?;
        file.write_all(MAGIC.as_bytes())?;
        std::fs::rename(&unfinished, folder.join(NAME))?;
        Ok(Self { file, length: 0 })
    }

    /// The one that is there.
    pub(super) fn go_on(folder: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).open(folder.join(NAME))?;
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }

    /// One in a file of any kind, for tests.
    #[cfg(test)]
    pub(super) const fn of(file: File) -> Self {
        Self { file, length: 0 }
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// Writes a line: it is there after a `kill -9` once this returns.
    pub(super) fn append(&mut self, line: &Line) -> io::Result<()> {
        let text = line.to_string();
        let text = format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()));
        self.file.write_all(text.as_bytes())?;
        self.length = self.length.saturating_add(u64::try_from(text.len()).unwrap_or(0));
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// Drops the callers that later changes touch, and notes how far the feed was followed since.
pub(super) fn replay(folder: &Path, mut known: KnownCallers) -> io::Result<KnownCallers> {
    let mut text = String::new();
    File::open(folder.join(NAME))?.take(MOST_BYTES).read_to_string(&mut text)?;
    let lines = text.strip_prefix(MAGIC).ok_or_else(|| damaged("the log of changes has no beginning"))?;
    let mut later = Vec::new();
    for line in lines.split_inclusive('\n') {
        match read_line(line)? {
            Line::Changed(number, changed) if number > known.last => {
                known.last = number;
                later.push(changed);
            }
            Line::Heard(number, heard) if number >= known.last => known.heard = heard,
            // Written before the callers, which have it.
            Line::Changed(..) | Line::Heard(..) => {}
        }
    }
    known
        .callers
        .retain(|(_, resolved)| !later.iter().any(|changed| changed.touches(resolved.key.id, resolved.tenant.id)));
    Ok(known)
}

fn read_line(line: &str) -> io::Result<Line> {
    let whole = line.strip_suffix('\n').and_then(|line| line.rsplit_once(' '));
    let Some((text, sum)) = whole else { return Err(damaged("the log of changes is cut off")) };
    if format!("{:08x}", crc32fast::hash(text.as_bytes())) != sum {
        return Err(damaged("a line of the log of changes is damaged"));
    }
    text.parse()
}
