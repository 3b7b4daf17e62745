//! What a directory holds, but for what no two runs have in common.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// Fields that differ between two runs by nature: file, path of the field (`*` is every item), reason.
const VOLATILE: [(&str, &[&str], &str); 9] = [
    (
        "run.json",
        &["peak_rss_mb"],
        "the memory of the processes that took part",
    ),
    ("run.json", &["stages", "*", "seconds"], "the time a stage took"),
    ("units.json", &["units", "*", "seconds"], "the time a unit took"),
    ("status.json", &["owner"], "the process that worked last"),
    ("status.json", &["updated"], "when it did"),
    ("status.json", &["seconds"], "the time of the work"),
    ("status.json", &["session_inputs"], "what the last process did of it"),
    ("status.json", &["session_seconds"], "how long that took"),
    ("status.json", &["last_error"], "what stopped an earlier process"),
];

/// Files that are told and not relied on: they need not survive a power failure, nor need the program stop
/// when they cannot be written. The same command brings them to their end all the same.
const TOLD: [&str; 1] = ["status.json"];

/// The page shows the times in `run.json`; it is compared with one made again from the same directory
/// (see `Case::report_again`), not with that of another run.
pub const REPORT: &str = "report.html";

const LEFT_OVER: &str = "should not be there";

/// Path → content; directories end in `/`.
pub type Snapshot = BTreeMap<String, Vec<u8>>;

pub fn snapshot(dir: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    collect(dir, "", &mut found);
    found
}

fn collect(dir: &Path, prefix: &str, found: &mut Snapshot) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let file_name = entry.file_name().into_string().unwrap();
        let name = format!("{prefix}{file_name}");
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.insert(format!("{name}/"), Vec::new());
            collect(&entry.path(), &format!("{name}/"), found);
        } else if kind.is_symlink() {
            let target = fs::read_link(entry.path()).unwrap();
            found.insert(name, target.to_string_lossy().into_owned().into_bytes());
        } else if file_name == REPORT {
            found.insert(name, Vec::new());
        } else {
            found.insert(name, normal(&file_name, fs::read(entry.path()).unwrap()));
        }
    }
}

/// The content without its volatile fields. What is not JSON stays as it is.
fn normal(file_name: &str, content: Vec<u8>) -> Vec<u8> {
    let fields: Vec<_> = VOLATILE.iter().filter(|(file, ..)| *file == file_name).collect();
    if fields.is_empty() {
        return content;
    }
    let Ok(mut value) = serde_json::from_slice(&content) else {
        return content;
    };
    for (_, path, _) in fields {
        blank(&mut value, path);
    }
    serde_json::to_vec_pretty(&value).unwrap()
}

fn blank(value: &mut Value, path: &[&str]) {
    match (path, value) {
        ([], value) => *value = Value::Null,
        (["*", rest @ ..], Value::Array(items)) => items.iter_mut().for_each(|item| blank(item, rest)),
        ([field, rest @ ..], Value::Object(fields)) => {
            if let Some(value) = fields.get_mut(*field) {
                blank(value, rest);
            }
        }
        _ => {}
    }
}

/// How `here` differs from `there`, the uninterrupted run.
pub fn differences(there: &Snapshot, here: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, content) in there {
        match here.get(name) {
            None => lines.push(format!("{name} is missing")),
            Some(other) if other != content => {
                lines.push(format!("{name} differs: {}", first_difference(content, other)));
            }
            Some(_) => {}
        }
    }
    let further = here.keys().filter(|name| !there.contains_key(*name));
    lines.extend(further.map(|name| format!("{name} {LEFT_OVER}")));
    lines
}

/// What is lost of a finished run: differences but for files that are only told, and removals that came
/// undone.
pub fn losses(there: &Snapshot, here: &Snapshot) -> Vec<String> {
    let told = |line: &String| {
        let path = line.split_once(' ').map_or("", |(path, _)| path);
        TOLD.iter().any(|name| path.rsplit('/').next() == Some(name))
    };
    let mut lines = differences(there, here);
    lines.retain(|line| !line.ends_with(LEFT_OVER) && !told(line));
    lines
}

fn first_difference(there: &[u8], here: &[u8]) -> String {
    let at = there.iter().zip(here).take_while(|(a, b)| a == b).count();
    let part = |bytes: &[u8]| {
        let end = bytes.len().min(at + 40);
        String::from_utf8_lossy(&bytes[at.saturating_sub(20).min(end)..end]).into_owned()
    };
    format!(
        "{} bytes instead of {}, from byte {at} on {:?} instead of {:?}",
        here.len(),
        there.len(),
        part(here),
        part(there)
    )
}
