//! The layers of ARCHITECTURE.md, kept: what each module may import, and what it must not mention.
//!
//! The sources are read as tokens, comments and strings left out, and every path in them is spelled out
//! from the crate's root, `use` groups and `super` included. Macros that build paths from pieces would
//! escape; there are none.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Modules, lowest first. A module may import those of earlier lines; those of one line know nothing of
/// each other. The levels of the design are the numbers; where one has several lines, its modules lean
/// on each other in that order.
const LEVELS: [(u8, &[&str]); 18] = [
    (0, &["bounds", "diff", "error", "judged", "progress", "record", "seed"]),
    (0, &["atomic", "interrupt", "memory", "small"]),
    (0, &["http"]),
    (1, &["hub", "object"]),
    (1, &["constitution", "model"]),
    (2, &["dataset", "prompt"]),
    (2, &["engine"]),
    (3, &["bias", "stage"]),
    (3, &["survey"]),
    (3, &["select"]),
    (4, &["job", "train"]),
    (5, &["world"]),
    (5, &["report"]),
    (5, &["eval"]),
    (6, &["config"]),
    (6, &["cli"]),
    // Cannot be imported; here so that they have a rank.
    (7, &["lib"]),
    (7, &["main"]),
];

/// A source file as what it says.
struct Source {
    /// From the repository's root.
    path: String,
    /// The module at the crate's root that it belongs to.
    module: String,
    tokens: Vec<Token>,
    /// Every path, from the root: `crate::model::files`, `std::fs::read`.
    paths: Vec<Mention>,
}

#[derive(Debug, Clone, PartialEq)]
struct Token {
    text: String,
    line: usize,
}

#[derive(Debug, Clone)]
struct Mention {
    path: String,
    line: usize,
}

impl Source {
    fn mentions(&self, word: &str) -> Vec<String> {
        let lines = self.tokens.iter().filter(|token| token.text == word);
        lines.map(|token| self.at(token.line, word)).collect()
    }

    /// Paths that are `path` or begin with it.
    fn reaches(&self, path: &str) -> Vec<String> {
        let below = format!("{path}::");
        let found = self
            .paths
            .iter()
            .filter(|mention| mention.path == path || mention.path.starts_with(&below));
        found.map(|mention| self.at(mention.line, &mention.path)).collect()
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }

    fn under(&self, dir: &str) -> bool {
        self.path.starts_with(&format!("src/{dir}/")) || self.path == format!("src/{dir}.rs")
    }

    /// A file of tests, all of it.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
}

// ---- reading -------------------------------------------------------------------------------------

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    assert!(files.len() > 50, "the sources were not found");
    files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            let text = fs::read_to_string(file).unwrap();
            let home = home(&path);
            let tokens = tokens(&text);
            Source {
                module: home.first().cloned().unwrap_or_else(|| match path.as_str() {
                    "src/main.rs" => "main".into(),
                    _ => "lib".into(),
                }),
                paths: paths(&tokens, &home),
                tokens,
                path,
            }
        })
        .collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The module of a file: `src/model/cpu/mod.rs` is `[model, cpu]`.
fn home(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if parts
        .last()
        .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
    {
        parts.pop();
    }
    parts
}

