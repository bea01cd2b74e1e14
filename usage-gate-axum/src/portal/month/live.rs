//! What changes while the page is open: how the limits stand, and as of when.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderName, StatusCode};
use sha2::{Digest, Sha256};
use usage_gate_core::management::{limit_view_as, usage_as};
use usage_gate_core::model::Plan;
use usage_gate_core::period::{Period, bucket_start};
use usage_gate_core::store::UsageQuery;
use usage_gate_tower::problem;

use super::days::AsOf;
use super::limits::{LimitRow, Notice};
use crate::portal::frame::{self, Taste};
use crate::portal::locale::{Dates, Html, Words};
use crate::portal::message::{self, Trouble};
use crate::portal_state::PortalState;
use crate::session::SignedIn;

/// The limits as a fragment of the page.
#[derive(Debug, Template)]
#[template(path = "live.html")]
pub(crate) struct Live {
    w: &'static Words,
    /// Where to ask again: the address carries what is shown.
    again: String,
    notice: Option<Notice>,
    rows: Vec<LimitRow>,
    as_of: AsOf,
    seen: String,
}

impl Live {
    pub(crate) async fn load(
        state: &PortalState,
        signed_in: &SignedIn,
        plan: &Plan,
        dates: &Dates,
        taste: Taste,
        as_of: AsOf,
    ) -> Result<Self, Trouble> {
        let (gate, actor, language) = (state.gate(), signed_in.actor(), taste.language);
        let now = gate.clock().wall();
        let view = limit_view_as(gate, &actor, None, None).await?;
        let states = gate.limit_states(&signed_in.tenant, plan, view).await?;
        let mut rows = Vec::with_capacity(states.len());
        let mut digest = Sha256::new_with_prefix(as_of.class);
        for one in &states {
            digest.update(problem::limit_state(one).to_string());
            rows.push(LimitRow::new(one, language, dates, now));
        }
        // Once a minute what is told in minutes is told anew.
        digest.update(dates.time(now));
        let seen: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            w: language.words(),
            again: state.path(&format!("/month/live?seen={seen}")),
            notice: Notice::of(&states, language, dates),
            rows,
            as_of,
            seen,
        })
    }

    /// Since when, to stand in the head of the page; `swap` if it is sent beside the fragment to take the place of the one there.
    pub(crate) fn as_of(&self, swap: bool) -> Html {
        self.as_of.html(swap)
    }
}

/// `GET month/live?seen=…`: the fragment; 204 if what was seen is still so.
pub(crate) async fn live(State(state): State<PortalState>, parts: Parts) -> Response {
    let taste = Taste::of(&parts);
    match fragment(&state, taste, &parts).await {
        Ok(Some(html)) => message::fragment(html),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        // The page is asked for anew, and says that the session has ended.
        Err(Trouble::SignedOut) => {
            (StatusCode::NO_CONTENT, [(HeaderName::from_static("hx-refresh"), "true")]).into_response()
        }
        // What is shown stays; the next time it may be there again.
        Err(trouble) => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            if trouble.is_worth_a_log() {
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            }
            response
        }
    }
}

async fn fragment(state: &PortalState, taste: Taste, parts: &Parts) -> Result<Option<String>, Trouble> {
    let signed_in = SignedIn::find(state, parts).await?;
    let (gate, tenant) = (state.gate(), &signed_in.tenant);
    // The limits are of this moment whether usage can be shipped or not; the mark says how old usage is.
    crate::usage::freshen(gate).await;
    let now = gate.clock().wall();
    let dates = frame::dates(&signed_in, taste.language, now);
    let plan = signed_in.plan(gate).await?;
    // Of this hour only: what is wanted is how far usage reaches.
    let zone = tenant.calendar.zone_at(now).clone();
    let hour = Period { start: bucket_start(&zone, now), end: now.plus_micros(1) };
    let query =
        UsageQuery { tenant: Some(tenant.id), meter: Some("requests".into()), size: 1, ..UsageQuery::new(hour, zone) };
    let reach = usage_as(gate, &signed_in.actor(), query).await?;
    let as_of = AsOf::of(reach.complete_through, now, &dates, taste.language);
    let live = Live::load(state, &signed_in, &plan, &dates, taste, as_of).await?;
    let seen =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).find(|(name, _)| name == "seen");
    if seen.is_some_and(|(_, seen)| seen == live.seen) {
        return Ok(None);
    }
    Ok(Some(format!("{live}{}", live.as_of(true))))
}
