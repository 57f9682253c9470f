import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from offline.codes.cascaded_codebooks import CascadedCodebooks
from offline.codes.config import CascadeConfig
from offline.codes.train_cascade import Plateau, alignment_targets, revive, start_from_clusters, train_cascade
from tests.offline.codes.made_items import QUICK, made_vectors, quick_config

LONGER = dataclasses.replace(QUICK, epochs=25, patience=5)


def a_cascade(vectors_ND, entries=16, text_size=None, config=QUICK):
    torch.manual_seed(0)
    model = CascadedCodebooks(vectors_ND.shape[1], entries, text_size, config)
    model.standardise_by(torch.from_numpy(vectors_ND))
    return model, model.standardised(torch.from_numpy(vectors_ND))


def quantization_loss(model, inputs):
    with torch.no_grad():
        return model.losses(inputs, None, "none")[0].quantization.item()


def test_starting_from_clusters_reconstructs_better_than_starting_at_random():
    vectors = made_vectors(300)[0].joint_ND
    model, inputs = a_cascade(vectors)
    with torch.no_grad():
        encoded = model.encoder(inputs)
        model.codebooks_LCZ.copy_(encoded.mean(0) + encoded.std() * torch.randn_like(model.codebooks_LCZ))
    at_random = quantization_loss(model, inputs)
    start_from_clusters(model, inputs, iterations=10, seed=0)
    assert quantization_loss(model, inputs) < 0.5 * at_random


def test_the_reconstruction_reaches_the_encoder_through_the_codes_and_leaves_the_entries_alone():
    model, inputs = a_cascade(made_vectors(100)[0].joint_ND)
    start_from_clusters(model, inputs, iterations=5, seed=0)
    model.losses(inputs, None, "none")[0].reconstruction.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.encoder.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.decoder.parameters())
    assert model.codebooks_LCZ.grad is None


def test_the_quantization_loss_pulls_each_entry_to_its_own_items():
    model, inputs = a_cascade(made_vectors(100)[0].joint_ND)
    start_from_clusters(model, inputs, iterations=1, seed=0)
    losses, codes = model.losses(inputs, None, "none")
    losses.quantization.backward()
    with torch.no_grad():
        quantized = model.quantize(model.encoder(inputs))
        for level in range(4):
            for entry in codes[:, level].unique():
                mine = codes[:, level] == entry
                towards = quantized.residual_BLZ[mine, level].mean(0) - model.codebooks_LCZ[level, entry]
                step = -model.codebooks_LCZ.grad[level, entry]
                assert towards.norm() < 1e-4 or functional.cosine_similarity(towards, step, dim=0) > 0.99


@pytest.mark.parametrize("encoder", ["mlp", "identity"])
def test_alignment_reaches_the_entries_whatever_the_encoder(encoder):
    vectors = made_vectors(100)[0]
    model, inputs = a_cascade(vectors.joint_ND, text_size=24, config=dataclasses.replace(QUICK, encoder=encoder))
    start_from_clusters(model, inputs, iterations=5, seed=0)
    targets = alignment_targets(torch.from_numpy(vectors.text_NX))
    model.losses(inputs, targets, "infonce")[0].alignment.backward()
    assert model.codebooks_LCZ.grad.abs().sum() > 0


@pytest.mark.parametrize("alignment", ["infonce", "cosine"])
def test_alignment_brings_a_quantized_item_nearer_to_its_own_text_than_to_others(alignment):
    vectors, kind_of = made_vectors(300)
    config = quick_config(kind="codebooks", alignment=alignment, cascade=LONGER)
    model, _ = train_cascade(vectors.joint_ND, vectors.text_NX, vectors.known_N, config, seed=0)
    with torch.no_grad():
        inputs = model.standardised(torch.from_numpy(vectors.joint_ND))
        seen = model.projection(model.quantize(model.encoder(inputs)).chosen_BLZ.sum(1))
        targets = alignment_targets(torch.from_numpy(vectors.text_NX))
        cosines = (functional.normalize(seen, dim=-1) @ targets.T).numpy()
    own = np.diag(cosines).mean()
    others = cosines[kind_of[:, None] != kind_of[None, :]].mean()
    assert own > 0.4
    assert others < 0.1


