//! Keys of the contract that a later version builds.
//!
//! Such a key is never silently ignored: somebody relies on it. It is an error that names the key, unless it is set to
//! what already happens. Keys found here are taken out of the document, so that no struct has to carry them.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// A key, and the value that changes nothing, if there is one.
const LATER: &[(&[&str], Option<&str>)] = &[
    (&["server", "tls"], None),
    (&["server", "proxy_protocol"], Some("false")),
    (&["upstream", "http2"], Some("false")),
];

/// Takes those keys out; gives the place and the complaint of each that asks for something that is not there.
pub(super) fn take(table: &mut DeTable<'_>) -> Vec<(Range<usize>, String)> {
    let mut found = Vec::new();
    for (path, default) in LATER {
        take_one(table, path, &mut |span, value| {
            let name = path.join(".");
            match default {
                Some(default) if reads(value, default) => {}
                Some(default) => found.push((
                    span,
                    format!(
                        "`{name}` is not built yet in this version: remove it, or leave it at its default, {default}"
                    ),
                )),
                None => found.push((span, format!("`{name}` is not built yet in this version: remove it"))),
            }
        });
    }
    if let Some(DeValue::Table(upstream)) = table.get("upstream").map(toml::Spanned::get_ref)
        && let Some((key, urls)) = upstream.get_key_value("urls")
        && urls.get_ref().as_array().is_some_and(|urls| urls.len() > 1)
    {
        let complaint = "several `upstream.urls` are not built yet in this version: name one, as `upstream.url`";
        found.push((key.span(), complaint.into()));
    }
    found
}

fn reads(value: &DeValue<'_>, expected: &str) -> bool {
    match value {
        DeValue::String(text) => text == expected,
        DeValue::Boolean(flag) => (if *flag { "true" } else { "false" }) == expected,
        _ => false,
    }
}

fn take_one(table: &mut DeTable<'_>, path: &[&str], found: &mut dyn FnMut(Range<usize>, &DeValue<'_>)) {
    match path {
        [] => {}
        [key] => {
            if let Some((key, value)) = table.remove_entry(*key) {
                found(key.span(), value.get_ref());
            }
        }
        [key, rest @ ..] => {
            if let Some(DeValue::Table(inner)) = table.get_mut(*key).map(toml::Spanned::get_mut) {
                take_one(inner, rest, found);
            }
        }
    }
}
