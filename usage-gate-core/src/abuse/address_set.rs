//! Addresses by range, found by binary search: a list of thousands of ranges costs a request no more than one of ten.

use std::net::IpAddr;

use crate::model::AddressRange;

/// The first and last address of each range, ascending and apart. IPv4 sorts before IPv6, and no range has both.
#[derive(Debug, Default)]
pub(crate) struct AddressSet(Box<[(IpAddr, IpAddr)]>);

impl AddressSet {
    pub(crate) fn new(ranges: &[AddressRange]) -> Self {
        let mut bounds: Vec<(IpAddr, IpAddr)> = ranges.iter().map(AddressRange::bounds).collect();
        bounds.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        // Of two ranges in CIDR notation one contains the other, or they are apart; the larger one sorts first.
        bounds.dedup_by(|next, before| next.1 <= before.1);
        Self(bounds.into())
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        // Most gates have no list.
        if self.0.is_empty() {
            return false;
        }
        let address = address.to_canonical();
        let after = self.0.partition_point(|(first, _)| *first <= address);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| address <= *last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few enough bits that ranges nest and addresses hit them.
    fn address(wide: bool, bits: u32) -> IpAddr {
        if wide { IpAddr::V6((u128::from(bits) << 96).into()) } else { IpAddr::V4(bits.into()) }
    }

    proptest! {
        #[test]
        fn the_set_agrees_with_its_ranges(
            ranges in prop::collection::vec((any::<bool>(), 0u32..64, 0u8..=8), 0..20),
            addresses in prop::collection::vec((any::<bool>(), 0u32..64, 0u32..4), 1..50),
        ) {
            let ranges: Vec<AddressRange> = ranges
                .into_iter()
                .map(|(wide, top, prefix)| format!("{}/{prefix}", address(wide, top << 26)).parse().unwrap())
                .collect();
            let set = AddressSet::new(&ranges);
            for (wide, top, low) in addresses {
                let address = address(wide, (top << 26) | low);
                prop_assert_eq!(set.contains(address), ranges.iter().any(|range| range.contains(address)));
            }
        }
    }

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        let set = AddressSet::new(&["10.0.0.0/8".parse().unwrap(), "2001:db8::7".parse().unwrap()]);
        assert!(set.contains("::ffff:10.1.2.3".parse().unwrap()));
        assert!(set.contains("2001:db8::7".parse().unwrap()));
        assert!(!set.contains("11.0.0.0".parse().unwrap()) && !set.contains("2001:db8::8".parse().unwrap()));
    }
}
