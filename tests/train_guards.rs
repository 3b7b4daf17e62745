//! What must not end a training run badly: figures that are not finite, checkpoints that are damaged, data that is not
//! there. The error says what happened and what to do, and the last good state stays.

#[path = "support/program.rs"]
mod program;
#[path = "support/small.rs"]
mod small;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bylaw::error::{ErrorKind, Result};
use bylaw::model::decoder::Decoder;
use bylaw::model::files::Model;
use bylaw::progress::{Progress, Silent};
use bylaw::prompt::{Style, Templates};
use bylaw::record::{Demonstration, Message};
use bylaw::seed::Seed;
use bylaw::train::batch::{Encoder, Example};
use bylaw::train::checkpoint;
use bylaw::train::dpo::{self, DpoConfig};
use bylaw::train::metrics;
use bylaw::train::optim::{AdamW, OptimConfig};
use bylaw::train::pairs::Pair;
use bylaw::train::reward::{self, RewardConfig};
use bylaw::train::run::{Export, Keeping, Setup};
use bylaw::train::sft::{self, SftConfig};
use candle_core::{Device, Tensor};
use clap::Parser;
use program::{bylaw, fails, refused, succeeds, temp, write};

const ROWS: [(&str, &str); 6] = [
    ("Is it so?", "Yes, it is so."),
    ("Who is it?", "It is the man in the hall."),
    ("How much?", "A lot."),
    ("Where is it?", "It is on the table, where you left it."),
    ("Why?", "No reason."),
    ("When?", "Now, or then."),
];

// ---- what the tests share ------------------------------------------------------------------------

