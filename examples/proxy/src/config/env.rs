//! The environment: `USAGE_GATE__SERVER__LISTEN=…` overrides `server.listen`.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

const PREFIX: &str = "USAGE_GATE__";

/// One variable, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Override {
    pub(super) variable: String,
    pub(super) path: Vec<String>,
    pub(super) text: String,
}

/// Ours among the variables, in the order of their names, so that the same environment always reads the same.
pub(crate) fn overrides(
    variables: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Vec<Override> {
    let mut overrides: Vec<Override> = variables
        .into_iter()
        .filter_map(|(variable, text)| {
            let variable = variable.into_string().ok()?;
            let path = variable.strip_prefix(PREFIX)?.split("__").map(str::to_ascii_lowercase).collect();
            // What is not UTF-8 becomes a text that no key takes, and is complained about by name.
            Some(Override { path, text: text.to_string_lossy().into_owned(), variable })
        })
        .collect();
    overrides.sort_by(|a, b| a.variable.cmp(&b.variable));
    overrides
}

impl Override {
    /// What the text may stand for, in the order in which it is tried: a TOML value (`true`, `7`, `["a"]`), then itself.
    pub(super) fn readings(&self) -> impl Iterator<Item = DeValue<'_>> {
        let toml = DeValue::parse(&self.text).ok().map(Spanned::into_inner);
        toml.into_iter().chain(std::iter::once(DeValue::String(self.text.as_str().into())))
    }

    /// Puts a reading in its place; `false` if a part of the path is not a table.
    pub(super) fn insert<'i>(&'i self, table: &mut DeTable<'i>, reading: DeValue<'i>) -> bool {
        let Some((last, parents)) = self.path.split_last() else { return false };
        let mut at = table;
        for parent in parents {
            let empty = || Spanned::new(0..0, DeValue::Table(DeTable::new()));
            let key = Spanned::new(0..0, parent.as_str().into());
            match at.entry(key).or_insert_with(empty).get_mut() {
                DeValue::Table(inner) => at = inner,
                _ => return false,
            }
        }
        at.insert(Spanned::new(0..0, last.as_str().into()), Spanned::new(0..0, reading));
        true
    }
}
