"""float64 NumPy references, written from the paper's equations and from the authors' conventions.

Every function returns a float. Masks are `[B, S]`, 1 for a real position. Nothing here uses torch.
"""

from __future__ import annotations

import numpy as np


def hidden(student, teacher, mask):
    """Equation 8 over real positions: mean over positions of the mean over features of squared differences."""
    total = count = 0.0
    for b in range(student.shape[0]):
        for s in range(student.shape[1]):
            if mask[b, s]:
                total += np.mean((student[b, s] - teacher[b, s]) ** 2)
                count += 1
    return total / count


def attention(q_s, k_s, q_t, k_t, heads, mask, bias_s=None, bias_t=None, window=None, centred=False):
    """Equation 7: mean over heads and real pairs of squared differences of pre-softmax scores.

    With a bias `[B, h, S, S]` added to the scores, over pairs at most `window` apart, and of scores less the mean of
    each row.
    """
    total = count = 0.0
    places = np.arange(q_s.shape[1])
    near = np.abs(places[:, None] - places) <= (len(places) if window is None else window)
    for b in range(q_s.shape[0]):
        counted = near & np.outer(mask[b], mask[b]).astype(bool)
        count += counted.sum()
        for h in range(heads):
            maps = [_scores(q[b], k[b], h, heads) for q, k in ((q_s, k_s), (q_t, k_t))]
            biases = [0.0 if bias is None else bias[b, h] for bias in (bias_s, bias_t)]
            difference = maps[0] + biases[0] - maps[1] - biases[1]
            for query in range(len(places)) if centred else ():
                if counted[query].any():
                    difference[query] -= difference[query][counted[query]].mean()
            total += np.sum(difference[counted] ** 2) / heads
    return total / count


def mixed_attention(q_s, k_s, q_t, k_t, weights, mask):
    """Mean over the teacher's heads and real pairs of (A_T - sum over j of w_ij A_S_j)^2; weights `[h_T, h_S]`."""
    total = count = 0.0
    into, heads = weights.shape
    for b in range(q_s.shape[0]):
        real = mask[b].astype(bool)
        maps = np.stack([_scores(q_s[b][real], k_s[b][real], h, heads) for h in range(heads)])
        for h in range(into):
            goal = _scores(q_t[b][real], k_t[b][real], h, into)
            total += np.sum((np.tensordot(weights[h], maps, 1) - goal) ** 2) / into
        count += real.sum() ** 2
    return total / count


def mean_attention(q_s, k_s, q_t, k_t, heads_s, heads_t, mask):
    """Mean over real pairs of the squared difference of the two mean maps."""
    total = count = 0.0
    for b in range(q_s.shape[0]):
        real = mask[b].astype(bool)
        maps = [
            np.mean([_scores(q[b][real], k[b][real], h, heads) for h in range(heads)], axis=0)
            for q, k, heads in ((q_s, k_s, heads_s), (q_t, k_t, heads_t))
        ]
        total += np.sum((maps[0] - maps[1]) ** 2)
        count += real.sum() ** 2
    return total / count


def relation(student, teacher, heads, mask):
    """MiniLMv2: KL(teacher || student) of softmax(X X^T / sqrt(d)), mean over relation heads and real rows."""
    total = count = 0.0
    for b in range(student.shape[0]):
        real = mask[b].astype(bool)
        for h in range(heads):
            p, q = (_softmax(_scores(x[b][real], x[b][real], h, heads)) for x in (teacher, student))
            total += np.sum(p * (np.log(p) - np.log(q))) / heads
        count += real.sum()
    return total / count


def soft_cross_entropy(student, teacher, temperature=1.0):
    """Equation 10, averaged over rows, with the t^2 that keeps the gradient's size."""
    target = _softmax(teacher / temperature)
    rows = -(target * np.log(_softmax(student / temperature))).sum(-1)
    return float(rows.mean() * temperature**2)


