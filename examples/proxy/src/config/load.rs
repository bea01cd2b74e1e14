//! Reads the file and the environment, and says where what is wrong stands.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::env::Override;
use super::{Config, later};

/// A configuration, and where its values came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) config: Config,
    source: Option<Source>,
    /// Variables that were laid over the file.
    overrides: Vec<Override>,
    /// Keys that the command line has overruled, and its options for them.
    options: Vec<(&'static str, &'static str)>,
}

/// What is wrong with a configuration: a line each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Faults(pub(crate) Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Faults {}

impl From<String> for Faults {
    fn from(fault: String) -> Self {
        Self(vec![fault])
    }
}

/// Reads a file, if any, and lays the environment over it.
pub(crate) fn load(path: Option<&Path>, overrides: &[Override]) -> Result<Loaded, Faults> {
    let source = match path {
        Some(path) => {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(path).map_err(|fault| format!("{name}: cannot be read: {fault}"))?;
            Some(Source { name, text })
        }
        None => None,
    };
    let empty = Source { name: String::new(), text: String::new() };
    let config = read(source.as_ref().unwrap_or(&empty), overrides)?;
    Ok(Loaded { config, source, overrides: overrides.to_vec(), options: Vec::new() })
}

/// Reads a text that is part of the program, and lays the environment over it.
pub(crate) fn load_text(name: &str, text: &str, overrides: &[Override]) -> Result<Loaded, Faults> {
    let source = Source { name: name.to_owned(), text: text.to_owned() };
    let config = read(&source, overrides)?;
    Ok(Loaded { config, source: Some(source), overrides: overrides.to_vec(), options: Vec::new() })
}

fn read(source: &Source, overrides: &[Override]) -> Result<Config, Faults> {
    let parsed = DeTable::parse(&source.text).map_err(|fault| source.describe(&fault, None))?;
    let mut table = parsed.into_inner();
    let later = later::take(&mut table);
    if !later.is_empty() {
        return Err(Faults(later.into_iter().map(|(span, fault)| source.at(&span, &fault)).collect()));
    }
    let mut config = deserialize(&table).map_err(|fault| source.describe(&fault, Some(&table)))?;
    for variable in overrides {
        (table, config) = overlay(table, variable)?;
    }
    if config.upstream.url.is_none() {
        config.upstream.url = config.upstream.urls.pop();
    }
    Ok(config)
}

fn deserialize(table: &DeTable<'_>) -> Result<Config, toml::de::Error> {
    Config::deserialize(Deserializer::from(Spanned::new(0..0, table.clone())))
}

/// Lays one variable over the document: the first of its readings that the key takes.
fn overlay<'i>(table: DeTable<'i>, variable: &'i Override) -> Result<(DeTable<'i>, Config), Faults> {
    let name = &variable.variable;
    let mut first_fault = None;
    for reading in variable.readings() {
        let mut alone = DeTable::new();
        variable.insert(&mut alone, reading.clone());
        if let Some((_, fault)) = later::take(&mut alone).pop() {
            return Err(format!("environment: {name}: {fault}").into());
        }
        let mut with = table.clone();
        if !variable.insert(&mut with, reading) {
            return Err(format!("environment: {name}: there is no such key").into());
        }
        // What is at its default although it is not built was judged above and may go.
        later::take(&mut with);
        match deserialize(&with) {
            Ok(config) => return Ok((with, config)),
            Err(fault) => first_fault = Some(fault),
        }
    }
    let reason = first_fault.map_or_else(String::new, |fault| plain(fault.message()));
    Err(format!("environment: {name}: {reason}").into())
}

impl Loaded {
    /// A complaint about a part of a route, with its place if the file has it.
    pub(crate) fn about_route(&self, index: usize, fault: &str) -> String {
        self.source.as_ref().map_or_else(|| fault.to_owned(), |source| source.about_route(index, fault))
    }

    /// Puts a value of the command line over a key; what is wrong with it is the option's from now on.
    pub(crate) fn overrule(&mut self, key: &'static str, option: &'static str, set: impl FnOnce(&mut Config)) {
        set(&mut self.config);
        self.options.push((key, option));
    }

    /// A complaint about a key such as `portal.name`: named after what said its value last, the command line, the environment or the file.
    pub(crate) fn about(&self, key: &str, fault: &str) -> String {
        if let Some((_, option)) = self.options.iter().find(|(overruled, _)| *overruled == key) {
            return format!("{option}: {fault}");
        }
        let path = || key.split('.');
        if let Some(variable) = self.overrides.iter().find(|variable| variable.path.iter().eq(path())) {
            return format!("environment: {}: {fault}", variable.variable);
        }
        let fault = format!("{key}: {fault}");
        let found = self.source.as_ref().and_then(|source| {
            let table = DeTable::parse(&source.text).ok()?.into_inner();
            Some(source.at(&deepest(&table, path())?, &fault))
        });
        found.unwrap_or(fault)
    }
}

