"""Examples that share a row against the same examples alone."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTNeoXModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from model_store.errors import TesseraError
from offline.language_model_training.packed_forward import check_isolation, packed_states

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
WIDE = SIZE | {"intermediate_size": 64, "max_position_embeddings": 64}
GROUPED = WIDE | {"num_key_value_heads": 1}

ARCHITECTURES = {
    "GPT-NeoX": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE)),
    "Qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=16, **GROUPED)),
    "Qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "Llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "GPT-2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0)
    ),
    # It ignores position ids that restart: a mask alone keeps its examples apart.
    "OPT": lambda: OPTForCausalLM(OPTConfig(ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=64, **SIZE)),
}


def rows():
    """Two rows: examples of 7 and 5 tokens, then one of 9 and three tokens of padding."""
    ids = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[*range(7), *range(5)], [*range(9), 0, 0, 0]])
    example = torch.tensor([[0] * 7 + [1] * 5, [2] * 9 + [-1] * 3])
    return ids, positions, example


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_example_has_the_same_loss_in_a_row_as_alone(name):
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().eval()
    ids, positions, example = rows()

    def loss(states, tokens):
        logits = model.get_output_embeddings()(states)
        return torch.nn.functional.cross_entropy(logits[:-1], tokens[1:])

    with torch.no_grad():
        packed = packed_states(model, ids, positions, example)
        assert torch.isfinite(packed).all()
        for number in range(3):
            tokens, states = ids[example == number], packed[example == number]
            alone = model.base_model(input_ids=tokens[None], use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(loss(states, tokens), loss(alone, tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_known_beforehand_that_a_model_keeps_examples_apart(name):
    model = ARCHITECTURES[name]().train()
    check_isolation(model)
    assert model.training


def test_a_model_that_takes_no_mask_of_ours_is_refused():
    model = BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2))
    with pytest.raises(TesseraError, match=r"BloomForCausalLM cannot train on tasks.*tasks\.share=0"):
        check_isolation(model)


class Leaky(GPTNeoXModel):
    """Reads a row as one text."""

    def forward(self, input_ids, use_cache, position_ids=None, attention_mask=None):
        return super().forward(input_ids=input_ids, use_cache=use_cache)


def test_a_model_whose_examples_see_each_other_is_refused():
    model = ARCHITECTURES["GPT-NeoX"]()
    model.gpt_neox = Leaky(model.config)
    with pytest.raises(TesseraError, match="examples of one row see each other"):
        check_isolation(model)
