//! What the browser complains about: the console, uncaught errors, the Content-Security-Policy, and files that did not load.

use std::fmt;

use serde_json::json;

use super::Browser;

/// A line of the browser's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `DEBUG`, `INFO`, `WARNING` or `SEVERE`.
    pub level: String,
    /// `console-api`, `javascript` (uncaught), `security` (the policy), `network` (not loaded) and others.
    pub source: String,
    /// The text, after the address it is about.
    pub text: String,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.level, self.source, self.text)
    }
}

impl Browser {
    /// Everything the browser logged since its start, on all pages.
    ///
    /// # Panics
    /// If the browser is gone.
    pub async fn console(&self) -> Vec<Message> {
        // What a page did before this round trip is in the log after it.
        self.evaluate("0").await;
        // The driver hands out each line once.
        let fresh = self.post("se/log", json!({ "type": "browser" })).await.unwrap();
        let word = |line: &serde_json::Value, member: &str| line[member].as_str().unwrap_or_default().to_owned();
        let fresh = fresh.as_array().into_iter().flatten().map(|line| Message {
            level: word(line, "level"),
            source: word(line, "source"),
            text: word(line, "message"),
        });
        let mut console = self.console.lock().unwrap();
        console.extend(fresh);
        console.clone()
    }

    /// Asserts that the browser logged nothing, on no page.
    ///
    /// # Panics
    /// If it did.
    pub async fn assert_quiet(&self) {
        self.assert_quiet_but(&[]).await;
    }

    /// Asserts that each line of the log has one of these words: a page that answers 404 is logged as not loaded.
    ///
    /// # Panics
    /// If a line has none.
    pub async fn assert_quiet_but(&self, expected: &[&str]) {
        let console = self.console().await;
        let loud = console.iter().filter(|message| !expected.iter().any(|word| message.text.contains(word)));
        let loud: Vec<_> = loud.map(Message::to_string).collect();
        assert!(loud.is_empty(), "the browser complains:\n{}\n{}", loud.join("\n"), self.page().await);
    }
}
