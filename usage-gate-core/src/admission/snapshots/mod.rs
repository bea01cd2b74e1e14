//! Known callers on disk, so that a restart knows them while the key store is away.
//!
//! Two files in the data directory: the [callers](file) as they were cached at some moment, written every few seconds if they have changed; and a [log](log) of what has changed since, of
//! who was seen first since, and of when the feed of changes was last heard of. Both hold hashes of secrets, and no secret. Who is new is added to the log every second, so that the
//! callers, which may be many, need not be written as often.
//!
//! Invariant: a caller that is on disk is not touched by any change that this process has applied. A change is written to the log before it is applied, under the lock under which the
//! callers' number is read, and every caller is kept with the number of changes that were applied when it was taken from the cache; so that a `kill -9` between any two steps leaves a log
//! that is ahead of the callers and never behind them. Where the log cannot be written, the callers go.
//! After a loss of power the log may lack the changes of the last second or so; then what is known is as old as that, which `max_stale` allows.
//!
//! A file that is damaged is not used, nor is one beside it: no key is served from half of what was known.

mod document;
mod file;
mod log;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::Timestamp;
use crate::secret::CredentialId;
use crate::store::{Changed, FeedPosition, ResolvedKey};
pub(crate) use file::MOST_KEPT;
use log::ChangeLog;

/// Between two notes of when the feed was heard of.
const NOTED_EVERY_MICROS: u64 = 5_000_000;
/// A log that is longer is replaced by new callers, changed or not.
const LONGEST_LOG: u64 = 256 * 1_024;
/// To one that is longer nobody is added: they are among the next callers.
const MOST_ADDED: u64 = 16 << 20;

/// A caller as it is cached.
pub(crate) type Known = (CredentialId, Arc<ResolvedKey>);

/// How far a node has followed the feed of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Heard {
    /// What the feed was asked from last.
    pub(crate) position: FeedPosition,
    /// When it last answered.
    pub(crate) at: Timestamp,
    /// Nodes that were known to share rates; 0 if none ever were.
    pub(crate) nodes: u32,
}

/// What an earlier process knew.
#[derive(Debug)]
pub(crate) struct KnownCallers {
    pub(crate) callers: Vec<(CredentialId, ResolvedKey)>,
    pub(crate) heard: Heard,
    /// The log goes on behind this number.
    last: u64,
}

/// Where known callers are kept.
#[derive(Debug)]
pub(crate) struct Snapshots {
    folder: PathBuf,
    /// Of the pepper with which the secrets are hashed.
    pepper: u64,
    following: Mutex<Following>,
    /// Held by who writes the callers.
    writing: Mutex<()>,
    /// Whether the callers on disk are not those in the cache.
    changed: AtomicBool,
    /// Who was filled into the cache since it was last looked at.
    newcomers: Mutex<HashSet<CredentialId>>,
    /// Whether the log has what is not on the disk itself.
    unsynced: AtomicBool,
}

#[derive(Debug)]
struct Following {
    /// None after it could not be written; the next callers begin another.
    log: Option<ChangeLog>,
    /// The number of the last change.
    last: u64,
    /// Changes since the callers were last taken from the cache, to be written.
    since: Vec<(u64, Changed)>,
    heard: Heard,
}