fn with_encoder<R>(model: &Model, use_it: impl FnOnce(&Encoder<'_>) -> R) -> R {
    use_it(&Encoder {
        tokenizer: &model.tokenizer,
        templates: &Templates::new(Style::Transcript),
        context: model.decoder.config.context,
    })
}

fn examples(model: &Model) -> Vec<Example> {
    with_encoder(model, |encoder| {
        let example = |(question, answer): &(&str, &str)| {
            let row = Demonstration {
                id: (*question).into(),
                prompt: vec![Message::user(*question)],
                prefix: String::new(),
                completion: (*answer).into(),
                weight: 1.0,
            };
            encoder.demonstration(&row, 0.0).unwrap()
        };
        ROWS.iter().map(example).collect()
    })
}

/// Each row's answer against the next row's.
fn pairs(model: &Model) -> Vec<Pair> {
    with_encoder(model, |encoder| {
        let pair = |(index, (question, good)): (usize, &(&str, &str))| {
            let prompt = [Message::user(*question)];
            let other = ROWS[(index + 1) % ROWS.len()].1;
            Pair {
                chosen: encoder.answer(&prompt, good).unwrap(),
                rejected: encoder.answer(&prompt, other).unwrap(),
                p_chosen: 0.9,
                weight: 1.0,
                margin: 0.0,
            }
        };
        ROWS.iter().enumerate().map(pair).collect()
    })
}

fn settings<C: clap::Args>(flags: &str) -> C {
    #[derive(Parser)]
    struct Flags<C: clap::Args> {
        #[command(flatten)]
        config: C,
    }
    Flags::<C>::parse_from(std::iter::once("x").chain(flags.split_whitespace())).config
}

fn setup<'a>(dir: &Path, save_steps: usize, checkpoints: usize) -> Setup<'a> {
    Setup {
        dir: dir.to_path_buf(),
        fingerprint: "the run".into(),
        label: "test".into(),
        progress: &Silent,
        save_steps,
        in_place: false,
        keeping: Keeping {
            checkpoints,
            rows: ROWS.iter().map(|(question, _)| (*question).to_owned()).collect(),
            ..Keeping::default()
        },
    }
}

fn bits(decoder: &Decoder) -> Vec<u32> {
    let of = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let parameters = decoder.parameters.iter();
    parameters
        .flat_map(|parameter| of(parameter.weight.dense().unwrap()))
        .map(f32::to_bits)
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn state_of(dir: &Path, step: usize) -> PathBuf {
    dir.join(checkpoint::DIR).join(checkpoint::step_name(step))
}

// ---- figures that are not finite -----------------------------------------------------------------

/// A trainer with a row whose loss is not a number, if one is given.
type Poisonable<'a> = &'a dyn Fn(Setup<'_>, Option<usize>) -> Result<Decoder>;

/// Trains in health, and with each row poisoned in turn. What is saved before the step that cannot be done must be what
/// the healthy run had there, the moments included.
fn stops_before_the_poison(train: Poisonable<'_>) {
    let dirs = temp();
    let healthy = dirs.path().join("healthy");
    train(setup(&healthy, 1, 100), None).unwrap();
    let lines = fs::read_to_string(healthy.join(metrics::FILE)).unwrap();
    let (mut later, total) = (0, lines.lines().count());
    for (row, (question, _)) in ROWS.iter().enumerate() {
        let dir = dirs.path().join(row.to_string());
        let exported = Rc::new(RefCell::new(None));
        let poisoned = |save_steps| {
            let mut setup = setup(&dir, save_steps, 1);
            let exported = exported.clone();
            setup.keeping.export = Some(Export {
                steps: 0,
                save: Box::new(move |folder, decoder, _| {
                    *exported.borrow_mut() = Some((folder.to_owned(), bits(decoder)));
                    Ok(())
                }),
            });
            train(setup, Some(row)).unwrap_err()
        };
        let error = poisoned(0);
        let steps = metrics::read(&dir).unwrap().len();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        let step = format!("in step {} of {total}, which is not applied", steps + 1);
        for part in ["the loss is NaN", &step, question] {
            assert!(error.to_string().contains(part), "{error} lacks {part:?}");
        }
        let help = error.help_text().unwrap();
        assert!(
            help.contains("--learning-rate") && help.contains("the same point"),
            "{help}"
        );
        assert!(!help.contains("--dtype"), "it computes in f32 already: {help}");
        if steps == 0 {
            assert!(checkpoint::newest(&dir).unwrap().is_none());
            continue;
        }
        later += 1;
        let tensors = |dir: &Path| fs::read(state_of(dir, steps).join("state.safetensors")).unwrap();
        assert!(
            tensors(&dir) == tensors(&healthy),
            "row {row}: another state than before step {steps}"
        );
        let kept: Vec<&str> = lines.split_inclusive('\n').take(steps).collect();
        assert_eq!(fs::read_to_string(dir.join(metrics::FILE)).unwrap(), kept.concat());
        let (folder, weights) = exported.borrow_mut().take().unwrap();
        assert_eq!(folder, dir.join(checkpoint::step_name(steps)));
        assert!(help.contains(&folder.display().to_string()), "{help}");
        assert!(weights.iter().all(|bits| f32::from_bits(*bits).is_finite()));
        // And again from there.
        assert_eq!(poisoned(1).to_string(), error.to_string());
        assert!(tensors(&dir) == tensors(&healthy));
    }
    assert!(later > 0, "every row is in the first step: nothing was shown");
}

/// Catches: a NaN that reaches the weights or the moments, a step that is logged and was not done, a checkpoint after
/// the step instead of before it, rows named that are not of the batch.
#[test]
fn sft_stops_before_a_loss_that_is_no_number() {
    let model = small::model();
    let config: SftConfig = settings("--learning-rate 1e-3 --batch-size 2 --epochs 2");
    stops_before_the_poison(&|setup, poisoned| {
        let mut rows = examples(&model);
        if let Some(row) = poisoned {
            rows[row].weights.fill(f32::NAN);
        }
        sft::train(setup, &config, &model.decoder, &rows, Seed::new(5))
    });
}

/// Catches: the same.
#[test]
fn dpo_stops_before_a_loss_that_is_no_number() {
    let model = small::model();
    let config: DpoConfig = settings("--learning-rate 1e-3 --batch-size 2 --epochs 2");
    stops_before_the_poison(&|setup, poisoned| {
        let mut rows = pairs(&model);
        if let Some(row) = poisoned {
            rows[row].p_chosen = f32::NAN;
        }
        dpo::train(setup, &config, &model.decoder, &rows, Seed::new(5))
    });
}

/// Catches: the same, and a head that learns from what the decoder does not.
#[test]
fn reward_stops_before_a_loss_that_is_no_number() {
    let model = small::model();
    let config: RewardConfig = settings("--learning-rate 1e-3 --batch-size 2 --epochs 2");
    stops_before_the_poison(&|setup, poisoned| {
        let mut rows = pairs(&model);
        if let Some(row) = poisoned {
            rows[row].p_chosen = f32::NAN;
        }
        Ok(reward::train(setup, &config, &model.decoder, &rows, Seed::new(5))?.decoder)
    });
}

/// Catches: an infinite gradient that is scaled to nothing by clipping, or to NaN, and applied; moments that decay in a
/// step that is not one.
#[test]
fn the_optimiser_does_not_move_along_infinity() {
    let tensor = Tensor::from_vec(vec![1f32, -2.0, 3.0], 3, &Device::Cpu).unwrap();
    let mut optimizer = AdamW::new(OptimConfig::default(), [&tensor]);
    let mut step = |gradient: [f32; 3]| {
        let norm = optimizer
            .update(&[&tensor], &mut [&mut gradient.to_vec()], 0.1)
            .unwrap();
        let (first, second) = optimizer.moments().next().unwrap();
        let state = (
            tensor.to_vec1::<f32>().unwrap(),
            first.to_vec(),
            second.to_vec(),
            optimizer.step,
        );
        (norm, state)
    };
    let (norm, before) = step([0.1, 0.2, -0.3]);
    assert!(norm.is_finite());
    for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let (norm, after) = step([0.1, bad, 0.1]);
        assert!(!norm.is_finite());
        assert_eq!(after, before);
    }
}

const DEMONSTRATIONS: &str = r#"{"id": "bread", "prompt": "How do I bake bread?", "completion": "Mix flour and water."}
{"id": "sea", "prompt": "Tell me of the sea.", "completion": "It is wide and deep."}
{"id": "poem", "prompt": "What is a poem?", "completion": "A text in verse."}
{"id": "chair", "prompt": "What is a chair?", "completion": "A seat for one, with a back."}
"#;

const PREFERENCES: &str = r#"{"id": "bread", "prompt": "How do I bake bread?", "chosen": "Mix flour and water.", "rejected": "No."}
{"id": "sea", "prompt": "Tell me of the sea.", "chosen": "It is wide and deep.", "rejected": "I would rather not."}
{"id": "poem", "prompt": "What is a poem?", "chosen": "A text in verse.", "rejected": "Words."}
{"id": "chair", "prompt": "What is a chair?", "chosen": "A seat for one.", "rejected": "Wood."}
"#;

/// Catches: a divergence that ends in a model of NaN and exit code 0; a way out that is no way, as the model of before.
#[test]
fn a_learning_rate_far_too_high_ends_with_advice() {
    let dir = temp();
    write(dir.path(), "rows.jsonl", DEMONSTRATIONS);
    let train = [
        "train",
        "sft",
        "--model",
        "builtin:tiny",
        "--data",
        "rows.jsonl",
        "--batch-size",
        "2",
    ];
    let diverging = [&train[..], &["--learning-rate", "1e30", "--out", "out"]].concat();
    let says = [
        "in step 2 of 2, which is not applied",
        "its rows are",
        "step-000001",
        "--learning-rate",
    ];
    refused(dir.path(), &diverging, 2, &says);
    assert_eq!(names(&dir.path().join("out/checkpoint")), ["step-000001"]);
    refused(dir.path(), &diverging, 2, &says);
    // Another setting in the same directory is another run.
    let calmer = [&train[..], &["--learning-rate", "1e-5", "--out", "out"]].concat();
    refused(dir.path(), &calmer, 2, &["--out"]);
    // The model of before the step is one.
    assert!(dir.path().join("out/step-000001/model.safetensors").exists());
    succeeds(dir.path(), &["model", "info", "out/step-000001"]);
    // In bf16 that is a suspect too.
    let halves = [&diverging[..diverging.len() - 1], &["halves", "--dtype", "bf16"]].concat();
    refused(dir.path(), &halves, 2, &["--dtype f32"]);
}

/// Catches: rewards that are no numbers and teach the policy; a loss of infinity whose gradient is finite; the state in
/// the middle of an iteration saved as one after it.
#[test]
fn ppo_stops_before_what_is_not_finite() {
    let dir = temp();
    write(dir.path(), "pairs.jsonl", PREFERENCES);
    let train = |method: &'static str, flags: &'static str| -> Vec<&'static str> {
        let fixed = [
            "train",
            method,
            "--model",
            "builtin:tiny",
            "--data",
            "pairs.jsonl",
            "--out",
            method,
        ];
        fixed.into_iter().chain(flags.split_whitespace()).collect()
    };
    succeeds(dir.path(), &train("reward", ""));
    let flags = "--reward-model reward --iterations 2 --rollouts 4 --max-new-tokens 60";
    let diverging = [train("ppo", flags), vec!["--learning-rate", "1e30"]].concat();
    refused(dir.path(), &diverging, 2, &["in step 1 of 2", "not applied"]);
    assert_eq!(names(&dir.path().join("ppo")), [".job", "metrics.jsonl", "train.json"]);
    fs::remove_dir_all(dir.path().join("ppo")).unwrap();

    let head = dir.path().join("reward/head.safetensors");
    let mut tensors = candle_core::safetensors::load(&head, &Device::Cpu).unwrap();
    let bias = Tensor::from_vec(vec![f32::NAN], 1, &Device::Cpu).unwrap();
    tensors.insert("score.bias".into(), bias);
    candle_core::safetensors::save(&tensors, &head).unwrap();
    refused(
        dir.path(),
        &train("ppo", flags),
        2,
        &["is NaN in step 1 of 2", "not applied"],
    );
    assert!(!dir.path().join("ppo/model.safetensors").exists());
}

// ---- data that is not there ----------------------------------------------------------------------

/// Catches: a trainer that takes no data for data, with a panic, an endless loop or an untrained model.
#[test]
fn every_trainer_refuses_empty_data() {
    let dir = temp();
    write(dir.path(), "empty.jsonl", "");
    write(dir.path(), "pairs.jsonl", PREFERENCES);
    succeeds(
        dir.path(),
        &[
            "train",
            "reward",
            "--model",
            "builtin:tiny",
            "--data",
            "pairs.jsonl",
            "--out",
            "reward",
        ],
    );
    for method in ["sft", "reward", "dpo", "ppo"] {
        let mut train = vec![
            "train",
            method,
            "--model",
            "builtin:tiny",
            "--data",
            "empty.jsonl",
            "--out",
            "out",
        ];
        if method == "ppo" {
            train.extend(["--reward-model", "reward"]);
        }
        fails(dir.path(), &train, 3, &["empty"]);
        assert!(!dir.path().join("out/model.safetensors").exists(), "{method}");
    }
}

/// Catches: a dataset of a later version that is read as if nothing had changed, or an error without the versions.
#[test]
fn a_dataset_of_another_version_is_named() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let current = bylaw::dataset::migrate::CURRENT;
    for (method, kind) in [
        ("sft", "demonstrations"),
        ("dpo", "preferences"),
        ("reward", "preferences"),
    ] {
        let dir = temp();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        for name in names(&golden.join(format!("schema-{current}")).join(kind)) {
            let from = golden.join(format!("schema-{current}")).join(kind).join(&name);
            fs::copy(from, data.join(&name)).unwrap();
        }
        let manifest = fs::read_to_string(data.join("manifest.json")).unwrap();
        let (now, later) = (
            format!("\"schema_version\": {current}"),
            format!("\"schema_version\": {}", current + 1),
        );
        assert!(manifest.contains(&now));
        fs::write(data.join("manifest.json"), manifest.replace(&now, &later)).unwrap();
        let train = [
            "train",
            method,
            "--model",
            "builtin:tiny",
            "--data",
            "data",
            "--out",
            "out",
        ];
        let says = [
            format!("schema version {}", current + 1),
            format!("up to {current}"),
            "data".to_owned(),
        ];
        let says: Vec<&str> = says.iter().map(String::as_str).collect();
        refused(dir.path(), &train, 3, &says);
        assert!(!dir.path().join("out").exists(), "{method}");
    }
}

