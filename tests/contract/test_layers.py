"""Who may import whom."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_app_and_offline_meet_only_in_model_store():
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


def test_the_light_half_of_the_contract_needs_no_torch():
    light = "bundle cache_entries cache_keys catalog code_tokens item_codes manifest prefix_trie prompts"
    imports = "; ".join(f"import model_store.{module}" for module in light.split())
    check = "import sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'redis', 'fastapi')))"
    subprocess.run([sys.executable, "-c", f"{imports}; {check}"], cwd=ROOT, check=True)
