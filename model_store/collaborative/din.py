"""DIN: a score of a history and one candidate, which weighs what the history says of that candidate.

Follows Zhou et al., "Deep Interest Network" (arXiv:1706.06978), as EAGER-LLM uses it to learn behaviour vectors. A
local activation unit reads candidate q and history item h as [q, h, q - h, q * h] and gives h a weight: no softmax, so
that weights also say how strong an interest is. The newest 19 items, weighted, are summed within windows of 5, 4, 2, 2
and six times 1 items, oldest first; the ten sums and q go through a network to a score.

No sum over a history can be shared between candidates, but much else is. For one h the unit's first layer is affine in
q; its weight of q is the same in every history that holds h; and a weighted sum meets the network's first layer as the
weighted sum of what that layer makes of each item. So all items are scored at a small part of the formula's cost, with
batch normalisation folded into the layers before it.

What we changed: padding counts in nothing (the statistics of the activation unit read real pairs alone), so there is no
padding row.

Shapes: B histories, W = 19 places of a window (padded on the left with -1), J candidates of a history, R real items of
all windows, N items, K distinct items, P states, D vector size, H hidden size of the activation unit, F of the network.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_store.collaborative.configs import DINConfig
from model_store.collaborative.encoder import PADDING, Histories
from model_store.collaborative.table_encoder import TableEncoder

WINDOWS = (5, 4, 2, 2, 1, 1, 1, 1, 1, 1)
HISTORY = sum(WINDOWS)
"""Items of a history it reads, the newest."""
_INIT_STD = 1e-4
_WEIGHTS = 1 << 26
"""Weights of pairs of items that are held at once when all items are scored: 256 MiB."""
_PAIRS = 1 << 12
"""Pairs that go through a layer at once: what a core's cache holds."""


