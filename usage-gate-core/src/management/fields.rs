//! Rules that several documents share.

use super::Invalid;
use crate::model::{AddressRange, Scope};

/// A member of a change: left as it is, or set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Patch<T> {
    /// The document does not have the member.
    #[default]
    Keep,
    /// The document has it.
    Set(T),
}

impl<T> Patch<T> {
    /// Sets `place` if the member is there.
    pub(super) fn apply(self, place: &mut T) {
        if let Self::Set(value) = self {
            *place = value;
        }
    }

    /// Transforms the value that is set.
    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U) -> Patch<U> {
        match self {
            Self::Keep => Patch::Keep,
            Self::Set(value) => Patch::Set(f(value)),
        }
    }
}

/// Characters of a name for people.
const NAME: usize = 200;
/// Characters of a host's own id.
const EXTERNAL_ID: usize = 200;
/// Scopes and address ranges of a key.
pub(super) const ENTRIES: usize = 100;
/// Bytes of metadata.
const METADATA: usize = 16 * 1024;

/// A name for people: trimmed, neither empty nor with control characters.
pub(super) fn name(text: &str, pointer: &str, invalid: &mut Invalid) -> String {
    let name = text.trim();
    if name.is_empty() {
        invalid.add(pointer, "must not be empty");
    } else if name.chars().count() > NAME {
        invalid.add(pointer, format!("must have at most {NAME} characters"));
    } else if name.chars().any(char::is_control) {
        invalid.add(pointer, "must not have control characters");
    }
    name.to_owned()
}

pub(super) fn external_id(id: Option<String>, invalid: &mut Invalid) -> Option<String> {
    let id = id?;
    if id.is_empty() || id.chars().count() > EXTERNAL_ID || id.chars().any(char::is_control) {
        let detail =
            format!("must have 1 to {EXTERNAL_ID} characters and no control characters; leave it out for none");
        invalid.add("/external_id", detail);
    }
    Some(id)
}

/// A JSON object as text.
pub(super) fn metadata(text: String, invalid: &mut Invalid) -> String {
    if text.len() > METADATA {
        invalid.add("/metadata", format!("must have at most {METADATA} bytes as JSON"));
    } else if text.contains('\0') {
        // No JSON has it unescaped, and not every store can hold it.
        invalid.add("/metadata", "must not have the character U+0000");
    }
    text
}

pub(super) fn scopes(texts: &[String], invalid: &mut Invalid) -> Vec<Scope> {
    let mut scopes: Vec<Scope> = parsed(texts, "/scopes", invalid);
    let mut seen = std::collections::HashSet::new();
    scopes.retain(|scope| seen.insert(scope.clone()));
    scopes
}

pub(super) fn addresses(texts: &[String], invalid: &mut Invalid) -> Vec<AddressRange> {
    parsed(texts, "/allowed_addresses", invalid)
}

fn parsed<T>(texts: &[String], pointer: &str, invalid: &mut Invalid) -> Vec<T>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    if texts.len() > ENTRIES {
        invalid.add(pointer, format!("must have at most {ENTRIES} entries"));
        return Vec::new();
    }
    let mut values = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(value) => values.push(value),
            Err(error) => invalid.add(format!("{pointer}/{at}"), T::Err::to_string(&error)),
        }
    }
    values
}
