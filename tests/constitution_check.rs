//! `constitution check`, as a user sees it: a table of broken constitutions with what is told of each.

#[path = "support/program.rs"]
mod program;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use program::bylaw;

const HEAD: &str = "name = \"t\"\nversion = \"1\"\n";

/// A principle that nothing is wrong with.
const FAIR: &str = "\n[[principle]]\nid = \"fair\"\ncritique = \"Find what is unfair.\"\nrevise = \"Make it \
                    fair.\"\njudge = \"Which answer is fairer?\"\n";

struct Case {
    name: &'static str,
    /// The checked file is the first.
    files: Vec<(&'static str, String)>,
}

fn case(name: &'static str, text: impl Into<String>) -> Case {
    Case {
        name,
        files: vec![("c.toml", text.into())],
    }
}

/// The head and the fair principle, with `more` behind them.
fn fair(name: &'static str, more: &str) -> Case {
    case(name, format!("{HEAD}{FAIR}{more}"))
}

/// The fair principle with one of its lines replaced.
fn changed(name: &'static str, from: &str, to: &str) -> Case {
    let text = format!("{HEAD}{FAIR}");
    let broken = text.replacen(from, to, 1);
    assert_ne!(text, broken, "{name}");
    case(name, broken)
}

/// A principle with a judge question only.
fn question(name: &'static str, question: &str) -> Case {
    fair(
        name,
        &format!("\n[[principle]]\nid = \"asked\"\njudge = \"{question}\"\n"),
    )
}

fn with(mut case: Case, files: &[(&'static str, &str)]) -> Case {
    case.files
        .extend(files.iter().map(|(path, text)| (*path, (*text).to_owned())));
    case
}

fn few_shots(name: &'static str, key: &str, example: &str) -> Case {
    let top = format!("{HEAD}\n[few_shots]\n{key} = \"shots.toml\"\n{FAIR}");
    with(case(name, top), &[("shots.toml", example)])
}

const JUDGE_SHOT: &str = "[[example]]\nprompt = \"Hi\"\nquestion = \"Which answer is kinder?\"\nanswer_a = \"No.\"\nanswer_b \
                          = \"Hello!\"\nanswer = \"B\"\n";

/// What cannot be read or used.
fn broken_files() -> Vec<Case> {
    let base = format!("{HEAD}{FAIR}");
    vec![
        case("empty file", ""),
        case("no principles", HEAD),
        case("prose instead of TOML", "Always be kind.\nNever be cruel.\n"),
        case(
            "JSON instead of TOML",
            "{\"constitutions\": [{\"critic\": \"x\", \"revision\": \"y\"}]}",
        ),
        changed(
            "a text without its closing quote",
            "\"Make it fair.\"",
            "\"Make it fair.",
        ),
        changed(
            "a text without quotes",
            "\"Find what is unfair.\"",
            "Find what is unfair.",
        ),
        changed(
            "a quotation mark inside a text",
            "\"Make it fair.\"",
            "\"Make it \"fair\".\"",
        ),
        changed("a text over two lines", "\"Make it fair.\"", "\"Make it\nfair.\""),
        changed("an unknown escape", "Make it", "Make\\it"),
        changed("a key twice", "revise =", "critique = \"again\"\nrevise ="),
        changed("a bracket is missing", "[[principle]]", "[[principle]"),
        case(
            "two mistakes of syntax",
            format!("{HEAD}{FAIR}judge = \"x\n[[principle]]\nid = no-quotes\njudge = \"y\"\n"),
        ),
        changed("one bracket too few", "[[principle]]", "[principle]"),
        changed("a misspelt key", "critique =", "critque ="),
        changed("an unknown key", "id =", "colour = \"red\"\nid ="),
        changed("a key of another table", "version =", "weight = 1\nversion ="),
        changed("no name", "name = \"t\"\n", ""),
        changed("no version", "version = \"1\"\n", ""),
        changed("a number as version", "\"1\"", "1.0"),
        changed("no id", "id = \"fair\"\n", ""),
        changed("an id with spaces", "\"fair\"", "\"Be Fair!\""),
        fair("an id twice", FAIR),
        changed("an empty text", "\"Make it fair.\"", "\"  \""),
        changed("a list as text", "\"Make it fair.\"", "[\"Make it fair.\"]"),
        changed("critique without revise", "revise = \"Make it fair.\"\n", ""),
        changed("revise without critique", "critique = \"Find what is unfair.\"\n", ""),
        fair("no text at all", "\n[[principle]]\nid = \"silent\"\nweight = 2.0\n"),
        changed("a negative weight", "id =", "weight = -1\nid ="),
        changed("an infinite weight", "id =", "weight = inf\nid ="),
        changed("a weight in words", "id =", "weight = \"twice\"\nid ="),
        changed("all weights zero", "id =", "weight = 0\nid ="),
        changed("tags that are no list", "id =", "tags = \"harm\"\nid ="),
        changed("a tag that is a number", "id =", "tags = [\"harm\", 3, \"\"]\nid ="),
        changed(
            "a base that is not there",
            "version",
            "extends = [\"nowhere.toml\"]\nversion",
        ),
        changed(
            "a misspelt built-in base",
            "version",
            "extends = [\"builtin:harmles\"]\nversion",
        ),
        with(
            changed("bases in a circle", "version", "extends = [\"b.toml\"]\nversion"),
            &[("b.toml", &format!("extends = [\"c.toml\"]\n{HEAD}"))],
        ),
        with(
            changed("a mistake in a base", "version", "extends = [\"b.toml\"]\nversion"),
            &[("b.toml", &base.replace("judge =", "juge ="))],
        ),
        with(
            changed(
                "removing what is not there",
                "version",
                "extends = [\"b.toml\"]\nremove = [\"fare\"]\nversion",
            ),
            &[("b.toml", &base)],
        ),
        changed("removing without a base", "version", "remove = [\"fair\"]\nversion"),
        with(
            case(
                "overriding what is not there",
                format!("extends = [\"b.toml\"]\n{HEAD}\n[[principle]]\nid = \"fare\"\nweight = 2\n"),
            ),
            &[("b.toml", &base)],
        ),
        case(
            "mixing and own principles",
            format!("{HEAD}[[mix]]\nconstitution = \"builtin:harmless\"\n{FAIR}"),
        ),
        case(
            "a part twice",
            format!(
                "{HEAD}[[mix]]\nconstitution = \"builtin:harmless\"\n[[mix]]\nconstitution = \"builtin:harmless\"\n"
            ),
        ),
        case(
            "a mixture of nothing",
            format!("{HEAD}[[mix]]\nconstitution = \"builtin:harmless\"\nweight = 0\n"),
        ),
        case("a part without its name", format!("{HEAD}[[mix]]\nweight = 1\n")),
        changed("a weight beyond all measure", "id =", "weight = 1e308\nid ="),
        with(
            changed("a base twice", "version", "extends = [\"b.toml\", \"b.toml\"]\nversion"),
            &[("b.toml", &base)],
        ),
        with(
            case(
                "a part whose name is no id",
                format!("{HEAD}[[mix]]\nconstitution = \"b.toml\"\n"),
            ),
            &[("b.toml", &base.replace("\"t\"", "\"x/y\""))],
        ),
        with(
            case(
                "parts with different examples",
                format!("{HEAD}[[mix]]\nconstitution = \"b.toml\"\n[[mix]]\nconstitution = \"d.toml\"\n"),
            ),
            &[
                (
                    "b.toml",
                    &format!("name = \"b\"\nversion = \"1\"\n[few_shots]\njudge = \"builtin\"\n{FAIR}"),
                ),
                (
                    "d.toml",
                    &format!("name = \"d\"\nversion = \"1\"\n[few_shots]\njudge = \"shots.toml\"\n{FAIR}"),
                ),
                ("shots.toml", JUDGE_SHOT),
            ],
        ),
    ]
}

/// What cannot be filled in or shown.
fn broken_parts() -> Vec<Case> {
    vec![
        changed("a variable that nothing fills", "unfair", "unfair to {{ audience }}"),
        changed(
            "a misspelt variable",
            "version = \"1\"\n\n[[principle]]\nid = \"fair\"\ncritique = \"Find what is unfair",
            "version = \"1\"\n\n[variables]\naudience = \"children\"\n\n[[principle]]\nid = \"fair\"\ncritique = \"Find what is unfair to {{ audiense }}",
        ),
        changed(
            "an expression as variable",
            "unfair",
            "unfair to {{ audience | upper }}",
        ),
        changed("an open placeholder", "unfair", "unfair to {{ audience"),
        changed(
            "a variable with a capital",
            "\n[[",
            "[variables]\nAudience = \"children\"\n[[",
        ),
        changed(
            "few-shots that are not there",
            "\n[[",
            "[few_shots]\njudge = \"nowhere.toml\"\n[[",
        ),
        changed(
            "few-shots under a misspelt key",
            "\n[[",
            "[few_shots]\njuge = \"builtin\"\n[[",
        ),
        few_shots("few-shots without an example", "judge", "# nothing yet\n"),
        few_shots(
            "a few-shot with a third answer",
            "judge",
            &JUDGE_SHOT.replace("\"B\"", "\"(b)\""),
        ),
        few_shots(
            "a few-shot without a question",
            "judge",
            &JUDGE_SHOT.replace("question", "qestion"),
        ),
        few_shots(
            "a few-shot whose conversation ends wrongly",
            "judge",
            &JUDGE_SHOT.replace(
                "prompt = \"Hi\"",
                "messages = [{ role = \"user\", content = \"Hi\" }, { role = \"assistant\", content = \"Ho\" }]",
            ),
        ),
        few_shots(
            "a few-shot of an unknown speaker",
            "judge",
            &JUDGE_SHOT.replace("prompt = \"Hi\"", "messages = [{ role = \"robot\", content = \"Hi\" }]"),
        ),
        few_shots("a judge that reasons without reasons", "judge_reasoning", JUDGE_SHOT),
        few_shots(
            "a reasoning that contradicts the answer",
            "judge_reasoning",
            &format!("{JUDGE_SHOT}reasoning = \"(A) greets. So the answer is (A).\"\n"),
        ),
        few_shots(
            "a critique example without its revision",
            "critique",
            "[[example]]\nprompt = \"Hi\"\nanswer = \"No.\"\ncritique_request = \"Find what is rude.\"\ncritique = \"It is curt.\"\nrevision_request = \"Be kind.\"\n",
        ),
        changed(
            "allowing no lint",
            "version",
            "allow = [\"lone-tags\", \"everything\"]\nversion",
        ),
    ]
}

/// What can be used and is doubtful.
fn doubtful() -> Vec<Case> {
    vec![
        fair(
            "near-duplicate",
            "\n[[principle]]\nid = \"twin\"\njudge = \"Which answer respects the privacy of people and their families?\"\n\n[[principle]]\nid = \"again\"\njudge = \"Which answer would respect the privacy of people and the families?\"\n",
        ),
        fair(
            "contradiction",
            "\n[[principle]]\nid = \"warn\"\ncritique = \"Say where a warning is missing.\"\nrevise = \"Always add a warning about the dangers.\"\n\n[[principle]]\nid = \"calm\"\ncritique = \"Say where the answer frightens.\"\nrevise = \"Never add a warning about dangers.\"\n",
        ),
        question("undecided: a topic", "Is this about privacy?"),
        question("undecided: both", "Compare the two answers."),
        question("undecided: nothing of it", "Which answer?"),
        question("inverted: worse", "Which answer is worse?"),
        question("inverted: a fault", "Which answer is more harmful?"),
        question("length", "Which answer is better and more detailed?"),
        question(
            "position",
            "Is the first answer better than the second, which is less clear?",
        ),
        question("an option by its letter", "Which is better, or is answer A less clear?"),
        changed(
            "over budget",
            "unfair.",
            &format!("unfair.{}", " And look again at every sentence of it.".repeat(14)),
        ),
        changed("lone tag", "id =", "tags = [\"fairness\"]\nid =").and_second(),
        with(
            case(
                "near-duplicates of two parts",
                format!(
                    "{HEAD}[variables]\nx = \"y\"\n[[mix]]\nconstitution = \"b.toml\"\n[[mix]]\nconstitution = \"d.toml\"\n"
                ),
            ),
            &[
                ("b.toml", &format!("name = \"b\"\nversion = \"1\"\n{FAIR}")),
                ("d.toml", &format!("name = \"d\"\nversion = \"1\"\n{FAIR}")),
            ],
        ),
        changed("unused variable", "\n[[", "[variables]\naudience = \"children\"\n[["),
        changed(
            "allowed in the file",
            "version = \"1\"",
            "version = \"1\"\nallow = [\"unused-variable\"]\n[variables]\naudience = \"children\"",
        ),
        fair(
            "allowed for a principle",
            "\n[[principle]]\nid = \"asked\"\njudge = \"Which answer is longer and better?\"\nallow = [\"mentions-length\"]\n",
        ),
    ]
}

impl Case {
    /// With a second principle, so that tags can be compared.
    fn and_second(mut self) -> Self {
        self.files[0]
            .1
            .push_str("\n[[principle]]\nid = \"second\"\njudge = \"Which answer is kinder?\"\n");
        self
    }
}

/// What is told of each case, and the exit code.
fn told(cases: &[Case]) -> String {
    let mut out = String::new();
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in &case.files {
            fs::write(dir.path().join(path), text).unwrap();
        }
        let (code, stdout, stderr) = check(dir.path(), &["c.toml"]);
        let stderr = stderr.replace(&format!("{}/", dir.path().canonicalize().unwrap().display()), "");
        writeln!(out, "──── {} → exit code {code}\n{stderr}{stdout}", case.name).unwrap();
        assert!(!stderr.contains("panicked"), "{}: {stderr}", case.name);
    }
    out
}

fn check(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    let ran = bylaw(dir, &[&["constitution", "check"], arguments].concat());
    (ran.code, ran.stdout, ran.stderr)
}

/// Catches: a mistake that is not found, found at another place, told without a remedy or with the parser's bare words,
/// and a file with errors that counts as sound.
#[test]
fn every_broken_constitution_is_explained() {
    let cases = broken_files();
    let told = told(&cases);
    assert_eq!(told.matches("→ exit code 2").count(), cases.len(), "{told}");
    insta::assert_snapshot!("broken_files", told);
}

/// Catches: the same for variables, few-shot examples and allowed lints.
#[test]
fn every_broken_part_is_explained() {
    let cases = broken_parts();
    let told = told(&cases);
    assert_eq!(told.matches("→ exit code 2").count(), cases.len(), "{told}");
    insta::assert_snapshot!("broken_parts", told);
}

/// Catches: a lint that is silent, that speaks where it is allowed, or that makes a file unusable.
#[test]
fn what_is_doubtful_is_warned_about() {
    let told = told(&doubtful());
    assert_eq!(told.matches("→ exit code 0").count(), doubtful().len(), "{told}");
    insta::assert_snapshot!("doubtful", told);
}

/// Catches: a run that ends at the first problem, or at the first file.
#[test]
fn one_run_tells_everything() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{HEAD}{FAIR}")
        .replace("judge", "juge")
        .replace("\"fair\"", "\"Fair\"")
        .replace("\"1\"", "1");
    fs::write(dir.path().join("a.toml"), &text).unwrap();
    fs::write(dir.path().join("b.toml"), format!("{HEAD}{FAIR}")).unwrap();
    let (code, stdout, stderr) = check(dir.path(), &["a.toml", "b.toml", "nowhere.toml"]);
    assert_eq!(code, 2);
    for place in ["a.toml:2:11: ", "a.toml:5:6: ", "a.toml:8:1: ", "nowhere.toml"] {
        assert!(stderr.contains(place), "{place} not in {stderr}");
    }
    assert!(stdout.contains("b.toml: 1 principle, no findings"), "{stdout}");
}

/// Catches: a document that editors cannot use: a range off by one, a fix that does not mend.
#[test]
fn the_fixes_mend() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.toml");
    let text = format!("{HEAD}allow = [\"lone-tags\"]\n{FAIR}{FAIR}")
        .replacen("critique", "critque", 1)
        .replacen("judge", "jugde", 1);
    fs::write(&path, &text).unwrap();
    let (code, stdout, _) = check(dir.path(), &["--json", "a.toml"]);
    assert_eq!(code, 2);
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        document["errors"],
        document["files"][0]["diagnostics"].as_array().unwrap().len()
    );
    let mut fixes: Vec<(usize, usize, String)> = Vec::new();
    for finding in document["files"][0]["diagnostics"].as_array().unwrap() {
        let byte = |end: &str| finding["fix"]["range"][end]["byte"].as_u64().map(|byte| byte as usize);
        if let (Some(start), Some(end)) = (byte("start"), byte("end")) {
            fixes.push((start, end, finding["fix"]["replacement"].as_str().unwrap().to_owned()));
        }
    }
    assert!(fixes.len() >= 4, "{stdout}");
    let mut mended = text;
    for (start, end, replacement) in fixes.into_iter().rev() {
        mended.replace_range(start..end, &replacement);
    }
    fs::write(&path, &mended).unwrap();
    let (code, _, stderr) = check(dir.path(), &["a.toml"]);
    // The twin of a principle is a near-duplicate, which is a warning.
    assert_eq!(code, 0, "{mended}\n{stderr}");
    let (code, _, _) = check(dir.path(), &["--deny-warnings", "a.toml"]);
    assert_eq!(code, 2);
}

