"""Two autoencoders with latents of one size: of what an encoder of histories knows of an item, and of its text.

Training draws the two latents of an item together (see `offline.rankers.matching`). Then either stands for the item:
that of its vector where people have met it, that of its text where nobody has.

Shapes: B items, D size of an item's vector, X of its text vector, Z of a latent.
"""

from torch import Tensor, nn


class JointAutoencoders(nn.Module):
    """Encoders of one layer with a sigmoid, decoders of one layer.

    Args:
        vector_size: D.
        text_size: X.
        size: Z.
    """

    def __init__(self, vector_size: int, text_size: int, size: int) -> None:
        super().__init__()
        self.item_encoder = nn.Sequential(nn.Linear(vector_size, size), nn.Sigmoid())
        self.item_decoder = nn.Linear(size, vector_size)
        self.text_encoder = nn.Sequential(nn.Linear(text_size, size), nn.Sigmoid())
        self.text_decoder = nn.Linear(size, text_size)

    def of_vectors(self, vectors_BD: Tensor) -> Tensor:
        """Latents of item vectors; [B, Z]."""
        return self.item_encoder(vectors_BD)  # type: ignore[no-any-return]

    def of_texts(self, texts_BX: Tensor) -> Tensor:
        """Latents of text vectors; [B, Z]."""
        return self.text_encoder(texts_BX)  # type: ignore[no-any-return]