impl Snapshots {
    /// What an earlier process knew and may be served still; nothing if there is none, or none that can be trusted, which is logged.
    ///
    /// `most_stale` is counted from when the feed was last heard of. A clock that stands before that instant says nothing of how long it is ago: then nothing is served.
    pub(crate) fn read(folder: &Path, pepper: u64, now: Timestamp, most_stale: Duration) -> Option<KnownCallers> {
        let known = match file::read(folder, pepper)
            .and_then(|known| known.map(|known| log::replay(folder, known)).transpose())
        {
            Ok(known) => known?,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    folder = %folder.display(),
                    "callers that an earlier process knew cannot be read: their keys are refused until the key store is back"
                );
                return None;
            }
        };
        let heard = known.heard.at;
        if heard > now || u128::from(heard.micros_until(now)) > most_stale.as_micros() {
            tracing::warn!(%heard, "callers that an earlier process knew are older than max_stale, or the clock was set back: they are not served");
            return None;
        }
        Some(known)
    }

    /// Begins anew: what an earlier process knew is removed, since this one did not follow what changed after it.
    pub(crate) fn begin(folder: PathBuf, pepper: u64, heard: Heard) -> io::Result<Self> {
        file::remove(&folder)?;
        let log = ChangeLog::begin(&folder, &[])?;
        Ok(Self::of(folder, pepper, Following { log: Some(log), last: 0, since: Vec::new(), heard }))
    }

    /// Goes on where an earlier process ended, whose callers are those of this one.
    pub(crate) fn go_on(folder: PathBuf, pepper: u64, known: &KnownCallers) -> io::Result<Self> {
        let log = ChangeLog::go_on(&folder)?;
        Ok(Self::of(
            folder,
            pepper,
            Following { log: Some(log), last: known.last, since: Vec::new(), heard: known.heard },
        ))
    }

    fn of(folder: PathBuf, pepper: u64, following: Following) -> Self {
        let (changed, unsynced) = (AtomicBool::new(false), AtomicBool::new(false));
        let (following, writing, newcomers) = (Mutex::new(following), Mutex::default(), Mutex::default());
        Self { folder, pepper, following, writing, changed, newcomers, unsynced }
    }

    /// Writes a change down, then applies it. Callers that are taken from the cache after this has returned are not touched by it.
    pub(crate) fn apply(&self, changed: &Changed, apply: impl FnOnce()) {
        let mut following = self.following();
        following.last += 1;
        let number = following.last;
        following.since.push((number, changed.clone()));
        let line = log::Line::Changed(number, changed.clone());
        self.write(&mut following, &line);
        // Still under the lock: who reads the number finds it applied.
        apply();
        drop(following);
        self.changed.store(true, Ordering::Release);
        self.unsynced.store(true, Ordering::Release);
    }

    /// The feed has answered, and what it said is applied.
    pub(crate) fn heard(&self, heard: Heard) {
        let mut following = self.following();
        let before = following.heard;
        let news = (before.position, before.nodes) != (heard.position, heard.nodes);
        if news || before.at > heard.at || before.at.micros_until(heard.at) >= NOTED_EVERY_MICROS {
            following.heard = heard;
            let line = log::Line::Heard(following.last, heard);
            self.write(&mut following, &line);
        }
    }

    /// A caller was filled into the cache.
    pub(crate) fn filled(&self, credential: CredentialId) {
        let mut new = self.newcomers();
        if new.len() < MOST_KEPT {
            new.insert(credential);
        }
        drop(new);
        // Relaxed: the next look sees it, or the one after.
        self.changed.store(true, Ordering::Relaxed);
    }

    fn write(&self, following: &mut Following, line: &log::Line) {
        let Some(log) = &mut following.log else { return };
        let Err(error) = log.append(line) else { return };
        // Invariant: a log that lacks a change must not stand beside callers that it touches.
        following.log = None;
        let gone = file::remove(&self.folder);
        tracing::error!(
            error = &error as &dyn std::error::Error,
            removed = gone.is_ok(),
            folder = %self.folder.display(),
            "a change of callers cannot be written: what was kept of them is removed"
        );
    }

    /// Brings the disk up to date, if there is anything new: the callers that `known` gives. Says whether it tried. Blocks on the disk.
    pub(crate) fn keep(&self, known: impl FnOnce() -> Vec<Known>) -> bool {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let long = |log: &ChangeLog| log.length() > LONGEST_LOG;
        let due = self.changed.swap(false, Ordering::AcqRel) || self.following().log.as_ref().is_none_or(long);
        if !due {
            return false;
        }
        // They are in the cache, which is read after this.
        let new = std::mem::take(&mut *self.newcomers());
        if let Err(error) = self.write_callers(known) {
            self.newcomers().extend(new);
            self.changed.store(true, Ordering::Release);
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                folder = %self.folder.display(),
                "known callers cannot be kept on disk: a restart while the key store is away knows those of before, or none"
            );
        }
        true
    }

    fn write_callers(&self, known: impl FnOnce() -> Vec<Known>) -> io::Result<()> {
        let (last, heard) = {
            let mut following = self.following();
            if following.log.is_none() {
                // Before the callers: without a log they are not believed.
                file::remove(&self.folder)?;
                following.log = Some(ChangeLog::begin(&self.folder, &[])?);
            }
            following.since.clear();
            (following.last, following.heard)
        };
        let known = known();
        let callers = known.iter().map(|(credential, resolved)| (*credential, &**resolved));
        file::write(&self.folder, self.pepper, last, heard, callers)?;
        let mut following = self.following();
        if following.log.is_none() {
            // A change could not be noted meanwhile: these callers are of before it.
            file::remove(&self.folder)?;
        } else {
            // Everything else in it is in the callers. A kill before this leaves lines that are passed over.
            let since = following.since.iter().map(|(number, changed)| log::Line::Changed(*number, changed.clone()));
            let heard = log::Line::Heard(following.last, following.heard);
            let lines: Vec<log::Line> = since.chain([heard]).collect();
            following.log = Some(ChangeLog::begin(&self.folder, &lines)?);
            self.unsynced.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Adds to the log who was filled into the cache since it was last looked at: as `known` gives them, of whom no change has touched which was applied before that. Blocks on the disk.
    pub(crate) fn add(&self, known: impl FnOnce(&HashSet<CredentialId>) -> Vec<Known>) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let new = std::mem::take(&mut *self.newcomers());
        let last = {
            let following = self.following();
            match &following.log {
                Some(_) if !new.is_empty() => following.last,
                _ => return,
            }
        };
        let mut plans = HashSet::new();
        for (credential, resolved) in known(&new) {
            // With their plans, of which the callers on disk may have none.
            let plan = plans.insert((resolved.plan.id.clone(), resolved.plan.version));
            let plan = plan.then(|| log::Line::plan(&resolved.plan));
            for line in plan.into_iter().chain([log::Line::known(last, credential, &resolved)]) {
                let mut following = self.following();
                if following.log.as_ref().is_none_or(|log| log.length() > MOST_ADDED) {
                    return;
                }
                match line {
                    Ok(line) => self.write(&mut following, &line),
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "a caller cannot be written down");
                    }
                }
            }
        }
        self.unsynced.store(true, Ordering::Release);
        self.sync();
    }

    /// Has the log survive a loss of power too. Blocks on the disk.
    pub(crate) fn sync(&self) {
        if !self.unsynced.swap(false, Ordering::AcqRel) {
            return;
        }
        // Not under the lock, for which changes wait.
        let Some(file) = self.following().log.as_ref().map(ChangeLog::file) else { return };
        if let Err(error) = file.sync_data() {
            tracing::warn!(error = &error as &dyn std::error::Error, "changes of callers cannot be synced to disk");
        }
    }

    fn newcomers(&self) -> MutexGuard<'_, HashSet<CredentialId>> {
        // A set is whole between any two calls.
        self.newcomers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn following(&self) -> MutexGuard<'_, Following> {
        // Every critical section leaves it whole.
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
