//! `chat`: a conversation with a model, which can be told to judge itself.
//!
//! On a terminal it is a dialogue; in a pipe every line of stdin is a turn and the answers are stdout.
//! What cannot be answered is told and forgotten on a terminal, and ends a pipe with an error.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use serde_json::json;

use super::output;
use super::session::Session;
use super::stages::generate::Asked;
use super::stages::prompting::Prompting;
use crate::cli::variables::Variables;
use crate::constitution::{Constitution, Principle};
use crate::engine::remote::RemoteConfig;
use crate::engine::{GenerateRequest, Generation, Refusal, Sampling};
use crate::error::{Error, Result, nearest};
use crate::interrupt;
use crate::prompt::{Criticism, Request, Style};
use crate::record::{FinishReason, Message};
use crate::seed::Seed;

const HELP: &str = "\
/critique [ID]  the model criticises its last answer under a principle (drawn, or the one named) and
                revises it; the conversation goes on from the revision, and /critique again is a
                second round
/principles     the principles that /critique draws from
/system [TEXT]  set the system message, or take it away; the turns stay
/reset          begin anew; the system message stays
/help           this
/quit           end; so does Ctrl-D
A turn that begins with a slash is typed with two: //like this.";

#[derive(Debug, Args)]
#[command(after_long_help = format!("\
On a terminal, type your turns. In a pipe, every line of stdin is a turn and answers are stdout. The
commands below work in both; --json prints the whole conversation as one document at the end.

{HELP}

    bylaw chat --model builtin:tiny --constitution builtin:proving-ground
    printf 'How do I bake bread?\\n/critique\\n' | bylaw chat --model hf:org/name --temperature 0"))]
pub struct Chat {
    /// The model: a directory in Hugging Face layout, hf:org/name, builtin:tiny, or an endpoint,
    /// http://host/v1#name.
    #[arg(long)]
    model: String,
    /// A system message to begin with.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// The principles of /critique: a TOML file, or builtin:NAME.
    #[arg(long, default_value = "builtin:harmless")]
    constitution: String,
    #[command(flatten)]
    variables: Variables,
    #[command(flatten)]
    sampling: Sampling,
    /// Tokens of a critique at most.
    #[arg(long, default_value_t = 256, value_name = "N")]
    critique_max_new_tokens: usize,
    #[command(flatten)]
    prompting: Prompting,
    #[command(flatten, next_help_heading = "Endpoints")]
    remote: RemoteConfig,
}

/// A line as it was meant.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Nothing,
    Turn(&'a str),
    Critique(Option<&'a str>),
    Principles,
    System(&'a str),
    Reset,
    Help,
    Quit,
    Unknown(&'a str),
}

const COMMANDS: [&str; 6] = ["/critique", "/principles", "/system", "/reset", "/help", "/quit"];

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Self {
        let line = line.trim();
        if let Some(turn) = line.strip_prefix("//") {
            return Self::Turn(&line[line.len() - turn.len() - 1..]);
        }
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "" => Self::Nothing,
            "/critique" => Self::Critique(Some(rest).filter(|id| !id.is_empty())),
            "/principles" => Self::Principles,
            "/system" => Self::System(rest),
            "/reset" => Self::Reset,
            "/help" => Self::Help,
            "/quit" | "/exit" => Self::Quit,
            _ if command.starts_with('/') => Self::Unknown(command),
            _ => Self::Turn(line),
        }
    }
}

pub fn run(session: &Session, args: &Chat) -> Result<()> {
    let constitution = args.variables.resolve(&args.constitution)?;
    let asked = Asked::load(session, &args.model, &args.prompting, false, &args.remote)?;
    let terminal = std::io::stdin().is_terminal();
    let mut conversation = Conversation {
        session,
        args,
        asked,
        constitution,
        terminal,
        system: args.system.clone(),
        turns: Vec::new(),
        critiques: Vec::new(),
        drawn: 0,
    };
    if terminal {
        let style = match conversation.asked.templates.style() {
            Style::Chat => "through its chat template",
            Style::Transcript | Style::Raw => "in transcripts",
        };
        conversation.note(&format!("{}, spoken to {style}. /help lists the commands.", args.model));
    }
    conversation.talk()?;
    conversation.asked.tell(session);
    if session.json {
        output::json(&json!({
            "model": args.model,
            "messages": conversation.messages(),
            "critiques": conversation.critiques,
        }))?;
    }
    Ok(())
}

struct Conversation<'a> {
    session: &'a Session,
    args: &'a Chat,
    asked: Asked,
    constitution: Constitution,
    terminal: bool,
    system: Option<String>,
    /// What was said, by turns.
    turns: Vec<Message>,
    /// What `/critique` came to, for `--json`.
    critiques: Vec<serde_json::Value>,
    /// Completions so far: each has its own seed.
    drawn: u64,
}

