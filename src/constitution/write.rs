//! TOML texts of constitutions and few-shot examples, as a person would write them.
//!
//! What is written here is read by [`super::document`] and [`super::few_shots`] as what it was. Knows nothing of files
//! and of where the principles come from.

use std::path::Path;

use super::Principle;
use super::few_shots::{CritiqueExample, JudgeExample};
use super::schema;
use crate::record::Message;

/// The variable that stands for two opening braces, which would begin a placeholder.
const BRACES: &str = "braces";
const OPEN: &str = "{{";

/// A constitution to be written.
#[derive(Debug, Clone)]
pub struct Written<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub description: Option<&'a str>,
    /// Keys of `[few_shots]` and the files that they name.
    pub few_shots: &'a [(&'a str, &'a Path)],
    pub principles: &'a [Principle],
}

/// The text of a constitution file. Texts of principles stand as models read them: braces that would begin a
/// placeholder are written with a variable.
pub fn constitution(written: &Written<'_>) -> String {
    let mut text = format!("#:schema {}\n", schema::ID);
    pair(&mut text, "name", written.name);
    pair(&mut text, "version", written.version);
    if let Some(description) = written.description {
        pair(&mut text, "description", description);
    }
    if !written.few_shots.is_empty() {
        text.push_str("\n[few_shots]\n");
        for (key, file) in written.few_shots {
            pair(&mut text, key, &file.to_string_lossy());
        }
    }
    let texts = |principle: &Principle| [&principle.critique, &principle.revise, &principle.judge].map(Clone::clone);
    let mut all = written.principles.iter().flat_map(texts).flatten();
    if all.any(|text| text.contains(OPEN)) {
        text.push_str("\n[variables]\n# Two braces that begin no variable.\n");
        pair(&mut text, BRACES, OPEN);
    }
    for principle in written.principles {
        push_principle(&mut text, principle);
    }
    text
}

fn push_principle(text: &mut String, principle: &Principle) {
    text.push_str("\n[[principle]]\n");
    pair(text, "id", &principle.id);
    if let Some(rationale) = &principle.rationale {
        pair(text, "rationale", rationale);
    }
    let requests = [
        ("critique", &principle.critique),
        ("revise", &principle.revise),
        ("judge", &principle.judge),
    ];
    for (key, request) in requests {
        if let Some(request) = request {
            pair(text, key, &request.replace(OPEN, &format!("{{{{ {BRACES} }}}}")));
        }
    }
    if principle.weight != 1.0 {
        // With a point or an exponent, as a float of TOML.
        text.push_str(&format!("weight = {:?}\n", principle.weight));
    }
    if !principle.tags.is_empty() {
        let tags: Vec<String> = principle.tags.iter().map(|tag| quoted_line(tag)).collect();
        text.push_str(&format!("tags = [{}]\n", tags.join(", ")));
    }
}

/// The text of a file of answers with their critiques and revisions.
pub fn critique_examples(examples: &[CritiqueExample]) -> String {
    let examples = examples.iter().map(|example| {
        let mut text = "[[example]]\n".to_owned();
        conversation(&mut text, &example.messages);
        pair(&mut text, "answer", &example.answer);
        pair(&mut text, "critique_request", &example.critique_request);
        pair(&mut text, "critique", &example.critique);
        pair(&mut text, "revision_request", &example.revision_request);
        pair(&mut text, "revision", &example.revision);
        text
    });
    examples.collect::<Vec<_>>().join("\n")
}

/// The text of a file of comparisons.
pub fn judge_examples(examples: &[JudgeExample]) -> String {
    let examples = examples.iter().map(|example| {
        let mut text = "[[example]]\n".to_owned();
        conversation(&mut text, &example.messages);
        pair(&mut text, "question", &example.question);
        pair(&mut text, "answer_a", &example.answer_a);
        pair(&mut text, "answer_b", &example.answer_b);
        if !example.reasoning.is_empty() {
            pair(&mut text, "reasoning", &example.reasoning);
        }
        pair(&mut text, "answer", &example.answer.letter().to_string());
        text
    });
    examples.collect::<Vec<_>>().join("\n")
}

fn conversation(text: &mut String, messages: &[Message]) {
    if let [only] = messages
        && only.role == "user"
    {
        return pair(text, "prompt", &only.content);
    }
    text.push_str("messages = [\n");
    for Message { role, content } in messages {
        text.push_str(&format!(
            "    {{ role = {}, content = {} }},\n",
            quoted_line(role),
            quoted_line(content)
        ));
    }
    text.push_str("]\n");
}

fn pair(text: &mut String, key: &str, value: &str) {
    text.push_str(&format!("{key} = {}\n", quoted(value)));
}

/// A text on one line, or between triple quotes where it has several lines.
fn quoted(text: &str) -> String {
    if text.contains('\n') {
        quoted_block(text)
    } else {
        quoted_line(text)
    }
}

