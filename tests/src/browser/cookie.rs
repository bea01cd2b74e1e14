//! Cookies, also those that scripts cannot see: to look at their attributes, and to steal them.

use serde_json::{Value, json};

use super::Browser;

/// A cookie of the page that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// The paths it is sent to.
    pub path: String,
    /// Whether scripts are kept from it.
    pub http_only: bool,
    /// Whether it is sent over TLS, or to this machine, only.
    pub secure: bool,
    /// `Strict`, `Lax` or `None`; empty if the server did not say.
    pub same_site: String,
    /// Whether it ends with the browser.
    pub session: bool,
}

impl Browser {
    /// The cookies that are sent to the page's address.
    ///
    /// # Panics
    /// If the browser is gone.
    pub async fn cookies(&self) -> Vec<Cookie> {
        let answer = self.debugger("Network.getCookies", json!({ "urls": [self.url().await] })).await;
        let word = |cookie: &Value, member: &str| cookie[member].as_str().unwrap_or_default().to_owned();
        let flag = |cookie: &Value, member: &str| cookie[member].as_bool().unwrap_or_default();
        let cookies = answer["cookies"].as_array().into_iter().flatten();
        cookies
            .map(|cookie| Cookie {
                name: word(cookie, "name"),
                value: word(cookie, "value"),
                path: word(cookie, "path"),
                http_only: flag(cookie, "httpOnly"),
                secure: flag(cookie, "secure"),
                same_site: word(cookie, "sameSite"),
                session: flag(cookie, "session"),
            })
            .collect()
    }

    /// Sets a cookie for the page's host, as if its server had.
    ///
    /// # Panics
    /// If the browser refuses it.
    pub async fn set_cookie(&self, cookie: &Cookie) {
        let Cookie { name, value, path, http_only, secure, same_site, session: _ } = cookie;
        let mut parameters = json!({
            "url": self.url().await, "name": name, "value": value, "path": path, "httpOnly": http_only, "secure": secure,
        });
        if !same_site.is_empty() {
            parameters["sameSite"] = same_site.as_str().into();
        }
        let answer = self.debugger("Network.setCookie", parameters).await;
        assert_eq!(answer["success"], true, "the browser refuses {cookie:?}");
    }

    /// Deletes the cookies of that name that are sent to the page's address.
    ///
    /// # Panics
    /// If the browser is gone.
    pub async fn delete_cookie(&self, name: &str) {
        self.debugger("Network.deleteCookies", json!({ "url": self.url().await, "name": name })).await;
    }
}
