//! One member of the outermost object of a JSON document, found while the document passes: nothing else of it is kept.

use std::ops::Range;

/// Bytes of a value that is kept; a larger one is not found.
const MOST: usize = 64 * 1024;

/// Looks for the member's last value.
#[derive(Debug)]
pub(super) struct MemberScan {
    name: &'static str,
    /// Bytes that have passed.
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
    place: Place,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    begin: usize,
    found: Option<(Vec<u8>, Range<usize>)>,
}

/// Where in the outermost object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    BeforeKey,
    Key,
    AfterKey,
    Value,
}

impl MemberScan {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            at: 0,
            depth: 0,
            in_string: false,
            escaped: false,
            place: Place::BeforeKey,
            key: Vec::new(),
            value: None,
            begin: 0,
            found: None,
        }
    }

    /// The next bytes.
    pub(super) fn read(&mut self, input: &[u8]) {
        for byte in input {
            self.read_one(*byte);
            self.at += 1;
        }
    }

    /// The value, and where it is; with the white space around it.
    pub(super) fn found(&self) -> Option<(&[u8], Range<usize>)> {
        self.found.as_ref().map(|(value, place)| (&**value, place.clone()))
    }

    fn read_one(&mut self, byte: u8) {
        if self.in_string {
            self.read_string(byte);
        } else {
            match byte {
                b'"' => {
                    self.in_string = true;
                    if self.depth == 1 && self.place == Place::BeforeKey {
                        self.place = Place::Key;
                        self.key.clear();
                    }
                }
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth == 1 {
                        // A list has no keys: everything in it is a value.
                        self.place = if byte == b'{' { Place::BeforeKey } else { Place::Value };
                    }
                }
                b'}' | b']' => {
                    if self.depth == 1 {
                        self.end_value();
                    }
                    self.depth = self.depth.saturating_sub(1);
                }
                b':' if self.depth == 1 && self.place == Place::AfterKey => {
                    self.place = Place::Value;
                    if self.key == self.name.as_bytes() {
                        self.value = Some(Vec::new());
                        self.begin = self.at + 1;
                    }
                    return;
                }
                b',' if self.depth == 1 && self.place == Place::Value && !self.key.is_empty() => {
                    self.end_value();
                    self.place = Place::BeforeKey;
                    return;
                }
                _ => {}
            }
        }
        if let Some(value) = &mut self.value {
            if value.len() < MOST {
                value.push(byte);
            } else {
                self.value = None;
            }
        }
    }

    fn read_string(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => {
                self.in_string = false;
                if self.depth == 1 && self.place == Place::Key {
                    self.place = Place::AfterKey;
                }
                return;
            }
            _ => {}
        }
        // One byte more than the name is enough to see that it is another.
        if self.place == Place::Key && self.key.len() <= self.name.len() {
            self.key.push(byte);
        }
    }

    fn end_value(&mut self) {
        if let Some(value) = self.value.take() {
            self.found = Some((value, self.begin..self.at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        for size in 1..=text.len() {
            let mut scan = MemberScan::new("usage");
            text.as_bytes().chunks(size).for_each(|part| scan.read(part));
            let found = scan.found().map(|(value, place)| {
                assert_eq!(value, &text.as_bytes()[place]);
                std::str::from_utf8(value).unwrap().trim()
            });
            assert_eq!(found, expected, "{text} in pieces of {size}");
        }
    }

    #[test]
    fn the_outermost_member_is_found() {
        check(r#"{"id":"a","usage": {"n":[1,2]} }"#, Some(r#"{"n":[1,2]}"#));
        check(r#"{"usage":null,"b":1}"#, Some("null"));
        check(r#"{"a":{"usage":1},"b":["usage",{"usage":2}],"usage":3}"#, Some("3"));
        check(r#"{"usage":1,"usage":2}"#, Some("2"));
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        check(r#"{"a":"\"usage\":1","b":"usage","usages":4,"usag":5}"#, None);
        check(r#"[{"usage":1}]"#, None);
        check(r#"["usage",1]"#, None);
        check(r#"{"usage":"#, None);
        check("usage: 1", None);
    }

    #[test]
    fn a_value_that_is_too_large_is_not_kept() {
        let mut scan = MemberScan::new("usage");
        scan.read(format!(r#"{{"usage":"{}","a":1}}"#, "x".repeat(MOST)).as_bytes());
        assert!(scan.found().is_none());
    }
}
