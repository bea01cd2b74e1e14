//! Input that cannot be used, each fault with its place.

use std::fmt;

/// One fault of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where, as a JSON pointer (RFC 6901) into the document.
    pub pointer: String,
    /// What is wrong and what would be right, such as `must be at least 1`.
    pub detail: String,
}

/// A document that cannot be used: one or more faults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Invalid {
    /// All that were found, in the order of the document.
    pub faults: Vec<Fault>,
}

impl Invalid {
    /// One fault.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut invalid = Self::default();
        invalid.add(pointer, detail);
        invalid
    }

    /// Adds a fault.
    pub fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.faults.push(Fault { pointer: pointer.into(), detail: detail.into() });
    }

    /// `Ok` if nothing was found.
    ///
    /// # Errors
    /// `self` if there are faults.
    pub fn into_result(self) -> Result<(), Self> {
        if self.faults.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", fault.pointer, fault.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}
