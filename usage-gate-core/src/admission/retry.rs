//! What requests that repeat each other have in common: the key, its `Idempotency-Key`, method, target and body, as one number.

use sha2::{Digest, Sha256};

use super::Caller;

/// Hashes a request while its body passes.
///
/// A hash, since nothing of a body is kept; 128 bits of SHA-256, since a client could gain by finding two requests that look the same.
#[derive(Clone)]
pub struct RetryHasher(Sha256);

impl std::fmt::Debug for RetryHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetryHasher").finish_non_exhaustive()
    }
}

impl RetryHasher {
    /// Begins with the head: whose key, its `Idempotency-Key`, the method, and the target with its query.
    #[must_use]
    pub fn new(caller: &Caller, idempotency_key: &[u8], method: &str, target: &str) -> Self {
        let mut hash = Sha256::new();
        for part in [caller.key.to_string().as_bytes(), idempotency_key, method.as_bytes(), target.as_bytes()] {
            // With its length: `a` and `bc` are not `ab` and `c`.
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Self(hash)
    }

    /// The next piece of the body.
    pub fn update(&mut self, body: &[u8]) {
        self.0.update(body);
    }

    /// The number, once the body is whole.
    #[must_use]
    pub fn finish(self) -> u128 {
        let digest = self.0.finalize();
        digest.iter().take(16).fold(0, |number, byte| (number << 8) | u128::from(*byte))
    }
}
