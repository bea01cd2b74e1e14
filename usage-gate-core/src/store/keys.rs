//! Who a credential belongs to, and what changed since.

use std::fmt::Debug;
use std::sync::Arc;

use super::StoreError;
use crate::model::{Key, KeyId, Plan, Tenant, TenantId, Timestamp, User};
use crate::secret::CredentialId;

/// A place in the feed of changes; positions only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FeedPosition(pub u64);

/// All that is known of the holder of one credential, read at one moment.
#[derive(Debug, Clone)]
pub struct ResolvedKey {
    /// The key, with all its secrets.
    pub key: Key,
    /// The user who owns it, if any.
    pub user: Option<User>,
    /// Its tenant.
    pub tenant: Tenant,
    /// The version of the plan that holds for the tenant.
    pub plan: Arc<Plan>,
    /// A feed position that is not later than what was read: every change after it may be missing here.
    pub position: FeedPosition,
}

/// What a change touches: cached callers of it are to be resolved anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Changed {
    /// One key, or its user's name.
    Key(KeyId),
    /// A tenant: status, plan, calendar, deletion.
    Tenant(TenantId),
    /// Everything: the feed cannot say what was missed.
    All,
}

impl Changed {
    /// Whether it is about a caller with this key, of this tenant.
    pub(crate) fn touches(&self, key: KeyId, tenant: TenantId) -> bool {
        match self {
            Self::Key(changed) => *changed == key,
            Self::Tenant(changed) => *changed == tenant,
            Self::All => true,
        }
    }
}

/// Changes after a position.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// What changed, oldest first.
    pub items: Vec<Changed>,
    /// The position after the last of them.
    pub position: FeedPosition,
}

/// When a secret was last used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastUse {
    /// Which.
    pub credential: CredentialId,
    /// When.
    pub at: Timestamp,
}

/// Resolves credentials.
///
/// # Contract
/// - A credential that was never issued is `Ok(None)`, not an error; it leaves no row and nothing else behind.
/// - An expired or revoked key, and the key of a suspended or deleted tenant, is resolved all the same: what it means is decided
///   by the gate, which has the secret to compare first.
/// - Every committed change to what [`resolve`](Self::resolve) gives is in [`changes`](Self::changes), in order, after the position
///   that earlier reads carried.
///
/// The suite `conformance::keys` tests it.
#[async_trait::async_trait]
pub trait KeyStore: Send + Sync + Debug + 'static {
    /// What it is, in a word for operators, such as `postgres`: what `/readyz` names when it is away.
    fn backend(&self) -> &'static str {
        "store"
    }

    /// Whether it lies in this process, or in a file of this machine: then it is there whenever the gate is, and what fails there is broken and not away.
    ///
    /// Of a store that is not, a gate keeps what it knows on disk, and starts without it if it must.
    fn is_local(&self) -> bool {
        false
    }

    /// The holder of a credential.
    ///
    /// # Errors
    /// [`Unavailable`](super::StoreErrorKind::Unavailable): nothing is known; callers answer 503, never 401.
    async fn resolve(&self, credential: &CredentialId) -> Result<Option<ResolvedKey>, StoreError>;

    /// Changes after `position`; waits for one for up to about a second and then gives none.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve); the caller asks again from the same position.
    async fn changes(&self, position: FeedPosition) -> Result<Changes, StoreError>;

    /// The position after the last change.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    async fn position(&self) -> Result<FeedPosition, StoreError>;

    /// The fingerprint of the pepper that keys in here are hashed with: that of the first who asked, `ours` if nobody has yet. A gate with another pepper would
    /// know none of the keys, and make keys that no other node knows.
    ///
    /// A store that keeps none answers `ours`.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    async fn pepper_fingerprint(&self, ours: u64) -> Result<u64, StoreError> {
        Ok(ours)
    }

    /// Notes when secrets were last used: keeps the later instant of the stored and the given one, and is no change of the feed.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve); it may be repeated.
    async fn mark_used(&self, uses: &[LastUse]) -> Result<(), StoreError>;
}
