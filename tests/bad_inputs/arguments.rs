//! Arguments, recipes and constitutions that cannot be meant, and places where nothing can be written.

use std::fs;

use bylaw::dataset::{Provenance, write_all};
use bylaw::job::lock::Lock;
use bylaw::record::{Message, Prompt};

use super::case::{Case, OUT, case};

const PROMPT: &str = "{\"prompt\": \"How do I bake bread?\"}\n";

const SAMPLE: &str = "sample --model builtin:tiny --prompts rows.jsonl";

const REVISE: &str = "revise --model builtin:tiny --prompts rows.jsonl --out out --constitution";

pub fn cases() -> Vec<Case> {
    let mut cases = places();
    cases.extend(flags());
    cases.extend(recipes());
    cases.extend(texts());
    cases.extend(statuses());
    cases
}

/// Where the result was to go.
fn places() -> Vec<Case> {
    let sample = |name, out: &str, code| case(name, format!("{SAMPLE} --out {out}"), code).file("rows.jsonl", PROMPT);
    let mix = |name, out: &str, code| {
        case(name, format!("data mix --data rows.jsonl --rows 1 --out {out}"), code).file("rows.jsonl", PROMPT)
    };
    vec![
        sample("a file for --out", "rows.jsonl", 2),
        sample("an --out below a file", "rows.jsonl/out", 2),
        sample("an --out that is a link to itself", "out", 2).link("out", "out"),
        sample("an --out below a link to itself", "loop/out", 2).link("loop", "loop"),
        sample("an --out that is a link to nothing", "out", 2).link("out", "elsewhere"),
        sample("a device for --out", "/dev/null", 2),
        sample("an --out with a name that is too long", &"a".repeat(300), 2),
        sample("an --out that holds somebody else's files", "out", 2).file("out/thesis.doc", "x"),
        sample("an --out where another process works", "out", 2).given(|work| {
            // Held until the test process ends.
            std::mem::forget(Lock::take(&work.join(OUT)).unwrap());
        }),
        sample("an --out whose manifest is not one", "out", 3).file("out/manifest.json", "{}"),
        mix("mix: a file for --out", "rows.jsonl", 2),
        mix("mix: an --out below a file", "rows.jsonl/out", 2),
        mix("mix: an --out that is a link to itself", "out", 2).link("out", "out"),
        mix("mix: the directory of the input for --out", ".", 2),
        case(
            "mix: the dataset of the input for --out",
            "data mix --data set --rows 1 --out set",
            2,
        )
        .given(|work| {
            let row = Prompt {
                id: "a".into(),
                messages: vec![Message::user("q")],
                source: "test".into(),
                tags: Vec::new(),
            };
            write_all(&work.join("set"), &[row], Provenance::new("test", 0)).unwrap();
        }),
        case(
            "split: an --out inside of the input",
            "data split data --test 0.5 --out data/split",
            0,
        )
        .file(
            "data/rows.jsonl",
            (0..8)
                .map(|row| format!("{{\"prompt\": \"question {row}\"}}\n"))
                .collect::<String>(),
        ),
    ]
}

fn flags() -> Vec<Case> {
    let sample = |name, flags: &str| case(name, format!("{SAMPLE} --out out {flags}"), 2).file("rows.jsonl", PROMPT);
    let mix = |name, data: &str| {
        case(name, format!("data mix --data {data} --rows 1 --out out"), 2).file("rows.jsonl", PROMPT)
    };
    vec![
        sample("part 3 of 2", "--shard 3/2"),
        sample("part 2 of 2, counted from 0", "--shard 2/2"),
        sample("part 0 of 0", "--shard 0/0"),
        sample("a part that is no number", "--shard x"),
        sample("a negative part", "--shard=-1/2"),
        sample("a part beyond all numbers", "--shard 0/99999999999999999999"),
        sample("a price that is no number", "--price cheap"),
        sample("half a price", "--price 1"),
        sample("a negative price", "--price=-1,2"),
        sample("NaN for a price", "--price NaN,1"),
        sample("an infinite price", "--price 1e400,0"),
        sample("NaN for a temperature", "--temperature NaN"),
        sample("a negative temperature", "--temperature=-1"),
        sample("a nucleus of 2", "--top-p 2"),
        sample("no answers to a prompt", "--max-new-tokens 0"),
        mix("a weight of 0", "rows.jsonl=0"),
        mix("NaN for a weight", "rows.jsonl=NaN"),
        mix("an infinite weight", "rows.jsonl=1e999"),
        case("no rows", "data mix --data rows.jsonl --rows 0 --out out", 2).file("rows.jsonl", PROMPT),
        case(
            "more rows than there are",
            "data mix --data rows.jsonl --rows 5 --out out",
            3,
        )
        .file("rows.jsonl", PROMPT),
        case(
            "10^18 rows of one",
            "data mix --data rows.jsonl --rows 1000000000000000000 --repeat --out out",
            2,
        )
        .file("rows.jsonl", PROMPT),
        case("an unknown kind", "data inspect rows.jsonl --as poems", 2).file("rows.jsonl", PROMPT),
        case("NaN for a similarity", "data inspect rows.jsonl --near NaN", 2).file("rows.jsonl", PROMPT),
        case("NaN for a share", "data split rows.jsonl --test NaN --out out", 2).file("rows.jsonl", PROMPT),
        case(
            "a beta of NaN",
            "train dpo --model builtin:tiny --data rows.jsonl --out out --beta NaN",
            2,
        )
        .file(
            "rows.jsonl",
            "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\"}\n",
        ),
        case(
            "a negative learning rate",
            "train sft --model builtin:tiny --data rows.jsonl --out out --learning-rate=-1",
            2,
        )
        .file("rows.jsonl", "{\"prompt\": \"q\", \"completion\": \"a\"}\n"),
    ]
}

