"""An explorer of interleavings: it plays what a few processes do, again and again, in every order that matters.

The processes are threads of which one runs at a time. Before each system call a thread asks whose turn it is; what is
between two calls is the thread's own, and no order of it matters. A *schedule* is the list of the answers. The explorer
walks the tree of schedules depth first, and plays each one from the start.

Of schedules that only differ in the order of calls that have nothing to do with each other, it plays one: a call says
what it looked at and what it changed (`Access`), and another order is tried only for two calls that are in each other's
way (`_note_races`). A process that polls runs again when something has changed that it has looked at (`wait`). If all
do, that is a deadlock.

A process may be killed before any call that changes something: killed before one that only looks, it leaves the same
behind as killed before the next that changes something. Its descriptors are closed then, as the kernel would do it, in
one step. Its thread unwinds when the schedule is over; what it calls by then does nothing.

With a bound on preemptions (turns taken from a process that could go on) fewer schedules are played: the likely ones.

*Source*: Abdulla, Aronis, Jonsson and Sagonas, "Optimal dynamic partial order reduction", POPL 2014 (source sets, and
sleep sets); Coons, Musuvathi and McKinley, "Bounded partial-order reduction", OOPSLA 2013, for the bound.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol


class Mode(Enum):
    """How a call touches a thing; two that look, or two that share a lock, are not in each other's way."""

    LOOK = 0
    CHANGE = 1
    SHARE = 2


class Access(NamedTuple):
    """A part of something, such as some bytes of a file, and how a call touches it."""

    thing: str
    start: int
    stop: int
    mode: Mode

    def meets(self, other: Access) -> bool:
        """Say whether the order of two calls may matter that touch this and the other."""
        return (
            (self.mode is not other.mode or self.mode is Mode.CHANGE)
            and self.start < other.stop
            and other.start < self.stop
            and self.thing == other.thing
        )


Accesses = tuple[Access, ...]


class Choice(NamedTuple):
    """Whose turn it is, and whether it is its end."""

    process: int
    killed: bool = False


class Killed(BaseException):
    """Unwinds the thread of a process that is no more."""


class Wrong(AssertionError):
    """A schedule in which something went wrong; its message tells it call by call."""


class Play(Protocol):
    """One play of a scenario, from a fresh start."""

    bodies: Sequence[Callable[[], None]]
    """What the processes do, one each."""

    def release(self, process: int) -> Accesses:
        """Close what a process has open: it has ended, or was killed."""

    def ended(self, process: int) -> None:
        """See that a process that has come to its end leaves nothing locked. *Raises*: AssertionError."""

    def check(self, touched: Accesses) -> None:
        """See that all is well after a call that changed something. *Raises*: AssertionError."""

    def finish(self) -> None:
        """See that all is well at the end; called once all is over. *Raises*: AssertionError."""


@dataclass(slots=True)
class _Node:
    """A place in the tree of schedules: the choice that is being tried there, and those that were and will be."""

    choice: Choice
    enabled: tuple[int, ...]
    sleep: dict[Choice, Accesses]  # tried elsewhere, with nothing since that would make it another
    preemptions: int  # so far, this choice included
    kills: int
    before: int  # the process whose turn was before
    what: str = ""
    accesses: Accesses = ()
    woken_by: int | None = None  # the step that ended the process's wait before this one
    earlier: int = 0  # the steps that happen before this one, and it: a set of bits
    wanted: set[Choice] = field(default_factory=set)
    tried: dict[Choice, Accesses] = field(default_factory=dict)


