//! The questions of a trial, each kind in one call of the engine, and the answers put in their places.

use super::plan::Plan;
use crate::constitution::{Constitution, Principle};
use crate::engine::recording::{Exchange, Recording};
use crate::engine::{Generation, Sampling};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::record::Prompt;
use crate::stage::Context;
use crate::stage::judge::JudgeConfig;
use crate::stage::trial::{self, Question, Review, Verdict, Written};

pub struct Settings {
    pub answer: Sampling,
    pub critique: Sampling,
    pub judge: JudgeConfig,
}

/// Everything that was asked, by prompts.
pub struct Trial {
    pub plan: Plan,
    pub prompts: Vec<Tried>,
    /// What the model read, if that was written down, in the order of the page.
    pub exchanges: Vec<Labelled>,
}

pub struct Tried {
    pub prompt: Prompt,
    pub answer: Written,
    /// By the plan's critics.
    pub reviews: Vec<Reviewed>,
    /// A second answer, if some principle compares two.
    pub other: Option<Written>,
    /// By the plan's comparing principles, if there are two different answers.
    pub compared: Vec<Judgement>,
}

/// An answer under one principle. What could not be asked is not there.
pub struct Reviewed {
    /// Its place in the constitution.
    pub principle: usize,
    pub critique: Option<Written>,
    pub revision: Option<Written>,
    /// Of a revision that changed the answer.
    pub judged: Vec<Judgement>,
}

/// What one principle's question came to.
pub struct Judgement {
    /// The principle's place in the constitution.
    pub question: usize,
    pub share: f32,
    pub said: Result<Verdict, String>,
}

/// An exchange with the model, and what it was for.
pub struct Labelled {
    /// The prompt's number.
    pub prompt: usize,
    pub label: String,
    pub exchange: Exchange,
    /// Where it stands among the exchanges of its prompt.
    rank: usize,
}

/// A trial under way.
pub struct Asking<'a> {
    pub context: Context<'a>,
    pub constitution: &'a Constitution,
    pub settings: &'a Settings,
    pub recording: Option<&'a Recording<'static>>,
    pub progress: &'a dyn Progress,
    pub exchanges: Vec<Labelled>,
}

/// Where the pair of a question stands.
#[derive(Clone, Copy)]
struct Place {
    prompt: usize,
    /// The review whose revision is judged; nothing where two answers are.
    review: Option<usize>,
    question: usize,
    share: f32,
}

/// Answers come first on the page, comparisons of answers last.
const FIRST: usize = 0;
const LAST: usize = usize::MAX;

impl Tried {
    /// The revision of a review and the answer before it, if there are both.
    pub fn pair<'t>(&'t self, review: &'t Reviewed) -> Option<(&'t Generation, &'t Generation)> {
        let revision = review.revision.as_ref()?.as_ref().ok()?;
        Some((self.answer.as_ref().ok()?, revision))
    }

    /// Whether the revision is another text than the answer; nothing without a revision.
    pub fn changed(&self, review: &Reviewed) -> Option<bool> {
        self.pair(review).map(|(answer, revision)| answer.text != revision.text)
    }

    /// Both answers, if there are two that differ.
    pub fn answers(&self) -> Option<(&Generation, &Generation)> {
        let other = self.other.as_ref()?.as_ref().ok()?;
        let answer = self.answer.as_ref().ok()?;
        (answer.text != other.text).then_some((answer, other))
    }
}

impl<'a> Asking<'a> {
    pub fn trial(mut self, plan: Plan, prompts: Vec<Prompt>) -> Result<Trial> {
        self.progress.start("try", 4, "steps");
        let mut tried = self.answers(&plan, prompts)?;
        self.critiques(&mut tried)?;
        self.revisions(&mut tried)?;
        self.verdicts(&plan, &mut tried)?;
        self.progress.finish();
        self.exchanges.sort_by_key(|exchange| (exchange.prompt, exchange.rank));
        Ok(Trial {
            plan,
            prompts: tried,
            exchanges: self.exchanges,
        })
    }

    fn answers(&mut self, plan: &Plan, prompts: Vec<Prompt>) -> Result<Vec<Tried>> {
        self.progress.figure("answers");
        let sampling = &self.settings.answer;
        let answers = trial::answers(self.context, &prompts, sampling, 0)?;
        let name = |name: &str| {
            (0..prompts.len())
                .map(|prompt| (prompt, FIRST, name.to_owned()))
                .collect()
        };
        self.write_down(name("answer"))?;
        let mut others = match plan.comparing.is_empty() {
            true => Vec::new(),
            false => trial::answers(self.context, &prompts, sampling, 1)?,
        }
        .into_iter();
        if !plan.comparing.is_empty() {
            self.write_down(name("second answer"))?;
        }
        self.progress.advance(1);
        let review = |principle: &usize| Reviewed {
            principle: *principle,
            critique: None,
            revision: None,
            judged: Vec::new(),
        };
        let tried = prompts.into_iter().zip(answers).map(|(prompt, answer)| Tried {
            prompt,
            answer,
            reviews: plan.critics.iter().map(review).collect(),
            other: others.next(),
            compared: Vec::new(),
        });
        Ok(tried.collect())
    }

    fn critiques(&mut self, tried: &mut [Tried]) -> Result<()> {
        self.progress.figure("critiques");
        let (mut places, mut reviews) = (Vec::new(), Vec::new());
        for (at, prompt) in tried.iter().enumerate() {
            let Ok(answer) = &prompt.answer else { continue };
            for (number, review) in prompt.reviews.iter().enumerate() {
                places.push((at, number));
                reviews.push(self.review(prompt, answer, review));
            }
        }
        let critiques = trial::critiques(self.context, &reviews, &self.settings.critique)?;
        let labels = reviews
            .iter()
            .map(|review| format!("critique · {}", review.principle.id));
        self.write_down(under(&places, labels))?;
        self.progress.advance(1);
        for ((prompt, review), critique) in places.into_iter().zip(critiques) {
            tried[prompt].reviews[review].critique = Some(critique);
        }
        Ok(())
    }