fn recipes() -> Vec<Case> {
    let recipe = |name, text: &'static str| case(name, "run recipe.toml --out out", 2).file("recipe.toml", text);
    vec![
        case("no recipe", "run recipe.toml --out out", 3),
        case("a directory for a recipe", "run . --out out", 3),
        case("an endless recipe", "run /dev/zero --out out", 2),
        recipe("an empty recipe", ""),
        recipe("a recipe that is not TOML", "[[stage]\nkind = \"revise\"\n"),
        case("a recipe that is not UTF-8", "run recipe.toml --out out", 2).file("recipe.toml", b"name = \"\xff\"\n"),
        recipe(
            "a stage that leads out of the run",
            "[[stage]]\nname = \"../escape\"\nkind = \"world-prompts\"\n",
        ),
        recipe(
            "a stage at an absolute path",
            "[[stage]]\nname = \"/tmp/escape\"\nkind = \"world-prompts\"\n",
        ),
        recipe(
            "a stage that is the run's directory",
            "[[stage]]\nname = \".\"\nkind = \"world-prompts\"\n",
        ),
        recipe(
            "a recipe whose name leads elsewhere",
            "name = \"../../escape\"\n[[stage]]\nkind = \"poems\"\n",
        ),
        recipe("a stage of an unknown kind", "[[stage]]\nkind = \"revize\"\n"),
        recipe(
            "a number for a stage's name",
            "[[stage]]\nname = 7\nkind = \"revise\"\n",
        ),
        recipe("a stage without a kind", "[[stage]]\nname = \"a\"\n"),
        recipe("a text for the stages", "stage = \"revise\"\n"),
        recipe(
            "an unknown key of a recipe",
            "seeds = 1\n[[stage]]\nkind = \"world-prompts\"\n",
        ),
        recipe("a negative seed", "seed = -1\n[[stage]]\nkind = \"world-prompts\"\n"),
        recipe(
            "an unknown setting",
            "[[stage]]\nkind = \"world-prompts\"\nsplitt = \"evaluation\"\n",
        ),
        recipe(
            "a setting of the wrong type",
            "[[stage]]\nkind = \"world-prompts\"\nharmful = \"many\"\n",
        ),
        recipe(
            "a table for a setting",
            "[[stage]]\nkind = \"world-prompts\"\nharmful = { at = 1 }\n",
        ),
        recipe(
            "two stages of one name",
            "[[stage]]\nkind = \"world-prompts\"\n[[stage]]\nkind = \"world-prompts\"\n",
        ),
        recipe(
            "the result of a later stage",
            "[[stage]]\nname = \"a\"\nkind = \"sample\"\nmodel = \"builtin:tiny\"\nprompts = \"@b\"\n[[stage]]\nname = \"b\"\nkind = \"world-prompts\"\n",
        ),
        case(
            "a run whose name leads elsewhere, without --out",
            "run recipe.toml --dry-run",
            2,
        )
        .file(
            "recipe.toml",
            "name = \"../../escape\"\n[[stage]]\nkind = \"world-prompts\"\nsplit = \"evaluation\"\n",
        ),
        case("a run in the directory of another", "run recipe.toml --out out", 2)
            .file(
                "recipe.toml",
                "[[stage]]\nkind = \"world-prompts\"\nsplit = \"evaluation\"\n",
            )
            .file("out/notes.txt", "x"),
    ]
}

/// Constitutions.
fn texts() -> Vec<Case> {
    let revise = |name, constitution: &str, code| {
        case(name, format!("{REVISE} {constitution}"), code).file("rows.jsonl", PROMPT)
    };
    vec![
        revise("no constitution", "law.toml", 3),
        revise("an unknown constitution of the program", "builtin:law", 2),
        revise("an endless constitution", "/dev/zero", 2),
        revise("a constitution that is not UTF-8", "law.toml", 2).file("law.toml", b"\xff\xfe"),
        revise("an empty constitution", "law.toml", 2).file("law.toml", ""),
        revise("a directory for a constitution", ".", 3),
        revise("a constitution that inherits from itself", "law.toml", 2).file(
            "law.toml",
            "name = \"law\"\nversion = \"1.0.0\"\nextends = [\"law.toml\"]\n",
        ),
    ]
}

/// `bylaw status`.
fn statuses() -> Vec<Case> {
    let status = |name| case(name, "status job", 3);
    vec![
        status("status of nothing"),
        status("status of a file").file("job", "x"),
        status("status of an empty directory").given(|work| fs::create_dir(work.join("job")).unwrap()),
        status("status of somebody else's directory").file("job/thesis.doc", "x"),
        status("status of a link to itself").link("job", "job"),
        status("status of a manifest that is cut short").file("job/manifest.json", "{\"format\": "),
        status("status of a run whose journal is cut short").file("job/run.json", "{\"format\": "),
        status("status of a run whose journal names a stage outside of it").file(
            "job/run.json",
            "{\"format\": \"bylaw-run\", \"name\": \"x\", \"seed\": 0, \"program\": \"x\", \"commands\": [[\"../../etc\", []]], \"stages\": [], \"peak_rss_mb\": 0.0}",
        ),
    ]
}
