//! What meters are called.

use super::locale::Language;

/// A meter's name as a heading: `Output tokens` for `output_tokens`.
pub(crate) fn heading(meter: &str, language: Language) -> String {
    let known = match meter {
        "requests" => ("Requests", "リクエスト"),
        "bytes_in" => ("Bytes in", "受信バイト"),
        "bytes_out" => ("Bytes out", "送信バイト"),
        "duration_ms" => ("Milliseconds", "処理ミリ秒"),
        "input_tokens" => ("Input tokens", "入力トークン"),
        "output_tokens" => ("Output tokens", "出力トークン"),
        _ => {
            let mut letters = meter.chars().map(|letter| if letter == '_' { ' ' } else { letter });
            // An operator's own word is shown as it is, but for the form of a heading.
            return letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect());
        }
    };
    match language {
        Language::English => known.0.to_owned(),
        Language::Japanese => known.1.to_owned(),
    }
}
