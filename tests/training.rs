//! The training loops on a small model: they learn, they go on exactly where they stopped, and a
//! batch is the sum of its rows.

#[path = "support/small.rs"]
mod small;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bylaw::engine::Sampling;
use bylaw::engine::drawing::Drawing;
use bylaw::engine::local::{Job, draw_all};
use bylaw::error::{ErrorKind, Result};
use bylaw::model::cpu::trunk::{Gradients, Sequence, Wanted};
use bylaw::model::decoder::Decoder;
use bylaw::model::files::Model;
use bylaw::model::heads::ScalarHead;
use bylaw::progress::{Progress, Silent};
use bylaw::prompt::{Style, Templates};
use bylaw::record::{Demonstration, Message};
use bylaw::seed::Seed;
use bylaw::train::batch::{Encoder, Example};
use bylaw::train::checkpoint;
use bylaw::train::dpo::{self, DpoConfig};
use bylaw::train::length::{DpoControl, DpoLengthConfig, RewardControl, RewardLengthConfig};
use bylaw::train::loss;
use bylaw::train::loss::kl::KlEstimator;
use bylaw::train::metrics;
use bylaw::train::monitor::{MonitorConfig, Watch};
use bylaw::train::online;
use bylaw::train::optim::{OptimConfig, Schedule};
use bylaw::train::pairs::Pair;
use bylaw::train::ppo::{PpoConfig, ValueInit};
use bylaw::train::reward::{self, RewardConfig, RewardModel};
use bylaw::train::rollout::{Actors, RolloutConfig};
use bylaw::train::run::{Keeping, Setup};
use bylaw::train::seam;
use bylaw::train::sft::{self, SftConfig};
use bylaw::train::sources::Sources;
use tempfile::TempDir;

const ROWS: [(&str, &str); 6] = [
    ("Is it so?", "Yes, it is so."),
    ("Who is it?", "It is the man in the hall."),
    ("How much?", "A lot."),
    (
        "Where is the response?",
        "The response is on the table, where you left it.",
    ),
    ("Why?", "No reason."),
    ("When?", "Now, or then."),
];

// ---------------------------------------------------------------- what the tests share

fn messages(question: &str) -> Vec<Message> {
    vec![Message::user(question)]
}

fn with_encoder<R>(model: &Model, use_it: impl FnOnce(&Encoder<'_>) -> R) -> R {
    let templates = Templates::new(Style::Transcript);
    use_it(&Encoder {
        tokenizer: &model.tokenizer,
        templates: &templates,
        context: model.decoder.config.context,
    })
}

fn examples(model: &Model, count: usize) -> Vec<Example> {
    with_encoder(model, |encoder| {
        let example = |(question, answer): &(&str, &str)| {
            let row = Demonstration {
                id: (*question).into(),
                prompt: messages(question),
                prefix: String::new(),
                completion: (*answer).into(),
                weight: 1.0,
            };
            encoder.demonstration(&row, 0.0).unwrap()
        };
        ROWS[..count].iter().map(example).collect()
    })
}

fn answer(model: &Model, question: &str, answer: &str) -> Sequence {
    with_encoder(model, |encoder| encoder.answer(&messages(question), answer).unwrap())
}

/// Each row's answer against the next row's.
fn pairs(model: &Model, p_chosen: impl Fn(usize) -> f32) -> Vec<Pair> {
    ROWS.iter()
        .enumerate()
        .map(|(index, (question, good))| Pair {
            chosen: answer(model, question, good),
            rejected: answer(model, question, ROWS[(index + 1) % ROWS.len()].1),
            p_chosen: p_chosen(index),
            margin: 0.0,
            weight: 1.0,
        })
        .collect()
}

fn prompts(model: &Model) -> Vec<Vec<u32>> {
    with_encoder(model, |encoder| {
        ROWS.iter()
            .map(|(question, _)| encoder.prompt(&messages(question)).unwrap())
            .collect()
    })
}

fn setup<'a>(dir: &Path, progress: &'a dyn Progress, save_steps: usize) -> Setup<'a> {
    Setup {
        dir: dir.to_path_buf(),
        fingerprint: "the run".into(),
        label: "test".into(),
        progress,
        save_steps,
        in_place: false,
        keeping: Keeping::default(),
    }
}

