"""State: the newest version, pinned and immutable."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TYPE_CHECKING, Any, Literal

from theus import _theus
from theus.errors import ConflictError, TheusError

if TYPE_CHECKING:
    from theus._engine import Engine
    from theus.errors import Path

    _Change = Literal["added", "replaced", "removed"]

_forget_leaves = _theus.forget_leaves
_REVERSED: dict[str, _Change] = {"added": "removed", "removed": "added", "replaced": "replaced"}


def items_of(changes: Any) -> list[tuple[Path, Any]]:
    """What update() is given, as pairs of path and value."""
    if not hasattr(changes, "items"):
        raise TypeError(f"update() takes a dict {{path: value}}, not {type(changes).__name__}")
    return list(changes.items())


class State(Mapping[Any, Any]):
    """One version of the whole state, kept for as long as this object (or a part of it) lives.

    Values are as in `engine.snapshot()`: plain where they cannot be changed, read-only proxies
    where they could; a write raises ReadOnlyError. May be used from any thread, and in a forked
    child: that holds the version on its own. (TheusError there if no slot was left for it.)
    """

    __slots__ = ("__weakref__", "_engine", "_root", "_version")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._root: Any
        self._root, self._version = engine._state_root()

    def __del__(self) -> None:
        _forget_leaves(getattr(self, "_root", None))

    @property
    def version(self) -> int:
        """The version's number."""
        return self._version

    def __getitem__(self, key: Any) -> Any:
        return self._root[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._root)

    def __len__(self) -> int:
        return len(self._root)

    def __contains__(self, key: object) -> bool:
        return key in self._root

    def __reversed__(self) -> Iterator[Any]:
        result: Iterator[Any] = reversed(self._root)
        return result

    # As a dict's views; they keep the State's version.
    def keys(self) -> KeysView[Any]:
        result: KeysView[Any] = self._root.keys()
        return result

    def values(self) -> ValuesView[Any]:
        result: ValuesView[Any] = self._root.values()
        return result

    def items(self) -> ItemsView[Any, Any]:
        result: ItemsView[Any, Any] = self._root.items()
        return result

    def __eq__(self, other: object) -> bool:
        if isinstance(other, State) and other._engine is self._engine:
            if other._version == self._version:
                return True
        return bool(self._root == other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"State({self._engine.name!r}, version={self._version})"

    def __copy__(self) -> State:
        return self

    def __deepcopy__(self, memo: object) -> State:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (self.to_dict(),)

    def to_dict(self) -> dict[Any, Any]:
        """Returns plain objects all the way down; arrays as read-only views that stay valid.

        DecodeError, with the path, for a leaf whose class cannot be imported.
        """
        result: dict[Any, Any] = _theus.plain(self._root)
        return result

    def diff(self, other: State) -> dict[Path, _Change]:
        """Returns what makes `other` of this State: {path: "added" | "replaced" | "removed"}.

        Found by versions, without looking at values: a leaf that was written counts as replaced,
        also by an equal value, and so does one that was removed and added again. Mappings that lie
        in both States are looked into; one that was added, removed or replaced as a whole (also by
        `clear()` or by an equal dict) is one path. Takes as long as there are changes, and entries
        in the mappings that lead to them.

        The order is that of the newer of the two: depth first, each mapping's entries as they
        stand there, then those that only the older one has. Paths are strings where these
        round-trip, otherwise tuples. TheusError when the States are of two engines, or the
        coordinator was lost between them.

            >>> engine.update({"price": 1, "orders": {"o1": {"qty": 3}, "o2": {}}})
            >>> before = engine.state
            >>> after = before.update({"orders.o1.qty": 4, "orders.o3": {"qty": 1}})
            >>> before.diff(after)
            {'orders.o1.qty': 'replaced', 'orders.o3': 'added'}
            >>> after.diff(before)
            {'orders.o1.qty': 'replaced', 'orders.o3': 'removed'}
        """
        if not isinstance(other, State):
            raise TypeError(f"diff() compares two States, not with {type(other).__name__}")
        if other._engine is not self._engine:
            raise TheusError("these States are of two engines; compare States of one")
        if self._version <= other._version:
            return _theus.difference(self._root, other._root)
        changes = _theus.difference(other._root, self._root)
        return {path: _REVERSED[change] for path, change in changes.items()}

    def update(self, changes: Mapping[Path, Any]) -> State:
        """Commits {path: value, ...}, each path replaced on its own, and returns the next State.

        Raises ConflictError, and writes nothing, if one of these paths, or anything below one, has
        changed since this State's version. What is returned is the newest version, so it may have
        later changes of others, too. Other errors as for Engine.update().

            >>> engine.write("total", 1)
            >>> state = engine.state
            >>> state.update({"total": state["total"] + 1})["total"]
            2
            >>> state.update({"total": 9})
            Traceback (most recent call last):
            ...
            theus.errors.ConflictError: total was changed (version 2 > state 1); nothing was ...
        """
        paths = [(_theus.parse_path(path), value) for path, value in items_of(changes)]
        self._engine.run(self._replace, paths)
        return State(self._engine)

    def _replace(self, ctx: Any, changes: list[tuple[tuple[Any, ...], Any]]) -> None:
        for path, _ in changes:
            newer = _theus.changed_since(ctx, path, self._version, self._has(path))
            if newer is not None:
                raise self._conflict(path, newer)
        for path, value in changes:
            ctx.write(path, value)

    def _has(self, path: tuple[Any, ...]) -> bool:
        node = self._root
        for key in path:
            if _theus.parts(node)[0] is not None or not isinstance(node, Mapping):
                return False
            if key not in node:
                return False
            node = node[key]
        return True

    def _conflict(self, path: tuple[Any, ...], version: int) -> ConflictError:
        spelled = _theus.spell_path(path)
        newer = f"version {version} > " if version else "it was deleted after "
        error = ConflictError(
            f"{spelled} was changed ({newer}state {self._version}); nothing was written; take a "
            "new engine.state and decide again"
        )
        error.paths = (spelled,)
        error.snapshot_version = self._version
        error.version = version or None
        return error
