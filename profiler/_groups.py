"""Operators in groups that run as one: what both tracers cut networks into layers with."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Generic, TypeVar

__all__ = ["Groups"]

T = TypeVar("T", bound=Hashable)


class Groups(Generic[T]):
    """Operators in groups, by union and find; any hashable stands for an operator. Final.

    Args:
        nodes: in an order in which each one's arguments come first.
    """

    def __init__(self, nodes: Sequence[T]) -> None:
        self._nodes = list(nodes)
        self._parent = {node: node for node in nodes}

    def __contains__(self, node: T) -> bool:
        return node in self._parent

    def find(self, node: T) -> T:
        """Return the member that stands for the group of ``node``."""
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def unite(self, first: T, second: T) -> None:
        """Put two operators, and all that are with them, into one group."""
        self._parent[self.find(second)] = self.find(first)

    def unite_cycles(self, edges: Sequence[tuple[T, T]]) -> None:
        """Unite groups that need each other's results: none of them could run first."""
        for component in self._components(edges):
            for node in component[1:]:
                self.unite(component[0], node)

    def in_order(self, edges: Sequence[tuple[T, T]]) -> list[list[T]]:
        """Return each group's members in order, the groups in an order in which each one's inputs come first."""
        members: dict[T, list[T]] = {}
        for node in self._nodes:
            members.setdefault(self.find(node), []).append(node)
        return [members[self.find(component[0])] for component in self._components(edges)]

    def _components(self, edges: Sequence[tuple[T, T]]) -> list[list[T]]:
        """Return the strongly connected components of the graph of groups, in topological order (Tarjan 1972)."""
        place = {node: i for i, node in enumerate(self._nodes)}
        before: dict[T, dict[T, None]] = {self.find(node): {} for node in self._nodes}
        for source, reader in edges:
            if self.find(source) != self.find(reader):
                before[self.find(reader)][self.find(source)] = None
        last = dict.fromkeys(before, 0)
        for node in self._nodes:
            last[self.find(node)] = place[node]
        index: dict[T, int] = {}
        low: dict[T, int] = {}
        stack: list[T] = []
        on_stack: set[T] = set()
        found: list[list[T]] = []
        for start in sorted(before, key=lambda root: last[root]):
            if start in index:
                continue
            work: list[tuple[T, Iterator[T]]] = [(start, iter(before[start]))]
            index[start] = low[start] = len(index)
            stack.append(start)
            on_stack.add(start)
            while work:
                root, waiting = work[-1]
                following = next(waiting, None)
                if following is None:
                    work.pop()
                    if work:
                        low[work[-1][0]] = min(low[work[-1][0]], low[root])
                    if low[root] == index[root]:
                        component: list[T] = []
                        while not component or component[-1] != root:
                            component.append(stack.pop())
                            on_stack.discard(component[-1])
                        found.append(component)
                elif following not in index:
                    index[following] = low[following] = len(index)
                    stack.append(following)
                    on_stack.add(following)
                    work.append((following, iter(before[following])))
                elif following in on_stack:
                    low[root] = min(low[root], index[following])
        return found
