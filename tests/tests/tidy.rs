//! What a machine can check of how the code is laid out: fences between rooms, names, and what must not be left behind.
#![expect(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file of the project, as its path from the root and its text up to its unit tests.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = ["usage-gate-core", "usage-gate-tower", "usage-gate-axum", "examples", "tests"]
        .map(|f| root().join(f))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                found.push((path.strip_prefix(root()).unwrap().display().to_string(), code));
            }
        }
    }
    found.sort();
    assert!(found.len() > 80, "the files are looked for in the right place");
    found
}

/// Lines of code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
}

#[track_caller]
fn check(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn only_the_gate_and_the_stores_name_a_store() {
    let allowed = ["usage-gate-core/src/store/", "usage-gate-core/src/conformance/", "usage-gate-core/src/gate/"];
    let faults = sources().into_iter().filter(|(path, _)| path.starts_with("usage-gate-core/src/"));
    let faults = faults.filter(|(path, _)| !allowed.iter().any(|folder| path.starts_with(folder)));
    let named = faults.filter(|(_, text)| {
        code(text).any(|line| ["SqliteStore", "MemoryStore", "rusqlite"].iter().any(|store| line.contains(store)))
    });
    check(&named.map(|(path, _)| format!("{path} names a store")).collect::<Vec<_>>());
}

#[test]
fn pure_files_have_no_async_no_io_and_no_clock() {
    let pure = [
        "abuse/source.rs",
        "abuse/address_set.rs",
        "abuse/bad_tries.rs",
        "abuse/penalty_box.rs",
        "lease/ledger.rs",
        "lease/bucket.rs",
        "lease/entry.rs",
        "flush/digest.rs",
        "flush/flusher.rs",
        "lease/forfeit.rs",
        "lease/inherit.rs",
        "lease/left.rs",
        "lease/slot.rs",
        "flush/rollup.rs",
        "rates/bucket.rs",
        "rates/slots.rs",
        "rates/lease.rs",
        "rates/held.rs",
        "rates/asking.rs",
        "rates/held_slots.rs",
        "store/days.rs",
        "store/repeats.rs",
        "store/request_block.rs",
        "store/request_log.rs",
        "verify.rs",
        "period/calendar.rs",
        "period/bucket.rs",
    ];
    let mut faults = Vec::new();
    for (path, text) in sources() {
        if pure.iter().any(|file| path == format!("usage-gate-core/src/{file}")) {
            for word in ["async ", ".await", "std::fs", "tokio::", "Clock", "Instant::now"] {
                if code(&text).any(|line| line.contains(word)) {
                    faults.push(format!("{path} has `{word}`"));
                }
            }
        }
    }
    check(&faults);
}

#[test]
fn files_are_named_for_what_they_hold() {
    let vague = ["utils", "util", "helpers", "helper", "common", "misc", "types", "manager"];
    let faults = sources().into_iter().filter(|(path, _)| {
        let parts = Path::new(path).with_extension("");
        parts.iter().any(|part| vague.iter().any(|name| part == *name))
    });
    check(&faults.map(|(path, _)| path).collect::<Vec<_>>());
}

#[test]
fn every_file_begins_with_its_story_and_ends_before_600_lines() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//!") {
            faults.push(format!("{path} does not begin with //!"));
        }
        if text.lines().count() > 600 {
            faults.push(format!("{path} has more than 600 lines"));
        }
    }
    check(&faults);
}

#[test]
fn every_file_is_a_module_of_its_crate() {
    let mut faults = Vec::new();
    for (path, _) in sources().into_iter().filter(|(path, _)| path.contains("/src/") && !path.contains("/src/bin/")) {
        let file = Path::new(&path);
        let (mut folder, mut name) = (file.parent().unwrap(), file.file_stem().unwrap());
        if folder.ends_with("src") && (name == "lib" || name == "main") {
            continue;
        }
        if name == "mod" {
            (folder, name) = (folder.parent().unwrap(), folder.file_name().unwrap());
        }
        let declared = format!("mod {};", name.display());
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|parent| root().join(folder).join(parent));
        let texts = parents.into_iter().filter_map(|parent| std::fs::read_to_string(parent).ok());
        if !texts.into_iter().any(|text| code(&text).any(|line| line.ends_with(&declared))) {
            faults.push(format!("{path} is not compiled, and its tests do not run: no `{declared}` names it"));
        }
    }
    check(&faults);
}

#[test]
fn only_the_mapped_words_have_unsafe_code() {
    let allowed = ["usage-gate-core/src/mapped/words.rs", "tests/tests/tidy.rs"];
    let faults = sources().into_iter().filter(|(path, _)| !allowed.contains(&path.as_str()));
    let faults = faults.filter(|(_, text)| code(text).any(|line| line.contains("unsafe ")));
    check(&faults.map(|(path, _)| path).collect::<Vec<_>>());
}

#[test]
fn crates_depend_one_way() {
    let below = [
        ("usage-gate-core", ["usage-gate-tower", "usage-gate-axum"].as_slice()),
        ("usage-gate-tower", &["usage-gate-axum"]),
    ];
    for (name, others) in below {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        for other in others {
            assert!(!manifest.contains(other), "{name} depends on {other}");
        }
    }
}
