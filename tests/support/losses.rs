//! The cases of `tests/golden/losses.json`, and comparisons with them.

use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;

/// Absolute below 1, relative above.
pub const EXACT: f64 = 1e-6;
/// For `f32` against torch's `float64`, where a case is not extreme by design.
pub const SINGLE: f64 = 1e-5;

pub fn golden(loss: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/losses.json")).unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    let cases = all[loss].take();
    let cases = cases.as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

pub fn name(case: &Value) -> &str {
    case["name"].as_str().unwrap()
}

pub fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        Value::Number(number) => vec![number.as_f64().unwrap()],
        other => panic!("not a number: {other}"),
    }
}

pub fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().unwrap().iter().map(flat).collect()
}

pub fn singles(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

pub fn tensor(value: &Value, dtype: DType) -> Tensor {
    let values = flat(value);
    let outer = value.as_array().unwrap();
    let shape = match outer[0].as_array() {
        Some(inner) => vec![outer.len(), inner.len()],
        None => vec![outer.len()],
    };
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    tensor.to_dtype(dtype).unwrap()
}

pub fn var(value: &Value, dtype: DType) -> Var {
    Var::from_tensor(&tensor(value, dtype)).unwrap()
}

pub fn values(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
    flat.to_vec1().unwrap()
}

/// NaN is near nothing.
pub fn assert_near(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let near = (found - expected).abs() <= tolerance * expected.abs().max(1.0);
        assert!(near, "{what}[{index}]: {found}, expected {expected}");
    }
}

/// Compares a tensor with an entry of `expected`.
pub fn check(case: &Value, key: &str, found: &Tensor, tolerance: f64) {
    let what = format!("{} {key}", name(case));
    assert_near(&what, &values(found), &flat(&case["expected"][key]), tolerance);
}

/// Compares the gradients of `loss` with those in `expected.gradient`, which must name just these.
pub fn check_gradients(case: &Value, loss: &Tensor, leaves: &[(&str, &Var)], tolerance: f64) {
    let store = loss.backward().unwrap();
    let expected = case["expected"]["gradient"].as_object().unwrap();
    assert_eq!(expected.len(), leaves.len());
    for (leaf, var) in leaves {
        let gradient = store.get(var.as_tensor()).unwrap_or_else(|| panic!("{leaf} has none"));
        let what = format!("{} d/d {leaf}", name(case));
        assert_near(&what, &values(gradient), &flat(&expected[*leaf]), tolerance);
    }
}

/// `f64` to the letter, `f32` as near as it gets. An infinity or NaN passes neither.
pub fn precisions() -> [(DType, f64); 2] {
    [(DType::F64, EXACT), (DType::F32, SINGLE)]
}
