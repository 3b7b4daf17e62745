//! A data reference, as users write it, to the files behind it: a dataset, a directory of files, a file,
//! or a glob.
//!
//! Decides which files are read and in which order; never opens them.

use std::fs;
use std::path::{Path, PathBuf};

use super::manifest::Manifest;
use super::source::Format;
use crate::error::{Error, Result};
use crate::object;

const READABLE: &str = "bylaw reads .jsonl, .ndjson, .json, .csv, .tsv, .parquet and .arrow files, a directory of \
     them, a dataset, or a glob such as `data/*.jsonl`";

/// Files that tools keep beside data, never data themselves.
const DESCRIPTIONS: [&str; 6] = [
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "export.json",
    "state.json",
    "world.json",
];

#[derive(Debug)]
pub enum Location {
    Dataset(PathBuf),
    Files(Vec<(PathBuf, Format)>),
}

/// What `reference` leads to. `format` is that of its files, whatever they are called.
pub fn locate(reference: &str, format: Option<Format>) -> Result<Location> {
    // What lies in an object store is read from its copy.
    let local = object::localise(reference)?;
    let path = local.as_ref();
    if path.is_dir() {
        return if Manifest::exists(path) {
            Ok(Location::Dataset(path.to_owned()))
        } else {
            directory(path, format).map(Location::Files)
        };
    }
    if path.is_file() {
        return Ok(Location::Files(vec![with_format(path.to_owned(), format)?]));
    }
    if reference.contains(['*', '?']) {
        return glob(path, format).map(Location::Files);
    }
    Err(match fs::metadata(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Error::io("read", path, error).help("check the path, the rights, and that its links lead to a file")
        }
        Ok(_) => Error::input("is neither a file nor a directory")
            .at_file(reference)
            .help(READABLE),
        Err(_) if fs::symlink_metadata(path).is_ok() => Error::input("the symbolic link leads nowhere")
            .at_file(reference)
            .help("remove the link, or put back what it leads to"),
        Err(_) if reference.contains("://") => Error::input("addresses of this kind are not read")
            .at_file(reference)
            .help("fetch it first, and name the file; of stores, s3://, gs:// and az:// are read"),
        Err(_) => Error::input("there is no such file or directory")
            .at_file(reference)
            .help(READABLE),
    })
}

/// The readable files of a directory that is not a dataset.
///
/// Its `.json` files are data only where nothing else is: beside data they describe it.
fn directory(dir: &Path, format: Option<Format>) -> Result<Vec<(PathBuf, Format)>> {
    let names = names(dir)?;
    let mut files: Vec<(PathBuf, Format)> = names
        .iter()
        .filter(|name| !DESCRIPTIONS.contains(&name.as_str()))
        .map(|name| dir.join(name))
        .filter(|path| path.is_file())
        .filter_map(|path| Format::of(&path).map(|found| (path, format.unwrap_or(found))))
        .collect();
    if files.iter().any(|(path, _)| Format::of(path) != Some(Format::Json)) {
        files.retain(|(path, _)| Format::of(path) != Some(Format::Json));
    }
    // Exports, and many sets of the Hugging Face hub, have their rows one step down.
    let data = dir.join("data");
    if files.is_empty() && data.is_dir() && dir.file_name() != data.file_name() {
        return directory(&data, format);
    }
    if files.is_empty() {
        let below: Vec<&str> = names
            .iter()
            .filter(|name| dir.join(name).is_dir())
            .map(String::as_str)
            .collect();
        return Err(Error::input("the directory has no file of data")
            .at_file(dir)
            .help(match below.is_empty() {
                true => READABLE.to_owned(),
                false => format!("name one of the directories in it: {}", below.join(", ")),
            }));
    }
    Ok(files)
}

fn glob(pattern: &Path, format: Option<Format>) -> Result<Vec<(PathBuf, Format)>> {
    let dir = match pattern.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if dir.to_string_lossy().contains(['*', '?']) {
        return Err(
            Error::config("`*` and `?` are understood in the last part of a path only")
                .at_file(pattern)
                .help("name one directory, or pass the files of one directory at a time"),
        );
    }
    let wanted: Vec<char> = name(pattern).chars().collect();
    let files: Vec<PathBuf> = names(dir)?
        .into_iter()
        .filter(|name| matches(&wanted, &name.chars().collect::<Vec<_>>()))
        .map(|name| dir.join(name))
        .filter(|path| path.is_file())
        .collect();
    if files.is_empty() {
        return Err(Error::input("no file matches the pattern")
            .at_file(pattern)
            .help(READABLE));
    }
    files.into_iter().map(|file| with_format(file, format)).collect()
}

/// Whether a name matches a pattern of `*` (any characters) and `?` (one character).
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on when the characters after the last `*` turn out not to match.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&rest| rest == '*')
}

/// The names in a directory, sorted, without hidden ones (among them are half-written shards).
fn names(dir: &Path) -> Result<Vec<String>> {
    let failed = |error| Error::io("list", dir, error).help(READABLE);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        // A name that is not UTF-8 cannot be spelled in a manifest.
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string()
            && !name.starts_with('.')
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

pub fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn with_format(path: PathBuf, format: Option<Format>) -> Result<(PathBuf, Format)> {
    if let Some(format) = format.or_else(|| Format::of(&path)) {
        return Ok((path, format));
    }
    let found = match path.extension() {
        Some(extension) => format!("`.{}` files are not read", extension.to_string_lossy()),
        None => "the file has no extension, so its format is unknown".to_owned(),
    };
    let packed = path
        .extension()
        .is_some_and(|extension| extension == "gz" || extension == "zst");
    Err(Error::input(found).at_file(path).help(match packed {
        true => "unpack it first, with gunzip or unzstd",
        false => READABLE,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_a_shell_does() {
        let matches = |pattern: &str, name: &str| {
            matches(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
        };
        for (pattern, name) in [
            ("*.jsonl", "a.jsonl"),
            ("a?c*", "abc"),
            ("*", ""),
            ("*a*b", "xaybab"),
            ("é?", "éü"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.jsonl", "a.json"),
            ("a?c", "ac"),
            ("?", ""),
            ("*a*b", "ba"),
            ("", "x"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
