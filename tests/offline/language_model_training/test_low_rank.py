"""Adapters: what they train, what they leave, and what is left when they are merged or taken out."""

import json

import peft
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from model_store.errors import TesseraError
from offline.language_model_training.checkpoint import trained_weights
from offline.language_model_training.low_rank import (
    LoraConfig,
    add_adapters,
    is_token_row,
    merge_adapters,
    take_out_adapters,
)

VOCABULARY, OLD = 40, 30
NEW = list(range(OLD, VOCABULARY))
IDS = torch.tensor([[1, 2, 30, 31, 39, 5]])


def qwen3(tied: bool):
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            intermediate_size=32,
            tie_word_embeddings=tied,
        )
    )


MODELS = {
    "tied": lambda: qwen3(tied=True),
    "untied": lambda: qwen3(tied=False),
    "GPT-2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    ),
}


@pytest.fixture(params=MODELS)
def tuned(request):
    """A model with adapters after some steps on a made-up loss, its weights before, and the handle to merge it."""
    torch.manual_seed(0)
    model = MODELS[request.param]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapters = add_adapters(model, NEW, LoraConfig(rank=2, dropout=0.0), seed=0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        states = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state
        torch.nn.functional.linear(states, model.get_output_embeddings().weight).square().mean().backward()
        optimizer.step()
    return model, before, adapters


def embeddings(model):
    """Names of the input and the output embedding."""
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    return [next(name for name, module in model.named_modules() if module is table) for table in both]


def test_few_weights_are_trained_and_some_of_them_are_rows_of_new_tokens(tuned):
    model, before, _ = tuned
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = [p for name, p in trained.items() if is_token_row(name)]
    assert {tuple(p.shape) for p in rows} == {(len(NEW), 32)}
    assert all(is_token_row(name) or "lora_" in name for name in trained)
    assert len(trained_weights(model)) == len(trained)
    kinds = {name.split(".")[-4] for name in trained if not is_token_row(name)}
    linear = {name.split(".")[-2] for name, tensor in before.items() if tensor.ndim == 2}
    assert kinds == linear - {"wte", "wpe", "embed_tokens", "lm_head"}


def test_merging_leaves_a_plain_model_that_says_the_same(tuned, tmp_path):
    model, before, adapters = tuned
    model.eval()
    with torch.no_grad():
        head = model.get_output_embeddings()
        states = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state
        expected = torch.nn.functional.linear(states, head.weight, head.bias)
        torch.testing.assert_close(model(input_ids=IDS).logits, expected)
    merge_adapters(model, adapters)
    assert set(model.state_dict()) == set(before)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)
    was_tied = torch.equal(*(before[f"{name}.weight"] for name in embeddings(loaded)))
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == was_tied


def test_old_tokens_stay_what_they_were_and_new_ones_move(tuned):
    model, before, adapters = tuned
    merge_adapters(model, adapters)
    for name in embeddings(model):
        start, end = before[f"{name}.weight"], model.get_submodule(name).weight
        assert torch.equal(end[:OLD], start[:OLD])
        moved = (end[OLD:] - start[OLD:]).abs().amax(dim=1)
        assert (moved[[0, 1, 9]] > 0).all()


def test_an_adapter_taken_out_and_what_it_leaves_say_the_same_together(tuned, tmp_path):
    model, before, adapters = tuned
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
    adapter = take_out_adapters(model, adapters)
    model.save_pretrained(tmp_path)
    adapter.save(tmp_path / "adapter")
    left = AutoModelForCausalLM.from_pretrained(tmp_path)
    rows = {f"{name}.weight" for name in embeddings(left)}
    for name, tensor in left.state_dict().items():
        if name in rows:
            assert torch.equal(tensor[:OLD], before[name][:OLD])
            assert not torch.equal(tensor[OLD:], before[name][OLD:])
        else:
            assert torch.equal(tensor, before[name]), name
    with torch.no_grad():
        assert (left(input_ids=IDS).logits - expected).abs().max() > 1e-3
        whole = peft.PeftModel.from_pretrained(left, tmp_path / "adapter").eval()
        torch.testing.assert_close(whole(input_ids=IDS).logits, expected, atol=1e-5, rtol=1e-5)


def test_an_adapters_folder_is_of_linear_layers_alone_and_the_same_whenever_it_is_written(tuned, tmp_path):
    model, _, adapters = tuned
    adapter = take_out_adapters(model, adapters)
    for name in ("once", "again"):
        adapter.save(tmp_path / name)
    assert {path.name for path in (tmp_path / "once").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in adapter.weights)
    assert adapter.parameters == sum(weight.numel() for weight in adapter.weights.values()) > 0
    config = json.loads((tmp_path / "once" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["trainable_token_indices"]) == ("LORA", 2, None)
    assert config["base_model_name_or_path"] is None, "no path of the machine it was trained on"
    assert config["target_modules"] == sorted(config["target_modules"])


def test_a_head_with_a_bias_is_refused():
    model = PhiForCausalLM(PhiConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(TesseraError, match=r"PhiForCausalLM has a bias.*training\.method=full"):
        add_adapters(model, NEW, LoraConfig(), seed=0)


@pytest.mark.parametrize(("setting", "value"), [("rank", 0), ("dropout", 1.0)])
def test_settings_that_make_no_sense_are_named(setting, value):
    with pytest.raises(TesseraError, match=rf"training\.lora\.{setting}"):
        LoraConfig(**{setting: value})
