//! The month: how the limits stand, what was used day by day, what was refused.

mod chart;
mod days;
mod limits;
mod live;
mod question;
mod refusals;
mod series;

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::request::Parts;
use usage_gate_core::UsageGate;
use usage_gate_core::management::{self, Actor, ManagementError, keys_as};
use usage_gate_core::model::{Plan, TenantStatus};
use usage_gate_core::store::PageRequest;

pub(crate) use live::live;

use super::frame::{Frame, Taste};
use super::locale::{Dates, Html};
use super::message::{self, Trouble};
use super::meter::heading;
use days::{AsOf, Days, Members};
use live::Live;
use question::{By, Question};
use refusals::Refusals;

use crate::portal_state::PortalState;
use crate::session::SignedIn;

#[derive(Template)]
#[template(path = "month.html")]
struct MonthPage {
    f: Frame,
    title: String,
    period: String,
    from_to: Html,
    left: String,
    before: Option<(String, String)>,
    after: Option<(String, String)>,
    running: bool,
    suspended: bool,
    live: Live,
    meters: Vec<Choice>,
    bys: Vec<Choice>,
    d: Days,
    csv: String,
    json: String,
    file: String,
    curl: String,
    print: bool,
    refusals: Refusals,
    refused_of: String,
    mostly: Vec<String>,
}

/// A link that chooses what is shown.
#[derive(Debug)]
struct Choice {
    href: String,
    text: String,
    current: bool,
}

/// What the address of the page says.
#[derive(Debug, Clone)]
struct View {
    period: Option<String>,
    meter: String,
    by: By,
    print: bool,
}

impl View {
    /// What cannot be read falls back: an old bookmark shows the present month, not an error.
    fn of(parts: &Parts) -> Self {
        let mut view = Self { period: None, meter: "requests".into(), by: By::Key, print: false };
        for (name, value) in form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            match &*name {
                "period" => view.period = Some(value.into_owned()),
                "meter" => view.meter = value.into_owned(),
                "by" => view.by = By::ALL.into_iter().find(|by| by.as_str() == value).unwrap_or(view.by),
                "print" => view.print = true,
                _ => {}
            }
        }
        view
    }

    fn href(&self, prefix: &str) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(period) = &self.period {
            query.append_pair("period", period);
        }
        if self.meter != "requests" {
            query.append_pair("meter", &self.meter);
        }
        if self.by != By::Key {
            query.append_pair("by", self.by.as_str());
        }
        match query.finish() {
            query if query.is_empty() => format!("{prefix}/month"),
            query => format!("{prefix}/month?{query}"),
        }
    }
}

/// `GET month`.
pub(crate) async fn show(State(state): State<PortalState>, parts: Parts) -> Response {
    let taste = Taste::of(&parts);
    match page(&state, taste, &parts).await {
        Ok(page) => message::html(http::StatusCode::OK, &page, page.f.way_back()),
        Err(trouble) => message::show(&state, &parts, &trouble).await,
    }
}

