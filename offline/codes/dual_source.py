"""Codes from two sources: two tokens that say where an item's text is, and two that say where its behaviour is.

Follows the dual-source indices of EAGER-LLM (arXiv:2502.14735): a balanced tree over each source (see
`offline.codes.balanced_tree`), their tokens put together. A node branches 256 ways; where there are 256 items or fewer,
ceil(sqrt(N)) ways, since a single level would leave a source one token that no two items share.

With 256 branches and up to 65,536 items the two tokens of the source that comes first name the item already: under a
trie the other two never decide anything, they are only read. The report says so as `single_child_nodes`. Fewer
`entries` than sqrt(N) leave several items in a leaf, for the other source to tell apart.

`text` and `behaviour` are codes of one source, for comparison. Their last two levels say nothing: they are 0 unless
items share a leaf. So a code is as long as any other, a history takes as many tokens, and what differs is what they
say; and the levels that say nothing have the room for new items next to the items they are like. A tree of four levels
would have been another method.

Shapes: N items, D size of text and behaviour side by side, L levels, K branches of a node.
"""

import numpy as np
from numpy.typing import NDArray

from model_store.code_assignment import make_unique
from model_store.item_codes import CODEBOOK_SIZE, LEVEL_LETTERS
from offline.codes.balanced_tree import balanced_tree
from offline.codes.config import CodesConfig
from offline.codes.quantization import Quantization, at_nearest_entry, collision_report, unexplained

_LEVELS = {
    "text-first": (("text", 0), ("text", 1), ("behaviour", 0), ("behaviour", 1)),
    "behaviour-first": (("behaviour", 0), ("behaviour", 1), ("text", 0), ("text", 1)),
    "interleaved": (("text", 0), ("behaviour", 0), ("text", 1), ("behaviour", 1)),
    "text": (("text", 0), ("text", 1)),
    "behaviour": (("behaviour", 0), ("behaviour", 1)),
}
"""Source and depth in its tree of each level, by `codes.order`."""


def dual_source_codes(vectors_ND: NDArray[np.float32], text_size: int, config: CodesConfig, seed: int) -> Quantization:
    """Give every item a unique code.

    Every item shapes the trees, those without training events included, since each needs its place in them.

    Args:
        vectors_ND: text and behaviour side by side, as `codes.input = "concat"` makes them.
        text_size: how many of the D columns are text.
        config: settings.
        seed: everything drawn depends on it alone.

    Raises:
        TesseraError: a vector is not finite.
    """
    count, size = vectors_ND.shape
    branching = config.branching_for(count)
    levels = _LEVELS[config.order]
    columns = {"text": slice(0, text_size), "behaviour": slice(text_size, size)}
    trees = {
        source: balanced_tree(vectors_ND[:, columns[source]], branching, config.iterations, seed, config.labels)
        for source in dict.fromkeys(source for source, _ in levels)
    }
    raw = np.zeros((count, len(LEVEL_LETTERS)), dtype=np.uint8)
    codebooks = np.zeros((len(LEVEL_LETTERS), CODEBOOK_SIZE, size), dtype=np.float32)
    for level, (source, depth) in enumerate(levels):
        raw[:, level] = trees[source].labels_N2[:, depth]
        codebooks[level, :branching, columns[source]] = trees[source].centres_2KD[depth]
    codes, moved = make_unique(raw, vectors_ND, codebooks, branching)
    leaves = {source: np.unique(tree.labels_N2, axis=0, return_counts=True)[1] for source, tree in trees.items()}
    quantized = codebooks[np.arange(len(LEVEL_LETTERS)), codes].sum(axis=1)
    return Quantization(
        codes_NL=codes,
        codebooks_LCD=codebooks,
        vectors_ND=vectors_ND,
        report={
            **collision_report(raw, codes, branching, moved),
            "unexplained_variance": unexplained(vectors_ND - quantized, vectors_ND, None),
            "order": config.order,
            "items_per_leaf": {source: [int(sizes.min()), int(sizes.max())] for source, sizes in leaves.items()},
            "share_at_nearest_entry": at_nearest_entry(raw, vectors_ND, codebooks, branching),
        },
    )
