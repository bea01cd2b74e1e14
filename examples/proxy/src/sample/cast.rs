//! From sketches to accounts: a plan, a tenant, its people and its keys, stored as management would have, but made long ago.

use anyhow::Context;
use usage_gate_core::admission::Code;
use usage_gate_core::model::{
    Environment, Key, KeyId, KeyStatus, Limit, Per, Plan, Role, Secret, Tenant, TenantId, TenantStatus, Timestamp,
    User, UserId,
};
use usage_gate_core::period::{AnchorDay, Calendar};
use zeroize::Zeroizing;

use super::Customer;
use super::rhythm::Rhythm;
use super::routes::Path;
use crate::node::Opened;

const DAY: i64 = 86_400_000_000;
const HOUR: i64 = 3_600_000_000;
const MINUTE: i64 = 60_000_000;

/// A customer before it is stored.
#[derive(Debug)]
pub(super) struct Company {
    /// Another for each: it goes into what is by chance.
    pub(super) number: u64,
    pub(super) name: &'static str,
    pub(super) external_id: &'static str,
    pub(super) plan: &'static str,
    pub(super) zone: &'static str,
    pub(super) made_days_ago: i64,
    pub(super) people: &'static [Person],
    pub(super) keys: &'static [KeySketch],
    pub(super) limits: fn(u64) -> Vec<Limit>,
}

/// A person in it.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) name: &'static str,
    pub(super) email: &'static str,
    pub(super) role: Role,
}

/// A key, and what is done with it.
#[derive(Debug)]
pub(super) struct KeySketch {
    pub(super) name: &'static str,
    /// Place among the people.
    pub(super) owner: Option<usize>,
    pub(super) environment: Environment,
    pub(super) scopes: &'static [&'static str],
    pub(super) rhythm: Rhythm,
    pub(super) made_days_ago: i64,
    pub(super) life: Life,
    /// On a usual working day, today.
    pub(super) calls_a_day: u64,
    /// What is called, in thousandths.
    pub(super) paths: &'static [(Path, u64)],
    /// Whether it is the job that makes the exports.
    pub(super) exports: bool,
    /// Whether it had a day with half as much again.
    pub(super) spike: bool,
    /// It was last used so many days ago.
    pub(super) quiet_for_days: i64,
    pub(super) refused: &'static [Refused],
}

/// How a key ends, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Lasting,
    Ends {
        days_ahead: i64,
    },
    Revoked {
        days_ago: i64,
    },
    /// A new secret since yesterday; the old one goes on until tomorrow.
    Rotating,
}

/// Calls of a key that are refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) code: Code,
    pub(super) limit: Option<&'static str>,
    pub(super) path: Path,
    /// Thousandths of a call on a usual working day.
    pub(super) in_a_day: u64,
}

impl KeySketch {
    /// A live key that is not used.
    pub(super) const fn new(
        name: &'static str,
        owner: Option<usize>,
        scopes: &'static [&'static str],
        rhythm: Rhythm,
        made_days_ago: i64,
    ) -> Self {
        Self {
            name,
            owner,
            environment: Environment::Live,
            scopes,
            rhythm,
            made_days_ago,
            life: Life::Lasting,
            calls_a_day: 0,
            paths: &[],
            exports: false,
            spike: false,
            quiet_for_days: 0,
            refused: &[],
        }
    }
}

impl KeySketch {
    /// When it was revoked: in the morning of its day.
    pub(super) fn revoked_at(&self, calendar: &Calendar, now: Timestamp) -> Option<Timestamp> {
        match self.life {
            Life::Revoked { days_ago } => Some(at_work(calendar, now, days_ago, 40)),
            _ => None,
        }
    }
}

impl Company {
    pub(super) fn calendar(&self) -> anyhow::Result<Calendar> {
        Ok(Calendar::new(self.zone.parse()?, AnchorDay::FIRST))
    }
}

/// So many minutes into the working day, so many days ago.
fn at_work(calendar: &Calendar, now: Timestamp, days: i64, minutes: i64) -> Timestamp {
    calendar.period(Per::Day, days_ago(now, days)).start.plus_micros(9 * HOUR + minutes * MINUTE)
}

/// A customer that is stored.
#[derive(Debug)]
pub(super) struct Cast {
    company: &'static Company,
    pub(super) tenant: Tenant,
    pub(super) plan: Plan,
    users: Vec<User>,
    /// In the order of the sketches.
    pub(super) keys: Vec<Key>,
    texts: Vec<Zeroizing<String>>,
}

