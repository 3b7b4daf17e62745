//! What is sent and what comes back: the OpenAI API's `/chat/completions` and `/completions`
//! (platform.openai.com/docs/api-reference), as vLLM, SGLang, llama.cpp's server and TGI serve them.
//!
//! - A raw prefix goes to `/completions`, a conversation to `/chat/completions`.
//! - The beginning of the assistant's turn is a last message of the assistant with
//!   `continue_final_message: true` and `add_generation_prompt: false`, extensions of vLLM and SGLang;
//!   llama.cpp's server continues such a message by itself.
//! - `top_k` is an extension and sent only when it is set. What is not sent is the server's choice: vLLM
//!   takes defaults from the model's `generation_config.json` (off: `--generation-config vllm`),
//!   llama.cpp's server has its own (off: `--top-k 0 --min-p 0`).
//! - Servers that know a field by no name answer 400 or 422 and say which; the row is refused with that.

use serde_json::{Map, Value, json};

use super::choices::TopLogprobs;
use crate::engine::{GenerateRequest, Sampling};
use crate::http::shortened;
use crate::prompt::Request;
use crate::record::FinishReason;

/// The most log-probabilities a position that vLLM and OpenAI's chats list, unless told otherwise.
pub const TOP: u32 = 20;
/// The most that OpenAI's completions list.
pub const FEWER: u32 = 5;

/// One request to any endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    pub path: &'static str,
    pub body: Map<String, Value>,
}

/// What the first choice of an answer says.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub text: String,
    /// As the server names it.
    pub finish_reason: String,
    /// Sum over the completion's tokens that the server lists; `None` if it lists none.
    pub logprob: Option<f64>,
    /// The likeliest tokens at the first position.
    pub top: Option<TopLogprobs>,
    pub prompt_tokens: Option<u32>,
    pub completion_tokens: Option<u32>,
}

impl Question {
    fn new(model: &str, prompt: &Request) -> Self {
        let mut body = Map::new();
        body.insert("model".into(), model.into());
        let path = match prompt {
            Request::Text(text) => {
                body.insert("prompt".into(), text.as_str().into());
                "completions"
            }
            Request::Chat { messages, prefix } => {
                let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
                let mut turns: Vec<Value> = messages
                    .iter()
                    .map(|message| turn(&message.role, &message.content))
                    .collect();
                if !prefix.is_empty() {
                    turns.push(turn("assistant", prefix));
                    body.insert("continue_final_message".into(), true.into());
                    body.insert("add_generation_prompt".into(), false.into());
                }
                body.insert("messages".into(), turns.into());
                "chat/completions"
            }
        };
        Self { path, body }
    }

    /// A completion to be drawn, with the log-probabilities of its tokens if `logprobs`.
    pub fn generation(model: &str, request: &GenerateRequest, logprobs: bool) -> Self {
        let mut question = Self::new(model, &request.prompt);
        // Every field by name: a new one must be thought of here.
        let Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            max_new_tokens,
        } = &request.sampling;
        question.sampling(*temperature, *top_p, *max_new_tokens, seed(request));
        if *top_k > 0 {
            question.body.insert("top_k".into(), (*top_k).into());
        }
        if *min_p > 0.0 {
            question.body.insert("min_p".into(), decimal(*min_p));
        }
        if *repetition_penalty != 1.0 {
            question
                .body
                .insert("repetition_penalty".into(), decimal(*repetition_penalty));
        }
        if !request.stop.is_empty() {
            question.body.insert("stop".into(), request.stop.clone().into());
        }
        if logprobs {
            question.ask_logprobs(1);
        }
        question
    }

    /// One token after `prompt`, for the log-probabilities of the `top` likeliest. At temperature 1, for
    /// some servers divide by it first.
    pub fn scoring(model: &str, prompt: &Request, top: u32) -> Self {
        let mut question = Self::new(model, prompt);
        question.sampling(1.0, 1.0, 1, 0);
        question.ask_logprobs(top);
        question
    }

    /// The shortest request about `prompt`, for the server's count of its tokens.
    pub fn counting(model: &str, prompt: &Request) -> Self {
        let mut question = Self::new(model, prompt);
        question.sampling(0.0, 1.0, 1, 0);
        question
    }

    fn sampling(&mut self, temperature: f32, top_p: f32, max_tokens: usize, seed: u64) {
        self.body.extend([
            ("temperature".to_owned(), decimal(temperature)),
            ("top_p".to_owned(), decimal(top_p)),
            ("max_tokens".to_owned(), max_tokens.into()),
            ("seed".to_owned(), seed.into()),
            ("n".to_owned(), 1.into()),
        ]);
    }

    fn ask_logprobs(&mut self, top: u32) {
        if self.path == "completions" {
            self.body.insert("logprobs".into(), top.into());
        } else {
            self.body.insert("logprobs".into(), true.into());
            // A generation wants the sampled tokens' alone.
            if top > 1 {
                self.body.insert("top_logprobs".into(), top.into());
            }
        }
    }

    pub fn without_logprobs(mut self) -> Self {
        self.body.remove("logprobs");
        self.body.remove("top_logprobs");
        self
    }

    /// Whether nothing is cut off by `top_p`. It is sent even so, for vLLM would take the model's default.
    pub fn takes_all(&self) -> bool {
        self.body.get("top_p").and_then(Value::as_f64) == Some(1.0)
    }

    pub fn without_neutral_top_p(mut self) -> Self {
        if self.takes_all() {
            self.body.remove("top_p");
        }
        self
    }

    /// Whether the assistant's turn is to be continued.
    pub fn continues(&self) -> bool {
        self.body.contains_key("continue_final_message")
    }
}

