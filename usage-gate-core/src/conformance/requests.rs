//! What every [`UsageReader`] shows of the request log that its [`UsageSink`] keeps.

use super::usage::{HOUR, Who, batch, midnight, record, who};
use crate::model::{Environment, Meters, RequestId, StreamId, Timestamp};
use crate::store::{
    Batch, Measured, Outcome, RefusalSample, RequestItem, RequestPage, RequestQuery, UsageReader, UsageRecord,
    UsageSink,
};

fn noon() -> Timestamp {
    midnight().plus_micros(12 * HOUR)
}

/// A request so many seconds after noon.
fn served(who: Who, seconds: i64) -> UsageRecord {
    UsageRecord { at: noon().plus_micros(seconds * 1_000_000), ..record(who, midnight()) }
}

fn sample(who: Who, seconds: i64) -> RefusalSample {
    RefusalSample {
        at: noon().plus_micros(seconds * 1_000_000),
        request: RequestId::generate(),
        tenant: who.tenant,
        key: who.key,
        user: who.user,
        environment: Environment::Live,
        route: "search".into(),
        code: "rate_limited".into(),
        status: 429,
        violated: r#"[{"name":"burst"}]"#.to_owned(),
    }
}

async fn page<S: UsageReader>(store: &S, query: &RequestQuery) -> RequestPage {
    store.requests(query).await.expect("the store is there")
}

async fn found<S: UsageReader>(store: &S, query: RequestQuery) -> Vec<RequestId> {
    let page = page(store, &RequestQuery { size: 100, ..query }).await;
    assert_eq!(page.next, None);
    page.items.iter().map(|item| item.request).collect()
}

async fn accept<S: UsageSink>(store: &S, batch: Batch) {
    store.accept(batch).await.expect("the store is there");
}

/// By when they were admitted, in whatever order they ended.
pub async fn requests_are_listed_the_newest_first<S: UsageSink + UsageReader>(store: &S) {
    let (stream, ada, machine) = (StreamId::generate(), who(true), who(false));
    let (old, long, new) = (served(ada, 1), served(machine, -4_000), served(machine, 2));
    accept(store, batch(stream, 1, vec![old.clone()], vec![])).await;
    accept(store, batch(stream, 2, vec![new.clone(), long.clone()], vec![])).await;
    let all = page(store, &RequestQuery { size: 10, ..RequestQuery::default() }).await;
    assert_eq!(all.next, None);
    let expected = |record: &UsageRecord| RequestItem {
        request: record.request,
        at: record.at,
        tenant: record.tenant,
        key: Some(record.key),
        user: record.user,
        route: "search".to_owned(),
        environment: Environment::Live,
        status: 200,
        outcome: "billed".to_owned(),
        measured: Some(Measured::Exact),
        units: vec![("requests".to_owned(), 2), ("bytes_out".to_owned(), 100)],
        violated: None,
    };
    assert_eq!(all.items, [expected(&new), expected(&old), expected(&long)]);
}

