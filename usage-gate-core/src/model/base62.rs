//! Base62 of 128-bit ids, most significant digit first, so that ids of one length sort as their numbers do.

/// Digits in ASCII order, so that the text of ids sorts as the numbers do.
pub(crate) const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Writes `value` as exactly `N` digits; digits that do not fit are cut off at the front.
pub(crate) fn encode_u128<const N: usize>(value: u128) -> [u8; N] {
    let mut digits = [b'0'; N];
    let mut rest = value;
    for digit in digits.iter_mut().rev() {
        let index = usize::try_from(rest % 62).unwrap_or(0);
        *digit = ALPHABET[index];
        rest /= 62;
    }
    digits
}

/// Reads digits back; `None` for a foreign character or more than 128 bits.
pub(crate) fn decode_u128(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0u128, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'A'..=b'Z' => byte - b'A' + 10,
            b'a'..=b'z' => byte - b'a' + 36,
            _ => return None,
        };
        value.checked_mul(62)?.checked_add(u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back_to_the_same_number() {
        for value in [0, 1, 61, 62, u128::from(u64::MAX), u128::MAX] {
            assert_eq!(decode_u128(&encode_u128::<22>(value)), Some(value));
        }
        assert_eq!(decode_u128(b"zzzzzzzzzzzzzzzzzzzzzz"), None, "more than 128 bits");
        assert_eq!(decode_u128(b"0-1"), None);
    }
}
