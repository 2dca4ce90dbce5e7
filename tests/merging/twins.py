"""The merging methods once more, in a few lines of NumPy each, in float64, of a list of arrays."""

import numpy as np


def polar(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


def mean(deltas):
    return np.mean(deltas, axis=0)


def total(deltas):
    return np.sum(deltas, axis=0)


def ties(deltas, thresholds, agg="mean", elect=True, majority=0):
    """Entry by entry."""
    result = np.zeros(deltas[0].size)
    flat = [d.ravel() for d in deltas]
    for i in range(len(result)):
        kept = [d[i] for d, c in zip(flat, thresholds, strict=True) if abs(d[i]) >= c and d[i] != 0]
        if elect:
            sign = np.sign(sum(kept)) or majority
            kept = [x for x in kept if np.sign(x) == sign]
        if kept:
            result[i] = sum(kept) / (len(kept) if agg == "mean" else 1)
    return result.reshape(deltas[0].shape)


def threshold(magnitudes, keep, entries=None):
    """The k-th largest of one task's magnitudes, all tensors in one array."""
    moved = np.sort(magnitudes[magnitudes > 0])[::-1]
    k = min(int(np.ceil(round(keep * (entries or len(moved)), 6))), len(moved))
    return moved[k - 1] if k else 0.0


def consensus(deltas, thresholds, agree=2):
    result = np.zeros(deltas[0].size)
    flat = np.array([d.ravel() for d in deltas])
    for i, entries in enumerate(flat.T):
        rest = entries.sum() - entries
        used = sum(abs(x) > t * abs(r) for x, t, r in zip(entries, thresholds, rest, strict=True))
        result[i] = entries.sum() if used >= agree else 0
    return result.reshape(deltas[0].shape)


def tsv(deltas):
    k = min(deltas[0].shape) // len(deltas)
    found = [np.linalg.svd(d, full_matrices=False) for d in deltas]
    u = np.concatenate([u[:, :k] for u, _, _ in found], axis=1)
    v = np.concatenate([vt[:k].T for _, _, vt in found], axis=1)
    sigma = np.concatenate([s[:k] for _, s, _ in found])
    return polar(u) @ np.diag(sigma) @ polar(v).T


def iso_c(deltas):
    u, sigma, vt = np.linalg.svd(sum(deltas), full_matrices=False)
    return sigma.mean() * u @ vt


def iso_cts(deltas, common=0.8):
    tasks, rank = len(deltas), min(deltas[0].shape)
    specific = round((rank - int(common * rank)) / tasks) * tasks
    if specific == 0:
        return iso_c(deltas)
    k = rank - specific
    u, sigma, vt = np.linalg.svd(sum(deltas), full_matrices=False)
    us, sigmas, vs = [], [], []
    for delta in deltas:
        rest = delta - u[:, :k] @ u[:, :k].T @ delta
        a, s, bt = np.linalg.svd(rest, full_matrices=False)
        n = specific // tasks
        us, sigmas, vs = [*us, a[:, :n]], [*sigmas, s[:n]], [*vs, bt[:n].T]
    left, right = np.hstack([*us, u[:, :k]]), np.hstack([*vs, vt[:k].T])
    return np.concatenate([*sigmas, sigma[:k]]).mean() * polar(left) @ polar(right).T


def wudi(deltas, weighted=True, ridge=1e-6):
    grams = [d.T @ d / (np.sum(d**2) if weighted else 1) for d in deltas if d.any()]
    bottom = sum(grams)
    top = sum(d @ g for d, g in zip([d for d in deltas if d.any()], grams, strict=True))
    bottom = bottom + ridge * np.trace(bottom) / len(bottom) * np.eye(len(bottom))
    return np.linalg.solve(bottom.T, top.T).T


def wudi_loss(merged, deltas, weighted=True):
    return sum(
        np.sum(((merged - d) @ d.T) ** 2) / (np.sum(d**2) if weighted else 1) for d in deltas
    )


def regmean(deltas, grams, off_diagonal=0.95):
    own = [off_diagonal * g + (1 - off_diagonal) * np.diag(np.diag(g)) for g in grams]
    return sum(d @ g for d, g in zip(deltas, own, strict=True)) @ np.linalg.pinv(
        sum(own), hermitian=True
    )
