//! What is needed to settle one request.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::HeaderMap;
use usage_gate_core::admission::{Admitted, End, Settlement};
use usage_gate_core::journal::Synced;
use usage_gate_core::model::MeterIndex;
use usage_gate_core::store::Measured;

use crate::context::Shared;
use crate::tokens::TokenReader;

/// The least tokens that a stream holds ahead of what it has made.
const STEP: u64 = 64;

/// Settles on drop with what was handed over until then.
#[derive(Debug)]
pub(crate) struct Meter {
    admitted: Option<Box<Admitted>>,
    shared: Arc<Shared>,
    status: Option<u16>,
    bytes_out: u64,
    tokens: Option<Box<TokenMeter>>,
    drains: bool,
    is_head: bool,
}

/// The tokens of a request, and how many of them are held.
#[derive(Debug)]
struct TokenMeter {
    reader: TokenReader,
    held: u64,
}

impl Meter {
    pub(crate) fn new(
        admitted: Box<Admitted>,
        shared: Arc<Shared>,
        tokens: Option<TokenReader>,
        drains: bool,
        is_head: bool,
    ) -> Self {
        let tokens = tokens.map(|reader| Box::new(TokenMeter { held: reader.held(), reader }));
        Self { admitted: Some(admitted), shared, status: None, bytes_out: 0, tokens, drains, is_head }
    }

    pub(crate) fn admitted(&self) -> Option<&Admitted> {
        self.admitted.as_deref()
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether its body is more than counted.
    pub(crate) const fn follows(&self) -> bool {
        self.tokens.is_some() || self.drains
    }

    /// Whether the response is read to its end though the client leaves.
    pub(crate) const fn drains(&self) -> bool {
        self.drains
    }

    /// Whether only the head is asked for.
    pub(crate) const fn is_head(&self) -> bool {
        self.is_head
    }

    /// B2: the head is about to be released with this status. Whether the body may change, and its length with it.
    pub(crate) fn head(&mut self, status: u16, headers: &HeaderMap) -> bool {
        self.status = Some(status);
        if let Some(admitted) = &self.admitted {
            admitted.head(status);
        }
        self.tokens.as_mut().is_some_and(|tokens| {
            tokens.reader.head(status, headers);
            tokens.reader.may_change()
        })
    }

    /// Bytes are about to be handed over.
    pub(super) fn hand_over(&mut self, bytes: u64) {
        self.bytes_out = self.bytes_out.saturating_add(bytes);
        if let Some(admitted) = &self.admitted {
            admitted.progress(self.shared.bytes_in.load(Ordering::Relaxed), self.bytes_out);
        }
    }

    /// Reads what of a response passes; with `true` if it ends there because a limit does.
    pub(super) fn read_tokens(&mut self, bytes: Bytes) -> (Bytes, bool) {
        let (Some(tokens), Some(admitted)) = (&mut self.tokens, &mut self.admitted) else { return (bytes, false) };
        let TokenMeter { reader, held } = &mut **tokens;
        let stated = self.shared.states(MeterIndex::OUTPUT_TOKENS);
        let passed = reader.read(bytes, |made| stated || hold(admitted, held, made));
        let (count, _) = reader.count();
        admitted.tokens(count.input, count.output);
        (passed.bytes, passed.ended)
    }

    /// What is left of the response once the upstream has ended.
    pub(super) fn finish_tokens(&mut self) -> Bytes {
        self.tokens.as_mut().map_or_else(Bytes::new, |tokens| tokens.reader.finish())
    }

    /// Settles an answer that is over with its head; what it gives is to be waited for before that is released.
    pub(crate) fn finish(mut self) -> Option<Synced> {
        self.settle(End::Completed)
    }

    /// Settles once. What it gives is to be waited for before the last frame is released.
    pub(super) fn settle(&mut self, end: End) -> Option<Synced> {
        let admitted = self.admitted.take()?;
        let mut stated = self.shared.stated();
        let mut measured = Measured::Exact;
        if let Some(tokens) = &self.tokens {
            let (count, known) = tokens.reader.count();
            measured = known;
            let counted = [(MeterIndex::INPUT_TOKENS, count.input), (MeterIndex::OUTPUT_TOKENS, count.output)];
            // The handler's or the upstream's own word wins.
            let told = |meter| stated.iter().any(|(known, _)| *known == meter);
            let counted = counted.map(|(meter, units)| (!told(meter)).then_some((meter, units)));
            stated.extend(counted.into_iter().flatten());
        }
        admitted.settle(&Settlement {
            status: self.status,
            end,
            bytes_in: self.shared.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out,
            stated: &stated,
            measured,
            retry: self.shared.retry.get().copied(),
        })
    }
}

/// Holds what was made and a step more, or at least what was made.
fn hold(admitted: &mut Admitted, held: &mut u64, made: u64) -> bool {
    if made <= *held {
        return true;
    }
    let ahead = made.saturating_add(STEP.max(made / 4));
    let enough = [ahead, made].into_iter().find(|total| admitted.extend(MeterIndex::OUTPUT_TOKENS, *total));
    *held = enough.unwrap_or(*held);
    enough.is_some()
}

impl Drop for Meter {
    fn drop(&mut self) {
        // Nobody is there to be kept waiting.
        drop(self.settle(End::ClientLeft));
    }
}
