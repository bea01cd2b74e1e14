//! The network between nodes and their authorities: letters, each of which may be lost, late, repeated, or pass by others.
//!
//! A node's call is a future of the product's own driver, which waits here until its answer is put in. So a call may be under way for as long as the dice
//! say, with requests going on meanwhile.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use crate::mapped::Words;
use crate::store::*;
use crate::sync::Ordering;

/// What a node asks.
#[derive(Debug, Clone)]
pub(super) enum Question {
    Register(NodeIdentity),
    Lease(LeaseCall),
    Rates(RateCall),
}

/// What an authority says to that.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Open(Vec<OpenLease>),
    Leased(LeaseAnswer),
    Superseded,
    Rated(RateAnswer),
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Question(Question),
    Reply(Reply),
}

/// One on its way, under the number of its call.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) call: u64,
    pub(super) node: usize,
    pub(super) body: Body,
}

/// What became of a call.
#[derive(Debug)]
enum Outcome {
    UnderWay,
    Replied(Reply),
    GivenUp,
}

#[derive(Debug, Default)]
pub(super) struct Post {
    calls: u64,
    pub(super) letters: Vec<Letter>,
    /// Calls whose node waits for them, by number.
    waiting: BTreeMap<u64, (usize, Outcome)>,
}

impl Post {
    fn send(&mut self, node: usize, question: Question) -> u64 {
        self.calls += 1;
        self.letters.push(Letter { call: self.calls, node, body: Body::Question(question) });
        self.waiting.insert(self.calls, (node, Outcome::UnderWay));
        self.calls
    }

    /// The answer is there. `false` if nobody waits for it any more.
    pub(super) fn reply(&mut self, call: u64, reply: Reply) -> bool {
        self.end(call, Outcome::Replied(reply))
    }

    /// The node does not wait any longer; its call may yet arrive.
    pub(super) fn give_up(&mut self, call: u64) -> bool {
        self.end(call, Outcome::GivenUp)
    }

    fn end(&mut self, call: u64, outcome: Outcome) -> bool {
        let waits = self.waiting.get_mut(&call);
        waits.is_some_and(|(_, is)| {
            let under_way = matches!(is, Outcome::UnderWay);
            if under_way {
                *is = outcome;
            }
            under_way
        })
    }

    /// A call for which this node waits.
    pub(super) fn call_of(&self, node: usize) -> Option<u64> {
        let under_way = |(of, is): &(usize, Outcome)| *of == node && matches!(is, Outcome::UnderWay);
        self.waiting.iter().find(|(_, waits)| under_way(waits)).map(|(call, _)| *call)
    }

    /// The process is dead: nobody waits for its calls, which are on their way all the same.
    pub(super) fn died(&mut self, node: usize) {
        self.waiting.retain(|_, (of, _)| *of != node);
    }

    fn take(&mut self, call: u64) -> Poll<Option<Reply>> {
        if self.waiting.get(&call).is_some_and(|(_, is)| matches!(is, Outcome::UnderWay)) {
            return Poll::Pending;
        }
        match self.waiting.remove(&call) {
            Some((_, Outcome::Replied(reply))) => Poll::Ready(Some(reply)),
            _ => Poll::Ready(None),
        }
    }
}

/// One process's way to the authorities.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) node: usize,
    pub(super) post: Arc<Mutex<Post>>,
    /// A kill can come before a call and between its answer and what is made of it.
    pub(super) steps: Words,
}

pub(super) fn lock(post: &Mutex<Post>) -> MutexGuard<'_, Post> {
    // A process that was killed in here has poisoned it.
    post.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    async fn ask(&self, question: Question) -> Result<Reply, StoreError> {
        self.steps[0].store(1, Ordering::Relaxed);
        let call = lock(&self.post).send(self.node, question);
        let reply = poll_fn(|_| lock(&self.post).take(call)).await;
        self.steps[0].store(1, Ordering::Relaxed);
        reply.ok_or_else(|| StoreError::unavailable("ask", "no answer"))
    }
}

#[async_trait::async_trait]
impl QuotaStore for Wire {
    fn promises(&self) -> QuotaPromises {
        QuotaPromises::new(Durability::Durable, true)
    }

    async fn register(&self, node: &NodeIdentity) -> Result<Vec<OpenLease>, StoreError> {
        match self.ask(Question::Register(node.clone())).await? {
            Reply::Open(open) => Ok(open),
            other => panic!("{other:?} to a registration"),
        }
    }

    async fn lease(&self, call: &LeaseCall) -> Result<LeaseAnswer, StoreError> {
        match self.ask(Question::Lease(call.clone())).await? {
            Reply::Leased(answer) => Ok(answer),
            Reply::Superseded => Err(StoreError::superseded("lease units")),
            other => panic!("{other:?} to a call for leases"),
        }
    }

    async fn windows(&self, _: &[WindowQuery]) -> Result<Vec<WindowState>, StoreError> {
        Ok(Vec::new())
    }

    async fn subjects(&self, _: &WindowQuery, _: usize) -> Result<Vec<(CounterId, WindowState)>, StoreError> {
        Ok(Vec::new())
    }
}

#[async_trait::async_trait]
impl RateStore for Wire {
    async fn lease_rates(&self, call: &RateCall) -> Result<RateAnswer, StoreError> {
        match self.ask(Question::Rates(call.clone())).await? {
            Reply::Rated(answer) => Ok(answer),
            other => panic!("{other:?} to a call for rates"),
        }
    }
}
