//! The words of the product as plain types: who calls, what they may do, how much they may use.
//!
//! Nothing here does I/O or reads a clock. The structs are plain data with public fields, because stores and
//! web layers build them from rows and documents; rules about them live in [`management`](crate::management).

mod admin_token;
mod base62;
mod id;
mod key;
mod limit;
mod meter;
mod plan;
mod scope;
mod session;
mod tenant;
mod time;
mod user;

pub use admin_token::{AdminRole, AdminToken};
pub(crate) use base62::{ALPHABET, decode_u128, encode_u128};
pub(crate) use id::number;
pub use id::{KeyId, ParseIdError, RequestId, StreamId, TenantId, UserId};
pub use key::{AddressRange, Environment, Key, KeyStatus, ParseAddressRangeError, Secret, SecretHash};
pub use limit::{CountedBy, Limit, LimitKind, Per, StoreAway, WhenExceeded};
pub use meter::{MAX_METERS, MeterIndex, Meters, MetersError};
pub use plan::Plan;
pub use scope::{ParseScopeError, Scope};
pub use session::{PortalLink, Session, TokenHash};
pub use tenant::{Tenant, TenantStatus};
pub use time::{ParseTimestampError, Timestamp};
pub use user::{Role, User};