/// Catches: shipped files that the program finds fault with.
#[test]
fn the_shipped_constitutions_have_no_findings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<String> = fs::read_dir(root.join("constitutions"))
        .unwrap()
        .map(|entry| format!("constitutions/{}", entry.unwrap().file_name().into_string().unwrap()))
        .filter(|name| name.ends_with(".toml"))
        .collect();
    files.sort();
    for file in &files {
        let text = fs::read_to_string(root.join(file)).unwrap();
        assert!(text.starts_with("#:schema ../schemas/constitution.json\n"), "{file}");
    }
    let mut arguments = vec!["--deny-warnings"];
    arguments.extend(files.iter().map(String::as_str));
    let (code, stdout, stderr) = check(root, &arguments);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stderr}");
    assert_eq!(stdout.lines().count(), files.len());
}

/// Catches: a schema that is older than the keys.
#[test]
fn the_schema_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ran = bylaw(root, &["constitution", "schema"]);
    let committed = fs::read_to_string(root.join("schemas/constitution.json")).unwrap();
    assert!(
        ran.stdout == committed,
        "write it anew: bylaw constitution schema --out schemas/constitution.json --force"
    );
    // Catches: a file of another name written over unasked.
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine.json"), "mine").unwrap();
    let write = |more: &[&str]| {
        bylaw(
            dir.path(),
            &[&["constitution", "schema", "--out", "mine.json"], more].concat(),
        )
    };
    assert!(write(&[]).stderr.contains("--force"));
    assert_eq!(fs::read_to_string(dir.path().join("mine.json")).unwrap(), "mine");
    write(&["--force"]);
    assert_eq!(fs::read_to_string(dir.path().join("mine.json")).unwrap(), committed);
}

