//! The methods that draw while they learn, on a small model: they follow their rewards, go on exactly where they
//! stopped, learn nothing where there is nothing to learn, and are watched.

#[path = "support/runs.rs"]
mod runs;
#[path = "support/small.rs"]
mod small;

use std::path::Path;

use bylaw::error::Result;
use bylaw::model::cpu::trunk::Sequence;
use bylaw::model::decoder::Decoder;
use bylaw::model::files::Model;
use bylaw::model::heads::ScalarHead;
use bylaw::progress::Silent;
use bylaw::prompt::{Style, Templates};
use bylaw::record::Message;
use bylaw::seed::Seed;
use bylaw::train::batch::{Encoder, Example};
use bylaw::train::grpo::GrpoConfig;
use bylaw::train::monitor::{self, MonitorConfig, Watch};
use bylaw::train::online::{self, Method};
use bylaw::train::optim::{OptimConfig, Schedule};
use bylaw::train::pairs::Pair;
use bylaw::train::ppo::PpoConfig;
use bylaw::train::reward::{self, RewardConfig, RewardModel};
use bylaw::train::rloo::RlooConfig;
use bylaw::train::rollout::Actors;
use bylaw::train::run::Setup;
use bylaw::train::sft::{self, SftConfig};
use bylaw::train::sources::{Completions, Source, Sources};
use bylaw::train::{checkpoint, metrics};
use clap::Parser;
use runs::{CopyAll, bits, figures, setup};
use tempfile::TempDir;

// ---------------------------------------------------------------- what the tests share

const QUESTIONS: [&str; 3] = ["How much?", "Who is it?", "Where is the response?"];
const ANSWERS: [&str; 2] = ["A lot.", "No reason."];

#[derive(Parser)]
struct Flags<M: Method> {
    #[command(flatten)]
    config: M,
}

/// A method's settings as they are typed, after those that make a test quick.
fn typed<M: Method>(flags: &[&str]) -> M {
    let quick = [
        "test",
        "--learning-rate=1e-3",
        "--iterations=7",
        "--rollouts=8",
        "--minibatch-rows=4",
        "--max-new-tokens=8",
        "--lr-scheduler=constant",
    ];
    let given = quick.iter().filter(|flag| {
        let name = flag.split('=').next().unwrap();
        !flags.iter().any(|other| other.split('=').next().unwrap() == name)
    });
    Flags::<M>::parse_from(given.chain(flags)).config
}

fn with_encoder<R>(model: &Model, use_it: impl FnOnce(&Encoder<'_>) -> R) -> R {
    let templates = Templates::new(Style::Transcript);
    use_it(&Encoder {
        tokenizer: &model.tokenizer,
        templates: &templates,
        context: model.decoder.config.context,
    })
}

fn prompts(model: &Model, questions: &[&str]) -> Vec<Vec<u32>> {
    with_encoder(model, |encoder| {
        let prompt = |question: &&str| encoder.prompt(&[Message::user(*question)]).unwrap();
        questions.iter().map(prompt).collect()
    })
}

fn answer(model: &Model, question: &str, answer: &str) -> Sequence {
    with_encoder(model, |encoder| {
        encoder.answer(&[Message::user(question)], answer).unwrap()
    })
}

fn random_rewards(model: &Model, seed: u64) -> RewardModel {
    let mut head = ScalarHead::random(model.decoder.config.hidden, Seed::new(seed)).unwrap();
    (head.mean, head.scale) = (0.25, 0.5);
    RewardModel {
        decoder: model.decoder.copy().unwrap(),
        head,
    }
}

fn rule(text: &str) -> Sources {
    Sources::new(vec![("rule".into(), 1.0, Source::Rule(text.parse().unwrap()))]).unwrap()
}

const UNWATCHED: Watch<'static> = Watch {
    config: &MonitorConfig {
        eval_steps: 0,
        alarm_patience: 5,
        stop_on_alarm: false,
    },
    held_out: None,
};

fn train<M: Method>(dir: &Path, config: &M, model: &Model, sources: &Sources, stop: &[String]) -> Decoder {
    let prompts = prompts(model, &QUESTIONS);
    let actors = Actors {
        policy: &model.decoder,
        sources,
        tokenizer: &model.tokenizer,
        prompts: &prompts,
        conversations: &[],
        stop,
    };
    config.check().unwrap();
    online::train(setup(dir, &Silent, 0), config, &actors, UNWATCHED, Seed::new(3)).unwrap()
}

