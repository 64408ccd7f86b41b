"""Closed form: ridge regression on random ReLU features, from exact integer sums.

RanPAC (McDonnell et al., 2023): ``h = relu(x W)``, ``B = (G + lam I)^-1 Q`` with ``G = sum h h'``, ``Q = sum h y'``.
Here x is put on a grid of 1/4096, W has entries of +-1 and h is rounded to five bits, so every product and sum is
an integer that float32 holds exactly: sums do not depend on order, block size or thread count, and removing a row
gives back the very sums that never had it. W is random signs times a Hadamard matrix, block by block (after the
structured features of Le et al., 2013, and Yu et al., 2016): a few small products, and no matrix W to go through.
Where `dim` is no power of two its columns are not orthogonal; measured, they are as good as independent signs.

`Ridge` keeps one Gram matrix over all alive rows and, between two factorisations, follows new rows exactly by the
Woodbury identity, so that a label costs two triangular solves and no factorisation of its own. While rows are few
it solves the dual (Saunders et al., 1998) and needs no Gram matrix at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

GRID = 4096.0  # steps per unit of x
STEP = 0.125  # of h
KIND = "hadamard"  # of W: what stored statistics have to agree in
LEVELS = 31  # the largest integer that h takes
PENDING = 1024  # rows that the Woodbury correction carries before the next factorisation
AT_ONCE = 192  # new rows for which a correction costs as much as a factorisation
BALANCE = 100.0  # what a small class's rows count for together, if the average class has that many
PENALTY, PENALTY_TRACE = 10.0, 0.01  # lam = 10 + 0.01 trace(G)/M, or `strength` times that
STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # among which leave-one-out chooses,
JUDGED_FROM, JUDGED = 64, 1024  # from so many rows on, by so many of them at most


@dataclass(frozen=True)
class RandomFeatures:
    """``h = clamp(round(relu(x W) / STEP), 0, LEVELS)``; W is +-1, drawn from the seed.

    A block of W is ``diag(signs) H`` with H the Hadamard matrix of the next power of two; ``x H`` is two small
    products, as ``H = H_a (x) H_b`` (Sylvester, 1867).
    """

    dim: int
    count: int
    seed: int
    signs: Tensor = field(init=False, repr=False, compare=False)  # [blocks, dim]
    left: Tensor = field(init=False, repr=False, compare=False)  # H_a and H_b
    right: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        padded = 1 << (self.dim - 1).bit_length()
        blocks, left = -(-self.count // padded), 1 << (padded.bit_length() - 1) // 2
        generator = torch.Generator().manual_seed(self.seed)
        signs = torch.randint(0, 2, (blocks, padded), generator=generator).mul_(2).sub_(1).float()
        made = {"signs": signs[:, : self.dim].contiguous(), "left": hadamard(left), "right": hadamard(padded // left)}
        for name, matrix in made.items():
            object.__setattr__(self, name, matrix)

    def __call__(self, x: Tensor) -> Tensor:
        """Return integer features [n, count] (as float32) of vectors [n, dim]."""
        signs, left, right = self.signs, self.left, self.right
        signed = (x.float() * GRID).round_()[:, None] * signs
        signed = pad(signed, (0, len(left) * len(right) - self.dim)).view(len(x), len(signs), len(left), len(right))
        z: Tensor = (left @ (signed @ right)).flatten(1)[:, : self.count]  # exact while the sum of |x| is below 4096
        return z.mul(1.0 / (GRID * STEP)).round_().clamp_(0, LEVELS)


def hadamard(n: int) -> Tensor:
    """Return the Hadamard matrix [n, n] of a power of two, by Sylvester's construction.

    >>> hadamard(2).tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """
    matrix = torch.ones(1, 1)
    while len(matrix) < n:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix


def penalty(trace: float, features: int, strength: float = 1.0) -> float:
    """Return lam in integer units for a Gram matrix of that trace (integer units)."""
    return strength * (PENALTY + PENALTY_TRACE * trace * STEP**2 / features) / STEP**2


def strength(h: Tensor, y: Tensor) -> float:
    """Choose from `STRENGTHS` by leave-one-out over integer features [n, M] and classes [n]: noisy labels want a strong penalty.

    With the kernel K and ``a = (K + lam I)^-1 t`` a row's answer without itself is ``t - a / diag((K + lam I)^-1)`` (Allen,
    1974; Cawley and Talbot, 2004). The least penalty stays unless a stronger one is right more often by more than two standard
    errors of the difference.
    """
    classes = int(y.max()) + 1
    root = weights(torch.bincount(y, minlength=classes))[y].sqrt().double()
    scaled = h.double() * root[:, None]
    kernel, base = scaled @ scaled.T, penalty(float((h.double() ** 2).sum()), h.shape[1])
    targets = torch.zeros(len(y), classes, dtype=torch.float64).scatter_(1, y[:, None], root[:, None])
    chosen, best = STRENGTHS[0], torch.zeros(0)
    for one in STRENGTHS:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel + one * base * torch.eye(len(y), dtype=torch.float64)))
        right = ((targets - inverse @ targets / inverse.diagonal()[:, None]).argmax(1) == y).double()
        gain = right - (best if len(best) else right)
        if not len(best) or float(gain.mean()) > 2.0 * float(gain.std()) / len(y) ** 0.5:
            chosen, best = one, right
    return chosen


def weights(counts: Tensor) -> Tensor:
    """Return the weight of a row of each class [C]: a small class is not drowned.

    A class with fewer rows than half the reference counts for the reference, which is the average class, 100 at most.
    Where classes are of like size all rows count 1.
    """
    reference = min(BALANCE, float(counts[counts > 0].float().mean())) if bool((counts > 0).any()) else 0.0
    small = counts < reference / 2
    return torch.where(small, reference / counts.clamp(min=1).float(), torch.ones(len(counts)))


def dual(h: Tensor, y: Tensor, weight: Tensor, classes: int, strength: float) -> Tensor:
    """Solve the ridge over few rows: ``B = H'D (H H'D + lam I)^-1 Y`` with D = diag(weight); float32 [M, C]."""
    root = weight.sqrt()
    scaled = h * root[:, None]
    kernel = scaled @ scaled.T
    kernel.diagonal().add_(penalty(float((h * h).sum()), h.shape[1], strength))
    targets = torch.zeros(len(y), classes).scatter_(1, y[:, None], root[:, None])
    return scaled.T @ torch.cholesky_solve(targets, torch.linalg.cholesky(kernel))


def leave_out(features: Tensor, y: Tensor, weight: Tensor, group: Tensor, classes: int, held: Tensor,
              strength: float = 1.0) -> Tensor:
    """Score held-out rows as if all rows of their content had never been learned: [len(held), classes], exact.

    With ``A = H'DH + lam I``, ``kappa = h'A^-1 h``, w the weight of the rows that share the content and t their
    weighted targets: ``s = (h'B - kappa t) / (1 - w kappa)`` (Allen, 1974; Sherman and Morrison, 1950).

    Parameters are integer features [n, M], classes [n], weights [n], content groups [n], and the rows to score.
    """
    if not len(held):  # no class has enough rows yet for one to be held out
        return torch.zeros(0, classes)
    root = weight.sqrt()[:, None]
    matrix = torch.zeros(features.shape[1], features.shape[1])
    moment = torch.zeros(features.shape[1], classes)
    trace = 0.0
    for start in range(0, len(y), 1024):
        block = slice(start, start + 1024)
        h = features[block].float()
        trace += float((h * h).double().sum())
        matrix.addmm_((h * root[block]).T, h * root[block])
        moment.index_add_(1, y[block], (h * weight[block][:, None]).T.contiguous())
    matrix.diagonal().add_(penalty(trace, features.shape[1], strength))
    factor = torch.linalg.cholesky(matrix)
    h = features[held].float()
    z = torch.cholesky_solve(h.T, factor)
    kappa = (h.T * z).sum(0)
    place = {int(g): i for i, g in enumerate(group[held].tolist())}
    own = torch.zeros(len(held), classes)
    mine = torch.tensor([place.get(int(g), -1) for g in group])
    sharing = mine >= 0
    own.index_put_((mine[sharing], y[sharing]), weight[sharing], accumulate=True)
    own = own[torch.tensor([place[int(g)] for g in group[held].tolist()])]
    removed = own.sum(1)
    return (z.T @ moment - kappa[:, None] * own) / (1 - removed * kappa)[:, None].clamp(min=1e-6)


class Ridge:
    """The sums of one head over all alive rows, and their solution. Targets are class indices."""

    def __init__(self, features: int) -> None:
        self.features = features
        self.strength = STRENGTHS[0]  # of the penalty
        self.gram: Tensor | None = None  # int32 [M, M]; None while there are few rows
        self.moment = torch.zeros(features, 0, dtype=torch.int32)  # Q [M, C]
        self.counts = torch.zeros(0, dtype=torch.int64)  # alive rows of each class
        self._few: list[tuple[Tensor, Tensor]] = []  # (h as int8, y): all rows while there are few
        self._factor: Tensor | None = None  # Cholesky factor of the weighted sums at the last factorisation
        self._base = torch.zeros(features, 0)  # factored^-1 (weighted Q), rows since included
        self._since = _Correction(features)
        self._new: list[tuple[Tensor, Tensor]] = []  # not in the solution yet

    @property
    def pending(self) -> int:
        """Rows that the last solution has not seen."""
        return sum(len(y) for _, y in self._new)

    def add(self, h: Tensor, y: Tensor, classes: int) -> None:
        """Add rows: integer features [n, M] and class indices [n]."""
        self._sum(h, y, classes, 1)
        if self.gram is None:
            self._few.append((h.to(torch.int8), y))
            if int(self.counts.sum()) > PENDING:
                self._make_gram()
        elif self._factor is not None:
            self._new.append((h, y))
            if self.pending > AT_ONCE:  # the next solution is factorised anew
                self._new, self._factor = [], None

    def _make_gram(self) -> None:
        self.gram = torch.zeros(self.features, self.features, dtype=torch.int32)
        for h, _ in self._few:
            _add_gram(self.gram, h.float(), 1)
        self._few, self._new, self._factor = [], [], None

    def remove(self, h: Tensor, y: Tensor) -> None:
        """Remove rows that were added; the next solution is factorised anew from the exact sums."""
        self._sum(h, y, self.moment.shape[1], -1)
        if self.gram is None:
            self._forget_few(h.to(torch.int8), y)
        self._factor = None

    def _forget_few(self, h: Tensor, y: Tensor) -> None:
        rows, labels = torch.cat([a for a, _ in self._few]), torch.cat([b for _, b in self._few])
        keep = torch.ones(len(labels), dtype=torch.bool)
        for one, label in zip(h, y, strict=True):
            found = torch.nonzero((labels == label) & keep & (rows == one).all(1))
            keep[found[0, 0]] = False
        self._few = [(rows[keep], labels[keep])]

    def _sum(self, h: Tensor, y: Tensor, classes: int, sign: int) -> None:
        if classes > len(self.counts):
            extra = classes - len(self.counts)
            self.moment = torch.cat([self.moment, torch.zeros(self.features, extra, dtype=torch.int32)], 1)
            self.counts = torch.cat([self.counts, torch.zeros(extra, dtype=torch.int64)])
            self._base = torch.cat([self._base, torch.zeros(self.features, extra)], 1)
        self.moment.index_add_(1, y, h.T.to(torch.int32).contiguous(), alpha=sign)
        self.counts.index_add_(0, y, torch.full_like(y, sign))
        if self.gram is not None:
            _add_gram(self.gram, h, sign)

    def penalise(self, strength: float) -> None:
        """Solve with a penalty of that strength from here on."""
        if strength != self.strength:
            self.strength, self._factor, self._new = strength, None, []

    def solve(self, small: Callable[[], tuple[Tensor, Tensor]]) -> Tensor:
        """Return B [M, C], float32, over all rows; `small` gives the features and classes of rows to be weighted up.

        Rows of the classes whose `weights` are above 1 are given by the caller, who has them; the sums hold every row
        once.
        """
        if self.gram is None:
            h, y = torch.cat([a for a, _ in self._few]).float(), torch.cat([b for _, b in self._few])
            return dual(h, y, weights(self.counts)[y], len(self.counts), self.strength)
        if self._factor is None or self.pending > AT_ONCE or self._since.rows + self.pending > PENDING:
            self._refactor(*small())
        return self._corrected()

    def _refactor(self, h: Tensor, y: Tensor) -> None:
        """Factorise the weighted sums anew; they hold every row from here on."""
        assert self.gram is not None
        self._new, self._since = [], _Correction(self.features)
        extra = weights(self.counts)[y] - 1.0
        matrix, moment = self.gram.float(), self.moment.float()
        trace = float(matrix.diagonal().double().sum())
        matrix.addmm_((h * extra[:, None]).T, h)
        moment.index_add_(1, y, (h * extra[:, None]).T.contiguous())
        matrix.diagonal().add_(penalty(trace, self.features, self.strength))
        self._factor = torch.linalg.cholesky(matrix)
        self._base = torch.cholesky_solve(moment, self._factor)

    def _corrected(self) -> Tensor:
        """Take the new rows into the correction and return ``(A + U U')^-1 Q`` by Woodbury's identity."""
        assert self._factor is not None
        for h, y in self._new:
            root = weights(self.counts)[y].sqrt()[:, None]
            z = self._since.add(h * root, self._factor)
            self._base.index_add_(1, y, (z * root).T.contiguous())
        self._new = []
        return self._since.applied(self._base)

    def renumber(self, place: Tensor, classes: int) -> None:
        """Give class i the number place[i]; the next solution is factorised anew."""
        moment = torch.zeros(self.features, classes, dtype=torch.int32)
        counts = torch.zeros(classes, dtype=torch.int64)
        place = place[:len(self.counts)]
        moment[:, place], counts[place] = self.moment, self.counts
        self.moment, self.counts, self._base = moment, counts, torch.zeros(self.features, classes)
        self._few = [(h, place[y]) for h, y in self._few]
        self._new, self._since, self._factor = [], _Correction(self.features), None

    def shrink(self, classes: int) -> None:
        """Drop the classes behind the first ones; they have no rows. The next solution is factorised anew."""
        self.moment, self.counts = self.moment[:, :classes].clone(), self.counts[:classes].clone()
        self._base = torch.zeros(self.features, len(self.counts))
        self._new, self._since, self._factor = [], _Correction(self.features), None

    def state(self) -> dict[str, Tensor]:
        """Return the sums, to be stored; nothing while they are few enough to be made again from the rows."""
        return {} if self.gram is None else {"gram": self.gram, "moment": self.moment, "counts": self.counts}

    def copy(self) -> Ridge:
        """Return the same sums to go on from by themselves; the next solution is factorised anew."""
        other = Ridge(self.features)
        other.strength = self.strength
        other.gram = None if self.gram is None else self.gram.clone()
        other.moment, other.counts, other._few = self.moment.clone(), self.counts.clone(), list(self._few)
        other._base = torch.zeros(self.features, len(self.counts))
        return other

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over stored sums."""
        if state:
            self.gram, self.moment, self.counts = state["gram"], state["moment"], state["counts"]
            self._base = torch.zeros(self.features, len(self.counts))
            self._factor = None


class _Correction:
    """Woodbury's identity for rows U added to a factorised A: ``(A + U'U)^-1 Q = B - Z'(I + U Z')^-1 U B``, Z' = A^-1 U'.

    Buffers grow by doubling, and the capacity ``I + U Z'`` by its new rows only.
    """

    def __init__(self, features: int) -> None:
        self.rows = 0
        self._u, self._z = torch.empty(0, features), torch.empty(0, features)
        self._capacity = torch.empty(0, 0)

    def add(self, u: Tensor, factor: Tensor) -> Tensor:
        """Take rows [n, M] in; return their z."""
        z = torch.cholesky_solve(u.T, factor).T
        old, new = self.rows, self.rows + len(u)
        if new > len(self._u):
            room = max(256, 2 * len(self._u), new)
            self._u, self._z = _grown(self._u, old, room), _grown(self._z, old, room)
        self._u[old:new], self._z[old:new] = u, z
        capacity = torch.eye(new)
        capacity[:old, :old] = self._capacity
        capacity[:new, old:] += self._u[:new] @ z.T
        capacity[old:, :old] = capacity[:old, old:].T
        self._capacity, self.rows = capacity, new
        return z

    def applied(self, base: Tensor) -> Tensor:
        """Return the corrected solution [M, C] of ``base = A^-1 Q``."""
        if not self.rows:
            return base.clone()
        u, z = self._u[: self.rows], self._z[: self.rows]
        corrected: Tensor = base - z.T @ torch.cholesky_solve(u @ base, torch.linalg.cholesky(self._capacity))
        return corrected


def _grown(rows: Tensor, used: int, room: int) -> Tensor:
    grown = torch.empty(room, rows.shape[1])
    grown[:used] = rows[:used]
    return grown


def _add_gram(gram: Tensor, h: Tensor, sign: int) -> None:
    for start in range(0, len(h), 256):  # 256 * LEVELS^2 < 2^24: the float32 product is exact
        block = h[start:start + 256]
        gram.add_((block.T @ block).to(torch.int32), alpha=sign)
