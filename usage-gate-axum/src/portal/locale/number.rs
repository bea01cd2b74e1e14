//! Numbers as people read them: in full and grouped, because a number has to match the CSV, the header and the bill digit for digit.

use super::Language;

/// Digits in groups of three, in both languages.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A part of a whole, with one decimal.
pub(crate) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    match per_mille(part, whole) {
        1_000 => "100%".to_owned(),
        0 if part > 0 => "<0.1%".to_owned(),
        // What is not all does not look like it.
        share if share > 1_000 => "100%".to_owned(),
        share => format!("{}.{}%", share / 10, share % 10),
    }
}

/// How much more than before, with one decimal and a sign; `None` if there was nothing before.
pub(crate) fn change(now: u64, before: u64) -> Option<String> {
    if before == 0 {
        return None;
    }
    let (sign, difference) = if now >= before { ('+', now - before) } else { ('−', before - now) };
    let change = per_mille(difference, before);
    Some(match change {
        0 if difference == 0 => "0.0%".to_owned(),
        // Ten times as much is a number of its own; a percentage of it is not read.
        10_000.. => format!("{sign}{}%", grouped(change / 10)),
        _ => format!("{sign}{}.{}%", change / 10, change % 10),
    })
}

/// Rounded to four digits.
pub(crate) fn about(number: u64) -> u64 {
    let mut unit = 1;
    while number / unit >= 10_000 {
        unit *= 10;
    }
    number.saturating_add(unit / 2) / unit * unit
}

/// A number beside an axis: in full up to seven digits, then short by CLDR.
pub(crate) fn axis(number: u64, language: Language) -> String {
    const SHORT_FROM: u64 = 10_000_000;
    let short = |unit: u64, name: &str| {
        let (whole, tenth) = (number / unit, number % unit * 10 / unit);
        let tenth = if tenth == 0 { String::new() } else { format!(".{tenth}") };
        format!("{}{tenth}{name}", grouped(whole))
    };
    match language {
        _ if number < SHORT_FROM => grouped(number),
        Language::English if number < 1_000_000_000 => short(1_000_000, "M"),
        Language::English if number < 1_000_000_000_000 => short(1_000_000_000, "B"),
        Language::English => short(1_000_000_000_000, "T"),
        Language::Japanese if number < 100_000_000 => short(10_000, "万"),
        Language::Japanese => short(100_000_000, "億"),
    }
}

/// Thousandths, rounded half up.
fn per_mille(part: u64, whole: u64) -> u64 {
    let (part, whole) = (u128::from(part), u128::from(whole.max(1)));
    u64::try_from((part * 2_000 + whole) / (whole * 2)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_in_full_and_grouped() {
        let shown = [0, 999, 1_000, 412_806, u64::MAX].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "412,806", "18,446,744,073,709,551,615"]);
    }

    #[test]
    fn shares_and_changes_have_one_decimal() {
        assert_eq!(share(147_699, 412_806), "35.8%");
        assert_eq!(
            (share(5, 5), share(0, 5), share(1, 1_000_000), share(0, 0)),
            ("100%".into(), "0.0%".into(), "<0.1%".into(), "–".into())
        );
        assert_eq!(change(412_806, 376_293).as_deref(), Some("+9.7%"));
        assert_eq!(change(16_084, 16_258).as_deref(), Some("−1.1%"));
        assert_eq!(change(5, 5).as_deref(), Some("0.0%"));
        assert_eq!(change(60_000, 5).as_deref(), Some("+1,199,900%"));
        assert_eq!(change(5, 0), None);
    }

    #[test]
    fn a_forecast_has_four_digits() {
        assert_eq!([524_612, 9_999, 12_345, 7].map(about), [524_600, 9_999, 12_350, 7]);
        // A forecast that is beyond all numbers ends at the largest.
        assert_eq!(about(u64::MAX), 18_440_000_000_000_000_000);
    }

    #[test]
    fn only_an_axis_is_short_and_only_for_large_numbers() {
        assert_eq!(axis(9_500_000, Language::English), "9,500,000");
        assert_eq!(axis(20_000_000, Language::English), "20M");
        assert_eq!(axis(2_500_000_000, Language::English), "2.5B");
        assert_eq!(axis(20_000_000, Language::Japanese), "2,000万");
        assert_eq!(axis(1_500_000_000, Language::Japanese), "15億");
    }
}
