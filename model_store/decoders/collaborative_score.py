"""A collaborative encoder's say in the ranking: its log-probability of an item is mixed with the language model's.

    score(item) = (1 - weight) * log p_language_model(item) + weight * log p_encoder(item)

The encoder's probability of a prefix is the sum over the items below it, so that a beam search follows prefixes for
which both have hope, and the served ranking stays a decode over codes. Both sides are distributions over the whole
catalogue: filters and exclusions change neither. The encoder reads histories, not queries: with a query, or without a
history, the score is the language model's alone.

Shapes: U users, B beams, C children, K items, N items of the catalogue, D vector size.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.bundle import Bundle
from model_store.collaborative.encoder import CollaborativeEncoder
from model_store.collaborative.encoder_files import load_encoder
from model_store.decoders.protocol import DecodeRequest
from model_store.decoders.trie_tensors import TrieTensors

_NEIGHBOURS = 8
"""Items that an item added after training takes its vector from."""
_NO_MASS = 1e-300
"""What a prefix's probability counts as where its sum is lost to rounding: it comes last, but is not closed."""


class CollaborativeScore:
    """Mixes scores of one version.

    Args:
        encoder: trained on the first items of the catalogue, or on all of them.
        weight: its share, above 0 and below 1.
        leaf_item: item at each leaf of the version's trie; int [N].
        item_embeddings: what added items are compared with the others by; float32 [N, D].
        device: where scores are computed.
    """

    def __init__(
        self,
        encoder: CollaborativeEncoder,
        weight: float,
        leaf_item: NDArray[np.integer],
        item_embeddings: NDArray[np.float32],
        device: torch.device | str = "cpu",
    ) -> None:
        _give_vectors_to_added(encoder, item_embeddings)
        self._encoder = encoder.to(device).eval()
        self._weight = weight
        self._leaf_item = torch.as_tensor(leaf_item, dtype=torch.int64, device=device)

    @classmethod
    def of_bundle(cls, bundle: Bundle, device: torch.device | str = "cpu") -> "CollaborativeScore | None":
        """As the version's manifest asks for it; None where its language model ranks alone."""
        weight = bundle.manifest.collaborative_weight
        if weight == 0:
            return None
        encoder = load_encoder(bundle.teacher_path)
        return cls(encoder, weight, bundle.trie.leaf_item, bundle.item_embeddings, device)

    @torch.inference_mode()
    def opinions(self, requests: Sequence[DecodeRequest]) -> "Opinions | None":
        """What the encoder thinks of each request's items; None where it has a say in none of them."""
        asked = [request.query is None and len(request.history) > 0 for request in requests]
        if not any(asked):
            return None
        device = self._leaf_item.device
        histories = [request.history for request, one in zip(requests, asked, strict=True) if one]
        logits = self._encoder.next_item_logits(histories)
        log_probs_UN = torch.zeros(len(requests), logits.shape[1], dtype=torch.float64, device=device)
        log_probs_UN[torch.tensor(asked, device=device)] = logits[:, self._leaf_item].double().log_softmax(-1)
        weight_U = torch.tensor([self._weight if one else 0.0 for one in asked], device=device)
        return Opinions(log_probs_UN, weight_U)


class Opinions:
    """What an encoder thinks after some users' histories.

    Args:
        log_probs_UN: of the items in the order of the leaves; float64.
        weight_U: the encoder's share of each user's score.
    """

    def __init__(self, log_probs_UN: Tensor, weight_U: Tensor) -> None:
        self._by_leaf_UN, self._weight_U = log_probs_UN, weight_U

    @cached_property
    def _mass_before_UN(self) -> Tensor:  # noqa: N802
        """Mass of the leaves before each one. Only a search asks for it: given items have leaves of their own."""
        return torch.nn.functional.pad(self._by_leaf_UN.exp().cumsum(-1), (1, 0))

    def mixed(self, scores_UBC: Tensor, nodes_UBC: Tensor, trie: TrieTensors) -> Tensor:
        """The language model's scores of nodes, mixed with what the encoder finds below them; [U, B, C]."""
        begin, end = trie.leaf_begin[nodes_UBC].flatten(1), trie.leaf_end[nodes_UBC].flatten(1)
        mass = self._mass_before_UN.gather(1, end) - self._mass_before_UN.gather(1, begin)
        # A difference of sums says little of one unlikely item, and the item's own number is at hand.
        own = self._by_leaf_UN.gather(1, begin)
        theirs = torch.where(end - begin == 1, own, mass.clamp(min=_NO_MASS).log()).view(nodes_UBC.shape)
        weight = self._weight_U[:, None, None]
        # A closed node stays closed: 0 times infinity would be no number.
        mixed = (1 - weight) * scores_UBC + weight * theirs
        return torch.where(scores_UBC.isfinite(), mixed, scores_UBC).to(scores_UBC.dtype)

    def mixed_items(
        self, user: int, scores_K: NDArray[np.float64], leaves_K: NDArray[np.integer]
    ) -> NDArray[np.float64]:
        """The language model's scores of items, by their leaves, mixed with the encoder's; float64 [K]."""
        theirs_K = self._by_leaf_UN[user, torch.as_tensor(leaves_K, dtype=torch.int64)].cpu().numpy()
        weight = self._weight_U[user].item()
        return np.asarray((1 - weight) * scores_K + weight * theirs_K)


def _give_vectors_to_added(encoder: CollaborativeEncoder, item_embeddings: NDArray[np.float32]) -> None:
    """Let the encoder score items it was not trained on, each by the mean direction and length of its neighbours'."""
    vectors_ND = encoder.vectors().detach()
    known = len(vectors_ND)
    if known == len(item_embeddings):
        return
    nearness = torch.from_numpy(item_embeddings[known:] @ item_embeddings[:known].T)
    nearest = nearness.topk(min(_NEIGHBOURS, known), dim=1).indices
    theirs_MKD = vectors_ND[nearest]
    # A mean of vectors is shorter than they are, and would score lower than every one of them.
    length_M1 = theirs_MKD.norm(dim=-1).mean(dim=1, keepdim=True)
    encoder.append(torch.nn.functional.normalize(theirs_MKD.mean(dim=1), dim=-1) * length_M1)
