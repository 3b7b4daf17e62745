//! Each mistake is found at its place; what is inherited, drawn and hashed is what the file says.

use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::error::Place;
use crate::seed::Seed;

const GOOD: &str = r#"name = "t"
version = "1"

[[principle]]
id = "a"
critique = "C"
revise = "R"

[[principle]]
id = "b"
judge = "J"
weight = 3
tags = ["x"]
"#;

/// Message, underlined text and help of the error that `text` leads to.
fn error(text: &str) -> (String, String, String) {
    let error = Constitution::parse(text, "t.toml").expect_err(text);
    underlined(&error)
}

fn underlined(error: &Error) -> (String, String, String) {
    let Some(Place::Span { text, range, .. }) = error.place() else {
        panic!("no span: {error}");
    };
    let help = error.help_text().expect("every error has help");
    (error.to_string(), text[range.clone()].to_owned(), help.to_owned())
}

/// `GOOD` with one replacement, which must change it.
fn changed(from: &str, to: &str) -> String {
    let text = GOOD.replacen(from, to, 1);
    assert_ne!(text, GOOD);
    text
}

#[test]
fn reads_what_the_file_says() {
    let constitution = Constitution::parse(GOOD, "t.toml").unwrap();
    let [a, b] = &constitution.principles[..] else {
        panic!("two principles")
    };
    assert_eq!(
        (a.critique.as_deref(), a.revise.as_deref(), a.judge.as_deref()),
        (Some("C"), Some("R"), None)
    );
    assert_eq!((a.weight, b.weight, &b.tags[..]), (1.0, 3.0, &["x".to_owned()][..]));
}

#[test]
fn every_mistake_is_underlined() {
    let cases: &[(String, &str, &str, &str)] = &[
        (
            changed("critique", "critque"),
            "t.toml:6:1: a principle has no key `critque`",
            "critque",
            "did you mean `critique`?",
        ),
        (
            changed("version", "zzzzzzzz = 1\nversion"),
            "a constitution has no key",
            "zzzzzzzz",
            "the keys of a constitution",
        ),
        (
            changed("\"b\"", "\"a\""),
            "t.toml:10:6: the id `a` is used twice",
            "\"a\"",
            "its own id",
        ),
        (
            changed("revise = \"R\"\n", ""),
            "`critique` without `revise`",
            "critique",
            "add `revise`",
        ),
        (
            changed("critique = \"C\"\n", ""),
            "`revise` without `critique`",
            "revise",
            "add `critique`",
        ),
        (
            changed("judge = \"J\"\n", ""),
            "the principle `b` has no text",
            "\"b\"",
            "add `judge`",
        ),
        (changed("\"J\"", "\" \""), "`judge` is empty", "\" \"", "write the text"),
        (
            changed("\"J\"", "true"),
            "`judge` should be a text, but is a boolean",
            "true",
            "judge = ",
        ),
        (
            changed("= 3", "= -1"),
            "`weight` should be 0, or a number",
            "-1",
            "1.0 is the usual",
        ),
        (
            changed("= 3", "= nan"),
            "`weight` should be 0, or a number",
            "nan",
            "1.0 is the usual",
        ),
        (
            changed("= 3", "= inf"),
            "`weight` should be 0, or a number",
            "inf",
            "1.0 is the usual",
        ),
        (
            changed("= 3", "= \"3\""),
            "`weight` should be a number, but is a text",
            "\"3\"",
            "weight = 1.0",
        ),
        (
            changed("= 3", "= 0"),
            "every principle with `judge` has the weight 0",
            "0",
            "positive",
        ),
        (
            changed("\"b\"", "\"No Harm\""),
            "other characters",
            "\"No Harm\"",
            "`no-harm`",
        ),
        (
            changed("[\"x\"]", "[1]"),
            "`tags` should be a list of texts, but is a number",
            "1",
            "tags = ",
        ),
        (changed("name = \"t\"\n", ""), "`name` is missing", "", "name = "),
        (changed("\"1\"", "1"), "`version` should be a text", "1", "version = "),
        (changed("\"R\"", "\"R"), "no closing quotation mark", "", "quotes"),
        (
            "name = \"t\"\nversion = \"1\"\n".into(),
            "no principles",
            "\n",
            "[[principle]]",
        ),
        (
            "name = \"t\"\nversion = \"1\"\nprinciple = 3".into(),
            "`principle` should be a list of tables",
            "3",
            "[[principle]]",
        ),
        (String::new(), "`name` is missing", "", "name"),
    ];
    for (text, message, place, help) in cases {
        let (found, underlined, found_help) = error(text);
        assert!(found.contains(message), "{message:?} not in {found:?}");
        assert!(
            place.is_empty() || underlined == *place,
            "{message}: underlined {underlined:?}"
        );
        assert!(found_help.contains(help), "{message}: {help:?} not in {found_help:?}");
    }
}

