//! `usage-gate verify`: whether the books say what was recorded. Only reads, beside a server or without.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use usage_gate_core::journal::{Item, entries, in_flight};
use usage_gate_core::model::TenantId;
use usage_gate_core::period::{AnchorDay, Calendar, Period, PeriodName, Zone};
use usage_gate_core::store::{AccountStore, Audit, AuditQuery, CounterAudit, PageRequest, QuotaUse, UsageReader};
use usage_gate_core::verify::{Comparison, Difference, UnderWay, UnderWayReport, VerifyReport};

use super::journal::Server;
use super::{say, table};
use crate::node::Books;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A month or a day by its local start, such as 2026-11 or 2026-11-15
    #[arg(long, value_name = "PERIOD")]
    period: PeriodName,
    /// Only this tenant
    #[arg(long, value_name = "ID")]
    tenant: Option<TenantId>,
    #[command(flatten)]
    server: Server,
    /// Print JSON, for machines
    #[arg(long)]
    json: bool,
}

/// Ledger, records and seats are read one after the other: what was under way in between settles, a real difference does not.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(400);

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let period = arguments.period.to_string();
    let (loaded, folder) = arguments.server.load()?;
    let books = Books::look(&loaded).await?;
    let period_of_all = span(&*books.accounts, &arguments.period, arguments.tenant).await?;
    let query = AuditQuery { period: period_of_all, tenant: arguments.tenant };
    let reader = &books.reader;
    let mut report = look(&**reader, &folder, &query).await?;
    for _ in 1..LOOKS {
        if report.ok {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        report = look(&**reader, &folder, &query).await?;
    }
    if arguments.json {
        print_json(&report, &period)?
    } else {
        print(&report, &period)?
    }
    if !report.ok {
        bail!("the books do not say what was recorded: differences: {}", total(&report));
    }
    Ok(())
}

/// The time that has this name for every tenant: each has its own calendar.
async fn span(accounts: &dyn AccountStore, name: &PeriodName, only: Option<TenantId>) -> anyhow::Result<Period> {
    let mut span: Option<Period> = None;
    let mut page = PageRequest { after: None, size: 200 };
    loop {
        let tenants = accounts.tenants(None, &page).await?;
        for tenant in tenants.items.iter().filter(|tenant| only.is_none_or(|only| only == tenant.id)) {
            let period = name.of(&tenant.calendar);
            span =
                Some(span.map_or(period, |span| Period {
                    start: span.start.min(period.start),
                    end: span.end.max(period.end),
                }));
        }
        page.after = tenants.items.last().map(|tenant| tenant.id.to_string());
        if !tenants.more {
            break;
        }
    }
    Ok(span.unwrap_or_else(|| name.of(&Calendar::new(Zone::UTC, AnchorDay::FIRST))))
}

async fn look(reader: &dyn UsageReader, folder: &Path, query: &AuditQuery) -> anyhow::Result<VerifyReport> {
    // The books first: the journal then has at least as much.
    let audit = reader.audit(query).await?;
    let (folder, query) = (folder.to_owned(), *query);
    // The whole journal is read.
    tokio::task::spawn_blocking(move || compare(&folder, &query, &audit)).await?
}

fn compare(folder: &Path, query: &AuditQuery, audit: &Audit) -> anyhow::Result<VerifyReport> {
    let shown = || folder.display().to_string();
    let mut held = in_flight(folder).with_context(shown)?;
    let mut comparison = Comparison::new(query, audit);
    let mut entries = entries(folder).with_context(shown)?;
    for entry in entries.by_ref() {
        let entry = entry.with_context(shown)?;
        comparison.take(&entry);
        // What is recorded and not taken in yet is under way too.
        let taken_in = audit.watermarks.get(&entry.stream).is_some_and(|watermark| entry.sequence <= *watermark);
        if let (false, Item::Record(record)) = (taken_in, &entry.item) {
            held.extend(&record.quotas);
        }
    }
    Ok(comparison.finish(entries.segments(), |counter| under_way(counter, &held)))
}

/// What a running server has under way of a counter; nothing, after it ended well.
fn under_way(counter: &CounterAudit, held: &[QuotaUse]) -> UnderWay {
    let of_counter = held.iter().filter(|used| used.counter == counter.tag && used.period == counter.period_start);
    let (mut not_recorded, mut given_back) = (0_u64, 0_u64);
    for used in of_counter {
        // What a lease got back is taken out of the sum of records by one of their own.
        let side = if used.units < 0 { &mut given_back } else { &mut not_recorded };
        *side = side.saturating_add(used.units.unsigned_abs());
    }
    let not_reported = counter.open_size.saturating_sub(counter.open_used).saturating_add(given_back);
    UnderWay { not_recorded, not_reported }
}

fn total(report: &VerifyReport) -> u64 {
    u64::try_from(report.differences.len()).unwrap_or(u64::MAX).saturating_add(report.more_differences)
}

fn print_json(report: &VerifyReport, period: &str) -> anyhow::Result<()> {
    let mut members = Map::new();
    members.insert("period".into(), period.into());
    members.insert("from".into(), report.period.start.to_string().into());
    members.insert("to".into(), report.period.end.to_string().into());
    if let Value::Object(rest) = json!(report) {
        members.extend(rest.into_iter().filter(|(name, _)| name != "period"));
    }
    Ok(say(format_args!("{:#}", Value::Object(members)))?)
}

fn print(report: &VerifyReport, period: &str) -> anyhow::Result<()> {
    let VerifyReport { records, source, .. } = report;
    let verdict = if report.ok { "ok" } else { "NOT ok" };
    say(format_args!(
        "{verdict}: {period}: {records} records compared; segments of the journal: {}, gone and known by digest: {}",
        source.records.len(),
        source.digest.len()
    ))?;
    for counter in &report.under_way {
        say(under_way_line(counter))?;
    }
    if !report.differences.is_empty() {
        let rows: Vec<Value> = report.differences.iter().map(row).collect();
        let columns = [
            ("KIND", "kind"),
            ("TENANT", "tenant"),
            ("METER", "meter"),
            ("BUCKET", "bucket"),
            ("OF", "of"),
            ("EXPECTED", "expected"),
            ("FOUND", "found"),
        ];
        table::print(&rows, false, &columns)?;
    }
    Ok(())
}

fn under_way_line(counter: &UnderWayReport) -> String {
    let UnderWayReport { counter, not_recorded, not_reported, written_off } = counter;
    let mut line =
        format!("under way: {counter}: at most {not_recorded} units not recorded yet, {not_reported} not reported yet");
    if *written_off > 0 {
        line += &format!(", {written_off} counted as used because nobody knew what was left of their leases");
    }
    line
}

fn row(difference: &Difference) -> Value {
    json!(difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_off_is_told() {
        let mut report = UnderWayReport { counter: "c".to_owned(), not_recorded: 1, not_reported: 2, written_off: 0 };
        let line = under_way_line(&report);
        assert_eq!(line, "under way: c: at most 1 units not recorded yet, 2 not reported yet");
        report.written_off = 3;
        let more = ", 3 counted as used because nobody knew what was left of their leases";
        assert_eq!(under_way_line(&report), format!("{line}{more}"));
    }
}
