//! Votes to labels: log-odds, counts, and the preference that they add up to.
//!
//! Every sum runs so that exchanging the answers of a contest changes the sign of its log-odds and no bit else.

use super::{Asked, Clamp, Contest, Outcome, STAGE, reject};
use crate::record::{CHOSEN_FIRST, Message, Preference, REJECTED_FIRST, TIE, Verdict, Vote};

/// What one order of one question gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Ballot {
    pub principle_id: String,
    pub principle_hash: String,
    /// How much the principle counts, 1 on average.
    pub share: f32,
    pub first_at_a: bool,
    pub logprob_a: f32,
    pub logprob_b: f32,
    pub p_a: f32,
    /// Log-odds of option (A) that the ballot counts with.
    pub log_odds_a: f32,
    pub verdict: Verdict,
    pub cot: Option<String>,
}

impl Ballot {
    /// By the log-probabilities of the two options.
    pub fn scored(asked: &Asked<'_>, first_at_a: bool, [logprob_a, logprob_b]: [f32; 2]) -> Self {
        let log_odds_a = logprob_a - logprob_b;
        let p_a = sigmoid(log_odds_a);
        Self {
            principle_id: asked.principle.id.clone(),
            principle_hash: asked.principle.hash(),
            share: asked.share,
            first_at_a,
            logprob_a,
            logprob_b,
            p_a,
            log_odds_a,
            verdict: Verdict::of_probability(p_a),
            cot: None,
        }
    }

    /// By a verdict in words. One verdict is one observation: its probability has half counts.
    pub fn said(asked: &Asked<'_>, first_at_a: bool, verdict: Verdict, cot: Option<String>) -> Self {
        let p_a = match verdict {
            Verdict::A => 0.75,
            Verdict::B => 0.25,
            Verdict::Tie | Verdict::Unparsed => 0.5,
        };
        Self {
            principle_id: asked.principle.id.clone(),
            principle_hash: asked.principle.hash(),
            share: asked.share,
            first_at_a,
            logprob_a: 0.0,
            logprob_b: 0.0,
            p_a,
            log_odds_a: logit(p_a),
            verdict,
            cot,
        }
    }

    /// A vote as the ballot that it comes of; the chosen answer is the first.
    fn of(vote: &Vote, share: f32) -> Self {
        let first_at_a = vote.order == CHOSEN_FIRST;
        let log_odds = vote.log_odds_chosen().unwrap_or(0.0);
        Self {
            principle_id: vote.principle_id.clone(),
            principle_hash: vote.principle_hash.clone(),
            share,
            first_at_a,
            logprob_a: vote.logprob_a,
            logprob_b: vote.logprob_b,
            p_a: vote.p_a,
            log_odds_a: if first_at_a { log_odds } else { -log_odds },
            verdict: match vote.verdict.as_str() {
                "a" => Verdict::A,
                "b" => Verdict::B,
                "tie" => Verdict::Tie,
                _ => Verdict::Unparsed,
            },
            cot: None,
        }
    }

    /// With the probability within the bounds.
    #[must_use]
    pub fn clamped(mut self, clamp: Clamp) -> Self {
        let within = self.p_a.clamp(clamp.low, clamp.high);
        if within != self.p_a {
            self.p_a = within;
            self.log_odds_a = logit(within);
        }
        self
    }

    /// The same about the options in the other order.
    #[must_use]
    pub fn turned(self) -> Self {
        Self {
            first_at_a: !self.first_at_a,
            logprob_a: self.logprob_b,
            logprob_b: self.logprob_a,
            p_a: 1.0 - self.p_a,
            log_odds_a: -self.log_odds_a,
            verdict: match self.verdict {
                Verdict::A => Verdict::B,
                Verdict::B => Verdict::A,
                other => other,
            },
            ..self
        }
    }

    /// Log-odds of the contest's first answer.
    pub fn log_odds_first(&self) -> f32 {
        if self.first_at_a {
            self.log_odds_a
        } else {
            -self.log_odds_a
        }
    }