/// Identifiers, `::` and single marks. Comments, strings and characters are left out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut tokens, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let start = i;
        let mut token = None;
        match at(i) {
            '/' if at(i + 1) == '/' => i += chars[i..].iter().take_while(|c| **c != '\n').count(),
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            '"' => i = string_end(&chars, i + 1),
            '\'' => match (at(i + 1), at(i + 2)) {
                ('\\', _) => i += 3 + chars[i + 3..].iter().take_while(|c| **c != '\'').count() + 1,
                (_, '\'') => i += 3,
                _ => i += 1, // a lifetime: its name follows as a word
            },
            c if word(c) => {
                i += chars[i..].iter().take_while(|c| word(**c)).count();
                let text: String = chars[start..i].iter().collect();
                let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
                if ["r", "br", "cr"].contains(&text.as_str()) && at(i + hashes) == '"' {
                    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    i += hashes + 1;
                    while i < chars.len() && !chars[i..].starts_with(&close) {
                        i += 1;
                    }
                    i += close.len();
                } else {
                    token = Some(text);
                }
            }
            ':' if at(i + 1) == ':' => {
                i += 2;
                token = Some("::".to_owned());
            }
            c => {
                i += 1;
                token = (!c.is_whitespace()).then(|| c.to_string());
            }
        }
        tokens.extend(token.map(|text| Token { text, line }));
        line += chars[start..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// The index after the closing quote of a string whose content begins at `i`.
fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// Every path of several parts. `crate`, `self` and `super` at its beginning become a path from the root.
fn paths(tokens: &[Token], home: &[String]) -> Vec<Mention> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let begins = is_word(&tokens[i].text)
            && tokens.get(i + 1).is_some_and(|next| next.text == "::")
            && (i == 0 || tokens[i - 1].text != "::");
        // `use {a::b, c::d}` needs no care: its parts are paths of their own.
        i = if begins {
            tree(tokens, i, &[], &mut found)
        } else if tokens[i].text == "use" && tokens.get(i + 1).is_some_and(|next| is_word(&next.text)) {
            tree(tokens, i + 1, &[], &mut found)
        } else {
            i + 1
        };
    }
    for mention in &mut found {
        mention.path = from_root(&mention.path, home);
    }
    found
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Reads a path at `i`, with the groups in it; answers the index after it.
fn tree(tokens: &[Token], mut i: usize, prefix: &[String], found: &mut Vec<Mention>) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |token| token.text.as_str());
    let line = tokens[i].line;
    let mut parts = prefix.to_vec();
    loop {
        match text(i) {
            "{" => {
                i += 1;
                while i < tokens.len() && text(i) != "}" {
                    if is_word(text(i)) || text(i) == "*" {
                        i = tree(tokens, i, &parts, found);
                        // `as name`
                        while i < tokens.len() && text(i) != "," && text(i) != "}" {
                            i += 1;
                        }
                    } else {
                        i += 1;
                    }
                }
                return i + 1;
            }
            "self" if !parts.is_empty() => i += 1,
            part if is_word(part) => {
                parts.push(part.to_owned());
                i += 1;
            }
            _ => break,
        }
        if text(i) == "::" && (is_word(text(i + 1)) || text(i + 1) == "{") {
            i += 1;
        } else {
            break;
        }
    }
    found.push(Mention {
        path: parts.join("::"),
        line,
    });
    i
}

fn from_root(path: &str, home: &[String]) -> String {
    let parts: Vec<&str> = path.split("::").collect();
    let ups = parts.iter().take_while(|part| **part == "super").count();
    let (base, rest) = match parts[0] {
        "crate" | "bylaw" => (Vec::new(), &parts[1..]),
        "self" => (home.to_vec(), &parts[1..]),
        "super" => (home[..home.len().saturating_sub(ups)].to_vec(), &parts[ups..]),
        _ => return path.to_owned(),
    };
    let base = base.iter().map(String::as_str);
    std::iter::once("crate")
        .chain(base)
        .chain(rest.iter().copied())
        .collect::<Vec<_>>()
        .join("::")
}

/// The tokens without those of the items marked `#[cfg(test)]`.
fn without_tests(source: &Source) -> Vec<&Token> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let tokens = &source.tokens;
    let marked = |i: usize| {
        let window = tokens[i..].iter().take(mark.len());
        window.map(|token| token.text.as_str()).eq(mark)
    };
    let (mut kept, mut i) = (Vec::new(), 0);
    while i < tokens.len() {
        if !marked(i) {
            kept.push(&tokens[i]);
            i += 1;
            continue;
        }
        // The item ends with its outermost brace, or without one.
        let mut depth = 0;
        while i < tokens.len() {
            let text = tokens[i].text.as_str();
            depth += i32::from(text == "{") - i32::from(text == "}");
            i += 1;
            if depth == 0 && (text == "}" || text == ";") {
                break;
            }
        }
    }
    kept
}

