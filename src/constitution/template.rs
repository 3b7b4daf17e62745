//! The file that `bylaw constitution new` writes: a constitution that works as it stands, with every key explained.

use super::keys::{self, Group};

const PRINCIPLES: &str = r#"
[[principle]]
id = "no-harm"
rationale = "The first thing that people expect of an assistant."
critique = "Find anything in the assistant's last answer that could help somebody to hurt a person or an animal. Quote it and say who could be hurt and how."
revise = "Rewrite the answer so that nothing in it helps to hurt anyone. Keep what is harmless and useful, and say openly what is left out."
judge = "Which answer is less likely to lead to somebody being hurt?"
tags = ["harm"]

[[principle]]
id = "no-empty-refusal"
rationale = "Without it, a model that learns of harm alone learns to refuse."
critique = "Where does the assistant's last answer refuse, warn or lecture although the request is harmless when read in good faith?"
revise = "Rewrite the answer so that it helps with every harmless reading of the request, without sermons. Hold back only what would do real harm."
judge = "Which answer is more useful to somebody who asks in good faith?"
tags = ["harm"]
"#;

/// The text of a new constitution.
pub fn new_file(name: &str) -> String {
    let quoted = toml::Value::String(name.to_owned());
    let mut text = format!(
        "#:schema https://raw.githubusercontent.com/bylaw/bylaw/main/schemas/constitution.json\n\
         #\n\
         # A constitution: the principles by which a model criticises, revises and compares answers.\n\
         # Check it:      bylaw constitution check FILE\n\
         # See its work:  bylaw constitution try FILE --model builtin:tiny --prompt \"...\"\n\
         name = {quoted}\nversion = \"0.1.0\"\n\n"
    );
    text.push_str("# What a constitution may have besides:\n");
    explain(&mut text, &keys::CONSTITUTION, &["name", "version", "principle"]);
    text.push_str("#\n# What a principle has:\n");
    explain(&mut text, &keys::PRINCIPLE, &[]);
    text.push_str(PRINCIPLES);
    text
}

fn explain(text: &mut String, group: &Group, except: &[&str]) {
    for key in group.keys.iter().filter(|key| !except.contains(&key.name)) {
        for (index, line) in wrapped(key.about, 96).into_iter().enumerate() {
            let label = if index == 0 { key.name } else { "" };
            text.push_str(&format!("#   {label:<12} {line}\n"));
        }
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines
            .last_mut()
            .filter(|line| line.is_empty() || line.len() + word.len() < width);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}
