//! The text of keys: how it is issued, read and hashed.
//!
//! A key reads `<prefix>_<environment>_<id>_<secret><checksum>`, for example
//! `ug_live_0aB…_…`, in base62:
//!
//! - **id**, 17 digits for 12 bytes: 8 random ones, and 4 of an HMAC of them under the server's [`Pepper`]. A
//!   made-up key is therefore refused without a look-up: one guess in 4 billion gets as far as the store.
//! - **secret**, 32 random digits: 190 bits.
//! - **checksum**, 6 digits: CRC-32 of all before it, for secret scanners and typing errors.
//!
//! Stored is the HMAC-SHA-256 of the whole key under the pepper, which lives outside the database. Not argon2: it is
//! made for passwords, and 190 random bits need no stretching that every request would pay for.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::model::{ALPHABET, Environment, SecretHash, decode_u128, encode_u128};

const ID_DIGITS: usize = 17;
const SECRET_DIGITS: usize = 32;
const CHECKSUM_DIGITS: usize = 6;

/// The public part of a key, by which its stored record is found: 17 base62 digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialId([u8; ID_DIGITS]);

impl CredentialId {
    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Reads what [`as_str`](Self::as_str) gave; `None` for anything else.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let digits: [u8; ID_DIGITS] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_alphanumeric).then_some(Self(digits))
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key as a client presented it, its form checked and nothing else.
#[derive(Clone, Copy)]
pub struct PresentedKey<'a> {
    /// The whole text.
    text: &'a [u8],
    environment: Environment,
    credential: CredentialId,
}

impl<'a> PresentedKey<'a> {
    /// Takes the text apart; `None` if it does not have the form of a key with this prefix.
    ///
    /// The checksum is not computed here but by [`Pepper::authenticates`], which a cached key never reaches.
    #[must_use]
    pub fn parse(prefix: &str, text: &'a [u8]) -> Option<Self> {
        let rest = text.strip_prefix(prefix.as_bytes())?;
        let (environment, rest) = if let Some(rest) = rest.strip_prefix(b"_live_") {
            (Environment::Live, rest)
        } else {
            (Environment::Test, rest.strip_prefix(b"_test_")?)
        };
        if rest.len() != ID_DIGITS + 1 + SECRET_DIGITS + CHECKSUM_DIGITS {
            return None;
        }
        let (id, rest) = rest.split_first_chunk::<ID_DIGITS>()?;
        let (b'_', secret) = rest.split_first()? else {
            return None;
        };
        // To the end whatever comes: so it is done for many digits at once.
        let all_digits = |text: &[u8]| text.iter().fold(true, |all, byte| all & byte.is_ascii_alphanumeric());
        (all_digits(id) & all_digits(secret)).then_some(Self { text, environment, credential: CredentialId(*id) })
    }

    /// The whole text: a secret.
    #[must_use]
    pub const fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The part to look up.
    #[must_use]
    pub const fn credential(&self) -> CredentialId {
        self.credential
    }

    /// What the text says of its environment.
    #[must_use]
    pub const fn environment(&self) -> Environment {
        self.environment
    }

    fn checksum_holds(&self) -> bool {
        self.text.split_last_chunk::<CHECKSUM_DIGITS>().is_some_and(|(body, checksum)| *checksum == checksum_of(body))
    }
}

impl fmt::Debug for PresentedKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PresentedKey").field(&self.credential).finish_non_exhaustive()
    }
}

fn checksum_of(body: &[u8]) -> [u8; CHECKSUM_DIGITS] {
    encode_u128(u128::from(crc32fast::hash(body)))
}

/// A freshly issued key: its text leaves once, the rest is stored.
pub struct IssuedKey {
    /// The whole key, wiped from memory on drop. Show it once; nothing can show it again.
    pub text: Zeroizing<String>,
    /// What it is looked up by.
    pub credential: CredentialId,
    /// What it is compared with.
    pub hash: SecretHash,
    /// How it is shown from now on, such as `ug_live_7Qm2…3dEf`.
    pub hint: String,
}

impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedKey").field("hint", &self.hint).finish_non_exhaustive()
    }
}

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random source gave nothing")]
pub struct NoRandomness;

/// The server's own secret, without which stored hashes are worth nothing and no key can be made up.
///
/// Every node of a cluster needs the same. Losing it makes every key unusable; it belongs into a backup of its own,
/// not beside the database's.
pub struct Pepper {
    ids: Zeroizing<[u8; 32]>,
    secrets: Zeroizing<[u8; 32]>,
}

