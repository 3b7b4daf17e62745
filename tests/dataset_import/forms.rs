//! The forms of other programs, each from a small literal; and the real files.

use bylaw::dataset::{
    Form, Kind, Options, detect, read_candidates, read_demonstrations, read_preferences, read_prompts,
};
use bylaw::record::{Candidates, Demonstration, Message, Preference, Prompt, Revision, UnpairedPreference};
use serde_json::{Value, json};

use super::{Files, assistant, chat, read, row, shared, user};

fn form(object: &Value) -> Form {
    let files = Files::new();
    let detected = detect(&files.write("data.jsonl", object.to_string()), &Options::default(), 10).unwrap();
    detected.forms[0].form
}

fn demonstration(object: &Value) -> (Vec<Message>, String) {
    let row: Demonstration = row(object).unwrap();
    assert_eq!(row.weight, 1.0);
    (row.prompt, row.completion)
}

fn pair(object: &Value) -> (Vec<Message>, Vec<Message>, Vec<Message>, f32, String) {
    let row: Preference = row(object).unwrap();
    (row.prompt, row.chosen, row.rejected, row.p_chosen, row.source)
}

/// Catches: a form taken for another, which imports the wrong columns without a word.
#[test]
fn every_form_is_told_from_the_others() {
    let turn = json!([{"role": "user", "content": "q"}]);
    let said = json!([{"from": "human", "value": "q"}]);
    let cases = [
        (json!({"text": "t"}), Form::Text, Kind::Demonstrations),
        (json!({"messages": turn}), Form::Messages, Kind::Demonstrations),
        (
            json!({"prompt": "q", "completion": "a"}),
            Form::PromptCompletion,
            Kind::Demonstrations,
        ),
        (
            json!({"prompt": "q", "chosen": "a", "rejected": "b"}),
            Form::PromptPair,
            Kind::Preferences,
        ),
        (
            json!({"chosen": turn, "rejected": turn}),
            Form::ImplicitPair,
            Kind::Preferences,
        ),
        (
            json!({"prompt": "q", "completion": "a", "label": true}),
            Form::Unpaired,
            Kind::UnpairedPreferences,
        ),
        // A label of another kind is no thumb.
        (
            json!({"prompt": "q", "completion": "a", "label": "safe"}),
            Form::PromptCompletion,
            Kind::Demonstrations,
        ),
        (
            json!({"chosen": "\n\nHuman: q", "rejected": "\n\nHuman: q"}),
            Form::HhRlhf,
            Kind::Preferences,
        ),
        (json!({"conversations": said}), Form::ShareGpt, Kind::Demonstrations),
        (
            json!({"conversations": said, "chosen": {}, "rejected": {}}),
            Form::ShareGptPair,
            Kind::Preferences,
        ),
        (
            json!({"conversations": said, "kto_tag": true}),
            Form::ShareGptUnpaired,
            Kind::UnpairedPreferences,
        ),
        (
            json!({"instruction": "i", "input": "", "output": "o", "text": "t"}),
            Form::Alpaca,
            Kind::Demonstrations,
        ),
        (
            json!({"instruction": "i", "chosen": "a", "rejected": "b"}),
            Form::AlpacaPair,
            Kind::Preferences,
        ),
        (
            json!({"instruction": "i", "completions": [{"response": "a"}]}),
            Form::UltraFeedback,
            Kind::Candidates,
        ),
        (
            json!({"prompt": "q", "chosen": turn, "rejected": turn, "score_chosen": 8.0, "score_rejected": 2.0}),
            Form::ScoredPair,
            Kind::Preferences,
        ),
        (
            json!({"init_prompt": "q", "init_response": "a", "revision_response": "b", "messages": turn}),
            Form::Cai,
            Kind::Revisions,
        ),
        (
            json!({"instruction": "i", "generation": "g"}),
            Form::DistilabelGeneration,
            Kind::Demonstrations,
        ),
        (
            json!({"instruction": "i", "generations": ["g"]}),
            Form::DistilabelGenerations,
            Kind::Candidates,
        ),
        (
            json!({"input": "i", "output": "o"}),
            Form::InputOutput,
            Kind::Demonstrations,
        ),
        (
            json!({"instruction": "i", "instances": []}),
            Form::SelfInstruct,
            Kind::Demonstrations,
        ),
        (
            json!({"instruction": "i", "input": "", "response1": "", "response2": "",
                   "annotator1": 1, "annotator2": 1, "annotator3": 1}),
            Form::PandaLm,
            Kind::Preferences,
        ),
        (
            json!({"prompt": "q", "completions": ["a"]}),
            Form::PromptCompletions,
            Kind::Candidates,
        ),
        (json!({"prompt": "q"}), Form::Prompt, Kind::Prompts),
        // Columns that other rows fill are null here.
        (
            json!({"messages": null, "prompt": null, "text": "t"}),
            Form::Text,
            Kind::Demonstrations,
        ),
        (
            json!({"id": "i", "messages": turn, "source": "", "tags": []}),
            Form::Own(Kind::Prompts),
            Kind::Prompts,
        ),
    ];
    for (object, expected, kind) in cases {
        assert_eq!(form(&object), expected, "{object}");
        assert_eq!(expected.kind(), kind, "{object}");
    }
}

