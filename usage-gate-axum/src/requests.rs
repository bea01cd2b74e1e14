//! Questions about single requests, as operators and users ask them: parameters in, a part of the log out.

use serde_json::{Map, Value, json};
use usage_gate_core::model::{Environment, KeyId, TenantId, Timestamp, UserId};
use usage_gate_core::store::{RequestItem, RequestPage, RequestPlace, RequestQuery};

use crate::page;
use crate::parameters::Parameters;

/// Takes every parameter but the tenant.
pub(crate) fn take(parameters: &mut Parameters, tenant: Option<TenantId>) -> RequestQuery {
    let environments = [("live", Environment::Live), ("test", Environment::Test)];
    let query = RequestQuery {
        tenant,
        key: parameters.parsed::<KeyId>("key"),
        user: parameters.parsed::<UserId>("user"),
        route: parameters.text("route"),
        status: parameters.parsed::<u16>("status"),
        outcome: parameters.text("outcome"),
        environment: parameters.word("environment", &environments),
        request: parameters.text("request_id"),
        from: parameters.parsed::<Timestamp>("from"),
        to: parameters.parsed::<Timestamp>("to"),
        after: parameters.parsed::<RequestPlace>("cursor"),
        size: page::page_size(parameters),
    };
    if query.from.zip(query.to).is_some_and(|(from, to)| from >= to) {
        parameters.fault("from", "must be before `to`");
    }
    query
}

/// The document of a part of the log.
pub(crate) fn document(page: &RequestPage) -> Value {
    json!({
        "items": page.items.iter().map(item).collect::<Vec<_>>(),
        "next_cursor": page.next.map(|place| place.to_string()),
    })
}

fn item(item: &RequestItem) -> Value {
    let units: Map<String, Value> = item.units.iter().map(|(meter, units)| (meter.clone(), (*units).into())).collect();
    let mut shown = json!({
        "request_id": item.request.to_string(),
        "at": item.at,
        "tenant": item.tenant,
        "key": item.key,
        "user": item.user,
        "route": Some(&item.route).filter(|route| !route.is_empty()),
        "environment": item.environment.as_str(),
        "status": item.status,
        "outcome": item.outcome,
        "measured": item.measured.map(|measured| measured.as_str()),
        "units": units,
    });
    if let Some(violated) = &item.violated {
        // Written by the gate itself; were it unreadable, the request is still worth showing.
        shown["violated"] = serde_json::from_str(violated).unwrap_or_else(|_| json!([]));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use usage_gate_core::model::RequestId;

    #[test]
    fn a_refusal_has_the_limits_that_refused() {
        let refused = RequestItem {
            request: RequestId::from_u128(1),
            at: "2026-11-24T12:00:00Z".parse().unwrap(),
            tenant: TenantId::from_u128(1),
            key: Some(KeyId::from_u128(2)),
            user: None,
            route: String::new(),
            environment: Environment::Live,
            status: 429,
            outcome: "refused:rate_limited".to_owned(),
            measured: None,
            units: Vec::new(),
            violated: Some(r#"[{"name":"burst"}]"#.to_owned()),
        };
        let page = RequestPage { next: Some(refused.place()), items: vec![refused] };
        let shown = document(&page);
        let item = &shown["items"][0];
        assert_eq!(item["violated"], json!([{"name": "burst"}]));
        assert_eq!((&item["route"], &item["measured"], &item["units"]), (&Value::Null, &Value::Null, &json!({})));
        assert_eq!(shown["next_cursor"], json!("1795521600000000-00000000000000000000000000000001"));
    }
}