/// A policy that gives either of [`ANSWERS`] to the first question.
fn either(model: &Model, dir: &Path) -> Model {
    let examples: Vec<Example> = ANSWERS
        .map(|text| {
            let sequence = answer(model, QUESTIONS[0], text);
            Example {
                weights: vec![1.0; sequence.completion_len()],
                sequence,
            }
        })
        .to_vec();
    let config = SftConfig {
        learning_rate: 1e-2,
        epochs: 120,
        batch_size: 2,
        batch_tokens: None,
        prompt_loss_weight: 0.0,
        optim: OptimConfig {
            lr_scheduler: Schedule::Constant,
            ..OptimConfig::default()
        },
        ..SftConfig::default()
    };
    let decoder = sft::train(setup(dir, &Silent, 0), &config, &model.decoder, &examples, Seed::new(1)).unwrap();
    Model {
        decoder,
        ..model.clone()
    }
}

// ---------------------------------------------------------------- learning

fn follows_its_rewards<M: Method>(flags: &[&str]) {
    let dirs = TempDir::new().unwrap();
    let policy = either(&small::model(), &dirs.path().join("sft"));
    let prompts = prompts(&policy, &QUESTIONS[..1]);
    let actors = Actors {
        policy: &policy.decoder,
        sources: &rule("regex:^A lot"),
        tokenizer: &policy.tokenizer,
        prompts: &prompts,
        conversations: &[],
        stop: &[],
    };
    let quick = ["--rollouts=32", "--minibatch-rows=16", "--iterations=12"];
    let config: M = typed(&quick.iter().chain(flags).copied().collect::<Vec<_>>());
    let dir = dirs.path().join("online");
    online::train(setup(&dir, &Silent, 0), &config, &actors, UNWATCHED, Seed::new(3)).unwrap();
    let scores = figures(&dir, "objective/scores");
    assert!(
        (0.2..0.8).contains(&scores[0]),
        "the policy is no even mixture: {scores:?}"
    );
    assert!(scores[9..].iter().sum::<f64>() / 3.0 > 0.9, "{scores:?}");
    let kl = figures(&dir, "objective/kl");
    assert!(kl[0].abs() < 1e-4 && kl[11] > 0.1, "{kl:?}");
}

/// Catches: advantages of the wrong completions, a sign, a group that spans prompts.
#[test]
fn rloo_follows_its_rewards() {
    follows_its_rewards::<RlooConfig>(&["--kl-coef=0.01", "--num-generations=4"]);
}

/// Catches: the same; and a KL penalty in the loss that pulls the policy away from the reference.
#[test]
fn grpo_follows_its_rewards() {
    for aggregation in ["token", "sequence", "constant"] {
        let aggregation = format!("--loss-aggregation={aggregation}");
        follows_its_rewards::<GrpoConfig>(&["--kl-coef=0.01", "--num-generations=8", &aggregation]);
    }
}

/// Catches: an adaptive weight, a dual clip or a bonus that turns the direction round.
#[test]
fn ppo_follows_its_rewards_whatever_its_settings() {
    follows_its_rewards::<PpoConfig>(&[
        "--kl-coef=0.01",
        "--kl-target=2",
        "--kl-horizon=500",
        "--dual-clip=3",
        "--max-kl-step=0.1",
        "--entropy-coef=0.001",
        "--kl-estimator=k3",
    ]);
}

// ---------------------------------------------------------------- nothing to learn

fn learns_nothing_from_nothing<M: Method>(flags: &[&str]) {
    let (model, dirs) = (small::model(), TempDir::new().unwrap());
    let config: M = typed(flags);
    let before = bits(&model.decoder);
    // A stop text that every answer holds: no completion has a token.
    let empty = train(
        &dirs.path().join("empty"),
        &config,
        &model,
        &rule("no-repeat"),
        &[String::new()],
    );
    assert!(bits(&empty) == before, "{}: learnt from no tokens", M::KIND);
    assert_eq!(figures(&dirs.path().join("empty"), "val/empty"), [8.0; 7]);
}

