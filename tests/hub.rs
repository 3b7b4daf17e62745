//! `model pull`, `model info` and `chat` as people and scripts meet them, against a hub on loopback.

#[path = "support/hub.rs"]
mod hub;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hub::{Fault, Hub, Repository, git_sha1, sha256};
use serde_json::Value;
use tempfile::TempDir;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/llama");
const TOKEN: &str = "hf_5ecret0123456789";
const FILES: [&str; 5] = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
];

// ---- running the program -------------------------------------------------------------------------

#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

/// The program with a home of its own, nothing of ours in its environment, and a token.
fn command(home: &Path, endpoint: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bylaw"));
    for name in [
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN_PATH",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    ] {
        command.env_remove(name);
    }
    command
        .current_dir(home)
        .env("NO_COLOR", "1")
        .env_remove("COLUMNS")
        .env("HF_HOME", home.join("hf"))
        .env("HF_ENDPOINT", endpoint)
        .env("HF_TOKEN", TOKEN)
        .stdin(Stdio::null());
    command
}

fn finish(mut command: Command, arguments: &[&str]) -> Ran {
    let output = command.args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    assert!(!ran.stderr.contains("panicked"), "{arguments:?}: {}", ran.stderr);
    assert!(!format!("{ran:?}").contains(TOKEN), "{ran:?}");
    ran
}

fn bylaw(home: &Path, hub: &Hub, arguments: &[&str]) -> Ran {
    finish(command(home, &hub.address()), arguments)
}

#[track_caller]
fn succeeds(home: &Path, hub: &Hub, arguments: &[&str]) -> Ran {
    let ran = bylaw(home, hub, arguments);
    assert_eq!(ran.code, 0, "{arguments:?}: {ran:#?}");
    ran
}

/// Exit code, nothing on stdout, and an error with a remedy that says all this.
#[track_caller]
fn refused(ran: &Ran, code: i32, says: &[&str]) {
    assert_eq!(ran.code, code, "{ran:#?}");
    assert_eq!(ran.stdout, "");
    for words in says.iter().chain(&["help: "]) {
        assert!(ran.stderr.contains(words), "no {words:?} in {}", ran.stderr);
    }
}

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(GOLDEN).join(name)).unwrap()
}

/// A repository with the golden checkpoint, and some files that nobody needs.
fn repository() -> Repository {
    let files = FILES.map(|name| (name, golden(name)));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let rest: [(&str, &[u8]); 3] = [
        ("README.md", b"# A model"),
        ("pytorch_model.bin", b"pickle"),
        ("model.onnx", b"x"),
    ];
    Repository::of(0xa1, &[&files[..], &rest].concat())
}

fn snapshot(home: &Path, commit: u8) -> PathBuf {
    home.join("hf/hub/models--org--name/snapshots")
        .join(format!("{commit:02x}").repeat(20))
}

#[track_caller]
fn is_golden(dir: &Path) {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "pull.json")
        .collect();
    names.sort();
    assert_eq!(names, FILES);
    for name in FILES {
        assert!(fs::read(dir.join(name)).unwrap() == golden(name), "{name}");
    }
}

/// Every file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() && !path.is_symlink() {
            true => files(&path),
            false => vec![path],
        })
        .collect()
}

// ---- pulling -------------------------------------------------------------------------------------

