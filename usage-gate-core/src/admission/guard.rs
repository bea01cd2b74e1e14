//! Step 2: is this source shut out?

use std::net::IpAddr;

use super::{Code, Refusal};
use crate::model::AddressRange;

/// Addresses that are denied, by configuration. The penalty box for guessers takes its place here.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    pub(crate) denied: Box<[AddressRange]>,
}

impl Guard {
    pub(crate) fn check(&self, client: Option<IpAddr>) -> Option<Refusal> {
        if self.denied.is_empty() {
            return None;
        }
        let client = client?;
        let denied = self.denied.iter().any(|range| range.contains(client));
        denied.then(|| Refusal::new(Code::AbuseBlocked, "requests from this address are not served"))
    }
}
