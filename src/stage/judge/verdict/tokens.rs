//! Words and marks of a judge's text, sentence by sentence. Emphasis and quotation marks are left out.

/// A word, a number, or one mark.
#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Word {
        /// In lower case.
        text: String,
        /// Whether it stood in capitals.
        capital: bool,
    },
    Mark(char),
}

impl Token {
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word { text, .. } if text == word)
    }

    pub fn any(&self, words: &[&str]) -> bool {
        matches!(self, Self::Word { text, .. } if words.contains(&text.as_str()))
    }

    pub fn mark(&self, marks: &[char]) -> bool {
        matches!(self, Self::Mark(mark) if marks.contains(mark))
    }

    pub fn word(&self) -> Option<&str> {
        match self {
            Self::Word { text, .. } => Some(text),
            Self::Mark(_) => None,
        }
    }
}

/// The tokens between two ends of a sentence.
#[derive(Debug, Clone, Default)]
pub struct Sentence {
    pub tokens: Vec<Token>,
    /// Whether it asks.
    pub question: bool,
}

/// Marks that change nothing of what is said.
const SILENT: [char; 14] = ['*', '_', '`', '"', '\'', '“', '”', '‘', '’', '#', '«', '»', '\\', '|'];

/// The sentences of a text; a new line ends one too.
pub fn sentences(text: &str) -> Vec<Sentence> {
    let chars: Vec<char> = text.chars().map(|c| if c == '’' { '\'' } else { c }).collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\n');
    let (mut out, mut open) = (Vec::new(), Sentence::default());
    let mut end = |open: &mut Sentence, question: bool| {
        let mut done = std::mem::take(open);
        done.question = question;
        if !done.tokens.is_empty() {
            out.push(done);
        }
    };
    let mut index = 0;
    while index < chars.len() {
        let c = chars[index];
        if c.is_alphanumeric() {
            let start = index;
            // An apostrophe and a decimal point belong to the word that goes on after them.
            while at(index).is_alphanumeric()
                || (at(index) == '\'' && at(index + 1).is_alphabetic())
                || (at(index) == '.' && at(index - 1).is_ascii_digit() && at(index + 1).is_ascii_digit())
            {
                index += 1;
            }
            let word: String = chars[start..index].iter().collect();
            open.tokens.push(Token::Word {
                capital: word.chars().all(|c| !c.is_lowercase()),
                text: word.to_lowercase(),
            });
            continue;
        }
        match c {
            '.' | '!' | ';' | '\n' => end(&mut open, false),
            '?' => end(&mut open, true),
            c if c.is_whitespace() || SILENT.contains(&c) => {}
            c => open.tokens.push(Token::Mark(c)),
        }
        index += 1;
    }
    end(&mut open, false);
    out
}
