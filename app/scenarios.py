"""Named defaults of a recommendation, from a TOML file that is read at the start.

    [home]
    n = 20
    exclude = ["gift-card"]
    fixed = ["in_stock"]

What a request says takes the place of its scenario's default, but for the names in `fixed`.
"""

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.problems import Problem
from app.schemas import SCENARIO_NAME, RecommendBody, RecommendParameters
from app.settings import Settings
from model_store.errors import TesseraError

_FIXED: Final = "fixed"
_NAMES: Final = frozenset(RecommendParameters.model_fields) - {"scenario"}
_MAX_BYTES: Final = 1 << 20

Parameters = TypeVar("Parameters", bound=RecommendParameters)


class UnknownScenario(Problem):
    """A scenario that TESSERA_SCENARIOS_FILE does not have."""

    status = 422
    name = "unknown-scenario"
    title = "No such scenario"
    detail = "There is no scenario of this name; there are: home, cart."


class FixedByScenario(Problem):
    """A request sets a parameter that its scenario fixes."""

    status = 422
    name = "fixed-by-scenario"
    title = "Fixed by the scenario"
    detail = "Scenario home does not let a request set: in_stock."


class ScenariosInvalid(TesseraError):
    """The file cannot be read, or something in it is not as it must be; the message says what and where."""


@dataclass(frozen=True)
class Scenario:
    """One table of the file.

    Attributes:
        defaults: parameters it sets, by name.
        fixed: parameters that no request may set to anything else; those it does not set have their usual default.
    """

    defaults: Mapping[str, Any]
    fixed: frozenset[str]

    def value(self, name: str) -> Any:
        """What a parameter is where no request sets it."""
        return self.defaults.get(name, RecommendParameters.model_fields[name].default)


class Scenarios:
    """All that are configured; compared by identity.

    Args:
        by_name: the scenarios.
    """

    def __init__(self, by_name: Mapping[str, Scenario]) -> None:
        self._by_name = by_name

    def applied(self, asked: Parameters, given: Collection[str]) -> Parameters:
        """A request with the defaults of its scenario where it says nothing.

        Args:
            asked: the request.
            given: the parameters that it says itself.

        Raises:
            UnknownScenario: no scenario has this name.
            FixedByScenario: it sets what the scenario fixes.
            RequestValidationError: what it says and the scenario's defaults do not go together.
        """
        name = asked.scenario
        if name is None:
            return asked
        if (scenario := self._by_name.get(name)) is None:
            names = ", ".join(self._by_name) or "none"
            raise UnknownScenario(f"There is no scenario of this name; there are: {names}.")
        said = {field: getattr(asked, field) for field in type(asked).model_fields if field in given}
        changed = sorted(field for field in scenario.fixed & said.keys() if said[field] != scenario.value(field))
        if changed:
            raise FixedByScenario(f"Scenario {name} does not let a request set: {', '.join(changed)}.")
        defaults = dict(scenario.defaults)
        if isinstance(asked, RecommendBody) and asked.user_id is None:
            # Nobody is there who could read.
            defaults.pop("write_back_type", None)
        try:
            return type(asked).model_validate(defaults | said)
        except ValidationError as error:
            found = [{**one, "loc": ("scenario", name, *one["loc"])} for one in error.errors(include_url=False)]
            raise RequestValidationError(found) from None


NO_SCENARIOS: Final = Scenarios({})


def read_scenarios(settings: Settings) -> Scenarios:
    """The scenarios of `settings.scenarios_file`; none where it is unset.

    Raises:
        ScenariosInvalid: the file is not as it must be.
    """
    path = settings.scenarios_file
    if path is None:
        return NO_SCENARIOS
    tables = _tables(path)
    return Scenarios({name: _read(path, name, table, settings.types_of_reads) for name, table in tables.items()})


def _tables(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ScenariosInvalid(f"{path}: larger than {_MAX_BYTES} bytes")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ScenariosInvalid(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ScenariosInvalid(f"{path}: not TOML: {error}") from None


def _read(path: Path, name: str, table: Any, read_types: frozenset[str]) -> Scenario:
    where = f"{path} [{name}]"
    if not re.fullmatch(SCENARIO_NAME, name):
        raise ScenariosInvalid(f"{where}: a name has up to 64 letters, digits, '_', '.' and '-'")
    if not isinstance(table, dict):
        raise ScenariosInvalid(f"{where}: expected a table of parameters")
    values = {key: value for key, value in table.items() if key != _FIXED}
    for key in values:
        if key not in _NAMES:
            raise ScenariosInvalid(f"{where} {key}: no parameter of /recommend; there are: {_list(_NAMES)}, {_FIXED}")
    fixed = table.get(_FIXED, [])
    if not isinstance(fixed, list) or not all(isinstance(one, str) for one in fixed):
        raise ScenariosInvalid(f"{where} {_FIXED}: expected a list of names of parameters")
    if unknown := [one for one in fixed if one not in _NAMES]:
        raise ScenariosInvalid(
            f"{where} {_FIXED}: {unknown[0]} is no parameter of /recommend; there are: {_list(_NAMES)}"
        )
    try:
        read = RecommendParameters.model_validate(values)
    except ValidationError as error:
        one = error.errors(include_url=False)[0]
        key = ".".join(map(str, one["loc"]))
        raise ScenariosInvalid(f"{where}{' ' * bool(key)}{key}: {one['msg']}") from None
    if read.write_back_type is not None and read.write_back_type not in read_types:
        raise ScenariosInvalid(
            f"{where} write_back_type: {read.write_back_type} is none of TESSERA_READ_TYPES ({_list(read_types)})"
        )
    return Scenario({key: getattr(read, key) for key in values}, frozenset(fixed))


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