/// Catches: a file to start from that does not work, or that writes over somebody's work.
#[test]
fn a_new_file_is_sound() {
    let dir = tempfile::tempdir().unwrap();
    let new = |arguments: &[&str]| bylaw(dir.path(), &[&["constitution", "new"], arguments].concat()).code;
    assert_eq!(new(&["rules.toml"]), 0);
    let (code, stdout, _) = check(dir.path(), &["--deny-warnings", "rules.toml"]);
    assert_eq!((code, stdout.as_str()), (0, "rules.toml: 2 principles, no findings\n"));
    assert_eq!(new(&["rules.toml"]), 2);
    assert_eq!(new(&["rules.toml", "--force", "--name", "a \"quoted\" name\n[x]"]), 0);
    assert_eq!(check(dir.path(), &["rules.toml"]).0, 0);
}

/// Catches: a panic where what is printed is piped into `head`.
#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for arguments in [
        &["constitution", "show", "builtin:harmless"][..],
        &["--json", "constitution", "show", "builtin:harmless"],
        &["constitution", "check", "builtin:harmless"],
        &["constitution", "schema"],
        &["model", "info", "builtin:tiny"],
        &["run", "recipes/demo.toml", "--dry-run"],
    ] {
        let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("bylaw"))
            .current_dir(root)
            .args(arguments)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && !stderr.contains("panicked"),
            "{arguments:?}: {stderr}"
        );
    }
}

/// Catches: a variable that every one of several files would have to have, and one that none has and nobody tells of.
#[test]
fn a_variable_is_for_the_files_that_have_it() {
    let dir = tempfile::tempdir().unwrap();
    let without = format!("{HEAD}{FAIR}");
    let variables = "[variables]\naudience = \"adults\"\n";
    let with = format!("{HEAD}{variables}{FAIR}").replace("is unfair.", "is unfair to {{ audience }}.");
    fs::write(dir.path().join("with.toml"), with).unwrap();
    fs::write(dir.path().join("without.toml"), &without).unwrap();
    for files in [["with.toml", "without.toml"], ["without.toml", "with.toml"]] {
        let (code, _, stderr) = check(dir.path(), &[&files[..], &["--variable", "audience=children"]].concat());
        assert_eq!(code, 0, "{stderr}");
        let (code, _, stderr) = check(dir.path(), &[&files[..], &["--variable", "audiense=children"]].concat());
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("`audiense`"), "{stderr}");
    }
}
