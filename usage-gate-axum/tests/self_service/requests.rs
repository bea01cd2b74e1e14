//! Single requests: the tenant's for those who see its usage apart, their own for members.

use std::collections::BTreeSet;

use usage_gate_core::model::Role;

use crate::stage::{ROLES, Stage};

#[tokio::test]
async fn members_see_requests_of_their_own_keys_only() {
    for role in ROLES {
        let stage = Stage::new().await;
        let mut keys = Vec::new();
        for (owner, name) in [(Some(stage.user(role)), "own"), (Some(stage.colleague), "colleague's"), (None, "shared")]
        {
            let (id, text) = stage.key_with_text(stage.acme, owner, name).await;
            stage.with_key(&text).await.is(200);
            keys.push(id.to_string());
        }
        let (_, foreign) = stage.key_with_text(stage.globex, None, "foreign").await;
        stage.with_key(&foreign).await.is(200);
        let browser = stage.sign_in_as(role).await;
        let listed = stage.get(&browser, "/v1/requests").await.is(200);
        let items = listed["items"].as_array().unwrap();
        let found: BTreeSet<&str> = items.iter().map(|item| item["key"].as_str().unwrap()).collect();
        let seen = if role == Role::Member { &keys[..1] } else { &keys[..] };
        assert_eq!(found, seen.iter().map(String::as_str).collect(), "{role:?}");
        assert_eq!(items.len(), seen.len());
        let own = stage.get(&browser, &format!("/v1/requests?key={}", keys[0])).await.is(200);
        assert_eq!(own["items"].as_array().unwrap().len(), 1);
    }
}