impl Conversation<'_> {
    fn talk(&mut self) -> Result<()> {
        let mut lines = std::io::stdin().lock();
        loop {
            interrupt::check()?;
            if self.terminal {
                eprint!("> ");
            }
            let mut line = String::new();
            let read = lines.read_line(&mut line);
            let read = read.map_err(|error| Error::input("stdin is not text in UTF-8").because(error))?;
            if read == 0 {
                return Ok(());
            }
            match self.take(Line::read(&line)) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) if self.terminal => drop(output::report_error(&error)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Does what a line asks; false when it ends the conversation.
    fn take(&mut self, line: Line<'_>) -> Result<bool> {
        match line {
            Line::Nothing => {}
            Line::Turn(text) => self.answer(text)?,
            Line::Critique(id) => self.critique(id)?,
            Line::Principles => {
                let ids = self
                    .constitution
                    .principles
                    .iter()
                    .map(|principle| principle.id.as_str());
                let ids: Vec<&str> = ids.collect();
                self.note(&ids.join("\n"));
            }
            Line::System(text) => self.system = Some(text.to_owned()).filter(|text| !text.is_empty()),
            Line::Reset => self.turns.clear(),
            Line::Help => self.note(HELP),
            Line::Quit => return Ok(false),
            Line::Unknown(command) => {
                let help = match nearest(command, COMMANDS) {
                    Some(near) => format!("did you mean {near}? /help lists the commands"),
                    None => "/help lists the commands; a turn that begins with a slash is typed with two".to_owned(),
                };
                return Err(Error::config(format!("there is no command {command}")).help(help));
            }
        }
        Ok(true)
    }

    fn note(&self, text: &str) {
        if !self.session.quiet {
            output::line(text);
        }
    }

    fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(Message::system);
        system.chain(self.turns.iter().cloned()).collect()
    }

    fn answer(&mut self, text: &str) -> Result<()> {
        self.turns.push(Message::user(text));
        let request = self.asked.templates.respond(&self.messages());
        let args = self.args;
        match request.and_then(|request| self.draw("the answer", "", request, &args.sampling)) {
            Ok(answer) => {
                self.turns.push(Message::assistant(answer.text));
                Ok(())
            }
            Err(error) => {
                // The turn was not said: the next one is not about it.
                self.turns.pop();
                Err(error)
            }
        }
    }

    /// One round of critique and revision of the last answer, as the stage `revise` does it.
    fn critique(&mut self, id: Option<&str>) -> Result<()> {
        let Some(answer) = self.turns.last().map(|last| last.content.clone()) else {
            return Err(Error::config("there is no answer to criticise yet").help("ask something first"));
        };
        let principle = self.principle(id)?;
        let (Some(critique_request), Some(revise)) = (&principle.critique, &principle.revise) else {
            return Err(
                Error::config(format!("the principle `{}` has no critique request", principle.id))
                    .help("name another: /principles lists them"),
            );
        };
        self.note(&format!("{}: {}", principle.id, critique_request.trim()));
        let mut messages = self.messages();
        messages.pop();
        let criticism = Criticism {
            messages: &messages,
            answer: &answer,
            critique_request,
        };
        let sampling = Sampling {
            max_new_tokens: self.args.critique_max_new_tokens,
            ..self.args.sampling.clone()
        };
        let request = self.asked.templates.critique(criticism)?;
        let label = format!("Critique ({}):", principle.id);
        let critique = self.draw("the critique", &label, request, &sampling)?;
        let request = self.asked.templates.revision(criticism, &critique.text, revise)?;
        let revision = self.draw("the revision", "Revision:", request, &self.args.sampling)?;
        self.critiques.push(json!({
            "principle_id": principle.id,
            "critique_request": critique_request,
            "critique": critique.text,
            "revision_request": revise,
            "answer": answer,
            "revision": revision.text,
        }));
        if let Some(last) = self.turns.last_mut() {
            last.content = revision.text;
        }
        Ok(())
    }

    /// The principle named, or one drawn.
    fn principle(&mut self, id: Option<&str>) -> Result<Principle> {
        let Some(id) = id else {
            let seed = self.seed().child("principle");
            return self.constitution.draw_critique(seed).cloned();
        };
        let ids = self
            .constitution
            .principles
            .iter()
            .map(|principle| principle.id.as_str());
        self.constitution.principle(id).cloned().ok_or_else(|| {
            let help = match nearest(id, ids) {
                Some(near) => format!("did you mean `{near}`? /principles lists them"),
                None => "/principles lists them; --constitution gives others".to_owned(),
            };
            Error::config(format!(
                "the constitution `{}` has no principle `{id}`",
                self.constitution.name
            ))
            .help(help)
        })
    }

    /// A seed of its own for everything that is drawn.
    fn seed(&mut self) -> Seed {
        self.drawn += 1;
        self.session.stage_seed("chat").index(self.drawn)
    }

    /// Draws a completion and prints it while it grows, below its label.
    fn draw(&mut self, what: &str, label: &str, prompt: Request, sampling: &Sampling) -> Result<Generation> {
        let request = GenerateRequest {
            prompt,
            sampling: sampling.clone(),
            stop: self.asked.templates.stop_strings(),
            seed: self.seed(),
        };
        let printer = Printer::new(!self.session.json);
        if !label.is_empty() {
            printer.write(&format!("{label}\n"));
        }
        let drawn = self.asked.engine.stream(&request, &|text| printer.grow(text));
        let generation = match drawn {
            Ok(Ok(generation)) => generation,
            Ok(Err(Refusal(reason))) => {
                printer.abandon()?;
                return Err(Error::input(format!("{what} cannot be drawn: {reason}"))
                    .help("if the conversation has become too long, /reset begins anew"));
            }
            Err(error) => {
                printer.abandon()?;
                return Err(error);
            }
        };
        printer.end(&generation.text)?;
        if generation.finish_reason == FinishReason::Length {
            self.note(&format!(
                "({what} was cut off after {} tokens: --max-new-tokens, or the end of the model's context)",
                generation.tokens
            ));
        }
        Ok(generation)
    }
}

