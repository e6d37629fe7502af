"""``import skygen`` is light, and its public names are there."""

import subprocess
import sys

import pytest

import skygen

HEAVY = ("torch", "numpy", "PIL", "diffusers", "transformers", "open_clip", "gradio")


def test_importing_skygen_loads_nothing_heavy() -> None:
    script = f"import sys, skygen; print([name for name in {HEAVY} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_reading_pairs_needs_no_torch() -> None:
    script = "import sys, skygen; skygen.read_pairs; skygen.score_captions; skygen.Seeds(0); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_each_public_name_is_what_it_says() -> None:
    found = {name: getattr(skygen, name) for name in skygen.__all__}
    assert len(found) == 7
    for name, thing in found.items():
        assert thing.__name__ == name
        assert thing.__module__.startswith("skygen.")
        assert name in dir(skygen)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'skygen' has no attribute 'Skorer'"):
        getattr(skygen, "Skorer")  # noqa: B009  # a type checker refuses it as an attribute
