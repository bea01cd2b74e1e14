//! Our cookies stay here: what signs a user in to the portal is nothing for an upstream to see.

use http::header::{COOKIE, HeaderMap, HeaderValue};

const OURS: [&str; 4] = ["__Host-ug_session", "ug_session", "ug_language", "ug_theme"];

/// Takes our cookies out of a request and leaves the others as they came.
pub(super) fn strip(headers: &mut HeaderMap) {
    if !headers.get_all(COOKIE).iter().any(|line| pairs(line).any(is_ours)) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        if !pairs(&line).any(is_ours) {
            headers.append(COOKIE, line);
            continue;
        }
        let kept: Vec<&[u8]> = pairs(&line).filter(|pair| !is_ours(pair)).map(<[u8]>::trim_ascii).collect();
        let kept = kept.join(&b"; "[..]);
        // What was part of a header is one again.
        if let Some(value) = HeaderValue::from_bytes(&kept).ok().filter(|value| !value.is_empty()) {
            headers.append(COOKIE, value);
        }
    }
}

/// Bytes and not text: a foreign cookie may hold anything.
fn pairs(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b';')
}

fn is_ours(pair: &[u8]) -> bool {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
    OURS.iter().any(|ours| ours.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(lines: &[&[u8]], expected: &[&[u8]]) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(COOKIE, HeaderValue::from_bytes(line).unwrap());
        }
        strip(&mut headers);
        let found: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn ours_go_and_others_stay_as_they_came() {
        check(&[b"a=1;b=2 ; c"], &[b"a=1;b=2 ; c"]);
        check(&[b"a=1; ug_session=x;b=2;ug_theme=dark"], &[b"a=1; b=2"]);
        check(&[b"__Host-ug_session=x", b"ug_language=ja; c=\xc3\xbc"], &[b"c=\xc3\xbc"]);
        check(&[b"ug_session=x;ug_session=y"], &[]);
        check(&[b" ug_session =x; ug_sessions=1; xug_session=2"], &[b"ug_sessions=1; xug_session=2"]);
        check(&[b"a=ug_session=x; ug_session"], &[b"a=ug_session=x"]);
    }
}