// ---- checkpoints that are damaged ----------------------------------------------------------------

/// Listens to notes alone.
#[derive(Default)]
struct Notes(std::sync::Mutex<Vec<String>>);

impl Progress for Notes {
    fn start(&self, _: &str, _: u64, _: &'static str) {}
    fn advance(&self, _: u64) {}
    fn figure(&self, _: &str) {}
    fn finish(&self) {}
    fn note(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

type Damage = (&'static str, fn(&Path));

fn change(path: PathBuf, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// What may have happened to a checkpoint's folder.
const DAMAGES: [Damage; 7] = [
    ("cut short", |folder| {
        change(folder.join("state.safetensors"), |bytes| {
            bytes.truncate(bytes.len() / 2);
        });
    }),
    ("longer", |folder| {
        change(folder.join("state.safetensors"), |bytes| bytes.push(0));
    }),
    ("a bit of a weight flipped", |folder| {
        change(folder.join("state.safetensors"), |bytes| {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        });
    }),
    ("without its tensors", |folder| {
        fs::remove_file(folder.join("state.safetensors")).unwrap();
    }),
    ("the state cut short", |folder| {
        change(folder.join("state.json"), |bytes| bytes.truncate(10));
    }),
    ("the state of garbage", |folder| {
        change(folder.join("state.json"), |bytes| bytes.fill(0xff));
    }),
    ("another number of steps", |folder| {
        change(folder.join("state.json"), |bytes| {
            let text = String::from_utf8(bytes.clone()).unwrap();
            *bytes = text.replace("\"step\": 5", "\"step\": 4").into_bytes();
        });
    }),
];

/// Catches: damage that is trained on; an older checkpoint that is there and is not used, or is used without a word;
/// steps counted or logged twice after going back; an error without a way out when nothing is whole.
#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let (model, dirs) = (small::model(), temp());
    let rows = examples(&model);
    let config: SftConfig = settings("--learning-rate 1e-2 --batch-size 2 --epochs 2");
    let train = |dir: &Path, checkpoints, progress: &dyn Progress| {
        let mut setup = Setup {
            progress,
            ..setup(dir, 1, checkpoints)
        };
        setup.keeping.tensorboard = true;
        sft::train(setup, &config, &model.decoder, &rows, Seed::new(5))
    };
    let whole = dirs.path().join("whole");
    let end = bits(&train(&whole, 2, &Silent).unwrap());
    assert_eq!(names(&whole.join(checkpoint::DIR)), ["step-000004", "step-000005"]);
    for (name, damage) in DAMAGES {
        let copy = |name: String| {
            let dir = dirs.path().join(name);
            copy_directory(&whole, &dir);
            damage(&state_of(&dir, 5));
            dir
        };
        let (dir, notes) = (copy(format!("{name} once")), Notes::default());
        assert!(bits(&train(&dir, 2, &notes).unwrap()) == end, "{name}: ends elsewhere");
        let notes = notes.0.into_inner().unwrap().join("\n");
        assert!(
            notes.contains("step-000005") && notes.contains("of step 4"),
            "{name}: {notes:?}"
        );
        for file in [metrics::FILE, "events.out.tfevents.0.bylaw"] {
            assert!(
                fs::read(dir.join(file)).unwrap() == fs::read(whole.join(file)).unwrap(),
                "{name}: {file}"
            );
        }

        let dir = copy(format!("{name} twice"));
        change(state_of(&dir, 4).join("state.safetensors"), |bytes| bytes.truncate(100));
        let error = train(&dir, 2, &Silent).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{name}: {error}");
        assert!(
            error.to_string().contains("step-000005"),
            "the newest is told of: {error}"
        );
        assert!(error.help_text().unwrap().contains("--keep-checkpoints"), "{name}");
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy_directory(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Catches: a folder that a kill left without its state taken for a checkpoint, or kept for ever; one too many or one
/// too few kept; best weights, which are no checkpoint, removed.
#[test]
fn the_last_checkpoints_are_kept() {
    let (model, dirs) = (small::model(), temp());
    let rows = examples(&model);
    let config: SftConfig = settings("--learning-rate 1e-2 --batch-size 2 --epochs 3");
    let train = |dir: &Path, save_steps, keep| {
        sft::train(
            setup(dir, save_steps, keep),
            &config,
            &model.decoder,
            &rows,
            Seed::new(5),
        )
        .unwrap()
    };
    for (keep, left) in [
        (1, &["step-000008"][..]),
        (3, &["step-000006", "step-000007", "step-000008"]),
    ] {
        let dir = dirs.path().join(keep.to_string());
        let half = dir.join(checkpoint::DIR).join("step-000003");
        fs::create_dir_all(&half).unwrap();
        fs::write(half.join("state.safetensors"), "half of").unwrap();
        fs::write(dir.join(checkpoint::DIR).join("best.safetensors"), "the best").unwrap();
        train(&dir, 1, keep);
        assert_eq!(
            names(&dir.join(checkpoint::DIR)),
            [&["best.safetensors"][..], left].concat()
        );
    }
}

/// Catches: a run of an earlier version of the program that begins again, or cannot go on; its files left for ever.
#[test]
fn the_layout_of_earlier_versions_goes_on() {
    let (model, dirs) = (small::model(), temp());
    let rows = examples(&model);
    let config: SftConfig = settings("--learning-rate 1e-2 --batch-size 2 --epochs 2");
    let train =
        |dir: &Path, save_steps| sft::train(setup(dir, save_steps, 1), &config, &model.decoder, &rows, Seed::new(5));
    let dir = dirs.path().join("run");
    let end = bits(&train(&dir, 2).unwrap());
    let (folder, newest) = (dir.join(checkpoint::DIR), state_of(&dir, 4));
    fs::rename(newest.join("state.safetensors"), folder.join("4-state.safetensors")).unwrap();
    let state = fs::read_to_string(newest.join("state.json")).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&state).unwrap();
    state.as_object_mut().unwrap().remove("sha256").unwrap();
    state["tensors"] = "4-state.safetensors".into();
    fs::write(folder.join("state.json"), state.to_string()).unwrap();
    fs::remove_dir_all(newest).unwrap();
    assert!(bits(&train(&dir, 5).unwrap()) == end);
    assert_eq!(names(&folder), ["step-000005"]);
    assert_eq!(metrics::read(&dir).unwrap().len(), 6);
}

// ---- models on the way ---------------------------------------------------------------------------

/// Catches: an exported model that is not that of its step, lacks its tokenizer or its head, or changes the result; one
/// at the end, which is the result itself.
#[test]
fn models_are_exported_on_the_way() {
    let dir = temp();
    write(dir.path(), "rows.jsonl", DEMONSTRATIONS);
    write(dir.path(), "pairs.jsonl", PREFERENCES);
    for (method, data, further) in [
        ("sft", "rows.jsonl", &[][..]),
        ("sft", "rows.jsonl", &["--lora-rank", "2"]),
        ("reward", "pairs.jsonl", &[]),
    ] {
        let out = |name: &str| format!("{method}-{}-{name}", further.len());
        let train = |name: &str, flags: &[&str]| {
            let out = out(name);
            let fixed = [
                "train",
                method,
                "--model",
                "builtin:tiny",
                "--data",
                data,
                "--batch-size",
                "1",
                "--out",
                &out,
            ];
            succeeds(dir.path(), &[&fixed[..], further, flags].concat())
        };
        train("plain", &[]);
        train("exporting", &["--export-steps", "2"]);
        let place = dir.path().join(out("exporting"));
        let folders: Vec<String> = names(&place)
            .into_iter()
            .filter(|name| name.starts_with("step-"))
            .collect();
        assert_eq!(folders, ["step-000002"], "{method}");
        let weights = |dir: &Path| {
            let adapters = dir.join("adapter_model.safetensors");
            fs::read(if adapters.exists() {
                adapters
            } else {
                dir.join("model.safetensors")
            })
            .unwrap()
        };
        assert!(
            weights(&place) == weights(&dir.path().join(out("plain"))),
            "{method}: exporting changes the result"
        );
        let exported = place.join("step-000002");
        assert!(weights(&exported) != weights(&place), "{method}: the export is the end");
        assert_eq!(exported.join("head.safetensors").exists(), method == "reward");
        succeeds(dir.path(), &["model", "info", exported.to_str().unwrap()]);
        let here = names(&exported);
        let there: Vec<String> = names(&place).into_iter().filter(|name| here.contains(name)).collect();
        assert_eq!(here, there);
        assert!(here.contains(&"tokenizer.json".to_owned()), "{here:?}");
    }
}

/// Catches: times in files that are compared, a speed of nothing.
#[test]
fn speed_is_told_and_not_kept() {
    let dir = temp();
    write(dir.path(), "rows.jsonl", DEMONSTRATIONS);
    let train = [
        "--json",
        "train",
        "sft",
        "--model",
        "builtin:tiny",
        "--data",
        "rows.jsonl",
        "--out",
        "out",
    ];
    let told = program::json(&succeeds(dir.path(), &train).stdout);
    for name in ["seconds", "steps", "tokens", "steps_per_second", "tokens_per_second"] {
        assert!(told["speed"][name].as_f64().unwrap() > 0.0, "{told}");
    }
    let tokens = &told["result"]["num_tokens"];
    assert_eq!(told["speed"]["tokens"].as_f64(), tokens.as_f64(), "one epoch: {told}");
    for name in names(&dir.path().join("out")) {
        let path = dir.path().join("out").join(&name);
        let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(!text.unwrap_or_default().contains("tokens_per_second"), "{name}");
    }
    // Done before: nothing was measured.
    let again = program::json(&bylaw(dir.path(), &train).stdout);
    assert!(again.get("speed").is_none(), "{again}");
    assert_eq!(again["result"], told["result"]);
}
