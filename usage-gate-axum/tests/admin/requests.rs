//! Single requests, as operators look them up.

use serde_json::{Value, json};

use crate::stage::Stage;

fn text<'a>(document: &'a Value, member: &str) -> &'a str {
    document[member].as_str().unwrap()
}

#[tokio::test]
async fn requests_are_listed_with_what_became_of_them() {
    let stage = Stage::new().await;
    let tenant = stage.tenant().await;
    let key = stage.key(&tenant).await;
    let answer = stage.with_key("/v1/search", text(&key, "key")).await;
    assert_eq!(answer.status, 200);
    let request = answer.headers["x-request-id"].to_str().unwrap().to_owned();
    let page = stage.get(&format!("/admin/v1/requests?request_id={request}")).await.is(200);
    let item = &page["items"][0];
    assert_eq!((page["items"].as_array().unwrap().len(), &page["next_cursor"]), (1, &Value::Null));
    assert_eq!(item["request_id"], json!(request));
    assert_eq!((&item["tenant"], &item["key"], &item["user"]), (&json!(tenant), &key["id"], &Value::Null));
    assert_eq!(
        (&item["route"], &item["environment"], &item["status"]),
        (&json!("search"), &json!("live"), &json!(200))
    );
    assert_eq!((&item["outcome"], &item["measured"]), (&json!("billed"), &json!("exact")));
    assert_eq!(item["units"]["requests"], json!(1));
    assert_eq!(&text(item, "at")[..19], "2026-11-24T12:00:00");
    assert!(item.get("violated").is_none());
}

#[tokio::test]
async fn a_list_goes_on_and_is_filtered() {
    let stage = Stage::new().await;
    let tenant = stage.tenant().await;
    let (one, other) = (stage.key(&tenant).await, stage.key(&tenant).await);
    for _ in 0..3 {
        stage.with_key("/v1/search", text(&one, "key")).await;
        stage.with_key("/v1/search", text(&other, "key")).await;
    }
    let mut found = Vec::new();
    let mut cursor = String::new();
    for _ in 0..10 {
        let page = stage.get(&format!("/admin/v1/requests?tenant={tenant}&page_size=2{cursor}")).await.is(200);
        found.extend(page["items"].as_array().unwrap().iter().map(|item| text(item, "at").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let mut newest_first = found.clone();
    newest_first.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!((found.len(), &found), (6, &newest_first));
    let count = async |query: &str| {
        let page = stage.get(&format!("/admin/v1/requests?{query}")).await.is(200);
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(count(&format!("key={}", text(&one, "id"))).await, 3);
    assert_eq!(count("status=200&outcome=billed&environment=live&route=search").await, 6);
    assert_eq!(count("status=404").await, 0);
    assert_eq!(count("from=2026-11-24T12:00:00Z&to=2026-11-24T12:00:01Z").await, 6);
    assert_eq!(count("to=2026-11-24T12:00:00Z").await, 0);
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_says_why() {
    let stage = Stage::new().await;
    let query = "status=high&cursor=17&environment=dev&from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z&meter=rows";
    let mut found = stage.get(&format!("/admin/v1/requests?{query}")).await.problem(400, "invalid_request");
    found.sort();
    assert_eq!(found, ["/cursor", "/environment", "/from", "/meter", "/status"]);
}
