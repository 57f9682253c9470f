"""Steering is a bias on soft keys in a layer's softmax, whatever the architecture, and nothing where it is 0."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    Qwen3Config,
)

from model_store.errors import TesseraError
from model_store.rankers.attention_steering import AttentionSteering
from model_store.rankers.depth_pattern import DepthPatternConfig, depth_biases, segments
from model_store.rankers.soft_prompt import Slot, SoftPrompt
from model_store.rankers.soft_prompt_model import SoftPromptModel
from tests.model_store.rankers.small_rankers import small_tokenizer

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
ARCHITECTURES: dict[str, Any] = {
    "gpt-neox": lambda **words: GPTNeoXConfig(**words, **SIZES),
    "gpt2": lambda **words: GPT2Config(**words, n_embd=32, n_layer=3, n_head=2),
    "qwen3": lambda **words: Qwen3Config(**words, **SIZES, num_key_value_heads=1, head_dim=16),
    "llama": lambda **words: LlamaConfig(**words, **SIZES, num_key_value_heads=1),
}
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
BIASES = (-1.5, 0.0, 2.0)


def plain(architecture: str, attention: str = "sdpa") -> SoftPromptModel:
    tokenizer = small_tokenizer()
    torch.manual_seed(0)
    config = ARCHITECTURES[architecture](vocab_size=len(tokenizer), initializer_range=0.3)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    return SoftPromptModel(model.eval(), tokenizer)


def steered(architecture: str, biases: tuple[float, ...]) -> SoftPromptModel:
    model = plain(architecture)
    return SoftPromptModel(model.model, model.tokenizer, AttentionSteering(model.model, biases))


def prompts() -> tuple[list[SoftPrompt], dict[str, Tensor]]:
    """Of different lengths, the last without a soft token."""
    made = [
        SoftPrompt.of([7, 8], Slot("user", 0), [9, 10, 11], Slot("item", 4), [12, 13]),
        SoftPrompt.of([7], Slot("user", 1), [9], Slot("item", 5), [12]),
        SoftPrompt.of([7, 20, 21]),
    ]
    random = torch.Generator().manual_seed(1)
    return made, {kind: torch.randn(2, 32, generator=random) for kind in ("user", "item")}


def states(model: SoftPromptModel, *, pad_left: bool = False) -> tuple[Tensor, Tensor]:
    made, soft = prompts()
    batch = model.embed(made, soft, pad_left=pad_left)
    with torch.no_grad():
        return model.hidden(batch)[batch.real_BT], batch.soft_BT


def in_eager_layers(model: SoftPromptModel, biases: tuple[float, ...], soft_BK: Tensor) -> list[Any]:
    """Hooks that write the biases into the masks of a model whose attention is spelled out."""
    layers = [module for module in model.model.modules() if hasattr(module, "layer_idx")]
    layers = [module for module in layers if "ttention" in type(module).__name__]
    assert [module.layer_idx for module in layers] == [0, 1, 2]

    def hook(bias: float) -> Any:
        def write(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, kwargs | {
                "attention_mask": kwargs["attention_mask"] + bias * soft_BK[:, None, None, :].float()
            }

        return write

    return [
        module.register_forward_pre_hook(hook(bias), with_kwargs=True)
        for module, bias in zip(layers, biases, strict=True)
    ]


def test_one_layer_is_the_softmax_that_the_formula_says() -> None:
    config = LlamaConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    torch.manual_seed(2)
    language_model = SoftPromptModel(AutoModelForCausalLM.from_config(config).eval(), small_tokenizer())
    layer = language_model.model.model.layers[0].self_attn
    noted: dict[str, Tensor] = {}
    layer.register_forward_pre_hook(
        lambda _, __, given: noted.update(x=given["hidden_states"], cos=given["position_embeddings"][0],
                                          sin=given["position_embeddings"][1]),
        with_kwargs=True,
    )  # fmt: skip
    layer.register_forward_hook(lambda _, __, out: noted.update(out=out[0]))
    model = SoftPromptModel(
        language_model.model, language_model.tokenizer, AttentionSteering(language_model.model, (0.7,))
    )
    prompt = SoftPrompt.of([3, 4], Slot("user", 0), [5, 6])
    steering = model.steering
    assert isinstance(steering, AttentionSteering)
    with torch.no_grad(), steering.recording() as shares:
        model.hidden(model.embed([prompt], {"user": torch.randn(1, 8)}))
    x = noted["x"][0]

    def rotated(vectors: Tensor) -> Tensor:
        halves = torch.cat([-vectors[:, 4:], vectors[:, :4]], dim=1)
        return vectors * noted["cos"][0] + halves * noted["sin"][0]

    with torch.no_grad():
        q, k, v = rotated(layer.q_proj(x)), rotated(layer.k_proj(x)), layer.v_proj(x)
        expected, mass = [], []
        for p in range(5):
            weights = torch.tensor([torch.exp(q[p] @ k[j] / 8**0.5 + 0.7 * (j == 2)) for j in range(p + 1)])
            weights = weights / weights.sum()
            mass.append(float(weights[2]) if p >= 2 else 0.0)
            expected.append(layer.o_proj(weights @ v[: p + 1]))
    torch.testing.assert_close(noted["out"][0], torch.stack(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shares[0][0], torch.tensor(mass), atol=1e-5, rtol=1e-5)


@every_architecture
@pytest.mark.parametrize("pad_left", [False, True])
def test_every_architecture_computes_what_its_spelled_out_attention_does(architecture: str, pad_left: bool) -> None:
    found, soft_BT = states(steered(architecture, BIASES), pad_left=pad_left)
    eager = plain(architecture, "eager")
    in_eager_layers(eager, BIASES, soft_BT)
    expected, _ = states(eager, pad_left=pad_left)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - states(plain(architecture), pad_left=pad_left)[0]).abs().max() > 0.01


@every_architecture
def test_neutral_layers_change_nothing_at_all(architecture: str) -> None:
    assert torch.equal(states(steered(architecture, (0.0,) * 3))[0], states(plain(architecture))[0])


@every_architecture
def test_prompts_without_soft_tokens_are_read_as_ever(architecture: str) -> None:
    text = [SoftPrompt.of([5, 6, 7]), SoftPrompt.of([8])]
    with torch.no_grad():
        found, expected = (m.hidden(m.embed(text, {})) for m in (steered(architecture, BIASES), plain(architecture)))
    assert torch.equal(found[0], expected[0])


@every_architecture
def test_endings_behind_a_steered_prefix_are_what_whole_prompts_are(architecture: str) -> None:
    model = steered(architecture, BIASES)
    users = [SoftPrompt.of([7, 8, 9], Slot("user", 0), [10]), SoftPrompt.of(Slot("user", 1), [11])]
    endings = [SoftPrompt.of([12], Slot("item", 4), [13]), SoftPrompt.of([14, 15, 16, 17], Slot("item", 5))]
    random = torch.Generator().manual_seed(1)
    soft = {kind: torch.randn(2, 32, generator=random) for kind in ("user", "item")}
    rows = [0, 1, 1, 0]
    parts = [endings[number] for number in (0, 0, 1, 1)]
    items = soft["item"][[0, 0, 1, 1]]
    with torch.no_grad():
        prefix = model.prefill(model.embed(users, {"user": soft["user"]}, pad_left=True)).rows(torch.tensor(rows))
        found = model.extend(prefix, model.embed(parts, {"item": items}))
        whole = [users[row] + part for row, part in zip(rows, parts, strict=True)]
        expected = model.hidden(model.embed(whole, {"user": soft["user"][rows], "item": items}))
    for number, (row, part) in enumerate(zip(rows, parts, strict=True)):
        first = len(users[row])
        torch.testing.assert_close(
            found[number, : len(part)], expected[number, first : first + len(part)], atol=1e-4, rtol=1e-4
        )


@every_architecture
def test_shares_rise_with_the_bias_and_are_those_of_spelled_out_attention(architecture: str) -> None:
    made, soft = prompts()
    found = {}
    for bias in (-2.0, 0.0, 2.0):
        model = steered(architecture, (bias,) * 3)
        steering = model.steering
        assert isinstance(steering, AttentionSteering)
        with torch.no_grad(), steering.recording() as shares:
            batch = model.embed(made, soft)
            model.hidden(batch)
        found[bias] = shares[0][batch.real_BT & (batch.soft_BT.cumsum(1) > 0)]
    assert (found[-2.0] < found[0.0]).all()
    assert (found[0.0] < found[2.0]).all()
    eager = plain(architecture, "eager")
    with torch.no_grad():
        batch = eager.embed(made, soft)
        weights = eager.model.base_model(
            inputs_embeds=batch.vectors_BTH, attention_mask=batch.real_BT.long(), output_attentions=True
        ).attentions[0]
    expected = (weights * batch.soft_BT[:, None, None, :]).sum(-1).mean(1)
    seen = batch.real_BT & (batch.soft_BT.cumsum(1) > 0)
    torch.testing.assert_close(found[0.0], expected[seen], atol=1e-5, rtol=1e-5)


def test_gradients_go_through_steered_attention() -> None:
    model = steered("gpt-neox", BIASES)
    made, soft = prompts()
    soft = {kind: vectors.requires_grad_() for kind, vectors in soft.items()}
    hidden = model.hidden(model.embed(made, soft))
    # A sum alone is what the last norm makes it.
    (hidden * torch.randn(hidden.shape)).sum().backward()  # type: ignore[no-untyped-call]
    for vectors in soft.values():
        assert vectors.grad is not None
        assert (vectors.grad.abs().sum(1) > 0).all()


def test_a_layer_that_cannot_be_steered_is_named() -> None:
    model = steered("gpt2", BIASES)
    model.model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match=r"layers \[0, 1, 2\] do not attend"):
        states(model)
    with pytest.raises(ValueError, match="2 biases for 3 layers"):
        AttentionSteering(model.model, (1.0, 2.0))


@pytest.mark.parametrize(
    ("layers", "sizes"),
    [(28, (8, 14, 6)), (24, (7, 12, 5)), (10, (3, 5, 2)), (3, (1, 1, 1)), (2, (1, 0, 1)), (1, (0, 1, 0))],
)
def test_depth_is_thirty_fifty_and_twenty_per_cent(layers: int, sizes: tuple[int, int, int]) -> None:
    found = segments(layers, DepthPatternConfig())
    assert tuple(map(len, found)) == sizes
    assert [layer for segment in found for layer in segment] == list(range(layers))


def test_patterns_are_what_their_letters_say() -> None:
    assert depth_biases(10, DepthPatternConfig(suppress=2.0, enhance=3.0)) == (-2, -2, -2, 0, 0, 0, 0, 0, 1.5, 3)
    assert depth_biases(10, DepthPatternConfig(pattern="ENS")) == pytest.approx(
        (1 / 3, 2 / 3, 1, 0, 0, 0, 0, 0, -1, -1)
    )
    assert depth_biases(10, DepthPatternConfig(pattern="NNN")) == (0,) * 10
    for wrong in ("SN", "SNX", "sne"):
        with pytest.raises(TesseraError, match="must be three of"):
            DepthPatternConfig(pattern=wrong)
    with pytest.raises(TesseraError, match="below 0"):
        DepthPatternConfig(suppress=-1.0)
    with pytest.raises(TesseraError, match="more than 1"):
        DepthPatternConfig(shallow_share=0.9)
