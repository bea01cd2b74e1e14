//! Portal sessions: a one-time link opens one, for one browser, and it ends by itself.
//!
//! The operator's backend asks for a link for a user it has signed in, and sends the user's browser there at once. The link works once and
//! for 15 minutes. The session that it begins ends after 2 hours without a request, after 12 hours in any case, on sign-out, and when the
//! user or the tenant is deleted: both are read anew for each request, and the role with them. Tokens are 256 random bits; stored is their hash.
//!
//! A user of a suspended tenant may sign in and look, since what there is to see is often why; see [`permissions`](super::Actor).

use http::Uri;
use zeroize::Zeroizing;

use super::{Actor, Invalid, ManagementError, accounts, sessions};
use crate::gate::UsageGate;
use crate::model::{PortalLink, Session, Tenant, Timestamp, TokenHash, User, UserId};
use crate::secret::{NoRandomness, random_digits};
use crate::store::Redemption;

const MINUTE: i64 = 60 * 1_000_000;
/// How long a link waits for its user.
const LINK: i64 = 15 * MINUTE;
/// How long a session goes on without a request.
const IDLE: i64 = 120 * MINUTE;
/// How long a session goes on at most.
const LONGEST: i64 = 12 * 60 * MINUTE;
/// How old the note of a session's last use may get: it is one write a minute and not one a request.
const SEEN_EVERY: i64 = MINUTE;
/// Base62 digits of a token: 256 bits.
const TOKEN_DIGITS: usize = 43;
/// Characters of a way back.
const MOST_URL: usize = 2_048;

/// A link, with the token that is shown this once.
#[derive(Debug)]
pub struct MadeLink {
    /// To be put into a URL; wiped from memory on drop.
    pub token: Zeroizing<String>,
    /// When it opens nothing any more.
    pub expires_at: Timestamp,
}

/// A session that has begun, with the token that its browser keeps.
#[derive(Debug)]
pub struct BegunSession {
    /// For the cookie; wiped from memory on drop.
    pub token: Zeroizing<String>,
    /// Who signed in.
    pub open: OpenSession,
}

/// A session that holds, with its user and tenant as they are now.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OpenSession {
    /// The session.
    pub session: Session,
    /// Who is signed in.
    pub user: User,
    /// Whose.
    pub tenant: Tenant,
}

impl OpenSession {
    /// For whom permissions are asked.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor::new(&self.user, &self.tenant)
    }
}

/// Why a link opens nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// Nobody made it, or it was forgotten, or its user is gone.
    #[error("there is no such link")]
    Unknown,
    /// It was used before.
    #[error("the link was used before: it works once")]
    Used,
    /// Its time has passed.
    #[error("the link is older than 15 minutes")]
    Expired,
    /// It is not known whether it is good.
    #[error(transparent)]
    Management(#[from] ManagementError),
}

/// Makes a link that signs a user in, once.
///
/// `return_url` is where the portal leads back to: an absolute `http` or `https` URL of the operator's.
///
/// # Errors
/// [`ManagementError::Invalid`] on `/user` or `/return_url`, `NoSessions`, `NoAccounts`, `Random`, `Store`.
pub async fn create_portal_link(
    gate: &UsageGate,
    user: UserId,
    return_url: Option<String>,
) -> Result<MadeLink, ManagementError> {
    let sessions = sessions(gate)?;
    let mut invalid = Invalid::default();
    if return_url.as_deref().is_some_and(|url| !leads_back(url)) {
        let detail = "must be an absolute http or https URL such as https://app.example.com/account, of at most 2048 \
                      ASCII characters and without a user in it";
        invalid.add("/return_url", detail);
    }
    if accounts(gate)?.user(user).await?.is_none() {
        invalid.add("/user", "there is no user with this id");
    }
    invalid.into_result()?;
    let now = gate.clock().wall();
    let token = new_token()?;
    let expires_at = now.plus_micros(LINK);
    let link = PortalLink { hash: TokenHash::of(&token), user, return_url, expires_at };
    sessions.create_link(&link, now).await?;
    Ok(MadeLink { token, expires_at })
}

