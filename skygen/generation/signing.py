"""Content Credentials: a signed statement inside a picture that a model made it (C2PA 2, https://spec.c2pa.org).

A label can be edited by anybody; a signature shows who has vouched for it, and breaks when the picture is changed. It needs
``c2pa-python``, and a certificate of one's own for signing content: X.509 with the extended key usage ``emailProtection`` or
``documentSigning``, issued by an authority. One that programs do not know is shown by them as untrusted.
"""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, final

from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.generation.provenance import read_label
from skygen.generation.xmp import DIGITAL_SOURCE_TYPE
from skygen.storage import writing

ALGORITHMS: Final = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")
"""Of C2PA: ECDSA, RSA-PSS and EdDSA, with the hash that goes with the key."""
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},  # 150 kB to 300 kB in every file of 512 pixels a side
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}


@final
@dataclass(frozen=True, slots=True)
class Credential:
    """What the statement inside a picture says.

    Args:
        is_whole: whether the picture is, byte for byte, what was signed.
        is_trusted: whether the certificate is one that the library was told to trust; it is told none here.
        signer: whom the certificate names.
        source_type: of the action that made the picture, IPTC's term; empty where it is not told.
        tool: the program that made it.
    """

    is_whole: bool
    is_trusted: bool
    signer: str
    source_type: str
    tool: str


def sign(path: Path, output: Path, certificate: Path, key: Path, *, algorithm: str = "es256") -> None:
    """Write a signed copy of a labelled picture; its pixels and its label are as they were.

    The copy has other bytes at every signing, since the statement has an id and a time: sign what is to be published, and
    leave the folder of samples as it is. No authority of time stamps is asked, so that nothing is sent anywhere.

    Args:
        path: a PNG, JPEG or WebP of ``save_synthetic``.
        output: another name with the same ending; written whole or not at all.
        certificate: PEM, one's own first, then those that issued it, but for the root.
        key: PEM, PKCS#8 without a password.
        algorithm: one of ``ALGORITHMS``, that of the key.

    Raises:
        UnavailableError: the library, the picture, the certificate or the key is not there.
        ConfigError: the algorithm, the certificate or the key cannot be used, or the output is no other name of that ending.
        DataError: the picture carries no label, or is damaged.
        StorageError: the disk is full or refuses.
    """
    library = _load_library()
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"algorithm {algorithm!r}: C2PA has none of this name; give one of {', '.join(ALGORITHMS)}.")
    if output.suffix.lower() != path.suffix.lower() or output.resolve() == path.resolve():
        raise ConfigError(f"{output}: give another name than {path.name} with the same ending for the signed copy.")
    label = read_label(path)
    kind = _TYPES.get(path.suffix.lower())
    if label is None or kind is None:
        raise DataError(f"{path}: carries no label of a synthetic picture, so there is nothing to vouch for; draw it anew.")
    chain, secret = _read(certificate, "certificate"), _read(key, "key")
    manifest = _write_manifest(label.source_type, path.name)
    with writing(output) as temporary:
        try:
            signer = library.Signer.from_info(library.C2paSignerInfo(algorithm, chain, secret, None))
            with (
                signer,
                library.Context.from_dict(_SETTINGS) as context,
                library.Builder(manifest, context=context) as builder,
                path.open("rb") as source,
                temporary.open("w+b") as target,
            ):
                builder.sign(signer, kind, source, target)
        except (library.C2paError, ValueError) as error:
            raise ConfigError(
                f"{path}: cannot be signed with {certificate} and {key} ({_shorten(error)}); give a PEM chain with a "
                f"certificate for signing content, and its {algorithm} key."
            ) from error


def read_credential(path: Path) -> Credential | None:
    """Read and check the statement inside a picture; nothing is asked of the network.

    Returns:
        What it says; None where there is none.

    Raises:
        UnavailableError: the library or the picture is not there.
        DataError: no picture, or its statement cannot be read.
    """
    library = _load_library()
    if not path.is_file():
        raise UnavailableError(f"{path}: there is no such file; give a picture.")
    kind = _TYPES.get(path.suffix.lower(), "image/png")
    try:
        with (
            path.open("rb") as file,
            library.Context.from_dict(_SETTINGS) as context,
            library.Reader(kind, file, context=context) as reader,
        ):
            told = json.loads(reader.json())
    except library.C2paError.ManifestNotFound:
        return None
    except library.C2paError as error:
        raise DataError(f"{path}: its Content Credentials cannot be read ({_shorten(error)}); sign it anew.") from error
    active = told["manifests"][told["active_manifest"]]
    actions = [
        action
        for assertion in active.get("assertions", ())
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"].get("actions", ())
        if action.get("action") == "c2pa.created"
    ]
    made = actions[0] if actions else {}
    agent = made.get("softwareAgent") or {}
    named = f"{agent.get('name', '')} {agent.get('version', '')}".strip() if isinstance(agent, dict) else str(agent)
    signed_by = active.get("signature_info", {})
    state = told.get("validation_state")
    return Credential(
        state in ("Valid", "Trusted"),
        state == "Trusted",
        signed_by.get("common_name") or signed_by.get("issuer") or "",
        made.get("digitalSourceType", ""),
        named,
    )


def _write_manifest(source_type: str, title: str) -> dict[str, Any]:
    """Write the claim: made by this program, with a model."""
    agent = {"name": "skygen", "version": importlib.metadata.version("skygen")}
    made = {"action": "c2pa.created", "digitalSourceType": source_type or DIGITAL_SOURCE_TYPE, "softwareAgent": agent}
    return {
        "claim_generator_info": [agent],
        "title": title,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [made]}}],
    }


def _load_library() -> Any:
    try:
        return import_module("c2pa")
    except ImportError as error:
        raise UnavailableError(
            "Content Credentials need the library c2pa-python, which is not installed; run `pip install skygen[signed]`."
        ) from error


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"{path}: the {what} cannot be read ({error.strerror}); give a PEM file.") from error


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
