"""Short descriptions of proxies, for logs and debuggers."""

from __future__ import annotations

import reprlib
from typing import Any

from theus import _theus

_ITEMS_SHOWN = 8

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = _ITEMS_SHOWN
_short.maxlevel = 3


def _path(path: tuple[object, ...]) -> str:
    spelled = _theus.spell_path(path)
    return spelled if isinstance(spelled, str) else repr(spelled)


def node_repr(proxy: Any, path: tuple[object, ...]) -> str:
    # The keys only: a value's own repr may be long, and to look at it is a read.
    keys: list[str] = []
    for key in proxy:
        if len(keys) == _ITEMS_SHOWN:
            keys.append("...")
            break
        keys.append(_short.repr(key))
    return f"<SupervisorProxy of {_path(path)}: dict with keys {', '.join(keys) or 'none'}>"


def leaf_repr(proxy: Any, leaf: Any, target: Any, path: tuple[object, ...]) -> str:
    value = leaf.content if target is None else target
    return f"<SupervisorProxy of {_path(path)}: {_short.repr(value)}>"


def ended_repr(path: tuple[object, ...]) -> str:
    return f"<SupervisorProxy of {_path(path)}, which cannot be read here and now>"
