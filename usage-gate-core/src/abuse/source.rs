//! What counts as one source, and where a table of fixed size keeps it.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use crate::secret::NoRandomness;

/// An address as limits and the guard count it: IPv4 whole, also where it is written as IPv6, and IPv6 by its /64, which is what one
/// subscriber gets and can choose freely in.
pub(crate) fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let bits = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(bits.into())
        }
        v4 => v4,
    }
}

/// Spreads sources over the sets of a table, under random keys of this process: nobody can choose addresses that meet in one set.
#[derive(Clone, Copy)]
pub(crate) struct SourceHash(u64, u64);

impl SourceHash {
    pub(crate) fn random() -> Result<Self, NoRandomness> {
        let mut halves = [[0u8; 8]; 2];
        for half in &mut halves {
            getrandom::fill(half).map_err(|_| NoRandomness)?;
        }
        Ok(Self(u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1])))
    }

    /// The place of a source in a table.
    pub(crate) fn place<'t, T>(&self, source: IpAddr, table: &'t [T]) -> Option<&'t T> {
        let mut hasher = SipHasher13::new_with_keys(self.0, self.1);
        source.hash(&mut hasher);
        let places = u64::try_from(table.len()).ok()?;
        let at = hasher.finish().checked_rem(places)?;
        table.get(usize::try_from(at).ok()?)
    }
}

impl std::fmt::Debug for SourceHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SourceHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_counts_whole_and_ipv6_by_its_64() {
        for (address, source) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
            ("::1", "::"),
        ] {
            assert_eq!(source_of(address.parse().unwrap()).to_string(), source, "{address}");
        }
    }
}
