//! What a page is seen with: the window, the language, and what a person has set in the system.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::Browser;

/// A window and a person's settings.
///
/// ```
/// # use usage_gate_tests::browser::View;
/// let phone = View { width: 390, height: 844, dark: true, ..View::default() };
/// let japanese = View { language: "ja".to_owned(), ..phone };
/// ```
#[derive(Debug, Clone)]
pub struct View {
    /// Of the window, in CSS pixels.
    pub width: u32,
    /// Of the window, in CSS pixels.
    pub height: u32,
    /// Languages that the person reads, best first: `ja,en`. In `Accept-Language`, `navigator.languages` and `Intl`.
    pub language: String,
    /// Whether a dark colour scheme is preferred.
    pub dark: bool,
    /// Whether less motion is wanted.
    pub reduced_motion: bool,
    /// Whether pages may run scripts. What a test evaluates runs in any case.
    pub scripts: bool,
}

impl Default for View {
    fn default() -> Self {
        let language = "en".to_owned();
        Self { width: 1440, height: 900, language, dark: false, reduced_motion: false, scripts: true }
    }
}

impl Browser {
    /// Sees pages as `view` says from now on. An open page follows at once, except for language and scripts, which the next one has.
    ///
    /// # Panics
    /// If the browser refuses a value.
    pub async fn look(&self, view: &View) {
        let View { width, height, language, dark, reduced_motion, scripts } = view;
        // Not `mobile`: it zooms out of what is too wide, and so hides it.
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.debugger("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!([
            { "name": "prefers-color-scheme", "value": if *dark { "dark" } else { "light" } },
            { "name": "prefers-reduced-motion", "value": if *reduced_motion { "reduce" } else { "no-preference" } },
        ]);
        self.debugger("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        let agent = json!({ "userAgent": self.user_agent, "acceptLanguage": language });
        self.debugger("Emulation.setUserAgentOverride", agent).await;
        let first = language.split(',').next().unwrap_or_default();
        // One override at a time is allowed, and an empty one ends it.
        self.debugger("Emulation.setLocaleOverride", json!({ "locale": "" })).await;
        self.debugger("Emulation.setLocaleOverride", json!({ "locale": first.replace('-', "_") })).await;
        self.allow_scripts(*scripts).await;
    }

    pub(super) async fn allow_scripts(&self, allowed: bool) {
        self.debugger("Emulation.setScriptExecutionDisabled", json!({ "value": !allowed })).await;
        self.scripts.store(allowed, Ordering::Relaxed);
    }

    /// A picture of the whole page, however long it is, as PNG.
    ///
    /// # Panics
    /// If the browser cannot take it.
    pub async fn screenshot(&self) -> Vec<u8> {
        use base64::Engine as _;

        let metrics = self.debugger("Page.getLayoutMetrics", json!({})).await;
        let size = &metrics["cssContentSize"];
        let clip = json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 });
        let parameters = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.debugger("Page.captureScreenshot", parameters).await;
        base64::engine::general_purpose::STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }
}