/// The row's seed, in the 63 bits that servers take for a signed number.
fn seed(request: &GenerateRequest) -> u64 {
    use rand::RngCore as _;
    request.seed.rng().next_u64() >> 1
}

/// `0.7f32` as 0.7, not as 0.699999988079071.
fn decimal(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

impl Answer {
    /// The answer in a body, or what is wrong with the body.
    pub fn read(body: &Value) -> Result<Self, String> {
        if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
            return Err(format!("the endpoint answers with an error: {}", error_message(error)));
        }
        let choice = &body["choices"][0];
        let message = &choice["message"];
        let text = match (choice.get("text"), message.get("content")) {
            (Some(Value::String(text)), _) | (_, Some(Value::String(text))) => text.trim().to_owned(),
            (_, Some(Value::Null)) => message["refusal"].as_str().unwrap_or_default().trim().to_owned(),
            _ => return Err("the endpoint's answer has no choice with a text".to_owned()),
        };
        let logprobs = &choice["logprobs"];
        let count = |key: &str| body["usage"][key].as_u64().and_then(|count| u32::try_from(count).ok());
        Ok(Self {
            text,
            finish_reason: choice["finish_reason"].as_str().unwrap_or_default().to_owned(),
            logprob: logprob_sum(logprobs),
            top: TopLogprobs::read(logprobs),
            prompt_tokens: count("prompt_tokens"),
            completion_tokens: count("completion_tokens"),
        })
    }

    /// Why the completion ended, or why it cannot be used.
    pub fn finish(&self) -> Result<FinishReason, String> {
        match self.finish_reason.as_str() {
            // TGI's native names are the last two.
            "stop" | "eos_token" | "stop_sequence" => Ok(FinishReason::Stop),
            "length" => Ok(FinishReason::Length),
            "" => Err("the endpoint does not say why the completion ended".to_owned()),
            other => Err(format!("the endpoint ended the completion for `{other}`")),
        }
    }
}

/// Both layouts of `logprobs`: `{"content": [{"token", "logprob"}]}` of chats, and `{"tokens",
/// "token_logprobs"}` of completions. llama.cpp's server uses the first for both.
fn logprob_sum(logprobs: &Value) -> Option<f64> {
    let values: Vec<&Value> = match (logprobs["content"].as_array(), logprobs["token_logprobs"].as_array()) {
        (Some(tokens), _) => tokens.iter().map(|token| &token["logprob"]).collect(),
        (None, Some(values)) => values.iter().collect(),
        (None, None) => return None,
    };
    let sum = values.into_iter().map(Value::as_f64).sum::<Option<f64>>()?;
    sum.is_finite().then_some(sum)
}

/// The words of an error object, in the shapes that servers use.
pub fn error_message(error: &Value) -> String {
    let words = [
        &error["error"]["message"],
        &error["message"],
        &error["detail"],
        &error["error"],
        error,
    ];
    let said = words.into_iter().find_map(Value::as_str);
    let text = said.map_or_else(|| error.to_string(), str::to_owned);
    shortened(text.trim())
}

#[cfg(test)]
mod tests;