fn optim() -> OptimConfig {
    OptimConfig {
        weight_decay: 0.01,
        lr_scheduler: Schedule::Cosine,
        warmup_steps: 2,
        ..OptimConfig::default()
    }
}

fn steady() -> OptimConfig {
    OptimConfig {
        lr_scheduler: Schedule::Constant,
        ..OptimConfig::default()
    }
}

fn sft_config(epochs: usize, learning_rate: f64) -> SftConfig {
    SftConfig {
        learning_rate,
        epochs,
        batch_size: 2,
        batch_tokens: None,
        prompt_loss_weight: 0.0,
        optim: optim(),
        ..SftConfig::default()
    }
}

fn dpo_config() -> DpoConfig {
    DpoConfig {
        learning_rate: 1e-3,
        epochs: 3,
        batch_size: 2,
        optim: optim(),
        ..DpoConfig::default()
    }
}

fn reward_config() -> RewardConfig {
    RewardConfig {
        learning_rate: 1e-3,
        epochs: 3,
        batch_size: 2,
        centre_coef: 0.01,
        head_rate: 3.0,
        length: RewardLengthConfig::default(),
        optim: optim(),
        ..RewardConfig::default()
    }
}

fn ppo_config(iterations: usize) -> PpoConfig {
    PpoConfig {
        learning_rate: 1e-3,
        rollout: RolloutConfig {
            iterations,
            rollouts: 8,
            minibatch_rows: 4,
            micro_batch_rows: None,
            max_new_tokens: 8,
            temperature: 1.0,
            reward_clip: 4.0,
            missing_eos_reward: -1.0,
            length_penalty: 0.0,
            reward_length_residual: false,
            max_kl_step: None,
            optim: optim(),
        },
        ppo_epochs: 2,
        kl_coef: 0.05,
        kl_estimator: KlEstimator::K1,
        kl_target: None,
        kl_horizon: None,
        gamma: 1.0,
        gae_lambda: 0.95,
        clip_range: 0.2,
        dual_clip: None,
        clip_range_value: 0.2,
        vf_coef: 0.1,
        value_init: ValueInit::Zero,
        head_rate: 5.0,
        whiten_rewards: false,
        no_whiten_advantages: false,
        entropy_coef: 0.0,
    }
}

/// Every weight to the bit.
fn bits(decoder: &Decoder) -> Vec<(String, Vec<u32>)> {
    let of = |tensor: &candle_core::Tensor| -> Vec<u32> {
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    let parameters = decoder.parameters.iter();
    parameters
        .map(|parameter| (parameter.name.clone(), of(parameter.weight.dense().unwrap())))
        .collect()
}

/// The column `name` of a run's metrics.
fn figures(dir: &Path, name: &str) -> Vec<f64> {
    let rows = metrics::read(dir).unwrap();
    rows.iter()
        .map(|row| row[name].as_f64().unwrap_or_else(|| panic!("no {name}")))
        .collect()
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let place = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &place);
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}

fn newest(dir: &Path) -> PathBuf {
    checkpoint::newest(dir).unwrap().unwrap()
}

/// Copies a run's directory when `at` steps are done: what a killed process would have left.
struct CopyAt {
    at: u64,
    from: PathBuf,
    to: PathBuf,
    done: AtomicU64,
}

impl Progress for CopyAt {
    /// Of several loops, the last one counts.
    fn start(&self, _: &str, _: u64, _: &'static str) {
        self.done.store(0, Ordering::SeqCst);
    }

    fn advance(&self, done: u64) {
        let so_far = self.done.fetch_add(done, Ordering::SeqCst) + done;
        if done > 0 && so_far == self.at && self.from.join(metrics::FILE).exists() {
            copy_directory(&self.from, &self.to);
        }
    }

    fn figure(&self, _: &str) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
}

// ---------------------------------------------------------------- learning

fn greedy(model: &Model, decoder: &Decoder, question: &str, stop: Vec<String>) -> Drawing {
    let job = Job {
        prompt: with_encoder(model, |encoder| encoder.prompt(&messages(question)).unwrap()),
        sampling: Sampling {
            temperature: 0.0,
            max_new_tokens: 60,
            ..Sampling::default()
        },
        stop,
        seed: Seed::new(0),
    };
    draw_all(decoder, &model.tokenizer, &[job]).unwrap().remove(0)
}