def soft_binary_cross_entropy(student, teacher, temperature=1.0):
    """Equation 10 for each class by itself, averaged over rows and classes, times t^2."""
    p, q = (1 / (1 + np.exp(-x / temperature)) for x in (teacher, student))
    return float(np.mean(-(p * np.log(q) + (1 - p) * np.log(1 - q))) * temperature**2)


def span_cross_entropy(student, teacher, mask, temperature=1.0):
    """Equation 10 over real positions, for start and end; `[B, S, 2]`."""
    total = []
    for b in range(student.shape[0]):
        real = mask[b].astype(bool)
        for end in (0, 1):
            total.append(soft_cross_entropy(student[b, real, end][None], teacher[b, real, end][None], temperature))
    return float(np.mean(total))


def span_label(logits, start, end, mask, smoothing=0.0):
    """Cross-entropy of start and end over real positions; positions outside the sequence count as 0."""
    total = []
    for b in range(logits.shape[0]):
        real = mask[b].astype(bool)
        for side, gold in enumerate((start[b], end[b])):
            inside = 0 <= gold < logits.shape[1]
            total.append(cross_entropy(logits[b, real, side][None], [gold], smoothing) if inside else 0.0)
    return float(np.mean(total))


def paper_hidden(student, teacher):
    """`MSELoss()` of the authors' code: every position, padding included."""
    return float(np.mean((student - teacher) ** 2))


def paper_attention(q_s, k_s, q_t, k_t, heads, mask, biases=(None, None), window=None):
    """The authors' code: additive mask of -10000 on padding keys, scores <= -100 set to 0, plain mean.

    Biases `[B, h, S, S]` are part of the scores, and pairs further apart than the window count as masked.
    """
    maps = []
    places = np.arange(q_s.shape[1])
    far = np.abs(places[:, None] - places) > (len(places) if window is None else window)
    for q, k, bias in ((q_s, k_s, biases[0]), (q_t, k_t, biases[1])):
        scores = np.stack(
            [
                np.stack([_scores(q[b], k[b], h, heads) for h in range(heads)])
                + (1.0 - mask[b])[None, None, :] * -10000.0
                for b in range(q.shape[0])
            ]
        )
        scores = scores + (0.0 if bias is None else bias)
        maps.append(np.where((scores <= -1e2) | far, 0.0, scores))
    return float(np.mean((maps[0] - maps[1]) ** 2))


def paper_soft_cross_entropy(student, teacher, temperature=1.0):
    """The authors' code: averaged over rows and classes, no t^2."""
    target = _softmax(teacher / temperature)
    return float(np.mean(-target * np.log(_softmax(student / temperature))))


def cross_entropy(logits, labels, smoothing=0.0):
    """Mean over labelled rows; the target is (1 - s) one-hot + s / C."""
    log_p = np.log(_softmax(logits))
    rows = [-(1 - smoothing) * log_p[i, y] - smoothing * log_p[i].mean() for i, y in enumerate(labels) if y != -100]
    return float(np.mean(rows))


def binary_cross_entropy(logits, labels):
    """Mean over rows and classes."""
    p = 1 / (1 + np.exp(-logits))
    return float(np.mean(-(labels * np.log(p) + (1 - labels) * np.log(1 - p))))


def gradient(function, x, step=1e-6):
    """Central differences of a scalar function of one array."""
    result = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        saved = x[index]
        x[index] = saved + step
        above = function(x)
        x[index] = saved - step
        below = function(x)
        x[index] = saved
        result[index] = (above - below) / (2 * step)
    return result


def _scores(q, k, head, heads):
    size = q.shape[-1] // heads
    part = slice(head * size, (head + 1) * size)
    return q[:, part] @ k[:, part].T / np.sqrt(size)


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def vectors(student, teacher):
    """Mean over rows of the squared distance of the two vectors, each divided by its length."""
    total = 0.0
    for x, y in zip(student, teacher, strict=True):
        total += np.sum((x / np.sqrt(np.sum(x**2)) - y / np.sqrt(np.sum(y**2))) ** 2)
    return total / len(student)
