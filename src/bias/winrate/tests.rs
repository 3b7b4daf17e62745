//! Win rates against scikit-learn, scipy and AlpacaEval (`tests/golden/winrate.json`, made by
//! `scripts/golden/winrate.py`), against planted effects, and at the edges.

use proptest::prelude::*;
use rand::Rng as _;
use serde_json::Value;

use super::*;
use crate::seed::Rng;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/winrate.json")).unwrap()
}

fn pair(model: &str, instruction: impl ToString, len_model: f64, len_baseline: f64, p: f64) -> ModelPair {
    ModelPair {
        model: model.into(),
        instruction: instruction.to_string(),
        len_model,
        len_baseline,
        p,
    }
}

fn pairs_of(case: &Value) -> Vec<ModelPair> {
    let rows = case["pairs"].as_array().unwrap().iter();
    rows.map(|row| {
        let number = |index: usize| row[index].as_f64().unwrap();
        let text = |index: usize| row[index].as_str().unwrap();
        pair(text(0), text(1), number(2), number(3), number(4))
    })
    .collect()
}

fn measured(pairs: &[ModelPair], l2: f64) -> Vec<ModelRates> {
    rates(pairs, WinRateConfig { l2 }, Seed::new(0)).unwrap()
}

#[track_caller]
fn controlled(rates: &ModelRates) -> Controlled {
    rates.controlled.unwrap()
}

#[track_caller]
fn near(a: f64, b: f64, tolerance: f64, what: &str) {
    assert!((a - b).abs() <= tolerance, "{what}: {a} is not {b}");
}

/// Catches: any difference of the objective: what is standardised and how, what is penalised, whose difficulties a
/// model is given, soft targets rounded, an optimum that was not reached.
#[test]
fn coefficients_and_rates_are_those_of_scikit_learn() {
    let golden = golden();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let found = measured(&pairs_of(case), case["l2"].as_f64().unwrap());
        let expected = case["expected"].as_array().unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(expected) {
            let what = format!("{name}, {}", found.model);
            assert_eq!(expected["model"], found.model.as_str());
            assert_eq!(expected["n"], found.n);
            near(found.raw.value, expected["win_rate"].as_f64().unwrap(), 1e-14, &what);
            let rate = controlled(found).rate.value;
            near(
                rate,
                expected["length_controlled_win_rate"].as_f64().unwrap(),
                1e-9,
                &what,
            );
            let fitted = controlled(found).coefficients.unwrap();
            let ours = [Some(fitted.model), Some(fitted.length), fitted.difficulty];
            let theirs = expected["coefficients"].as_array().unwrap();
            assert_eq!(ours.iter().flatten().count(), theirs.len(), "{what}");
            for (ours, theirs) in ours.iter().flatten().zip(theirs) {
                near(*ours, theirs.as_f64().unwrap(), 1e-8, &what);
            }
        }
    }
}

/// Catches: a reading of the method that is not AlpacaEval's own.
#[test]
fn without_a_penalty_one_model_is_measured_as_by_alpaca_eval() {
    let golden = golden();
    let theirs = &golden["alpaca_eval"]["expected"];
    let cases = golden["cases"].as_array().unwrap();
    let case = cases
        .iter()
        .find(|case| case["name"] == golden["alpaca_eval"]["case"])
        .unwrap();
    let found = &measured(&pairs_of(case), 0.0)[0];
    near(found.raw.value, theirs["win_rate"].as_f64().unwrap(), 1e-12, "raw");
    let rate = theirs["length_controlled_win_rate"].as_f64().unwrap();
    near(controlled(found).rate.value, rate, 1e-6, "length controlled");
}

// ---------------------------------------------------------------- planted effects

struct Planted<'a> {
    model: &'a str,
    seed: u64,
    /// What the model is better by, in log-odds, and what a much longer answer gains.
    quality: f64,
    length_effect: f64,
    /// How many times as long as the baseline's its answers are.
    verbosity: f64,
}

fn normal(rng: &mut Rng) -> f64 {
    // Twelve uniform numbers: near enough, and exact in its mean.
    (0..12).map(|_| rng.random_range(-0.5..0.5)).sum()
}

