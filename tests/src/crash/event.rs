//! What each side writes down of a request: one line of JSON, in the file before anything else happens.
//!
//! A file is opened for appending and a line is one `write`, so that lines of many tasks do not mix.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A request as the upstream saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// `x-request-id`; empty if it had none.
    pub id: String,
    /// Method and path.
    pub line: String,
}

/// How a request ended, for the client that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The whole answer came.
    Complete,
    /// The head came, the body broke off.
    Cut,
    /// The head came; the client left in the middle of the body, because it wanted to.
    Left,
    /// The gate did not let it through.
    Refused,
    /// Not even a head came.
    NoAnswer,
}

/// A request as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// `x-request-id` of the answer; empty without one.
    pub id: String,
    /// The tenant whose key it had.
    pub tenant: String,
    /// The id of its key.
    pub key: String,
    /// Method and path.
    pub line: String,
    /// Status of the answer; 0 without one.
    pub status: u16,
    /// Bytes of the body that came.
    pub bytes: u64,
    /// How it ended.
    pub end: End,
    /// `code` of a refusal; empty otherwise.
    pub code: String,
}

impl Ending {
    /// True if a head came that says the request was served.
    #[must_use]
    pub fn served(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// True if it was served and the whole body came.
    #[must_use]
    pub fn completed(&self) -> bool {
        self.served() && self.end == End::Complete
    }
}

/// A file that lines are appended to.
#[derive(Debug, Clone)]
pub struct EventLog(Arc<File>);

impl EventLog {
    /// Opens it, or makes it.
    ///
    /// # Panics
    /// If it cannot be opened.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self(Arc::new(OpenOptions::new().create(true).append(true).open(path).unwrap()))
    }

    /// Appends a line.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn append(&self, event: &impl Serialize) {
        let mut line = serde_json::to_vec(event).unwrap();
        line.push(b'\n');
        (&*self.0).write_all(&line).unwrap();
    }
}

/// All lines of a file; none if nobody has made it yet.
///
/// # Panics
/// If it has a line that is no such event.
#[must_use]
pub fn read<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