/// Where a key stands; where it does not, the closest of the tables that it would be in.
fn deepest<'k>(table: &DeTable<'_>, mut path: impl Iterator<Item = &'k str>) -> Option<Range<usize>> {
    let (key, value) = table.get_key_value(path.next()?)?;
    let inner = value.get_ref().as_table().and_then(|inner| deepest(inner, path));
    Some(inner.unwrap_or_else(|| key.span()))
}

/// The file's text under its name.
#[derive(Debug)]
struct Source {
    name: String,
    text: String,
}

impl Source {
    /// `file:line:column: fault`, counted from 1, columns in characters.
    fn at(&self, span: &Range<usize>, fault: &str) -> String {
        let before = self.text.get(..span.start).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}: {fault}", self.name)
    }

    fn describe(&self, fault: &toml::de::Error, table: Option<&DeTable<'_>>) -> String {
        let mut message = plain(fault.message());
        let Some(span) = fault.span() else { return format!("{}: {message}", self.name) };
        let key = table.and_then(|table| key_at(table, span.start)).filter(|_| !message.starts_with("unknown key"));
        if let Some(key) = key {
            message = format!("{key}: {message}");
        }
        self.at(&span, &message)
    }

    fn about_route(&self, index: usize, fault: &str) -> String {
        let span = DeTable::parse(&self.text).ok().and_then(|table| {
            let routes = table.get_ref().get("routes")?.get_ref().as_array()?;
            Some(routes.get(index)?.span())
        });
        span.map_or_else(|| fault.to_owned(), |span| self.at(&span, fault))
    }
}

/// Serde's words in ours.
fn plain(message: &str) -> String {
    message.trim().replace("unknown field", "unknown key").replace("missing field", "missing key")
}

/// The key whose name or value stands at an offset.
fn key_at(table: &DeTable<'_>, offset: usize) -> Option<String> {
    for (key, value) in table {
        let inner = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, offset),
            value => {
                items_of(value).filter_map(|item| item.get_ref().as_table()).find_map(|inner| key_at(inner, offset))
            }
        };
        if let Some(inner) = inner {
            return Some(format!("{}.{inner}", key.get_ref()));
        }
        let mut spans = [key.span(), value.span()].into_iter().chain(items_of(value.get_ref()).map(Spanned::span));
        if spans.any(|span| span.contains(&offset)) {
            return Some(key.get_ref().to_string());
        }
    }
    None
}

fn items_of<'t, 'i>(value: &'t DeValue<'i>) -> impl Iterator<Item = &'t Spanned<DeValue<'i>>> {
    value.as_array().into_iter().flat_map(|items| items.iter())
}

#[cfg(test)]
mod tests {
    use super::super::overrides;
    use super::*;

    fn read_text(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let source = Source { name: "usage-gate.toml".into(), text: text.into() };
        let variables = variables.iter().map(|(name, text)| ((*name).into(), (*text).into()));
        read(&source, &overrides(variables)).map_err(|faults| faults.to_string())
    }

    #[track_caller]
    fn check_fault(text: &str, expected: &str) {
        let fault = read_text(text, &[]).unwrap_err();
        assert!(fault.starts_with(expected), "{fault}\nexpected {expected}");
    }

    #[test]
    fn a_fault_names_line_column_and_key() {
        check_fault("[server]\nlisten = \"127.0.0.1:1\"\n\n[serverr]\n", "usage-gate.toml:4:2: unknown key `serverr`");
        check_fault("[server]\n  lissten = 1\n", "usage-gate.toml:2:3: unknown key `lissten`");
        check_fault(
            "[server]\nlisten = \"nowhere\"\n",
            "usage-gate.toml:2:10: server.listen: `nowhere` is not an address",
        );
        check_fault(
            "[upstream]\nhead_timeout = \"30\"\n",
            "usage-gate.toml:2:16: upstream.head_timeout: `30` is not a duration",
        );
        check_fault("[abuse]\nblock = \"0s\"\n", "usage-gate.toml:2:9: abuse.block: must be above zero");
        check_fault("[abuse]\ndeny = [\"10.0.0.0/33\"]\n", "usage-gate.toml:2:");
        check_fault("[server]\nlisten = \n", "usage-gate.toml:2:");
        check_fault(
            "[[routes]]\npath = \"/a\"\n[[routes]]\nname = \"b\"\n",
            "usage-gate.toml:3:1: routes: missing key `path`",
        );
        check_fault("[meters.rows]\nunit = 1\n", "usage-gate.toml:2:1: unknown key `unit`");
    }