/// Soft verdicts on 800 instructions, whose difficulty is the same for every model, and the win rate that equally long
/// answers would have had.
fn planted(world: &Planted<'_>) -> (Vec<ModelPair>, f64) {
    let mut shared = Seed::new(3).rng();
    let mut own = Seed::new(world.seed).rng();
    let (mut pairs, mut qualities) = (Vec::new(), Vec::new());
    for index in 0..800 {
        let (difficulty, baseline) = (normal(&mut shared), shared.random_range(300.0..2000.0_f64).round());
        let length = (baseline * world.verbosity * (0.4 * normal(&mut own)).exp()).round();
        pairs.push(pair(world.model, index, length, baseline, 0.0));
        qualities.push(world.quality + difficulty + 0.5 * normal(&mut own));
    }
    let differences: Vec<f64> = pairs.iter().map(|pair| pair.len_model - pair.len_baseline).collect();
    let centre = mean(&differences);
    let squares: f64 = differences.iter().map(|value| (value - centre).powi(2)).sum();
    let sd = (squares / 799.0).sqrt();
    for (pair, quality) in pairs.iter_mut().zip(&qualities) {
        let effect = ((pair.len_model - pair.len_baseline) / sd).tanh();
        pair.p = sigmoid(quality + world.length_effect * effect);
    }
    let even: Vec<f64> = qualities.iter().map(|quality| sigmoid(*quality)).collect();
    (pairs, mean(&even))
}

/// Catches: length control that moves rates where length has no effect.
#[test]
fn without_an_effect_of_length_nothing_is_controlled() {
    let (pairs, _) = planted(&Planted {
        model: "m",
        seed: 1,
        quality: 0.6,
        length_effect: 0.0,
        verbosity: 1.6,
    });
    let found = measured(&pairs, 1.0);
    near(controlled(&found[0]).rate.value, found[0].raw.value, 0.015, "rates");
}

/// Catches: a length term that is not taken out, or is taken out the wrong way round.
#[test]
fn a_preference_for_length_alone_is_taken_out() {
    for (verbosity, longer) in [(1.8, true), (0.5, false)] {
        let (pairs, even) = planted(&Planted {
            model: "m",
            seed: 2,
            quality: 0.0,
            length_effect: 2.0,
            verbosity,
        });
        let found = measured(&pairs, 1.0);
        let (raw, rate) = (found[0].raw.value, controlled(&found[0]).rate);
        near(even, 0.5, 0.02, "equal quality");
        assert!((raw - 0.5).abs() > 0.15 && (raw > 0.5) == longer, "raw {raw}");
        near(rate.value, even, 0.025, "length controlled");
        assert!(
            rate.is_above(0.0)
                && !rate.is_above(rate.value)
                && !rate.is_below(rate.value)
                && rate.interval.unwrap().covers(even),
            "{rate:?}"
        );
    }
}

/// The gameability of Dubois et al. 2024, section 4: one model told to be terse or verbose had raw win rates of 22.9 % to
/// 64.3 %, and length-controlled ones of 41.9 % to 51.6 %. Catches: length control that verbosity still moves.
#[test]
fn verbosity_moves_the_controlled_rate_little() {
    let pairs: Vec<ModelPair> = [("terse", 0.4, 4), ("plain", 1.0, 5), ("verbose", 2.2, 6)]
        .into_iter()
        .flat_map(|(model, verbosity, seed)| {
            planted(&Planted {
                model,
                seed,
                quality: -0.1,
                length_effect: 1.8,
                verbosity,
            })
            .0
        })
        .collect();
    let found = measured(&pairs, 1.0);
    let spread = |of: fn(&ModelRates) -> f64| {
        let values = || found.iter().map(of);
        values().fold(0.0, f64::max) - values().fold(1.0, f64::min)
    };
    let (raw, rate) = (
        spread(|found| found.raw.value),
        spread(|found| controlled(found).rate.value),
    );
    println!("spread over verbosity: raw {raw:.3}, length controlled {rate:.3}");
    assert!(raw > 0.3, "raw {raw}");
    assert!(rate < raw / 3.0, "length controlled {rate}, raw {raw}");
}

/// Catches: difficulties that echo a model's own verdicts, which pull its rate back towards the raw one.
#[test]
fn a_second_model_leaves_the_first_ones_rate_where_it_is() {
    let world = |model, seed| Planted {
        model,
        seed,
        quality: 0.0,
        length_effect: 2.0,
        verbosity: 1.8,
    };
    let (first, second) = (planted(&world("a", 2)).0, planted(&world("b", 7)).0);
    let alone = controlled(&measured(&first, 1.0)[0]).rate.value;
    let both = measured(&[first, second].concat(), 1.0);
    let fitted = controlled(&both[0]).coefficients.unwrap();
    assert!(fitted.difficulty.unwrap() > 0.5, "{fitted:?}");
    near(controlled(&both[0]).rate.value, alone, 0.02, "rate");
}