/// Catches: a role, a system turn or an input lost on the way into a demonstration.
#[test]
fn demonstrations_of_every_form() {
    let alpaca = json!({"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"]]});
    assert_eq!(
        demonstration(&alpaca),
        (
            chat(&[
                ("system", "s"),
                ("user", "a"),
                ("assistant", "b"),
                ("user", "Add.\n1 2")
            ]),
            "3".into()
        )
    );
    let bare = json!({"instruction": "Add.", "input": "", "output": "3", "system": null, "history": null});
    assert_eq!(demonstration(&bare), (user("Add."), "3".into()));
    let sharegpt = json!({"system": "s", "conversations": [
        {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
        {"from": "user", "value": "r"}, {"role": "assistant", "content": "b"},
    ]});
    assert_eq!(
        demonstration(&sharegpt),
        (
            chat(&[("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r")]),
            "b".into()
        )
    );
    let cai = json!({"init_prompt": "q", "init_response": "bad", "revision_response": "good"});
    assert_eq!(demonstration(&cai), (user("q"), "good".into()));
    let distilabel = json!({"instruction": "q", "system_prompt": "s", "generation": "a"});
    assert_eq!(
        demonstration(&distilabel),
        (chat(&[("system", "s"), ("user", "q")]), "a".into())
    );
    let openrlhf = json!({"input": "q", "output": "a"});
    assert_eq!(demonstration(&openrlhf), (user("q"), "a".into()));
    let openrlhf =
        json!({"input": [{"role": "user", "content": "q"}], "output": [{"role": "assistant", "content": "a"}]});
    assert_eq!(demonstration(&openrlhf), (user("q"), "a".into()));
    let task = json!({"instruction": "i", "instances": [{"input": "x", "output": "y"}]});
    assert_eq!(demonstration(&task), (user("i\nx"), "y".into()));
}

/// Catches: chosen and rejected swapped, a label made up, scores overlooked.
#[test]
fn preferences_of_every_form() {
    let human = |prompt: Vec<Message>| (prompt, assistant("good"), assistant("bad"), 1.0, "human".to_owned());
    let judge = |prompt: Vec<Message>| (prompt, assistant("good"), assistant("bad"), 1.0, "judge".to_owned());
    let sharegpt = json!({
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"},
    });
    assert_eq!(pair(&sharegpt), human(user("q")));
    let alpaca = json!({"instruction": "q", "input": "x", "chosen": "good", "rejected": "bad"});
    assert_eq!(pair(&alpaca), human(user("q\nx")));
    let scored = json!({
        "prompt": "q", "score_chosen": 7.5, "score_rejected": 7, "messages": [],
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "good"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "bad"}],
    });
    assert_eq!(pair(&scored), human(user("q")));
    let ultrafeedback = json!({"instruction": "q", "completions": [
        {"response": "so-so", "overall_score": 5.0}, {"response": "bad", "overall_score": 1},
        {"response": "good", "overall_score": 8.5}, {"response": "too", "overall_score": 8.5},
    ]});
    assert_eq!(pair(&ultrafeedback), judge(user("q")));
    let distilabel = json!({"instruction": "q", "generations": ["bad", "good"], "ratings": [1, 4.5]});
    assert_eq!(pair(&distilabel), judge(user("q")));
    let cai = json!({
        "init_prompt": "q", "init_response": "bad", "revision_response": "good", "prompt": "q",
        "chosen": [{"role": "assistant", "content": "x"}], "rejected": [{"role": "assistant", "content": "y"}],
    });
    let (.., source) = pair(&cai);
    assert_eq!((pair(&cai).1, source.as_str()), (assistant("good"), "revision"));

    let votes = |a: u8, b: u8, c: u8| {
        json!({"instruction": "q", "input": "", "response1": "one", "response2": "two",
               "annotator1": a, "annotator2": b, "annotator3": c})
    };
    for (object, better, p) in [
        (votes(1, 1, 1), "one", 1.0),
        (votes(2, 1, 2), "two", 2.0 / 3.0),
        (votes(0, 1, 1), "one", 2.5 / 3.0),
    ] {
        let (_, chosen, _, p_chosen, source) = pair(&object);
        assert_eq!((chosen, source.as_str()), (assistant(better), "human"));
        assert!((p_chosen - p).abs() < 1e-6, "{p_chosen}");
    }
}

