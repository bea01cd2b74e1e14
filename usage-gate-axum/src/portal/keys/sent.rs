//! Forms that were sent: a reload of the answer, or a second click, must not make a second key, nor show the first one again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use usage_gate_core::model::{Timestamp, UserId};

/// Tokens of forms that were done, in memory for a day, at most 10,000; a node that did not see the form before does it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SentForms {
    done: Arc<Mutex<HashMap<(UserId, String), Timestamp>>>,
}

const KEPT_MICROS: i64 = 24 * 3_600 * 1_000_000;
const MOST: usize = 10_000;
/// Characters of a token; ours have 28.
const TOKEN: usize = 64;

impl SentForms {
    /// Takes the form, before it is done; `false` if it was sent before.
    pub(crate) fn take(&self, user: UserId, token: &str, now: Timestamp) -> bool {
        // A form without a token of ours is not one that a browser would send again by itself.
        if token.is_empty() || token.len() > TOKEN {
            return true;
        }
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        if done.len() >= MOST {
            done.retain(|_, at| at.plus_micros(KEPT_MICROS) > now);
        }
        if done.len() >= MOST
            && let Some(oldest) = done.iter().min_by_key(|(_, at)| **at).map(|(form, _)| form.clone())
        {
            done.remove(&oldest);
        }
        done.insert((user, token.to_owned()), now).is_none()
    }

    /// It was not done after all, and may be sent again.
    pub(crate) fn give_back(&self, user: UserId, token: &str) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).remove(&(user, token.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_done_once_unless_it_was_refused() {
        let (forms, ann, ben, now) =
            (SentForms::default(), UserId::generate(), UserId::generate(), Timestamp::default());
        assert!(forms.take(ann, "a", now));
        assert!(!forms.take(ann, "a", now));
        assert!(forms.take(ben, "a", now), "a token is one user's");
        forms.give_back(ann, "a");
        assert!(forms.take(ann, "a", now));
    }

    #[test]
    fn memory_is_bounded() {
        let (forms, ann) = (SentForms::default(), UserId::generate());
        for at in 0..20_000 {
            assert!(forms.take(ann, &at.to_string(), Timestamp::from_micros(at)));
        }
        assert_eq!(forms.done.lock().unwrap().len(), MOST);
    }
}
