//! Ids that are unique within one reading, remembered in 16 bytes each.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

/// Makes ids unique by appending `-2`, `-3` … to later occurrences.
///
/// Ids key the random choices and the journal: two rows with one id would draw the same samples and
/// overwrite each other. Rows with equal contents stay separate rows, because how often something
/// is asked is part of the data.
///
/// What was seen is kept as the first 128 bits of its SHA-256, so that memory grows by some 20 bytes a
/// row whatever the ids are. Two ids that share those bits would cost the second one a needless suffix,
/// never a row.
#[derive(Default)]
pub(crate) struct UniqueIds {
    seen: HashSet<[u8; 16]>,
    /// How many rows have asked for an id, for those that more than one asked for.
    repeated: HashMap<[u8; 16], u64>,
}

impl UniqueIds {
    pub(crate) fn claim(&mut self, id: &str) -> String {
        let asked = key(id);
        if self.seen.insert(asked) {
            return id.to_owned();
        }
        loop {
            let count = self.repeated.entry(asked).or_insert(1);
            *count += 1;
            let unique = format!("{id}-{count}");
            // A suffixed id may itself be in the data, so go on until one is free.
            if self.seen.insert(key(&unique)) {
                return unique;
            }
        }
    }
}

fn key(id: &str) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&Sha256::digest(id)[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a suffix that collides with an id of the data, in either order.
    #[test]
    fn suffixes_avoid_the_ids_of_the_data() {
        let mut ids = UniqueIds::default();
        let claimed = ["a", "a-2", "a", "a", "a-2", "b"].map(|id| ids.claim(id));
        assert_eq!(claimed, ["a", "a-2", "a-3", "a-4", "a-2-2", "b"]);
    }
}
