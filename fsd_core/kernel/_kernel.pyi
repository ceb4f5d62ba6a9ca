from typing import Any

from numpy.typing import NDArray

WIDTH: int

class Plan: ...  # a capsule

def plan(
    rows: int,
    columns: int,
    indptr: NDArray[Any],
    indices: NDArray[Any],
    values: NDArray[Any],
    bias: NDArray[Any],
    rule: int,
    top: float,
    /,
) -> Plan: ...
def forward(
    instructions: int,
    plans: tuple[Plan, ...],
    rows: int,
    tiles: int,
    x: NDArray[Any],
    start: NDArray[Any] | None,
    y: NDArray[Any],
    live: NDArray[Any],
    first: int,
    last: int,
    /,
) -> None: ...
def finish(rows: int, tiles: int, z: NDArray[Any], bias: NDArray[Any], rule: int, top: float, live: NDArray[Any], /) -> None: ...
def move(
    rows: int,
    width: int,
    source: NDArray[Any],
    lanes: NDArray[Any],
    picked: NDArray[Any] | None,
    into_rows: int,
    into_width: int,
    target: NDArray[Any],
    offset: int,
    /,
) -> None: ...
def sets() -> list[tuple[str, int]]: ...