async fn page(state: &PortalState, taste: Taste, parts: &Parts) -> Result<MonthPage, Trouble> {
    let signed_in = SignedIn::find(state, parts).await?;
    let (gate, view, language) = (state.gate(), View::of(parts), taste.language);
    let (tenant, now) = (&signed_in.tenant, gate.clock().wall());
    // What ended before the page was asked for is in it; a sink that is away leaves it as old as it says.
    crate::usage::freshen(gate).await;

    let periods = management::periods(tenant, now);
    let at =
        view.period.as_ref().and_then(|wanted| periods.iter().position(|period| period.name == *wanted)).unwrap_or(0);
    let Some((name, period)) = periods.get(at).map(|shown| (&shown.name, shown.period)) else {
        return Err(Trouble::NotFound);
    };
    let previous = management::month_before(&tenant.calendar, period);
    let zone = tenant.calendar.zone_at(period.start).clone();
    let dates = Dates::new(language, zone.clone(), now);
    let plan = signed_in.plan(gate).await?;
    let meters = meters(gate, &plan);
    let meter = if meters.contains(&view.meter) { view.meter.clone() } else { "requests".to_owned() };
    let question = Question { actor: signed_in.actor(), zone, period, previous, meter, by: view.by, now };

    let answer = question.ask(gate).await?;
    let keys = key_names(gate, &question.actor).await?;
    let sees_all = question.actor.sees_usage() == management::Reach::All;
    let members = Members { keys: &keys, routes: gate.routes(), by: view.by, sees_all, language };
    let days = Days::of(&question, &answer, &members, &dates);
    let refusals = Refusals::of(&answer.calls, language);
    let mostly = refusals.rows.iter().map(|row| match &row.mostly {
        Some(key) => keys.get(key).unwrap_or(key).clone(),
        None => language.words().foreign_keys.to_owned(),
    });
    let as_of = AsOf::of(answer.complete_through, now, &dates, language);
    let live = Live::load(state, &signed_in, &plan, &dates, taste, as_of).await?;

    let frame = Frame::of(state, taste, "month", &view.href(&state.options().prefix), &signed_in, &dates);
    let link = |to: usize| {
        let period = periods.get(to)?;
        let there = View { period: (to > 0).then(|| period.name.clone()), ..view.clone() };
        Some((there.href(&frame.prefix), dates.neighbour(period.period)))
    };
    let before = link(at + 1);
    let after = at.checked_sub(1).and_then(link);
    let title = dates.period(period);
    let running = question.is_running();
    Ok(MonthPage {
        title: language.title(&title, &frame.brand),
        period: title,
        from_to: language.between(
            &dates.day_and_time(period.start),
            &dates.day_and_time(period.end),
            &dates,
            &dates.offset(period.start),
        ),
        left: if running { language.time_left(&dates.in_time(period.end)) } else { language.over_now().to_owned() },
        before,
        after,
        running,
        suspended: tenant.status == TenantStatus::Suspended,
        live,
        meters: meters
            .into_iter()
            .map(|meter| Choice {
                current: meter == question.meter,
                text: heading(&meter, language),
                href: View { meter, ..view.clone() }.href(&frame.prefix),
            })
            .collect(),
        bys: By::ALL
            .into_iter()
            .map(|by| Choice {
                current: by == view.by,
                text: match by {
                    By::Key => language.words().key,
                    By::Route => language.words().route,
                    By::Outcome => language.words().outcome,
                }
                .to_owned(),
                href: View { by, ..view.clone() }.href(&frame.prefix),
            })
            .collect(),
        csv: file(&frame.prefix, &question, "csv"),
        json: file(&frame.prefix, &question, "json"),
        file: format!("{}-{name}", question.meter),
        curl: super::curl(state, "YOUR_KEY"),
        print: view.print,
        refused_of: language.refused_of(refusals.refused, refusals.calls),
        mostly: mostly.collect(),
        refusals,
        d: days,
        f: frame,
    })
}

/// Meters that the plan limits or prices, and those that the operator named. Bytes and milliseconds are always counted, and shown only to
/// whom they matter.
fn meters(gate: &UsageGate, plan: &Plan) -> Vec<String> {
    const MEASURED: [&str; 5] = ["bytes_in", "bytes_out", "duration_ms", "input_tokens", "output_tokens"];
    let matters = |meter: &str| {
        plan.limits.iter().any(|limit| limit.meter == meter)
            || plan.prices.iter().any(|price| price.meter.as_deref() == Some(meter))
    };
    let names = gate.meters().iter().map(|(_, name)| name).filter(|name| matters(name) || !MEASURED.contains(name));
    names.map(ToOwned::to_owned).collect()
}

/// Names of the keys that may be told apart; a bound on how many are read, not a page.
async fn key_names(gate: &UsageGate, actor: &Actor) -> Result<BTreeMap<String, String>, ManagementError> {
    const MOST_PAGES: usize = 10;
    let mut names = BTreeMap::new();
    let mut request = PageRequest { after: None, size: 200 };
    for _ in 0..MOST_PAGES {
        let page = keys_as(gate, actor, None, &request).await?;
        request.after = page.items.last().map(|key| key.id.to_string());
        names.extend(page.items.into_iter().map(|key| (key.id.to_string(), key.name)));
        if !page.more {
            break;
        }
    }
    Ok(names)
}

/// The address of the same numbers as a file.
fn file(prefix: &str, question: &Question, format: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("from", &question.period.start.to_string())
        .append_pair("to", &question.period.end.to_string())
        .append_pair("window", "day")
        .append_pair("time_zone", question.zone.name())
        .append_pair("group_by", question.by.as_str())
        .append_pair("meter", &question.meter)
        .append_pair("environment", "live")
        .append_pair("format", format);
    if format == "json" {
        query.append_pair("page_size", "200");
    }
    format!("{prefix}/v1/usage?{}", query.finish())
}
