//! What every [`SessionStore`] does.

use super::instant;
use crate::model::{AdminRole, AdminToken, PortalLink, Session, Timestamp, TokenHash, UserId};
use crate::store::{Redemption, SessionStore};

/// Runs every case of [`sessions`](crate::conformance::sessions).
#[macro_export]
macro_rules! session_store_tests {
    ($make:expr) => {
        $crate::conformance_cases! {
            sessions, $make,
            a_link_begins_a_session_for_its_user
            a_link_is_used_once
            of_redemptions_at_the_same_moment_one_begins
            a_link_is_good_until_its_end_and_not_at_it
            a_link_nobody_made_is_unknown
            a_session_ends_once
            being_seen_only_moves_on
            what_has_ended_is_forgotten_in_time
            an_admin_token_is_known_by_its_hash_and_stays_as_it_is
        }
    };
}

fn later(minutes: i64) -> Timestamp {
    instant().plus_micros(minutes * 60_000_000)
}

/// A link of 15 minutes, stored.
async fn link<S: SessionStore>(store: &S, token: &str) -> PortalLink {
    let link = PortalLink {
        hash: TokenHash::of(token),
        user: UserId::generate(),
        return_url: Some("https://app.example/billing?a=b".to_owned()),
        expires_at: later(15),
    };
    store.create_link(&link, instant()).await.expect("the store is there");
    link
}

async fn redeem<S: SessionStore>(store: &S, link: &str, session: &str, now: Timestamp) -> Redemption {
    let (link, session) = (TokenHash::of(link), TokenHash::of(session));
    store.redeem_link(link, session, now, now.plus_micros(1_000_000_000)).await.expect("the store is there")
}

async fn read<S: SessionStore>(store: &S, token: &str) -> Option<Session> {
    store.session(TokenHash::of(token)).await.expect("the store is there")
}

/// To the last field.
pub async fn a_link_begins_a_session_for_its_user<S: SessionStore>(store: &S) {
    let link = link(store, "link").await;
    assert_eq!(read(store, "session").await, None);
    let begun = Session {
        hash: TokenHash::of("session"),
        user: link.user,
        return_url: link.return_url,
        created_at: later(1),
        last_seen_at: later(1),
        ends_at: later(1).plus_micros(1_000_000_000),
    };
    assert_eq!(redeem(store, "link", "session", later(1)).await, Redemption::Begun(begun.clone()));
    assert_eq!(read(store, "session").await, Some(begun));
    assert_eq!(read(store, "link").await, None, "a link's token is no session's");
}

/// The second begins nothing, also after the link's end.
pub async fn a_link_is_used_once<S: SessionStore>(store: &S) {
    link(store, "link").await;
    assert!(matches!(redeem(store, "link", "first", instant()).await, Redemption::Begun(_)));
    assert_eq!(redeem(store, "link", "second", instant()).await, Redemption::Used);
    assert_eq!(redeem(store, "link", "second", later(16)).await, Redemption::Used);
    assert_eq!(read(store, "second").await, None);
    assert!(read(store, "first").await.is_some());
}

/// Whoever it is.
pub async fn of_redemptions_at_the_same_moment_one_begins<S: SessionStore>(store: &S) {
    link(store, "link").await;
    let (a, b, c) = tokio::join!(
        redeem(store, "link", "a", instant()),
        redeem(store, "link", "b", instant()),
        redeem(store, "link", "c", instant()),
    );
    let outcomes = [a, b, c];
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Redemption::Begun(_))).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Redemption::Used).count(), 2);
}

/// Half-open, as every interval.
pub async fn a_link_is_good_until_its_end_and_not_at_it<S: SessionStore>(store: &S) {
    link(store, "link").await;
    assert_eq!(redeem(store, "link", "session", later(15)).await, Redemption::Expired);
    assert!(matches!(redeem(store, "link", "session", later(15).plus_micros(-1)).await, Redemption::Begun(_)));
}

/// And begins nothing.
pub async fn a_link_nobody_made_is_unknown<S: SessionStore>(store: &S) {
    link(store, "link").await;
    assert_eq!(redeem(store, "another", "session", instant()).await, Redemption::Unknown);
    assert_eq!(read(store, "session").await, None);
}

/// The other goes on.
pub async fn a_session_ends_once<S: SessionStore>(store: &S) {
    for (token, session) in [("one", "a"), ("two", "b")] {
        link(store, token).await;
        redeem(store, token, session, instant()).await;
    }
    let end = |token| store.end_session(TokenHash::of(token));
    let before = read(store, "a").await;
    assert!(before.is_some());
    assert_eq!(end("a").await.expect("the store is there"), before);
    assert_eq!(end("a").await.expect("the store is there"), None);
    assert_eq!(read(store, "a").await, None);
    assert!(read(store, "b").await.is_some());
}

/// Of two requests the later counts, whichever is written last.
pub async fn being_seen_only_moves_on<S: SessionStore>(store: &S) {
    link(store, "link").await;
    redeem(store, "link", "session", instant()).await;
    for at in [later(3), later(2)] {
        store.mark_seen(TokenHash::of("session"), at).await.expect("the store is there");
    }
    store.mark_seen(TokenHash::of("nobody"), later(3)).await.expect("not an error");
    let session = read(store, "session").await.expect("it is there");
    assert_eq!((session.created_at, session.last_seen_at), (instant(), later(3)));
    assert_eq!(read(store, "nobody").await, None);
}

/// By the writes of others, a day after a link's end.
pub async fn what_has_ended_is_forgotten_in_time<S: SessionStore>(store: &S) {
    link(store, "link").await;
    redeem(store, "link", "session", instant()).await;
    link(store, "other").await;
    let long_after = later(15 + 24 * 60);
    let next = PortalLink {
        hash: TokenHash::of("next"),
        user: UserId::generate(),
        return_url: None,
        expires_at: long_after.plus_micros(1),
    };
    store.create_link(&next, long_after).await.expect("the store is there");
    assert_eq!(read(store, "session").await, None);
    assert_eq!(redeem(store, "link", "again", long_after).await, Redemption::Unknown);
    assert_eq!(redeem(store, "other", "again", long_after).await, Redemption::Unknown);
    assert!(matches!(redeem(store, "next", "again", long_after).await, Redemption::Begun(_)));
}

/// Whoever makes it again.
pub async fn an_admin_token_is_known_by_its_hash_and_stays_as_it_is<S: SessionStore>(store: &S) {
    let token = |token: &str, role| AdminToken {
        hash: TokenHash::of(token),
        role,
        name: "deploy".to_owned(),
        created_at: later(1),
    };
    let read = async |token: &str| store.admin_token(TokenHash::of(token)).await.expect("the store is there");
    assert_eq!(read("one").await, None);
    let one = token("one", AdminRole::Read);
    store.create_admin_token(&one).await.expect("the store is there");
    store.create_admin_token(&token("one", AdminRole::Full)).await.expect("not an error");
    store.create_admin_token(&token("two", AdminRole::Full)).await.expect("the store is there");
    assert_eq!(read("one").await, Some(one));
    assert_eq!(read("two").await.map(|token| token.role), Some(AdminRole::Full));
    assert_eq!(read("three").await, None);
}
