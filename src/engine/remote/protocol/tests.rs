//! Bodies as servers want them, answers as servers give them.

use super::*;
use crate::record::Message;
use crate::seed::Seed;

fn request(prompt: Request, top_k: usize) -> GenerateRequest {
    GenerateRequest {
        prompt,
        sampling: Sampling {
            temperature: 0.7,
            top_k,
            top_p: 0.9,
            max_new_tokens: 32,
            min_p: 0.0,
            repetition_penalty: 1.0,
        },
        stop: vec!["\n\nHuman:".into()],
        seed: Seed::new(1),
    }
}

fn body(question: Question) -> Value {
    Value::Object(question.body)
}

/// Catches: a field that is missing, misnamed or not the row's, and extensions that nobody asked for.
#[test]
fn a_completion_is_asked_for() {
    let asked = request(Request::Text("Hi".into()), 0);
    let question = Question::generation("m", &asked, true);
    assert_eq!(question.path, "completions");
    let seed = question.body["seed"].as_u64().unwrap();
    assert!(seed < 1 << 63);
    assert_eq!(
        body(question),
        json!({
            "model": "m", "prompt": "Hi", "temperature": 0.7, "top_p": 0.9, "max_tokens": 32, "seed": seed,
            "n": 1, "stop": ["\n\nHuman:"], "logprobs": 1,
        })
    );
    let other = GenerateRequest {
        seed: Seed::new(2),
        ..asked
    };
    assert_ne!(Question::generation("m", &other, true).body["seed"], seed);
}

/// Catches: a prefix that is lost or becomes a turn of its own, and `top_k` that is not passed on.
#[test]
fn a_chat_is_asked_for() {
    let chat = |prefix: &str| Request::Chat {
        messages: vec![Message::user("Hi")],
        prefix: prefix.into(),
    };
    let question = Question::generation("m", &request(chat(""), 5), true);
    assert_eq!(question.path, "chat/completions");
    assert!(!question.continues());
    let sent = body(question.without_logprobs());
    assert_eq!(sent["messages"], json!([{ "role": "user", "content": "Hi" }]));
    assert_eq!((&sent["top_k"], sent.get("logprobs")), (&json!(5), None));

    let question = Question::scoring("m", &chat("The answer is: ("), TOP);
    assert!(question.continues());
    assert_eq!(
        body(question),
        json!({
            "model": "m",
            "continue_final_message": true,
            "add_generation_prompt": false,
            "messages": [{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "The answer is: (" }],
            "temperature": 1.0, "top_p": 1.0, "max_tokens": 1, "seed": 0, "n": 1,
            "logprobs": true, "top_logprobs": 20,
        })
    );
}

/// Catches: a layout that is not understood, a missing log-probability taken for 0.
#[test]
fn answers_are_read() {
    let chat = json!({
        "choices": [{
            "message": { "role": "assistant", "content": " Run. " }, "finish_reason": "stop",
            "logprobs": { "content": [{ "token": " Run", "logprob": -1.5, "top_logprobs": [] }, { "logprob": -0.25 }] },
        }],
        "usage": { "prompt_tokens": 7, "completion_tokens": 2 },
    });
    let answer = Answer::read(&chat).unwrap();
    assert_eq!((answer.text.as_str(), answer.logprob), ("Run.", Some(-1.75)));
    assert_eq!((answer.prompt_tokens, answer.completion_tokens), (Some(7), Some(2)));
    assert_eq!(answer.finish(), Ok(FinishReason::Stop));

    let plain = json!({
        "choices": [{ "text": "Run", "finish_reason": "length",
                      "logprobs": { "token_logprobs": [-1.0, -2.0], "top_logprobs": null } }],
    });
    let answer = Answer::read(&plain).unwrap();
    assert_eq!((answer.logprob, answer.prompt_tokens), (Some(-3.0), None));
    assert_eq!(answer.finish(), Ok(FinishReason::Length));

    let bare =
        json!({ "choices": [{ "message": { "content": null }, "finish_reason": "tool_calls", "logprobs": null }] });
    let answer = Answer::read(&bare).unwrap();
    assert_eq!((answer.text.as_str(), answer.logprob), ("", None));
    assert!(answer.finish().unwrap_err().contains("tool_calls"));
    let gap = json!({ "choices": [{ "text": "a", "logprobs": { "token_logprobs": [null, -1.0] } }] });
    let answer = Answer::read(&gap).unwrap();
    assert_eq!(answer.logprob, None);
    assert!(answer.finish().is_err());
}

/// Catches: an error with status 200 taken for an empty text.
#[test]
fn what_is_no_answer_is_named() {
    let error = Answer::read(&json!({ "error": { "message": "out of memory" } })).unwrap_err();
    assert!(error.contains("out of memory"), "{error}");
    for wrong in [
        json!({}),
        json!([]),
        json!({ "choices": [] }),
        json!({ "choices": [{ "text": 1 }] }),
    ] {
        assert!(Answer::read(&wrong).unwrap_err().contains("no choice"), "{wrong}");
    }
    for (body, says) in [
        (json!({ "error": { "message": "too long" } }), "too long"),
        (json!({ "detail": "no such field" }), "no such field"),
        (json!({ "error": "model gone", "error_type": "x" }), "model gone"),
        (json!({ "object": "error", "message": "bad" }), "bad"),
        (json!({ "detail": [{ "msg": "field" }] }), "field"),
    ] {
        assert!(error_message(&body).contains(says), "{body}");
    }
    assert!(shortened(&"é".repeat(1000)).chars().count() < 200);
}

/// Catches: settings beyond OpenAI's that are dropped, so that another distribution is drawn from.
#[test]
fn extensions_are_passed_on() {
    let mut request = request(Request::Text("Hi".into()), 0);
    request.sampling.min_p = 0.05;
    request.sampling.repetition_penalty = 1.1;
    let sent = body(Question::generation("m", &request, false));
    assert_eq!(
        (&sent["min_p"], &sent["repetition_penalty"]),
        (&json!(0.05), &json!(1.1))
    );
}