impl Pepper {
    /// Derives the working keys from 32 or more random bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self {
            ids: Zeroizing::new(hmac(bytes, b"usage-gate key id v1")),
            secrets: Zeroizing::new(hmac(bytes, b"usage-gate key secret v1")),
        }
    }

    /// 32 random bytes to make a pepper of.
    ///
    /// # Errors
    /// [`NoRandomness`] if the system has none to give.
    pub fn generate_bytes() -> Result<Zeroizing<[u8; 32]>, NoRandomness> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(|_| NoRandomness)?;
        Ok(bytes)
    }

    /// Issues a new key.
    ///
    /// ```
    /// # use usage_gate_core::{model::Environment, secret::{Pepper, PresentedKey}};
    /// let pepper = Pepper::new(&[7; 32]);
    /// let issued = pepper.issue("ug", Environment::Live)?;
    /// let presented = PresentedKey::parse("ug", issued.text.as_bytes()).unwrap();
    /// assert!(pepper.authenticates(&presented));
    /// assert!(pepper.matches(&presented, &issued.hash));
    /// # Ok::<(), usage_gate_core::secret::NoRandomness>(())
    /// ```
    ///
    /// # Errors
    /// [`NoRandomness`] if the system has none to give.
    pub fn issue(&self, prefix: &str, environment: Environment) -> Result<IssuedKey, NoRandomness> {
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(|_| NoRandomness)?;
        let mut id_bytes = [0u8; 16];
        id_bytes[4..12].copy_from_slice(&random);
        id_bytes[12..].copy_from_slice(&self.id_tag(random));
        let id = encode_u128::<ID_DIGITS>(u128::from_be_bytes(id_bytes));

        let secret = random_digits::<SECRET_DIGITS>()?;
        let mut text = Zeroizing::new(Vec::with_capacity(prefix.len() + 62));
        text.extend_from_slice(prefix.as_bytes());
        text.push(b'_');
        text.extend_from_slice(environment.as_str().as_bytes());
        text.push(b'_');
        let hint_end = text.len() + 4;
        text.extend_from_slice(&id);
        text.push(b'_');
        text.extend_from_slice(&*secret);
        let checksum = checksum_of(&text);
        text.extend_from_slice(&checksum);

        let hash = SecretHash(hmac(&*self.secrets, &text));
        let text = Zeroizing::new(String::from_utf8_lossy(&text).into_owned());
        let tail = text.len().saturating_sub(4);
        let hint = format!("{}…{}", text.get(..hint_end).unwrap_or_default(), text.get(tail..).unwrap_or_default());
        Ok(IssuedKey { text, credential: CredentialId(id), hash, hint })
    }

    /// Whether this server (or one with the same pepper) issued a key with this id, and the checksum holds.
    ///
    /// Needs no store: what fails here is not looked up.
    #[must_use]
    pub fn authenticates(&self, key: &PresentedKey<'_>) -> bool {
        if !key.checksum_holds() {
            return false;
        }
        let Some(number) = decode_u128(&key.credential.0) else {
            return false;
        };
        let bytes = number.to_be_bytes();
        let ([0, 0, 0, 0], rest) = bytes.split_first_chunk::<4>().map_or(([1; 4], &[][..]), |(a, b)| (*a, b)) else {
            return false;
        };
        let Some((random, tag)) = rest.split_first_chunk::<8>() else {
            return false;
        };
        self.id_tag(*random).ct_eq(tag).into()
    }

    /// Whether the presented key is the one that this hash was stored of; constant time.
    #[must_use]
    pub fn matches(&self, key: &PresentedKey<'_>, stored: &SecretHash) -> bool {
        hmac(&*self.secrets, key.text).ct_eq(&stored.0).into()
    }

    /// A short number by which nodes see that they have the same pepper, without telling it.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let tag = hmac(&*self.ids, b"fingerprint");
        tag.iter().take(8).fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }

    fn id_tag(&self, random: [u8; 8]) -> [u8; 4] {
        let tag = hmac(&*self.ids, &random);
        [tag[0], tag[1], tag[2], tag[3]]
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(…)")
    }
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// Digits without bias: bytes that would favour the first digits are drawn again.
pub(crate) fn random_digits<const N: usize>() -> Result<Zeroizing<[u8; N]>, NoRandomness> {
    let mut digits = Zeroizing::new([0u8; N]);
    let mut pool = Zeroizing::new([0u8; 64]);
    let mut used = pool.len();
    for digit in digits.iter_mut() {
        loop {
            if used == pool.len() {
                getrandom::fill(&mut *pool).map_err(|_| NoRandomness)?;
                used = 0;
            }
            let byte = pool[used];
            used += 1;
            // 248 = 4 x 62
            if byte < 248 {
                *digit = ALPHABET[usize::from(byte % 62)];
                break;
            }
        }
    }
    Ok(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued() -> (Pepper, IssuedKey) {
        let pepper = Pepper::new(&[1; 32]);
        let key = pepper.issue("ug", Environment::Test).unwrap();
        (pepper, key)
    }

    #[test]
    fn a_changed_digit_anywhere_is_refused_without_a_look_up() {
        let (pepper, issued) = issued();
        for at in 0..issued.text.len() {
            let mut text = issued.text.as_bytes().to_vec();
            text[at] = if text[at] == b'x' { b'y' } else { b'x' };
            let refused = PresentedKey::parse("ug", &text).is_none_or(|key| !pepper.authenticates(&key));
            assert!(refused, "digit {at}");
        }
    }

    #[test]
    fn a_made_up_key_with_a_right_checksum_is_not_authentic() {
        let (pepper, _) = issued();
        let stranger = Pepper::new(&[2; 32]).issue("ug", Environment::Live).unwrap();
        let presented = PresentedKey::parse("ug", stranger.text.as_bytes()).unwrap();
        assert!(presented.checksum_holds());
        assert!(!pepper.authenticates(&presented));
    }

    #[test]
    fn the_hash_tells_secrets_of_one_id_apart() {
        let (pepper, first) = issued();
        let (_, second) = issued();
        let presented = PresentedKey::parse("ug", first.text.as_bytes()).unwrap();
        assert_eq!(presented.environment(), Environment::Test);
        assert!(pepper.matches(&presented, &first.hash));
        assert!(!pepper.matches(&presented, &second.hash));
    }

    #[test]
    fn nothing_prints_the_secret() {
        let (pepper, issued) = issued();
        let presented = PresentedKey::parse("ug", issued.text.as_bytes()).unwrap();
        let printed = format!("{pepper:?} {issued:?} {presented:?} {:?}", issued.hash);
        assert!(!printed.contains(&issued.text[26..]), "{printed}");
    }
}
