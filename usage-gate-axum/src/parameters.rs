//! Query parameters: each is taken by name, and what nobody takes is refused.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use http::request::Parts;
use usage_gate_core::management::Invalid;

use crate::answer::Problem;

/// The parameters of a request that are not taken yet, and the faults of those that are.
#[derive(Debug)]
pub(crate) struct Parameters {
    left: Vec<(String, String)>,
    invalid: Invalid,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(left) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| Problem::invalid("", "the query cannot be read"))?;
        Ok(Self { left, invalid: Invalid::default() })
    }
}

impl Parameters {
    /// The value of a parameter; given twice is a fault, since two readers would take different ones.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let at = self.left.iter().position(|(known, _)| known == name)?;
        let (_, value) = self.left.remove(at);
        if self.left.iter().any(|(known, _)| known == name) {
            self.left.retain(|(known, _)| known != name);
            self.invalid.add(format!("/{name}"), "is given twice");
        }
        Some(value)
    }

    /// The value read as `T`.
    pub(crate) fn parsed<T>(&mut self, name: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let text = self.text(name)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(name, T::Err::to_string(&error));
                None
            }
        }
    }

    /// The value as one of these words.
    pub(crate) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let text = self.text(name)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.fault(name, format!("must be one of {}", words.join(", ")));
        }
        found
    }

    pub(crate) fn fault(&mut self, name: &str, detail: impl Into<String>) {
        self.invalid.add(format!("/{name}"), detail);
    }

    /// Every parameter is known, and every value good.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.left) {
            let shown: String = name.chars().take(64).collect();
            self.invalid.add(format!("/{shown}"), "is not a parameter of this request");
        }
        self.invalid.into_result().map_err(Problem::from)
    }
}
