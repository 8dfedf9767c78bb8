"""Reads the key files of the providers. What is wrong with a file is said by the name of its setting, never by its content."""

import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key


class ProviderSettingsError(ValueError):
    """A provider cannot be opened as it is set; the message names the setting and says why."""


def read_p256_key(setting: str, file: str) -> EllipticCurvePrivateKey:
    """The private key in a PEM file. Raises ProviderSettingsError."""
    try:
        key = load_pem_private_key(_read(setting, file), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ProviderSettingsError(f"{setting}: {file} is no private key in PEM without a passphrase") from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ProviderSettingsError(f"{setting}: the key in {file} is not of the curve P-256")
    return key


def read_json(setting: str, file: str) -> dict[str, Any]:
    """The object in a JSON file. Raises ProviderSettingsError."""
    try:
        found = json.loads(_read(setting, file))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ProviderSettingsError(f"{setting}: {file} is no JSON object")
    return found


def _read(setting: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ProviderSettingsError(f"{setting}: {file} cannot be read: {error.strerror}") from error
