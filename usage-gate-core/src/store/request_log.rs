//! Finds requests in blocks, the newest first: the same for every store. Pure.
//!
//! A store reads the blocks that [`window`] names in the order of their newest request, and gives them to a [`Finder`] until it wants no more.
//! Blocks overlap, so that a request is known to be the next only once no block that is still to come has a newer one.

use super::request_block::{Block, Found, SPAN_MICROS, UnreadableBlock, read};
use super::{RequestItem, RequestPage, RequestPlace, RequestQuery};
use crate::model::{RequestId, TenantId, Timestamp};

/// Bytes of blocks that one question reads at most; then it says where to go on.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// Blocks that one question reads at most.
const MOST_BLOCKS: usize = 4_096;
/// Requests of one part at most.
const MOST_ITEMS: usize = 200;

/// Which blocks can have what is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockWindow {
    /// Their newest request is of this instant or later,
    pub(crate) from: Timestamp,
    /// and of this one or earlier,
    pub(crate) until: Timestamp,
    /// their oldest of this one or earlier.
    pub(crate) end: Timestamp,
}

/// The blocks to read for a question.
pub(crate) fn window(query: &RequestQuery) -> BlockWindow {
    let newest = Timestamp::from_micros(i64::MAX);
    let end = query.to.map_or(newest, |to| to.plus_micros(-1)).min(query.after.map_or(newest, |after| after.at));
    // A block that has the instant may end later, but in the same quarter of an hour.
    let until = end.plus_micros(SPAN_MICROS);
    BlockWindow { from: query.from.unwrap_or(Timestamp::from_micros(i64::MIN)), until, end }
}

/// What was found so far.
#[derive(Debug)]
pub(crate) struct Finder<'q> {
    query: &'q RequestQuery,
    size: usize,
    /// In the order of the list.
    found: Vec<RequestItem>,
    blocks: usize,
    bytes: usize,
    /// Everything at or below this instant is still to be read.
    unread: Option<Timestamp>,
}

impl<'q> Finder<'q> {
    pub(crate) fn new(query: &'q RequestQuery) -> Self {
        let size = query.size.clamp(1, MOST_ITEMS);
        Self { query, size, found: Vec::new(), blocks: 0, bytes: 0, unread: None }
    }

    /// Whether the block whose newest request is of this instant, and those after it, are to be read.
    pub(crate) fn wants(&mut self, at_last: Timestamp) -> bool {
        let decided = self.found.partition_point(|item| item.at > at_last);
        // Blocks around the place where the list goes on are read whatever they cost, or it would never get beyond them.
        let around = self.query.after.is_some_and(|after| after.at <= at_last);
        let affordable = around || (self.blocks < MOST_BLOCKS && self.bytes < MOST_BYTES);
        let wants = decided <= self.size && affordable;
        if !wants {
            self.unread = Some(at_last);
        }
        wants
    }

    pub(crate) fn add(&mut self, tenant: TenantId, body: &[u8]) -> Result<(), UnreadableBlock> {
        self.blocks += 1;
        self.bytes += body.len();
        // With more than a part found already only what is newer than its last can matter.
        let last = self.found.get(self.size).map(RequestItem::place);
        let before = self.found.len();
        let (query, found) = (self.query, &mut self.found);
        read(tenant, body, |entry| {
            let place = RequestPlace { at: entry.at, request: entry.request };
            let goes_on = last.is_none_or(|last| place > last) && query.from.is_none_or(|from| from <= entry.at);
            if goes_on && wanted(query, place, &entry) {
                found.push(entry.to_item());
            }
            goes_on && found.len() - before <= self.size
        })?;
        if found.len() > before {
            found.sort_by_key(|item| std::cmp::Reverse(item.place()));
            // A sample may have been sent twice.
            found.dedup_by_key(|item| item.place());
            found.truncate(self.size + 1);
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> RequestPage {
        if let Some(unread) = self.unread {
            let decided = self.found.partition_point(|item| item.at > unread);
            self.found.truncate(decided);
        }
        if self.found.len() > self.size {
            self.found.truncate(self.size);
            let next = self.found.last().map(RequestItem::place);
            return RequestPage { items: self.found, next };
        }
        let next = self.unread.map(|at| RequestPlace { at: at.plus_micros(1), request: RequestId::from_u128(0) });
        RequestPage { items: self.found, next }
    }
}

fn wanted(query: &RequestQuery, place: RequestPlace, entry: &Found<'_>) -> bool {
    query.after.is_none_or(|after| place < after)
        && query.to.is_none_or(|to| place.at < to)
        && query.key.is_none_or(|key| key == entry.key())
        && query.user.is_none_or(|user| Some(user) == entry.user())
        && query.route.as_deref().is_none_or(|route| route == entry.route)
        && query.status.is_none_or(|status| status == entry.status)
        && query.environment.is_none_or(|environment| environment == entry.environment())
        && query.outcome.as_deref().is_none_or(|outcome| entry.ended(outcome))
        && query.request.as_deref().is_none_or(|text| text.as_bytes() == entry.request.text())
}

/// Answers from blocks in memory, in any order.
pub(crate) fn search<'b>(
    query: &RequestQuery,
    blocks: impl Iterator<Item = &'b Block>,
) -> Result<RequestPage, UnreadableBlock> {
    let window = window(query);
    let mut blocks: Vec<&Block> = blocks
        .filter(|block| query.tenant.is_none_or(|tenant| tenant == block.tenant))
        .filter(|block| window.from <= block.at_last && block.at_last <= window.until && block.at_first <= window.end)
        .collect();
    blocks.sort_by_key(|block| std::cmp::Reverse(block.at_last));
    let mut finder = Finder::new(query);
    for block in blocks {
        if !finder.wants(block.at_last) {
            break;
        }
        finder.add(block.tenant, &block.body)?;
    }
    Ok(finder.finish())
}
