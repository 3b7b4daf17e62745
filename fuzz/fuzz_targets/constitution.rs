//! Whatever stands in a constitution file, reading it ends with a constitution or with findings that can be shown.
#![no_main]
#![allow(dead_code)] // The modules serve the whole program.

#[path = "../../src/constitution/mod.rs"]
mod constitution;
#[path = "../../src/error.rs"]
mod error;
#[path = "../../src/record.rs"]
mod record;
#[path = "../../src/seed.rs"]
mod seed;
#[path = "../../src/small.rs"]
mod small;

use std::collections::BTreeMap;

use constitution::{Severity, check_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let checked = check_text(text, "fuzz/no-such-directory/c.toml", &BTreeMap::new(), constitution::BUDGET);
    let errors = checked.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    assert_eq!(checked.constitution.is_some(), errors == 0);
    for finding in &checked.findings {
        assert!(!finding.message.is_empty() && !finding.help.is_empty());
        let place = &finding.place;
        assert!(place.text.text.get(place.range.clone()).is_some(), "{finding:?}");
        assert!(finding.to_error().to_string().contains(':'));
        assert!(finding.to_json().is_object());
        if let Some(fix) = &finding.fix {
            assert!(place.text.text.get(fix.range.clone()).is_some(), "{finding:?}");
        }
    }
    if let Some(read) = checked.constitution {
        assert!(!read.principles.is_empty());
        // A comment is no meaning.
        let commented = check_text(
            &format!("# comment\n{text}"),
            "fuzz/no-such-directory/c.toml",
            &BTreeMap::new(),
            constitution::BUDGET,
        );
        assert_eq!(commented.constitution.map(|other| other.hash), Some(read.hash));
    }
});