/// Catches: labels one token off, learning the prompt instead of the answer, an EOS that is never
/// learnt, a sign; and in the engine a search window shorter than a stop text.
#[test]
fn sft_learns_four_rows_by_heart() {
    let (model, dir) = (small::model(), TempDir::new().unwrap());
    let config = SftConfig {
        batch_size: 4,
        optim: steady(),
        ..sft_config(250, 1e-2)
    };
    let rows = examples(&model, 4);
    let trained = sft::train(
        setup(dir.path(), &Silent, 0),
        &config,
        &model.decoder,
        &rows,
        Seed::new(1),
    )
    .unwrap();
    let losses = figures(dir.path(), "loss");
    assert_eq!(losses.len(), 250);
    assert!(
        losses[0] > 3.0 && losses[249] < 0.05,
        "{} to {}",
        losses[0],
        losses[249]
    );
    for (question, answer) in &ROWS[..4] {
        let drawn = greedy(&model, &trained, question, Vec::new());
        assert_eq!(drawn.text(&model.tokenizer).unwrap(), *answer);
        assert!(
            model.tokenizer.is_eos(*drawn.tokens.last().unwrap()),
            "{question}: no end"
        );
    }
    let (question, answer) = ROWS[3];
    let stop = &answer[9..45];
    let drawn = greedy(&model, &trained, question, vec![stop.to_owned()]);
    assert_eq!(drawn.text(&model.tokenizer).unwrap(), answer[..9].trim());
    assert_eq!(
        bits(&model.decoder),
        bits(&small::model().decoder),
        "training moved the original"
    );
}

/// Catches: a loss that is not ln 2 where policy and reference agree (the reference computed at
/// another temperature, over the prompt, or of the wrong answer), and a pull in the wrong direction.
#[test]
fn dpo_begins_at_ln_2_and_prefers_the_chosen() {
    let model = small::model();
    for p_chosen in [1.0, 0.7] {
        let dir = TempDir::new().unwrap();
        let config = DpoConfig {
            epochs: 12,
            batch_size: 6,
            optim: steady(),
            ..dpo_config()
        };
        let pairs = pairs(&model, |_| p_chosen);
        dpo::train(
            setup(dir.path(), &Silent, 0),
            &config,
            &model.decoder,
            &pairs,
            Seed::new(1),
        )
        .unwrap();
        let losses = figures(dir.path(), "loss");
        // The reference is scored by the engine, whose sums run in another order than the trunk's.
        assert!((losses[0] - std::f64::consts::LN_2).abs() < 1e-6, "{}", losses[0]);
        for name in ["rewards/chosen", "rewards/rejected", "rewards/margins"] {
            assert!(figures(dir.path(), name)[0].abs() < 1e-5, "{name} at step 0");
        }
        assert!(losses[11] < losses[0] - 0.02, "{losses:?}");
        assert_eq!(figures(dir.path(), "rewards/accuracies")[11], 1.0);
        if p_chosen == 1.0 {
            assert!(
                figures(dir.path(), "grad_norm")[0] > 1e-3,
                "no gradient at a margin of 0"
            );
        }
    }
}

/// Catches: smoothing that is not symmetric about one half, and an anchor without its coefficient.
#[test]
fn dpo_smooths_labels_and_anchors_to_the_chosen() {
    let model = small::model();
    let first_step = |config: DpoConfig, p_chosen: f32| {
        let dir = TempDir::new().unwrap();
        let config = DpoConfig {
            batch_size: 6,
            epochs: 1,
            ..config
        };
        let pairs = pairs(&model, |_| p_chosen);
        dpo::train(
            setup(dir.path(), &Silent, 0),
            &config,
            &model.decoder,
            &pairs,
            Seed::new(1),
        )
        .unwrap();
        ["loss", "grad_norm", "nll"].map(|name| figures(dir.path(), name)[0])
    };
    let hard = first_step(dpo_config(), 1.0);
    // The gradient at a margin of 0 is in proportion to p - 1/2.
    let smoothing = DpoConfig {
        label_smoothing: 0.25,
        ..dpo_config()
    };
    let (smoothed, soft) = (first_step(smoothing, 1.0), first_step(dpo_config(), 0.75));
    assert!((smoothed[1] / hard[1] - 0.5).abs() < 1e-3 && (soft[1] / hard[1] - 0.5).abs() < 1e-3);
    assert!(first_step(dpo_config(), 0.5)[1] < 1e-4 * hard[1]);
    let anchored = first_step(
        DpoConfig {
            sft_coef: 0.5,
            ..dpo_config()
        },
        1.0,
    );
    assert!((anchored[0] - hard[0] - 0.5 * hard[2]).abs() < 1e-4 && hard[2] > 1.0);
}

