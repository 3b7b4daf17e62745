//! What a disk holds after the power failed: a log of changes, replayed on a model of a file system.
//!
//! The model promises only what POSIX does: a file's data survive `fsync` of the file, a name survives
//! `fsync` of its directory. Everything else may survive or not, and the variants of [`Crash`] say how.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use super::random::Random;

/// A change as the shim saw it.
#[derive(Debug, Clone)]
pub struct Change {
    pub kind: char,
    /// Which opened file; 0 for changes of names.
    file: usize,
    number: u64,
    /// What is changed, below the watched directory.
    pub name: String,
    /// What is written, or the second name.
    data: Vec<u8>,
    /// Opening a directory or a file to read changes nothing and is not counted.
    pub counted: bool,
}

/// The changes of a log, in their order.
pub fn read_log(path: &Path) -> Vec<Change> {
    let log = fs::read(path).unwrap();
    let mut rest = &log[..];
    let mut changes = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(21);
        let word = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let (name, tail) = tail.split_at(word(13));
        let (data, tail) = tail.split_at(word(17));
        rest = tail;
        changes.push(Change {
            kind: char::from(head[0]),
            file: word(1),
            number: u64::from_ne_bytes(head[5..13].try_into().unwrap()),
            name: String::from_utf8(name.to_vec()).unwrap(),
            data: data.to_vec(),
            counted: head[0] != b'd',
        });
    }
    changes
}

/// How much of what was not made durable is there after the crash.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Crash {
    /// All of it: the process was killed, the machine goes on.
    Killed,
    /// As `Killed`, with half of the write in flight.
    Torn,
    /// Nothing of it.
    Strict,
    /// All names, but files have only their durable data.
    NamesOnly,
    /// All names, and files of their length now that hold something else.
    Garbage,
    /// Names up to some moment before the crash, and data at random.
    Mixed(u64),
}

impl Crash {
    /// One of each; `seed` is for what is left to chance.
    pub fn kinds(seed: usize) -> [Self; 6] {
        let mixed = Self::Mixed(seed as u64);
        [
            Self::Killed,
            Self::Torn,
            Self::Strict,
            Self::NamesOnly,
            Self::Garbage,
            mixed,
        ]
    }
}

#[derive(Debug, Clone, Default)]
struct File {
    now: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
}

/// The names in a directory at some moment.
type Entries = BTreeMap<String, usize>;

#[derive(Debug, Clone, Default)]
struct Directory {
    now: Entries,
    /// What the names became, by the number of the change.
    history: Vec<(usize, Entries)>,
    /// The last change that is certain to survive.
    synced: usize,
}

#[derive(Debug, Clone)]
enum Node {
    File(File),
    Directory(Directory),
    Link(String),
}

/// The watched directory.
#[derive(Debug, Clone)]
pub struct Disk {
    nodes: Vec<Node>,
    /// The node of each opened file.
    opened: BTreeMap<usize, usize>,
    changes: usize,
}

/// Path → content of a file, `None` for a directory, or the target of a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Found {
    File(Arc<Vec<u8>>),
    Directory,
    Link(String),
}

/// What lies on the disk after a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State(pub BTreeMap<String, Found>);

impl State {
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (name, found) in &self.0 {
            name.hash(&mut hasher);
            // Times and process numbers make every state another; what goes on does not read them.
            let told = ["status.json", ".status.json.partial", "lock"];
            match found {
                Found::File(_) if told.iter().any(|told| name.rsplit('/').next() == Some(told)) => {}
                found => found.hash(&mut hasher),
            }
        }
        hasher.finish()
    }

    /// Makes it real in an empty directory.
    pub fn write(&self, dir: &Path) {
        // A directory comes before what is in it.
        for (name, found) in &self.0 {
            let path = dir.join(name);
            match found {
                Found::Directory => fs::create_dir(path).unwrap(),
                Found::File(content) => fs::write(path, content.as_slice()).unwrap(),
                Found::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            }
        }
    }
}

const ROOT: usize = 0;

impl Disk {
    /// A disk on which all of `state` is durable.
    pub fn holding(state: &State) -> Self {
        let mut disk = Self {
            nodes: vec![Node::Directory(Directory::default())],
            opened: BTreeMap::new(),
            changes: 0,
        };
        for (name, found) in &state.0 {
            let node = match found {
                Found::File(content) => Node::File(File {
                    now: content.clone(),
                    durable: content.clone(),
                }),
                Found::Directory => Node::Directory(Directory::default()),
                Found::Link(target) => Node::Link(target.clone()),
            };
            disk.add(name, node);
        }
        disk
    }

    fn find(&self, name: &str) -> Option<usize> {
        let parts = name.split('/').filter(|part| !part.is_empty());
        parts.into_iter().try_fold(ROOT, |node, part| match &self.nodes[node] {
            Node::Directory(directory) => directory.now.get(part).copied(),
            _ => None,
        })
    }

    /// Changes the names in the directory that `name` lies in.
    fn rename_in(&mut self, name: &str, change: impl FnOnce(&mut Entries, &str)) {
        let (parent, last) = name.rsplit_once('/').unwrap_or(("", name));
        let parent = self.find(parent).unwrap_or_else(|| panic!("{name} lies nowhere"));
        let Node::Directory(directory) = &mut self.nodes[parent] else {
            panic!("{name} lies in a file");
        };
        change(&mut directory.now, last);
        directory.history.push((self.changes, directory.now.clone()));
    }

