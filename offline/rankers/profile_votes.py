"""SAILRec's user profiles: from each codebook the label that wins a vote over what the user has liked and disliked.

    V_u(c) = sum_i w_ui score(i, c)      w_ui = (1 if liked, -0.5 if not) exp(-age / 20)

The age counts the user's samples from the newest, which has 0. Training samples alone vote.

Shapes: U users, N items, C labels, S samples.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline.rankers.label_codebooks import Codebook
from offline.rankers.ranking_data import RankingData

_DISLIKED = -0.5
_FADING = 20.0


@dataclass(frozen=True, eq=False)
class Profiles:
    """What was voted for in one codebook.

    Attributes:
        labels: of each user; int64 [U].
        by_default: whether no label had a vote above 0, so that the user has everybody's most frequent one; bool [U].
    """

    labels: NDArray[np.int64]
    by_default: NDArray[np.bool_]


def vote(data: RankingData, codebook: Codebook) -> Profiles:
    """Profiles of a data set's users. Where it has no labels, what was drawn as a negative has no vote."""
    samples = data.samples["train"]
    rows = np.arange(len(samples)) if data.protocol == "labelled" else np.flatnonzero(samples.labels)
    users, liked = samples.users[rows], samples.labels[rows]
    weights = np.where(liked, 1.0, _DISLIKED) * np.exp(-_ages(users) / _FADING)
    votes = np.zeros((len(data.user_keys), len(codebook.labels)))
    np.add.at(votes, users, weights[:, None] * codebook.scores_NC[samples.items[rows]])
    by_default = votes.max(1) <= 0
    labels = votes.argmax(1)
    counts = np.bincount(labels[~by_default], minlength=len(codebook.labels))
    labels[by_default] = counts.argmax()
    return Profiles(labels, by_default)


def _ages(users_S: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many later samples each sample's user has; int64 [S]."""
    order = np.argsort(users_S, kind="stable")
    ends = np.searchsorted(users_S[order], users_S[order], side="right")
    ages = np.empty(len(users_S), np.int64)
    ages[order] = ends - 1 - np.arange(len(users_S))
    return ages
