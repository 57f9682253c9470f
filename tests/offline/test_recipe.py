import pytest

from model_store.errors import TesseraError
from offline.recipe import RECIPES_FOLDER, load_recipe


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES_FOLDER.glob("*.toml")))
def test_every_recipe_that_comes_with_tessera_loads(name):
    assert load_recipe(name).name


def test_overrides_reach_nested_settings_with_their_types():
    recipe = load_recipe(
        "semantic-convergence",
        ["training.epochs=5", "language_model.llm=scratch:tiny", "training.learning_rate=1", "seed=7"],
    )
    assert recipe.training.epochs == 5
    assert recipe.language_model.llm == "scratch:tiny"
    assert recipe.training.learning_rate == 1.0
    assert recipe.seed == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epoch=5", r"unknown setting 'training\.epoch'; known here: .*epochs"),
        ("training.epochs=many", "training.epochs must be int"),
        ("training=5", "training is a section"),
        ("seed.deep=1", "must be int|is a value"),
        ("epochs", "expected key=value"),
        ("language_model.llm=scratch:huge", "scratch:tiny"),
        ("language_model.token_start=zeros", "codebook, projection or random"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_it(override, message):
    with pytest.raises(TesseraError, match=message):
        load_recipe("semantic-convergence", [override])


def test_an_unknown_recipe_lists_those_that_exist():
    with pytest.raises(TesseraError, match="semantic-convergence"):
        load_recipe("semantic-divergence")


def test_a_file_that_is_not_toml_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("seed = = 3")
    with pytest.raises(TesseraError, match=r"mine\.toml: not TOML"):
        load_recipe(str(path))
