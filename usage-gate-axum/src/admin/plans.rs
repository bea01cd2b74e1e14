//! `/admin/v1/plans`.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use usage_gate_core::UsageGate;
use usage_gate_core::management::{self, Apply, Invalid, LimitDraft, PlanDraft};
use usage_gate_core::model::{CountedBy, LimitKind, Per, StoreAway, WhenExceeded};
use usage_gate_core::price::{Money, Price, PriceModel, Tier};

use super::{PathText, accounts};
use crate::answer::{Problem, json, ok};
use crate::document::Document;
use crate::parameters::Parameters;
use crate::{page, show};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanDocument {
    id: Option<String>,
    name: String,
    currency: Option<String>,
    #[serde(default)]
    limits: Vec<LimitDocument>,
    #[serde(default)]
    prices: Vec<PriceDocument>,
    scopes: Option<Vec<String>>,
    apply: Option<ApplyWord>,
    // Members of a plan as it is shown, so that a plan that was read can be changed and put back.
    version: Option<serde::de::IgnoredAny>,
    created_at: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ApplyWord {
    Now,
    NextPeriod,
    NewOnly,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitDocument {
    name: String,
    kind: LimitKind,
    meter: Option<String>,
    units: u64,
    per: Option<Per>,
    burst: Option<u64>,
    counted_by: Option<CountedBy>,
    routes: Option<Vec<String>>,
    when_exceeded: Option<WhenExceeded>,
    store_away: Option<StoreAway>,
}

/// One struct for all models, because serde's flattening would let unknown members pass.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceDocument {
    meter: Option<String>,
    model: ModelWord,
    amount: Option<Money>,
    unit_price: Option<Money>,
    tiers: Option<Vec<Tier>>,
    package_units: Option<u64>,
    package_price: Option<Money>,
    included_units: Option<u64>,
    minimum: Option<Money>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModelWord {
    Flat,
    PerUnit,
    Graduated,
    Volume,
    Package,
}

pub(super) async fn list(State(gate): State<UsageGate>, mut parameters: Parameters) -> Result<Response, Problem> {
    let request = page::page_request::<String>(&mut parameters);
    parameters.finish()?;
    let plans = accounts(&gate)?.plans(&request).await?;
    let shown = plans.items.iter().map(show::plan).collect();
    Ok(ok(&page::document(&plans, shown, |plan| plan.id.clone())))
}

pub(super) async fn create(
    State(gate): State<UsageGate>,
    Document(document): Document<PlanDocument>,
) -> Result<Response, Problem> {
    let Some(id) = document.id.clone() else {
        return Err(Problem::invalid("/id", "is missing: name the plan, such as starter"));
    };
    if document.apply.is_some() {
        return Err(Problem::invalid("/apply", "is for changes (PUT): a new plan has nobody on it"));
    }
    let plan = management::create_plan(&gate, draft(document, id)?).await?;
    Ok(json(StatusCode::CREATED, &show::plan(&plan)))
}

pub(super) async fn read(State(gate): State<UsageGate>, PathText(id): PathText) -> Result<Response, Problem> {
    let plan = accounts(&gate)?.plan(&id, None).await?.ok_or_else(|| Problem::not_found("plan"))?;
    Ok(ok(&show::plan(&plan)))
}

pub(super) async fn replace(
    State(gate): State<UsageGate>,
    PathText(id): PathText,
    Document(document): Document<PlanDocument>,
) -> Result<Response, Problem> {
    if document.id.as_ref().is_some_and(|given| *given != id) {
        return Err(Problem::invalid("/id", "must be the id in the path, or left out: a plan keeps its id"));
    }
    let apply = match document.apply {
        None | Some(ApplyWord::Now) => Apply::Now,
        Some(ApplyWord::NewOnly) => Apply::NewOnly,
        Some(ApplyWord::NextPeriod) => {
            return Err(Problem::invalid("/apply", "next_period is not built yet: use now or new_only"));
        }
    };
    let plan = management::replace_plan(&gate, draft(document, id)?, apply).await?;
    Ok(ok(&show::plan(&plan)))
}

fn draft(document: PlanDocument, id: String) -> Result<PlanDraft, Invalid> {
    // Read only so that a plan as shown is accepted.
    let _ = (document.version, document.created_at);
    let mut invalid = Invalid::default();
    let prices = document.prices.into_iter().enumerate().filter_map(|(at, price)| self::price(price, at, &mut invalid));
    let prices = prices.collect();
    invalid.into_result()?;
    let limits = document.limits.into_iter().map(|limit| LimitDraft {
        name: limit.name,
        kind: limit.kind,
        meter: limit.meter,
        units: limit.units,
        per: limit.per,
        burst: limit.burst,
        counted_by: limit.counted_by,
        routes: limit.routes,
        when_exceeded: limit.when_exceeded,
        store_away: limit.store_away,
    });
    Ok(PlanDraft {
        id,
        name: document.name,
        currency: document.currency,
        limits: limits.collect(),
        prices,
        scopes: document.scopes,
    })
}

/// The members that the model needs, and none of another's.
fn price(document: PriceDocument, at: usize, invalid: &mut Invalid) -> Option<Price> {
    use ModelWord::{Flat, Graduated, Package, PerUnit, Volume};
    let model = document.model;
    let members: [(&str, bool, &[ModelWord]); 5] = [
        ("amount", document.amount.is_some(), &[Flat]),
        ("unit_price", document.unit_price.is_some(), &[PerUnit]),
        ("tiers", document.tiers.is_some(), &[Graduated, Volume]),
        ("package_units", document.package_units.is_some(), &[Package]),
        ("package_price", document.package_price.is_some(), &[Package]),
    ];
    for (member, given, models) in members {
        let pointer = format!("/prices/{at}/{member}");
        match (given, models.contains(&model)) {
            (true, false) => invalid.add(pointer, "is not a member of this price model"),
            (false, true) => invalid.add(pointer, "is missing: this price model needs it"),
            _ => {}
        }
    }
    let model = match model {
        Flat => PriceModel::Flat { amount: document.amount? },
        PerUnit => PriceModel::PerUnit { unit_price: document.unit_price? },
        Graduated => PriceModel::Graduated { tiers: document.tiers? },
        Volume => PriceModel::Volume { tiers: document.tiers? },
        Package => {
            PriceModel::Package { package_units: document.package_units?, package_price: document.package_price? }
        }
    };
    Some(Price { meter: document.meter, model, included_units: document.included_units, minimum: document.minimum })
}
