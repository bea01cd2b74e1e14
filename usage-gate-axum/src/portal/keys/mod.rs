//! Keys: which work, when they were last used, what ends soon; make, change, rotate, revoke.

mod create;
mod edit;
mod form;
mod revoke;
mod rotate;
mod row;
mod sent;

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use usage_gate_core::UsageGate;
use usage_gate_core::management::{Actor, ManagementError, grantable_scopes, key_as, keys_as, usage_as};
use usage_gate_core::model::{Key, KeyId, Per, Tenant, UserId};
use usage_gate_core::store::{Dimension, PageRequest, UsageQuery};

use super::frame::{self, Frame, Taste};
use super::message::{self, Trouble};
use crate::portal_state::PortalState;
use crate::session::SignedIn;
use form::KeyForm;
use row::Row;

pub(crate) use create::create;
pub(crate) use edit::{change, edit};
pub(crate) use revoke::{ask_to_revoke, revoke};
pub(crate) use rotate::{ask_to_rotate, rotate};
pub(crate) use sent::SentForms;

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage {
    f: Frame,
    title: String,
    explained: String,
    count: String,
    issued: Option<Issued>,
    sent_already: bool,
    rows: Vec<Row>,
    more: Option<String>,
    more_text: &'static str,
    form: Option<KeyForm>,
}

#[derive(Template)]
#[template(path = "key_page.html")]
struct KeyPage {
    f: Frame,
    title: String,
    head: String,
    explained: &'static str,
    body: String,
}

/// A secret, shown this once.
struct Issued {
    head: String,
    text: String,
    curl: String,
}

/// What a list of keys is shown with.
#[derive(Default)]
struct Extras {
    issued: Option<(Key, zeroize::Zeroizing<String>)>,
    sent_already: bool,
    form: Option<KeyForm>,
}

/// Keys on a page.
const PAGE: usize = 100;

/// `GET keys`.
pub(crate) async fn list(State(state): State<PortalState>, parts: Parts) -> Response {
    let signed_in = match SignedIn::find(&state, &parts).await {
        Ok(signed_in) => signed_in,
        Err(reason) => return message::show(&state, &parts, &reason.into()).await,
    };
    let query = parts.uri.query().unwrap_or_default();
    let after =
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "after").map(|(_, value)| value.into_owned());
    show(&state, &parts, &signed_in, after, StatusCode::OK, Extras::default()).await
}

/// The page with the list, and what has just happened on top of it.
async fn show(
    state: &PortalState,
    parts: &Parts,
    signed_in: &SignedIn,
    after: Option<String>,
    status: StatusCode,
    extras: Extras,
) -> Response {
    match page(state, Taste::of(parts), signed_in, after, extras).await {
        Ok(page) => message::html(status, &page, page.f.way_back()),
        Err(trouble) => message::show(state, parts, &trouble).await,
    }
}

async fn page(
    state: &PortalState,
    taste: Taste,
    signed_in: &SignedIn,
    after: Option<String>,
    extras: Extras,
) -> Result<KeysPage, Trouble> {
    let (gate, actor, language) = (state.gate(), signed_in.actor(), taste.language);
    let (tenant, now) = (&signed_in.tenant, gate.clock().wall());
    let dates = frame::dates(signed_in, language, now);
    // Who bookmarks a page of a list whose cursor is of another list begins at its start.
    let after = after.filter(|cursor| cursor.parse::<KeyId>().is_ok());
    let keys = keys_as(gate, &actor, None, &PageRequest { after, size: PAGE }).await?;
    let used = used_this_period(gate, tenant, &actor).await?;
    let owners = owners(gate, &keys.items).await?;
    let mut rows: Vec<Row> = keys
        .items
        .iter()
        .map(|key| {
            let owner = key.user.and_then(|user| owners.get(&user));
            Row::new(key, owner, used.get(&key.id.to_string()).copied().unwrap_or(0), &actor, language, &dates, now)
        })
        .collect();
    // What is gone for good stands below what is not; otherwise the order is that of creation.
    rows.sort_by_key(|row| row.gone);
    let form = match (extras.form, actor.may_create()) {
        (Some(form), _) => Some(form),
        (None, Ok(())) => {
            let plan = signed_in.plan(gate).await?;
            Some(KeyForm::to_create(state, language, &dates, &grantable_scopes(gate, &plan), now))
        }
        (None, Err(_)) => None,
    };
    let f = Frame::of(state, taste, "keys", &state.path("/keys"), signed_in, &dates);
    let more = keys.items.last().filter(|_| keys.more).map(|last| format!("{}/keys?after={}", f.prefix, last.id));
    Ok(KeysPage {
        title: language.title(f.w.keys, &f.brand),
        explained: language.keys_explained(&f.brand, &tenant.name),
        count: language.key_count(rows.len()),
        issued: extras.issued.map(|(key, text)| Issued {
            head: language.copy_now(&key.name),
            curl: super::curl(state, &text),
            text: text.to_string(),
        }),
        sent_already: extras.sent_already,
        more_text: f.w.more_keys,
        rows,
        more,
        form,
        f,
    })
}

/// Calls of the running period, by key.
async fn used_this_period(
    gate: &UsageGate,
    tenant: &Tenant,
    actor: &Actor,
) -> Result<BTreeMap<String, u64>, ManagementError> {
    let now = gate.clock().wall();
    crate::usage::freshen(gate).await;
    let query = UsageQuery {
        group_by: [Dimension::Key].into(),
        tenant: Some(tenant.id),
        meter: Some("requests".into()),
        size: 100_000,
        ..UsageQuery::new(tenant.calendar.period(Per::Month, now), tenant.calendar.zone_at(now).clone())
    };
    let page = usage_as(gate, actor, query).await?;
    let of_key = |item: usage_gate_core::store::UsageItem| {
        let key = item.group.into_iter().find_map(|(_, key)| key)?;
        Some((key, item.units))
    };
    Ok(page.items.into_iter().filter_map(of_key).collect())
}

/// Names of the users that own these keys.
async fn owners(gate: &UsageGate, keys: &[Key]) -> Result<BTreeMap<UserId, String>, ManagementError> {
    let mut owners = BTreeMap::new();
    let Some(accounts) = gate.accounts() else { return Ok(owners) };
    for user in keys.iter().filter_map(|key| key.user) {
        if let std::collections::btree_map::Entry::Vacant(place) = owners.entry(user)
            && let Some(user) = accounts.user(user).await?
        {
            place.insert(user.name);
        }
    }
    Ok(owners)
}

/// Who asks, and the key that a path names, if they see it.
async fn seen(state: &PortalState, parts: &Parts, id: &str) -> Result<(SignedIn, Key), Trouble> {
    let signed_in = SignedIn::find(state, parts).await?;
    let id: KeyId = id.parse().map_err(|_| Trouble::NotFound)?;
    let key = key_as(state.gate(), &signed_in.actor(), id).await?;
    Ok((signed_in, key))
}

/// A page about one key.
fn one(
    state: &PortalState,
    taste: Taste,
    signed_in: &SignedIn,
    head: String,
    explained: &'static str,
    body: &impl Template,
) -> Result<Response, Trouble> {
    let now = state.gate().clock().wall();
    let dates = frame::dates(signed_in, taste.language, now);
    let f = Frame::of(state, taste, "keys", &state.path("/keys"), signed_in, &dates);
    let body = body.render().map_err(|_| Trouble::Away)?;
    let page = KeyPage { title: taste.language.title(&head, &f.brand), head, explained, body, f };
    Ok(message::html(StatusCode::OK, &page, page.f.way_back()))
}
