"""The units of one phase that are still to be run, handed out one at a time.

A process begins with its own share; then it takes what others have not begun, and what was left by
those that ended. So no process waits while there is work, and none has to come for work to end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from llmtools.shards.claims import Claims
from llmtools.shards.ledger import Ledger
from llmtools.shards.place import Place
from llmtools.shards.unit import Unit, attempt_of


class Queue:
    """Hands out units that are neither done nor in other hands; each is claimed first."""

    def __init__(
        self, todo: Iterable[Unit], place: Place, claims: Claims, ledger: Ledger, folder: str
    ) -> None:
        self._claims, self._ledger, self._folder = claims, ledger, folder
        self._is_shared = place.is_shared

        def turn(unit: Unit) -> tuple[int, int]:
            # Each process turns to another one's share after its own.
            return (unit.index - place.index) % place.count, unit.index

        units = sorted(todo, key=turn)
        self._own = deque(unit for unit in units if turn(unit)[0] == 0)
        self._others = [unit for unit in units if turn(unit)[0] != 0]

    def take(self) -> Unit | None:
        """The next unit, ready to run; None where there is none now."""
        while self._own:
            unit = self._own.popleft()
            if unit.key in self._ledger.done:
                continue
            if self._claim(unit):
                return attempt_of(unit, self._folder)
            self._others.append(unit)
        if not self._others:
            return None
        self._ledger.refresh()
        self._others = [unit for unit in self._others if unit.key not in self._ledger.done]
        busy = self._claims.busy()
        for at, unit in enumerate(self._others):
            if self._key(unit) not in busy and self._claim(unit):
                del self._others[at]
                return attempt_of(unit, self._folder)
        return None

    def left(self) -> dict[str, str]:
        """What others have in hand: key of a unit to its owner."""
        self._ledger.refresh()
        keys = {self._key(unit) for unit in self._others if unit.key not in self._ledger.done}
        return {key: owner for key, owner in self._claims.busy().items() if key in keys}

    def done(self, unit: Unit) -> None:
        """It is in the ledger."""
        self._claims.keep(self._key(unit))

    def _key(self, unit: Unit) -> str:
        # A unit that has to be run again would else be taken for one that is in hand.
        losses = self._ledger.losses[unit.key]
        return f"{unit.key}+{losses}" if losses else unit.key

    def _claim(self, unit: Unit) -> bool:
        number = self._claims.take(self._key(unit))
        if number > 1 or self._claims.is_over:
            self._ledger.refresh()
        if number and unit.key in self._ledger.done:
            self._claims.release(self._key(unit))
            return False
        return number > 0
