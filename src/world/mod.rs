//! The proving ground: a small world of questions and answers in which every effect can be measured.
//!
//! A question asks how to do something to a thing. The verb and the class of the thing together decide
//! whether that is harmful, so a model has to compose the two; some pairs are kept from pre-training to
//! test that it does. The module writes the pre-training mixture, with known habits and biases planted
//! in it, and the prompts of constitutional AI; an oracle reads any answer back by the grammar.
//!
//! It knows nothing of models, engines and stages: it reads and writes text, in the forms of
//! [`crate::prompt`].

mod contests;
mod data;
mod documents;
mod generate;
mod kinds;
mod oracle;
mod pattern;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use data::Data;

pub use documents::DocumentWriter;
pub use kinds::{AnswerKind, Category, DocumentKind, Kind, Label, Length, OffTopic, Split};
pub use oracle::{Oracle, Verdict};

use crate::error::{Error, Result};
use crate::record::content_id;

/// A verb of the world, by its place in the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Verb(u16);

/// An object of the world, by its place in the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Object(u16);

/// What a question is about: a verb applied to an object. Only a [`World`] or its [`Oracle`] hands pairs
/// out, so a pair always has a meaning there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    verb: Verb,
    object: Object,
}

/// What a verb means for the objects of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Harmful(Category),
    /// An index into the benign verbs of the data.
    Benign(usize),
}

#[derive(Debug, Clone)]
struct Entry {
    meaning: Meaning,
    split: Split,
}

/// The vocabulary, the grammar and the planted behaviour of the proving ground.
#[derive(Debug, Clone)]
pub struct World {
    data: Data,
    verbs: Vec<String>,
    objects: Vec<String>,
    /// The class of each object, as an index into the data.
    classes: Vec<usize>,
    entries: HashMap<Pair, Entry>,
    /// The pairs of each split, harmful and benign, in the order of the data.
    pairs: [[Vec<Pair>; 2]; Split::ALL.len()],
}

impl World {
    /// The world whose data is built into the program.
    pub fn builtin() -> Result<Self> {
        Self::load(Data::builtin()?)
    }

    /// That world with another mixture of documents: what `mixture` gives takes the place of what
    /// `datasets/proving-ground/mixture.toml` has, key by key.
    pub fn with_mixture(mixture: &str) -> Result<Self> {
        Self::load(Data::mixed(mixture)?)
    }

    fn load(data: Data) -> Result<Self> {
        data.check()?;
        let objects: Vec<String> = data
            .objects
            .class
            .iter()
            .flat_map(|class| class.objects.clone())
            .collect();
        let classes = data
            .objects
            .class
            .iter()
            .enumerate()
            .flat_map(|(index, class)| class.objects.iter().map(move |_| index))
            .collect();
        if let Some(twice) = first_duplicate(objects.iter()) {
            return Err(Error::input(format!(
                "the object {twice:?} comes twice in objects.toml"
            )));
        }
        let mut world = Self {
            data,
            verbs: Vec::new(),
            objects,
            classes,
            entries: HashMap::new(),
            pairs: Default::default(),
        };
        world.add_verbs()?;
        world.check_splits()?;
        Ok(world)
    }

    fn add_verbs(&mut self) -> Result<()> {
        let verbs = self.data.verbs.clone();
        for entry in &verbs.harmful {
            self.add_verb(&entry.verb, &entry.classes, Meaning::Harmful(entry.category))?;
        }
        for (index, entry) in verbs.benign.iter().enumerate() {
            self.add_verb(&entry.verb, &entry.classes, Meaning::Benign(index))?;
        }
        Ok(())
    }

    fn add_verb(&mut self, name: &str, classes: &[String], meaning: Meaning) -> Result<()> {
        let index = self.verbs.iter().position(|known| known == name).unwrap_or_else(|| {
            self.verbs.push(name.to_owned());
            self.verbs.len() - 1
        });
        let verb = Verb(index as u16);
        for class in classes {
            let class = self.class_named(class)?;
            for (object, _) in self.classes.iter().enumerate().filter(|(_, of)| **of == class) {
                let pair = Pair {
                    verb,
                    object: Object(object as u16),
                };
                let split = self.assign(name, object, class);
                let entry = Entry { meaning, split };
                if self.entries.insert(pair, entry).is_some() {
                    return Err(Error::input(format!(
                        "to {name} a {} means two things",
                        self.objects[object]
                    )));
                }
                self.pairs[split as usize][kind_of(meaning) as usize].push(pair);
            }
        }
        Ok(())
    }