fn learns_nothing_from_equal_rewards<M: Method>(flags: &[&str]) {
    let (model, dirs) = (small::model(), TempDir::new().unwrap());
    // No completion is that long, so all rewards are 0 whether a completion ends or not.
    let equal = [flags, &["--missing-eos-reward=0", "--kl-coef=0"]].concat();
    let trained = train(dirs.path(), &typed::<M>(&equal), &model, &rule("length>=9"), &[]);
    assert!(
        bits(&trained) == bits(&model.decoder),
        "{}: learnt from equal rewards",
        M::KIND
    );
    assert_eq!(figures(dirs.path(), "frac_reward_zero_std"), [1.0; 7]);
    assert_eq!(figures(dirs.path(), "grad_norm"), [0.0; 7]);
}

/// Catches: a mean over no tokens, a batch of no sequences, NaN in Adam's moments.
#[test]
fn without_a_token_nothing_is_learnt() {
    learns_nothing_from_nothing::<PpoConfig>(&[]);
    learns_nothing_from_nothing::<RlooConfig>(&[]);
    learns_nothing_from_nothing::<GrpoConfig>(&[]);
}

/// Catches: a deviation of 0 that divides, rounding errors of a mean scaled up to a direction.
#[test]
fn from_equal_rewards_nothing_is_learnt() {
    learns_nothing_from_equal_rewards::<RlooConfig>(&[]);
    learns_nothing_from_equal_rewards::<GrpoConfig>(&[]);
    learns_nothing_from_equal_rewards::<GrpoConfig>(&["--scale-rewards=batch"]);
}

/// Catches: log-probabilities of the only update that are another completion's, or another policy's: then the KL to the
/// reference, which the policy still is in the first iteration, is not 0.
#[test]
fn a_single_update_is_by_the_policy_that_drew() {
    let (model, dirs) = (small::model(), TempDir::new().unwrap());
    let run = |epochs: &str| {
        let dir = dirs.path().join(epochs);
        let config: GrpoConfig = typed(&["--rollouts=8", "--minibatch-rows=8", "--num-generations=4", epochs]);
        train(&dir, &config, &model, &rule("no-repeat"), &[]);
        dir
    };
    let (once, twice) = (run("--epochs=1"), run("--epochs=2"));
    assert!(figures(&once, "objective/kl")[0].abs() < 1e-6);
    assert!(figures(&once, "policy/approxkl_avg").iter().all(|kl| *kl == 0.0));
    // Both drew the same in the first iteration.
    let (a, b) = (
        figures(&once, "objective/entropy")[0],
        figures(&twice, "objective/entropy")[0],
    );
    assert!((a - b).abs() < 1e-4 * b, "{a} {b}");
}

fn parts_are_one_update<M: Method>(flags: &[&str]) {
    let dirs = TempDir::new().unwrap();
    let model = either(&small::model(), &dirs.path().join("sft"));
    let run = |name: &str, parts: &[&str]| {
        let dir = dirs.path().join(name);
        let sizes = ["--rollouts=12", "--minibatch-rows=12", "--iterations=2"];
        let flags = [&sizes, flags, parts].concat();
        train(&dir, &typed::<M>(&flags), &model, &rule("regex:^A lot"), &[]);
        dir
    };
    let (whole, parts) = (run("whole", &[]), run("parts", &["--micro-batch-rows=5"]));
    let told = metrics::read(&whole).unwrap().remove(0);
    assert!(figures(&whole, "grad_norm")[0] > 1e-4, "{} learns nothing", M::KIND);
    for (name, value) in told.iter().filter_map(|(name, value)| Some((name, value.as_f64()?))) {
        // The first iteration: later ones are drawn by weights that differ in their last digits.
        let other = figures(&parts, name)[0];
        assert!(
            (value - other).abs() <= 2e-5 * value.abs() + 1e-7,
            "{} {name}: {value} in one, {other} in parts",
            M::KIND
        );
    }
}

/// Catches: parts that count alike whatever they hold, figures that are those of the last one, a value head that learns
/// from the last one alone. Completions have different lengths, and 12 are no multiple of 5.
#[test]
fn an_update_in_parts_is_the_same_update() {
    parts_are_one_update::<PpoConfig>(&["--ppo-epochs=2", "--value-init=zero", "--entropy-coef=0.01"]);
    parts_are_one_update::<RlooConfig>(&["--num-generations=4", "--epochs=2"]);
    for aggregation in ["token", "sequence", "constant"] {
        let aggregation = format!("--loss-aggregation={aggregation}");
        parts_are_one_update::<GrpoConfig>(&["--num-generations=4", &aggregation]);
    }
}