/// Catches: what distilabel does with equal ratings, and every other label that says nothing.
#[test]
fn labels_that_name_no_better_answer_are_rejects() {
    let rated = |ratings: Value| json!({"instruction": "q", "generations": ["a", "b"], "ratings": ratings});
    let scored = |chosen: Value, rejected: Value| json!({"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": chosen, "score_rejected": rejected});
    let votes = |a: Value, b: Value, c: Value| {
        json!({"instruction": "q", "input": "", "response1": "one", "response2": "two",
               "annotator1": a, "annotator2": b, "annotator3": c})
    };
    let cases = [
        (
            rated(json!([3, 3])),
            "all 2 ratings are 3: no answer is better than another",
        ),
        (rated(json!([3])), "`generations` has 2 answers, `ratings` has 1"),
        (rated(json!([3, null])), "`ratings[1]` should be a number, but is null"),
        (
            rated(json!([3, "NaN"])),
            "`ratings[1]` is NaN, expected a finite number",
        ),
        (rated(json!(null)), "`ratings` should be a list of ratings, but is null"),
        (
            json!({"instruction": "q", "generations": ["a", "a"], "ratings": [1, 2]}),
            "the best and the worst answer are the same text",
        ),
        (
            json!({"instruction": "q", "generations": ["a"], "ratings": [1]}),
            "there is one answer, rated 1, and none to compare it with",
        ),
        (
            json!({"instruction": "q", "completions": [{"response": "a"}]}),
            "`completions[0].overall_score` is missing",
        ),
        (
            scored(json!(7), json!(7.0)),
            "`score_chosen` and `score_rejected` are both 7: neither answer is preferred",
        ),
        (
            scored(json!(1), json!(7)),
            "`score_chosen` is 1, less than the 7 of `score_rejected`: the scores contradict the columns",
        ),
        (
            scored(json!("inf"), json!(7)),
            "`score_chosen` is inf, expected a finite number",
        ),
        (
            votes(json!(1), json!(2), json!(0)),
            "the 3 annotators disagree: no answer has a majority",
        ),
        (
            votes(json!(0), json!(2), json!(0)),
            "2 of the 3 annotators call it a tie: no answer is preferred",
        ),
        (
            votes(json!(1), json!(3), json!(1)),
            "`annotator2` is 3, expected 1, 2, or 0 for a tie",
        ),
        (
            json!({"init_prompt": "q", "init_response": "a", "revision_response": "a"}),
            "`revision_response` is the same text as `init_response`: the revision changed nothing",
        ),
    ];
    for (object, reason) in cases {
        assert_eq!(row::<Preference>(&object).unwrap_err(), reason, "{object}");
    }
    let own = |p: Value, margin: Value| {
        json!({"id": "i", "prompt": user("q"), "chosen": assistant("a"), "rejected": assistant("b"), "p_chosen": p,
               "margin": margin, "weight": 1.0, "source": "judge", "votes": [], "chosen_tokens": 0,
               "rejected_tokens": 0, "chosen_chars": 1, "rejected_chars": 1, "p_raw": 0.5})
    };
    assert!(row::<Preference>(&own(json!(0.7), json!(0.8))).is_ok());
    for (p, reason) in [
        (json!(0.4), "expected 0.5 to 1"),
        (json!(1.5), "expected 0.5 to 1"),
        (json!(null), "not a row"),
    ] {
        assert!(row::<Preference>(&own(p, json!(0.8))).unwrap_err().contains(reason));
    }
}

