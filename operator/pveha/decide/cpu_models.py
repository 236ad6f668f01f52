"""Which CPU flags a guest's CPU type needs of the node: QEMU is started with `enforce`, so that a type whose
flags the node lacks does not start (qemu-server: `CPUConfig.pm`).

The types `x86-64-v*` are Proxmox's own, word for word. Of QEMU's models only flags are listed that set a
generation apart and that the kernel shows by name: what passes here may still be refused by QEMU, what is
refused here always is. Types that are not listed (`host`, `kvm64`, custom ones) need nothing.
"""

import functools
import re

NESTED = frozenset(("vmx", "svm"))
"""What `nested-virt` stands for: either."""
CHECKED_FLAGS = frozenset(("aes", "pcid", "pdpe1gb"))
"""Further flags of a guest that the kernel shows under the same name; the others are emulated or shown
otherwise."""


def _flags(text: str, *more: frozenset[str]) -> frozenset[str]:
    return frozenset(text.split()).union(*more)


_V2 = _flags("popcnt pni sse4_1 sse4_2 ssse3")
_V3 = _flags("aes avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", _V2)
_AVX512 = _flags("avx512f avx512bw avx512cd avx512dq avx512vl")

_WESTMERE = _flags("aes pclmulqdq", _V2)
_SANDY_BRIDGE = _flags("avx xsave rdtscp", _WESTMERE)
_IVY_BRIDGE = _flags("f16c rdrand fsgsbase smep erms", _SANDY_BRIDGE)
_HASWELL = _flags("avx2 bmi1 bmi2 fma movbe invpcid abm", _IVY_BRIDGE)
_BROADWELL = _flags("adx rdseed smap 3dnowprefetch", _HASWELL)
_SKYLAKE = _flags("xsavec xgetbv1", _BROADWELL)
_SKYLAKE_SERVER = _flags("clwb pdpe1gb", _AVX512, _SKYLAKE)
_CASCADE_LAKE = _flags("avx512_vnni", _SKYLAKE_SERVER)
_ICE_LAKE = _flags(
    "avx512vbmi avx512_vbmi2 gfni vaes vpclmulqdq avx512_bitalg avx512_vpopcntdq", _CASCADE_LAKE
)
_SAPPHIRE_RAPIDS = _flags("amx_tile amx_bf16 amx_int8 avx512_bf16 avx512_fp16 serialize", _ICE_LAKE)
_EPYC = _flags("sse4a misalignsse adx rdseed smap clflushopt sha_ni xsavec xgetbv1", _V3)
_ROME = _flags("clwb umip rdpid", _EPYC)
_MILAN = _flags("erms invpcid fsrm", _ROME)
_GENOA = _flags("avx512_bf16 avx512vbmi gfni vaes vpclmulqdq", _AVX512, _MILAN)
_TSX = _flags("hle rtm")

_MODELS = {
    "x86-64-v2": _V2,
    "x86-64-v2-AES": _flags("aes", _V2),
    "x86-64-v3": _V3,
    "x86-64-v4": _V3 | _AVX512,
    "Nehalem": _flags("popcnt sse4_2"),
    "Westmere": _WESTMERE,
    "SandyBridge": _SANDY_BRIDGE,
    "IvyBridge": _IVY_BRIDGE,
    "Haswell": _HASWELL,
    "Broadwell": _BROADWELL,
    "Skylake-Client": _SKYLAKE,
    "Skylake-Server": _SKYLAKE_SERVER,
    "Cascadelake-Server": _CASCADE_LAKE,
    "Cooperlake": _CASCADE_LAKE | {"avx512_bf16"},
    "Icelake-Server": _ICE_LAKE,
    "SapphireRapids": _SAPPHIRE_RAPIDS,
    "EPYC": _EPYC,
    "EPYC-Rome": _ROME,
    "EPYC-Milan": _MILAN,
    "EPYC-Genoa": _GENOA,
}
_WITH_TSX = frozenset(
    ("Haswell", "Broadwell", "Skylake-Client", "Skylake-Server", "Cascadelake-Server", "Icelake-Server")
)
"""Models that have it in their first version; `-noTSX`, and later versions, do without."""


@functools.lru_cache(maxsize=1024)
def missing(model: str, more: frozenset[str], there: frozenset[str]) -> tuple[str, ...]:
    """Flags that a guest's CPU type and its further flags (QEMU's names) need and a node's CPU (`there`, the
    kernel's names) does not have."""
    wanted = needed(model) | (more & CHECKED_FLAGS)
    found = sorted(wanted - there)
    if "nested-virt" in more and not NESTED & there:
        found.append("vmx or svm")
    return tuple(found)


def needed(model: str) -> frozenset[str]:
    """Flags that a CPU type needs."""
    if model in _MODELS:
        return _MODELS[model] | (_TSX if model in _WITH_TSX else frozenset())
    plain = re.sub(r"(?:-noTSX)?(?:-IBRS|-IBPB|-v\d+)?$", "", model)
    tsx = plain in _WITH_TSX and "-noTSX" not in model and model.endswith("-IBRS")
    return _MODELS.get(plain, frozenset()) | (_TSX if tsx else frozenset())