/// Uses a link up and begins a session with a token of its own: whatever a browser had before is not taken over.
///
/// # Errors
/// [`LinkError`]; after `Management` the outcome is unknown, and the user asks for another link.
pub async fn redeem_portal_link(gate: &UsageGate, token: &str) -> Result<BegunSession, LinkError> {
    let sessions = sessions(gate)?;
    if !has_form(token) {
        return Err(LinkError::Unknown);
    }
    let now = gate.clock().wall();
    let begun = new_token().map_err(ManagementError::from)?;
    let redemption =
        sessions.redeem_link(TokenHash::of(token), TokenHash::of(&begun), now, now.plus_micros(LONGEST)).await;
    let session = match redemption.map_err(ManagementError::from)? {
        Redemption::Begun(session) => session,
        Redemption::Used => return Err(LinkError::Used),
        Redemption::Expired => return Err(LinkError::Expired),
        Redemption::Unknown => return Err(LinkError::Unknown),
    };
    match present(gate, session).await? {
        Some(open) => Ok(BegunSession { token: begun, open }),
        None => Err(LinkError::Unknown),
    }
}

/// The session of a token, if it holds; notes that it was used.
///
/// # Errors
/// `NoSessions`, `NoAccounts`, `Store`.
pub async fn session(gate: &UsageGate, token: &str) -> Result<Option<OpenSession>, ManagementError> {
    let sessions = sessions(gate)?;
    if !has_form(token) {
        return Ok(None);
    }
    let now = gate.clock().wall();
    let Some(found) = sessions.session(TokenHash::of(token)).await? else { return Ok(None) };
    if found.ends_at <= now || found.last_seen_at.plus_micros(IDLE) <= now {
        return Ok(None);
    }
    let unseen = found.last_seen_at.plus_micros(SEEN_EVERY) <= now;
    let hash = found.hash;
    let Some(open) = present(gate, found).await? else { return Ok(None) };
    if unseen && let Err(error) = sessions.mark_seen(hash, now).await {
        // The request is served all the same: at worst the session ends some minutes early.
        tracing::warn!(error = &error as &dyn std::error::Error, "the use of a session was not noted");
    }
    Ok(Some(open))
}

/// Ends the session of a token and gives what it was; `None` if there is none.
///
/// # Errors
/// `NoSessions`, `Store`: it may go on; ask again.
pub async fn end_session(gate: &UsageGate, token: &str) -> Result<Option<Session>, ManagementError> {
    let sessions = sessions(gate)?;
    if !has_form(token) {
        return Ok(None);
    }
    Ok(sessions.end_session(TokenHash::of(token)).await?)
}

/// With user and tenant as they are now; `None` if one of them is deleted.
async fn present(gate: &UsageGate, session: Session) -> Result<Option<OpenSession>, ManagementError> {
    let accounts = accounts(gate)?;
    let Some(user) = accounts.user(session.user).await? else { return Ok(None) };
    let Some(tenant) = accounts.tenant(user.tenant).await? else { return Ok(None) };
    Ok(Some(OpenSession { session, user, tenant }))
}

/// What has not the form of a token is not looked up.
fn has_form(token: &str) -> bool {
    token.len() == TOKEN_DIGITS && token.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn new_token() -> Result<Zeroizing<String>, NoRandomness> {
    let digits = random_digits::<TOKEN_DIGITS>()?;
    Ok(Zeroizing::new(str::from_utf8(&*digits).unwrap_or_default().to_owned()))
}

/// Whether a browser can be sent there: nothing that runs in our page (`javascript:`), nothing relative, nothing that breaks a header.
fn leads_back(url: &str) -> bool {
    let Ok(parsed) = url.parse::<Uri>() else { return false };
    // Only what a host and a port are made of: it stands in the page's policy, where a semicolon would begin another rule.
    let plain = |authority: &str| authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    let host = parsed.authority().is_some_and(|authority| !authority.host().is_empty() && plain(authority.as_str()));
    host && matches!(parsed.scheme_str(), Some("http" | "https"))
        && url.len() <= MOST_URL
        && url.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_back_is_an_absolute_web_address() {
        for good in ["https://app.example.com", "http://localhost:3000/account?tab=keys#top", "https://[::1]/a"] {
            assert!(leads_back(good), "{good}");
        }
        let long = format!("https://a.example/{}", "a".repeat(MOST_URL));
        for bad in [
            "",
            "/account",
            "//evil.example",
            "javascript:alert(1)",
            "data:text/html,x",
            "ftp://a.example/",
            "https://",
            "https:///path",
            "https://bank.example@evil.example/",
            "https://a.example;script-src-elem*/",
            "https://a.example,b.example/",
            "https://a.example/\r\nset-cookie: a=b",
            "https:\\\\evil.example",
            "https://a.example/ü",
            "a.example",
            &long,
        ] {
            assert!(!leads_back(bad), "{bad}");
        }
    }

    #[test]
    fn tokens_are_long_and_differ() {
        let (a, b) = (new_token().unwrap(), new_token().unwrap());
        assert_eq!(a.len(), TOKEN_DIGITS);
        assert_ne!(*a, *b);
    }
}
