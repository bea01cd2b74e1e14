//! A key as a row of the list.

use usage_gate_core::management::Actor;
use usage_gate_core::model::{Environment, Key, KeyStatus, Scope, Timestamp};

use crate::portal::locale::{Dates, Html, Language};

/// A row of the list of keys.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) hint: String,
    pub(crate) owner: String,
    pub(crate) scopes: String,
    pub(crate) used: Html,
    pub(crate) requests: String,
    pub(crate) tag: Html,
    pub(crate) tag_class: &'static str,
    pub(crate) state: Html,
    /// It is over with it.
    pub(crate) gone: bool,
    pub(crate) may_change: bool,
    pub(crate) may_revoke: bool,
    pub(crate) edit_label: String,
    pub(crate) rotate_label: String,
    pub(crate) revoke_label: String,
}

/// An end this near is warned of: 14 days, in microseconds.
const SOON: u64 = 14 * 86_400 * 1_000_000;

impl Row {
    pub(crate) fn new(
        key: &Key,
        owner: Option<&String>,
        requests: u64,
        actor: &Actor,
        language: Language,
        dates: &Dates,
        now: Timestamp,
    ) -> Self {
        let w = language.words();
        let status = key.status(now);
        let (tag_class, tag, state) = state(key, status, language, dates, now);
        let scopes: Vec<&str> = key.scopes.iter().map(Scope::as_str).collect();
        Self {
            id: key.id.to_string(),
            hint: key.hint().to_owned(),
            owner: owner.map_or_else(|| w.no_owner.to_owned(), Clone::clone),
            scopes: if scopes.is_empty() { w.all_routes.to_owned() } else { scopes.join(", ") },
            used: match key.last_used_at() {
                Some(at) => language.used_at(&dates.past(at)),
                None => Html::from(w.never_used),
            },
            requests: match (key.environment, requests) {
                (Environment::Test, _) => w.not_counted.to_owned(),
                (Environment::Live, 0) => w.no_requests.to_owned(),
                (Environment::Live, requests) => language.this_period(requests),
            },
            tag,
            tag_class,
            state,
            gone: status != KeyStatus::Active,
            may_change: status != KeyStatus::Revoked && actor.may_change(key).is_ok(),
            may_revoke: status != KeyStatus::Revoked && actor.may_revoke(key).is_ok(),
            edit_label: language.edit_name(&key.name),
            rotate_label: language.rotate_name(&key.name),
            revoke_label: language.revoke_name(&key.name),
            name: key.name.clone(),
        }
    }
}

/// What is to be known of a key first: class, word, and when.
fn state(
    key: &Key,
    status: KeyStatus,
    language: Language,
    dates: &Dates,
    now: Timestamp,
) -> (&'static str, Html, Html) {
    let w = language.words();
    let end = |at: Timestamp| language.expires_on(&dates.day_and_time(at));
    match status {
        KeyStatus::Revoked => {
            let when = key.revoked_at.map_or_else(|| Html::from(""), |at| dates.past(at).into());
            return ("quiet", Html::from(w.revoked), when);
        }
        KeyStatus::Expired => {
            let when = key.expires_at.map_or_else(|| Html::from(""), |at| dates.past(at).into());
            return ("quiet", Html::from(w.expired), when);
        }
        KeyStatus::Active => {}
    }
    let old = key
        .secrets
        .iter()
        .skip(1)
        .find_map(|secret| secret.expires_at.filter(|end| *end > now).map(|end| (secret, end)));
    if let Some((secret, ends)) = old {
        let tail = secret.hint.rsplit_once('…').map_or(secret.hint.as_str(), |(_, tail)| tail);
        let used = secret.last_used_at.map(|at| dates.past(at));
        return ("warn", Html::from(w.rotating), language.old_secret(tail, &dates.day_and_time(ends), used.as_ref()));
    }
    match (key.environment, key.expires_at) {
        (_, Some(at)) if now.micros_until(at) < SOON => {
            ("warn", end(at), Html::from(language.in_future(&dates.in_time(at)).as_str()))
        }
        (Environment::Test, _) => ("quiet", Html::from(w.test), Html::from(w.never_billed)),
        (Environment::Live, Some(at)) => ("ok", Html::from(w.active), end(at)),
        (Environment::Live, None) => ("ok", Html::from(w.active), Html::from(w.no_expiry)),
    }
}
