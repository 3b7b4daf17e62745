//! Every key that a constitution file may have, with what it means: what reading knows, the JSON Schema says and
//! `constitution new` explains.

/// What the value of a key is.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    Text,
    /// Lower-case letters, digits and hyphens.
    Id,
    /// A number of at least 0.
    Weight,
    /// A list of texts.
    Texts,
    /// A list of the names of lints.
    Lints,
    /// A table whose keys are names of the user's, and whose values are texts.
    Names,
    Table(&'static Group),
    Tables(&'static Group),
}

#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
    pub about: &'static str,
}

/// The keys of one kind of table.
#[derive(Debug)]
pub struct Group {
    /// With its article.
    pub what: &'static str,
    pub keys: &'static [Key],
}

impl Group {
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }
}

const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key {
        name,
        shape,
        required: false,
        about,
    }
}

const fn required(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key {
        required: true,
        ..key(name, shape, about)
    }
}

pub static CONSTITUTION: Group = Group {
    what: "a constitution",
    keys: &[
        required("name", Shape::Text, "What the constitution is called."),
        required(
            "version",
            Shape::Text,
            "Its version. It tells people of a change; the hash tells the program.",
        ),
        key("description", Shape::Text, "What it is for. No model reads it."),
        key(
            "extends",
            Shape::Texts,
            "Constitutions whose principles this one inherits: paths relative to this file, or builtin:NAME.",
        ),
        key("remove", Shape::Texts, "Ids of inherited principles to leave out."),
        key("allow", Shape::Lints, "Lints that are silent in the whole file."),
        key(
            "variables",
            Shape::Names,
            "What stands for {{ name }} in the texts, unless --variable name=TEXT says otherwise.",
        ),
        key(
            "few_shots",
            Shape::Table(&FEW_SHOTS),
            "Examples that a model is shown before it is asked.",
        ),
        key("principle", Shape::Tables(&PRINCIPLE), "The principles."),
        key(
            "mix",
            Shape::Tables(&MIX),
            "Instead of principles: constitutions to mix. One of them is drawn by weight, then a principle of it.",
        ),
    ],
};

pub static PRINCIPLE: Group = Group {
    what: "a principle",
    keys: &[
        required(
            "id",
            Shape::Id,
            "Lower-case letters, digits and hyphens; rows name the principle by it. The id of an inherited principle \
             overrides the keys that are given here.",
        ),
        key(
            "rationale",
            Shape::Text,
            "Why the principle is here, in one line. No model reads it.",
        ),
        key(
            "critique",
            Shape::Text,
            "The critique request: what to look for in an answer. Goes together with `revise`.",
        ),
        key(
            "revise",
            Shape::Text,
            "The revision request: how to rewrite the answer after the critique.",
        ),
        key(
            "judge",
            Shape::Text,
            "The comparison question: which of two answers should win.",
        ),
        key(
            "weight",
            Shape::Weight,
            "How often it is drawn, relative to the others with a request of the same kind; 1 unless given, 0 is never.",
        ),
        key(
            "tags",
            Shape::Texts,
            "What it is about, for reports. No model reads them.",
        ),
        key("allow", Shape::Lints, "Lints that are silent for this principle."),
    ],
};

pub static MIX: Group = Group {
    what: "a part of a mixture",
    keys: &[
        required(
            "constitution",
            Shape::Text,
            "A path relative to this file, or builtin:NAME.",
        ),
        key(
            "weight",
            Shape::Weight,
            "How often it is drawn, relative to the other parts; 1 unless given.",
        ),
    ],
};

pub static FEW_SHOTS: Group = Group {
    what: "the table of few-shot examples",
    keys: &[
        key(
            "critique",
            Shape::Text,
            "A file of answers with their critiques and revisions, or `builtin`.",
        ),
        key(
            "judge",
            Shape::Text,
            "A file of comparisons with the better answer, or `builtin`.",
        ),
        key(
            "judge_reasoning",
            Shape::Text,
            "The same with a reasoning before the answer, for a judge that reasons, or `builtin`.",
        ),
    ],
};

pub static CRITIQUE_EXAMPLES: Group = Group {
    what: "a file of few-shot examples",
    keys: &[required(
        "example",
        Shape::Tables(&CRITIQUE_EXAMPLE),
        "The examples, in the order in which they are shown.",
    )],
};

pub static CRITIQUE_EXAMPLE: Group = Group {
    what: "an example of critique and revision",
    keys: &[
        key("prompt", Shape::Text, "What the user asked; or `messages`."),
        key(
            "messages",
            Shape::Tables(&MESSAGE),
            "The conversation, the last turn the user's.",
        ),
        required("answer", Shape::Text, "The answer under criticism."),
        required("critique_request", Shape::Text, "The critique request."),
        required("critique", Shape::Text, "The critique."),
        required("revision_request", Shape::Text, "The revision request."),
        required("revision", Shape::Text, "The revised answer."),
    ],
};

pub static JUDGE_EXAMPLES: Group = Group {
    what: "a file of few-shot examples",
    keys: &[required(
        "example",
        Shape::Tables(&JUDGE_EXAMPLE),
        "The examples, in the order in which they are shown.",
    )],
};

pub static JUDGE_EXAMPLE: Group = Group {
    what: "an example of a comparison",
    keys: &[
        key("prompt", Shape::Text, "What the user asked; or `messages`."),
        key(
            "messages",
            Shape::Tables(&MESSAGE),
            "The conversation, the last turn the user's.",
        ),
        required("question", Shape::Text, "The comparison question."),
        required("answer_a", Shape::Text, "The answer at (A)."),
        required("answer_b", Shape::Text, "The answer at (B)."),
        required("answer", Shape::Text, "Which wins: \"A\" or \"B\"."),
        key("reasoning", Shape::Text, "Why, for a judge that reasons."),
    ],
};

pub static MESSAGE: Group = Group {
    what: "a message",
    keys: &[
        required("role", Shape::Text, "system, user or assistant."),
        required("content", Shape::Text, "What is said."),
    ],
};
