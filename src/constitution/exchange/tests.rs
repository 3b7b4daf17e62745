//! Files of others come in, go out and are the same.

use proptest::prelude::*;

/// Texts that would break a careless writer, without space at their ends.
pub fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![Just("\"\"\"".to_owned()), Just("{{".to_owned()), Just("x".to_owned()),];
    proptest::collection::vec(piece, 1..8).prop_map(|pieces| pieces.concat())
}