/// Catches: standardisation over something else than the training answers, with the raw values'
/// deviation, or forgotten; and a model that prefers the rejected answers.
#[test]
fn the_reward_model_prefers_and_is_standardised() {
    let (model, dir) = (small::model(), TempDir::new().unwrap());
    let config = RewardConfig {
        epochs: 20,
        batch_size: 6,
        optim: steady(),
        ..reward_config()
    };
    let pairs = pairs(&model, |_| 1.0);
    let trained = reward::train(
        setup(dir.path(), &Silent, 0),
        &config,
        &model.decoder,
        &pairs,
        Seed::new(1),
    )
    .unwrap();
    let score = |side: fn(&Pair) -> &Sequence| -> Vec<f32> {
        let sequences: Vec<Sequence> = pairs.iter().map(|pair| side(pair).clone()).collect();
        trained.score(&sequences).unwrap()
    };
    let (chosen, rejected) = (score(|pair| &pair.chosen), score(|pair| &pair.rejected));
    let all: Vec<f64> = chosen.iter().chain(&rejected).map(|score| f64::from(*score)).collect();
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let deviation = (all.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
    assert!(
        mean.abs() < 1e-5 && (deviation - 1.0).abs() < 1e-4,
        "mean {mean}, deviation {deviation}"
    );
    assert!(
        chosen.iter().zip(&rejected).all(|(chosen, rejected)| chosen > rejected),
        "{chosen:?} {rejected:?}"
    );
    // A head of zeros gives ln 2 first.
    assert!((figures(dir.path(), "loss")[0] - std::f64::consts::LN_2).abs() < 1e-6);
    // Scored alone, or after others in a batch: the same.
    let alone = trained.score(std::slice::from_ref(&pairs[3].chosen)).unwrap()[0];
    assert!((alone - chosen[3]).abs() < 1e-4);
}

/// A reward model that gives 0 for everything.
fn indifferent(model: &Model) -> RewardModel {
    RewardModel {
        decoder: model.decoder.copy().unwrap(),
        head: ScalarHead::zeros(model.decoder.config.hidden).unwrap(),
    }
}

fn train_ppo(dir: &Path, config: &PpoConfig, model: &Model, policy: &Decoder, rewards: RewardModel) -> Decoder {
    let prompts = prompts(model);
    let actors = Actors {
        policy,
        sources: &Sources::model(rewards),
        tokenizer: &model.tokenizer,
        prompts: &prompts,
        conversations: &[],
        stop: &[],
    };
    online::train(setup(dir, &Silent, 0), config, &actors, UNWATCHED, Seed::new(3)).unwrap()
}

const UNWATCHED: Watch<'static> = Watch {
    config: &MonitorConfig {
        eval_steps: 0,
        alarm_patience: 5,
        stop_on_alarm: false,
    },
    held_out: None,
};

/// Catches: a penalty with the wrong sign, which drives the policy away from its reference, and
/// whitening that blows rounding up into a direction.
#[test]
fn ppo_without_a_reward_stays_at_the_reference() {
    let (model, dir) = (small::model(), TempDir::new().unwrap());
    let mut config = ppo_config(8);
    config.rollout.missing_eos_reward = 0.0;
    config.rollout.optim = steady();
    train_ppo(dir.path(), &config, &model, &model.decoder, indifferent(&model));
    assert!(
        figures(dir.path(), "objective/kl")[0].abs() < 1e-4,
        "policy and reference differ at the start"
    );
    let kl = figures(dir.path(), "objective/kl");
    assert!(kl.iter().all(|kl| kl.abs() < 0.05), "{kl:?}");
    assert!(
        figures(dir.path(), "policy/clipfrac_avg")
            .iter()
            .all(|share| *share < 0.05)
    );
}

