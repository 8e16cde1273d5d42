"""How large an enclave is, and how many threads it has room for."""

from openfl_flows.tee.plan import Workspace

_GIB = 1 << 30
_BASE = {"aggregator": 2 * _GIB, "collaborator": 4 * _GIB}
# Gramine's helpers, gRPC's pool and pollers, and what OpenFL and the party's watches start.
_THREADS = 40


def enclave_bytes(party: Workspace) -> int:
    """Size of the enclave, a power of two.

    A site has Python with PyTorch and the model four times in fp32: weights, gradient and two
    moments of Adam; activations are in the base. An aggregator has three models for each site.
    These are rules of thumb: of what they say, only the base process was measured.
    """
    copies = 4 if party.role == "collaborator" else 3 * party.sites
    wanted = _BASE[party.role] + copies * party.model_bytes
    return 1 << (wanted - 1).bit_length()


def max_threads(party: Workspace) -> int:
    """Threads that there is room for, a multiple of 16; each is measured."""
    return -(-(_THREADS + 2 * party.threads + party.sites) // 16) * 16
