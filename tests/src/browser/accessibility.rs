//! What axe-core finds in a page: faults that keep people out who use it with a keyboard, a screen reader, or weak eyes.

use std::fmt;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Browser;

const AXE: &str = include_str!("../../vendor/axe.min.js");

/// A rule that the page breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule: `button-name`.
    pub id: String,
    /// `serious` or `critical`.
    pub impact: String,
    /// What the rule wants.
    pub help: String,
    /// The elements, each as a selector and its markup.
    pub elements: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.id, self.impact, self.help)?;
        self.elements.iter().try_for_each(|element| write!(f, "\n    {element}"))
    }
}

impl Browser {
    /// The serious and critical violations in the page as it is now.
    ///
    /// # Panics
    /// If axe-core cannot run.
    pub async fn axe(&self) -> Vec<Violation> {
        // axe waits with timers, which a page without scripts does not have. The page is parsed: none of its own scripts start now.
        let scripts = self.scripts.load(Ordering::Relaxed);
        self.allow_scripts(true).await;
        // A world of its own: the same page, but the page's scripts and axe do not see each other's globals.
        let tree = self.debugger("Page.getFrameTree", json!({})).await;
        let frame = &tree["frameTree"]["frame"]["id"];
        let world = self.debugger("Page.createIsolatedWorld", json!({ "frameId": frame, "worldName": "axe" })).await;
        let run = async |expression: &str| {
            let parameters = json!({ "contextId": world["executionContextId"], "expression": expression });
            self.try_evaluate(parameters).await.unwrap_or_else(|reason| panic!("axe: {reason}"))
        };
        if run("typeof axe").await == "undefined" {
            run(&format!("{AXE}\n;true")).await;
        }
        let found = run("axe.run(document, { resultTypes: ['violations'] }).then(result => result.violations)").await;
        self.allow_scripts(scripts).await;
        let violations = found.as_array().into_iter().flatten().map(violation);
        violations.filter(|violation| ["serious", "critical"].contains(&violation.impact.as_str())).collect()
    }

    /// Asserts that [`axe`](Self::axe) finds nothing.
    ///
    /// # Panics
    /// If it does.
    pub async fn assert_accessible(&self) {
        let violations: Vec<_> = self.axe().await.iter().map(Violation::to_string).collect();
        assert!(violations.is_empty(), "axe finds:\n{}\n{}", violations.join("\n"), self.page().await);
    }
}

fn violation(found: &Value) -> Violation {
    let word = |member: &str| found[member].as_str().unwrap_or_default().to_owned();
    let elements = found["nodes"].as_array().into_iter().flatten();
    let elements = elements.map(|node| format!("{} {}", node["target"], node["html"].as_str().unwrap_or_default()));
    Violation { id: word("id"), impact: word("impact"), help: word("help"), elements: elements.collect() }
}
