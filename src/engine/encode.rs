//! Requests in tokens: what the model reads, whether it fits, and where continuations part.

use super::{Refusal, ScoreRequest};
use crate::error::{ErrorKind, Result};
use crate::model::cpu::trunk::Sequence;
use crate::model::files::Model;
use crate::prompt::Request;

/// The tokens of a prompt, or why they do not fit with `room` tokens after them.
pub fn prompt(model: &Model, prompt: &Request, room: usize) -> Result<Result<Vec<u32>, Refusal>> {
    Ok(tokens(model, prompt, "")?.and_then(|tokens| check_room(model, tokens, room)))
}

/// The whole text of each continuation in tokens, scored from where the continuations part. A
/// tokenizer may join the prefix's end with a continuation's beginning; so the border is found in
/// the tokens, not assumed.
pub fn continuations(model: &Model, request: &ScoreRequest) -> Result<Result<Vec<Sequence>, Refusal>> {
    let mut encoded = Vec::with_capacity(request.continuations.len());
    for continuation in &request.continuations {
        let whole = tokens(model, &request.prompt, continuation)?;
        match whole.and_then(|tokens| check_room(model, tokens, 0)) {
            Ok(tokens) => encoded.push(tokens),
            Err(refusal) => return Ok(Err(refusal)),
        }
    }
    let shared = match tokens(model, &request.prompt, "")? {
        Ok(shared) => shared,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let border = encoded
        .iter()
        .map(|tokens| common_prefix(tokens, &shared))
        .min()
        .unwrap_or(0);
    if border == 0 {
        return Ok(Err(Refusal("nothing precedes the continuations".into())));
    }
    Ok(Ok(encoded
        .into_iter()
        .map(|tokens| Sequence {
            completion: border,
            tokens,
        })
        .collect()))
}

/// The tokens of a prompt with `continuation` after it. A conversation that the chat template does not
/// take is refused by itself.
fn tokens(model: &Model, prompt: &Request, continuation: &str) -> Result<Result<Vec<u32>, Refusal>> {
    let tokens = match prompt {
        Request::Text(text) => return model.tokenizer.encode_prompt(&format!("{text}{continuation}")).map(Ok),
        Request::Chat { messages, prefix } => match model.tokenizer.chat() {
            Some(chat) => chat.prompt(messages, &format!("{prefix}{continuation}")),
            None => return Ok(Err(Refusal("the model has no chat template".into()))),
        },
    };
    match tokens {
        Ok(tokens) => Ok(Ok(tokens)),
        Err(error) if error.kind() == ErrorKind::Input => Ok(Err(Refusal(error.to_string()))),
        Err(error) => Err(error),
    }
}

fn check_room(model: &Model, tokens: Vec<u32>, room: usize) -> Result<Vec<u32>, Refusal> {
    let context = model.decoder.config.context;
    if tokens.is_empty() {
        return Err(Refusal(
            "the prompt is empty, and the model has no token to begin with".into(),
        ));
    }
    if tokens.len() + room > context {
        return Err(Refusal(format!(
            "the prompt has {} tokens and leaves no room in the model's context of {context}",
            tokens.len()
        )));
    }
    Ok(tokens)
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