/// By each member of the question.
pub async fn requests_are_filtered<S: UsageSink + UsageReader>(store: &S) {
    let (stream, ada, machine) = (StreamId::generate(), who(true), who(false));
    let one = served(ada, 1);
    let other = UsageRecord {
        environment: Environment::Test,
        outcome: Outcome::Test,
        route: "other".into(),
        status: 404,
        measured: Measured::Estimated,
        ..served(machine, 2)
    };
    let forfeited = UsageRecord { outcome: Outcome::Forfeited, ..served(ada, 3) };
    let mut both = batch(stream, 1, vec![one.clone(), other.clone(), forfeited], vec![]);
    both.samples = vec![sample(ada, 0)];
    let refused = both.samples[0].request;
    accept(store, both).await;
    let (one, other, any) = (one.request, other.request, RequestQuery::default);
    assert_eq!(found(store, any()).await, [other, one, refused], "what was forfeited was no request");
    assert_eq!(found(store, RequestQuery { tenant: Some(ada.tenant), ..any() }).await, [one, refused]);
    assert_eq!(found(store, RequestQuery { key: Some(machine.key), ..any() }).await, [other]);
    assert_eq!(found(store, RequestQuery { user: ada.user, ..any() }).await, [one, refused]);
    assert_eq!(found(store, RequestQuery { route: Some("other".to_owned()), ..any() }).await, [other]);
    assert_eq!(found(store, RequestQuery { status: Some(404), ..any() }).await, [other]);
    assert_eq!(found(store, RequestQuery { outcome: Some("billed".to_owned()), ..any() }).await, [one]);
    let outcome = Some("refused:rate_limited".to_owned());
    assert_eq!(found(store, RequestQuery { outcome, ..any() }).await, [refused]);
    assert_eq!(found(store, RequestQuery { environment: Some(Environment::Test), ..any() }).await, [other]);
    assert_eq!(found(store, RequestQuery { request: Some(one.to_string()), ..any() }).await, [one]);
    let second = noon().plus_micros(1_000_000);
    assert_eq!(found(store, RequestQuery { from: Some(second), ..any() }).await, [other, one]);
    assert_eq!(found(store, RequestQuery { to: Some(second), ..any() }).await, [refused]);
}

/// A few of them, once; with a batch that is known already they are not taken again.
pub async fn refusals_are_shown_with_the_limits_that_refused<S: UsageSink + UsageReader>(store: &S) {
    let (stream, ada) = (StreamId::generate(), who(true));
    let mut with_samples = batch(stream, 1, vec![served(ada, 1)], vec![]);
    with_samples.samples = (0..100).map(|seconds| sample(ada, -seconds)).collect();
    accept(store, with_samples.clone()).await;
    accept(store, with_samples.clone()).await;
    let asked = RequestQuery { outcome: Some("refused:rate_limited".to_owned()), size: 200, ..RequestQuery::default() };
    let found = page(store, &asked).await.items;
    assert_eq!(found.len(), Batch::MOST_SAMPLES);
    let first = &with_samples.samples[0];
    assert_eq!((found[0].request, found[0].status, found[0].measured), (first.request, 429, None));
    assert_eq!(found[0].violated.as_ref(), Some(&first.violated));
}

/// New ones in front of it and late ones behind it neither repeat nor hide any.
pub async fn requests_go_on_where_a_part_ended<S: UsageSink + UsageReader>(store: &S) {
    let (stream, ada, machine) = (StreamId::generate(), who(true), who(false));
    let mut first = 1;
    let mut expected = Vec::new();
    for minute in 0..40 {
        let who = if minute % 3 == 0 { ada } else { machine };
        // All of one batch overlap with those of the next, and two are of one instant.
        let records: Vec<_> = [0, 70, 70, 400].map(|seconds| served(who, minute * 60 + seconds)).into();
        expected.extend(records.iter().map(|record| (record.at, record.request)));
        let batch = batch(stream, first, records, vec![]);
        first = batch.last + 1;
        accept(store, batch).await;
    }
    expected.sort_unstable();
    expected.reverse();
    let mut query = RequestQuery { size: 7, ..RequestQuery::default() };
    let mut listed = Vec::new();
    loop {
        let page = page(store, &query).await;
        listed.extend(page.items.iter().map(|item| (item.at, item.request)));
        accept(store, batch(stream, first, vec![served(ada, 9_000)], vec![])).await;
        first += 1;
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(listed, expected);
}

/// By the clock of those that come after them.
pub async fn requests_are_forgotten_after_seven_days<S: UsageSink + UsageReader>(store: &S) {
    let (stream, ada) = (StreamId::generate(), who(true));
    accept(store, batch(stream, 1, vec![served(ada, 1)], vec![])).await;
    let days = |days: i64| noon().plus_micros(days * 24 * HOUR);
    accept(store, Batch::numbered(stream, 2, days(7), Meters::default(), vec![], vec![])).await;
    assert_eq!(found(store, RequestQuery::default()).await.len(), 1);
    accept(store, Batch::numbered(stream, 2, days(8), Meters::default(), vec![], vec![])).await;
    assert_eq!(found(store, RequestQuery::default()).await, []);
}