#[test]
fn no_text_makes_it_panic() {
    for cut in (0..GOOD.len()).filter(|cut| GOOD.is_char_boundary(*cut)) {
        if let Err(error) = Constitution::parse(&GOOD[..cut], "t.toml") {
            assert!(error.help_text().is_some(), "no help: {error}");
        }
        let _ = Constitution::parse(&format!("{}é[[{}", &GOOD[..cut], &GOOD[cut..]), "t.toml");
    }
}

#[test]
fn extends_inherits_and_replaces() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("base.toml"), GOOD).unwrap();
    let top = "name = \"top\"\nversion = \"2\"\nextends = [\"../base.toml\"]\n\n[[principle]]\nid = \"c\"\njudge = \
               \"K\"\n\n[[principle]]\nid = \"a\"\njudge = \"new\"\n";
    let path = dir.path().join("sub/top.toml");
    fs::write(&path, top).unwrap();
    let constitution = Constitution::load(&path).unwrap();
    let ids: Vec<&str> = constitution
        .principles
        .iter()
        .map(|principle| principle.id.as_str())
        .collect();
    assert_eq!((constitution.name.as_str(), ids), ("top", vec!["a", "b", "c"]));
    assert_eq!(constitution.principles[0].judge.as_deref(), Some("new"));
    assert_eq!(
        constitution.principles[0].critique.as_deref(),
        Some("C"),
        "what is not given stays"
    );

    // The same content in one file has the same hash; an edit in the base changes it.
    let base = fs::read_to_string(dir.path().join("base.toml")).unwrap();
    fs::write(dir.path().join("base.toml"), format!("# a comment\n{base}")).unwrap();
    assert_eq!(Constitution::load(&path).unwrap().hash, constitution.hash);
    fs::write(dir.path().join("base.toml"), base.replace("\"J\"", "\"J2\"")).unwrap();
    assert_ne!(Constitution::load(&path).unwrap().hash, constitution.hash);
}

#[test]
fn extends_reports_circles_and_missing_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, base: &str| {
        let path = dir.path().join(name);
        fs::write(
            &path,
            format!("name = \"x\"\nversion = \"1\"\nextends = [\"{base}\"]\n"),
        )
        .unwrap();
        path
    };
    file("a.toml", "./b.toml");
    let path = file("b.toml", "a.toml");
    let (message, place, _) = underlined(&Constitution::load(&path).unwrap_err());
    assert!(message.contains("a.toml:3:12: `extends` goes in a circle"), "{message}");
    assert_eq!(place, "\"./b.toml\"");

    let path = file("c.toml", "nowhere.toml");
    let (message, place, _) = underlined(&Constitution::load(&path).unwrap_err());
    assert!(message.contains("nowhere.toml does not exist"), "{message}");
    assert_eq!(place, "\"nowhere.toml\"");

    let path = file("d.toml", "builtin:harmles");
    let (_, _, help) = underlined(&Constitution::load(&path).unwrap_err());
    assert_eq!(help, "did you mean `builtin:harmless`?");
    assert!(
        !Constitution::load(file("e.toml", "builtin:harmless"))
            .unwrap()
            .principles
            .is_empty()
    );
}