/// Catches: a limit that is asked after the parameters moved, or that keeps the gradient for the next iteration.
#[test]
fn no_update_is_made_beyond_the_limit() {
    let (model, dirs) = (small::model(), TempDir::new().unwrap());
    let config: PpoConfig = typed(&["--max-kl-step=1e-9", "--ppo-epochs=3"]);
    train(dirs.path(), &config, &model, &rule("regex:a"), &[]);
    // Of an iteration only the first update is from where the rollout was drawn.
    assert_eq!(figures(dirs.path(), "val/updates"), [1.0; 7]);
    assert_eq!(figures(dirs.path(), "val/stopped_on_kl"), [1.0; 7]);
    assert!(figures(dirs.path(), "policy/approxkl_avg").iter().all(|kl| *kl < 1e-9));
    let free = TempDir::new().unwrap();
    train(
        free.path(),
        &typed::<PpoConfig>(&["--max-kl-step=1e9", "--ppo-epochs=3"]),
        &model,
        &rule("regex:a"),
        &[],
    );
    assert_eq!(figures(free.path(), "val/updates"), [6.0; 7]);
}

// ---------------------------------------------------------------- sources and the value head

/// Catches: weights that are left out, a rule that reads the prompt, a sum in which one source is missing.
#[test]
fn rewards_are_weighted_sums_of_their_sources() {
    let model = small::model();
    let sequences: Vec<Sequence> = ANSWERS.map(|text| answer(&model, QUESTIONS[0], text)).to_vec();
    let completions = |sources: &Sources| {
        let scored = sources.score(&Completions {
            sequences: &sequences,
            texts: &ANSWERS.map(str::to_owned),
            prompts: &[0, 0],
            conversations: &[],
            seed: Seed::new(0),
        });
        scored.unwrap()
    };
    let alone = completions(&Sources::model(random_rewards(&model, 2))).total;
    let both = completions(
        &Sources::new(vec![
            ("model".into(), 0.5, Source::Model(Box::new(random_rewards(&model, 2)))),
            ("rule".into(), -2.0, Source::Rule("regex:^A lot".parse().unwrap())),
        ])
        .unwrap(),
    );
    assert_eq!(both.total, [0.5 * alone[0] - 2.0, 0.5 * alone[1]]);
    assert_eq!(both.means()[1], ("rule".to_owned(), 0.5));
    assert!(Sources::new(Vec::new()).is_err());
}

/// Catches: a value head without the standardisation, or that learns the reward model's own head away.
#[test]
fn the_value_head_begins_as_the_reward_model() {
    let model = small::model();
    let width = model.decoder.config.hidden;
    let rewards = random_rewards(&model, 2);
    let hidden: Vec<Vec<f32>> = (0..5)
        .map(|row| (0..width).map(|at| ((row * 7 + at) % 11) as f32 - 5.0).collect())
        .collect();
    let expected = rewards.head.apply(&hidden).unwrap();
    let sources = Sources::new(vec![
        ("one".into(), 1.0, Source::Model(Box::new(random_rewards(&model, 2)))),
        ("two".into(), -0.5, Source::Model(Box::new(random_rewards(&model, 4)))),
    ])
    .unwrap();
    let other = random_rewards(&model, 4).head.apply(&hidden).unwrap();
    let head = sources.head(width).unwrap().unwrap();
    assert_eq!((head.mean, head.scale), (0.0, 1.0));
    for (found, (one, other)) in head.apply(&hidden).unwrap().iter().zip(expected.iter().zip(&other)) {
        assert!((found - (one - 0.5 * other)).abs() < 1e-4, "{found}");
    }
    assert!(
        sources.head(width + 1).unwrap().is_none(),
        "a head that does not fit is taken"
    );
    assert!(rule("no-repeat").head(width).unwrap().is_none());
}

// ---------------------------------------------------------------- going on after a stop

