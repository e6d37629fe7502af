"""The ways skygen fails on purpose, each with the exit code that a shell or a scheduler sees."""

from __future__ import annotations

from typing import ClassVar


class SkygenError(Exception):
    """A failure that skygen can explain: one sentence that says what, where, and how to mend it.

    A recipe prints the sentence, without a traceback, and ends with ``exit_code``.
    """

    exit_code: ClassVar[int] = 1


class ConfigError(SkygenError):
    """A setting is unknown, has a wrong value, or contradicts another one."""

    exit_code: ClassVar[int] = 2


class DataError(SkygenError):
    """The data cannot be read, or more of it is bad than ``max_bad_fraction`` allows."""

    exit_code: ClassVar[int] = 65


class ArchiveError(DataError):
    """A file, or a member of an archive, cannot be read; the message is a short reason for the ledger of rejects."""


class ImageError(DataError):
    """An image cannot be used; the message is a short reason for the ledger of rejects."""


class UnavailableError(SkygenError):
    """Weights or data are not on this machine and cannot be fetched now."""

    exit_code: ClassVar[int] = 69


class StorageError(SkygenError):
    """The disk is full, or a file cannot be written or read back."""

    exit_code: ClassVar[int] = 74


class Preempted(SkygenError):
    """The run was asked to stop, has saved its state, and continues with the same command."""

    exit_code: ClassVar[int] = 75