#[test]
fn the_builtin_ones_have_all_texts() {
    for name in builtin_names() {
        let constitution = Constitution::resolve(&format!("builtin:{name}")).unwrap();
        assert_eq!((constitution.name.as_str(), constitution.path), (name, None));
    }
    let harmless = Constitution::builtin("harmless").unwrap();
    assert!(harmless.principles.len() >= 16);
    for principle in &harmless.principles {
        assert!(principle.critique.is_some() && principle.revise.is_some() && principle.judge.is_some());
    }
    let error = Constitution::resolve("builtin:harmles").unwrap_err();
    assert_eq!(error.help_text(), Some("did you mean `builtin:harmless`?"));
    assert!(
        Constitution::resolve("no/such.toml")
            .unwrap_err()
            .to_string()
            .contains("no/such.toml")
    );
}

fn ids(constitution: &Constitution) -> Vec<&str> {
    constitution
        .principles
        .iter()
        .map(|principle| principle.id.as_str())
        .collect()
}

/// Catches: an override that loses what it does not name, a removed principle that stays, an inherited variable that
/// cannot be set otherwise.
#[test]
fn a_constitution_changes_what_it_inherits() {
    let dir = tempfile::tempdir().unwrap();
    let base = GOOD.replace("\"J\"", "\"Which is better for {{ audience }}?\"");
    let base = base.replace(
        "\n[[principle]]\nid = \"a\"",
        "\n[variables]\naudience = \"people\"\n\n[[principle]]\nid = \"a\"",
    );
    fs::write(dir.path().join("base.toml"), &base).unwrap();
    let top = "name = \"top\"\nversion = \"2\"\nextends = [\"base.toml\"]\nremove = [\"a\"]\n\n[variables]\naudience = \
               \"children\"\n\n[[principle]]\nid = \"b\"\nweight = 0.5\nrationale = \"Because.\"\n";
    let path = dir.path().join("top.toml");
    fs::write(&path, top).unwrap();
    let constitution = Constitution::load(&path).unwrap();
    let [b] = &constitution.principles[..] else {
        panic!("{:?}", ids(&constitution))
    };
    assert_eq!(
        (b.id.as_str(), b.weight, &b.tags[..]),
        ("b", 0.5, &["x".to_owned()][..])
    );
    assert_eq!(b.judge.as_deref(), Some("Which is better for children?"));
    assert_eq!(constitution.files.len(), 2);

    let told = |name: &str| BTreeMap::from([(name.to_owned(), "pilots".to_owned())]);
    let path = path.to_str().unwrap();
    let flown = Constitution::resolve_with(path, &told("audience")).unwrap();
    assert_eq!(
        flown.principles[0].judge.as_deref(),
        Some("Which is better for pilots?")
    );
    assert_ne!(flown.hash, constitution.hash);
    let error = Constitution::resolve_with(path, &told("audiense")).unwrap_err();
    assert_eq!(error.help_text(), Some("did you mean `audience`?"));
}

