//! Random usage of a tenant whose zone changes, and random questions about it: the same for every store that keeps days.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    Batch, Dimension, Measured, MemoryStore, Outcome, RefusalSum, UnitTotals, UsageQuery, UsageRecord, UsageSink,
    Window,
};
use crate::model::{Environment, KeyId, MeterIndex, Meters, Per, RequestId, StreamId, TenantId, Timestamp, UserId};
use crate::period::{AnchorDay, Calendar, Period, Zone, bucket_start};

pub(super) const ZONES: [&str; 5] = ["Asia/Tokyo", "UTC", "Asia/Kolkata", "Australia/Lord_Howe", "America/Santiago"];
const MINUTE: i64 = 60_000_000;
/// Ninety days in which clocks change in Lord Howe and Santiago.
const MINUTES: i64 = 90 * 24 * 60;

fn begin() -> Timestamp {
    "2026-08-20T00:00:00Z".parse().unwrap()
}

pub(super) fn after(minutes: i64) -> Timestamp {
    begin().plus_micros(minutes * MINUTE)
}

/// One thing that happens.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The tenant is known from here on; before, its usage is in hours alone.
    Known,
    /// Usage of a key, at a minute.
    Used { minute: i64, key: usize, kind: u8 },
    /// A change of zone, told at a minute.
    Moved { minute: i64, zone: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Known),
        20 => (0..MINUTES, 0..3usize, 0..4u8).prop_map(|(minute, key, kind)| Step::Used { minute, key, kind }),
        1 => (0..MINUTES, 0..ZONES.len()).prop_map(|(minute, zone)| Step::Moved { minute, zone }),
    ]
}

/// Mostly in order, as time goes, with some that come late.
pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    (prop::collection::vec(step(), 1..60), any::<bool>()).prop_map(|(mut steps, known_at_once)| {
        steps.sort_by_key(|step| match step {
            Step::Known => 0,
            // A minute ending in 7 comes when it comes.
            Step::Used { minute, .. } if minute % 10 == 7 => MINUTES / 2,
            Step::Used { minute, .. } | Step::Moved { minute, .. } => *minute,
        });
        if !known_at_once {
            steps.rotate_left(1);
        }
        steps
    })
}

pub(super) fn question() -> impl Strategy<Value = UsageQuery> {
    let dimensions = prop::collection::btree_set(prop::sample::select(Dimension::ALL.to_vec()), 0..4);
    let window = prop::option::of(prop::sample::select(vec![Window::Hour, Window::Day, Window::Day, Window::Month]));
    let instant = || prop_oneof![-1000..MINUTES + 1000, (0..90i64).prop_map(|day| day * 24 * 60 - 9 * 60)];
    let filters = (any::<bool>(), prop::option::of(0..3usize), any::<bool>(), any::<bool>());
    (dimensions, window, instant(), instant(), 0..ZONES.len(), filters).prop_map(
        |(group_by, window, one, other, zone, (tenant, key, meter, outcome))| UsageQuery {
            period: Period { start: after(one.min(other)), end: after(one.max(other) + 1) },
            zone: ZONES[zone].parse().unwrap(),
            window,
            group_by,
            tenant: tenant.then(|| TenantId::from_u128(1)),
            user: None,
            key: key.map(key_id),
            route: None,
            meter: meter.then(|| "requests".to_owned()),
            outcome: outcome.then(|| "billed".to_owned()),
            environment: None,
            skip: 0,
            size: 10_000,
        },
    )
}

pub(super) fn key_id(number: usize) -> KeyId {
    KeyId::from_u128(100 + number as u128)
}

pub(super) fn batch(first: u64, at: Timestamp, bucket: Timestamp, key: usize, kind: u8) -> Batch {
    let (tenant, user) = (TenantId::from_u128(1), (key > 0).then(|| UserId::from_u128(key as u128)));
    let (mut records, mut refusals) = (Vec::new(), Vec::new());
    if kind == 3 {
        refusals.push(RefusalSum {
            sequence: first,
            tenant,
            user,
            key: key_id(key),
            environment: Environment::Live,
            route: "".into(),
            code: "rate_limited".into(),
            limit: Some("burst".into()),
            requests: 5,
            bucket,
        });
    } else {
        let mut units = UnitTotals::default();
        units.set(MeterIndex::REQUESTS, 2);
        units.set(MeterIndex::BYTES_OUT, u64::from(kind) * 100);
        records.push(UsageRecord {
            sequence: first,
            request: RequestId::generate(),
            at,
            tenant,
            user,
            key: key_id(key),
            environment: if kind == 2 { Environment::Test } else { Environment::Live },
            route: if kind == 1 { "items" } else { "search" }.into(),
            status: 200,
            outcome: if kind == 2 { Outcome::Test } else { Outcome::Billed },
            units,
            measured: Measured::Exact,
            bucket,
            quotas: Vec::new(),
            retry: None,
        });
    }
    let (stream, meters) = (StreamId::from_u128(1), Meters::default());
    Batch { stream, segment: 1, first, last: first, through: at, meters, records, refusals, samples: Vec::new() }
}

/// Plays the steps into a store and into memory, with buckets as the flusher computes them. `keep` keeps the tenant with a calendar: it makes it first, and
/// changes it later.
pub(super) async fn play<S: UsageSink>(
    steps: &[Step],
    store: &S,
    memory: &MemoryStore,
    mut keep: impl AsyncFnMut(TenantId, &Calendar),
) {
    let (tenant, mut first) = (TenantId::from_u128(1), 1);
    let mut calendar = Calendar::new(ZONES[0].parse().unwrap(), AnchorDay::FIRST);
    let mut known = false;
    for step in steps {
        match step {
            Step::Known if known => {}
            Step::Known => {
                keep(tenant, &calendar).await;
                known = true;
            }
            Step::Moved { minute, zone } => {
                calendar = calendar.changed(ZONES[*zone].parse().unwrap(), AnchorDay::FIRST, after(*minute));
                if known {
                    keep(tenant, &calendar).await;
                }
            }
            Step::Used { minute, key, kind } => {
                let at = after(*minute);
                let batch = batch(first, at, bucket_start(calendar.zone_at(at), at), *key, *kind);
                first += 1;
                store.accept(batch.clone()).await.unwrap();
                memory.accept(batch).await.unwrap();
            }
        }
    }
}

/// A month of days by key, as a page asks for it.
pub(super) fn month(tenant: TenantId) -> UsageQuery {
    let zone: Zone = "Asia/Tokyo".parse().unwrap();
    let period = Calendar::new(zone.clone(), AnchorDay::FIRST).period(Per::Month, after(20 * 24 * 60));
    UsageQuery {
        period,
        zone,
        window: Some(Window::Day),
        group_by: BTreeSet::from([Dimension::Key]),
        tenant: Some(tenant),
        user: None,
        key: None,
        route: None,
        meter: Some("requests".to_owned()),
        outcome: None,
        environment: None,
        skip: 0,
        size: 100,
    }
}
