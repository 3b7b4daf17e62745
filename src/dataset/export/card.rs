//! The dataset card: `README.md` as the Hugging Face hub reads it, and as people do.

use arrow::datatypes::Fields;

use super::sink::DATA;
use super::{Container, Format, Record};
use crate::dataset::row::{self, Kind};
use crate::dataset::{Provenance, Source};

pub const FILE: &str = "README.md";

/// The card of an export.
pub fn card(record: &Record, columns: &Fields, made: Option<&Provenance>, format: Format) -> String {
    let mut text = front_matter(record, format);
    text.push_str(&format!("\n# {}\n\n", title(record.kind)));
    text.push_str(&format!("{}\n\n", description(record.kind)));
    text.push_str(&provenance(record, made));
    text.push_str("\n## Rows\n\n| | |\n|---|---|\n");
    text.push_str(&format!("| rows | {} |\n", record.rows));
    text.push_str(&format!(
        "| rejected, with the reason, in `rejects/` | {} |\n",
        record.rejects
    ));
    for (name, length) in &record.lengths {
        text.push_str(&format!(
            "| characters of `{name}`: least, mean, most | {}, {:.1}, {} |\n",
            length.min,
            length.mean(),
            length.max
        ));
    }
    text.push_str("\n## Columns\n\n| column | type |\n|---|---|\n");
    for field in columns {
        text.push_str(&format!(
            "| `{}` | `{}` |\n",
            field.name(),
            row::describe(field.data_type())
        ));
    }
    text.push_str(&training(record, format));
    text
}

/// YAML that the hub reads. The licence is left to the user: nothing here knows it.
fn front_matter(record: &Record, format: Format) -> String {
    let extension = match format.container() {
        Container::Parquet => "parquet",
        Container::Jsonl => "jsonl",
        Container::Arrow => "arrow",
    };
    format!(
        "---\n\
         # license: yours to set, before the dataset is published; nothing in the data tells it.\n\
         pretty_name: {}\n\
         task_categories:\n- text-generation\n\
         size_categories:\n- {}\n\
         tags:\n- bylaw\n- {}\n\
         configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {DATA}/train-*.{extension}\n\
         ---\n",
        title(record.kind),
        size_category(record.rows),
        record.kind,
    )
}

/// The hub's name for a number of rows.
fn size_category(rows: u64) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        10_000_000..100_000_000 => "10M<n<100M",
        100_000_000..1_000_000_000 => "100M<n<1B",
        _ => "n>1B",
    }
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Prompts => "Prompts",
        Kind::Revisions => "Answers, criticised and revised",
        Kind::Candidates => "Candidate answers",
        Kind::Preferences => "Preferences between answers",
        Kind::Rejects => "Rejected rows",
        Kind::Demonstrations => "Demonstrations",
        Kind::UnpairedPreferences => "Answers, labelled good or bad",
        Kind::ReferenceLogprobs => "Log-probabilities of a reference",
    }
}

fn description(kind: Kind) -> &'static str {
    match kind {
        Kind::Prompts => "Conversations that wait for an answer.",
        Kind::Revisions => {
            "Each row is a prompt, an answer, and rounds in which a model criticised the answer under a principle of \
             a constitution and revised it (SL-CAI, arXiv 2212.08073)."
        }
        Kind::Candidates => "Each row is a prompt and several answers to it.",
        Kind::Preferences => {
            "Each row is a prompt and two answers. `p_chosen` is the probability that `chosen` is the better one, at \
             least 0.5; `p_raw` is the same before length control."
        }
        Kind::Rejects => "Rows that could not be used, each with the reason.",
        Kind::Demonstrations => "Each row is a prompt and the answer to learn.",
        Kind::UnpairedPreferences => "Each row is a prompt and one answer; `label` says whether it is a good one.",
        Kind::ReferenceLogprobs => "Each row is what a reference model gives to the tokens of one answer.",
    }
}

fn provenance(record: &Record, made: Option<&Provenance>) -> String {
    let mut text = String::from("## Provenance\n\n| | |\n|---|---|\n");
    let mut line = |name: &str, value: &str| text.push_str(&format!("| {name} | {} |\n", cell(value)));
    let source = |source: &Source| format!("`{}`, sha256 `{}`", source.reference, source.sha256);
    line("converted from", &source(&record.input));
    line("read as", &record.read_as);
    line("converted by", concat!("bylaw ", env!("CARGO_PKG_VERSION")));
    if let Some(made) = made {
        line(
            "made by",
            &format!("`{}` of {}, seed {}", made.stage, made.program, made.seed),
        );
        if let Some(model) = &made.model {
            line("model", &source(model));
        }
        if let Some(constitution) = &made.constitution {
            line("constitution", &source(constitution));
        }
        for input in &made.inputs {
            line("made from", &source(input));
        }
        if let Ok(settings) = serde_json::to_string(&made.settings) {
            line("settings", &format!("`{settings}`"));
        }
    }
    text
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

fn training(record: &Record, format: Format) -> String {
    let mut text = String::new();
    if !record.commands.is_empty() {
        text.push_str(&format!(
            "\n## Training with {}\n\nIn this directory:\n\n```\n",
            format.title()
        ));
        for command in &record.commands {
            text.push_str(&format!("{command}\n"));
        }
        text.push_str("```\n");
    }
    if !record.losses.is_empty() || !record.not_carried.is_empty() {
        text.push_str("\n## What the training does not see\n\n");
        for loss in &record.losses {
            text.push_str(&format!("- {} rows: {}.\n", loss.rows, loss.meaning));
        }
        for setting in &record.not_carried {
            text.push_str(&format!("- The setting `{setting}`.\n"));
        }
    }
    text.push_str(
        "\n## Opening it\n\n```python\nfrom datasets import load_dataset\nrows = load_dataset(\"DIRECTORY\", split=\"train\")\n```\n",
    );
    text
}