/// Catches: advantages with the wrong sign or beside their tokens, a reward paid at the wrong token,
/// rewards of the wrong rows.
#[test]
fn ppo_moves_towards_the_reward() {
    let (model, dirs) = (small::model(), TempDir::new().unwrap());
    // A policy that answers "A lot." or "No reason.", and a reward model that likes the first.
    let question = ROWS[2].0;
    let either: Vec<Example> = ["A lot.", "No reason."]
        .map(|text| {
            let sequence = answer(&model, question, text);
            Example {
                weights: vec![1.0; sequence.completion_len()],
                sequence,
            }
        })
        .to_vec();
    let learn = SftConfig {
        optim: steady(),
        ..sft_config(120, 1e-2)
    };
    let place = |name: &str| dirs.path().join(name);
    let policy = sft::train(
        setup(&place("sft"), &Silent, 0),
        &learn,
        &model.decoder,
        &either,
        Seed::new(1),
    )
    .unwrap();
    let pair = Pair {
        chosen: either[0].sequence.clone(),
        rejected: either[1].sequence.clone(),
        p_chosen: 1.0,
        margin: 0.0,
        weight: 1.0,
    };
    let judge = RewardConfig {
        epochs: 30,
        optim: steady(),
        ..reward_config()
    };
    let rewards = reward::train(
        setup(&place("reward"), &Silent, 0),
        &judge,
        &policy,
        &[pair],
        Seed::new(1),
    )
    .unwrap();
    let mut config = PpoConfig {
        kl_coef: 0.01,
        ..ppo_config(20)
    };
    config.rollout = RolloutConfig {
        rollouts: 32,
        minibatch_rows: 16,
        optim: steady(),
        ..config.rollout
    };
    let prompts = vec![prompts(&model)[2].clone()];
    let actors = Actors {
        policy: &policy,
        sources: &Sources::model(rewards),
        tokenizer: &model.tokenizer,
        prompts: &prompts,
        conversations: &[],
        stop: &[],
    };
    online::train(
        setup(&place("ppo"), &Silent, 0),
        &config,
        &actors,
        UNWATCHED,
        Seed::new(3),
    )
    .unwrap();
    let scores = figures(&place("ppo"), "objective/scores");
    println!("{scores:?}");
    assert!(scores[0].abs() < 0.6, "the policy is no even mixture: {}", scores[0]);
    let last = scores[17..].iter().sum::<f64>() / 3.0;
    assert!(last > scores[0] + 0.5 && last > 0.8, "{scores:?}");
}

// ---------------------------------------------------------------- batches

fn gradient(model: &Model, rows: &[&Example]) -> Vec<f32> {
    let mut gradients = Gradients::zeros(&model.decoder);
    let sequences: Vec<Sequence> = rows.iter().map(|row| row.sequence.clone()).collect();
    let wanted = Wanted::Logprobs { temperature: 1.0 };
    seam::accumulate(&model.decoder, &sequences, wanted, &mut gradients, |leaves| {
        let weights = leaves.pad(rows.iter().map(|row| row.weights.clone()))?;
        Ok((loss::sft::loss(leaves.logprobs.as_tensor(), &weights)?, ()))
    })
    .unwrap();
    gradients.0.concat()
}