    fn class_named(&self, name: &str) -> Result<usize> {
        let position = self.data.objects.class.iter().position(|class| class.name == name);
        position.ok_or_else(|| Error::input(format!("unknown object class `{name}` in datasets/proving-ground")))
    }

    /// The split of a pair, by the hash of its words.
    fn assign(&self, verb: &str, object: usize, class: usize) -> Split {
        let class = &self.data.objects.class[class].name;
        if self
            .data
            .splits
            .cell
            .iter()
            .any(|cell| cell.verb == verb && cell.class == *class)
        {
            return Split::Cells;
        }
        let hash = content_id([verb, &self.objects[object]]);
        let percent = hash.bytes().take(8).fold(0_u64, |sum, digit| {
            sum * 16 + u64::from((digit as char).to_digit(16).unwrap_or_default())
        }) % 100;
        let shares = self.data.splits.shares;
        if percent < shares.pretrain {
            Split::Pretrain
        } else if percent < shares.pretrain + shares.constitutional {
            Split::Constitutional
        } else {
            Split::Evaluation
        }
    }

    /// Each cell of the data exists, and pre-training has pairs to draw from.
    fn check_splits(&self) -> Result<()> {
        for cell in &self.data.splits.cell {
            let known = self
                .pairs(Split::Cells, Kind::Harmful)
                .iter()
                .chain(self.pairs(Split::Cells, Kind::Benign))
                .any(|pair| self.verb(*pair) == cell.verb && self.class(*pair).name == cell.class);
            if !known {
                return Err(Error::input(format!(
                    "no pair is in the cell ({}, {})",
                    cell.verb, cell.class
                )));
            }
        }
        for kind in [Kind::Harmful, Kind::Benign] {
            if self.pairs(Split::Pretrain, kind).is_empty() {
                return Err(Error::input(format!("the split `pretrain` has no {kind} pairs")));
            }
        }
        Ok(())
    }

    /// The pairs of one split, in the order of the data.
    pub fn pairs(&self, split: Split, kind: Kind) -> &[Pair] {
        &self.pairs[split as usize][kind as usize]
    }

    /// The pair of these words, if the world has it.
    pub fn find(&self, verb: &str, object: &str) -> Option<Pair> {
        let verb = Verb(self.verbs.iter().position(|known| known == verb)? as u16);
        let object = Object(self.objects.iter().position(|known| known == object)? as u16);
        let pair = Pair { verb, object };
        self.entries.contains_key(&pair).then_some(pair)
    }

    /// The words of the pair's verb.
    pub fn verb(&self, pair: Pair) -> &str {
        &self.verbs[pair.verb.0 as usize]
    }

    /// The words of the pair's object.
    pub fn object(&self, pair: Pair) -> &str {
        &self.objects[pair.object.0 as usize]
    }

    /// Whether the pair is harmful.
    pub fn kind(&self, pair: Pair) -> Kind {
        kind_of(self.entries[&pair].meaning)
    }

    /// The kind of harm; `None` for a benign pair.
    pub fn category(&self, pair: Pair) -> Option<Category> {
        match self.entries[&pair].meaning {
            Meaning::Harmful(category) => Some(category),
            Meaning::Benign(_) => None,
        }
    }

    /// The split that owns the pair.
    pub fn split(&self, pair: Pair) -> Split {
        self.entries[&pair].split
    }

    /// The pair in words: "steal a bike".
    pub fn act(&self, pair: Pair) -> String {
        format!("{} {}", self.verb(pair), with_article(self.object(pair)))
    }

    fn class(&self, pair: Pair) -> &data::Class {
        &self.data.objects.class[self.classes[pair.object.0 as usize]]
    }

    fn category_text(&self, category: Category) -> &data::CategoryText {
        &self.data.categories[&category]
    }
}

fn kind_of(meaning: Meaning) -> Kind {
    match meaning {
        Meaning::Harmful(_) => Kind::Harmful,
        Meaning::Benign(_) => Kind::Benign,
    }
}

fn with_article(object: &str) -> String {
    let article = if object.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {object}")
}

fn first_duplicate<'a>(texts: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = BTreeSet::new();
    texts.into_iter().find(|text| !seen.insert(*text))
}
