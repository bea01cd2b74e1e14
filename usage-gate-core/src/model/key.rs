//! Keys: what callers present.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{KeyId, Scope, TenantId, Timestamp, UserId};
use crate::secret::CredentialId;

/// Whether a key's use is real.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Environment {
    /// Billed, limited by quotas.
    Live,
    /// Authenticated and rate limited; never billed, takes no quota.
    Test,
}

impl Environment {
    /// The word in keys and documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }
}

/// Whether a key can be used at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words say it")]
pub enum KeyStatus {
    Active,
    Expired,
    Revoked,
}

impl KeyStatus {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// What is stored of a secret: HMAC-SHA-256 of the whole key under the pepper.
///
/// `Debug` does not show it.
#[derive(Clone, Copy)]
pub struct SecretHash(pub [u8; 32]);

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

/// One secret of a key. A key under rotation has two.
#[derive(Debug, Clone)]
pub struct Secret {
    /// The public part by which it is looked up.
    pub credential: CredentialId,
    /// What the presented key is compared with.
    pub hash: SecretHash,
    /// How it is shown: the beginning and the end of the key.
    pub hint: String,
    /// When it was issued.
    pub created_at: Timestamp,
    /// When it ends; the old secret of a rotation has one.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<Timestamp>,
}

/// An API key of a tenant.
#[derive(Debug, Clone)]
pub struct Key {
    /// Ours; stays through rotation.
    pub id: KeyId,
    /// Whose.
    pub tenant: TenantId,
    /// The user who owns it, if any.
    pub user: Option<UserId>,
    /// For people.
    pub name: String,
    /// Real or test.
    pub environment: Environment,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Its secrets, the newest first; never empty.
    pub secrets: Vec<Secret>,
    /// Where it may be used from; empty for everywhere.
    pub allowed_addresses: Vec<AddressRange>,
    /// When it ends, if it does.
    pub expires_at: Option<Timestamp>,
    /// Set once revoked, for good.
    pub revoked_at: Option<Timestamp>,
    /// What was said about the revocation.
    pub revoke_reason: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Key {
    /// Whether it can be used at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> KeyStatus {
        if self.revoked_at.is_some() {
            KeyStatus::Revoked
        } else if self.expires_at.is_some_and(|end| end <= now) {
            KeyStatus::Expired
        } else {
            KeyStatus::Active
        }
    }

    /// When any of its secrets was last used, to the minute.
    #[must_use]
    pub fn last_used_at(&self) -> Option<Timestamp> {
        self.secrets.iter().filter_map(|secret| secret.last_used_at).max()
    }

    /// How the key is shown: the hint of its newest secret.
    #[must_use]
    pub fn hint(&self) -> &str {
        self.secrets.first().map_or("", |secret| &secret.hint)
    }
}

/// An address or a range of them in CIDR notation.
///
/// ```
/// # use usage_gate_core::model::AddressRange;
/// let range: AddressRange = "10.0.0.0/8".parse()?;
/// assert!(range.contains("10.1.2.3".parse().unwrap()));
/// assert!(range.contains("::ffff:10.1.2.3".parse().unwrap()), "IPv4 written as IPv6 is the same address");
/// assert!("192.0.2.7".parse::<AddressRange>()?.contains("192.0.2.7".parse().unwrap()));
/// # Ok::<(), usage_gate_core::model::ParseAddressRangeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange(ipnet::IpNet);

/// Text that is neither an address nor a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an address or CIDR range such as 192.0.2.0/24 or 2001:db8::/32")]
pub struct ParseAddressRangeError;

impl AddressRange {
    /// Whether the address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Its first and last address.
    pub(crate) fn bounds(&self) -> (IpAddr, IpAddr) {
        (self.0.network(), self.0.broadcast())
    }
}

impl FromStr for AddressRange {
    type Err = ParseAddressRangeError;

    fn from_str(text: &str) -> Result<Self, ParseAddressRangeError> {
        text.parse()
            .or_else(|_| text.parse::<IpAddr>().map(|address| address.to_canonical().into()))
            .map(Self)
            .map_err(|_| ParseAddressRangeError)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}
