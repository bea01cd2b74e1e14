//! Elements as a person names them, and what is done with them.
//!
//! A step looks for its element until it is there and can be used, so a test needs no wait between a click and what the click brings.

use fantoccini::Locator;
use fantoccini::elements::Element;
use fantoccini::error::{CmdError, ErrorStatus};
use serde_json::{Value, json};

use super::{Browser, LOOK_EVERY, PATIENCE};

/// Which element is meant: it must be the only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// A CSS selector. A `&str` becomes this.
    Css(&'a str),
    /// A role and the whole name, as assistive software is told them: `Role("button", "Save")`. Fields are `textbox`, selects `combobox`.
    Role(&'a str, &'a str),
    /// The whole text of an element that has text of its own, with runs of white space as one space.
    Text(&'a str),
}

impl<'a> From<&'a str> for Target<'a> {
    fn from(selector: &'a str) -> Self {
        Self::Css(selector)
    }
}

impl Browser {
    /// Clicks, and waits for the page that the click opens, if it does.
    ///
    /// # Panics
    /// If there is nothing to click.
    pub async fn click(&self, target: impl Into<Target<'_>>) {
        self.with_element(target.into(), "click", async |element| element.click().await.map(Some)).await;
    }

    /// Replaces what is in a field.
    ///
    /// # Panics
    /// If there is no field that can be filled.
    pub async fn fill(&self, target: impl Into<Target<'_>>, text: &str) {
        let fill = async |element: Element| {
            element.clear().await?;
            element.send_keys(text).await.map(Some)
        };
        self.with_element(target.into(), "fill", fill).await;
    }

    /// Chooses the option with this label in a `<select>`.
    ///
    /// # Panics
    /// If there is no such option.
    pub async fn choose(&self, target: impl Into<Target<'_>>, label: &str) {
        let choose = async |element: Element| element.select_by_label(label).await.map(Some);
        self.with_element(target.into(), "choose", choose).await;
    }

    /// Waits until an element is visible.
    ///
    /// # Panics
    /// If it does not become visible.
    pub async fn see(&self, target: impl Into<Target<'_>>) {
        let see = async |element: Element| Ok(element.is_displayed().await?.then_some(()));
        self.with_element(target.into(), "see", see).await;
    }

    /// An element's visible text.
    ///
    /// # Panics
    /// If there is no such element.
    pub async fn text(&self, target: impl Into<Target<'_>>) -> String {
        self.with_element(target.into(), "read", async |element| element.text().await.map(Some)).await
    }

    /// An element's attribute, or a property if there is one of that name: of `value` what a person typed.
    ///
    /// # Panics
    /// If there is no such element.
    pub async fn attribute(&self, target: impl Into<Target<'_>>, name: &str) -> Option<String> {
        let read = async |element: Element| {
            let property = element.prop(name).await?;
            Ok(Some(if property.is_some() { property } else { element.attr(name).await? }))
        };
        self.with_element(target.into(), "read", read).await
    }

    /// How many elements there are now; it does not wait for any.
    ///
    /// # Panics
    /// If the selector is none.
    pub async fn count(&self, target: impl Into<Target<'_>>) -> usize {
        self.find_all(target.into()).await.unwrap().len()
    }

    /// Does something with the one element that is meant, as soon as it is there and lets it be done.
    async fn with_element<T>(
        &self,
        target: Target<'_>,
        what: &str,
        act: impl AsyncFn(Element) -> Result<Option<T>, CmdError>,
    ) -> T {
        let mut reason = String::new();
        let attempts = async {
            loop {
                let mut found = match self.find_all(target).await {
                    Ok(found) => found,
                    Err(error) if is_passing(&error) => Vec::new(),
                    Err(error) => panic!("cannot look for {target:?}: {error}"),
                };
                reason = match (found.pop(), found.len()) {
                    (None, _) => "there is none".to_owned(),
                    (Some(element), 0) => match act(element).await {
                        Ok(Some(done)) => return done,
                        Ok(None) => "it is hidden".to_owned(),
                        Err(error) if is_passing(&error) => error.to_string(),
                        Err(error) => panic!("cannot {what} {target:?}: {error}"),
                    },
                    (Some(_), others) => format!("there are {}", others + 1),
                };
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        match tokio::time::timeout(PATIENCE, attempts).await {
            Ok(done) => done,
            Err(_) => panic!("cannot {what} {target:?} within {PATIENCE:?}: {reason}\n{}", self.page().await),
        }
    }

    async fn find_all(&self, target: Target<'_>) -> Result<Vec<Element>, CmdError> {
        match target {
            Target::Css(selector) => self.client.find_all(Locator::Css(selector)).await,
            Target::Role(role, name) => self.find_by_role(role, name).await,
            Target::Text(text) => {
                // XPath has no escapes: a text with both kinds of quotes is put together.
                let quoted = text.split('"').map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(", '\"', ");
                let path = format!("//body//*[text()[normalize-space()]][normalize-space()=concat({quoted}, '')]");
                self.client.find_all(Locator::XPath(&path)).await
            }
        }
    }

    /// Asks the accessibility tree, which knows labels, `aria-*`, and what is hidden.
    async fn find_by_role(&self, role: &str, name: &str) -> Result<Vec<Element>, CmdError> {
        let document = self.try_debugger("DOM.getDocument", json!({ "depth": 0 })).await?;
        let query = json!({ "nodeId": document["root"]["nodeId"], "role": role, "accessibleName": name });
        let tree = self.try_debugger("Accessibility.queryAXTree", query).await?;
        let nodes = tree["nodes"].as_array().into_iter().flatten().filter(|node| node["ignored"] != json!(true));
        let mut found = Vec::new();
        for node in nodes {
            found.push(self.element(&node["backendDOMNodeId"]).await?);
        }
        Ok(found)
    }

    /// The debugger's node as WebDriver's element. A global under a symbol, which nothing enumerates, carries it over.
    async fn element(&self, node: &Value) -> Result<Element, CmdError> {
        const SLOT: &str = "window[Symbol.for('usage-gate-tests')]";

        let resolved = self.try_debugger("DOM.resolveNode", json!({ "backendNodeId": node })).await?;
        let keep = json!({
            "objectId": resolved["object"]["objectId"], "functionDeclaration": format!("function () {{ {SLOT} = this }}"),
        });
        self.try_debugger("Runtime.callFunctionOn", keep).await?;
        let take = format!("const element = {SLOT}; delete {SLOT}; return element");
        let reference = self.client.execute(&take, Vec::new()).await?;
        let id = reference.as_object().and_then(|reference| reference.values().next()).and_then(Value::as_str);
        let id = id.ok_or_else(|| CmdError::NotW3C(reference.clone()))?;
        Ok(Element::from_element_id(self.client.clone(), id.to_owned().into()))
    }
}

/// Whether it may go by itself: the page is being replaced, something is in front, a field is not enabled yet.
fn is_passing(error: &CmdError) -> bool {
    use ErrorStatus as Status;

    let CmdError::Standard(error) = error else { return false };
    match error.error {
        Status::NoSuchElement
        | Status::StaleElementReference
        | Status::ElementNotInteractable
        | Status::ElementClickIntercepted
        | Status::InvalidElementState => true,
        // What the debugger says of a node or a page that has just gone.
        Status::UnknownError | Status::InvalidArgument => {
            ["Could not find node", "No node", "Node with given id", "Cannot find context", "context was destroyed"]
                .iter()
                .any(|gone| error.message.contains(gone))
        }
        _ => false,
    }
}
