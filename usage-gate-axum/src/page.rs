//! Lists in pages: `{"items":[…],"next_cursor":null|"…"}`.

use std::str::FromStr;

use serde_json::{Value, json};
use usage_gate_core::store::{Page, PageRequest};

use crate::parameters::Parameters;

const USUAL: usize = 50;
const MOST: usize = 200;

/// Takes `page_size` and `cursor`, which is to be a `Place` of this list: anything else would look like the end of it.
pub(crate) fn page_request<Place: FromStr>(parameters: &mut Parameters) -> PageRequest {
    let size = page_size(parameters);
    let after = parameters.text("cursor");
    if after.as_deref().is_some_and(|cursor| cursor.parse::<Place>().is_err()) {
        parameters.fault("cursor", "is not one of this list: send next_cursor as it came, or none to begin");
    }
    PageRequest { after, size }
}

/// Takes `page_size`.
pub(crate) fn page_size(parameters: &mut Parameters) -> usize {
    match parameters.parsed::<usize>("page_size") {
        Some(size) if !(1..=MOST).contains(&size) => {
            parameters.fault("page_size", format!("must be 1 to {MOST}"));
            USUAL
        }
        size => size.unwrap_or(USUAL),
    }
}

/// The document of a page; `shown` has its items, `id` names the last as cursor.
pub(crate) fn document<T>(page: &Page<T>, shown: Vec<Value>, id: impl Fn(&T) -> String) -> Value {
    let cursor = page.items.last().filter(|_| page.more).map(id);
    json!({"items": shown, "next_cursor": cursor})
}
