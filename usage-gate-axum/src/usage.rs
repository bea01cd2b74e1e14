//! Questions about usage, as operators and users ask them: parameters in, sums as JSON or CSV out.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::{Map, Value, json};
use usage_gate_core::UsageGate;
use usage_gate_core::model::{Environment, KeyId, Per, TenantId, Timestamp, UserId};
use usage_gate_core::period::{Calendar, Period, Zone};
use usage_gate_core::store::{Dimension, UsageItem, UsagePage, UsageQuery, Window};

use crate::answer::{Problem, ok};
use crate::page;
use crate::parameters::Parameters;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
}

/// A question as its parameters have it; what is left out gets its default from a calendar.
#[derive(Debug)]
pub(crate) struct Question {
    format: Format,
    from: Option<Timestamp>,
    to: Option<Timestamp>,
    zone: Option<Zone>,
    query: UsageQuery,
}

/// A question with every default filled in.
#[derive(Debug)]
pub(crate) struct Asked {
    format: Format,
    at: Timestamp,
    pub(crate) query: UsageQuery,
}

impl Question {
    /// Takes every parameter but the tenant; `dimensions` are those by which it may be split.
    pub(crate) fn take(parameters: &mut Parameters, tenant: Option<TenantId>, dimensions: &[Dimension]) -> Self {
        let formats = [("json", Format::Json), ("csv", Format::Csv)];
        let windows = [("hour", Window::Hour), ("day", Window::Day), ("month", Window::Month)];
        let environments = [("live", Environment::Live), ("test", Environment::Test)];
        Self {
            format: parameters.word("format", &formats).unwrap_or(Format::Json),
            from: parameters.parsed("from"),
            to: parameters.parsed("to"),
            zone: parameters.parsed("time_zone"),
            query: UsageQuery {
                period: Period { start: Timestamp::default(), end: Timestamp::default() },
                zone: Zone::UTC,
                window: parameters.word("window", &windows),
                group_by: group_by(parameters, dimensions),
                tenant,
                user: parameters.parsed::<UserId>("user"),
                key: parameters.parsed::<KeyId>("key"),
                route: parameters.text("route"),
                meter: parameters.text("meter"),
                outcome: parameters.text("outcome"),
                environment: parameters.word("environment", &environments),
                skip: parameters.parsed::<usize>("cursor").unwrap_or(0),
                size: page::page_size(parameters),
            },
        }
    }

    /// Fills in what was left out: the current month of the calendar, in its zone.
    pub(crate) fn settle(self, calendar: &Calendar, now: Timestamp) -> Result<Asked, Problem> {
        let current = calendar.period(Per::Month, now);
        let mut query = self.query;
        query.zone = self.zone.unwrap_or_else(|| calendar.zone_at(now).clone());
        query.period = Period { start: self.from.unwrap_or(current.start), end: self.to.unwrap_or(current.end) };
        if query.period.start >= query.period.end {
            return Err(Problem::invalid("/from", "must be before `to`"));
        }
        if self.format == Format::Csv {
            // A file is whole or of no use: pages are joined.
            query.size = MOST_LINES;
            query.skip = 0;
        }
        Ok(Asked { format: self.format, at: now, query })
    }
}

/// Lines of a file, at most.
const MOST_LINES: usize = 1_000_000;

/// Ships what ended before the question, so that it is in the answer; with a sink that is away the answer is as old as `complete_through` says.
pub(crate) async fn freshen(gate: &UsageGate) {
    if let Err(error) = gate.ship().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "usage is answered as it was last shipped");
    }
}

impl Asked {
    /// The answer in the format asked for.
    pub(crate) fn answer(&self, page: &UsagePage) -> Response {
        let query = &self.query;
        if self.format == Format::Csv && page.more {
            let detail =
                format!("the file would have more than {MOST_LINES} lines: ask for a shorter time, or group by less");
            return Problem::invalid("/format", detail).into_response();
        }
        if self.format == Format::Csv {
            let headers = [(CONTENT_TYPE, "text/csv; charset=utf-8"), (CACHE_CONTROL, "no-store")];
            return (headers, csv(&page.items, &query.group_by)).into_response();
        }
        let cursor = page.more.then(|| (query.skip + page.items.len()).to_string());
        ok(&json!({
            "items": page.items.iter().map(item).collect::<Vec<_>>(),
            "next_cursor": cursor,
            "from": query.period.start,
            "to": query.period.end,
            "time_zone": query.zone.name(),
            "as_of": self.at,
            "complete_through": page.complete_through,
        }))
    }
}

fn group_by(parameters: &mut Parameters, known: &[Dimension]) -> BTreeSet<Dimension> {
    let Some(text) = parameters.text("group_by") else { return BTreeSet::new() };
    let mut dimensions = BTreeSet::new();
    for word in text.split(',').map(str::trim) {
        match known.iter().find(|dimension| dimension.as_str() == word) {
            Some(dimension) => {
                dimensions.insert(*dimension);
            }
            None => {
                let known: Vec<&str> = known.iter().map(|dimension| dimension.as_str()).collect();
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
