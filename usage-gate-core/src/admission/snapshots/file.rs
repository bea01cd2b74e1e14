//! The file of callers: a line that says what it is and the sum of the rest, then a line for each plan and each caller.
//!
//! Written under another name and renamed, so that it is whole or not there. Readable by its owner only.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::document::StoredCaller;
use super::{Heard, KnownCallers};
use crate::model::{Plan, Timestamp};
use crate::secret::CredentialId;
use crate::store::{FeedPosition, ResolvedKey};

const NAME: &str = "callers.snapshot";
const UNFINISHED: &str = "callers.snapshot.new";
/// With the version of the format.
const MAGIC: &str = "usage-gate callers 1";
/// Beyond either the rest is left out: a bound on the disk, on memory and on the time of a start.
pub(crate) const MOST_KEPT: usize = 100_000;
const MOST_BYTES: usize = 64 << 20;

/// What the callers were known under.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Head {
    pepper: u64,
    /// Changes up to this number of the log are in here.
    last: u64,
    position: u64,
    heard: i64,
    nodes: u32,
}

/// A line of the file.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Head(Head),
    Plan(Box<Plan>),
    Caller(Box<StoredCaller>),
}

/// Reads it; `None` if there is none. One of another pepper is an error.
pub(super) fn read(folder: &Path, pepper: u64) -> io::Result<Option<KnownCallers>> {
    let bytes = match File::open(folder.join(NAME)) {
        Ok(file) => read_bounded(file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = body(&bytes)?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let Some(Line::Head(head)) = lines.next().map(parse).transpose()? else { return Err(damaged("it has no head")) };
    if head.pepper != pepper {
        return Err(damaged("its keys were hashed with another pepper than the one that is given now"));
    }
    let mut plans: HashMap<(String, u32), Arc<Plan>> = HashMap::new();
    let mut callers = Vec::new();
    for line in lines {
        match parse(line)? {
            Line::Head(_) => return Err(damaged("it has two heads")),
            Line::Plan(plan) => drop(plans.insert((plan.id.clone(), plan.version), Arc::from(plan))),
            Line::Caller(stored) => {
                let caller = stored.into_resolved(|id, version| plans.get(&(id.to_owned(), version)).map(Arc::clone));
                callers.push(caller.ok_or_else(|| damaged("a caller in it makes no sense"))?);
            }
        }
    }
    let heard =
        Heard { position: FeedPosition(head.position), at: Timestamp::from_micros(head.heard), nodes: head.nodes };
    Ok(Some(KnownCallers { callers, heard, last: head.last }))
}

fn read_bounded(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The last line may go beyond the bound.
    let most = u64::try_from(2 * MOST_BYTES).unwrap_or(u64::MAX);
    io::Read::read_to_end(&mut io::Read::take(file, most), &mut bytes)?;
    Ok(bytes)
}

/// What the first line is the sum of.
fn body(bytes: &[u8]) -> io::Result<&[u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it has no first line"))?;
    let (first, body) = (&bytes[..end], &bytes[end + 1..]);
    if first != first_line(body).as_bytes() {
        return Err(damaged("its sum is not that of its content, or it is of another version"));
    }
    Ok(body)
}

fn first_line(body: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut line = format!("{MAGIC} ");
    for byte in Sha256::digest(body) {
        // Writing into a string does not fail.
        let _ = write!(line, "{byte:02x}");
    }
    line
}

fn parse(line: &[u8]) -> io::Result<Line> {
    serde_json::from_slice(line).map_err(io::Error::from)
}

/// What is wrong with a file that cannot be believed.
pub(super) fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Puts these callers in place of what is there.
pub(super) fn write<'a>(
    folder: &Path,
    pepper: u64,
    last: u64,
    heard: Heard,
    callers: impl Iterator<Item = (CredentialId, &'a ResolvedKey)>,
) -> io::Result<()> {
    let head = Head { pepper, last, position: heard.position.0, heard: heard.at.as_micros(), nodes: heard.nodes };
    let mut body = Vec::new();
    add(&mut body, &Line::Head(head))?;
    let mut plans = std::collections::HashSet::new();
    for (credential, resolved) in callers.take(MOST_KEPT) {
        if body.len() > MOST_BYTES {
            break;
        }
        let plan = &resolved.plan;
        if plans.insert((plan.id.clone(), plan.version)) {
            add(&mut body, &Line::Plan(Box::new(Plan::clone(plan))))?;
        }
        add(&mut body, &Line::Caller(Box::new(StoredCaller::new(credential, resolved))))?;
    }
    let unfinished = folder.join(UNFINISHED);
    let mut file = create_private(&unfinished)?;
    file.write_all(first_line(&body).as_bytes())?;
    file.write_all(b"\n")?;
    file.write_all(&body)?;
    file.sync_all()?;
    std::fs::rename(&unfinished, folder.join(NAME))?;
    File::open(folder)?.sync_all()
}

fn add(body: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *body, line)?;
    body.push(b'\n');
    Ok(())
}

/// A file that only its owner may read, empty.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Removes the callers. What is left of a log is not read without them.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_file(folder.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
