//! Plans: drafts are checked as a whole, every fault with its place.

use std::collections::HashSet;

use super::{Invalid, ManagementError, accounts};
use crate::gate::UsageGate;
use crate::model::{CountedBy, Limit, LimitKind, Meters, Per, Plan, StoreAway, WhenExceeded};
use crate::price::{Price, PriceModel, Tier};
use crate::store::Changed;

/// A limit as it is asked for; what is left out gets its default.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the members are those of `Limit`")]
pub struct LimitDraft {
    pub name: String,
    pub kind: LimitKind,
    pub meter: Option<String>,
    pub units: u64,
    pub per: Option<Per>,
    pub burst: Option<u64>,
    pub counted_by: Option<CountedBy>,
    pub routes: Option<Vec<String>>,
    pub when_exceeded: Option<WhenExceeded>,
    pub store_away: Option<StoreAway>,
}

impl LimitDraft {
    /// A limit with every default; set what differs.
    ///
    /// ```
    /// # use usage_gate_core::{management::LimitDraft, model::{LimitKind, Per}};
    /// let month = LimitDraft { per: Some(Per::Month), ..LimitDraft::new("month", LimitKind::Quota, 1_000) };
    /// assert_eq!(month.meter, None, "requests");
    /// ```
    #[must_use]
    pub fn new(name: impl Into<String>, kind: LimitKind, units: u64) -> Self {
        Self {
            name: name.into(),
            kind,
            meter: None,
            units,
            per: None,
            burst: None,
            counted_by: None,
            routes: None,
            when_exceeded: None,
            store_away: None,
        }
    }
}

/// A plan as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the members are those of `Plan`")]
pub struct PlanDraft {
    pub id: String,
    pub name: String,
    pub currency: Option<String>,
    pub limits: Vec<LimitDraft>,
    pub prices: Vec<Price>,
    pub scopes: Option<Vec<String>>,
}

impl PlanDraft {
    /// A plan with these limits and no prices, named as its id.
    #[must_use]
    pub fn new(id: impl Into<String>, limits: Vec<LimitDraft>) -> Self {
        let id = id.into();
        Self { name: id.clone(), id, currency: None, limits, prices: Vec::new(), scopes: None }
    }
}

/// Whom a new version of a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Apply {
    /// Every tenant on the plan, at once; use is kept.
    #[default]
    Now,
    /// Tenants that subscribe from here on.
    NewOnly,
}

/// Limits and prices of one plan.
const ENTRIES: usize = 50;
/// A quota's units.
const MOST_UNITS: u64 = 1_000_000_000_000_000;
/// A rate's units and burst.
const MOST_RATE: u64 = 1_000_000_000;

/// Makes a plan.
///
/// # Errors
/// [`ManagementError::Invalid`] with every fault, `Conflict` on `id`, `Store`.
pub async fn create_plan(gate: &UsageGate, draft: PlanDraft) -> Result<Plan, ManagementError> {
    let plan = checked(gate, draft)?;
    accounts(gate)?.create_plan(&plan).await?;
    Ok(plan)
}

/// Makes the next version of a plan.
///
/// # Errors
/// As [`create_plan`], and `NotFound`.
pub async fn replace_plan(gate: &UsageGate, draft: PlanDraft, apply: Apply) -> Result<Plan, ManagementError> {
    let mut plan = checked(gate, draft)?;
    let version = accounts(gate)?.replace_plan(&plan, apply == Apply::Now).await?;
    plan.version = version.ok_or(ManagementError::NotFound("plan"))?;
    if apply == Apply::Now {
        // Every tenant on the plan is touched; which, the feed will tell. Here and now nothing old may be left.
        gate.changed(&Changed::All);
    }
    Ok(plan)
}

fn checked(gate: &UsageGate, draft: PlanDraft) -> Result<Plan, Invalid> {
    let mut invalid = Invalid::default();
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if draft.id.is_empty() || draft.id.len() > 64 || !draft.id.bytes().all(word) {
        invalid.add("/id", "must be 1 to 64 of a-z, 0-9, _ and -");
    }
    let name = super::fields::name(&draft.name, "/name", &mut invalid);
    let currency = draft.currency.unwrap_or_else(|| "USD".to_owned());
    if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) {
        invalid.add("/currency", "must be an ISO 4217 code such as USD");
    }
    for (pointer, entries) in [("/limits", draft.limits.len()), ("/prices", draft.prices.len())] {
        if entries > ENTRIES {
            invalid.add(pointer, format!("must have at most {ENTRIES} entries"));
        }
    }
    let mut names = HashSet::new();
    let mut limits = Vec::with_capacity(draft.limits.len());
    for (at, limit) in draft.limits.into_iter().enumerate().take(ENTRIES) {
        if !names.insert(limit.name.clone()) {
            invalid.add(format!("/limits/{at}/name"), "is the name of an earlier limit: names are unique in a plan");
        }
        limits.push(check_limit(limit, at, gate.meters(), &mut invalid));
    }
    for (at, price) in draft.prices.iter().enumerate().take(ENTRIES) {
        check_price(price, at, gate.meters(), &mut invalid);
    }
    let scopes = draft.scopes.map(|texts| super::fields::scopes(&texts, &mut invalid));
    invalid.into_result()?;
    let created_at = gate.clock().wall();
    Ok(Plan { id: draft.id, version: 1, name, currency, limits, prices: draft.prices, scopes, created_at })
}

