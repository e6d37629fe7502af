"""Pickles that run code where pickle reads them, or that are no plain data: each would make a folder, or do worse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def binary(raw: bytes) -> bytes:
    return b"B" + len(raw).to_bytes(4, "little") + raw


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return apply(named(module, name), *arguments)


def apply(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def under(key: str, value: bytes) -> bytes:
    """Put a value into a dictionary: a meta with one key."""
    return b"\x80\x04}" + text(key) + value + b"s."


def script(canary: str) -> bytes:
    return text(f"__import__('os').mkdir({canary!r})")


@dataclass(frozen=True, slots=True)
class Hostile:
    """A value that should make the folder ``canary``, what ``names`` in it is refused, and whether pickle would make it."""

    value: Callable[[str], bytes]
    names: str
    fires: bool = True


IMPORT_OS = call("builtins", "__import__", text("os"))
HOSTILE = {
    "system": Hostile(lambda at: call("os", "system", text(f"mkdir {at}")), "os.system"),
    "posix": Hostile(lambda at: call("posix", "system", text(f"mkdir {at}")), "posix.system"),
    "stack global": Hostile(lambda at: apply(text("os") + text("mkdir") + b"\x93", text(at)), "os.mkdir"),
    "memo": Hostile(lambda at: text("mkdir") + b"\x940" + apply(text("os") + b"h\x00\x93", text(at)), "os.mkdir"),
    "nested": Hostile(lambda at: call("builtins", "exec", call("builtins", "str", script(at))), "builtins.exec"),
    "eval": Hostile(lambda at: call("builtins", "eval", script(at)), "builtins.eval"),
    "python 2": Hostile(lambda at: b"\x80\x02" + call("__builtin__", "eval", script(at)), "__builtin__.eval"),
    "getattr": Hostile(lambda at: apply(call("builtins", "getattr", IMPORT_OS, text("mkdir")), text(at)), "builtins.getattr"),
    "getter": Hostile(lambda at: apply(apply(call("operator", "attrgetter", text("mkdir")), IMPORT_OS), text(at)),
                      "operator.attrgetter"),
    "caller": Hostile(lambda at: apply(call("operator", "methodcaller", text("mkdir"), text(at)), IMPORT_OS),
                      "operator.methodcaller"),
    "partial": Hostile(lambda at: apply(call("functools", "partial", named("os", "mkdir"), text(at))), "functools.partial"),
    "setstate": Hostile(lambda at: apply(call("functools", "partial", named("builtins", "list"))
                                         + b"(" + named("os", "mkdir") + text(at) + b"\x85}Ntb"), "functools.partial"),
    "run": Hostile(lambda at: call("subprocess", "check_call", b"(" + text("mkdir") + text(at) + b"l"),
                   "subprocess.check_call"),
    "process": Hostile(lambda at: call("subprocess", "Popen", text("mkdir " + at)), "subprocess.Popen", fires=False),
    "made at once": Hostile(lambda at: b"(" + text(at) + b"ios\nmkdir\n", "os.mkdir"),
    "object": Hostile(lambda at: b"(" + named("os", "mkdir") + text(at) + b"o", "os.mkdir"),
    "new object": Hostile(lambda at: named("subprocess", "Popen") + text(at) + b"\x85\x81", "subprocess.Popen", fires=False),
    "thread": Hostile(lambda at: call("threading", "Timer", b"K\x00", named("os", "mkdir")), "threading.Timer", fires=False),
    "dotted": Hostile(lambda at: apply(text("os") + text("path.os.mkdir") + b"\x93", text(at)), "os.path.os.mkdir"),
    "map": Hostile(lambda at: call("builtins", "list", call("builtins", "map", named("os", "mkdir"), text(at) + b"\x85")),
                   "builtins.list"),
    "inner pickle": Hostile(lambda at: call("pickle", "loads", binary(call("os", "mkdir", text(at)) + b".")), "pickle.loads"),
    "codecs": Hostile(lambda at: call("builtins", "eval", call("codecs", "decode", script(at), text("unicode_escape"))),
                      "builtins.eval"),
    "decode": Hostile(lambda at: call("codecs", "decode", script(at), text("rot13")), "codecs.decode", fires=False),
    "import": Hostile(lambda at: call("importlib", "import_module", text("this")), "importlib.import_module", fires=False),
    "module": Hostile(lambda at: call("builtins", "__import__", text("antigravity")), "builtins.__import__", fires=False),
    "script": Hostile(lambda at: call("runpy", "run_path", text(at)), "runpy.run_path", fires=False),
    "compile": Hostile(lambda at: call("types", "FunctionType", text(at)), "types.FunctionType", fires=False),
    "file": Hostile(lambda at: call("io", "open", text(at), text("w")), "io.open", fires=False),
    "delete": Hostile(lambda at: call("shutil", "rmtree", text(at)), "shutil.rmtree", fires=False),
    "installer": Hostile(lambda at: call("pip", "main", b"]"), "pip.main", fires=False),
    "browser": Hostile(lambda at: call("webbrowser", "open", text("file://" + at)), "webbrowser.open", fires=False),
    "array file": Hostile(lambda at: call("numpy", "load", text(at), b"N\x88"), "numpy.load", fires=False),
    "tests": Hostile(lambda at: call("numpy.testing", "runstring", script(at), b"}"), "numpy.testing.runstring", fires=False),
    "array": Hostile(lambda at: call("numpy._core.multiarray", "_reconstruct"),
                     "numpy._core.multiarray._reconstruct", fires=False),
    "tensor": Hostile(lambda at: b"(Pstorage\ntctorch\n_utils\n", "", fires=False),
    "attribute of an allowed name": Hostile(lambda at: text("numpy") + text("dtype.__class__") + b"\x93",
                                            "numpy.dtype.__class__", fires=False),
    "look-alike": Hostile(lambda at: text("nump\u0443") + text("dtype") + b"\x93", r"nump\u0443.dtype", fires=False),
    "no text": Hostile(lambda at: b"K\x01K\x02\x93", "?.?", fires=False),
}  # fmt: skip
FIRING = [kind for kind, hostile in HOSTILE.items() if hostile.fires]