    pub fn counts(&self) -> bool {
        self.verdict != Verdict::Unparsed
    }

    fn vote(&self, first_wins: bool) -> Vote {
        Vote {
            principle_id: self.principle_id.clone(),
            order: if self.first_at_a == first_wins {
                CHOSEN_FIRST
            } else {
                REJECTED_FIRST
            }
            .into(),
            logprob_a: self.logprob_a,
            logprob_b: self.logprob_b,
            p_a: self.p_a,
            cot: self.cot.clone(),
            verdict: self.verdict.as_str().into(),
            principle_hash: self.principle_hash.clone(),
        }
    }
}

/// The mean log-odds of the first answer over questions, each asked in two orders that stand together. A
/// question counts if both its orders do; `None` if none does.
pub fn mean_log_odds(ballots: &[Ballot]) -> Option<f32> {
    // The two orders of a question first: then the sum is the same to the bit, but for its sign, when the
    // answers change places.
    let (mut sum, mut shares) = (0.0, 0.0);
    for orders in ballots.chunks(2) {
        if orders.iter().all(Ballot::counts) {
            sum += orders[0].share * orders.iter().map(Ballot::log_odds_first).sum::<f32>();
            shares += orders[0].share;
        }
    }
    (shares > 0.0).then(|| sum / (2.0 * shares))
}

/// The log-odds of the first answer from shares of verdicts: in each order `p = (n + 1/2) / (N + 1)`, of `n`
/// votes for it among `N` that could be read, ties half each; the log-odds of the two orders averaged.
/// The half counts (Krichevsky and Trofimov 1981) keep them finite. `None` if an order has no vote.
pub fn counted_log_odds(ballots: &[Ballot]) -> Option<f32> {
    let order = |first_at_a: bool| {
        let (mut first, mut second) = (0.0, 0.0);
        let of_order = ballots
            .iter()
            .filter(|ballot| ballot.first_at_a == first_at_a && ballot.counts());
        for ballot in of_order {
            let (for_a, for_b) = match ballot.verdict {
                Verdict::A => (1.0, 0.0),
                Verdict::B => (0.0, 1.0),
                Verdict::Tie | Verdict::Unparsed => (0.5, 0.5),
            };
            let (for_first, for_second) = if first_at_a { (for_a, for_b) } else { (for_b, for_a) };
            first += ballot.share * for_first;
            second += ballot.share * for_second;
        }
        (first + second > 0.0).then(|| (first + 0.5f32).ln() - (second + 0.5).ln())
    };
    Some((order(true)? + order(false)?) / 2.0)
}

/// The log-odds of the chosen answer that a label's votes add up to, as its form adds them up, where `share` says how
/// much a principle counts. `None` if nothing counts. Rankings in words are added up over all answers of a row: of those
/// it answers what their votes on the pair alone say.
pub fn recounted(votes: &[&Vote], share: impl Fn(&str) -> f32) -> Option<f32> {
    let ballots: Vec<Ballot> = votes
        .iter()
        .map(|vote| Ballot::of(vote, share(&vote.principle_id)))
        .collect();
    let in_words = |vote: &&Vote| vote.logprob_a == 0.0 && vote.logprob_b == 0.0;
    let ratings = votes.iter().any(|vote| vote.of_ratings());
    let both_orders = |orders: &[Ballot]| match orders {
        [one, other] => one.principle_id == other.principle_id && one.first_at_a != other.first_at_a,
        _ => false,
    };
    if !ratings && votes.iter().all(in_words) {
        counted_log_odds(&ballots)
    } else if !ratings && ballots.chunks(2).all(both_orders) {
        mean_log_odds(&ballots)
    } else {
        // Ratings have one vote a principle, rotations of a list one each.
        let (mut sum, mut shares) = (0.0, 0.0);
        for ballot in ballots.iter().filter(|ballot| ballot.counts()) {
            sum += ballot.share * ballot.log_odds_first();
            shares += ballot.share;
        }
        (shares > 0.0).then(|| sum / shares)
    }
}