fn check_limit(draft: LimitDraft, at: usize, meters: &Meters, invalid: &mut Invalid) -> Limit {
    let pointer = |member: &str| format!("/limits/{at}/{member}");
    let word = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if draft.name.is_empty() || draft.name.len() > 64 || !draft.name.bytes().all(word) {
        invalid.add(pointer("name"), "must be 1 to 64 of letters, digits, _, . and -");
    }
    let meter = draft.meter.unwrap_or_else(|| "requests".to_owned());
    check_meter(&meter, &pointer("meter"), meters, invalid);
    let most = if draft.kind == LimitKind::Quota { MOST_UNITS } else { MOST_RATE };
    if draft.units == 0 {
        invalid.add(pointer("units"), "must be at least 1");
    } else if draft.units > most {
        invalid.add(pointer("units"), format!("must be at most {most}"));
    }
    match (draft.kind, draft.per) {
        (LimitKind::Rate, Some(Per::Second | Per::Minute | Per::Hour)) => {}
        (LimitKind::Rate, _) => invalid.add(pointer("per"), "must be second, minute or hour for a rate"),
        (LimitKind::Quota, Some(Per::Day | Per::Week | Per::Month | Per::Year)) => {}
        (LimitKind::Quota, _) => invalid.add(pointer("per"), "must be day, week, month or year for a quota"),
        (LimitKind::Concurrency, None) => {}
        (LimitKind::Concurrency, Some(_)) => invalid.add(pointer("per"), "must be left out for concurrency"),
    }
    if draft.kind == LimitKind::Concurrency && meter != "requests" {
        invalid.add(pointer("meter"), "must be requests for concurrency");
    }
    match (draft.kind, draft.burst) {
        (LimitKind::Rate, Some(0)) => invalid.add(pointer("burst"), "must be at least 1"),
        (LimitKind::Rate, Some(burst)) if burst > MOST_RATE => {
            invalid.add(pointer("burst"), format!("must be at most {MOST_RATE}"));
        }
        (LimitKind::Quota | LimitKind::Concurrency, Some(_)) => {
            invalid.add(pointer("burst"), "is for rates only: leave it out");
        }
        _ => {}
    }
    if draft.kind != LimitKind::Quota && draft.when_exceeded == Some(WhenExceeded::Allow) {
        invalid.add(pointer("when_exceeded"), "allow is for quotas only");
    }
    if draft.routes.as_ref().is_some_and(Vec::is_empty) {
        invalid.add(pointer("routes"), "must name a route; leave it out for all routes");
    }
    let quota = draft.kind == LimitKind::Quota;
    Limit {
        name: draft.name,
        kind: draft.kind,
        meter,
        units: draft.units,
        per: draft.per,
        burst: draft.burst.unwrap_or(draft.units),
        counted_by: draft.counted_by.unwrap_or(if quota { CountedBy::Tenant } else { CountedBy::Key }),
        routes: draft.routes,
        when_exceeded: draft.when_exceeded.unwrap_or_default(),
        store_away: draft.store_away.unwrap_or(if quota { StoreAway::Exact } else { StoreAway::Share }),
    }
}

fn check_meter(meter: &str, pointer: &str, meters: &Meters, invalid: &mut Invalid) {
    if meters.index(meter).is_none() {
        let known: Vec<&str> = meters.iter().map(|(_, name)| name).collect();
        invalid.add(pointer, format!("is not a declared meter: use one of {} or declare it", known.join(", ")));
    }
}

fn check_price(price: &Price, at: usize, meters: &Meters, invalid: &mut Invalid) {
    let pointer = |member: &str| format!("/prices/{at}/{member}");
    match (&price.model, &price.meter) {
        (PriceModel::Flat { .. }, None) => {}
        (PriceModel::Flat { .. }, Some(_)) => invalid.add(pointer("meter"), "must be left out for a flat fee"),
        (_, None) => invalid.add(pointer("meter"), "is missing: name the meter whose units are charged"),
        (_, Some(meter)) => check_meter(meter, &pointer("meter"), meters, invalid),
    }
    match &price.model {
        PriceModel::Graduated { tiers } | PriceModel::Volume { tiers } => check_tiers(tiers, at, invalid),
        PriceModel::Package { package_units: 0, .. } => invalid.add(pointer("package_units"), "must be at least 1"),
        PriceModel::Package { .. } | PriceModel::PerUnit { .. } | PriceModel::Flat { .. } => {}
    }
}

fn check_tiers(tiers: &[Tier], at: usize, invalid: &mut Invalid) {
    let pointer = |tier: usize| format!("/prices/{at}/tiers/{tier}/up_to");
    let Some((last, before)) = tiers.split_last() else {
        invalid.add(format!("/prices/{at}/tiers"), "must have at least one tier");
        return;
    };
    let mut reached = 0;
    for (tier, step) in before.iter().enumerate() {
        match step.up_to {
            Some(up_to) if up_to > reached => reached = up_to,
            Some(_) => invalid.add(pointer(tier), format!("must be above {reached}, where the tier before ends")),
            None => invalid.add(pointer(tier), "must be a number: only the last tier has no end"),
        }
    }
    if last.up_to.is_some() {
        invalid.add(pointer(tiers.len() - 1), "must be null: the last tier has no end");
    }
}
