//! Numbered invariants of the protocols, asserted where they could break.

/// Checks an invariant by its number: panics in tests and debug builds; in production a breach is counted and logged,
/// and the caller goes on the safe way, since a gate that falls over is worse than one refusal.
macro_rules! invariant {
    ($id:ident, $holds:expr) => {{
        let holds = $holds;
        debug_assert!(holds, concat!("invariant ", stringify!($id), " is broken"));
        if !holds {
            ::metrics::counter!("usage_gate_invariant_breaches_total", "invariant" => stringify!($id)).increment(1);
            ::tracing::error!(invariant = stringify!($id), "invariant is broken");
        }
        holds
    }};
}

pub(crate) use invariant;