    fn revisions(&mut self, tried: &mut [Tried]) -> Result<()> {
        self.progress.figure("revisions");
        let (mut places, mut reviews) = (Vec::new(), Vec::new());
        for (at, prompt) in tried.iter().enumerate() {
            let Ok(answer) = &prompt.answer else { continue };
            for (number, review) in prompt.reviews.iter().enumerate() {
                if let Some(Ok(critique)) = &review.critique {
                    places.push((at, number));
                    reviews.push((self.review(prompt, answer, review), critique.text.as_str()));
                }
            }
        }
        let revisions = trial::revisions(self.context, &reviews, &self.settings.answer)?;
        let labels = reviews
            .iter()
            .map(|(review, _)| format!("revision · {}", review.principle.id));
        self.write_down(under(&places, labels))?;
        self.progress.advance(1);
        for ((prompt, review), revision) in places.into_iter().zip(revisions) {
            tried[prompt].reviews[review].revision = Some(revision);
        }
        Ok(())
    }

    fn review<'t>(&self, tried: &'t Tried, answer: &'t Generation, review: &Reviewed) -> Review<'t>
    where
        'a: 't,
    {
        Review {
            prompt: &tried.prompt,
            answer: &answer.text,
            principle: self.principle(review.principle),
        }
    }

    fn principle(&self, index: usize) -> &'a Principle {
        &self.constitution.principles[index]
    }

    fn verdicts(&mut self, plan: &Plan, tried: &mut [Tried]) -> Result<()> {
        self.progress.figure("verdicts");
        let (mut places, mut questions) = (Vec::new(), Vec::new());
        for (at, prompt) in tried.iter().enumerate() {
            for (place, (first, second)) in self.pairs(plan, at, prompt) {
                places.push(place);
                questions.push(Question {
                    principle: self.principle(place.question),
                    prompt: &prompt.prompt,
                    first,
                    second,
                });
            }
        }
        let verdicts = trial::verdicts(self.context, &questions, &self.settings.judge)?;
        let labels = places
            .iter()
            .flat_map(|place| self.judge_labels(tried, place))
            .collect();
        self.write_down(labels)?;
        self.progress.advance(1);
        for (place, said) in places.into_iter().zip(verdicts) {
            let tried = &mut tried[place.prompt];
            let judged = match place.review {
                Some(review) => &mut tried.reviews[review].judged,
                None => &mut tried.compared,
            };
            judged.push(Judgement {
                question: place.question,
                share: place.share,
                said,
            });
        }
        Ok(())
    }

    /// The pairs of a prompt with the questions about them.
    fn pairs<'t>(&self, plan: &Plan, at: usize, tried: &'t Tried) -> Vec<(Place, (&'t Generation, &'t Generation))> {
        let mut pairs = Vec::new();
        let place = |review, (question, share): (usize, f32)| Place {
            prompt: at,
            review,
            question,
            share,
        };
        for (number, review) in tried.reviews.iter().enumerate() {
            let Some(pair) = tried.pair(review).filter(|_| tried.changed(review) == Some(true)) else {
                continue;
            };
            let own = [(review.principle, 1.0)];
            let questions = match self.principle(review.principle).judge {
                Some(_) => own.as_slice(),
                None => plan.pool.as_slice(),
            };
            pairs.extend(questions.iter().map(|question| (place(Some(number), *question), pair)));
        }
        if let Some(pair) = tried.answers() {
            pairs.extend(
                plan.comparing
                    .iter()
                    .map(|question| (place(None, (*question, 1.0)), pair)),
            );
        }
        pairs
    }

    /// The labels of the requests about one question, the first answer at (A) before the second.
    fn judge_labels(&self, tried: &[Tried], place: &Place) -> Vec<(usize, usize, String)> {
        let question = &self.principle(place.question).id;
        let (rank, of, names) = match place.review {
            Some(review) => {
                let judged = tried[place.prompt].reviews[review].principle;
                let of = match judged == place.question {
                    true => String::new(),
                    false => format!(" on {}", self.principle(judged).id),
                };
                (FIRST + 1 + review, of, ["answer", "revision"])
            }
            None => (LAST, String::new(), ["first answer", "second answer"]),
        };
        let times = trial::requests_of_order(&self.settings.judge);
        let label = |name: &str| (place.prompt, rank, format!("judge · {question}{of} · {name} at (A)"));
        names
            .iter()
            .flat_map(|name| std::iter::repeat_n(label(name), times))
            .collect()
    }

    /// Takes down what the engine was asked since the last time: one label (prompt, rank, name) for each request.
    fn write_down(&mut self, labels: Vec<(usize, usize, String)>) -> Result<()> {
        let Some(recording) = self.recording else {
            return Ok(());
        };
        let exchanges = recording.take();
        if exchanges.len() != labels.len() {
            return Err(Error::unexpected("not every exchange with the model has a label"));
        }
        let labelled = labels.into_iter().zip(exchanges);
        self.exchanges
            .extend(labelled.map(|((prompt, rank, label), exchange)| Labelled {
                prompt,
                label,
                exchange,
                rank,
            }));
        Ok(())
    }
}

/// The labels of exchanges that belong to reviews.
fn under(places: &[(usize, usize)], labels: impl Iterator<Item = String>) -> Vec<(usize, usize, String)> {
    let places = places.iter().zip(labels);
    places
        .map(|((prompt, review), label)| (*prompt, FIRST + 1 + review, label))
        .collect()
}