// ---------------------------------------------------------------- laws

fn some_pairs() -> impl Strategy<Value = Vec<ModelPair>> {
    let row = (0..3usize, 0..25u32, 1..3000u32, 1..3000u32, 0.0..=1.0f64);
    let rows = prop::collection::vec(row, 30..90);
    rows.prop_map(|rows| {
        let rows = rows.into_iter();
        rows.map(|(model, instruction, ours, theirs, p)| {
            pair(["a", "b", "c"][model], instruction, ours.into(), theirs.into(), p)
        })
        .collect()
    })
}

fn value(rates: &ModelRates) -> Option<f64> {
    rates.controlled.ok().map(|found| found.rate.value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Catches: an intercept, a centred length difference, a penalty that is not even.
    #[test]
    fn swapping_model_and_baseline_swaps_the_rates(pairs in some_pairs()) {
        let swapped: Vec<ModelPair> = pairs
            .iter()
            .map(|pair| ModelPair { len_model: pair.len_baseline, len_baseline: pair.len_model, p: 1.0 - pair.p, ..pair.clone() })
            .collect();
        for (one, other) in measured(&pairs, 1.0).iter().zip(measured(&swapped, 1.0)) {
            prop_assert!((one.raw.value + other.raw.value - 1.0).abs() < 1e-12);
            match (value(one), value(&other)) {
                (Some(a), Some(b)) => prop_assert!((a + b - 1.0).abs() < 1e-9, "{a} {b}"),
                (a, b) => prop_assert_eq!(a.is_some(), b.is_some()),
            }
        }
    }

    /// Catches: sums, clusters or resamples that follow the order of the rows.
    #[test]
    fn the_order_of_rows_changes_no_bit(pairs in some_pairs(), turn in 0..90usize) {
        let mut turned = pairs.clone();
        let by = turn % turned.len();
        turned.rotate_left(by);
        turned.reverse();
        prop_assert_eq!(measured(&pairs, 1.0), measured(&turned, 1.0));
    }
}

// ---------------------------------------------------------------- the edges

/// A dozen pairs of one model with lengths that vary, each with `p`.
fn dozen(p: impl Fn(usize) -> f64) -> Vec<ModelPair> {
    let length = |index: usize| 100.0 + 37.0 * (index * 7 % 12) as f64;
    (0..12)
        .map(|index| pair("m", index, length(index), 300.0, p(index)))
        .collect()
}

fn sound(rates: &[ModelRates]) {
    for found in rates {
        let mut numbers = vec![found.mean_length, found.baseline_mean_length];
        let estimates = [Some(found.raw), found.controlled.ok().map(|found| found.rate)];
        for estimate in estimates.into_iter().flatten() {
            let Interval { low, high } = estimate.interval.unwrap();
            numbers.extend([estimate.value, low, high]);
            assert!(
                (0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high),
                "{estimate:?}"
            );
            assert!(low <= high, "{estimate:?}");
        }
        if let Some(fitted) = found.controlled.ok().and_then(|found| found.coefficients) {
            numbers.extend([fitted.model, fitted.length]);
            numbers.extend(fitted.difficulty);
        }
        assert!(numbers.iter().all(|number| number.is_finite()), "{found:?}");
    }
}

/// Catches: NaN, a panic or a made-up rate where data say nothing of length; a reason that is not the reason.
#[test]
fn what_cannot_be_fitted_says_why() {
    type Case = (&'static str, Vec<ModelPair>, f64, Result<f64, Untrusted>);
    let separated = |index: usize| f64::from(u8::from(100.0 + 37.0 * (index * 7 % 12) as f64 > 300.0));
    let constant = |difference: f64, p: fn(usize) -> f64| -> Vec<ModelPair> {
        let rows = dozen(p).into_iter();
        rows.map(|row| ModelPair {
            len_model: row.len_baseline + difference,
            ..row
        })
        .collect()
    };
    let alternate = |index: usize| [0.0, 1.0, 0.5][index % 3];
    let cases: Vec<Case> = vec![
        ("all wins", dozen(|_| 1.0), 1.0, Err(Untrusted::OneSided)),
        ("all losses", dozen(|_| 0.0), 0.0, Err(Untrusted::OneSided)),
        ("all ties", dozen(|_| 0.5), 1.0, Ok(0.5)),
        ("all ties, no penalty", dozen(|_| 0.5), 0.0, Ok(0.5)),
        ("all the same", dozen(|_| 0.7), 1.0, Ok(0.7)),
        (
            "one row",
            vec![pair("m", 1, 10.0, 20.0, 0.3)],
            1.0,
            Err(Untrusted::TooFew),
        ),
        ("nine rows", dozen(alternate)[..9].to_vec(), 1.0, Err(Untrusted::TooFew)),
        (
            "a constant difference",
            constant(50.0, alternate),
            1.0,
            Err(Untrusted::ConstantDifference),
        ),
        ("equal lengths", constant(0.0, alternate), 1.0, Ok(0.5)),
        (
            "separated, no penalty",
            dozen(separated),
            0.0,
            Err(Untrusted::Separated),
        ),
        (
            "one instruction",
            vec![pair("m", 1, 10.0, 20.0, 0.3); 12],
            1.0,
            Err(Untrusted::ConstantDifference),
        ),
    ];
    for (name, pairs, l2, expected) in cases {
        let found = measured(&pairs, l2);
        sound(&found);
        match (found[0].controlled, expected) {
            (Ok(found), Ok(rate)) => near(found.rate.value, rate, 1e-9, name),
            (found, expected) => assert_eq!(found.err(), expected.err(), "{name}"),
        }
    }
    // A penalty holds separated data.
    let held = measured(&dozen(separated), 1.0);
    sound(&held);
    assert!(held[0].controlled.is_ok());
    assert_eq!(measured(&[], 1.0), vec![]);
}

/// Catches: one instruction judged many times taken for many instructions; an interval of no width for a model that has
/// merely not lost yet.
#[test]
fn intervals_count_instructions() {
    let repeated: Vec<ModelPair> = (0..40)
        .map(|index| pair("m", "same", 100.0 + f64::from(index % 7), 100.0, f64::from(index % 2)))
        .collect();
    let found = measured(&repeated, 1.0);
    sound(&found);
    assert_eq!((found[0].n, found[0].instructions), (40, 1));
    assert_eq!(found[0].raw.interval, Some(Interval { low: 0.0, high: 1.0 }));
    let wins = measured(&dozen(|_| 1.0), 1.0);
    let Interval { low, high } = wins[0].raw.interval.unwrap();
    near(low, 0.025_f64.powf(1.0 / 12.0), 1e-12, "all wins");
    assert_eq!(high, 1.0);
}

/// Catches: difficulties from nowhere, or a model that takes its own.
#[test]
fn models_that_share_no_instructions_have_no_difficulty() {
    let alternate = |index: usize| [0.1, 0.9, 0.4, 0.6][index % 4];
    let rename = |row: ModelPair, model: &str| ModelPair {
        instruction: format!("{model} {}", row.instruction),
        model: model.into(),
        ..row
    };
    let apart: Vec<ModelPair> = ["a", "b"]
        .into_iter()
        .flat_map(|model| dozen(alternate).into_iter().map(move |row| rename(row, model)))
        .collect();
    let found = measured(&apart, 1.0);
    sound(&found);
    let alone = measured(&apart[..12], 1.0);
    assert_eq!(controlled(&found[0]).coefficients, controlled(&alone[0]).coefficients);
    assert_eq!(controlled(&found[1]).coefficients.unwrap().difficulty, None);
}

/// Catches: numbers that no comparison has, let into the sums.
#[test]
fn what_is_no_comparison_is_refused_with_its_place() {
    let good = pair("m", 1, 10.0, 20.0, 0.3);
    for bad in [
        ModelPair {
            p: f64::NAN,
            ..good.clone()
        },
        ModelPair { p: 1.5, ..good.clone() },
        ModelPair {
            len_model: f64::INFINITY,
            ..good.clone()
        },
        ModelPair {
            len_baseline: -1.0,
            ..good.clone()
        },
        ModelPair {
            len_model: 1e300,
            ..good.clone()
        },
    ] {
        let refused = rates(&[good.clone(), bad], WinRateConfig::default(), Seed::new(0)).unwrap_err();
        assert!(refused.to_string().starts_with("pair 2: "), "{refused}");
    }
    let refused = rates(&[good], WinRateConfig { l2: f64::NAN }, Seed::new(0)).unwrap_err();
    assert!(refused.to_string().contains("penalty"), "{refused}");
}