class _Process:
    """A process of the play, and its thread."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.turn = threading.Semaphore(0)
        self.granted = False  # its turn has come, and it has not made its call yet
        self.waiting = False
        self.woken = False
        self.woken_by: int | None = None
        self.looked: list[Access] = []  # since it last waited
        self.over = False
        self.thread: threading.Thread | None = None


class Explorer:
    """Plays a scenario in every order that matters; `begin` begins a play.

    `kills` is how many processes may be killed in one schedule, `preemptions` the bound (None: there is none), `most`
    how many schedules are played at the most.
    """

    def __init__(
        self,
        begin: Callable[[], Play],
        *,
        kills: int = 0,
        preemptions: int | None = None,
        most: int | None = None,
    ) -> None:
        self.schedules = 0
        self.pruned = 0  # begun, and given up as they would have been like others
        self.longest = 0
        self.exhausted = False  # whether there are no more
        self._begin = begin
        self._kills = kills
        self._preemptions = preemptions
        self._most = most
        self._tree: list[_Node] = []
        self._processes: list[_Process] = []
        self._depth = 0
        self._running = -1
        self._over = threading.Semaphore(0)
        self._giving_up = False
        self._failure: BaseException | None = None
        self._play: Play

    def explore(self) -> None:
        """Play all schedules. *Raises*: Wrong, at the first that goes wrong."""
        while self._most is None or self.schedules < self._most:
            fresh = max(len(self._tree) - 1, 0)
            self._play_once()
            if self._failure is not None:
                raise Wrong(self._told()) from self._failure
            for step in range(fresh, len(self._tree)):
                self._note_races(step)
            if not self._next():
                self.exhausted = True
                return

    # What the processes' threads call, each when it is its turn.

    @property
    def running(self) -> int | None:
        """The process whose turn it is; None outside of a play."""
        return self._running if self._running >= 0 else None

    @property
    def dead(self) -> bool:
        """Whether who asks is no more: nothing that it calls has any effect."""
        return self._giving_up or self._failure is not None or self._processes[self._running].over

    def before(self) -> None:
        """Wait for this process's turn to make a call. *Raises*: Killed."""
        me = self._processes[self._running]
        if self.dead:
            raise Killed
        if not me.granted:
            self._pass_on(me)
        me.granted = False

    def after(self, what: str, accesses: Accesses) -> None:
        """Say what the call was and what it touched."""
        self._done(self._tree[self._depth], what, accesses)

    def wait(self) -> None:
        """Let others go on until one of them has changed something that this process has looked at of late."""
        me = self._processes[self._running]
        if self.dead:
            raise Killed
        me.waiting, me.woken = not me.woken, False
        if not me.waiting:
            me.looked = []

    def _play_once(self) -> None:
        self.schedules += 1
        self._depth, self._running, self._giving_up, self._failure = 0, -1, False, None
        self._play = self._begin()
        self._processes = [_Process(number) for number in range(len(self._play.bodies))]
        for process, body in zip(self._processes, self._play.bodies, strict=True):
            process.thread = threading.Thread(target=self._live, args=(process, body), daemon=True)
            process.thread.start()
        self._pass_on(None)
        self._over.acquire()
        self._giving_up = True
        for process in self._processes:  # those that were killed, or not let come to their end
            self._running = process.number
            process.turn.release()
            assert process.thread is not None
            process.thread.join()
        self._running = -1
        self.longest = max(self.longest, self._depth)
        for process in self._processes:
            self._play.release(process.number)
        if self._failure is None and all(process.over for process in self._processes):
            try:
                self._play.finish()
            except Exception as exc:
                self._failure = exc
        del self._tree[self._depth :]

    def _live(self, me: _Process, body: Callable[[], None]) -> None:
        """Run a process, in its thread."""
        me.turn.acquire()
        try:
            body()
            self._play.ended(me.number)
            self.before()
            self.after("ends", self._play.release(me.number))
            me.over = True
        except BaseException as exc:
            if not (self._giving_up or me.over):
                self._failure = self._failure or exc
                self._over.release()
            return
        self._pass_on(None)

    def _pass_on(self, me: _Process | None) -> None:
        """Let the process go on whose turn is next; return when it is this one's."""
        while True:
            node = self._choose()
            if node is None:
                self._over.release()
                break
            chosen = self._processes[node.choice.process]
            if not node.choice.killed:
                break
            chosen.over = True
            self._done(node, "is killed", self._play.release(chosen.number))
        if node is not None:
            chosen.granted = True
            self._running = chosen.number
            if chosen is me:
                return
            chosen.turn.release()
        if me is not None:
            me.turn.acquire()
            if self.dead:
                raise Killed

    def _choose(self) -> _Node | None:
        """Return the node of the next step; None when there is none."""
        if self._depth < len(self._tree):
            return self._tree[self._depth]
        enabled = tuple(p.number for p in self._processes if not (p.over or p.waiting))
        if not enabled:
            if stuck := [p.number for p in self._processes if not p.over]:
                self._failure = AssertionError(f"a deadlock: {stuck} wait for ever")
            return None
        parent = self._tree[-1] if self._tree else None
        sleep: dict[Choice, Accesses] = {}
        before, preemptions, kills = -1, 0, 0
        if parent is not None:
            before, preemptions, kills = parent.choice.process, parent.preemptions, parent.kills
            if self._preemptions is None:
                sleep = {
                    choice: accesses
                    for choice, accesses in (*parent.sleep.items(), *parent.tried.items())
                    if choice.process != before and not _meet(accesses, parent.accesses)
                }
        awake = [number for number in enabled if Choice(number) not in sleep]
        if not awake:
            self.pruned += 1
            return None
        number = before if before in awake else awake[0]
        preemptions += before in enabled and number != before
        node = _Node(Choice(number), enabled, sleep, preemptions, kills, before)
        self._tree.append(node)
        return node

    def _done(self, node: _Node, what: str, accesses: Accesses) -> None:
        """Note a step, wake who waits for what it changed, and see that all is well."""
        self._depth += 1
        node.what, node.accesses = what, accesses
        number = node.choice.process
        changes = tuple(access for access in accesses if access.mode is not Mode.LOOK)
        for process in self._processes:
            if process.number == number:
                process.looked += accesses
                node.woken_by, process.woken_by = process.woken_by, None
            elif changes and not process.over and _meet(changes, process.looked):
                process.woken = not process.waiting
                if process.waiting:
                    process.waiting, process.looked, process.woken_by = False, [], self._depth - 1
        if changes:
            try:
                self._play.check(accesses)
            except AssertionError as exc:
                self._failure = exc
                raise Killed from exc

    def _note_races(self, step: int) -> None:
        """Want another order wherever this step and an earlier one are in each other's way, with nothing between."""
        node = self._tree[step]
        number = node.choice.process
        node.earlier = 0
        before = (index for index in range(step - 1, -1, -1) if self._tree[index].choice.process == number)
        for index in (next(before, None), node.woken_by):
            node.earlier |= self._tree[index].earlier if index is not None else 0
        for index in range(step - 1, -1, -1):
            other = self._tree[index]
            if (
                not node.earlier >> index & 1
                and other.choice.process != number
                and _meet(node.accesses, other.accesses)
            ):
                node.earlier |= other.earlier
                self._want(index, step)
        node.earlier |= 1 << step
        if not node.choice.killed and node.kills < self._kills and _changes(node.accesses) and node.what != "ends":
            node.wanted.add(Choice(number, killed=True))

    def _want(self, index: int, step: int) -> None:
        """Want what comes to a step without an earlier one; with a bound, also where the turn was passed on before."""
        between = [later for later in range(index + 1, step) if not self._tree[later].earlier >> index & 1]
        firsts, seen = set(), 0
        for later in [*between, step]:
            if not (self._tree[later].earlier & ~(1 << later)) & seen:
                firsts.add(self._tree[later].choice)
            seen |= 1 << later
        places = [index]
        if self._preemptions is not None:
            start = index
            while start > 0 and self._tree[start - 1].choice.process == self._tree[index].choice.process:
                start -= 1
            places.append(start)
        for place in places:
            node = self._tree[place]
            possible = {choice for choice in firsts if choice.process in node.enabled}
            if self._preemptions is not None:
                node.wanted |= possible
            elif not possible:
                node.wanted |= {Choice(number) for number in node.enabled}
            elif not possible & (node.wanted | node.tried.keys() | {node.choice}):
                node.wanted.add(min(possible))

    def _next(self) -> bool:
        """Go back to the last place where something else is wanted, and choose that; False when there is none."""
        while self._tree:
            node = self._tree[-1]
            node.tried[node.choice] = node.accesses
            parent = self._tree[-2] if len(self._tree) > 1 else None
            for choice in sorted(node.wanted - node.tried.keys() - node.sleep.keys()):
                taken = choice.process != node.before and node.before in node.enabled and not choice.killed
                preemptions = (parent.preemptions if parent else 0) + taken
                if self._preemptions is None or preemptions <= self._preemptions:
                    node.choice, node.preemptions = choice, preemptions
                    node.kills = (parent.kills if parent else 0) + choice.killed
                    return True
            self._tree.pop()
        return False

    def _told(self) -> str:
        """Tell the schedule that went wrong."""
        steps = [f"  {'ABC'[node.choice.process]} {node.what}" for node in self._tree[: self._depth] if node.what]
        return "\n".join([f"{self._failure!r} in schedule {self.schedules}:", *steps])


def _meet(some: Iterable[Access], others: Iterable[Access]) -> bool:
    by_thing = defaultdict(list)
    for other in others:
        by_thing[other.thing].append(other)
    return any(access.meets(other) for access in some for other in by_thing.get(access.thing, ()))


def _changes(accesses: Accesses) -> bool:
    return any(access.mode is not Mode.LOOK for access in accesses)
