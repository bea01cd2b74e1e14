//! The oracle is told the truth, then every lie that a broken gateway could tell: each must be found.

use serde_json::json;

use super::*;
use crate::crash::ledger_view::QuotaUse;

fn ending(id: &str, key: &str, status: u16, end: End) -> Ending {
    Ending {
        id: id.to_owned(),
        tenant: "ten_a".to_owned(),
        key: key.to_owned(),
        line: "GET /plain/7".to_owned(),
        status,
        bytes: 7,
        end,
        code: String::new(),
    }
}

fn record(id: &str, key: &str, status: u16, outcome: &str) -> Record {
    let quota = |counter: &str| QuotaUse { counter: json!(counter), units: 1 };
    let cites = if outcome == "unbilled" { Vec::new() } else { vec![quota("day"), quota(key)] };
    Record {
        stream: json!("s"),
        sequence: 1,
        kind: "record".to_owned(),
        request_id: Some(id.to_owned()),
        tenant: Some("ten_a".to_owned()),
        key: Some(key.to_owned()),
        status: Some(status),
        outcome: outcome.to_owned(),
        units: BTreeMap::from([("requests".to_owned(), 1), ("bytes_out".to_owned(), 7)]),
        quotas: cites,
    }
}

fn standing(name: &str, used: u64, limit: u64) -> Standing {
    Standing { name: name.to_owned(), counted_by: "tenant".to_owned(), limit, used, reserved: 0 }
}

/// A run in which all is well: two completed, one left, one cut, one failed, one without an answer, and units lost at a kill.
fn truth() -> Evidence {
    let all = [
        ("req_1", "key_1", 200, "billed", End::Complete),
        ("req_2", "key_2", 200, "billed", End::Complete),
        ("req_3", "key_1", 200, "aborted", End::Left),
        ("req_4", "key_1", 200, "aborted", End::Cut),
        ("req_5", "key_2", 500, "unbilled", End::Complete),
        ("req_6", "key_2", 0, "indeterminate", End::NoAnswer),
    ];
    let mut evidence = Evidence { kills: 1, in_flight: 1, ..Evidence::default() };
    for (id, key, status, outcome, end) in all {
        let known = if end == End::NoAnswer { "" } else { id };
        evidence.seen.push(Sight { id: id.to_owned(), line: String::new() });
        evidence.endings.push(ending(known, key, status, end));
        evidence.records.push(record(id, key, status, outcome));
        evidence.logged.push(Logged { request_id: Some(id.to_owned()), outcome: outcome.to_owned() });
    }
    evidence.records.push(Record {
        kind: "forfeited".to_owned(),
        request_id: None,
        key: None,
        units: BTreeMap::from([("requests".to_owned(), 3)]),
        quotas: vec![QuotaUse { counter: json!("day"), units: 3 }],
        ..record("", "", 0, "forfeited")
    });
    let sum = |requests, units| Sum { requests, units };
    let sums = [
        ("billed", sum(2, 2)),
        ("aborted", sum(2, 2)),
        ("unbilled", sum(1, 1)),
        ("indeterminate", sum(1, 1)),
        ("forfeited", sum(0, 3)),
        ("refused:quota_exceeded", sum(9, 0)),
    ];
    let sums = sums.map(|(outcome, sum)| (outcome.to_owned(), sum));
    evidence.sums = BTreeMap::from([("ten_a".to_owned(), BTreeMap::from(sums))]);
    evidence.standings = vec![
        ("ten_a".to_owned(), None, standing("day", 8, 10)),
        ("ten_a".to_owned(), Some("key_1".to_owned()), standing("key-day", 3, 5)),
        ("ten_a".to_owned(), Some("key_2".to_owned()), standing("key-day", 2, 5)),
    ];
    evidence
}

#[track_caller]
fn check(lie: impl FnOnce(&mut Evidence), expected: &str) {
    let mut evidence = truth();
    lie(&mut evidence);
    let faults = judge(&evidence).faults;
    assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:?}");
}

#[test]
fn the_truth_passes() {
    assert_eq!(judge(&truth()).faults, Vec::<String>::new());
}

#[test]
fn what_was_lost_is_found() {
    check(|e| e.records.retain(|r| r.request_id.as_deref() != Some("req_1")), "completed for a client and not billed");
    check(|e| e.records[3].outcome = "indeterminate".to_owned(), "begun for a client and not billed");
    check(|e| e.records.retain(|r| r.request_id.as_deref() != Some("req_6")), "seen upstream and not admitted");
    check(|e| e.logged.truncate(5), "in the journal and not in the request log");
    check(|e| e.missing.push("usage-gate verify".to_owned()), "usage-gate verify");
}

#[test]
fn what_was_counted_twice_or_made_up_is_found() {
    check(|e| e.records.push(record("req_1", "key_1", 200, "billed")), "twice or without an id in the journal");
    check(|e| e.seen.push(e.seen[0].clone()), "twice or without an id seen upstream");
    check(|e| e.records.push(record("req_7", "key_1", 200, "billed")), "billed and not seen upstream");
    check(|e| e.logged.push(e.logged[0].clone()), "twice or without an id in the request log");
    check(
        |e| {
            for id in ["req_7", "req_8", "req_9"] {
                e.seen.push(Sight { id: id.to_owned(), line: String::new() });
                e.records.push(record(id, "key_1", 200, "billed"));
            }
        },
        "billed and not completed: 4 requests, more than 2",
    );
    check(
        |e| e.records.extend(["a", "b", "c"].map(|id| record(id, "key_1", 0, "indeterminate"))),
        "admitted and not seen upstream: 3 requests, more than 2",
    );
}

#[test]
fn what_is_recorded_otherwise_than_it_was_is_found() {
    check(|e| e.records[0].outcome = "aborted".to_owned(), "completed and recorded as something else");
    check(|e| e.records[4].outcome = "billed".to_owned(), "not served and not unbilled");
    check(|e| e.records[1].status = Some(201), "another status is recorded than was answered");
    check(|e| e.endings[1].bytes = 8, "completed with other bytes than recorded");
}

#[test]
fn sums_and_counters_that_do_not_add_up_are_found() {
    check(|e| e.sums.values_mut().for_each(|sums| sums.clear()), "sums of ten_a");
    check(|e| e.sums.values_mut().for_each(|sums| sums.clear()), "4 requests were begun for clients, 0 are billed");
    check(|e| e.standings[0].2.used = 9, "limit day of ten_a: 9 used, 8 in records");
    check(|e| e.standings[1].2.used = 2, "limit key-day of key_1: 2 used, 3 in records");
    check(|e| e.records.retain(|r| r.kind == "record"), "limit day of ten_a: 8 used, 5 in records");
    check(|e| e.standings[0].2.limit = 7, "limit day of ten_a is exceeded");
    check(|e| e.standings[1].2.reserved = 3, "limit key-day of key_1 is exceeded");
    check(|e| e.standings[0].2.limit = 1, "limit day of ten_a: 2 completed, 1 allowed");
}
