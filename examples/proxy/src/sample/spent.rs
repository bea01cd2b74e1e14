//! The running periods' units, taken from the authority as a node does: leased, and given back as spent.

use anyhow::{Context, bail};
use usage_gate_core::model::{CountedBy, LimitKind, Per, StreamId, WhenExceeded};
use usage_gate_core::store::{
    CounterId, LeaseCall, LeaseId, LeaseReport, LeaseRequest, NodeIdentity, Subject, TableId,
};

use super::cast::Cast;
use super::shipping::{Stream, Used};
use crate::node::Opened;

/// A node's life that holds nothing when it ends.
#[derive(Debug)]
pub(super) struct Spent<'a> {
    opened: &'a Opened,
    node: NodeIdentity,
    stream: Stream,
}

impl<'a> Spent<'a> {
    pub(super) async fn begin(opened: &'a Opened) -> anyhow::Result<Self> {
        let boot = StreamId::generate();
        let node = NodeIdentity { node: "sample".to_owned(), boot, table: TableId::generate() };
        opened.books.quotas.register(&node).await.context("quotas")?;
        Ok(Self { opened, node, stream: Stream::new(boot) })
    }

    /// The stream of usage of the same life.
    pub(super) const fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }

    /// Books what was used of the periods that run now.
    pub(super) async fn book(&self, cast: &Cast, used: &Used) -> anyhow::Result<()> {
        let position = self.opened.books.keys.position().await?;
        let mut call = LeaseCall::new(&self.node);
        for limit in &cast.plan.limits {
            if limit.kind != LimitKind::Quota {
                continue;
            }
            let per = limit.per.unwrap_or(Per::Month);
            let want = used.running.get(&(limit.meter.clone(), per)).copied().unwrap_or(0);
            if limit.counted_by != CountedBy::Tenant || !matches!(per, Per::Day | Per::Month) {
                bail!("the limit `{}` is of a kind that the sample does not count", limit.name);
            }
            if want == 0 {
                continue;
            }
            call.requests.push(LeaseRequest {
                lease: LeaseId::generate(),
                counter: CounterId {
                    tenant: cast.tenant.id,
                    subject: Subject::Tenant,
                    limit: limit.name.as_str().into(),
                    meter: limit.meter.as_str().into(),
                    per,
                },
                calendar: cast.tenant.calendar.clone(),
                cap: limit.units,
                cap_version: u32::try_from(position.0).unwrap_or(u32::MAX),
                want,
                beyond_cap: limit.when_exceeded == WhenExceeded::Allow,
                early: false,
                needed: 0,
            });
        }
        call.requests.sort_by(|one, other| one.counter.cmp(&other.counter));
        let answer = self.opened.books.quotas.lease(&call).await?;
        let mut returned = LeaseCall::new(&self.node);
        for (request, grant) in call.requests.iter().zip(&answer.grants) {
            // Nobody else holds units of a tenant that was just made.
            if grant.units != request.want {
                bail!(
                    "the limit `{}` has {} units and not the {} used",
                    request.counter.limit,
                    grant.units,
                    request.want
                );
            }
            returned.returns.push(LeaseReport { lease: grant.lease, used: grant.units });
        }
        self.opened.books.quotas.lease(&returned).await?;
        Ok(())
    }
}