/// The preference that `log_odds` of the first answer make; none at all is a reject, with what the judge wrote.
/// `ballots` are made for whoever wins.
pub fn preference(
    contest: &Contest,
    log_odds: f32,
    raw: impl FnOnce() -> String,
    ballots: impl FnOnce(bool) -> Vec<Ballot>,
) -> Outcome<Preference> {
    if log_odds == 0.0 {
        return Err(reject(&contest.id, STAGE, (TIE.into(), raw())));
    }
    let first_wins = log_odds > 0.0;
    let (chosen, rejected) = match first_wins {
        true => (&contest.first, &contest.second),
        false => (&contest.second, &contest.first),
    };
    let margin = log_odds.abs();
    let votes = ballots(first_wins)
        .iter()
        .map(|ballot| ballot.vote(first_wins))
        .collect();
    Ok(Preference {
        id: contest.id.clone(),
        prompt: contest.prompt.clone(),
        chosen: vec![Message::assistant(chosen.text.clone())],
        rejected: vec![Message::assistant(rejected.text.clone())],
        p_chosen: sigmoid(margin),
        margin,
        weight: 1.0,
        source: "judge".into(),
        votes,
        chosen_tokens: chosen.tokens,
        rejected_tokens: rejected.tokens,
        chosen_chars: chosen.text.chars().count() as u32,
        rejected_chars: rejected.text.chars().count() as u32,
        p_raw: sigmoid(margin),
    })
}

pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

pub fn logit(p: f32) -> f32 {
    p.ln() - (1.0 - p).ln()
}

/// Iterations of [`bradley_terry`] at most.
const MOST_ITERATIONS: usize = 10_000;

