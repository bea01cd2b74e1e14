//! What of an exchange is metered and billed.

/// Statuses that are billed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BillOn {
    exact: Vec<u16>,
    classes: u8,
}

impl Default for BillOn {
    /// 101 and 2xx.
    fn default() -> Self {
        Self { exact: vec![101], classes: 1 << 2 }
    }
}

impl BillOn {
    /// Of statuses (`101`) and classes (`2xx`); `None` if a word is neither.
    #[must_use]
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut bill_on = Self { exact: Vec::new(), classes: 0 };
        for word in words {
            if let Some(class) = word.strip_suffix("xx") {
                let class: u8 = class.parse().ok().filter(|class| (1..=5).contains(class))?;
                bill_on.classes |= 1 << class;
            } else {
                bill_on.exact.push(word.parse().ok().filter(|status| (100..=599).contains(status))?);
            }
        }
        Some(bill_on)
    }

    /// Whether a response with this status is billed.
    #[must_use]
    pub fn bills(&self, status: u16) -> bool {
        (status < 600 && self.classes & (1 << (status / 100)) != 0) || self.exact.contains(&status)
    }
}

/// In whose words a route's bodies speak of tokens. Its `POST` requests are metered in `input_tokens` and `output_tokens`.
///
/// Such a route reads up to 1 MiB of the request's body before it decides, asks the upstream for answers that are not compressed, and may take
/// one chunk out of a stream or end a stream early; `docs/tokens.md` says when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenFormat {
    /// OpenAI's chat, responses and embeddings, and what speaks like them.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
}

/// What happens to the upstream's work when the client leaves before the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum OnHangUp {
    /// It is cancelled; billed is what was handed over.
    #[default]
    Cancel,
    /// The rest is read in the background and billed as what it is: at most 64 answers at once, 16 MiB and 60 seconds of each. Beyond a
    /// bound it is cancelled.
    Drain,
}

/// How often requests that repeat each other are billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum BillRetries {
    /// Each.
    #[default]
    Each,
    /// Once, if key, `Idempotency-Key`, method, target and body are the same.
    Once,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bill_on_reads_statuses_and_classes() {
        let bill_on = BillOn::parse(["2xx", "404"]).unwrap();
        assert!(bill_on.bills(204) && bill_on.bills(404) && !bill_on.bills(500) && !bill_on.bills(101));
        assert!(BillOn::parse(["6xx"]).is_none() && BillOn::parse(["ok"]).is_none());
    }
}