fn furthest(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Catches: rows of a packed batch that see each other, gradients given to the wrong row, a batch
/// that is a mean of means.
#[test]
fn a_batch_is_the_sum_of_its_rows_in_any_order() {
    let model = small::model();
    let rows = examples(&model, 6);
    let rows: Vec<&Example> = rows.iter().collect();
    let whole = gradient(&model, &rows);
    assert!(whole.iter().all(|value| value.is_finite()) && whole.iter().any(|value| value.abs() > 1e-3));
    for order in [[5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 4, 2]] {
        let other = gradient(&model, &order.map(|row| rows[row]));
        assert!(
            furthest(&whole, &other) <= 1e-6,
            "{order:?}: {}",
            furthest(&whole, &other)
        );
    }
    let tokens: f32 = rows.iter().map(|row| row.weights.len() as f32).sum();
    let mut sum = vec![0.0; whole.len()];
    for row in &rows {
        let share = row.weights.len() as f32 / tokens;
        sum.iter_mut()
            .zip(gradient(&model, &[row]))
            .for_each(|(sum, part)| *sum += share * part);
    }
    assert!(furthest(&whole, &sum) <= 2e-6, "{}", furthest(&whole, &sum));
}

// ---------------------------------------------------------------- going on after a stop

/// Trains three times: in one go, with checkpoints, and on from what a kill after five steps would
/// have left. All three must agree to the bit, metrics included.
fn resumes_exactly<R: PartialEq>(train: impl Fn(Setup<'_>) -> Result<R>) {
    let dirs = TempDir::new().unwrap();
    let place = |name: &str| dirs.path().join(name);
    let straight = train(setup(&place("straight"), &Silent, 0)).unwrap();
    let copier = CopyAt {
        at: 5,
        from: place("saving"),
        to: place("killed"),
        done: AtomicU64::new(0),
    };
    assert!(
        train(setup(&place("saving"), &copier, 3)).unwrap() == straight,
        "saving changes the result"
    );
    let state = std::fs::read_to_string(newest(&place("killed")).join("state.json")).unwrap();
    assert!(state.contains("\"step\": 3"), "{state}");
    // The lines after the checkpoint are not counted on.
    assert_eq!(metrics::read(&place("killed")).unwrap().len(), 5);
    let steps = AtomicUsize::new(0);
    let counting = Counting(&steps);
    assert!(
        train(setup(&place("killed"), &counting, 3)).unwrap() == straight,
        "the resumed run ends elsewhere"
    );
    let logged = |name: &str| std::fs::read_to_string(place(name).join(metrics::FILE)).unwrap();
    assert_eq!(logged("killed"), logged("straight"));
    assert_eq!(logged("saving"), logged("straight"));
    let total = metrics::read(&place("straight")).unwrap().len();
    assert!(total >= 7, "the run is too short to say anything");
    assert_eq!(
        steps.load(Ordering::SeqCst),
        total - 3,
        "the steps before the checkpoint were done again"
    );

    let other = Setup {
        fingerprint: "another run".into(),
        ..setup(&place("killed"), &Silent, 3)
    };
    let Err(error) = train(other) else {
        panic!("a checkpoint of another run was taken")
    };
    assert_eq!(error.kind(), ErrorKind::Config);
}

/// Counts steps of size one.
struct Counting<'a>(&'a AtomicUsize);

impl Progress for Counting<'_> {
    fn start(&self, _: &str, _: u64, _: &'static str) {
        self.0.store(0, Ordering::SeqCst);
    }

    fn advance(&self, done: u64) {
        // The steps already done are told all at once.
        if done == 1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn figure(&self, _: &str) {}
    fn finish(&self) {}
    fn note(&self, _: &str) {}
}

/// Catches: moments, the step of the schedule or of the bias correction, or the order of the batches
/// lost over a stop.
#[test]
fn sft_resumes_to_the_bit() {
    let model = small::model();
    let rows = examples(&model, 6);
    let config = sft_config(3, 1e-2);
    resumes_exactly(|setup| Ok(bits(&sft::train(setup, &config, &model.decoder, &rows, Seed::new(5))?)));
}

/// Catches: a reference that is the restored policy instead of the original one.
#[test]
fn dpo_resumes_to_the_bit() {
    let model = small::model();
    let pairs = pairs(&model, |index| 0.6 + 0.05 * index as f32);
    let config = dpo_config();
    resumes_exactly(|setup| Ok(bits(&dpo::train(setup, &config, &model.decoder, &pairs, Seed::new(5))?)));
}

/// Catches: a term of a loss that begins again, answers to other prompts that are drawn in another order after a stop.
#[test]
fn the_dpo_family_resumes_to_the_bit() {
    use bylaw::train::dpo::PreferenceLoss::{Hinge, Ipo, Kto, Orpo, Robust, Simpo};
    let model = small::model();
    let pairs = pairs(&model, |index| 0.6 + 0.05 * index as f32);
    for loss in [Hinge, Ipo, Kto, Orpo, Robust, Simpo] {
        let config = DpoConfig {
            loss,
            label_smoothing: if loss == Robust { 0.2 } else { 0.0 },
            prompt_loss_weight: (loss == Orpo).then_some(0.5),
            ..dpo_config()
        };
        resumes_exactly(|setup| Ok(bits(&dpo::train(setup, &config, &model.decoder, &pairs, Seed::new(5))?)));
    }
}

/// Catches: held-out answers that the reference knows no more after a stop, a measure that moves the policy.
#[test]
fn dpo_beside_held_out_pairs_resumes_to_the_bit() {
    use bylaw::train::dpo::PreferenceLoss::{Kto, Sigmoid};
    let model = small::model();
    let pairs = pairs(&model, |index| 0.6 + 0.05 * index as f32);
    for loss in [Sigmoid, Kto] {
        let config = DpoConfig {
            loss,
            eval_steps: Some(1),
            ..dpo_config()
        };
        let data = (&pairs[..], &pairs[..2]);
        resumes_exactly(|setup| {
            let trained = dpo::train_beside(setup, &config, &model.decoder, data, Seed::new(5))?;
            Ok(bits(&trained))
        });
    }
}

/// Catches: a step against the labels, a loss whose gradient does not reach the policy.
#[test]
fn each_loss_of_the_dpo_family_prefers_the_chosen() {
    use bylaw::train::dpo::PreferenceLoss::{Hinge, Ipo, Kto, Orpo, Robust, Simpo};
    let model = small::model();
    let pairs = pairs(&model, |_| 0.8);
    for loss in [Hinge, Ipo, Kto, Orpo, Robust, Simpo] {
        let dir = TempDir::new().unwrap();
        let config = DpoConfig {
            loss,
            label_smoothing: if loss == Robust { 0.1 } else { 0.0 },
            epochs: 12,
            batch_size: 6,
            optim: steady(),
            ..dpo_config()
        };
        let setup = setup(dir.path(), &Silent, 0);
        dpo::train(setup, &config, &model.decoder, &pairs, Seed::new(1)).unwrap();
        let (losses, margins) = (figures(dir.path(), "loss"), figures(dir.path(), "rewards/margins"));
        assert!(losses[11] < losses[0], "{loss:?}: {losses:?}");
        assert!(margins[11] > margins[0] + 0.01, "{loss:?}: {margins:?}");
    }
}

/// Catches: tokens drawn anew in a resumed run; a control that changes nothing, or something where it is neutral.
#[test]
fn dpo_with_length_control_resumes_to_the_bit() {
    let model = small::model();
    let pairs = pairs(&model, |index| 0.6 + 0.05 * index as f32);
    let with = |length: DpoLengthConfig| DpoConfig { length, ..dpo_config() };
    let control = |length_control: DpoControl| DpoLengthConfig {
        length_control,
        ..DpoLengthConfig::default()
    };
    let once = |config: &DpoConfig| {
        let dir = TempDir::new().unwrap();
        let setup = setup(dir.path(), &Silent, 0);
        bits(&dpo::train(setup, config, &model.decoder, &pairs, Seed::new(5)).unwrap())
    };
    let plain = once(&dpo_config());
    for length_control in [DpoControl::Normalised, DpoControl::Margin, DpoControl::Desensitised] {
        assert!(once(&with(control(length_control))) != plain, "{length_control:?}");
    }
    let neutral = DpoLengthConfig {
        ld_alpha: Some(1.0),
        ..control(DpoControl::Desensitised)
    };
    assert!(once(&with(neutral)) == plain);
    let config = with(control(DpoControl::DownSampled));
    assert!(once(&config) != plain);
    resumes_exactly(|setup| Ok(bits(&dpo::train(setup, &config, &model.decoder, &pairs, Seed::new(5))?)));
}

/// Catches: a coefficient or a second head that is not in the checkpoint, or learns at the decoder's rate.
#[test]
fn reward_length_control_resumes_to_the_bit() {
    let model = small::model();
    let pairs = pairs(&model, |_| 0.9);
    for length_control in [RewardControl::Residual, RewardControl::Decorrelated] {
        let config = RewardConfig {
            length: RewardLengthConfig {
                length_control,
                ..RewardLengthConfig::default()
            },
            ..reward_config()
        };
        resumes_exactly(|setup| {
            let trained = reward::train(setup, &config, &model.decoder, &pairs, Seed::new(5))?;
            let weight: Vec<f32> = trained.head.weight.flatten_all().unwrap().to_vec1().unwrap();
            Ok((
                bits(&trained.decoder),
                weight.into_iter().map(f32::to_bits).collect::<Vec<_>>(),
            ))
        });
        let dir = TempDir::new().unwrap();
        reward::train(
            setup(dir.path(), &Silent, 0),
            &config,
            &model.decoder,
            &pairs,
            Seed::new(5),
        )
        .unwrap();
        if length_control == RewardControl::Residual {
            let slopes = figures(dir.path(), "length/slope");
            assert_eq!(slopes[0], 0.0);
            // Adam's first step is as long as the rate, of which this is the first of two steps of warm-up.
            assert!((slopes[1].abs() - 0.02).abs() < 1e-4, "{slopes:?}");
        }
    }
}

/// Catches: a head that is not in the checkpoint, or starts again with its rate factor lost.
#[test]
fn the_reward_model_resumes_to_the_bit() {
    let model = small::model();
    let pairs = pairs(&model, |_| 0.9);
    let config = reward_config();
    resumes_exactly(|setup| {
        let trained = reward::train(setup, &config, &model.decoder, &pairs, Seed::new(5))?;
        let weight: Vec<f32> = trained.head.weight.flatten_all().unwrap().to_vec1().unwrap();
        let numbers = [
            weight,
            trained.head.bias.to_vec1().unwrap(),
            vec![trained.head.mean, trained.head.scale],
        ];
        let numbers: Vec<u32> = numbers.concat().into_iter().map(f32::to_bits).collect();
        Ok((bits(&trained.decoder), numbers))
    });
}

/// Catches: rollouts drawn with seeds that depend on the process, a value head that starts again.
#[test]
fn ppo_resumes_to_the_bit() {
    let model = small::model();
    let mut rewards = indifferent(&model);
    rewards.head = ScalarHead::random(model.decoder.config.hidden, Seed::new(2)).unwrap();
    let prompts = prompts(&model);
    let actors = Actors {
        policy: &model.decoder,
        sources: &Sources::model(rewards),
        tokenizer: &model.tokenizer,
        prompts: &prompts,
        conversations: &[],
        stop: &["the".to_owned()],
    };
    for reward_length_residual in [false, true] {
        let mut config = ppo_config(7);
        config.rollout.reward_length_residual = reward_length_residual;
        config.rollout.length_penalty = 0.5 * f32::from(u8::from(reward_length_residual));
        resumes_exactly(|setup| Ok(bits(&online::train(setup, &config, &actors, UNWATCHED, Seed::new(5))?)));
    }
}

/// Catches: a checkpoint that is taken although it is of another run, cut short or incomplete.
#[test]
fn a_foreign_or_broken_checkpoint_is_refused() {
    let (model, dirs) = (small::model(), TempDir::new().unwrap());
    let rows = examples(&model, 6);
    let dir = dirs.path().join("run");
    let train = |fingerprint: &str| {
        let setup = Setup {
            fingerprint: fingerprint.into(),
            ..setup(&dir, &Silent, 3)
        };
        sft::train(setup, &sft_config(3, 1e-3), &model.decoder, &rows, Seed::new(5))
    };
    let finished = bits(&train("one").unwrap());
    let error = train("two").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.help_text().unwrap().contains("--out"));
    assert_eq!(
        bits(&train("one").unwrap()),
        finished,
        "the refusal destroyed the checkpoint"
    );

    let folder = newest(&dir);
    let all = std::fs::read_dir(dir.join(checkpoint::DIR)).unwrap();
    assert_eq!(all.count(), 1, "old checkpoints stay");
    let tensors = folder.join("state.safetensors");
    let bytes = std::fs::read(&tensors).unwrap();
    std::fs::write(&tensors, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(train("one").unwrap_err().kind(), ErrorKind::Input);
    std::fs::write(folder.join("state.json"), "{").unwrap();
    assert_eq!(train("one").unwrap_err().kind(), ErrorKind::Input);
    checkpoint::remove(&dir).unwrap();
    assert_eq!(bits(&train("one").unwrap()), finished);
}
