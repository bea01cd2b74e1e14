//! Keys as documents, in and out, for operators and users alike.

use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use usage_gate_core::UsageGate;
use usage_gate_core::management::{IssuedToCaller, KeyDraft, KeyPatch};
use usage_gate_core::model::{Environment, Key, Timestamp, UserId};

use crate::answer::{Problem, json};
use crate::document::{patch, present};
use crate::show;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyDocument {
    name: String,
    /// Null is a key of nobody; whose it is without the member, the caller decides.
    #[serde(default, deserialize_with = "present")]
    user: Option<Option<UserId>>,
    environment: Option<Environment>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    allowed_addresses: Vec<String>,
    expires_at: Option<Timestamp>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyChange {
    #[serde(default, deserialize_with = "present")]
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    scopes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    allowed_addresses: Option<Vec<String>>,
    #[serde(default, deserialize_with = "present")]
    expires_at: Option<Option<Timestamp>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Revocation {
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotation {
    overlap_seconds: Option<u64>,
}

/// A day: long enough for a deployment that takes the new secret.
const USUAL_OVERLAP: u64 = 86_400;

impl KeyDocument {
    /// Whether it asks for a key of nobody.
    pub(crate) fn for_nobody(&self) -> bool {
        self.user == Some(None)
    }

    pub(crate) fn draft(self) -> KeyDraft {
        KeyDraft {
            name: self.name,
            user: self.user.flatten(),
            environment: self.environment,
            scopes: self.scopes,
            allowed_addresses: self.allowed_addresses,
            expires_at: self.expires_at,
        }
    }
}

impl KeyChange {
    pub(crate) fn patch(self) -> KeyPatch {
        KeyPatch {
            name: patch(self.name),
            scopes: patch(self.scopes),
            allowed_addresses: patch(self.allowed_addresses),
            expires_at: patch(self.expires_at),
        }
    }
}

impl Rotation {
    /// For how long the old secret goes on.
    pub(crate) fn overlap(&self) -> u64 {
        self.overlap_seconds.unwrap_or(USUAL_OVERLAP)
    }
}

pub(crate) async fn shown(gate: &UsageGate, key: &Key) -> Result<Value, Problem> {
    let mut shown = show::keys(gate, std::slice::from_ref(key)).await?;
    Ok(shown.pop().unwrap_or_default())
}

/// The key with its text: the only answers that have it.
pub(crate) async fn with_text(
    gate: &UsageGate,
    status: StatusCode,
    issued: &IssuedToCaller,
) -> Result<Response, Problem> {
    let mut document = shown(gate, &issued.key).await?;
    if let Some(members) = document.as_object_mut() {
        members.insert("key".into(), issued.text.as_str().into());
    }
    Ok(json(status, &document))
}
