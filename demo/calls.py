"""What a call of a served page may hold: JSON that is whole, files that were uploaded, and values that fit the components.

What fits no component ends as an unexplained error in gradio, and it fetches an address that is given as a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

_KINDS: Final[dict[str, tuple[str, tuple[type, ...]]]] = {
    "string": ("text", (str,)),
    "number": ("a number", (int, float)),
    "integer": ("a number", (int, float)),
    "boolean": ("true or false", (bool,)),
}
"""What components say of their values, as JSON schema does; of lists and files gradio's own models say more."""
_NO_FUNCTION: Final = "There is no such function on this page; see /gradio_api/info."


class Refusal(Exception):
    """A request is not let in.

    Args:
        status: of HTTP.
        detail: is told to whoever sent it: a sentence, or one entry for each value in the way of gradio's validators.
    """

    def __init__(self, status: int, detail: str | list[dict[str, Any]]) -> None:
        super().__init__(status, detail)
        self.status = status
        self.body = json.dumps({"detail": detail}).encode()


def read_call(body: bytes) -> Any:
    """Read JSON, more strictly than Python does.

    Returns:
        The value.

    Raises:
        Refusal: it is malformed, or nested too deeply, or has a number that is not finite, or half of a character.
    """

    def refuse(word: str) -> NoReturn:
        raise Refusal(400, f"{word.strip('-')} is no number of JSON.")

    try:
        call = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError):  # also bytes that are no UTF-8, and numbers of thousands of digits
        raise Refusal(400, "This is no JSON that can be read.") from None
    for value in _walk(call):
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _unfit("A text has half of a character (a lone surrogate).")
        if isinstance(value, float) and not math.isfinite(value):
            raise _unfit("A number is not finite.")
    return call


def check_files(call: Any, is_held: Callable[[str], bool]) -> None:
    """Refuse files that were not uploaded.

    Args:
        call: as it was read.
        is_held: tells whether a path is one of an upload, or of what was made here.

    Raises:
        Refusal: a path leads elsewhere, or an address is to be fetched.
    """
    for given in _walk(call):
        if not isinstance(given, dict) or not isinstance(given.get("path") or given.get("url"), str):
            continue
        path, url = given.get("path"), given.get("url")
        links = url is None or (isinstance(url, str) and url.startswith(("http:", "https:", "/")))  # not "data:"
        if not links or not isinstance(path, str) or not is_held(path):
            raise _unfit("A file is given by uploading it first; paths and addresses are not followed.")


def check_named(functions: dict[int, Any], name: list[str], call: Any) -> None:
    """Refuse a call of a function by name that cannot be answered; the arguments are those of ``check_numbered``.

    Args:
        functions: of the page by number, as ``gr.Blocks.fns`` has them.
        name: pieces of the path behind ``call``.
        call: as it was read.

    Raises:
        Refusal: there is no such function, or the values do not fit it.
    """
    for function in functions.values():
        if name == [function.api_name] and function.api_visibility != "private":
            parts = list(function.inputs)
            shown = [part for part in parts if not part.skip_api]
            values = _values(call)
            _check_values(shown if len(values) == len(shown) else parts, values)
            return
    raise Refusal(404, _NO_FUNCTION)


def check_numbered(functions: dict[int, Any], call: Any) -> None:
    """Refuse a call of a function by number, as the page itself makes it.

    Args:
        functions: of the page by number, as ``gr.Blocks.fns`` has them.
        call: as it was read.

    Raises:
        Refusal: there is no such function, or the values do not fit it.
    """
    values, number = _values(call), call.get("fn_index")
    function = functions.get(number) if type(number) is int else None
    if function is None:
        raise Refusal(404, _NO_FUNCTION)
    _check_values(list(function.inputs), values)


def _values(call: Any) -> list[Any]:
    values = call.get("data") if isinstance(call, dict) else None
    if not isinstance(values, list) or call.get("batched"):
        raise _unfit("A call is an object of JSON with a list of values, named data.")
    return values


def _check_values(parts: list[Any], values: list[Any]) -> None:
    if len(values) != len(parts):
        raise _unfit(f"This function takes {len(parts)} values; {len(values)} were given.")
    found = [_misfit(part, value) for part, value in zip(parts, values, strict=True)]
    if any(found):
        names = [str(getattr(part, "label", None) or "value") for part in parts]
        raise Refusal(422, [_verdict(name, wrong) for name, wrong in zip(names, found, strict=True)])


def _unfit(wrong: str) -> Refusal:
    return Refusal(422, [_verdict("data", wrong)])


def _verdict(name: str, wrong: str) -> dict[str, Any]:
    """Say of a value what gradio's validators say: its clients show that beside the component."""
    return {"__type__": "validate", "is_valid": not wrong, "parameter_name": name, "message": wrong}


def _misfit(part: Any, value: Any) -> str:
    """Say what is wrong with a value for a component; nothing where it fits, or where it is for others to say."""
    if part.stateful or (value is None and part.get_block_name() != "slider"):
        return ""  # an empty field is null; what that means is for the function to say
    if part.get_block_name() == "image" and not (isinstance(value, dict) and isinstance(value.get("path"), str)):
        return "This has to be a picture that was uploaded."
    words, types = _KINDS.get(str(part.api_info().get("type")), ("", ()))
    if not words or (isinstance(value, types) and (bool in types or not isinstance(value, bool))):
        return ""
    return f"This has to be {words}."


def _walk(value: Any) -> Iterator[Any]:
    """Yield a value of JSON and all in it, keys too."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield one
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
