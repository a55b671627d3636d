"""The reference that is made from the docstrings: without a warning, and with every public name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import nprnn
from nprnn import checkpoint, distributed, gradcheck, insight, interop, plot, schedules, weights

pytest.importorskip("sphinx")
SOURCE = Path(__file__).parents[1] / "docs" / "reference"
if not SOURCE.exists():
    pytest.skip("runs in a checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(SOURCE), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return "".join(path.read_text("utf-8") for path in folder.glob("*.html"))


def test_every_public_name_is_there(pages):
    described = set(re.findall(r'id="(nprnn\.[\w.]+)"', pages))
    expected = {f"nprnn.{name}" for name in nprnn.__all__ if name not in ("gradcheck", "schedules")}
    for module in (checkpoint, distributed, gradcheck, insight, interop, plot, schedules, weights):
        public = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
            and callable(value) and value.__doc__
        ]  # fmt: skip
        assert public
        expected |= {f"{module.__name__}.{name}" for name in public}
    expected |= {"nprnn.cells.Cell.backward", "nprnn.RNN.forward", "nprnn.RNN.backward",
                 "nprnn.LanguageModel.generate", "nprnn.SGD.step",
                 "nprnn.testing.assert_gradients"}  # fmt: skip
    missing = expected - described
    assert not missing
