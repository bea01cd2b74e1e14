//! Usage and limits: the tenant's totals for everybody, others apart only for those who may.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use usage_gate_core::model::{Role, UserId};

use crate::stage::{Browser, Stage};

/// Calls of the API by own, colleague's and shared keys, in this order.
struct Used {
    stage: Stage,
    /// Ids of the keys.
    keys: [String; 3],
}

impl Used {
    async fn new(role: Role) -> Self {
        let stage = Stage::new().await;
        let owners: [Option<UserId>; 3] = [Some(stage.user(role)), Some(stage.colleague), None];
        let names = ["own", "colleague's", "shared"];
        let mut keys = Vec::new();
        for ((owner, name), calls) in owners.into_iter().zip(names).zip([2, 3, 4]) {
            let (id, text) = stage.key_with_text(stage.acme, owner, name).await;
            for _ in 0..calls {
                stage.with_key(&text).await.is(200);
            }
            keys.push(id.to_string());
        }
        let (_, foreign) = stage.key_with_text(stage.globex, None, "foreign").await;
        stage.with_key(&foreign).await.is(200);
        Self { stage, keys: keys.try_into().unwrap() }
    }

    /// Calls by the value of a dimension.
    async fn by(&self, browser: &Browser, dimension: &str, more: &str) -> BTreeMap<Option<String>, u64> {
        let path = format!("/v1/usage?meter=requests&group_by={dimension}{more}");
        let usage = self.stage.get(browser, &path).await.is(200);
        let items = usage["items"].as_array().unwrap().iter();
        items.map(|item| (item[dimension].as_str().map(str::to_owned), item["requests"].as_u64().unwrap())).collect()
    }
}

#[tokio::test]
async fn a_member_sees_the_total_and_their_own_apart() {
    let used = Used::new(Role::Member).await;
    let browser = used.stage.sign_in_as(Role::Member).await;
    let own = used.keys[0].clone();
    let by_key = used.by(&browser, "key", "").await;
    assert_eq!(by_key, BTreeMap::from([(None, 7), (Some(own.clone()), 2)]));
    let by_user = used.by(&browser, "user", "").await;
    assert_eq!(by_user, BTreeMap::from([(None, 7), (Some(used.stage.user(Role::Member).to_string()), 2)]));
    assert_eq!(used.by(&browser, "outcome", "").await, BTreeMap::from([(Some("billed".into()), 9)]));
    assert_eq!(used.by(&browser, "key", &format!("&key={own}")).await, BTreeMap::from([(Some(own), 2)]));
    let csv = used.stage.get(&browser, "/v1/usage?format=csv&meter=requests&group_by=key").await;
    let period = "2026-11-01T00:00:00Z,2026-12-01T00:00:00Z,requests";
    let expected = format!("start,end,meter,units,requests,key\r\n{period},7,7,\r\n{period},2,2,{}\r\n", used.keys[0]);
    assert_eq!(csv.text, expected);
    assert_eq!(csv.header("cache-control"), "no-store");
}

#[tokio::test]
async fn a_members_pages_go_on_where_they_ended() {
    let used = Used::new(Role::Member).await;
    let browser = used.stage.sign_in_as(Role::Member).await;
    let mut found = Vec::new();
    let mut cursor = String::new();
    for _ in 0..10 {
        let path = format!("/v1/usage?meter=requests&group_by=key&page_size=1{cursor}");
        let page = used.stage.get(&browser, &path).await.is(200);
        found.extend(page["items"].as_array().unwrap().iter().map(|item| item["requests"].as_u64().unwrap()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, [7, 2]);
}

#[tokio::test]
async fn a_viewer_sees_who_used_what_in_their_tenant_only() {
    let used = Used::new(Role::Viewer).await;
    let browser = used.stage.sign_in_as(Role::Viewer).await;
    let expected: BTreeMap<_, _> = used.keys.iter().cloned().map(Some).zip([2, 3, 4]).collect();
    assert_eq!(used.by(&browser, "key", "").await, expected);
}

#[tokio::test]
async fn limits_show_a_member_nobody_elses_standing() {
    let used = Used::new(Role::Member).await;
    let limits = async |role| {
        let browser = used.stage.sign_in_as(role).await;
        let limits = used.stage.get(&browser, "/v1/limits").await.is(200);
        assert_eq!(&limits["as_of"].as_str().unwrap()[..19], "2026-11-24T12:00:00");
        limits["items"].clone()
    };
    let of_member = limits(Role::Member).await;
    assert_eq!((&of_member[0]["name"], &of_member[0]["used"]), (&json!("month"), &json!(9)));
    let each = &of_member[1];
    assert_eq!((&each["subject"], &each["used"]), (&json!(used.keys[0]), &json!(2)));
    assert_eq!((&each["subject_name"], &each["subjects"]), (&json!("own"), &json!(1)));
    // Others see the tightest of all keys.
    let of_owner = limits(Role::Owner).await;
    assert_eq!(of_owner[1]["subjects"], json!(3));
}

#[tokio::test]
async fn periods_go_back_to_the_month_in_which_the_tenant_was_made() {
    let stage = Stage::new().await;
    stage.clock.set_wall("2027-01-02T00:00:00Z".parse().unwrap());
    let browser = stage.sign_in_as(Role::Viewer).await;
    let periods = stage.get(&browser, "/v1/periods").await.is(200);
    let names: Vec<&Value> = periods["items"].as_array().unwrap().iter().map(|item| &item["name"]).collect();
    assert_eq!(names, ["2027-01", "2026-12", "2026-11"]);
    let first =
        json!({"name": "2027-01", "start": "2027-01-01T00:00:00Z", "end": "2027-02-01T00:00:00Z", "current": true});
    assert_eq!((&periods["items"][0], &periods["items"][1]["current"]), (&first, &json!(false)));
    assert_eq!(periods["next_cursor"], json!(null));
    let refused = stage.get(&browser, "/v1/periods?year=2026").await;
    assert_eq!(refused.problem(400, "invalid_request"), ["/year"]);
}