    #[test]
    fn a_number_out_of_bounds_or_without_its_unit_is_told_what_to_write() {
        check_fault(
            "[abuse]\nbad_credentials = -1\n",
            "usage-gate.toml:2:19: abuse.bad_credentials: invalid value: integer `-1`, expected a whole number from 0 to 65535",
        );
        check_fault(
            "[abuse]\nblock = 10\n",
            "usage-gate.toml:2:9: abuse.block: `10` has no unit: write \"10s\" for seconds",
        );
        check_fault(
            "[server]\ndrain = true\n",
            "usage-gate.toml:2:9: server.drain: invalid type: boolean `true`, expected a duration",
        );
    }

    #[test]
    fn what_is_found_later_is_blamed_on_what_said_it() {
        let text = "[server]\npublic_url = \"http://a\"\n[portal]\n\nexample = \"/\"\n";
        let variables = [("USAGE_GATE__PORTAL__NAME".into(), "x".into())];
        let mut loaded = load_text("usage-gate.toml", text, &overrides(variables)).unwrap();
        loaded.overrule("upstream.url", "--upstream", |_| {});
        for (key, expected) in [
            ("portal.example", "usage-gate.toml:5:1: portal.example: bad"),
            ("portal.logo_file", "usage-gate.toml:3:2: portal.logo_file: bad"),
            ("portal.name", "environment: USAGE_GATE__PORTAL__NAME: bad"),
            ("upstream.url", "--upstream: bad"),
            ("admin.token_file", "admin.token_file: bad"),
        ] {
            assert_eq!(loaded.about(key, "bad"), expected);
        }
    }

    #[test]
    fn what_is_not_built_yet_is_an_error_unless_it_changes_nothing() {
        check_fault("[server.tls]\ncert_file = \"a\"\n", "usage-gate.toml:1:9: `server.tls` is not built yet");
        check_fault(
            "[upstream]\nurls = [\"http://a\", \"http://b\"]\n",
            "usage-gate.toml:2:1: several `upstream.urls`",
        );
        let text = "[server]\nproxy_protocol = false\n[upstream]\nurls = [\"http://a\"]\nhttp2 = false\n";
        assert_eq!(read_text(text, &[]).unwrap().upstream.url.unwrap().to_string(), "http://a");
    }

    #[test]
    fn a_route_says_how_it_is_metered_and_only_in_words_that_are_known() {
        let text = "[[routes]]\npath = \"/\"\ntokens = \"openai\"\non_hang_up = \"drain\"\nbill_retries = \"once\"\n";
        read_text(text, &[]).unwrap();
        for (key, other) in [("tokens", "gemini"), ("on_hang_up", "wait"), ("bill_retries", "twice")] {
            check_fault(&format!("[[routes]]\npath = \"/\"\n{key} = \"{other}\"\n"), "usage-gate.toml:3:");
        }
    }

    #[test]
    fn every_later_key_is_named_in_one_go() {
        let fault = read_text("[server]\nproxy_protocol = true\n[server.tls]\n", &[]).unwrap_err();
        assert_eq!(fault.lines().count(), 2, "{fault}");
    }

    #[test]
    fn the_environment_overrides_and_is_blamed_by_name() {
        let set = [
            ("USAGE_GATE__SERVER__LISTEN", "127.0.0.1:9"),
            ("USAGE_GATE__SERVER__NODE", "7"),
            ("USAGE_GATE__LIMITS__LEGACY_HEADERS", "true"),
            ("USAGE_GATE__SERVER__TRUSTED_PROXIES", "[\"10.0.0.0/8\"]"),
            ("USAGE_GATE__UPSTREAM__HTTP2", "false"),
            ("USAGE_GATE__METERS__ROWS", "{}"),
            ("PATH", "/bin"),
        ];
        let config = read_text("[server]\nlisten = \"127.0.0.1:1\"\n", &set).unwrap();
        assert_eq!(config.server.listen.port(), 9);
        assert_eq!(config.server.node.as_deref(), Some("7"));
        assert!(config.limits.legacy_headers && config.server.trusted_proxies.len() == 1);
        assert!(config.meters.contains_key("rows"));

        for (name, value, expected) in [
            ("USAGE_GATE__SERVER__LISTEN", "x", "environment: USAGE_GATE__SERVER__LISTEN: `x` is not an address"),
            ("USAGE_GATE__SERVERR__LISTEN", "x", "environment: USAGE_GATE__SERVERR__LISTEN: unknown key `serverr`"),
            (
                "USAGE_GATE__SERVER__PROXY_PROTOCOL",
                "true",
                "environment: USAGE_GATE__SERVER__PROXY_PROTOCOL: `server.proxy_protocol` is not built",
            ),
        ] {
            let fault = read_text("", &[(name, value)]).unwrap_err();
            assert!(fault.starts_with(expected), "{fault}");
        }
    }
}
