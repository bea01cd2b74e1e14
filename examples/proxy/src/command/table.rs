//! Lists for people: a table; for machines: JSON as it came.

use std::io;

use comfy_table::{Table, presets};
use serde_json::Value;

use super::say;

/// Prints a list: columns are a heading and the member it shows.
pub(super) fn print(items: &[Value], json: bool, columns: &[(&str, &str)]) -> io::Result<()> {
    if json {
        return say(format_args!("{:#}", Value::from(items.to_vec())));
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(columns.iter().map(|(heading, _)| *heading));
    for item in items {
        table.add_row(columns.iter().map(|(_, member)| cell(item.get(member))));
    }
    say(table.trim_fmt())
}

/// What people read of a value. Control characters in a name would move the cursor of their terminal.
fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) if items.is_empty() => "-".into(),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(" "),
        Some(other) => other.to_string(),
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_moves_no_cursor() {
        assert_eq!(cell(Some(&"a\u{1b}[2Jb".into())), "a\u{fffd}[2Jb");
        assert_eq!(cell(Some(&serde_json::json!(["a", "b"]))), "a b");
        assert_eq!(cell(None), "-");
    }
}
