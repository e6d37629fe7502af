"""Content Credentials: what is signed says that a model made it, and shows when it was changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.generation.provenance import DIGITAL_SOURCE_TYPE, read_label, save_synthetic
from skygen.generation.signing import read_credential, sign

RECORD = {"text": "a pier", "seed": 7, "base": "miniature", "synthetic": True}
ENDINGS = [".png", ".jpg", ".webp"]


def test_without_the_library_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    expected = (
        r"^Content Credentials need the library c2pa-python, which is not installed; run `pip install skygen\[signed\]`.$"
    )
    with pytest.raises(UnavailableError, match=expected):
        sign(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.pem", tmp_path / "k.pem")
    with pytest.raises(UnavailableError, match=expected):
        read_credential(tmp_path / "a.png")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``chain.pem`` and ``key.pem`` of a certificate for tests, which a root made here has issued."""
    pytest.importorskip("c2pa", reason="c2pa-python is not installed: pip install skygen[signed]")
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate for this test, is not installed")
    folder = tmp_path_factory.mktemp("keys")
    (folder / "root.cnf").write_text("basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
    (folder / "own.cnf").write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=critical,emailProtection\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("root", "own"):
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", f"{name}.key")
        openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN=Test {name}/O=Test", "-out", f"{name}.csr")
    made = ("-days", "2", "-extfile")
    openssl("x509", "-req", "-in", "root.csr", "-signkey", "root.key", *made, "root.cnf", "-out", "root.pem")
    issuer = ("-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial")
    openssl("x509", "-req", "-in", "own.csr", *issuer, *made, "own.cnf", "-out", "own.pem")
    (folder / "chain.pem").write_bytes((folder / "own.pem").read_bytes())
    (folder / "key.pem").write_bytes((folder / "own.key").read_bytes())
    return folder


def draw(path: Path) -> Path:
    save_synthetic(Image.fromarray(np.arange(12288, dtype=np.uint8).reshape(64, 64, 3)), path, RECORD)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_signed_copy_says_that_a_model_made_it(ending: str, keys: Path, tmp_path: Path) -> None:
    path, output = draw(tmp_path / f"a{ending}"), tmp_path / f"signed{ending}"
    before = path.read_bytes()
    assert read_credential(path) is None
    sign(path, output, keys / "chain.pem", keys / "key.pem")
    credential = read_credential(output)
    assert credential is not None
    assert (credential.is_whole, credential.is_trusted, credential.signer) == (True, False, "Test own")
    assert credential.source_type == DIGITAL_SOURCE_TYPE
    assert credential.tool.startswith("skygen ")
    assert path.read_bytes() == before
    assert read_label(output) == read_label(path)
    assert len(output.read_bytes()) - len(before) < 30_000
    with Image.open(path) as first, Image.open(output) as second:
        assert np.array_equal(np.asarray(first), np.asarray(second))


def test_a_changed_picture_is_no_longer_whole(keys: Path, tmp_path: Path) -> None:
    sign(draw(tmp_path / "a.jpg"), tmp_path / "b.jpg", keys / "chain.pem", keys / "key.pem")
    data = bytearray((tmp_path / "b.jpg").read_bytes())
    data[-100] ^= 1
    (tmp_path / "b.jpg").write_bytes(data)
    credential = read_credential(tmp_path / "b.jpg")
    assert credential is not None
    assert not credential.is_whole


def test_what_cannot_be_signed_is_explained(keys: Path, tmp_path: Path) -> None:
    path, chain, key = draw(tmp_path / "a.png"), keys / "chain.pem", keys / "key.pem"
    with pytest.raises(ConfigError, match=r"^algorithm 'md5': C2PA has none of this name; give one of es256, es384, "):
        sign(path, tmp_path / "b.png", chain, key, algorithm="md5")
    for name in ("b.jpg", "a.png"):
        with pytest.raises(
            ConfigError, match=rf"{name}: give another name than a.png with the same ending for the signed copy"
        ):
            sign(path, tmp_path / name, chain, key)
    with pytest.raises(UnavailableError, match=r"none.pem: the key cannot be read \(No such file or directory\); give a PEM"):
        sign(path, tmp_path / "b.png", chain, keys / "none.pem")
    for wrong_chain, wrong_key in ((key, key), (chain, chain), (keys / "root.pem", keys / "root.key")):
        with pytest.raises(ConfigError, match=r"a.png: cannot be signed with .* and .* \(.+\); give a PEM chain with a certif"):
            sign(path, tmp_path / "b.png", wrong_chain, wrong_key)
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(
        DataError, match=r"plain.png: carries no label of a synthetic picture, so there is nothing to vouch for"
    ):
        sign(tmp_path / "plain.png", tmp_path / "b.png", chain, key)
    assert {file.name for file in tmp_path.iterdir()} == {"a.png", "plain.png"}