/// Log-strengths of a Bradley-Terry model, `P(i beats j) = sigmoid(s_i - s_j)`, with the mean 0, from
/// `wins[i][j]`: how often `i` stood before `j`, ties half each. By the minorisation-maximisation algorithm
/// (Hunter 2004, The Annals of Statistics 32, equation 3), with half a win each way between any two, which
/// keeps them finite and the solution unique.
pub fn bradley_terry(wins: &[Vec<f64>]) -> Vec<f64> {
    let count = wins.len();
    let won = |i: usize, j: usize| if i == j { 0.0 } else { wins[i][j] + 0.5 };
    let total: Vec<f64> = (0..count).map(|i| (0..count).map(|j| won(i, j)).sum()).collect();
    let mut logs = vec![0.0f64; count];
    for _ in 0..MOST_ITERATIONS {
        let strengths: Vec<f64> = logs.iter().map(|log| log.exp()).collect();
        let mut next: Vec<f64> = (0..count)
            .map(|i| {
                let met = |j: usize| (won(i, j) + won(j, i)) / (strengths[i] + strengths[j]);
                let met: f64 = (0..count).filter(|j| *j != i).map(met).sum();
                if met > 0.0 { (total[i] / met).ln() } else { 0.0 }
            })
            .collect();
        let mean = next.iter().sum::<f64>() / count.max(1) as f64;
        next.iter_mut().for_each(|log| *log -= mean);
        let moved = next.iter().zip(&logs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        logs = next;
        if moved < 1e-13 {
            break;
        }
    }
    logs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constitution::Principle;

    fn principle() -> Principle {
        Principle {
            rationale: None,
            id: "p".into(),
            critique: None,
            revise: None,
            judge: Some("Which answer is kinder?".into()),
            weight: 1.0,
            tags: Vec::new(),
        }
    }

    fn asked(principle: &Principle, share: f32) -> Asked<'_> {
        Asked { principle, share }
    }

    fn said(first_at_a: bool, verdict: Verdict) -> Ballot {
        Ballot::said(&asked(&principle(), 1.0), first_at_a, verdict, None)
    }

    /// Catches: a share over all votes instead of those that were read, ties lost, orders pooled so that the one
    /// with more votes weighs more, half counts left out.
    #[test]
    fn shares_of_verdicts_are_log_odds() {
        use Verdict::{A, B, Tie, Unparsed};
        let mut ballots: Vec<Ballot> = [A, A, Tie, Unparsed].map(|verdict| said(true, verdict)).into();
        ballots.push(said(false, A));
        // First order: 2.5 of 3 for the first answer; second order: 0 of 1.
        let expected = ((3.0f32 / 1.0).ln() + (0.5f32 / 1.5).ln()) / 2.0;
        assert!((counted_log_odds(&ballots).unwrap() - expected).abs() < 1e-6);
        ballots.pop();
        assert_eq!(counted_log_odds(&ballots), None);
        ballots.push(said(false, Unparsed));
        assert_eq!(counted_log_odds(&ballots), None);
        assert!((counted_log_odds(&[said(true, A), said(false, B)]).unwrap() - 3.0f32.ln()).abs() < 1e-6);
    }

    /// Catches: a clamp of the label instead of each probability, one that moves what lies within, one that
    /// tells the two options apart.
    #[test]
    fn a_clamp_holds_each_probability() {
        let principle = principle();
        let scored = |logprobs| Ballot::scored(&asked(&principle, 1.0), true, logprobs);
        let at = |log_odds: f32| scored([log_odds - 40.0, -40.0]).clamped(Clamp::PAPER);
        assert_eq!((at(5.0).p_a, at(-5.0).p_a), (0.6, 0.4));
        assert!((at(5.0).log_odds_a + at(-5.0).log_odds_a).abs() < 1e-6);
        assert!((at(5.0).log_odds_a - 1.5f32.ln()).abs() < 1e-6);
        assert_eq!(
            (at(0.25).log_odds_a, at(5.0).verdict, at(-0.1).verdict),
            (0.25, Verdict::A, Verdict::B)
        );
        assert_eq!(scored([-0.0, -30.0]).clamped(Clamp::NONE).log_odds_a, 30.0);
    }

    /// Catches: a question of which one order counts, principles that all weigh the same.
    #[test]
    fn a_question_counts_in_both_orders_or_not_at_all() {
        let principle = principle();
        let ballot =
            |share, first_at_a, log_odds: f32| Ballot::scored(&asked(&principle, share), first_at_a, [log_odds, 0.0]);
        let whole = [
            ballot(1.5, true, 2.0),
            ballot(1.5, false, -1.0),
            ballot(0.5, true, 0.0),
            ballot(0.5, false, 2.0),
        ];
        // (1.5 · (2 + 1) + 0.5 · (0 - 2)) / (2 · 2)
        assert!((mean_log_odds(&whole).unwrap() - 0.875).abs() < 1e-6);
        let mut half = whole.clone();
        half[3].verdict = Verdict::Unparsed;
        assert!((mean_log_odds(&half).unwrap() - 1.5).abs() < 1e-6);
        half[0].verdict = Verdict::Unparsed;
        assert_eq!(mean_log_odds(&half), None);
    }

    /// Catches: wins read as losses, half wins left out, an iteration that stops too early. The numbers are those
    /// of `scripts/golden/bradley_terry.py`.
    #[test]
    fn strengths_are_those_of_the_likelihood() {
        let wins = [
            [0.0, 3.0, 1.5, 6.0],
            [3.0, 0.0, 4.0, 2.0],
            [4.5, 2.0, 0.0, 0.0],
            [0.0, 4.0, 6.0, 0.0],
        ];
        let found = bradley_terry(&wins.map(Vec::from));
        let expected = [
            0.218_507_683_612_227_28,
            0.000_727_034_695_356_658_7,
            -0.364_847_735_266_846_94,
            0.145_613_016_959_263,
        ];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
        }
        assert_eq!(bradley_terry(&[vec![0.0]]), [0.0]);
    }
}
