//! The form that makes or changes a key: how it is shown, and how it is read.

use askama::Template;
use usage_gate_core::management::{Invalid, KeyDraft, KeyPatch, Patch};
use usage_gate_core::model::{Environment, Key, RequestId, Scope, Timestamp};

use crate::portal::locale::{Dates, Language, Words};
use crate::portal_state::PortalState;

/// The form as it is shown.
#[derive(Debug, Template)]
#[template(path = "key_form.html")]
pub(crate) struct KeyForm {
    w: &'static Words,
    action: String,
    /// What makes the form one that is done once.
    token: Option<String>,
    faults: Vec<String>,
    name: String,
    name_is_wrong: bool,
    scopes_are_wrong: bool,
    choose_environment: bool,
    test: bool,
    scopes: Vec<(String, bool)>,
    expiries: Vec<(&'static str, String)>,
    expires: String,
    button: &'static str,
    cancel: Option<String>,
}

/// Days after which a key may end; a host that wants other ends has the API.
const ENDS: [(&str, u32); 3] = [("30", 30), ("90", 90), ("365", 365)];
const NEVER: &str = "never";
const KEEP: &str = "keep";

impl KeyForm {
    pub(crate) fn to_create(
        state: &PortalState,
        language: Language,
        dates: &Dates,
        grantable: &[Scope],
        now: Timestamp,
    ) -> Self {
        let w = language.words();
        Self {
            w,
            action: state.path("/keys"),
            token: Some(RequestId::generate().to_string()),
            faults: Vec::new(),
            name_is_wrong: false,
            scopes_are_wrong: false,
            name: String::new(),
            choose_environment: true,
            test: false,
            scopes: grantable.iter().map(|scope| (scope.to_string(), grantable.len() == 1)).collect(),
            expiries: expiries(language, dates, now, (NEVER, w.never)),
            expires: NEVER.to_owned(),
            button: w.create_key,
            cancel: None,
        }
    }

    pub(crate) fn to_change(
        state: &PortalState,
        language: Language,
        dates: &Dates,
        grantable: &[Scope],
        key: &Key,
        now: Timestamp,
    ) -> Self {
        let w = language.words();
        let prefix = &state.options().prefix;
        let mut scopes: Vec<(String, bool)> =
            grantable.iter().map(|scope| (scope.to_string(), key.scopes.contains(scope))).collect();
        // What an operator gave beyond the plan stays as long as it is left ticked.
        let beyond = key.scopes.iter().filter(|scope| !grantable.contains(scope));
        scopes.extend(beyond.map(|scope| (scope.to_string(), true)));
        let mut expiries = expiries(language, dates, now, (KEEP, w.as_it_is));
        expiries.push((NEVER, w.never.to_owned()));
        Self {
            w,
            action: format!("{prefix}/keys/{}/edit", key.id),
            token: None,
            faults: Vec::new(),
            name_is_wrong: false,
            scopes_are_wrong: false,
            name: key.name.clone(),
            choose_environment: false,
            test: false,
            scopes,
            expiries,
            expires: KEEP.to_owned(),
            button: w.save,
            cancel: Some(format!("{prefix}/keys")),
        }
    }

    /// The same form as it was sent, with what is wrong with it.
    pub(crate) fn again(mut self, sent: &Sent, invalid: &Invalid, language: Language) -> Self {
        let label = |pointer: &str| match pointer.split('/').nth(1) {
            Some("name") => self.w.name,
            Some("scopes") => self.w.scopes,
            Some("expires_at") => self.w.expires,
            Some("environment") => self.w.environment,
            _ => "",
        };
        let told = |fault: &usage_gate_core::management::Fault| match label(&fault.pointer) {
            "" => language.fault(&fault.detail),
            label => format!("{label}: {}", language.fault(&fault.detail)),
        };
        let wrong = |member: &str| invalid.faults.iter().any(|fault| fault.pointer.starts_with(member));
        (self.name_is_wrong, self.scopes_are_wrong) = (wrong("/name"), wrong("/scopes"));
        self.faults = invalid.faults.iter().map(told).collect();
        self.name = sent.text("name").chars().take(MOST_SHOWN).collect();
        self.test = sent.text("environment") == "test";
        self.expires = sent.text("expires").to_owned();
        for (scope, held) in &mut self.scopes {
            *held = sent.all("scopes").any(|sent| sent == scope);
        }
        self
    }
}

/// Characters of a refused name that are shown again.
const MOST_SHOWN: usize = 1_000;

fn expiries(
    language: Language,
    dates: &Dates,
    now: Timestamp,
    first: (&'static str, &str),
) -> Vec<(&'static str, String)> {
    let ends = ENDS.iter().map(|(value, days)| (*value, language.in_days(*days, &dates.day(in_days(now, *days)))));
    std::iter::once((first.0, first.1.to_owned())).chain(ends).collect()
}

fn in_days(now: Timestamp, days: u32) -> Timestamp {
    now.plus_micros(i64::from(days) * 86_400 * 1_000_000)
}

/// Fields of a form as they were sent.
#[derive(Debug)]
pub(crate) struct Sent(Vec<(String, String)>);

impl Sent {
    /// Reads `application/x-www-form-urlencoded`.
    pub(crate) fn read(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A key as it is asked for.
    pub(crate) fn draft(&self, now: Timestamp) -> Result<KeyDraft, Invalid> {
        let mut draft = KeyDraft::new(self.text("name"));
        draft.environment = match self.text("environment") {
            "" | "live" => Some(Environment::Live),
            "test" => Some(Environment::Test),
            _ => return Err(Invalid::at("/environment", "must be live or test")),
        };
        draft.scopes = self.all("scopes").map(ToOwned::to_owned).collect();
        draft.expires_at = self.end(now)?.unwrap_or(None);
        Ok(draft)
    }

    /// A change as it is asked for.
    pub(crate) fn patch(&self, now: Timestamp) -> Result<KeyPatch, Invalid> {
        Ok(KeyPatch {
            name: Patch::Set(self.text("name").to_owned()),
            scopes: Patch::Set(self.all("scopes").map(ToOwned::to_owned).collect()),
            allowed_addresses: Patch::Keep,
            expires_at: self.end(now)?.map_or(Patch::Keep, Patch::Set),
        })
    }

    /// The end that was chosen; `None` to leave it.
    fn end(&self, now: Timestamp) -> Result<Option<Option<Timestamp>>, Invalid> {
        match self.text("expires") {
            KEEP => Ok(None),
            "" | NEVER => Ok(Some(None)),
            value => match ENDS.iter().find(|(known, _)| *known == value) {
                Some((_, days)) => Ok(Some(Some(in_days(now, *days)))),
                None => Err(Invalid::at("/expires_at", "must be one of the ends in the list")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_a_draft() {
        let now: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
        let sent = Sent::read(
            "name=%F0%9F%94%91+night&environment=test&scopes=a%3Aread&scopes=b%3Aread&expires=30".as_bytes(),
        );
        let draft = sent.draft(now).unwrap();
        assert_eq!((draft.name.as_str(), draft.environment), ("🔑 night", Some(Environment::Test)));
        assert_eq!(draft.scopes, ["a:read", "b:read"]);
        assert_eq!(draft.expires_at.unwrap().to_string(), "2026-12-24T00:00:00Z");
        assert!(Sent::read(b"expires=7").draft(now).is_err());
        assert!(Sent::read(b"environment=staging").draft(now).is_err());
        assert_eq!(Sent::read(b"name=a&expires=keep").patch(now).unwrap().expires_at, Patch::Keep);
    }
}