/// Catches: a layout that Python's huggingface_hub does not read; files fetched that nobody needs, or
/// again; a token in a file or at another address than the hub's; a reference that does not load.
#[test]
fn a_model_is_pulled_once_and_loads() {
    let (home, hub) = (temp(), Hub::start(repository()));
    let home = home.path();
    let ran = succeeds(home, &hub, &["model", "pull", "org/name"]);
    assert!(ran.stdout.starts_with("hf:org/name: commit a1a1"), "{}", ran.stdout);
    is_golden(&snapshot(home, 0xa1));
    let cache = home.join("hf/hub/models--org--name");
    assert_eq!(fs::read_to_string(cache.join("refs/main")).unwrap(), "a1".repeat(20));
    let link = fs::read_link(snapshot(home, 0xa1).join("model.safetensors")).unwrap();
    assert_eq!(
        link,
        PathBuf::from(format!("../../blobs/{}", sha256(&golden("model.safetensors"))))
    );
    let blob = cache.join("blobs").join(git_sha1(&golden("config.json")));
    assert!(blob.is_file());
    assert!(
        !files(&cache)
            .iter()
            .any(|path| path.to_string_lossy().contains("partial"))
    );

    for asked in hub.log() {
        let own = !asked.path.starts_with("/storage");
        let token = asked.authorization.as_deref();
        assert_eq!(token, own.then_some(&*format!("Bearer {TOKEN}")), "{asked:?}");
    }
    assert!(hub.log().iter().any(|asked| asked.path.starts_with("/storage")));
    for name in ["README.md", "pytorch_model.bin", "model.onnx"] {
        assert!(hub.asked(name).is_empty());
    }
    for file in files(home) {
        assert!(
            !String::from_utf8_lossy(&fs::read(&file).unwrap()).contains(TOKEN),
            "{file:?}"
        );
    }

    let before = hub.log().len();
    let again = succeeds(home, &hub, &["model", "pull", "hf:org/name@main", "--json"]);
    assert_eq!(hub.log().len(), before + 1, "the listing alone");
    let json: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(json["fetched_bytes"], 0);
    assert_eq!(json["files"].as_array().unwrap().len(), FILES.len());

    // By its name, without a network.
    let mut offline = command(home, "http://127.0.0.1:1");
    offline.env("HF_HUB_OFFLINE", "1");
    let info = finish(offline, &["model", "info", "hf:org/name", "--json"]);
    let info: Value = serde_json::from_str(&info.stdout).unwrap();
    let direct = succeeds(home, &hub, &["model", "info", GOLDEN, "--json"]);
    let direct: Value = serde_json::from_str(&direct.stdout).unwrap();
    assert_eq!(info["sha256"], direct["sha256"]);
    let commit = format!("hf:org/name@{}", "a1".repeat(20));
    succeeds(home, &hub, &["model", "cast", &commit, "--to", "f32", "--out", "copy"]);
}

/// Catches: a broken connection that loses what has come, or a resumption that asks for all of it.
#[test]
fn a_broken_connection_is_gone_on_from() {
    let hub = Hub::faulty(repository(), |asked, before| match () {
        () if asked.path.starts_with("/api") && before == 0 => Some(Fault::Status(503, "")),
        () if asked.path == "/storage/model.safetensors" && before < 2 => Some(Fault::Cut(10_000)),
        // Answers from the beginning, whatever is asked for.
        () if asked.path == "/storage/tokenizer.json" && before == 0 => Some(Fault::Cut(5000)),
        () if asked.path == "/storage/tokenizer.json" => Some(Fault::Whole),
        () => None,
    });
    let home = temp();
    succeeds(home.path(), &hub, &["model", "pull", "org/name"]);
    is_golden(&snapshot(home.path(), 0xa1));
    let ranges: Vec<Option<String>> = hub
        .asked("model.safetensors")
        .into_iter()
        .filter(|asked| asked.path.starts_with("/storage"))
        .map(|asked| asked.range)
        .collect();
    let from = |bytes: usize| Some(format!("bytes={bytes}-"));
    assert_eq!(ranges, [None, from(10_000), from(20_000)]);
}

/// Catches: Ctrl-C that is not heard while a server is silent; a resumption in another process that
/// begins anew; an `--out` directory with leftovers.
#[test]
fn an_interrupted_pull_goes_on() {
    for out in [None, Some("model")] {
        let hub = Hub::faulty(repository(), |asked, before| {
            (asked.path == "/storage/model.safetensors" && before == 0).then_some(Fault::Stall(12_345))
        });
        let home = temp();
        let arguments = [
            &["model", "pull", "org/name"][..],
            &out.map_or(vec![], |dir| vec!["--out", dir]),
        ]
        .concat();
        let mut first = command(home.path(), &hub.address());
        let child = first
            .args(&arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let arrived = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.len() == 12_345);
        while !files(home.path()).iter().any(arrived) {
            assert!(begun.elapsed() < Duration::from_secs(60), "the bytes never came");
            std::thread::sleep(Duration::from_millis(10));
        }
        let kill = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
        let stopped = child.wait_with_output().unwrap();
        assert_eq!(stopped.status.code(), Some(130), "{stopped:?}");

        let dir = out.map_or_else(|| snapshot(home.path(), 0xa1), |dir| home.path().join(dir));
        assert!(
            !dir.join("model.safetensors").exists(),
            "a file under way has no name yet"
        );
        succeeds(home.path(), &hub, &arguments);
        is_golden(&dir);
        assert_eq!(
            hub.asked("model.safetensors").last().unwrap().range.as_deref(),
            Some("bytes=12345-")
        );
        assert_eq!(dir.join("pull.json").exists(), out.is_some());
    }
}