fn none(found: impl IntoIterator<Item = String>, rule: &str) {
    let found: BTreeSet<String> = found.into_iter().collect();
    let list: Vec<String> = found.into_iter().collect();
    assert!(list.is_empty(), "{rule}:\n  {}", list.join("\n  "));
}

// ---- the rules -----------------------------------------------------------------------------------

#[test]
fn a_module_imports_lower_ones_only() {
    let rank: BTreeMap<&str, usize> = LEVELS
        .iter()
        .enumerate()
        .flat_map(|(rank, (_, modules))| modules.iter().map(move |module| (*module, rank)))
        .collect();
    let mut edges = 0;
    let mut wrong = Vec::new();
    for source in sources() {
        let own = *rank
            .get(source.module.as_str())
            .unwrap_or_else(|| panic!("{}: give the module a level", source.path));
        for mention in &source.paths {
            let Some(path) = mention.path.strip_prefix("crate::") else {
                continue;
            };
            let module = path.split("::").next().unwrap();
            let Some(there) = rank.get(module).filter(|_| module != source.module) else {
                continue;
            };
            edges += 1;
            if *there >= own {
                wrong.push(source.at(mention.line, &mention.path));
            }
        }
    }
    assert!(
        edges > 200,
        "only {edges} imports were found: the reader of sources is broken"
    );
    none(wrong, "imports that go up or sideways");
}

#[test]
fn every_module_has_a_level() {
    let lib = tokens(include_str!("../src/lib.rs"));
    let declared: BTreeSet<&str> = lib
        .windows(3)
        .filter(|window| window[0].text == "mod" && window[2].text == ";")
        .map(|window| window[1].text.as_str())
        .collect();
    let levels = LEVELS.iter().filter(|(level, _)| *level < 7);
    let known: BTreeSet<&str> = levels.flat_map(|(_, modules)| modules.iter().copied()).collect();
    assert_eq!(declared, known);
    assert!(LEVELS.windows(2).all(|pair| pair[0].0 <= pair[1].0));
}

#[test]
fn what_works_on_rows_does_no_input_or_output() {
    let sources = sources();
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| {
        ["stage", "bias", "survey", "select"]
            .iter()
            .any(|dir| source.under(dir))
    }) {
        for word in ["arrow", "serde_arrow", "File", "tokio", "reqwest"] {
            found.extend(source.mentions(word));
        }
        for path in ["std::fs", "std::io", "std::net", "std::process"] {
            found.extend(source.reaches(path));
        }
        // Models are behind the engine's trait.
        for path in ["crate::model", "crate::engine::local", "candle_core", "candle_nn"] {
            found.extend(source.reaches(path));
        }
    }
    none(found, "stages, bias, survey and select are functions of rows");
}

#[test]
fn losses_see_no_model_and_no_tokenizer() {
    let mut found = Vec::new();
    let sources = sources();
    let losses: Vec<_> = sources.iter().filter(|source| source.under("train/loss")).collect();
    assert!(losses.len() > 4);
    for source in losses {
        for path in [
            "std::fs",
            "std::io",
            "crate::model",
            "crate::engine",
            "crate::prompt",
            "crate::dataset",
        ] {
            found.extend(source.reaches(path));
        }
        // Nor do they reach one through the trainers around them.
        let inside = |path: &str| path == "crate::train::loss" || path.starts_with("crate::train::loss::");
        let around = source
            .paths
            .iter()
            .filter(|mention| mention.path.starts_with("crate::train"));
        found.extend(
            around
                .filter(|mention| !inside(&mention.path))
                .map(|mention| source.at(mention.line, &mention.path)),
        );
        for word in ["tokenizers", "Tokenizer", "Decoder"] {
            found.extend(source.mentions(word));
        }
    }
    none(found, "a loss is a function of tensors");
}

