"""No method of Gorse's client is forgotten."""

import inspect

from gorse import AsyncGorse, Gorse

from tests.app.gorse import test_feedback, test_items, test_lists


def methods_of(client: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}


def test_every_method_of_both_clients_is_called() -> None:
    tests = "".join(inspect.getsource(module) for module in (test_feedback, test_items, test_lists))
    called = {method for method in methods_of(Gorse) if f'call("{method}"' in tests or f'("{method}", (' in tests}
    assert called == methods_of(Gorse) == methods_of(AsyncGorse)
