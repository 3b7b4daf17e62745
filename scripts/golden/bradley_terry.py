"""Reference strengths of Bradley-Terry models for `src/stage/judge/label.rs` and `tests/judge_forms.rs`.

Maximises the log-likelihood by Newton's method, where bylaw iterates Hunter's minorisation-maximisation: half a win
each way between any two options, strengths with the mean 0. Run it and copy what it prints:

    python bradley_terry.py
"""

import numpy as np


def strengths(wins):
    """Log-strengths with the mean 0 from `wins[i][j]`, how often i stood before j."""
    wins = np.array(wins, dtype=np.float64) + 0.5
    np.fill_diagonal(wins, 0.0)
    games = wins + wins.T
    s = np.zeros(len(wins))
    for _ in range(200):
        p = 1.0 / (1.0 + np.exp(s[None, :] - s[:, None]))
        gradient = (wins - games * p).sum(axis=1)
        weights = games * p * (1.0 - p)
        hessian = np.diag(weights.sum(axis=1)) - weights
        # The sum of strengths is free; adding a constant to the matrix fixes it at 0.
        step = np.linalg.solve(hessian + 1.0 / len(s), gradient)
        s = s + step
        if np.abs(step).max() < 1e-15:
            break
    return s - s.mean()


if __name__ == "__main__":
    agreeing = [[0, 6, 6], [0, 0, 6], [0, 0, 0]]
    print("six rankings that agree:", (lambda s: (s[0] - s[1], s[1] - s[2], s[0] - s[2]))(strengths(agreeing)))
    mixed = [[0, 3, 1.5, 6], [3, 0, 4, 2], [4.5, 2, 0, 0], [0, 4, 6, 0]]
    print("mixed:", strengths(mixed).tolist())
