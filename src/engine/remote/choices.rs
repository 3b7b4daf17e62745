//! The log-probability of given options, read from the likeliest next tokens that an endpoint lists.
//!
//! The API scores no given text, so an option's log-probability is that of its first token: enough for
//! options that part at their first token, as a judge's letters do. Tokens that differ in leading space
//! alone (`A`, ` A`) or that close the option (`A)`) are one option, and their probabilities add up. An
//! option that is not listed is less likely than everything that is, and stands as the least likely
//! listed token (an upper bound, so the verdict is less extreme than the model's); the caller counts
//! such floors.

use serde_json::Value;

use super::protocol::TOP;

/// Tokens and log-probabilities at one position, likeliest first.
#[derive(Debug, Clone, PartialEq)]
pub struct TopLogprobs(Vec<(String, f64)>);

/// What a list says of the options.
#[derive(Debug, Clone, PartialEq)]
pub struct OptionScores {
    pub logprobs: Vec<f32>,
    /// How many of them are floors.
    pub floors: u64,
}

impl TopLogprobs {
    /// From either layout of `logprobs`; `None` if there is no list. The drawn token counts only if it
    /// is among the likeliest: what was drawn must not change a score.
    pub fn read(logprobs: &Value) -> Option<Self> {
        let mut tokens: Vec<(String, f64)> = match &logprobs["content"][0]["top_logprobs"] {
            Value::Array(list) => list
                .iter()
                .filter_map(|entry| Some((entry["token"].as_str()?.to_owned(), entry["logprob"].as_f64()?)))
                .collect(),
            _ => logprobs["top_logprobs"][0]
                .as_object()?
                .iter()
                .filter_map(|(token, logprob)| Some((token.clone(), logprob.as_f64()?)))
                .collect(),
        };
        tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        tokens.truncate(TOP as usize);
        (!tokens.is_empty()).then_some(Self(tokens))
    }

    /// The options' log-probabilities, or why there are none.
    pub fn score(&self, options: &[String]) -> Result<OptionScores, String> {
        let mut sums = vec![0.0f64; options.len()];
        for (token, logprob) in &self.0 {
            if let Some(index) = option_of(token, options)? {
                sums[index] += logprob.exp();
            }
        }
        if sums.iter().all(|sum| *sum == 0.0) {
            return Err(format!(
                "none of the options {options:?} is among the {} likeliest tokens of the endpoint ({}): it may not \
                 continue the assistant's turn",
                self.0.len(),
                self.0
                    .iter()
                    .take(3)
                    .map(|(token, _)| format!("{token:?}"))
                    .collect::<Vec<_>>()
                    .join(", "),
            ));
        }
        let floor = self.0.last().map_or(f64::MIN, |(_, logprob)| *logprob);
        let logprob = |sum: &f64| if *sum > 0.0 { sum.ln() } else { floor };
        Ok(OptionScores {
            logprobs: sums.iter().map(|sum| logprob(sum) as f32).collect(),
            floors: sums.iter().filter(|sum| **sum == 0.0).count() as u64,
        })
    }
}

/// The option that a token begins, if any. A token that begins two of them tells nothing.
fn option_of(token: &str, options: &[String]) -> Result<Option<usize>, String> {
    // Byte-level and SentencePiece vocabularies write a space as `Ġ` and `▁`; some servers pass that on.
    let token = token.trim_start_matches(|c: char| c.is_whitespace() || c == 'Ġ' || c == '▁');
    if token.is_empty() {
        return Ok(None);
    }
    let begins = |option: &String| {
        let closes = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        option.starts_with(token) || token.strip_prefix(option.as_str()).is_some_and(closes)
    };
    if let Some(exact) = options.iter().position(|option| option == token) {
        return Ok(Some(exact));
    }
    let mut begun = (0..options.len()).filter(|index| begins(&options[*index]));
    match (begun.next(), begun.next()) {
        (Some(_), Some(_)) => Err(format!("the options {options:?} begin with the same token {token:?}")),
        (first, _) => Ok(first),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn options() -> Vec<String> {
        vec!["A".into(), "B".into()]
    }

    fn chat(tokens: &[(&str, f64)]) -> TopLogprobs {
        let list: Vec<Value> = tokens
            .iter()
            .map(|(token, p)| json!({ "token": token, "logprob": p.ln() }))
            .collect();
        TopLogprobs::read(&json!({ "content": [{ "token": "x", "logprob": -20.0, "top_logprobs": list }] })).unwrap()
    }

    /// Catches: variants of an option that are lost or counted twice, and words that begin like one.
    #[test]
    fn variants_add_up() {
        let list = [
            ("A", 0.4),
            (" A", 0.1),
            ("ĠA)", 0.05),
            ("Answer", 0.2),
            ("▁B", 0.125),
            ("\n", 0.02),
            (" ", 0.02),
        ];
        let scores = chat(&list).score(&options()).unwrap();
        assert_eq!(scores.floors, 0);
        for (logprob, p) in scores.logprobs.iter().zip([0.55f32, 0.125]) {
            assert!((logprob - p.ln()).abs() < 1e-6, "{scores:?}");
        }
    }

    /// Catches: an absent option with probability 0, or with the drawn token's, which depends on the draw.
    #[test]
    fn an_absent_option_is_a_floor() {
        let list: Vec<(String, f64)> = (0..25)
            .map(|i| (format!("t{i}"), 0.01 - 0.0001 * f64::from(i)))
            .collect();
        let mut list: Vec<(&str, f64)> = list.iter().map(|(token, p)| (token.as_str(), *p)).collect();
        list.push(("A", 0.5));
        let scores = chat(&list).score(&options()).unwrap();
        // 20 are read: A and t0 to t18.
        assert_eq!(scores.floors, 1);
        assert!(
            (scores.logprobs[1] - (0.01f32 - 0.0018).ln()).abs() < 1e-6,
            "{scores:?}"
        );
        let neither = chat(&[("The", 0.9), ("I", 0.1)]).score(&options()).unwrap_err();
        assert!(neither.contains("\"The\""), "{neither}");
    }

    /// Catches: the layout of completions unread, and an empty list taken for one.
    #[test]
    fn both_layouts_are_read() {
        let list = json!({ "tokens": ["A"], "token_logprobs": [-0.5], "top_logprobs": [{ " A": -0.5, "B": -1.5 }] });
        let scores = TopLogprobs::read(&list).unwrap().score(&options()).unwrap();
        assert_eq!(scores.logprobs, [-0.5, -1.5]);
        for absent in [
            json!(null),
            json!({ "content": [] }),
            json!({ "content": null }),
            json!({ "top_logprobs": [{}] }),
        ] {
            assert_eq!(TopLogprobs::read(&absent), None, "{absent}");
        }
    }

    /// Catches: options of several tokens, and options that cannot be told apart.
    #[test]
    fn longer_options_go_by_their_first_token() {
        let words = ["yes".to_owned(), "yesterday".to_owned()];
        let scores = chat(&[("yes", 0.5), ("yest", 0.25)]).score(&words).unwrap();
        assert!((scores.logprobs[1] - 0.25f32.ln()).abs() < 1e-6);
        assert!(chat(&[("ye", 0.5)]).score(&words).unwrap_err().contains("same token"));
    }
}