#[test]
fn the_engine_knows_no_constitution() {
    let words = ["constitution", "Constitution", "principle", "Principle"];
    let sources = sources();
    let engine = sources.iter().filter(|source| source.under("engine"));
    none(
        engine.flat_map(|source| words.iter().flat_map(|word| source.mentions(word))),
        "the engine continues texts and scores them",
    );
}

#[test]
fn only_the_command_line_prints_and_exits() {
    let words = ["println", "eprintln", "print", "eprint", "dbg"];
    let mut found = Vec::new();
    for source in sources() {
        if source.module == "cli" || source.module == "main" {
            continue;
        }
        // Its own number is no business with other processes.
        let processes = source.reaches("std::process").into_iter();
        found.extend(processes.filter(|mention| !mention.ends_with("std::process::id")));
        if source.is_test() {
            continue;
        }
        let tokens = without_tests(&source);
        let calls = tokens.windows(2).filter(|pair| pair[1].text == "!");
        found.extend(
            calls
                .filter(|pair| words.contains(&pair[0].text.as_str()))
                .map(|pair| source.at(pair[0].line, &pair[0].text)),
        );
    }
    none(found, "stdout and stderr belong to the command line");
}

#[test]
fn only_datasets_know_arrow() {
    let sources = sources();
    let elsewhere = sources.iter().filter(|source| source.module != "dataset");
    none(
        elsewhere.flat_map(|source| [source.mentions("arrow"), source.mentions("serde_arrow")].concat()),
        "Arrow is a format of files",
    );
}

#[test]
fn nothing_calls_a_fused_operation_without_a_backward() {
    // candle-nn's; our own kernels of the same names are in `model::cpu::kernels`.
    let words = [
        "softmax_last_dim",
        "rope_i",
        "rope_thd",
        "layer_norm",
        "layer_norm_slow",
        "sdpa",
    ];
    let sources = sources();
    let mut found: Vec<String> = sources
        .iter()
        .flat_map(|source| words.iter().flat_map(|word| source.mentions(word)))
        .collect();
    for source in &sources {
        for path in [
            "candle_nn::ops::rms_norm",
            "candle_nn::rotary_emb",
            "ops::rms_norm",
            "rotary_emb::rope",
        ] {
            found.extend(source.reaches(path));
        }
    }
    none(found, "these end the gradient without a word");
}

#[test]
fn the_truth_is_for_evaluation_only() {
    let sources = sources();
    let others = sources
        .iter()
        .filter(|source| !source.under("eval") && !source.under("world") && source.path != "src/cli/stages/eval.rs");
    none(
        others.flat_map(|source| source.mentions("Oracle")),
        "nothing that makes data or trains may see the oracle",
    );
}

#[test]
fn the_reader_of_sources_reads() {
    let text = r###"
        // use crate::no::comment;
        /* use crate::no /* nested */ ::comment; */
        use std::{fs, io::{self, Read as R}};
        use crate::{atomic, model::{files::{self, Model}, decoder::*}};
        use super::super::prompt::Style;
        const S: &str = r#"crate::no::string "quoted""#;
        const T: &str = "crate::no \" crate::no::string";
        const C: char = '"'; const D: char = '\''; const E: &'static str = "crate::no";
        fn f<'a>(x: &'a crate::seed::Seed) -> Vec<u8> { Vec::<u8>::with_capacity(self::local::f()) }
    "###;
    let found = paths(&tokens(text), &["train".into(), "loss".into(), "dpo".into()]);
    let found: Vec<(&str, usize)> = found
        .iter()
        .map(|mention| (mention.path.as_str(), mention.line))
        .collect();
    assert_eq!(
        found,
        [
            ("std::fs", 4),
            ("std::io", 4),
            ("std::io::Read", 4),
            ("crate::atomic", 5),
            ("crate::model::files", 5),
            ("crate::model::files::Model", 5),
            ("crate::model::decoder", 5),
            ("crate::train::prompt::Style", 6),
            ("crate::seed::Seed", 10),
            ("Vec", 10),
            ("crate::train::loss::dpo::local::f", 10),
        ]
    );
}