#[test]
fn unpaired_preferences_of_every_form() {
    let trl: UnpairedPreference = row(&json!({"prompt": "q", "completion": "a", "label": false})).unwrap();
    assert_eq!(
        (&trl.prompt, &trl.completion, trl.label),
        (&user("q"), &assistant("a"), false)
    );
    let messages = json!({"prompt": user("q"), "completion": assistant("a"), "label": 0});
    assert_eq!(row::<UnpairedPreference>(&messages).unwrap(), trl);
    let sharegpt = json!({"kto_tag": false, "conversations": [
        {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"},
    ]});
    assert_eq!(row::<UnpairedPreference>(&sharegpt).unwrap(), trl);
    for (label, reason) in [
        (json!(2), "`label` is 2, expected true or false"),
        (json!("yes"), "`label` is \"yes\", expected true or false"),
        (json!(null), "`label` should be true or false, but is null"),
    ] {
        let object = json!({"prompt": "q", "completion": "a", "label": label});
        assert_eq!(row::<UnpairedPreference>(&object).unwrap_err(), reason);
    }
    // Nothing should learn an answer with a thumb down.
    let bad = json!({"prompt": "q", "completion": "a", "label": false});
    assert!(row::<Demonstration>(&bad).unwrap_err().contains("a bad one"));
}

#[test]
fn revisions_and_candidates_of_other_programs() {
    let cai = json!({"init_prompt": "q", "init_response": "bad", "critic_prompt": "c?", "critic_response": "c",
                     "revision_prompt": "r?", "revision_response": "good"});
    let revision: Revision = row(&cai).unwrap();
    assert_eq!((&revision.initial[..], &revision.final_answer[..]), ("bad", "good"));
    assert_eq!(revision.messages, chat(&[("user", "q"), ("assistant", "good")]));
    let [round] = &revision.rounds[..] else {
        panic!("one round")
    };
    assert_eq!(
        (
            &round.critique_request[..],
            &round.critique[..],
            &round.revision_request[..],
            &round.revision[..],
            round.changed
        ),
        ("c?", "c", "r?", "good", true)
    );
    let texts = |object: &Value| -> Vec<String> {
        let row: Candidates = row(object).unwrap();
        row.completions.into_iter().map(|completion| completion.text).collect()
    };
    // Candidates need no ratings.
    assert_eq!(
        texts(&json!({"instruction": "q", "generations": ["a", "b"], "ratings": null})),
        ["a", "b"]
    );
    let ultrafeedback = json!({"instruction": "q", "completions": [{"response": "a"}, {"response": "b"}]});
    assert_eq!(texts(&ultrafeedback), ["a", "b"]);
}

#[test]
fn rows_of_other_forms_say_what_is_wrong() {
    let demonstrations = [
        (
            json!({"instruction": "i", "instances": [{}, {}]}),
            "`instances` holds 2, and a row is made of one: write each to a row of its own",
        ),
        (json!({"instruction": "i", "instances": []}), "`instances` is empty"),
        (
            json!({"instruction": "i", "instances": [{"input": ""}]}),
            "`instances[0]`: `output` is missing",
        ),
        (
            json!({"conversations": [{"from": "tool", "value": "x"}]}),
            "`conversations[0]` is from \"tool\", expected human, gpt or system; a mapping file can rename roles",
        ),
        (
            json!({"conversations": [{"from": "human", "value": "x"}]}),
            "`conversations` does not end with an assistant turn",
        ),
        (
            json!({"conversations": [{"from": "human"}]}),
            "`conversations[0]`: `value` is missing",
        ),
        (
            json!({"instruction": "i", "output": "o", "history": [["a"]]}),
            "`history[0]` should be a question and its answer, but is a list",
        ),
        (
            json!({"instruction": 7, "output": "o"}),
            "`instruction` should be a string, but is a number",
        ),
    ];
    for (object, reason) in demonstrations {
        assert_eq!(row::<Demonstration>(&object).unwrap_err(), reason);
    }
    // What the row is taken for helps to see the wrong command.
    let reason = row::<Preference>(&json!({"conversations": []})).unwrap_err();
    assert!(
        reason.ends_with("found ShareGPT conversations: conversations"),
        "{reason}"
    );
}

/// Catches: a demonstration's prompt that differs from the prompt read from the same row.
#[test]
fn prompts_are_what_the_rows_ask() {
    for object in [
        json!({"instruction": "i", "input": "x", "output": "o"}),
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
        json!({"init_prompt": "q", "init_response": "bad", "revision_response": "good"}),
        json!({"instruction": "q", "system_prompt": "s", "generation": "a"}),
        json!({"instruction": "i", "instances": [{"input": "x", "output": "y"}]}),
        json!({"input": "q", "output": "a"}),
    ] {
        let prompt: Prompt = row(&object).unwrap();
        assert_eq!(prompt.messages, demonstration(&object).0, "{object}");
    }
}

/// Catches: ids, weights and soft labels that an export kept and an import made anew.
#[test]
fn what_an_export_keeps_beside_a_form_comes_back() {
    let object = json!({"messages": chat(&[("user", "q"), ("assistant", "a")]), "bylaw_id": "mine", "weight": 0.25});
    let kept: Demonstration = row(&object).unwrap();
    assert_eq!((&kept.id[..], kept.weight), ("mine", 0.25));
    // Without our id the other columns are another program's.
    let other: Demonstration = row(&json!({"messages": object["messages"], "id": "mine", "weight": 0.25})).unwrap();
    assert!(other.id != "mine" && other.weight == 1.0);
    let object = json!({"prompt": "q", "bylaw_id": "mine", "source": "s", "tags": ["t"]});
    let kept: Prompt = row(&object).unwrap();
    assert_eq!((&kept.id[..], &kept.source[..]), ("mine", "s"));
    let object = json!({
        "conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"}, "bylaw_id": "mine", "p_chosen": 0.75, "weight": 0.5,
        "source": "judge", "votes": [], "chosen_tokens": 1, "rejected_tokens": 2, "chosen_chars": 1,
        "rejected_chars": 1, "p_raw": 0.25,
    });
    let kept: Preference = row(&object).unwrap();
    assert_eq!(
        (&kept.id[..], kept.p_chosen, kept.p_raw, kept.rejected_tokens),
        ("mine", 0.75, 0.25, 2)
    );
    assert_eq!((&kept.prompt, &kept.chosen), (&user("q"), &assistant("a")));
    assert!((kept.margin - 3_f32.ln()).abs() < 1e-6);
    let mut wrong = object.clone();
    wrong["p_chosen"] = json!(0.25);
    assert_eq!(
        row::<Preference>(&wrong).unwrap_err(),
        "`p_chosen` is 0.25, expected 0.5 to 1"
    );
    wrong["p_chosen"] = json!("high");
    let reason = row::<Preference>(&wrong).unwrap_err();
    assert!(
        reason.starts_with("not what an export carries of preferences"),
        "{reason}"
    );
}

