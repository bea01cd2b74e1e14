//! Made customers with weeks of made use: what a gate would know if it had served them.
//!
//! Nothing is written past the traits that a served gate uses: accounts as management stores them, usage in batches through the sink, units of
//! the running periods leased and given back as spent. So limits and usage agree to the unit, as they do behind a real gate. The same seed and
//! the same instant make the same use.

mod calls;
mod cast;
mod progress;
mod random;
mod rhythm;
mod routes;
mod shipping;
mod spent;
mod story;

use anyhow::{Context, bail};
use usage_gate_core::model::{TenantId, Timestamp, UserId};
use usage_gate_core::store::PageRequest;
use zeroize::Zeroizing;

use crate::config::Loaded;
use crate::node::Opened;
use calls::Calls;
use cast::Company;
pub(crate) use progress::Progress;
use spent::Spent;

/// The configuration that the sample's plans and traffic are for: routes by name, and a meter.
pub(crate) const CONFIG: &str = include_str!("sample.toml");
/// The meter that it counts beside the built-in ones.
const EXPORTS: &str = "exports";

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) weeks: u16,
    pub(crate) seed: u64,
}

/// What was made.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) customers: Vec<Customer>,
    pub(crate) calls: u64,
    pub(crate) refusals: u64,
}

/// A tenant with its people and its keys.
#[derive(Debug)]
pub(crate) struct Customer {
    pub(crate) tenant: TenantId,
    pub(crate) name: &'static str,
    pub(crate) users: Vec<(UserId, &'static str)>,
    /// Names and texts of keys that can be used; the texts are nowhere else.
    pub(crate) keys: Vec<(&'static str, Zeroizing<String>)>,
}

impl Made {
    /// The text of a key; keys are named once.
    pub(crate) fn key(&self, name: &str) -> Option<&str> {
        let mut keys = self.customers.iter().flat_map(|customer| &customer.keys);
        keys.find(|(known, _)| *known == name).map(|(_, text)| text.as_str())
    }

    pub(crate) fn user(&self, name: &str) -> Option<UserId> {
        let mut users = self.customers.iter().flat_map(|customer| &customer.users);
        users.find(|(_, known)| *known == name).map(|(id, _)| *id)
    }
}

/// The ids by which the host would know the sample's tenants.
pub(crate) const TENANTS: [&str; 2] = [story::ACME.external_id, story::GLOBEX.external_id];

/// Whether the sample is here already, or something else by its names.
pub(crate) async fn found(opened: &Opened) -> anyhow::Result<Option<String>> {
    let store = &opened.books.accounts;
    let mut page = PageRequest { after: None, size: 200 };
    loop {
        let tenants = store.tenants(None, &page).await?;
        for tenant in &tenants.items {
            let same = |company: &&Company| {
                tenant.name == company.name || tenant.external_id.as_deref() == Some(company.external_id)
            };
            if let Some(company) = [&story::ACME, &story::GLOBEX].into_iter().find(same) {
                return Ok(Some(format!("a tenant `{}`", company.name)));
            }
        }
        match tenants.items.last() {
            Some(last) if tenants.more => page.after = Some(last.id.to_string()),
            _ => break,
        }
    }
    for company in [&story::ACME, &story::GLOBEX] {
        if store.plan(company.plan, None).await?.is_some() {
            return Ok(Some(format!("a plan `{}`", company.plan)));
        }
    }
    Ok(None)
}

/// Whether a configuration has what the sample counts; asked before anything is opened, since opening makes what is missing.
pub(crate) fn check(loaded: &Loaded) -> anyhow::Result<()> {
    if !loaded.config.meters.contains_key(EXPORTS) {
        bail!("the sample counts a meter `{EXPORTS}`: add [meters.{EXPORTS}] to the configuration");
    }
    Ok(())
}

/// Makes it all.
pub(crate) async fn make(opened: &Opened, order: Order, progress: &mut Progress) -> anyhow::Result<Made> {
    if let Some(thing) = found(opened).await? {
        bail!("there is {thing} here already: make the sample in another data directory");
    }
    progress.begin(u64::from(order.weeks) * 7 * 2);
    let now = opened.gate.clock().wall();
    let mut maker = Maker { opened, now, spent: Spent::begin(opened).await?, progress, made: Made::default() };
    for company in [&story::ACME, &story::GLOBEX] {
        maker.add(company, order).await.with_context(|| format!("the tenant `{}`", company.name))?;
    }
    maker.progress.end();
    Ok(maker.made)
}

/// The work on one customer after the other.
#[derive(Debug)]
struct Maker<'a> {
    opened: &'a Opened,
    now: Timestamp,
    spent: Spent<'a>,
    progress: &'a mut Progress,
    made: Made,
}

impl Maker<'_> {
    async fn add(&mut self, company: &'static Company, order: Order) -> anyhow::Result<()> {
        let calls = Calls::new(company, order, self.now, self.opened.gate.meters())?;
        let plan = company.plan(calls.used_of_month("output_tokens"), self.now);
        let cast = cast::hire(self.opened, company, plan, self.now).await?;
        let used = self.spent.stream().ship(&calls, &*self.opened.books.usage, &cast, self.progress).await?;
        self.opened.books.keys.mark_used(&used.last_uses).await.context("last uses")?;
        self.spent.book(&cast, &used).await.context("limits")?;
        self.made.calls += used.calls;
        self.made.refusals += used.refusals;
        self.made.customers.push(cast.into_customer(self.now));
        Ok(())
    }
}