/// Catches: content that is not the listed one under its name; a bad leftover that fails for ever.
#[test]
fn other_content_than_listed_is_refused() {
    for name in ["config.json", "model.safetensors"] {
        let hub = Hub::faulty(repository(), move |asked, _| {
            (asked.path.ends_with(&format!("/{name}"))).then_some(Fault::Corrupt)
        });
        let home = temp();
        let ran = bylaw(home.path(), &hub, &["model", "pull", "org/name"]);
        refused(
            &ran,
            4,
            &[name, "another content than the hub lists", "deleted", "proxy"],
        );
        let digits = [sha256(&golden(name)), git_sha1(&golden(name))];
        let left = files(home.path());
        let named = |path: &&PathBuf| digits.iter().any(|digits| path.to_string_lossy().contains(digits));
        let left: Vec<_> = left
            .iter()
            .filter(named)
            .filter(|path| !path.ends_with("lock"))
            .collect();
        assert!(
            left.iter()
                .all(|path| path.extension().is_some_and(|end| end == "lock")),
            "{left:?}"
        );
    }
    // What a killed process left may be anything.
    let (home, hub) = (temp(), Hub::start(repository()));
    let blobs = home.path().join("hf/hub/models--org--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let bytes = golden("model.safetensors");
    let partial = blobs.join(format!("{}.partial", sha256(&bytes)));
    for left in [vec![0; 500], vec![0; bytes.len()], vec![0; bytes.len() + 1]] {
        fs::write(&partial, left).unwrap();
        succeeds(home.path(), &hub, &["model", "pull", "org/name"]);
        is_golden(&snapshot(home.path(), 0xa1));
        fs::remove_file(blobs.join(sha256(&bytes))).unwrap();
    }
}

/// Catches: files of two commits side by side; a directory that is not ours overwritten.
#[test]
fn a_changed_revision_is_pulled_whole() {
    let (home, hub) = (temp(), Hub::start(repository()));
    let home = home.path();
    let into = ["model", "pull", "org/name", "--out", "model"];
    succeeds(home, &hub, &["model", "pull", "org/name"]);
    succeeds(home, &hub, &into);
    is_golden(&home.join("model"));
    hub.change(|repository| {
        repository.commit = "b2".repeat(20);
        repository
            .files
            .insert("config.json".into(), b"{\"changed\": 1}".to_vec());
        repository.files.remove("generation_config.json");
    });
    let ran = succeeds(home, &hub, &into);
    assert!(ran.stderr.contains("has moved from a1a1"), "{}", ran.stderr);
    assert_eq!(
        fs::read_to_string(home.join("model/config.json")).unwrap(),
        "{\"changed\": 1}"
    );
    assert!(!home.join("model/generation_config.json").exists());
    let record: Value = serde_json::from_str(&fs::read_to_string(home.join("model/pull.json")).unwrap()).unwrap();
    assert_eq!(record["commit"], "b2".repeat(20));
    assert_eq!(
        hub.asked("tokenizer_config.json").len(),
        2,
        "what has not changed is not fetched again"
    );

    // Both commits in the cache, the branch at the new one.
    succeeds(home, &hub, &["model", "pull", "org/name"]);
    is_golden(&snapshot(home, 0xa1));
    assert!(!snapshot(home, 0xb2).join("generation_config.json").exists());
    let main = fs::read_to_string(home.join("hf/hub/models--org--name/refs/main")).unwrap();
    assert_eq!(main, "b2".repeat(20));

    fs::create_dir(home.join("mine")).unwrap();
    fs::write(home.join("mine/notes.txt"), "mine").unwrap();
    let ran = bylaw(home, &hub, &["model", "pull", "org/name", "--out", "mine"]);
    refused(&ran, 2, &["mine: ", "notes.txt", "--out"]);
    let ran = bylaw(home, &hub, &["model", "pull", "other", "--out", "model"]);
    refused(&ran, 4, &["other", "404"]);
}

/// Catches: a refusal without what to do about it; a token repeated by an error.
#[test]
fn refusals_have_remedies() {
    let cases: [(u16, &'static str, &[&str]); 5] = [
        (401, "RepoNotFound", &["check the name", "HF_TOKEN"]),
        (403, "GatedRepo", &["accept the model's terms at", "/org/name"]),
        (404, "RepoNotFound", &["no, says the hub", "check the name"]),
        (404, "RevisionNotFound", &["no revision `v9`", "lists the branches"]),
        (429, "", &["429", "given up after"]),
    ];
    for (status, code, says) in cases {
        let hub = Hub::faulty(repository(), move |_, _| Some(Fault::Status(status, code)));
        let home = temp();
        let ran = bylaw(home.path(), &hub, &["model", "pull", "org/name@v9"]);
        refused(&ran, 4, says);
        let dir = home.path().join("hf/hub/models--org--name");
        assert!(!dir.exists(), "nothing is made before the hub has answered");
    }
    let (home, hub) = (temp(), Hub::start(repository()));
    for wrong in ["a/b/c", "../x", "org/name@../x"] {
        let ran = bylaw(home.path(), &hub, &["model", "pull", wrong]);
        refused(&ran, 2, &["org/name@revision"]);
    }
}

/// Catches: a file written outside the directory, on a server's word.
#[test]
fn names_that_leave_the_directory_are_refused() {
    for name in [
        "../../evil.json",
        "/tmp/evil.json",
        "a/../../evil",
        "..\\evil",
        "tokenizer/../../evil",
    ] {
        let hub = Hub::start(Repository {
            names: vec![name.to_owned()],
            ..repository()
        });
        let home = temp();
        for out in [&[][..], &["--out", "a/b/c", "--include", "*"]] {
            let ran = bylaw(home.path(), &hub, &[&["model", "pull", "org/name"], out].concat());
            refused(&ran, 4, &["leaves its directory", "do not trust"]);
        }
        assert!(files(home.path()).is_empty(), "{:?}", files(home.path()));
    }
    let hub = Hub::start(Repository {
        commit: "../../../evil".into(),
        ..repository()
    });
    let ran = bylaw(temp().path(), &hub, &["model", "pull", "org/name"]);
    refused(&ran, 4, &["is not the hub's", "HF_ENDPOINT"]);
}

/// Catches: an offline machine whose user is not told which files to bring, or where to put them.
#[test]
fn without_a_network_it_is_said_what_to_do() {
    let home = temp();
    let by_hand = [
        "bylaw model pull org/name --out DIR",
        "tokenizer.json",
        "models--org--name",
        "hf/hub",
    ];
    let ran = finish(
        command(home.path(), "http://127.0.0.1:1"),
        &["model", "pull", "org/name"],
    );
    refused(&ran, 4, &[&["cannot be reached"], &by_hand[..]].concat());
    let mut offline = command(home.path(), "http://127.0.0.1:1");
    offline.env("HF_HUB_OFFLINE", "1");
    let ran = finish(offline, &["model", "pull", "org/name"]);
    refused(&ran, 2, &[&["HF_HUB_OFFLINE is set"], &by_hand[..]].concat());
    let ran = finish(
        command(home.path(), "http://127.0.0.1:1"),
        &["model", "info", "hf:org/name@v1"],
    );
    refused(
        &ran,
        3,
        &[&["not in the cache", "model pull org/name@v1"], &by_hand[..]].concat(),
    );
}

/// Catches: a mirror without checksums trusted or refused; patterns that are not heeded.
#[test]
fn mirrors_and_patterns_are_heeded() {
    let hub = Hub::start(Repository {
        bare: true,
        ..repository()
    });
    let home = temp();
    succeeds(home.path(), &hub, &["model", "pull", "org/name"]);
    is_golden(&snapshot(home.path(), 0xa1));
    let heads = hub.log().into_iter().filter(|asked| asked.method == "HEAD");
    assert_eq!(heads.count(), FILES.len());

    let hub = Hub::start(Repository::of(
        1,
        &[("m-Q4_K_M.gguf", b"four"), ("m-Q8_0.gguf", b"eight")],
    ));
    let pull = ["model", "pull", "org/name", "--out", "gguf"];
    refused(
        &bylaw(home.path(), &hub, &pull),
        2,
        &["GGUF files: m-Q4_K_M.gguf, m-Q8_0.gguf", "--include"],
    );
    succeeds(
        home.path(),
        &hub,
        &[&pull[..], &["--include", "*.gguf", "--exclude", "*Q8*"]].concat(),
    );
    assert_eq!(fs::read(home.path().join("gguf/m-Q4_K_M.gguf")).unwrap(), b"four");
    assert!(!home.path().join("gguf/m-Q8_0.gguf").exists());
    let hub = Hub::start(Repository::of(
        1,
        &[("config.json", b"{}"), ("pytorch_model.bin", b"pickle")],
    ));
    let ran = bylaw(home.path(), &hub, &["model", "pull", "org/name"]);
    refused(
        &ran,
        3,
        &["no weights in safetensors", "pytorch_model.bin", "safe_serialization"],
    );
}