class Dice(nn.Module):
    """x where it is high among its like, alpha x where it is low, and between them smoothly."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features, eps=1e-8, affine=False)
        self.alpha = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """Of rows; [rows, features]."""
        return x * torch.lerp(self.alpha, torch.ones_like(self.alpha), self.norm(x).sigmoid())

    def fixed_(self, x: Tensor) -> Tensor:
        """As in eval mode, in place; [..., features]."""
        shift, scale = _affine(self.norm)
        gate = torch.addcmul(shift, x, scale).sigmoid_()
        return x.mul_(gate.mul_(1 - self.alpha).add_(self.alpha))


class DIN(TableEncoder):
    """A network that reads a history from where a candidate stands; the state is the newest 19 items."""

    config: DINConfig
    window_of: Tensor

    def __init__(self, items: int, config: DINConfig) -> None:
        super().__init__()
        self.config = config
        size, times = config.size, max(1, config.size // 128)
        self.item_vectors = nn.Embedding(items, size)
        nn.init.normal_(self.item_vectors.weight, std=_INIT_STD)
        self.pair = nn.Linear(4 * size, 64 * times)
        self.pair_dice = Dice(64 * times)
        self.interest = nn.Linear(64 * times, 16 * times)
        self.interest_dice = Dice(16 * times)
        self.weight = nn.Linear(16 * times, 1)
        self.join = nn.Linear((len(WINDOWS) + 1) * size, 200 * times)
        self.join_norm = nn.BatchNorm1d(200 * times)
        self.join_dice = Dice(200 * times)
        self.reduce = nn.Linear(200 * times, 80 * times)
        self.reduce_norm = nn.BatchNorm1d(80 * times)
        self.reduce_dice = Dice(80 * times)
        self.score = nn.Linear(80 * times, 1)
        self.dropout = nn.Dropout(config.dropout)
        window_of = torch.arange(len(WINDOWS)).repeat_interleave(torch.tensor(WINDOWS))
        self.register_buffer("window_of", window_of, persistent=False)

    def forward(self, items_BT: Tensor) -> Tensor:
        """The newest 19 items at each place, padded on the left; int64 [B, T, W]."""
        return functional.pad(items_BT, (HISTORY - 1, 0), value=PADDING).unfold(1, HISTORY, 1)

    @torch.inference_mode()
    def next_item_logits(self, histories: Histories) -> Tensor:
        self.eval()
        newest = [torch.as_tensor(histories[i][-HISTORY:]) for i in range(len(histories))]
        windows = [functional.pad(items.long(), (HISTORY - len(items), 0), value=PADDING) for items in newest]
        return self.scores(torch.stack(windows).to(self.vectors().device))

    def candidate_scores(self, windows_BW: Tensor, candidates_BJ: Tensor) -> Tensor:
        """Logits of candidates after histories, to learn from; [B, J].

        Args:
            windows_BW: states, none of them empty.
            candidates_BJ: items.
        """
        table_ND = self.vectors()
        q_BJD = functional.embedding(candidates_BJ, table_ND)
        rows_R, places_R = (windows_BW != PADDING).nonzero(as_tuple=True)
        h_RD = functional.embedding(windows_BW[rows_R, places_R], table_ND)
        weights_RJ = self._weights(q_BJD, h_RD, rows_R)
        batch, candidates = candidates_BJ.shape
        weights_BWJ = weights_RJ.new_zeros(batch, HISTORY, candidates).index_put((rows_R, places_R), weights_RJ)
        h_BWD = h_RD.new_zeros(batch, HISTORY, h_RD.shape[1]).index_put((rows_R, places_R), h_RD)
        of_places_WFD, of_q_FD = self._join_weights()
        told_BWF = torch.einsum("bwd,wfd->bwf", h_BWD, of_places_WFD)
        joined_BJF = functional.linear(q_BJD, of_q_FD, self.join.bias) + weights_BWJ.mT @ told_BWF
        x = self.dropout(self.join_dice(self.join_norm(joined_BJF.flatten(0, 1))))
        x = self.dropout(self.reduce_dice(self.reduce_norm(self.reduce(x))))
        return self.score(x).view(batch, candidates)  # type: ignore[no-any-return]

    def _weights(self, q_BJD: Tensor, h_RD: Tensor, rows_R: Tensor) -> Tensor:
        """Of each history item for each candidate of its row; [R, J]."""
        of_q_HD, of_h_HD, of_product_HD = self._pair_weights()
        candidates = q_BJD.shape[1]
        # An embedding's gradient is summed many times faster than an index's.
        q_RJD = functional.embedding(rows_R, q_BJD.flatten(1)).view(len(rows_R), candidates, -1)
        told_BJH = functional.linear(q_BJD, of_q_HD, self.pair.bias)
        told_RJH = functional.embedding(rows_R, told_BJH.flatten(1)).view(len(rows_R), candidates, -1)
        x = functional.linear(q_RJD * h_RD[:, None], of_product_HD) + told_RJH
        x = (x + functional.linear(h_RD, of_h_HD)[:, None]).flatten(0, 1)
        x = self.interest_dice(self.interest(self.pair_dice(x)))
        return self.weight(x).view(-1, candidates)  # type: ignore[no-any-return]

    def _pair_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the activation unit's first layer, as it reads q, h and their product; three [H, D]."""
        q_HD, h_HD, difference_HD, product_HD = self.pair.weight.chunk(4, dim=1)
        return q_HD + difference_HD, h_HD - difference_HD, product_HD

    def _join_weights(self) -> tuple[Tensor, Tensor]:
        """Of the network's first layer, as it reads each place's item and the candidate; [W, F, D] and [F, D]."""
        features, size = self.join.bias.shape[0], self.config.size
        parts_FCD = self.join.weight.view(features, len(WINDOWS) + 1, size)
        return parts_FCD[:, self.window_of].transpose(0, 1), parts_FCD[:, -1]

    @torch.no_grad()
    def scores(self, states: Tensor) -> Tensor:
        windows_PW = states.flatten(0, -2)
        logits_PN = self.vectors().new_empty(len(windows_PW), len(self.vectors()))
        network = _Folded(self)
        at_once = max(1, _WEIGHTS // (HISTORY * logits_PN.shape[1]))
        for start in range(0, len(windows_PW), at_once):
            network.score(windows_PW[start : start + at_once], logits_PN[start : start + at_once])
        return logits_PN.view(*states.shape[:-1], -1)


class _Folded:
    """A DIN in eval mode with normalisations folded into its layers, to score all items."""

    def __init__(self, din: DIN) -> None:
        self._din = din
        self._of_q_HD, self._of_h_HD, self._of_product_HD = din._pair_weights()
        of_places_WFD, of_q_FD = din._join_weights()
        shift_F, scale_F = _affine(din.join_norm)
        self._of_places_WFD = of_places_WFD * scale_F[:, None]
        self._joined_NF = din.vectors() @ (of_q_FD * scale_F[:, None]).T + (din.join.bias * scale_F + shift_F)
        shift, scale = _affine(din.reduce_norm)
        self._reduce, self._reduce_bias = (din.reduce.weight * scale[:, None]).T, din.reduce.bias * scale + shift

    def score(self, windows_PW: Tensor, out_PN: Tensor) -> None:
        """Write the logits of all items."""
        din = self._din
        items_K, index_PW = torch.unique(windows_PW, return_inverse=True)
        padded = int(items_K[0] == PADDING)
        vectors_KD = din.vectors()[items_K[padded:]]
        weights_KN = self._weights(vectors_KD)
        for row, index_W in enumerate(index_PW - padded):
            places = (index_W >= 0).nonzero().squeeze(1)
            index = index_W[places]
            told_RF = torch.einsum("rd,rfd->rf", vectors_KD[index], self._of_places_WFD[places])
            weights_RN = weights_KN[index]
            for start in range(0, out_PN.shape[1], _PAIRS):
                tile = slice(start, start + _PAIRS)
                x = din.join_dice.fixed_(torch.addmm(self._joined_NF[tile], weights_RN[:, tile].T, told_RF))
                x = din.reduce_dice.fixed_(torch.addmm(self._reduce_bias, x, self._reduce))
                out_PN[row, tile] = torch.addmv(din.score.bias, x, din.score.weight[0])

    def _weights(self, vectors_KD: Tensor) -> Tensor:
        """Of each of K history items for every candidate; [K, N]."""
        din = self._din
        table_ND = din.vectors()
        layers_KHD = self._of_product_HD * vectors_KD[:, None] + self._of_q_HD
        biases_KH = functional.linear(vectors_KD, self._of_h_HD, din.pair.bias)
        weights_KN = table_ND.new_empty(len(vectors_KD), len(table_ND))
        for start in range(0, len(table_ND), _PAIRS):
            q_ND = table_ND[start : start + _PAIRS]
            for at in range(len(vectors_KD)):
                x = din.pair_dice.fixed_(torch.addmm(biases_KH[at], q_ND, layers_KHD[at].T))
                x = din.interest_dice.fixed_(din.interest(x))
                weights_KN[at, start : start + _PAIRS] = torch.addmv(din.weight.bias, x, din.weight.weight[0])
        return weights_KN


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """What a batch normalisation adds, and multiplies by, in eval mode; two [features]."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight
        return norm.bias - norm.running_mean * scale, scale
    return -norm.running_mean * scale, scale
