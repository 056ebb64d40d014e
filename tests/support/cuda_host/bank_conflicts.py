"""How often accesses to shared memory wait for each other, by places in a kernel's source.

Shared memory has 32 banks, of a word of 4 bytes each; what 32 lanes read of more than a word each takes several turns,
of as many lanes as need 128 bytes. Within a turn, lanes that want different words of one bank wait for each other.
"""

from __future__ import annotations

import ctypes
from collections import Counter, defaultdict
from dataclasses import replace

from gpubp.backends.cuda.source import KernelSource
from support.cuda_host.toolchain import Toolchain

BANKS, LANES = 32, 32
WHERE = ", const char* file = __builtin_FILE(), int line = __builtin_LINE()"
# The functions of common.cuh by which kernels move several neighbours at once, and what of theirs is in shared memory.
MOVES = (("load(const V* from", "from"), ("store(V* to, const Pack<V, N>& pack", "to"))


class _Access(ctypes.Structure):
    """`HostAccess` of runtime.hpp."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("line", ctypes.c_int),
        *((name, ctypes.c_uint) for name in ("thread", "offset", "bytes")),
    )


def saying_its_accesses(source: KernelSource) -> KernelSource:
    """A kernel that notes down every access of `load` and `store` to shared memory."""
    text, ends = source.text, ") {\n"
    for start, place in MOVES:
        if text.count(start + ends) != 1:
            raise LookupError(f'common.cuh holds "{start}" {text.count(start + ends)} times, not once')
        note = f"    host_access({place}, sizeof(Pack<V, N>), file, line);\n"
        text = text.replace(start + ends, start + WHERE + ends + note)
    return replace(source, text=text)


def conflicts(toolchain: Toolchain) -> dict[str, Counter[int]]:
    """Count, by file and line, how many turns of the last launch took how many times as long as without a conflict.

    A warp's n-th access at a line is what its lanes access there for the n-th time.
    """
    first = ctypes.POINTER(_Access)()
    count = toolchain.runtime.gpubp_host_accesses(ctypes.byref(first))
    times: Counter[tuple[str, int]] = Counter()
    together: dict[tuple[str, int, int, int], list[tuple[int, int]]] = defaultdict(list)
    for access in first[:count]:
        place, warp = f"{access.file.decode()}:{access.line}", access.thread // LANES
        nth = times[place, access.thread]
        times[place, access.thread] += 1
        turn = access.thread % LANES * access.bytes // (4 * BANKS)
        together[place, warp, nth, turn].append((access.offset, access.bytes))
    turns: dict[str, Counter[int]] = defaultdict(Counter)
    for (place, *_), accesses in together.items():
        words = {offset // 4 + i for offset, size in accesses for i in range(max(1, size // 4))}
        turns[place][max(Counter(word % BANKS for word in words).values())] += 1
    return turns