/// Catches: rows of the real file dropped or guessed; counted apart from the program.
#[test]
fn real_files_are_read_whole() {
    if let Some(path) = shared("hh-rlhf/harmless-test.dev.jsonl") {
        let found = read::<Preference>(&path);
        assert_eq!((found.rows.len(), found.rejects.len()), (1468, 8));
        assert_eq!(found.stream.detected().forms[0].form, Form::HhRlhf);
    }
    if let Some(path) = shared("self-instruct/seed_tasks.jsonl") {
        let found = read::<Demonstration>(&path);
        assert_eq!((found.rows.len(), found.rejects.len()), (175, 0));
        assert_eq!(found.stream.detected().unused, ["id", "name", "is_classification"]);
        assert_eq!(read_prompts(&path).unwrap().rows.len(), 175);
    }
    if let Some(path) = shared("pandalm/testset-v1.json") {
        let found = read::<Preference>(&path);
        assert_eq!(found.rows.len() + found.rejects.len(), 999);
        let count = |part: &str| found.reasons().iter().filter(|reason| reason.contains(part)).count();
        assert_eq!(count("should be a string, but is a boolean"), 6);
        println!(
            "{} ties, {} without a majority, {} of one text",
            count("call it a tie"),
            count("disagree"),
            count("same text")
        );
        assert_eq!(
            6 + count("call it a tie") + count("disagree") + count("same text"),
            found.rejects.len()
        );
        assert_eq!(read_candidates(&path).unwrap().rows.len(), 993);
    }
    if let Some(path) = shared("pandalm/gpt-3.5-turbo-testset-v1.json") {
        // Verdicts without their texts are no data.
        let error = read_preferences(&path).unwrap_err().to_string();
        assert!(
            error.contains("none of its 999 rows can be read as preferences"),
            "{error}"
        );
    }
    if let Some(path) = shared("xstest/xstest_prompts.csv") {
        assert_eq!(read_prompts(&path).unwrap().rows.len(), 450);
    }
    if let Some(path) = shared("xstest/xstest_v2_completions_gpt4.csv") {
        assert_eq!(read_demonstrations(&path).unwrap().rows.len(), 450);
    }
}