/// Trains in one go, with checkpoints every other iteration, and on from what a kill after each iteration would have
/// left. All must agree to the bit, metrics and alarms included.
fn resumes_exactly(train: impl Fn(Setup<'_>) -> Result<Decoder>) {
    let dirs = TempDir::new().unwrap();
    let place = |name: &str| dirs.path().join(name);
    let read = |dir: &Path, name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let straight = bits(&train(setup(&place("straight"), &Silent, 0)).unwrap());
    let copier = CopyAll::new(place("saving"), place("killed"));
    assert!(
        bits(&train(setup(&place("saving"), &copier, 2)).unwrap()) == straight,
        "saving changes the result"
    );
    let total = metrics::read(&place("straight")).unwrap().len();
    assert!(total >= 5, "the run is too short to say anything");
    for step in 1..=total {
        let dir = place("killed").join(step.to_string());
        let saved = checkpoint::newest(&dir).unwrap().is_some();
        assert_eq!(saved, step > 2, "after step {step}");
        assert!(
            bits(&train(setup(&dir, &Silent, 2)).unwrap()) == straight,
            "killed after {step}: ends elsewhere"
        );
        for name in [metrics::FILE, monitor::FILE] {
            assert_eq!(
                read(&dir, name),
                read(&place("straight"), name),
                "killed after {step}: {name}"
            );
        }
    }
}

fn method_resumes_exactly<M: Method>(flags: &[&str]) {
    let model = small::model();
    let held_out = random_rewards(&model, 9);
    let prompts = prompts(&model, &QUESTIONS);
    let sources = Sources::new(vec![
        ("model".into(), 1.0, Source::Model(Box::new(random_rewards(&model, 2)))),
        ("rule".into(), 0.5, Source::Rule("no-repeat".parse().unwrap())),
    ])
    .unwrap();
    let actors = Actors {
        policy: &model.decoder,
        sources: &sources,
        tokenizer: &model.tokenizer,
        prompts: &prompts,
        conversations: &[],
        stop: &["the".to_owned()],
    };
    let config: M = typed(flags);
    let watching = MonitorConfig {
        eval_steps: 1,
        alarm_patience: 2,
        stop_on_alarm: false,
    };
    let watch = Watch {
        config: &watching,
        held_out: Some(&held_out),
    };
    resumes_exactly(|setup| online::train(setup, &config, &actors, watch, Seed::new(5)));
}

/// Catches: the adaptive weight or the value head beginning again, early stops that depend on the process.
#[test]
fn ppo_with_everything_resumes_to_the_bit() {
    method_resumes_exactly::<PpoConfig>(&[
        "--kl-target=0.001",
        "--kl-horizon=20",
        "--value-init=reward",
        "--whiten-rewards",
        "--entropy-coef=0.01",
        "--dual-clip=2",
        "--max-kl-step=0.01",
        "--weight-decay=0.01",
    ]);
}

/// Catches: completions of a group drawn with seeds that depend on the process.
#[test]
fn rloo_resumes_to_the_bit() {
    method_resumes_exactly::<RlooConfig>(&["--epochs=2", "--reward-length-residual"]);
}

/// Catches: the same.
#[test]
fn grpo_resumes_to_the_bit() {
    method_resumes_exactly::<GrpoConfig>(&["--epochs=2", "--num-generations=4", "--dual-clip=2"]);
}

/// Catches: a weight that follows nothing, or that is lost where nothing checks it.
#[test]
fn the_adaptive_weight_follows_the_kl() {
    let (model, dir) = (small::model(), TempDir::new().unwrap());
    let config: PpoConfig = typed(&["--kl-target=1000", "--kl-horizon=80", "--kl-coef=0.5"]);
    train(dir.path(), &config, &model, &rule("no-repeat"), &[]);
    let weights = figures(dir.path(), "objective/kl_coef");
    // The KL is far below the target, so every iteration of 8 takes 0.2 * 8 / 80 off.
    for (iteration, weight) in weights.iter().enumerate() {
        let expected = 0.5 * 0.98f64.powi(iteration as i32);
        assert!(
            (weight - expected).abs() < 1e-12,
            "{iteration}: {weight}, expected {expected}"
        );
    }
}

// ---------------------------------------------------------------- the monitor

/// A reward model that likes the second answer and not the first, on its own training answers.
fn likes_the_second(policy: &Model, dir: &Path) -> RewardModel {
    let pair = Pair {
        chosen: answer(policy, QUESTIONS[0], ANSWERS[1]),
        rejected: answer(policy, QUESTIONS[0], ANSWERS[0]),
        p_chosen: 1.0,
        weight: 1.0,
        margin: 0.0,
    };
    let config = RewardConfig {
        learning_rate: 1e-3,
        epochs: 30,
        batch_size: 1,
        centre_coef: 0.01,
        head_rate: 3.0,
        optim: OptimConfig {
            lr_scheduler: Schedule::Constant,
            ..OptimConfig::default()
        },
        ..RewardConfig::default()
    };
    reward::train(setup(dir, &Silent, 0), &config, &policy.decoder, &[pair], Seed::new(1)).unwrap()
}

/// The rule likes the first answer, the held-out reward model the second: the policy over-optimises by construction.
/// Catches: an alarm that does not come or comes without end, a run that goes on after it, weights of the end instead of
/// the best, alarms doubled or lost over a stop.
#[test]
fn an_alarm_stops_the_run_at_its_best_weights() {
    let dirs = TempDir::new().unwrap();
    let place = |name: &str| dirs.path().join(name);
    let policy = either(&small::model(), &place("sft"));
    let held_out = likes_the_second(&policy, &place("reward"));
    let prompts = prompts(&policy, &QUESTIONS[..1]);
    let actors = Actors {
        policy: &policy.decoder,
        sources: &rule("regex:^A lot"),
        tokenizer: &policy.tokenizer,
        prompts: &prompts,
        conversations: &[],
        stop: &[],
    };
    // Room for both answers to their ends: what is cut short has no reward of its own.
    let flags = [
        "--rollouts=32",
        "--minibatch-rows=16",
        "--learning-rate=3e-4",
        "--max-new-tokens=16",
    ];
    let config: GrpoConfig = typed(&[flags.as_slice(), &["--iterations=40"]].concat());
    let run = |setup: Setup<'_>, stop_on_alarm| {
        let watching = MonitorConfig {
            eval_steps: 1,
            alarm_patience: 2,
            stop_on_alarm,
        };
        let watch = Watch {
            config: &watching,
            held_out: Some(&held_out),
        };
        online::train(setup, &config, &actors, watch, Seed::new(5))
    };
    let to_the_end = run(setup(&place("on"), &Silent, 0), false).unwrap();
    let alarms = std::fs::read_to_string(place("on").join(monitor::FILE)).unwrap();
    let first: serde_json::Value = serde_json::from_str(alarms.lines().next().unwrap()).unwrap();
    let held = figures(&place("on"), "monitor/held_out_reward");
    assert_eq!(first["alarm"], "over-optimisation", "{alarms} {held:?}");
    let reason = first["reason"].as_str().unwrap();
    assert!(
        reason.contains("held-out reward fell") && reason.contains("proxy rose"),
        "{reason}"
    );
    let at = first["step"].as_u64().unwrap() as usize;
    assert_eq!(
        metrics::read(&place("on")).unwrap().len(),
        40,
        "the run was stopped unasked"
    );
    let proxy = figures(&place("on"), "monitor/proxy_reward");
    assert!(proxy[at] > proxy[0] && held[at] < held[0], "{proxy:?} {held:?}");

    let stopped = run(setup(&place("stopped"), &Silent, 0), true).unwrap();
    assert_eq!(
        metrics::read(&place("stopped")).unwrap().len(),
        at + 1,
        "the run goes on after its alarm"
    );
    assert!(bits(&stopped) != bits(&to_the_end));
    // The weights that it ends with are those after the iteration that ends the best window of two.
    let mean_to = |end: usize| held[end.saturating_sub(1)..=end].iter().sum::<f64>() / 2f64.min(end as f64 + 1.0);
    let best = (1..=at).fold(0, |best, end| if mean_to(end) > mean_to(best) { end } else { best });
    assert!(best < at, "the alarm comes at the best iteration: {held:?}");
    let short: GrpoConfig = typed(&[flags.as_slice(), &[&format!("--iterations={}", best + 1)]].concat());
    let until = online::train(
        setup(&place("until"), &Silent, 0),
        &short,
        &actors,
        UNWATCHED,
        Seed::new(5),
    )
    .unwrap();
    assert!(
        bits(&stopped) == bits(&until),
        "other weights than those after iteration {}",
        best + 1
    );
    resumes_exactly(|setup| run(setup, true));
}