/// Catches: draws that change for principles that an edit does not touch, so that all of a set would be asked again.
#[test]
fn an_edit_changes_its_own_draws_alone() {
    let file = |principles: &[(&str, f64)]| {
        let principle = |(id, weight): &(&str, f64)| {
            format!("[[principle]]\nid = \"{id}\"\njudge = \"Which is more {id}?\"\nweight = {weight}\n")
        };
        let principles: String = principles.iter().map(principle).collect();
        Constitution::parse(&format!("name = \"t\"\nversion = \"1\"\n{principles}"), "t.toml").unwrap()
    };
    let old = file(&[("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 1.0)]);
    let draws = |constitution: &Constitution| -> Vec<String> {
        let seeds = (0..2000).map(|index| Seed::new(5).index(index));
        seeds
            .map(|seed| constitution.draw_judge(seed).unwrap().id.clone())
            .collect()
    };
    let before = draws(&old);
    // The order in the file is no meaning.
    let turned = file(&[("d", 1.0), ("c", 1.0), ("b", 1.0), ("a", 1.0)]);
    assert_eq!((draws(&turned), &turned.hash), (before.clone(), &old.hash));
    let edits = [
        (
            file(&[("a", 1.0), ("b", 1.0), ("c", 1.0), ("d", 1.0), ("e", 1.0)]),
            "e",
            2000 / 5,
        ),
        (file(&[("a", 1.0), ("b", 1.0), ("c", 1.0)]), "d", 2000 / 4),
        // From 1/4 to 2/5 of the draws.
        (file(&[("a", 2.0), ("b", 1.0), ("c", 1.0), ("d", 1.0)]), "a", 300),
    ];
    for (new, touched, expected) in edits {
        let after = draws(&new);
        let changed: Vec<_> = before.iter().zip(&after).filter(|(old, new)| old != new).collect();
        assert!(
            changed
                .iter()
                .all(|(old, new)| [old, new].iter().any(|id| id.as_str() == touched)),
            "{touched}"
        );
        // Six standard deviations of a count are below 120.
        assert!(changed.len().abs_diff(expected) < 120, "{touched}: {}", changed.len());
    }
    // The draw of several begins with the draw of one.
    for index in 0..50 {
        let seed = Seed::new(5).index(index);
        let several: Vec<&str> = old
            .draw_judges(seed, 3)
            .unwrap()
            .iter()
            .map(|(one, _)| one.id.as_str())
            .collect();
        assert_eq!(several[0], old.draw_judge(seed).unwrap().id);
        assert!(several[1] != several[0] && several[2] != several[1] && several[2] != several[0]);
    }
}

/// Catches: a hash that changes with layout, or stays when the meaning changes.
#[test]
fn the_hash_is_of_the_meaning() {
    let hash = |text: &str| Constitution::parse(text, "t.toml").unwrap().hash;
    let good = hash(GOOD);
    let same = [
        format!("# a comment\n{GOOD}"),
        changed("\"C\"", "\"\"\"\n  C\n\"\"\""),
        changed("version = \"1\"", "version = \"2\"\ndescription = \"D\""),
        changed("id = \"a\"", "rationale = \"why\"\nid = \"a\""),
        changed("weight = 3", "weight = 3.0"),
        changed("\"C\"", "\"\"\"C\n\"\"\"").replace('\n', "\r\n"),
        changed("[\"x\"]", "[\"y\"]"),
        changed("revise = \"R\"", "revise = \"{{ r }}\"").replacen("\n[[", "\n[variables]\nr = \"R\"\n[[", 1),
    ];
    for text in same {
        assert_eq!(hash(&text), good, "{text}");
    }
    for (from, to) in [
        ("\"C\"", "\"D\""),
        ("weight = 3", "weight = 2"),
        ("id = \"b\"", "id = \"c\""),
    ] {
        assert_ne!(hash(&changed(from, to)), good, "{from}");
    }
    let shots = changed("\n[[", "\n[few_shots]\njudge = \"builtin\"\n[[");
    assert_ne!(hash(&shots), good);
}

/// Catches: examples that are others because their file lies elsewhere or has a comment more; a base that is read as often
/// as it is named, which doubles with every level.
#[test]
fn where_a_file_lies_is_no_meaning() {
    let shots =
        "[[example]]\nprompt = \"Hi\"\nquestion = \"Which?\"\nanswer_a = \"a\"\nanswer_b = \"b\"\nanswer = \"A\"\n";
    let dirs = tempfile::tempdir().unwrap();
    let file = |dir: &str, shots: &str| {
        let dir = dirs.path().join(dir);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("shots.toml"), shots).unwrap();
        fs::write(
            dir.join("c.toml"),
            changed("\n[[", "\n[few_shots]\njudge = \"shots.toml\"\n[["),
        )
        .unwrap();
        Constitution::load(dir.join("c.toml")).unwrap()
    };
    let (here, there) = (file("a", shots), file("b", &format!("# more\n{shots}")));
    assert_eq!((&here.hash, &here.examples), (&there.hash, &there.examples));
    assert_ne!(here.hash, file("c", &shots.replace("\"a\"", "\"c\"")).hash);

    fs::write(dirs.path().join("0.toml"), GOOD).unwrap();
    fs::write(dirs.path().join("x0.toml"), GOOD).unwrap();
    for level in 1..60 {
        for prefix in ["", "x"] {
            let below = level - 1;
            let text = format!("name = \"l\"\nversion = \"1\"\nextends = [\"{below}.toml\", \"x{below}.toml\"]\n");
            fs::write(dirs.path().join(format!("{prefix}{level}.toml")), text).unwrap();
        }
    }
    let deep = Constitution::load(dirs.path().join("59.toml")).unwrap();
    assert_eq!((deep.principles.len(), deep.files.len()), (2, 119));
}

/// Catches: parts drawn by the number of their principles instead of by weight, a part without a request of one kind
/// that takes a share of it, ids that clash.
#[test]
fn a_mixture_draws_its_parts_by_weight() {
    let dir = tempfile::tempdir().unwrap();
    let principle = |id: &str, texts: &str| format!("[[principle]]\nid = \"{id}\"\n{texts}\n");
    let file = |name: &str, principles: &[String]| {
        let text = format!("name = \"{name}\"\nversion = \"1\"\n{}", principles.concat());
        fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
    };
    let judge = "judge = \"J\"";
    file("one", &[principle("a", judge)]);
    file(
        "many",
        &[principle("a", judge), principle("b", judge), principle("c", judge)],
    );
    file("critic", &[principle("a", "critique = \"C\"\nrevise = \"R\"")]);
    let mix = "name = \"m\"\nversion = \"1\"\n[[mix]]\nconstitution = \"one.toml\"\nweight = 3\n[[mix]]\nconstitution = \
               \"many.toml\"\n[[mix]]\nconstitution = \"critic.toml\"\nweight = 100\n";
    fs::write(dir.path().join("mix.toml"), mix).unwrap();
    let constitution = Constitution::load(dir.path().join("mix.toml")).unwrap();
    assert_eq!(ids(&constitution), ["one/a", "many/a", "many/b", "many/c", "critic/a"]);
    let mut counts = BTreeMap::new();
    for index in 0..4000 {
        let seed = Seed::new(3).index(index);
        *counts
            .entry(constitution.draw_judge(seed).unwrap().id.as_str())
            .or_insert(0) += 1;
        assert_eq!(constitution.draw_critique(seed).unwrap().id, "critic/a");
    }
    // Five standard deviations of 4000 draws at 3/4 are 137.
    assert!(i32::abs(counts["one/a"] - 3000) < 137, "{counts:?}");
    let shares: Vec<f32> = constitution
        .draw_judges(Seed::new(1), 9)
        .unwrap()
        .into_iter()
        .map(|(_, share)| share)
        .collect();
    assert_eq!(shares[0], 3.0, "{shares:?}");
    assert!((shares[1] - 1.0 / 3.0).abs() < 1e-6, "{shares:?}");
    let only = constitution.only("many/b").unwrap();
    assert_eq!(only.draw_judge(Seed::new(1)).unwrap().id, "many/b");
}

#[test]
fn draws_follow_the_weights() {
    let text = format!(
        "{GOOD}\n[[principle]]\nid = \"c\"\njudge = \"K\"\n\n[[principle]]\nid = \"never\"\njudge = \"N\"\nweight = 0\n"
    );
    let constitution = Constitution::parse(&text, "t.toml").unwrap();
    let mut counts = BTreeMap::new();
    for index in 0..4000 {
        let seed = Seed::new(7).index(index);
        *counts
            .entry(constitution.draw_judge(seed).unwrap().id.as_str())
            .or_insert(0) += 1;
        assert_eq!(constitution.draw_critique(seed).unwrap().id, "a");
    }
    // b : c = 3 : 1, and five standard deviations are 137.
    assert_eq!(counts.keys().copied().collect::<Vec<_>>(), ["b", "c"]);
    assert!(i32::abs(counts["b"] - 3000) < 137, "{counts:?}");

    let only_judge = "name = \"t\"\nversion = \"1\"\n[[principle]]\nid = \"b\"\njudge = \"J\"\n";
    let error = Constitution::parse(only_judge, "t.toml").unwrap();
    let error = error.draw_critique(Seed::new(1)).unwrap_err();
    assert!(
        error.to_string().contains("no principle with `critique` and `revise`"),
        "{error}"
    );
}