pub(super) fn days_ago(now: Timestamp, days: i64) -> Timestamp {
    now.plus_micros(-days * DAY)
}

/// Stores a customer.
pub(super) async fn hire(
    opened: &Opened,
    company: &'static Company,
    plan: Plan,
    now: Timestamp,
) -> anyhow::Result<Cast> {
    let store = &opened.books.accounts;
    store.create_plan(&plan).await.context("plan")?;
    let calendar = company.calendar()?;
    let tenant = Tenant {
        id: TenantId::generate(),
        external_id: Some(company.external_id.to_owned()),
        name: company.name.to_owned(),
        status: TenantStatus::Active,
        plan: plan.id.clone(),
        plan_version: plan.version,
        metadata: "{}".to_owned(),
        created_at: at_work(&calendar, now, company.made_days_ago, 12),
        calendar,
        deleted_at: None,
    };
    store.create_tenant(&tenant).await.context("tenant")?;
    let mut users = Vec::with_capacity(company.people.len());
    for (place, person) in (0..).zip(company.people) {
        let user = User {
            id: UserId::generate(),
            tenant: tenant.id,
            external_id: None,
            email: person.email.to_owned(),
            name: person.name.to_owned(),
            role: person.role,
            created_at: at_work(&tenant.calendar, now, company.made_days_ago, 14 + place * 93),
            deleted_at: None,
        };
        store.create_user(&user).await.context("user")?;
        users.push(user);
    }
    let mut cast = Cast { company, tenant, plan, users, keys: Vec::new(), texts: Vec::new() };
    for sketch in company.keys {
        let (key, text) = cast.issue(opened, sketch, now)?;
        store.create_key(&key).await.context("key")?;
        cast.keys.push(key);
        cast.texts.push(text);
    }
    Ok(cast)
}

impl Cast {
    fn issue(&self, opened: &Opened, sketch: &KeySketch, now: Timestamp) -> anyhow::Result<(Key, Zeroizing<String>)> {
        let made = at_work(&self.tenant.calendar, now, sketch.made_days_ago, 45);
        let (first, text) = secret(opened, sketch.environment, made)?;
        let midnight = self.tenant.calendar.period(Per::Day, now).end;
        let mut key = Key {
            id: KeyId::generate(),
            tenant: self.tenant.id,
            user: sketch.owner.and_then(|place| self.users.get(place)).map(|user| user.id),
            name: sketch.name.to_owned(),
            environment: sketch.environment,
            scopes: sketch.scopes.iter().map(|scope| scope.parse()).collect::<Result<_, _>>()?,
            secrets: vec![first],
            allowed_addresses: Vec::new(),
            expires_at: None,
            revoked_at: None,
            revoke_reason: None,
            created_at: made,
        };
        match sketch.life {
            Life::Lasting => {}
            Life::Ends { days_ahead } => key.expires_at = Some(midnight.plus_micros((days_ahead - 1) * DAY)),
            Life::Revoked { .. } => {
                key.revoked_at = sketch.revoked_at(&self.tenant.calendar, now);
                key.revoke_reason = Some("replaced by web-production".to_owned());
            }
            Life::Rotating => {
                let (second, text) = secret(opened, sketch.environment, midnight.plus_micros(9 * HOUR - 2 * DAY))?;
                if let Some(old) = key.secrets.first_mut() {
                    old.expires_at = Some(midnight.plus_micros(9 * HOUR));
                }
                key.secrets.insert(0, second);
                return Ok((key, text));
            }
        }
        Ok((key, text))
    }

    /// What is told of it once it is made.
    pub(super) fn into_customer(self, now: Timestamp) -> Customer {
        let usable = |(key, text): (Key, Zeroizing<String>)| {
            let sketch = self.company.keys.iter().find(|sketch| sketch.name == key.name)?;
            (key.status(now) == KeyStatus::Active).then_some((sketch.name, text))
        };
        Customer {
            tenant: self.tenant.id,
            name: self.company.name,
            users: self.users.iter().zip(self.company.people).map(|(user, person)| (user.id, person.name)).collect(),
            keys: self.keys.into_iter().zip(self.texts).filter_map(usable).collect(),
        }
    }
}

fn secret(opened: &Opened, environment: Environment, made: Timestamp) -> anyhow::Result<(Secret, Zeroizing<String>)> {
    let issued = opened.gate.pepper().issue(opened.gate.key_prefix(), environment)?;
    let secret = Secret {
        credential: issued.credential,
        hash: issued.hash,
        hint: issued.hint,
        created_at: made,
        expires_at: None,
        last_used_at: None,
    };
    Ok((secret, issued.text))
}
