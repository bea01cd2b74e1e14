//! `GET /admin/v1/usage`: sums of rollups as JSON or CSV.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};
use usage_gate_core::UsageGate;
use usage_gate_core::model::{Environment, KeyId, Per, TenantId, Timestamp, UserId};
use usage_gate_core::period::{AnchorDay, Calendar, Period, Zone};
use usage_gate_core::store::{Dimension, UsageItem, UsageQuery, Window};

use super::accounts;
use crate::answer::{Problem, ok};
use crate::page;
use crate::parameters::Parameters;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
}

pub(super) async fn read(State(gate): State<UsageGate>, mut parameters: Parameters) -> Result<Response, Problem> {
    let tenant: Option<TenantId> = parameters.parsed("tenant");
    let format = parameters.word("format", &[("json", Format::Json), ("csv", Format::Csv)]).unwrap_or(Format::Json);
    let (from, to): (Option<Timestamp>, Option<Timestamp>) = (parameters.parsed("from"), parameters.parsed("to"));
    let zone: Option<Zone> = parameters.parsed("time_zone");
    let windows = [("hour", Window::Hour), ("day", Window::Day), ("month", Window::Month)];
    let window = parameters.word("window", &windows);
    let environments = [("live", Environment::Live), ("test", Environment::Test)];
    let group_by = group_by(&mut parameters);
    let mut query = UsageQuery {
        period: Period { start: Timestamp::default(), end: Timestamp::default() },
        zone: Zone::UTC,
        window,
        group_by,
        tenant,
        user: parameters.parsed::<UserId>("user"),
        key: parameters.parsed::<KeyId>("key"),
        route: parameters.text("route"),
        meter: parameters.text("meter"),
        outcome: parameters.text("outcome"),
        environment: parameters.word("environment", &environments),
        skip: parameters.parsed::<usize>("cursor").unwrap_or(0),
        size: page::page_size(&mut parameters),
    };
    parameters.finish()?;

    let calendar = match tenant {
        None => Calendar::new(Zone::UTC, AnchorDay::FIRST),
        Some(id) => accounts(&gate)?.tenant(id).await?.ok_or_else(|| Problem::not_found("tenant"))?.calendar,
    };
    let now = gate.clock().wall();
    let current = calendar.period(Per::Month, now);
    query.zone = zone.unwrap_or_else(|| calendar.zone_at(now).clone());
    query.period = Period { start: from.unwrap_or(current.start), end: to.unwrap_or(current.end) };
    if query.period.start >= query.period.end {
        return Err(Problem::invalid("/from", "must be before `to`"));
    }
    // What ended before the question is in the answer; a sink that is away leaves it as old as `complete_through` says.
    if let Err(error) = gate.ship().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "usage is answered as it was last shipped");
    }
    let reader = gate.reader().ok_or_else(|| Problem::not_found("usage reader"))?;
    if format == Format::Csv {
        // A file is whole or of no use: pages are joined.
        query.size = 1_000_000;
        query.skip = 0;
    }
    let answer = reader.usage(&query).await?;
    if format == Format::Csv {
        return Ok(([(CONTENT_TYPE, "text/csv; charset=utf-8")], csv(&answer.items, &query.group_by)).into_response());
    }
    let cursor = answer.more.then(|| (query.skip + answer.items.len()).to_string());
    Ok(ok(&json!({
        "items": answer.items.iter().map(item).collect::<Vec<_>>(),
        "next_cursor": cursor,
        "from": query.period.start,
        "to": query.period.end,
        "time_zone": query.zone.name(),
        "as_of": now,
        "complete_through": answer.complete_through,
    })))
}

fn group_by(parameters: &mut Parameters) -> BTreeSet<Dimension> {
    let Some(text) = parameters.text("group_by") else { return BTreeSet::new() };
    let mut dimensions = BTreeSet::new();
    for word in text.split(',').map(str::trim) {
        match Dimension::ALL.iter().find(|dimension| dimension.as_str() == word) {
            Some(dimension) => {
                dimensions.insert(*dimension);
            }
            None => {
                let known: Vec<&str> = Dimension::ALL.iter().map(|dimension| dimension.as_str()).collect();
                parameters.fault("group_by", format!("must be a list of {}", known.join(", ")));
                break;
            }
        }
    }
    dimensions
}

fn item(item: &UsageItem) -> Value {
    let mut members = Map::new();
    members.insert("start".into(), item.period.start.to_string().into());
    members.insert("end".into(), item.period.end.to_string().into());
    members.insert("meter".into(), item.meter.as_str().into());
    members.insert("units".into(), item.units.into());
    members.insert("requests".into(), item.requests.into());
    for (dimension, value) in &item.group {
        members.insert(dimension.as_str().into(), value.clone().into());
    }
    Value::Object(members)
}

/// RFC 4180, with the columns of the JSON items.
fn csv(items: &[UsageItem], group_by: &BTreeSet<Dimension>) -> String {
    let mut text = String::from("start,end,meter,units,requests");
    for dimension in group_by {
        let _ = write!(text, ",{}", dimension.as_str());
    }
    text.push_str("\r\n");
    for item in items {
        let _ =
            write!(text, "{},{},{},{},{}", item.period.start, item.period.end, item.meter, item.units, item.requests);
        for (_, value) in &item.group {
            let value = value.as_deref().unwrap_or_default();
            if value.contains([',', '"', '\r', '\n']) {
                let _ = write!(text, ",\"{}\"", value.replace('"', "\"\""));
            } else {
                let _ = write!(text, ",{value}");
            }
        }
        text.push_str("\r\n");
    }
    text
}
