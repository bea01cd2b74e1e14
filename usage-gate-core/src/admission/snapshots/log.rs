//! What has changed since the callers were written, who was seen first since, and when the feed was last heard of: a line each, with a sum of its own.
//!
//! A line is written by one call. One that is damaged, or cut off, spoils the log and with it the callers: behind it there may have been a revocation. Only where the last line is
//! the beginning of a caller or of a plan it is passed over: a kill may stop a call that writes much, and that one was no change.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use super::document::StoredCaller;
use super::file::{create_private, damaged};
use super::{Heard, KnownCallers};
use crate::model::{KeyId, Plan, TenantId, Timestamp};
use crate::secret::CredentialId;
use crate::store::{Changed, FeedPosition, ResolvedKey};

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
    /// A plan of callers that follow, as JSON.
    Plan(String),
    /// A caller as it was when so many changes were applied, as JSON.
    Known(u64, String),
}

impl Line {
    pub(super) fn plan(plan: &Plan) -> io::Result<Self> {
        Ok(Self::Plan(serde_json::to_string(plan)?))
    }

    pub(super) fn known(number: u64, credential: CredentialId, resolved: &ResolvedKey) -> io::Result<Self> {
        Ok(Self::Known(number, serde_json::to_string(&StoredCaller::new(credential, resolved))?))
    }
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
            Self::Plan(plan) => write!(f, "plan {plan}"),
            Self::Known(number, caller) => write!(f, "known {number} {caller}"),
        }
    }
}

impl FromStr for Line {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let senseless = || damaged("a line of the log of changes makes no sense");
        if let Some(plan) = text.strip_prefix("plan ") {
            return Ok(Self::Plan(plan.to_owned()));
        }
        if let Some((number, caller)) = text.strip_prefix("known ").and_then(|rest| rest.split_once(' ')) {
            return Ok(Self::Known(number.parse().map_err(|_| senseless())?, caller.to_owned()));
        }
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
    file: Arc<File>,
    length: u64,
}

impl ChangeLog {
    /// One of these lines in place of what is there.
    pub(super) fn begin(folder: &Path, lines: &[Line]) -> io::Result<Self> {
        let unfinished = folder.join(UNFINISHED);
        let mut log = Self { file: Arc::new(create_private(&unfinished)?), length: 0 };
        (&*log.file).write_all(MAGIC.as_bytes())?;
        lines.iter().try_for_each(|line| log.append(line))?;
        std::fs::rename(&unfinished, folder.join(NAME))?;
        Ok(log)
    }

    /// The one that is there, which was replayed; without what is cut off at its end.
    pub(super) fn go_on(folder: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).open(folder.join(NAME))?;
        let mut bytes = Vec::new();
        (&mut file).take(MOST_BYTES).read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at.saturating_add(1));
        let length = u64::try_from(whole).unwrap_or(0);
        file.set_len(length)?;
        Ok(Self { file: Arc::new(file), length })
    }

    /// One in a file of any kind, for tests.
    #[cfg(test)]
    pub(super) fn of(file: File) -> Self {
        Self { file: Arc::new(file), length: 0 }
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    /// Writes a line: it is there after a `kill -9` once this returns.
    pub(super) fn append(&mut self, line: &Line) -> io::Result<()> {
        let text = line.to_string();
        let text = format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()));
        (&*self.file).write_all(text.as_bytes())?;
        self.length = self.length.saturating_add(u64::try_from(text.len()).unwrap_or(0));
        Ok(())
    }

    /// To be synced by whoever has time.
    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

/// Adds the callers that were seen first since, drops those that later changes touch, and notes how far the feed was followed.
pub(super) fn replay(folder: &Path, mut known: KnownCallers) -> io::Result<KnownCallers> {
    let (mut bytes, file) = (Vec::new(), File::open(folder.join(NAME))?);
    if file.metadata()?.len() > MOST_BYTES {
        return Err(damaged("the log of changes is longer than any that is written"));
    }
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let lines = bytes.strip_prefix(MAGIC.as_bytes()).ok_or_else(|| damaged("the log of changes has no beginning"))?;
    let (mut changes, mut plans, mut new) = (Vec::new(), HashMap::new(), Vec::new());
    let before = known.last;
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        if !line.ends_with(b"\n") && (line.starts_with(b"k") || line.starts_with(b"p")) {
            break;
        }
        match read_line(line)? {
            Line::Changed(number, changed) => {
                // What was written before the callers counts for those of the log alone.
                known.last = known.last.max(number);
                changes.push((number, changed));
            }
            Line::Heard(number, heard) if number >= known.last => known.heard = heard,
            Line::Heard(..) => {}
            Line::Plan(plan) => {
                let plan: Plan = serde_json::from_str(&plan)?;
                plans.insert((plan.id.clone(), plan.version), Arc::new(plan));
            }
            Line::Known(number, caller) => {
                let stored: StoredCaller = serde_json::from_str(&caller)?;
                let caller = stored.into_resolved(|id, version| plans.get(&(id.to_owned(), version)).map(Arc::clone));
                new.push((number, caller.ok_or_else(|| damaged("a caller in the log of changes makes no sense"))?));
            }
        }
    }
    let is_touched = |number: u64, resolved: &ResolvedKey| {
        let mut later = changes.iter().filter(|(of, _)| *of > number);
        later.any(|(_, changed)| changed.touches(resolved.key.id, resolved.tenant.id))
    };
    known.callers.retain(|(_, resolved)| !is_touched(before, resolved));
    new.retain(|(number, (_, resolved))| !is_touched(*number, resolved));
    let added: HashSet<CredentialId> = new.iter().map(|(_, (credential, _))| *credential).collect();
    known.callers.retain(|(credential, _)| !added.contains(credential));
    // Of one that was filled again the last is the newest.
    let mut added: HashMap<CredentialId, ResolvedKey> = HashMap::new();
    added.extend(new.into_iter().map(|(_, caller)| caller));
    known.callers.extend(added);
    Ok(known)
}

fn read_line(line: &[u8]) -> io::Result<Line> {
    let line = std::str::from_utf8(line).map_err(|_| damaged("a line of the log of changes is no text"))?;
    let whole = line.strip_suffix('\n').and_then(|line| line.rsplit_once(' '));
    let Some((text, sum)) = whole else { return Err(damaged("the log of changes is cut off")) };
    if format!("{:08x}", crc32fast::hash(text.as_bytes())) != sum {
        return Err(damaged("a line of the log of changes is damaged"));
    }
    text.parse()
}
