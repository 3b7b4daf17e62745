//! The words of a text in one spelling, and the runs of words by which texts are compared.
//!
//! Case, white space and punctuation are left out: two texts that differ in nothing else are the same here.

/// Words to a shingle.
pub const SHINGLE: usize = 5;

/// Calls `each` for every word: a run of letters and digits in lower case. In scripts that put no space
/// between words (Chinese, Japanese, Thai, ...) every character is a word.
pub fn each(text: &str, mut each: impl FnMut(&str)) {
    let mut word = String::new();
    for character in text.chars() {
        let part = character.is_alphanumeric();
        if (!part || without_spaces(character)) && !word.is_empty() {
            each(&word);
            word.clear();
        }
        if !part {
            continue;
        }
        word.extend(character.to_lowercase());
        if without_spaces(character) {
            each(&word);
            word.clear();
        }
    }
    if !word.is_empty() {
        each(&word);
    }
}

fn without_spaces(character: char) -> bool {
    matches!(character,
        '\u{0E00}'..='\u{0EFF}' // Thai, Lao
        | '\u{1000}'..='\u{109F}' // Burmese
        | '\u{1780}'..='\u{17FF}' // Khmer
        | '\u{3040}'..='\u{30FF}' // kana
        | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFF}')
}

pub fn count(text: &str) -> usize {
    let mut count = 0;
    each(text, |_| count += 1);
    count
}

/// The text in one spelling: its words with single spaces. A text of punctuation alone is kept, trimmed.
pub fn normalised(text: &str) -> String {
    let mut spelling = String::with_capacity(text.len());
    each(text, |word| {
        if !spelling.is_empty() {
            spelling.push(' ');
        }
        spelling.push_str(word);
    });
    match spelling.is_empty() {
        true => text.trim().to_owned(),
        false => spelling,
    }
}

/// The set of hashes of all runs of [`SHINGLE`] words, ascending. A shorter text is one shingle, a text
/// without words has none.
pub fn shingles(text: &str) -> Vec<u64> {
    let mut hashes = Vec::new();
    each(text, |word| hashes.push(hash(word.as_bytes())));
    if hashes.is_empty() {
        return hashes;
    }
    let width = SHINGLE.min(hashes.len());
    let mut shingles: Vec<u64> = hashes
        .windows(width)
        .map(|words| words.iter().fold(0, |hash, word| mix(hash ^ word)))
        .collect();
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

/// The share of shingles that two sets have in common (Jaccard); the sets are ascending.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0_usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, common) = (i + 1, j + 1, common + 1),
        }
    }
    let all = a.len() + b.len() - common;
    if all == 0 { 0.0 } else { common as f64 / all as f64 }
}

/// FNV-1a, then mixed: the same on every machine and in every version.
fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(fnv)
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014), with its increment.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: prompts that differ in case and punctuation alone taken for different ones, and Chinese
    /// sentences taken for one word.
    #[test]
    fn one_spelling() {
        assert_eq!(normalised("  What's\n UP, Doc?? "), "what s up doc");
        assert_eq!(normalised("你好 world"), "你 好 world");
        assert_eq!(normalised(" ?! "), "?!");
        assert_eq!(normalised("ÉCOLE"), normalised("école"));
        assert_eq!(count("a b-c, d"), 4);
    }

    /// Catches: word order or the borders between words without influence.
    #[test]
    fn shingles_see_order_and_borders() {
        assert_eq!(shingles("one two three four five six").len(), 2);
        assert_eq!(shingles("short text").len(), 1);
        assert!(shingles("!?").is_empty());
        assert_ne!(shingles("a b"), shingles("b a"));
        assert_ne!(shingles("ab c"), shingles("a bc"));
        let (a, b) = (shingles("1 2 3 4 5 6"), shingles("2 3 4 5 6 7"));
        assert_eq!(jaccard(&a, &b), 1.0 / 3.0);
        assert_eq!(jaccard(&[], &[]), 0.0);
    }
}