/// Prints a text that grows.
struct Printer {
    on: bool,
    state: Mutex<Printed>,
}

#[derive(Default)]
struct Printed {
    text: String,
    failed: Option<std::io::Error>,
}

impl Printer {
    fn new(on: bool) -> Self {
        Self {
            on,
            state: Mutex::default(),
        }
    }

    fn write(&self, text: &str) {
        // A panic elsewhere leaves the text usable.
        write(
            self.on,
            &mut self.state.lock().unwrap_or_else(PoisonError::into_inner),
            text,
        );
    }

    /// Prints what is new of `text`.
    fn grow(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(new) = text.strip_prefix(state.text.as_str()) {
            write(self.on, &mut state, new);
            text.clone_into(&mut state.text);
        }
    }

    /// Nothing more comes.
    fn abandon(self) -> Result<()> {
        let begun = self.state.lock().map_or(String::new(), |state| state.text.clone());
        match begun.is_empty() {
            true => Ok(()),
            false => self.end(&begun),
        }
    }

    /// The last of it is printed, and the line ends. A text that has turned out otherwise is printed anew.
    fn end(self, text: &str) -> Result<()> {
        self.grow(text);
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if state.text != text && !text.is_empty() {
            write(self.on, &mut state, "\n");
            write(self.on, &mut state, text);
        }
        // An empty answer is a line all the same: answers stay aligned with turns.
        write(self.on, &mut state, "\n");
        match state.failed {
            Some(error) => Err(Error::unexpected("cannot write to stdout").because(error)),
            None => Ok(()),
        }
    }
}

fn write(on: bool, state: &mut Printed, text: &str) {
    if !on || state.failed.is_some() {
        return;
    }
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    state.failed = written.err();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches: a turn taken for a command or the other way round.
    #[test]
    fn lines_are_read() {
        for (line, read) in [
            ("Hello there\n", Line::Turn("Hello there")),
            ("  \n", Line::Nothing),
            ("/critique", Line::Critique(None)),
            ("/critique  no-harm \n", Line::Critique(Some("no-harm"))),
            ("/system Be brief.", Line::System("Be brief.")),
            ("/system", Line::System("")),
            ("//etc/passwd?", Line::Turn("/etc/passwd?")),
            ("/critque", Line::Unknown("/critque")),
            ("/quit", Line::Quit),
        ] {
            assert_eq!(Line::read(line), read, "{line:?}");
        }
    }
}
