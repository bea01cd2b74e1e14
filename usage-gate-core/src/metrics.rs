//! Metric names, and the handles of a gate, taken once when it is built.
//!
//! Through the `metrics` facade: without a recorder they cost next to nothing. Never a tenant or key id as a label.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::admission::Code;
use crate::routes::{RouteIndex, Routes};
use crate::store::Outcome;

const OUTCOMES: [Outcome; 5] =
    [Outcome::Billed, Outcome::Unbilled, Outcome::Aborted, Outcome::Indeterminate, Outcome::Test];

/// Handles of one gate.
pub(crate) struct Metrics {
    served: Box<[[Counter; 5]]>,
    routes: Box<[std::sync::Arc<str>]>,
    gate_duration: Histogram,
    lookups: [Counter; 4],
    lease_calls: [[Counter; 2]; 3],
    leased: Gauge,
    records: Counter,
    unshipped: Gauge,
    journal_bytes: Gauge,
    flush_duration: Histogram,
    seats: Gauge,
    flush_failures: Counter,
    undeclared: Counter,
    abuse: [Counter; 4],
}

/// Whom units are leased from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LeaseStore {
    Quotas,
    /// Rates whose authority forgets nothing.
    Rates,
    VolatileRates,
}

impl LeaseStore {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Quotas => "quotas",
            Self::Rates => "rates",
            Self::VolatileRates => "volatile_rates",
        }
    }
}

/// What the guard did about a source.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AbuseAction {
    /// Counted a bad credential.
    Observed,
    /// Put the source into the penalty box.
    Boxed,
    /// Refused a request of a source that is in it.
    Blocked,
    /// Refused a request of an address on the deny list.
    Denied,
}

/// How a look-up of a caller went.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lookup {
    Hit,
    Filled,
    Unknown,
    Failed,
}

impl Metrics {
    pub(crate) fn new(routes: &Routes) -> Self {
        let served = routes.iter().map(|route| {
            OUTCOMES.map(|outcome| {
                counter!("usage_gate_requests_total", "route" => route.name.to_string(), "outcome" => outcome.as_str())
            })
        });
        Self {
            served: served.collect(),
            routes: routes.iter().map(|route| std::sync::Arc::clone(&route.name)).collect(),
            gate_duration: histogram!("usage_gate_gate_duration_seconds"),
            lookups: ["hit", "filled", "unknown", "failed"]
                .map(|result| counter!("usage_gate_key_lookups_total", "result" => result)),
            lease_calls: [LeaseStore::Quotas, LeaseStore::Rates, LeaseStore::VolatileRates].map(|store| {
                ["error", "ok"].map(
                    |result| counter!("usage_gate_lease_calls_total", "store" => store.as_str(), "result" => result),
                )
            }),
            leased: gauge!("usage_gate_leased_units"),
            records: counter!("usage_gate_journal_records_total"),
            unshipped: gauge!("usage_gate_journal_unshipped_records"),
            journal_bytes: gauge!("usage_gate_journal_bytes"),
            flush_duration: histogram!("usage_gate_flush_duration_seconds"),
            seats: gauge!("usage_gate_seats"),
            flush_failures: counter!("usage_gate_store_errors_total", "store" => "usage"),
            undeclared: counter!("usage_gate_undeclared_meter_total"),
            abuse: [
                ("bad_credentials", "observed"),
                ("bad_credentials", "boxed"),
                ("bad_credentials", "blocked"),
                ("deny_list", "denied"),
            ]
            .map(|(signal, action)| counter!("usage_gate_abuse_total", "signal" => signal, "action" => action)),
        }
    }

    pub(crate) fn served(&self, route: RouteIndex, outcome: Outcome) {
        let at = OUTCOMES.iter().position(|known| *known == outcome).unwrap_or(0);
        if let Some(counter) = self.served.get(route.position()).and_then(|counters| counters.get(at)) {
            counter.increment(1);
        }
    }

    /// A refusal is not on the common path: the handle is looked up.
    pub(crate) fn refused(&self, route: Option<RouteIndex>, code: Code) {
        let route = route.and_then(|route| self.routes.get(route.position())).map_or("", |name| name);
        let outcome = format!("refused:{}", code.as_str());
        counter!("usage_gate_requests_total", "route" => route.to_owned(), "outcome" => outcome).increment(1);
    }

    /// A request that was served without a record.
    pub(crate) fn unrecorded(&self, route: RouteIndex) {
        let route = self.routes.get(route.position()).map_or("", |name| name);
        counter!("usage_gate_unrecorded_requests_total", "route" => route.to_owned()).increment(1);
    }

    pub(crate) fn gate_took(&self, nanos: u64) {
        // Histograms are of seconds; a gate that takes 49 days does not need to be exact.
        self.gate_duration.record(f64::from(u32::try_from(nanos).unwrap_or(u32::MAX)) * 1e-9);
    }

    pub(crate) fn looked_up(&self, lookup: Lookup) {
        let at = match lookup {
            Lookup::Hit => 0,
            Lookup::Filled => 1,
            Lookup::Unknown => 2,
            Lookup::Failed => 3,
        };
        if let Some(counter) = self.lookups.get(at) {
            counter.increment(1);
        }
    }

    pub(crate) fn lease_call(&self, store: LeaseStore, ok: bool) {
        if let Some(counter) = self.lease_calls.get(store as usize).and_then(|calls| calls.get(usize::from(ok))) {
            counter.increment(1);
        }
    }

    /// Units of quotas that are leased here and not spent.
    pub(crate) fn leased(&self, units: u64) {
        self.leased.set(f64::from(u32::try_from(units).unwrap_or(u32::MAX)));
    }

    pub(crate) fn recorded(&self, records: usize) {
        self.records.increment(u64::try_from(records).unwrap_or(u64::MAX));
    }

    pub(crate) fn flushed(&self, ok: bool, nanos: u64) {
        self.flush_duration.record(f64::from(u32::try_from(nanos).unwrap_or(u32::MAX)) * 1e-9);
        if !ok {
            self.flush_failures.increment(1);
        }
    }

    pub(crate) fn gauges(&self, seats: usize, unshipped: u64, journal_bytes: u64) {
        let number = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        self.seats.set(number(u64::try_from(seats).unwrap_or(u64::MAX)));
        self.unshipped.set(number(unshipped));
        // Kibibytes fit 32 bits up to 4 TiB, and are exact as a float.
        self.journal_bytes.set(number(journal_bytes / 1_024) * 1_024.0);
    }

    pub(crate) fn abuse(&self, action: AbuseAction) {
        let at = match action {
            AbuseAction::Observed => 0,
            AbuseAction::Boxed => 1,
            AbuseAction::Blocked => 2,
            AbuseAction::Denied => 3,
        };
        if let Some(counter) = self.abuse.get(at) {
            counter.increment(1);
        }
    }

    pub(crate) fn undeclared_meter(&self) {
        self.undeclared.increment(1);
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics(…)")
    }
}
