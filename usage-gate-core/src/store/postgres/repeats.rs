//! Keeps which requests may be repeated for free; `store/repeats.rs` decides.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

use deadpool_postgres::Transaction;
use tokio_postgres::types::Type;

use super::fault::Fault;
use super::value::{Id, id, instant, to_column, unreadable};
use crate::model::Timestamp;
use crate::store::Batch;
use crate::store::repeats::{self, Repeats, kept_since, tags};

/// Makes the repeats of a batch free, and remembers which were.
pub(super) async fn make_free(step: &Transaction<'_>, batch: &mut Batch) -> Result<(), Fault> {
    let tags: Vec<Id> = tags(batch).into_iter().map(Id).collect();
    if tags.is_empty() {
        return Ok(());
    }
    let known = lock(step, &tags).await?;
    // What this batch has said of a tag goes before what is stored.
    let kept = std::cell::RefCell::new(BTreeMap::<u128, Repeats>::new());
    let Ok(freed) = repeats::make_free::<Infallible>(
        batch,
        |tag| Ok(kept.borrow().get(&tag).or_else(|| known.get(&tag)).copied()),
        |tag, repeats| {
            kept.borrow_mut().insert(tag, repeats);
            Ok(())
        },
    );
    let kept = kept.into_inner();
    tokio::try_join!(biased; keep(step, &kept), keep_freed(step, batch, &freed))?;
    Ok(())
}

/// Takes the row of each tag, also where there is none yet: of two nodes that bill the same request at once the second waits, and sees the first.
async fn lock(step: &Transaction<'_>, tags: &[Id]) -> Result<HashMap<u128, Repeats>, Fault> {
    let sql = "INSERT INTO repeats AS kept (tag, at, free) SELECT tag, 0, -1 FROM unnest($1) AS asked (tag)
               ON CONFLICT (tag) DO UPDATE SET free = kept.free RETURNING tag, at, free";
    let mut known = HashMap::with_capacity(tags.len());
    for row in step.query_typed(sql, &[(&tags, Type::UUID_ARRAY)]).await? {
        let free: i16 = row.try_get(2)?;
        if free >= 0 {
            known
                .insert(id(&row, 0)?, Repeats { at: instant(&row, 1)?, free: u8::try_from(free).map_err(unreadable)? });
        }
    }
    Ok(known)
}

async fn keep(step: &Transaction<'_>, kept: &BTreeMap<u128, Repeats>) -> Result<(), Fault> {
    let tags: Vec<Id> = kept.keys().copied().map(Id).collect();
    let at: Vec<i64> = kept.values().map(|repeats| repeats.at.as_micros()).collect();
    let free: Vec<i16> = kept.values().map(|repeats| repeats.free.into()).collect();
    step.execute_typed(
        "UPDATE repeats SET at = new.at, free = new.free FROM unnest($1, $2, $3) AS new (tag, at, free)
         WHERE repeats.tag = new.tag",
        &[(&tags, Type::UUID_ARRAY), (&at, Type::INT8_ARRAY), (&free, Type::INT2_ARRAY)],
    )
    .await?;
    Ok(())
}

async fn keep_freed(step: &Transaction<'_>, batch: &Batch, freed: &[u64]) -> Result<(), Fault> {
    if freed.is_empty() {
        return Ok(());
    }
    let sequences: Vec<i64> = freed.iter().copied().map(to_column).collect();
    step.execute_typed(
        "INSERT INTO repeat_free (stream, sequence) SELECT $1, sequence FROM unnest($2) AS freed (sequence)
         ON CONFLICT DO NOTHING",
        &[(&Id(batch.stream.as_u128()), Type::UUID), (&sequences, Type::INT8_ARRAY)],
    )
    .await?;
    Ok(())
}

pub(super) async fn forget(step: &Transaction<'_>, through: Timestamp, most: i64) -> Result<(), Fault> {
    step.execute_typed(
        "DELETE FROM repeats WHERE ctid = ANY(ARRAY(
             SELECT ctid FROM repeats WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED))",
        &[(&kept_since(through).as_micros(), Type::INT8), (&most, Type::INT8)],
    )
    .await?;
    Ok(())
}