def test_entries_that_nobody_takes_restart_where_they_are_needed():
    vectors = made_vectors(200)[0].joint_ND
    model, inputs = a_cascade(vectors)
    start_from_clusters(model, inputs, iterations=10, seed=0)
    optimizer = torch.optim.AdamW(model.parameters())
    model.losses(inputs, None, "none")[0].quantization.backward()
    optimizer.step()
    with torch.no_grad():
        model.codebooks_LCZ[1, :5] += 1000
    taken = functional.one_hot(model.quantize(model.encoder(inputs)).codes_BL, 16).any(0)
    assert not taken[1, :5].any()
    before = quantization_loss(model, inputs)

    revived = revive(model, optimizer, inputs, ~taken, torch.Generator().manual_seed(0))
    assert revived == (~taken).sum()
    after = functional.one_hot(model.quantize(model.encoder(inputs)).codes_BL, 16).any(0)
    assert after[1, :5].sum() >= 3
    assert quantization_loss(model, inputs) < before
    assert not optimizer.state[model.codebooks_LCZ]["exp_avg"][1, :5].any()


def test_nothing_is_revived_where_every_entry_is_taken():
    model, inputs = a_cascade(made_vectors(200)[0].joint_ND)
    start_from_clusters(model, inputs, iterations=10, seed=0)
    before = model.codebooks_LCZ.clone()
    everything_taken = torch.zeros(4, 16, dtype=torch.bool)
    assert revive(model, torch.optim.AdamW(model.parameters()), inputs, everything_taken, torch.Generator()) == 0
    assert torch.equal(model.codebooks_LCZ, before)


def test_training_improves_on_its_start_and_reports_how_far_it_got():
    vectors = made_vectors(300)[0]
    shortest = dataclasses.replace(LONGER, epochs=1)
    first, longer = (
        train_cascade(
            vectors.joint_ND,
            None,
            vectors.known_N,
            quick_config(kind="codebooks", alignment="none", cascade=cascade),
            0,
        )[1]
        for cascade in (shortest, LONGER)
    )
    assert longer["reconstruction"] < 0.8 * first["reconstruction"]
    assert first["epochs"] == 1
    assert first["alignment"] == 0


def test_training_ends_on_a_plateau():
    """K-means codebooks of an identity encoder are as good as they get before training starts."""
    vectors = made_vectors(200)[0]
    cascade = dataclasses.replace(QUICK, encoder="identity", epochs=200, patience=3, learning_rate=1e-5)
    config = quick_config(kind="codebooks", alignment="none", cascade=cascade, iterations=50)
    _, record = train_cascade(vectors.joint_ND, None, vectors.known_N, config, seed=0)
    assert record["epochs"] < 30


def test_the_first_plateau_is_told_and_the_second_ends():
    plateau = Plateau(patience=2)
    told = [plateau.first_after(loss) for loss in (3.0, 2.0, 2.0, 1.9999, 1.5, 1.6, 1.5)]
    assert told == [False, False, False, True, False, False, False]
    assert plateau.over
    assert plateau.epochs == 7


def test_layers_of_the_encoder_halve_down_to_its_output_and_the_decoder_mirrors_them():
    model = CascadedCodebooks(10, 4, None, CascadeConfig(hidden=256, size=32))
    widths = [(layer.in_features, layer.out_features) for layer in model.encoder if hasattr(layer, "in_features")]
    assert widths == [(10, 256), (256, 128), (128, 64), (64, 32)]
    mirrored = [(layer.in_features, layer.out_features) for layer in model.decoder if hasattr(layer, "in_features")]
    assert mirrored == [(size_out, size_in) for size_in, size_out in reversed(widths)]