fn quoted_line(text: &str) -> String {
    let escaped: String = text.chars().map(escaped).collect();
    format!("\"{escaped}\"")
}

fn quoted_block(text: &str) -> String {
    let mut block = String::from("\"\"\"\n");
    let mut quotes = 0;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        quotes = if char == '"' { quotes + 1 } else { 0 };
        match (char, chars.peek()) {
            // The third of a row and the last of all would end the text.
            ('"', next) if quotes % 3 != 0 && next.is_some() => block.push('"'),
            ('\n', _) => block.push('\n'),
            // Editors like to remove what stands at the end of a line.
            (' ', Some('\n')) => block.push_str("\\u0020"),
            _ => block.push_str(&escaped(char)),
        }
    }
    block.push_str("\"\"\"");
    block
}

/// A character as a basic string of TOML has it.
fn escaped(char: char) -> String {
    match char {
        '"' => "\\\"".into(),
        '\\' => "\\\\".into(),
        '\n' => "\\n".into(),
        '\r' => "\\r".into(),
        '\t' => "\\t".into(),
        control if control.is_control() => format!("\\u{:04X}", u32::from(control)),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::exchange::hostile;
    use super::super::few_shots::{Answer, FewShots};
    use super::*;
    use crate::constitution::Constitution;

    fn read(principles: &[Principle]) -> Vec<Principle> {
        let written = Written {
            name: "n",
            version: "1",
            description: Some("d"),
            few_shots: &[],
            principles,
        };
        let text = constitution(&written);
        match Constitution::parse(&text, "t.toml") {
            Ok(read) => read.principles,
            Err(error) => panic!("{error}\n{text}"),
        }
    }

    /// Catches: a layout that nobody would write, lines that are broken or escaped without need.
    #[test]
    fn files_read_well() {
        let principle = Principle {
            id: "calm".into(),
            rationale: None,
            critique: Some("Where does it say \"now\"?".into()),
            revise: Some("First line,\nsecond \"line\" and {{ none }}.".into()),
            judge: None,
            weight: 0.5,
            tags: vec!["tone".into()],
        };
        let written = Written {
            name: "n",
            version: "1.0.0",
            description: None,
            few_shots: &[("judge", Path::new("n.judge.toml"))],
            principles: &[principle],
        };
        let expected = "name = \"n\"\nversion = \"1.0.0\"\n\n[few_shots]\njudge = \"n.judge.toml\"\n\n[variables]\n# Two \
                        braces that begin no variable.\nbraces = \"{{\"\n\n[[principle]]\nid = \"calm\"\ncritique = \
                        \"Where does it say \\\"now\\\"?\"\nrevise = \"\"\"\nFirst line,\nsecond \"line\" and {{ braces \
                        }} none }}.\"\"\"\nweight = 0.5\ntags = [\"tone\"]\n";
        let text = constitution(&written);
        assert_eq!(text.split_once('\n').unwrap().1, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        /// Catches: a quotation mark, backslash, control character or brace that ends or changes a text.
        #[test]
        fn principles_are_read_as_they_were(
            critique in hostile(),
            revise in hostile(),
            judge in proptest::option::of(hostile()),
            rationale in proptest::option::of(hostile()),
            tags in proptest::collection::vec(hostile(), 0..3),
            weight in prop_oneof![Just(1.0), 1e-6..1e6_f64],
        ) {
            let principle = Principle {
                id: "a".into(),
                rationale,
                critique: Some(critique),
                revise: Some(revise),
                judge,
                weight,
                tags,
            };
            prop_assert_eq!(read(std::slice::from_ref(&principle)), vec![principle]);
        }

        /// Catches: the same in examples, where turns stand on one line.
        #[test]
        fn examples_are_read_as_they_were(texts in proptest::collection::vec(hostile(), 6), several in any::<bool>()) {
            let mut messages = vec![Message::user(&texts[0])];
            if several {
                messages.insert(0, Message { role: "assistant".into(), content: texts[1].clone() });
            }
            let critique = CritiqueExample {
                messages: messages.clone(),
                answer: texts[1].clone(),
                critique_request: texts[2].clone(),
                critique: texts[3].clone(),
                revision_request: texts[4].clone(),
                revision: texts[5].clone(),
            };
            let all = [critique.clone(), critique];
            let read = FewShots::<CritiqueExample>::parse(&critique_examples(&all), "t.toml").unwrap();
            prop_assert_eq!(read.examples(), &all[..]);
            let judge = JudgeExample {
                messages,
                question: texts[1].clone(),
                answer_a: texts[2].clone(),
                answer_b: texts[3].clone(),
                answer: Answer::B,
                reasoning: texts[4].clone(),
            };
            let judge = [judge];
            let read = FewShots::<JudgeExample>::parse(&judge_examples(&judge), "t.toml").unwrap();
            prop_assert_eq!(read.examples(), &judge[..]);
        }
    }
}
