"""URIs under patterns: what a URI matches, found without looking at what it doesn't.

Exact URIs are one dict lookup. Prefixes are prefixes of the *text* (`a.job.4` matches
`a.job.42.status`, as WAMP wants it) and are looked up by each length that occurs. Wildcards are a
tree by component, in which an empty component takes any one component.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

import attrs

EXACT = "exact"
PREFIX = "prefix"
WILDCARD = "wildcard"
POLICIES = (EXACT, PREFIX, WILDCARD)

T = TypeVar("T")


@attrs.define(eq=False)
class _Node(Generic[T]):
    children: "dict[str, _Node[T]]" = attrs.field(factory=dict)
    value: T | None = None


class Patterns(Generic[T]):
    """One value for each pattern under each policy."""

    def __init__(self) -> None:
        #: For the one lookup that most messages need.
        self.exact: dict[str, T] = {}
        self._prefixes: dict[str, T] = {}
        self._lengths: Counter[int] = Counter()
        self._ascending: list[int] = []  #: those lengths
        self._wildcards: dict[str, T] = {}
        self._tree: _Node[T] = _Node()

    @property
    def patterned(self) -> bool:
        """Are there any but exact ones?"""
        return bool(self._prefixes or self._wildcards)

    def __len__(self) -> int:
        return len(self.exact) + len(self._prefixes) + len(self._wildcards)

    def of(self, policy: str) -> dict[str, T]:
        """What stands under a policy, by pattern. Not to be changed."""
        return {EXACT: self.exact, PREFIX: self._prefixes, WILDCARD: self._wildcards}[policy]

    def get(self, pattern: str, policy: str) -> T | None:
        """What stands under just this pattern and policy."""
        return self.of(policy).get(pattern)

    def put(self, pattern: str, policy: str, value: T) -> None:
        """Adds a pattern that isn't there yet."""
        self.of(policy)[pattern] = value
        if policy == PREFIX:
            self._lengths[len(pattern)] += 1
            self._ascending = sorted(self._lengths)
        elif policy == WILDCARD:
            node = self._tree
            for component in pattern.split("."):
                child = node.children.get(component)
                if child is None:
                    child = node.children[component] = _Node()
                node = child
            node.value = value

    def remove(self, pattern: str, policy: str) -> None:
        """Takes out a pattern that is there."""
        del self.of(policy)[pattern]
        if policy == PREFIX:
            self._lengths[len(pattern)] -= 1
            if not self._lengths[len(pattern)]:
                del self._lengths[len(pattern)]
                self._ascending = sorted(self._lengths)
        elif policy == WILDCARD:
            self._prune(pattern.split("."))

    def patterns_matching(self, uri: str) -> Iterator[T]:
        """The prefixes (shortest first), then the wildcards, that match the URI."""
        if self._prefixes:
            for length in self._ascending:
                value = self._prefixes.get(uri[:length]) if length <= len(uri) else None
                if value is not None:
                    yield value
        if self._wildcards:
            yield from self._wildcards_matching(uri)

    def matching(self, uri: str) -> list[T]:
        """All that match the URI: the exact one, then `patterns_matching`."""
        exact = self.exact.get(uri)
        found = [] if exact is None else [exact]
        found.extend(self.patterns_matching(uri))
        return found

    def any_matches(self, uri: str) -> bool:
        """Whether `matching` would give any."""
        if uri in self.exact:
            return True
        return self.patterned and any(True for _ in self.patterns_matching(uri))

    def best(self, uri: str) -> T | None:
        """The one to take for a URI: the exact one, else the longest prefix, else the wildcard
        whose literal components go on longest, counted from the left."""
        found = self.exact.get(uri)
        if found is not None or not self.patterned:
            return found
        for length in reversed(self._ascending):
            found = self._prefixes.get(uri[:length]) if length <= len(uri) else None
            if found is not None:
                return found
        return next(self._wildcards_matching(uri), None)

    def _wildcards_matching(self, uri: str) -> Iterator[T]:
        """Best first: of two that match, the one with a literal where they first differ."""
        components = uri.split(".")
        waiting = [(self._tree, 0)]
        while waiting:
            node, depth = waiting.pop()
            if depth == len(components):
                if node.value is not None:
                    yield node.value
                continue
            for step in ("", components[depth]):  # the literal is taken first: it is on top
                child = node.children.get(step)
                if child is not None:
                    waiting.append((child, depth + 1))

    def _prune(self, components: list[str]) -> None:
        path = [self._tree]
        for component in components:
            path.append(path[-1].children[component])
        path[-1].value = None
        for parent, component in zip(reversed(path[:-1]), reversed(components), strict=True):
            child = parent.children[component]
            if child.children or child.value is not None:
                return
            del parent.children[component]
