//! A headless Chromium, as a person at a page has it: opens pages, clicks, types, reads, and says what went wrong in them.
//!
//! Every [`Browser`] is a process with a profile of its own. It reaches this machine and nothing else. All that waits, waits for a condition and at
//! most [`PATIENCE`]. What a step cannot do fails the test, with the page's address and text.
//!
//! Scripts of the tests run through the browser's debugger, which a page's Content-Security-Policy does not bind: the policy stays in force.

mod accessibility;
mod console;
mod cookie;
mod driver;
mod element;
mod session;
mod view;

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};

pub use accessibility::Violation;
pub use console::Message;
pub use cookie::Cookie;
pub use element::Target;
pub use fantoccini::key::Key;
pub use view::View;

use driver::Driver;

/// How long a step waits for what it needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is looked at. A look is a round trip to the browser, of a few milliseconds.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// A running browser with one page. It ends, with its profile, when it is dropped.
#[derive(Debug)]
pub struct Browser {
    client: fantoccini::Client,
    user_agent: String,
    console: Mutex<Vec<Message>>,
    scripts: AtomicBool,
    // Last: the driver's end is the browser's end.
    _driver: Driver,
}

impl Browser {
    /// Starts one with an empty page and the default [`View`].
    ///
    /// # Panics
    /// If Chromium or its driver is not installed, or does not come up.
    pub async fn start() -> Self {
        Self::start_with(&View::default()).await
    }

    /// Starts one with an empty page, seen as `view` says.
    ///
    /// # Panics
    /// If Chromium or its driver is not installed, or does not come up.
    pub async fn start_with(view: &View) -> Self {
        let (driver, client) = Driver::start().await;
        let mut browser = Self {
            client,
            user_agent: String::new(),
            console: Mutex::default(),
            scripts: AtomicBool::new(true),
            _driver: driver,
        };
        let version = browser.debugger("Browser.getVersion", json!({})).await;
        browser.user_agent = version["userAgent"].as_str().unwrap().to_owned();
        browser.look(view).await;
        browser
    }

    /// Opens a page and waits until it is loaded. A page that answers with an error status is a page.
    ///
    /// # Panics
    /// If nothing answers there.
    pub async fn open(&self, url: &str) {
        // Displayed, an error leaves the driver's stack out.
        self.client.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// Loads the page again.
    ///
    /// # Panics
    /// If nothing answers.
    pub async fn reload(&self) {
        self.client.refresh().await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Goes to the page before.
    ///
    /// # Panics
    /// If nothing answers.
    pub async fn back(&self) {
        self.client.back().await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The page's address.
    ///
    /// # Panics
    /// If the browser is gone.
    pub async fn url(&self) -> String {
        self.client.current_url().await.unwrap().to_string()
    }

    /// Presses and releases a key: it goes to what has the focus.
    ///
    /// # Panics
    /// If the browser is gone.
    pub async fn press(&self, key: Key) {
        self.press_together(&[key]).await;
    }

    /// Presses keys one after another and releases them in reverse: `&[Key::Shift, Key::Tab]`.
    ///
    /// # Panics
    /// If the browser is gone.
    pub async fn press_together(&self, keys: &[Key]) {
        use fantoccini::actions::{InputSource as _, KeyAction, KeyActions};

        let down = keys.iter().map(|key| KeyAction::Down { value: char::from(*key) });
        let up = keys.iter().rev().map(|key| KeyAction::Up { value: char::from(*key) });
        let actions =
            down.chain(up).fold(KeyActions::new("keyboard".to_owned()), |actions, action| actions.then(action));
        self.client.perform_actions(actions).await.unwrap();
    }

    /// The value of a JavaScript expression as JSON; of a promise, what it resolves to.
    ///
    /// # Panics
    /// If it throws.
    pub async fn evaluate(&self, expression: &str) -> Value {
        match self.try_evaluate(json!({ "expression": expression })).await {
            Ok(value) => value,
            Err(reason) => panic!("{expression}: {reason}"),
        }
    }

    /// Waits until a JavaScript expression is true.
    ///
    /// # Panics
    /// If it does not become true.
    pub async fn wait_until(&self, expression: &str) {
        let mut last = String::new();
        let poll = async {
            loop {
                // A page that is just being replaced has nothing to evaluate in: that is a "not yet", too.
                match self.try_evaluate(json!({ "expression": expression })).await {
                    Ok(Value::Bool(true)) => return,
                    Ok(value) => last = value.to_string(),
                    Err(reason) => last = reason,
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(PATIENCE, poll).await.is_err() {
            panic!("not true within {PATIENCE:?}: {expression}: {last}\n{}", self.page().await);
        }
    }

    /// Whether the page is wider than the window, so that it can be scrolled sideways.
    pub async fn horizontal_scroll(&self) -> bool {
        let element = "document.documentElement";
        self.evaluate(&format!("{element}.scrollWidth > {element}.clientWidth")).await == json!(true)
    }

    /// The page's address and visible text, for the message of a test that fails.
    async fn page(&self) -> String {
        let seen = self.try_evaluate(json!({ "expression": "location.href + '\\n' + document.body?.innerText" })).await;
        let seen = seen.map_or_else(|reason| reason, |seen| seen.as_str().unwrap_or_default().to_owned());
        format!("--- {seen}\n---")
    }
}
