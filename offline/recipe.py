"""A recipe: every choice of a training run, from a TOML file and `--set` overrides.

Each stage's settings are a frozen dataclass beside that stage; a recipe puts them together. Unknown keys and wrong
types are errors that name the key, so that a typo cannot silently leave a default in place.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_store.collaborative.configs import EncoderConfig, SASRecConfig
from model_store.errors import TesseraError
from model_store.text_encoder import TextConfig
from offline.annealing import AnnealingConfig
from offline.codes.config import CodesConfig
from offline.codes.joint_embedding import JointConfig
from offline.codes.text_targets import check_alignment
from offline.collaborative.kinds import config_of_kind
from offline.language_model import LanguageModelConfig
from offline.language_model_training.global_contrast import ContrastConfig
from offline.tasks.task_mix import TaskConfig
from offline.train_language_model import TrainingConfig

RECIPES_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True, kw_only=True)
class RankingConfig:
    """What the served ranking is made of."""

    collaborative_weight: float = 0.0
    """The teacher's share of an item's score; the rest is the language model's."""

    def __post_init__(self) -> None:
        if not 0 <= self.collaborative_weight < 1:
            raise TesseraError(
                f"recipe: ranking.collaborative_weight must be at least 0 and below 1, not {self.collaborative_weight}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of every stage of `tessera train`."""

    name: str
    seed: int = 0
    max_history: int = 48
    """Items of a history that the language model reads. With a multiple of 8 a full prompt leaves one token beyond the
    blocks that vLLM shares between beams, not up to 31."""
    text: TextConfig = field(default_factory=TextConfig)
    collaborative: EncoderConfig = field(default_factory=SASRecConfig)
    """Gives the behaviour vectors that codes are made from, and a row of every evaluation."""
    teacher: EncoderConfig | None = None
    """Whose opinion is distilled into the language model; the collaborative encoder's where nothing is said."""
    joint: JointConfig = field(default_factory=JointConfig)
    codes: CodesConfig = field(default_factory=CodesConfig)
    language_model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tasks: TaskConfig = field(default_factory=lambda: TaskConfig(share=0.0))
    """Off in a recipe that says nothing of tasks."""
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    annealing: AnnealingConfig = field(default_factory=AnnealingConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)

    def __post_init__(self) -> None:
        check_alignment(self.codes, self.language_model.llm)
        if self.annealing.epochs:
            self.annealing.after(self.training)

    def as_dict(self) -> dict[str, Any]:
        """Every setting, for the manifest."""
        return dataclasses.asdict(self)


def load_recipe(name_or_file: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by name (one that comes with Tessera) or from a TOML file, then apply `key=value` overrides.

    Keys of an override are dotted: `training.epochs=5`, `language_model.llm=scratch:tiny`, `seed=3`.

    Raises:
        TesseraError: no such recipe, not TOML, an unknown key, or a value of the wrong type.
    """
    content = read_recipe(name_or_file, RECIPES_FOLDER)
    _forget_other_kinds(content, overrides or [])
    for override in overrides or []:
        apply_override(content, override)
    recipe = build_settings(Recipe, content)
    assert isinstance(recipe, Recipe)
    return recipe


def read_recipe(name_or_file: str, folder: Path) -> dict[str, Any]:
    """The content of a recipe, by its name in a folder of recipes or from a TOML file; it always has a name.

    Raises:
        TesseraError: no such recipe, or not TOML.
    """
    path = Path(name_or_file) if name_or_file.endswith(".toml") else folder / f"{name_or_file}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise TesseraError(
            f"recipe {name_or_file!r}: no file {path}; recipes that come with Tessera: {known}"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise TesseraError(f"{path}: not TOML: {error}") from None
    content.setdefault("name", path.stem)
    return content


def _forget_other_kinds(content: dict[str, Any], overrides: list[str]) -> None:
    """Let an override that names another kind of encoder start from that kind's defaults, not the file's settings."""
    for override in overrides:
        key, _, kind = override.partition("=")
        section = key.strip().removesuffix(".kind")
        if section not in ("collaborative", "teacher") or not isinstance(settings := content.get(section), dict):
            continue
        if kind.strip(" \"'") != settings.get("kind", SASRecConfig.kind):
            content[section] = {}


def apply_override(content: dict[str, Any], override: str) -> None:
    """Write a `key=value` with a dotted key into a recipe's content.

    Raises:
        TesseraError: it is not of that form.
    """
    key, equals, value = override.partition("=")
    if not equals:
        raise TesseraError(f"--set {override!r}: expected key=value, for example training.epochs=5")
    *parents, last = key.strip().split(".")
    table = content
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise TesseraError(f"--set {override!r}: {parent} is a value, not a section")
    try:
        table[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = value.strip()


def build_settings(kind: Any, content: dict[str, Any], where: str = "") -> Any:
    """A settings dataclass from a recipe's content, sections and all; `where` is the section's name and a dot.

    Raises:
        TesseraError: an unknown key, or a value of the wrong type.
    """
    if kind is EncoderConfig:
        kind, content = config_of_kind(content, where)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    values = {}
    for key, value in content.items():
        dotted = f"{where}{key}"
        if key not in fields:
            raise TesseraError(f"recipe: unknown setting {dotted!r}; known here: {', '.join(sorted(fields))}")
        expected = EncoderConfig if fields[key].type == EncoderConfig | None else fields[key].type
        if dataclasses.is_dataclass(expected):
            if not isinstance(value, dict):
                raise TesseraError(f"recipe: {dotted} is a section, not a value")
            values[key] = build_settings(expected, value, where=f"{dotted}.")
        else:
            values[key] = _checked(value, expected, dotted)
    return kind(**values)


def _checked(value: Any, expected: Any, dotted: str) -> Any:
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise TesseraError(f"recipe: {dotted} must be {expected.__name__}, not {value!r}")
    return value