    fn add(&mut self, name: &str, node: Node) -> usize {
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        self.rename_in(name, |entries, last| {
            entries.insert(last.to_owned(), index);
        });
        index
    }

    fn file(&mut self, change: &Change) -> &mut File {
        let node = self.opened[&change.file];
        match &mut self.nodes[node] {
            Node::File(file) => file,
            _ => panic!("{change:?} on what is no file"),
        }
    }

    pub fn apply(&mut self, change: &Change) {
        self.changes += 1;
        let second = || String::from_utf8(change.data.clone()).unwrap();
        match change.kind {
            'o' | 'd' => self.open(change),
            'w' => {
                let at = change.number as usize;
                let content = Arc::make_mut(&mut self.file(change).now);
                content.resize(content.len().max(at + change.data.len()), 0);
                content[at..at + change.data.len()].copy_from_slice(&change.data);
            }
            't' => Arc::make_mut(&mut self.file(change).now).resize(change.number as usize, 0),
            's' => self.sync(change),
            'm' => {
                self.add(&change.name, Node::Directory(Directory::default()));
            }
            'y' => {
                self.add(&change.name, Node::Link(second()));
            }
            'u' | 'x' => self.rename_in(&change.name, |entries, last| {
                entries.remove(last);
            }),
            'l' | 'r' => {
                assert_eq!(change.number, 0, "a flag of renameat2 that the model does not know");
                let node = self.find(&change.name).unwrap();
                if change.kind == 'r' {
                    self.rename_in(&change.name, |entries, last| {
                        entries.remove(last);
                    });
                }
                self.rename_in(&second(), |entries, last| {
                    entries.insert(last.to_owned(), node);
                });
            }
            other => panic!("the log has a change of kind {other:?}"),
        }
    }

    fn open(&mut self, change: &Change) {
        let node = match self.find(&change.name) {
            Some(node) => node,
            None => self.add(&change.name, Node::File(File::default())),
        };
        self.opened.insert(change.file, node);
        if change.number & 2 != 0 {
            self.file(change).now = Arc::default();
        }
    }

    fn sync(&mut self, change: &Change) {
        let changes = self.changes;
        match &mut self.nodes[self.opened[&change.file]] {
            Node::File(file) => file.durable = file.now.clone(),
            Node::Directory(directory) => directory.synced = changes,
            Node::Link(_) => {}
        }
    }

    /// What is there if the machine stops now, with `next` in flight.
    pub fn crash(&self, crash: Crash, next: Option<&Change>) -> State {
        let mut found = BTreeMap::new();
        let mut random = match crash {
            Crash::Mixed(seed) => Random::new(seed),
            _ => Random::new(0),
        };
        let names_until = match crash {
            Crash::Strict => 0,
            Crash::Mixed(_) => random.below(self.changes as u64 + 1) as usize,
            _ => self.changes,
        };
        if let (Crash::Torn, Some(next)) = (crash, next.filter(|next| next.kind == 'w')) {
            let mut torn = self.clone();
            let mut half = next.clone();
            half.data.truncate(next.data.len() / 2);
            torn.apply(&half);
            return torn.crash(Crash::Killed, None);
        }
        self.collect(ROOT, "", &mut found, names_until, &mut |file| {
            data_after(crash, file, &mut random)
        });
        State(found)
    }

    fn collect(
        &self,
        node: usize,
        name: &str,
        found: &mut BTreeMap<String, Found>,
        names_until: usize,
        data: &mut impl FnMut(&File) -> Arc<Vec<u8>>,
    ) {
        let found_here = match &self.nodes[node] {
            Node::File(file) => Found::File(data(file)),
            Node::Link(target) => Found::Link(target.clone()),
            Node::Directory(directory) => {
                let until = names_until.max(directory.synced);
                let entries = directory.history.iter().rev().find(|(at, _)| *at <= until);
                for (last, node) in entries.iter().flat_map(|(_, entries)| entries) {
                    let name = if name.is_empty() {
                        last.clone()
                    } else {
                        format!("{name}/{last}")
                    };
                    self.collect(*node, &name, found, names_until, data);
                }
                Found::Directory
            }
        };
        if node != ROOT {
            found.insert(name.to_owned(), found_here);
        }
    }
}

fn data_after(crash: Crash, file: &File, random: &mut Random) -> Arc<Vec<u8>> {
    if file.now == file.durable {
        return file.now.clone();
    }
    // What was durable stays as it was, as far as it was not written over.
    let kept = |at: usize| file.durable.get(at) == Some(&file.now[at]);
    let garbled = |(at, byte): (usize, &u8)| if kept(at) { *byte } else { byte ^ 0x5a };
    let garbage = || Arc::new(file.now.iter().enumerate().map(garbled).collect());
    let shortest = file.durable.len().min(file.now.len());
    let lost = (file.now.len() - shortest) as u64;
    match crash {
        Crash::Killed | Crash::Torn => file.now.clone(),
        Crash::Strict | Crash::NamesOnly => file.durable.clone(),
        Crash::Garbage => garbage(),
        Crash::Mixed(_) => match random.below(4) {
            0 => file.now.clone(),
            1 => file.durable.clone(),
            2 => garbage(),
            _ => Arc::new(file.now[..shortest + random.below(lost + 1) as usize].to_vec()),
        },
    }
}
