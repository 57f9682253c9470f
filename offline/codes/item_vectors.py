"""What is known of every item as vectors, and which of it is quantized.

Shapes: N items, X text size, Y behaviour size, D joint size, P principal components of text.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.quantizer import input_vectors
from offline.codes.config import CodesConfig

_RIDGE = 1.0
"""Of the map from text to behaviour, in units of the text's variance along an average axis."""


@dataclass(frozen=True)
class ItemVectors:
    """The vectors of a catalogue.

    Attributes:
        text_NX: float32, by the text encoder.
        behaviour_NY: float32, by the collaborative encoder.
        joint_ND: float32, unit length.
        known_N: bool, items with training events; the behaviour of the others means nothing.
    """

    text_NX: NDArray[np.float32]
    behaviour_NY: NDArray[np.float32]
    joint_ND: NDArray[np.float32]
    known_N: NDArray[np.bool_]

    def chosen(self, config: CodesConfig) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        """What `config.input` names, and the arrays that give the same of a new item (see `input_vectors`).

        Each side is centred and scaled to a mean squared length of 1 over the known items, so that in `concat` both
        weigh the same.
        """
        if config.input == "joint":
            return self.joint_ND, {}
        arrays = self._text_arrays(config) | self._behaviour_arrays(config)
        sides = input_vectors(arrays, self.text_NX, self.behaviour_NY, self.known_N)
        if config.input == "all":
            sides = np.concatenate([self.joint_ND, sides], axis=1, dtype=np.float32)
        return sides, arrays

    def _text_arrays(self, config: CodesConfig) -> dict[str, NDArray[np.float32]]:
        text = self.text_NX[self.known_N]
        arrays = {"input.text_mean": text.mean(axis=0)}
        if config.input != "behaviour":
            centred = text - arrays["input.text_mean"]
            axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, : config.text_size]
            arrays["input.text_axes"] = np.ascontiguousarray(axes * _to_unit_length(centred @ axes))
        return arrays

    def _behaviour_arrays(self, config: CodesConfig) -> dict[str, NDArray[np.float32]]:
        if config.input == "text":
            return {}
        text, behaviour = self.text_NX[self.known_N], self.behaviour_NY[self.known_N]
        mean = behaviour.mean(axis=0)
        centred = behaviour - mean
        text = text - text.mean(axis=0)
        covariance = text.T @ text
        ridge = _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        return {
            "input.behaviour_mean": mean,
            "input.behaviour_scale": _to_unit_length(centred),
            "input.text_to_behaviour": np.linalg.solve(covariance + ridge, text.T @ centred).astype(np.float32),
        }


def _to_unit_length(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """The factor that makes the mean squared length 1; float32 []."""
    return np.asarray(1 / np.sqrt(max(float((vectors_ND**2).sum(axis=1).mean()), 1e-12)), dtype=np.float32)
